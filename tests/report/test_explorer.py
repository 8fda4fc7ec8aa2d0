"""The section with single images: which are shown, what is on their sheets and in their rows, how much it may weigh."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from notbugs.data.store import StoredDataset, load_dataset
from notbugs.report import explorer
from notbugs.report.explorer import SECTION, Explored, Sheet, numbers, sample
from notbugs.report.project import Project, load_project

MakeProject = Callable[..., Path]


@pytest.fixture(scope="module")
def project(fake_project: Path) -> Project:
    return load_project(fake_project)


@pytest.fixture(scope="module")
def found(project: Project) -> dict[str, Any]:
    return numbers(project, {})


def of(found: dict[str, Any], key: str) -> Explored:
    sets: list[Explored] = found["sets"]
    return next(one for one in sets if one.key == key)


def tile(sheet: Sheet, across: int, down: int) -> "np.ndarray[Any, Any]":
    """In [0, 1], (H, W)."""
    width, height = sheet.tile
    pixels = np.asarray(Image.open(io.BytesIO(sheet.png)))
    return pixels[down * height : (down + 1) * height, across * width : (across + 1) * width] / 255


HALF_A_LEVEL = 0.5 / (explorer.DIFFERENCES - 1) + 0.5 / 255 + 1e-6
"""Of brightness, and half of what a byte tells apart."""


# Which images


@pytest.mark.parametrize("count", [1, 7, 10, 25, 200, 500])
def test_the_sample_is_spread_evenly_over_the_classes(count: int) -> None:
    labels = torch.arange(200) * 7 % 10
    rows = sample(labels, count)
    assert len(rows) == len(set(rows)) == min(count, 200)
    held = labels[rows].bincount(minlength=10)
    assert held.max() - held.min() <= 1
    assert len(set(labels[rows[:3]].tolist())) == min(count, 3)  # what is shown without scripts is not of one class


def test_the_sample_follows_the_sizes_of_the_classes_and_spreads_within_them() -> None:
    labels = torch.tensor([0] * 90 + [1] * 30)
    rows = sample(labels, 12)
    assert [int(labels[row]) for row in rows] == [0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]
    assert sorted(rows) == list(range(0, 120, 10))


def test_every_dataset_shows_the_same_images_of_d(project: Project, found: dict[str, Any]) -> None:
    rows = sample(project.dataset("train").labels, explorer.MOST)
    assert [one.key for one in found["sets"]] == list(project.constructions)
    for one in found["sets"]:
        assert [int(texts[0]) for _, texts in one.rows] == rows
        assert [place for place, _ in one.rows] == list(range(len(rows)))


def test_only_these_rows_are_read(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("reads everything")

    asked: list[int] = []
    raw = StoredDataset.raw

    def counted(self: StoredDataset, indices: Any) -> Any:
        asked.append(len(indices))
        return raw(self, indices)

    for name in ("data", "shards", "examples", "_data"):
        monkeypatch.setattr(StoredDataset, name, property(refused) if name != "shards" else refused)
    monkeypatch.setattr(StoredDataset, "raw", counted)
    monkeypatch.setattr(explorer, "MOST", 5)
    assert len(of(numbers(project, {}), "det").rows) == 5
    assert max(asked) == 5


# What is on the sheets


def test_tiles_are_x_the_new_image_and_the_enlarged_difference(project: Project, found: dict[str, Any]) -> None:
    train, made, one = project.dataset("train"), project.dataset("det"), of(found, "det")
    assert one.tiles == ["new image", f"difference ×{one.factor}"]
    for place, texts in (one.rows[0], one.rows[-1]):
        x, new = train[int(texts[0])][0][0].numpy(), made[int(texts[0])][0][0].numpy()
        for shown, expected in (
            (tile(found["originals"], place, 0), x),
            (tile(one.sheet, place, 0), new),
            (tile(one.sheet, place, 1), np.clip(0.5 + one.factor * (new - x), 0, 1)),
        ):
            assert np.abs(shown - expected).max() <= HALF_A_LEVEL


def test_inversions_show_their_start_and_noise_is_grey(
    fake_project: Path, found: dict[str, Any], tmp_path: Path
) -> None:
    one = of(found, "nonrobust")
    assert one.tiles[0] == "start x'"
    place, texts = one.rows[4]
    project = load_project(fake_project)
    start = int(project.dataset("nonrobust").examples["start_index"][int(texts[0])])
    assert np.abs(tile(one.sheet, place, 0) - project.dataset("train")[start][0][0].numpy()).max() <= HALF_A_LEVEL
    root = shutil.copytree(fake_project, tmp_path / "lab")
    row = int(texts[0])
    rewrite(
        root, "nonrobust", lambda table: table.assign(start_index=table["start_index"].where(table.index != row, -1))
    )
    changed = of(numbers(load_project(root), {}), "nonrobust")
    assert np.ptp(tile(changed.sheet, place, 0)) == 0


def rewrite(root: Path, key: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Put another table of the examples in the place of a construction's."""
    file = root / "data" / key / "source-0" / "examples.parquet"
    change(pd.read_parquet(file)).to_parquet(file, index=False)


def test_large_images_are_shown_smaller(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "SIDE", 4)
    small = numbers(project, {})
    assert small["originals"].tile == (4, 4)
    place, texts = of(small, "det").rows[0]
    x = project.dataset("train")[int(texts[0])][0][0].numpy()
    mean = x.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert np.abs(tile(small["originals"], place, 0) - mean).max() <= HALF_A_LEVEL
    assert "shown at 4 pixels, each a mean over several." in " ".join(str(SECTION.render(project, {}, {}, ())).split())


