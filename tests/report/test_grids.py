"""Sample grids show the stored images, unsmoothed, by a fixed rule."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from notbugs.data.store import load_dataset
from notbugs.report.grids import FACTORS, Strip, _starts, amplification, draw, inverted_grid, targeted_grid
from notbugs.report.project import Project, load_project


@pytest.fixture(scope="module")
def project(fake_project: Path) -> Project:
    return load_project(fake_project)


def shown(
    figure: Figure | None, strip: int, column: int, columns: int = 10
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    assert figure is not None
    image = figure.axes[0].images[strip * columns + column]
    assert image.get_interpolation() == "nearest"
    return np.asarray(image.get_array())


def texts(figure: Figure | None, columns: int = 10) -> list[list[str]]:
    """Of each strip the title, and the captions of its images."""
    assert figure is not None
    found = [text.get_text() for text in figure.axes[0].texts]
    return [found[start : start + columns + 1] for start in range(0, len(found), columns + 1)]


def captions(figure: Figure | None, strip: int) -> list[str]:
    return texts(figure)[strip][1:]


def titles_of(figure: Figure | None) -> list[str]:
    return [strip[0] for strip in texts(figure)]


def test_rows_are_the_first_example_of_each_class(project: Project) -> None:
    labels = load_dataset(project.root / "data/train").data().labels
    first = [int((labels == label).nonzero()[0]) for label in range(10)]
    figure = targeted_grid(project, "rand")
    images = load_dataset(project.root / "data/train").data().images
    for column, row in enumerate(first):
        assert (shown(figure, 0, column) == images[row, 0].numpy()).all()
    assert captions(figure, 0) == [f"y: {label}" for label in range(10)]


@pytest.mark.parametrize("key", ["rand", "det"])
def test_targeted_grid_shows_both_source_models_given_labels_and_delta(project: Project, key: str) -> None:
    figure = targeted_grid(project, key)
    assert figure is not None
    titles = titles_of(figure)
    name = f"D_{key}"
    assert titles[0] == "D"
    assert titles[1] == f"{name}\nfrom standard"
    assert titles[3] == f"{name}\nfrom robust"
    factor = int(titles[2].removeprefix("its δ, ×"))
    assert factor in FACTORS
    for strip, folder in ((1, key), (3, f"{key}_from_robust")):
        made = load_dataset(project.root / "data" / folder / "source-0")
        row = 4  # digits are stored 0, 1, 2, ... at first: the first 4 is row 4
        image, given = made[row]
        assert (shown(figure, strip, row) == image[0].numpy()).all()
        assert captions(figure, strip)[row] == f"t: {given}"
        delta = (image - load_dataset(project.root / "data/train")[row][0])[0].numpy()
        assert shown(figure, strip + 1, row) == pytest.approx(0.5 + factor * delta, abs=1e-6)
        assert captions(figure, strip + 1)[row] == f"‖δ‖₂ {np.linalg.norm(delta):.2f}"


def test_inverted_grid_shows_starts_and_distances(project: Project) -> None:
    figure = inverted_grid(project)
    assert figure is not None
    titles = titles_of(figure)
    assert titles == ["D: x", "start x'", "D_R", "start x'", "D_NR"]
    train, made = (load_dataset(project.root / "data" / name) for name in ("train", "robust/source-0"))
    assert (shown(figure, 1, 0) == train[7][0][0].numpy()).all()  # the starts lie seven rows further
    assert (shown(figure, 2, 0) == made[0][0][0].numpy()).all()
    to_x, to_start = ((made[0][0] - train[row][0]).norm() for row in (0, 7))
    assert captions(figure, 2)[0] == f"y: 0\nto x {to_x:.2f}\nto x' {to_start:.2f}"


def test_a_start_that_is_no_image_of_d_is_grey(project: Project) -> None:
    train = load_dataset(project.root / "data/train")
    strip = _starts(train, [7, -1])
    assert torch.equal(strip.images[0], train[7][0])
    assert (strip.images[1] == 0.5).all()
    assert strip.captions == [train.class_names[train[7][1]], "noise"]


def test_grid_examples_limits_the_columns(project: Project) -> None:
    from dataclasses import replace

    from notbugs.report import ReportSettings

    figure = targeted_grid(replace(project, report=ReportSettings(grid_examples=3)), "det")
    assert figure is not None
    assert len(figure.axes[0].images) == 3 * 5


@pytest.mark.parametrize(
    "grid", [inverted_grid, lambda project: targeted_grid(project, "rand")], ids=["inverted", "rand"]
)
def test_absent_constructions_give_no_grid(project: Project, grid: Callable[[Project], Figure | None]) -> None:
    from dataclasses import replace

    assert grid(replace(project, constructions={})) is None


@pytest.mark.parametrize(("largest", "factor"), [(0.0, 100), (0.004, 100), (0.02, 20), (0.25, 2), (0.3, 1), (0.9, 1)])
def test_amplification_clips_nothing(largest: float, factor: int) -> None:
    assert amplification(torch.tensor([0.0, -largest])) == factor


def test_colour_images_are_drawn_in_colour() -> None:
    images = torch.rand(2, 3, 5, 4)
    figure = draw([Strip("D", images, ["a", "b"])])
    assert (shown(figure, 0, 1, columns=2) == images[1].permute(1, 2, 0).numpy()).all()


def test_images_keep_their_shape_and_lie_below_each_other() -> None:
    images = torch.rand(2, 1, 6, 3)
    figure = draw([Strip("D", images, ["a", "b"]), Strip("a title of many words", images, ["a\nb", "c"])])
    extents = [image.get_extent() for image in figure.axes[0].images]
    for left, right, bottom, top in extents:
        assert (bottom - top) / (right - left) == pytest.approx(2)
    assert extents[0][1] < extents[1][0]
    assert extents[0][2] < extents[2][3]
    assert extents[2][2] < figure.get_size_inches()[1]
    assert [strip[0] for strip in texts(figure, columns=2)] == ["D", "a title of many\nwords"]