# What is said


def test_rows_say_what_the_table_of_examples_holds(fake_project: Path, tmp_path: Path) -> None:
    root = shutil.copytree(fake_project, tmp_path / "lab")
    facts = {
        "probability_true_before": 0.98765, "probability_true_after": 0.25, "probability_given_before": 0.001,
        "probability_given_after": 0.7, "robust_prediction_before": 3, "robust_prediction": 4,
        "neighbour_prediction_before": 5, "neighbour_prediction": -1, "success": True, "still_y": False,
    }  # fmt: skip
    rewrite(root, "det", lambda table: table.assign(**facts))
    one = of(numbers(load_project(root), {}), "det")
    row = int(one.rows[2][1][0])
    example = load_dataset(root / "data/det/source-0", verify=False).examples.iloc[row]
    assert [(column.group, column.head) for column in one.columns] == [
        ("", "y"), ("", "label t"), ("L2 distance to", "x"), ("probability of", "y"), ("probability of", "t"),
        ("called by", "robust model"), ("called by", "1-NN"), ("", "success"), ("", "still y"),
    ]  # fmt: skip
    assert one.rows[2][1] == [
        str(row), str(example["true_label"]), str(example["given_label"]), f"{example['delta_norm']:.2f}",
        "0.250\n0.988", "0.700\n0.001", "4\n3", "–\n5", "yes", "no",
    ]  # fmt: skip
    assert one.groups == [
        ("", 1), ("image", 3), ("", 2), ("L2 distance to", 1), ("probability of", 2), ("called by", 2), ("", 2)
    ]  # fmt: skip
    assert one.filters == [("y", 4), ("label t", 5), ("success", 11), ("still y", 12)]


def test_what_a_dataset_does_not_hold_is_left_out(found: dict[str, Any]) -> None:
    assert [column.head for column in of(found, "det").columns] == ["y", "label t", "x"]
    assert [column.head for column in of(found, "robust").columns] == ["y", "label t", "x", "x'"]


def test_images_that_a_dataset_was_not_made_from_are_left_out(fake_project: Path, tmp_path: Path) -> None:
    root = shutil.copytree(fake_project, tmp_path / "lab")
    rewrite(root, "rand", lambda table: table[table["source_index"] % 2 == 0])
    found = numbers(load_project(root), {})
    one, whole = of(found, "rand"), of(found, "det")
    assert [texts[0] for _, texts in one.rows] == [texts[0] for _, texts in whole.rows if int(texts[0]) % 2 == 0]
    place, texts = one.rows[1]
    made = load_dataset(root / "data/rand/source-0", verify=False)[int(texts[0])][0][0].numpy()
    assert np.abs(tile(one.sheet, place, 0) - made).max() <= HALF_A_LEVEL


# How much it weighs


@pytest.mark.parametrize("most", [20_000, 60_000])
def test_fewer_images_are_shown_where_they_would_weigh_more(
    project: Project, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(explorer, "BYTES", most)
    found = numbers(project, {})
    size = len(found["originals"].base64) + sum(
        len(one.sheet.base64) + len(json.dumps(one.rows)) for one in found["sets"]
    )
    assert 0.7 * most < size <= most
    assert 0 < len(found["sets"][0].rows) < explorer.MOST


def test_one_image_is_shown_however_much_it_weighs(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "BYTES", 10)
    assert [len(one.rows) for one in numbers(project, {})["sets"]] == [1] * len(project.constructions)


def test_the_section_of_digits_is_at_most_300_kb(project: Project) -> None:
    assert len(str(SECTION.render(project, {}, {}, ())).encode()) < 300_000


# On the page


def test_without_scripts_a_strip_of_the_first_images_stands_there(project: Project, found: dict[str, Any]) -> None:
    html = str(SECTION.render(project, {}, {}, ()))
    assert html.count('scope="row"') == 3 * len(found["sets"])
    assert "<button" not in html
    assert "<select" not in html
    assert html.count("<image ") == len(set(re.findall(r'<use href="#([\w-]+)"', html))) == 1 + len(found["sets"])
    for sheet in re.findall(r'href="data:image/png;base64,([^"]+)"', html):
        Image.open(io.BytesIO(base64.b64decode(sheet))).verify()


def test_the_page_holds_what_the_script_needs(project: Project, found: dict[str, Any]) -> None:
    html = str(SECTION.render(project, {}, {}, ()))
    kept = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    for one, text in zip(found["sets"], kept, strict=True):
        assert json.loads(text) == [[place, texts] for place, texts in one.rows[3:]]
    table = html.partition("<tbody>")[0].rpartition("<thead>")[2]
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)
    assert [heads[place] for _, place in found["sets"][0].filters] == [name for name, _ in found["sets"][0].filters]


def test_names_of_classes_are_escaped(fake_project: Path, tmp_path: Path) -> None:
    root = shutil.copytree(fake_project, tmp_path / "lab")
    for file in (root / "data").rglob("manifest.json"):
        manifest = json.loads(file.read_text())
        manifest["class_names"][3] = "</script><b>"
        manifest["checksum"] = None
        file.write_text(json.dumps(manifest))
    html = str(SECTION.render(load_project(root), {}, {}, ()))
    assert "<b>" not in html
    assert html.count("</script>") == html.count("<script")
    assert "\\u003c/script\\u003e\\u003cb\\u003e" in html


def test_without_constructions_there_is_no_section(make_project: MakeProject, tmp_path: Path) -> None:
    project = load_project(make_project(tmp_path / "lab", constructions=()))
    assert SECTION.render(project, {}, {}, ()) == ""
