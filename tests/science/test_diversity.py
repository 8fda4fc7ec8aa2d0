"""Diversity: measures against closed forms, intervals, errors, the stage."""

import json
import math
import shutil

import pytest
import torch
import yaml

from notbugs.data.images import ImageData
from notbugs.data.store import load_dataset
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.diversity import (
    DiversityError,
    DiversitySettings,
    compare_class,
    covered,
    effective_rank,
    prototypicality,
    ratio_to,
    rows_by_class,
    spread,
    vendi_score,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dimensions", [3, 40])  # through the covariance, and through the Gram matrix
@pytest.mark.parametrize("directions", [1, 2, 3])
def test_effective_rank_counts_equal_directions(dimensions, directions):
    """±1 along k axes, equally often: k equal eigenvalues."""
    points = torch.zeros(2 * directions, dimensions, dtype=torch.float64)
    for axis in range(directions):
        points[2 * axis, axis], points[2 * axis + 1, axis] = 1.0, -1.0
    assert float(effective_rank(points)) == pytest.approx(directions, abs=1e-9)
    assert float(effective_rank(points + 5.0)) == pytest.approx(directions, abs=1e-9)


def test_effective_rank_of_two_unequal_directions():
    """Eigenvalues 4 : 1 -> entropy of (0.8, 0.2)."""
    points = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert float(effective_rank(points)) == pytest.approx(math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2)))
    assert float(effective_rank(torch.ones(4, 2, dtype=torch.float64))) == 0.0


def test_vendi_score_counts_different_images():
    """k far groups of m equal points: exactly k; all equal: 1; two points at distance d: from their 2x2 kernel."""
    groups = torch.eye(3, dtype=torch.float64).repeat_interleave(4, dim=0) * 1000
    assert float(vendi_score(groups, 1.0)) == pytest.approx(3.0)
    assert float(vendi_score(torch.zeros(5, 2, dtype=torch.float64), 1.0)) == pytest.approx(1.0)
    k = math.exp(-0.5)
    p, q = (1 + k) / 2, (1 - k) / 2
    two = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert float(vendi_score(two, 1.0)) == pytest.approx(math.exp(-p * math.log(p) - q * math.log(q)))


def test_spread_is_the_root_mean_square_distance():
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert float(spread(points)) == pytest.approx(math.sqrt(2))


def test_coverage_by_hand():
    """On a line 0, 1, 2, 10 with k = 1 the radii are 1, 1, 1, 8."""
    reference = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    assert covered(reference, torch.tensor([[0.4], [17.0]]), 1).tolist() == [True, True, False, True]
    assert covered(reference, reference + 0.5, 1).all()
    assert not covered(reference, torch.tensor([[100.0]]), 2).any()


def test_prototypes_are_found_out():
    """A dataset of copies of the mean: every measure far below D's; D itself has ratio 1 with no doubt."""
    base = torch.randn(60, 6, generator=generator())
    near = base.mean(dim=0) + 0.05 * base
    settings = DiversitySettings(num_bootstrap=40, num_neighbours=3)
    table = compare_class({"D": base, "D_R": near}, settings, generator=generator(1))
    for measure, most in (("spread", 0.06), ("vendi_score", 0.5), ("coverage", 0.9)):
        found = ratio_to(table["D_R"][measure], table["D"][measure])
        assert found["ratio"] is not None
        assert found["ratio"] < most, measure
        assert found["high"] is not None
        assert found["high"] < 1, measure
    assert float(table["D_R"]["effective_rank"][0]) == pytest.approx(float(table["D"]["effective_rank"][0]))
    assert ratio_to(table["D"]["spread"], table["D"]["spread"]) == {
        "value": round(float(table["D"]["spread"][0]), 6), "ratio": 1.0, "low": 1.0, "high": 1.0
    }  # fmt: skip


def test_the_bootstrap_interval_covers_the_ratio_of_spreads():
    """Independent normal sets with true ratio 2: the interval holds it in about 95 of 100 trials."""
    settings = DiversitySettings(num_bootstrap=40, num_neighbours=2)
    hits = 0
    for seed in range(40):
        base = torch.randn(40, 3, generator=generator(seed))
        other = 2 * torch.randn(40, 3, generator=generator(500 + seed))
        table = compare_class({"D": base, "D_R": other}, settings, generator=generator(1000 + seed))
        found = ratio_to(table["D_R"]["spread"], table["D"]["spread"])
        assert found["low"] is not None
        assert found["high"] is not None
        hits += found["low"] <= 2 <= found["high"]
    assert hits >= 33


def test_a_measure_of_nothing_has_no_ratio():
    assert ratio_to(torch.zeros(5), torch.ones(5)) == {"value": 0.0, "ratio": None, "low": None, "high": None}


def data(labels: list[int], names: tuple[str, ...] = ("a", "b")) -> ImageData:
    return ImageData(torch.rand(len(labels), 1, 2, 2, generator=generator()), torch.tensor(labels), names)


def test_nearest_own_mean():
    images = torch.tensor([0.0, 0.1, 0.9, 1.0]).view(4, 1, 1, 1)
    base = ImageData(images, torch.tensor([0, 0, 1, 1]), ("a", "b"))
    swapped = ImageData(images.flip(0), base.labels, ("a", "b"))
    found = prototypicality({"D": base, "D_R": swapped}, {0: torch.tensor([0, 1]), 1: torch.tensor([2, 3])})
    assert found["D"].all()
    assert not found["D_R"].any()


def test_a_class_with_few_images_is_left_out():
    settings = DiversitySettings(num_bootstrap=10, num_neighbours=1)
    base = data([1] * 7 + [0] * 5 + [2] * 6, ("a", "b", "c"))
    rows = rows_by_class({"D": base}, settings, generator())
    assert {label: members.tolist() for label, members in rows.items()} == {
        1: list(range(7)),
        2: list(range(12, 18)),
    }
    near = prototypicality({"D": base}, rows)["D"]
    assert near.shape == (13,)
    assert near.float().mean() > 0.5  # by their own labels, 1 and 2
    for members in rows.values():
        table = compare_class({"D": base.images[members].flatten(1)}, settings, generator=generator())
        assert all(value.isfinite().all() for value in table["D"].values())


def test_no_class_of_size_or_labels_that_do_not_pair_are_one_line():
    settings = DiversitySettings(num_bootstrap=10, num_neighbours=1)
    with pytest.raises(DiversityError, match=r"no class has 6 images, which num_neighbours = 1 needs"):
        rows_by_class({"D": data([0] * 5)}, settings, generator())
    with pytest.raises(DiversityError, match=r"D_R: its labels are not D's, row by row; `dvc repro`"):
        rows_by_class({"D": data([0, 1] * 5), "D_R": data([1, 0] * 5)}, settings, generator())


def test_a_limit_takes_the_same_rows_everywhere():
    settings = DiversitySettings(num_bootstrap=10, num_neighbours=1, max_per_class=8)
    first, second = rows_by_class({"D": data([0, 1] * 20)}, settings, generator()).values()
    assert len(first) == len(second) == 8
    assert (first % 2 == 0).all()
    assert (second % 2 == 1).all()


def test_the_stage_compares_three_datasets_in_three_spaces(tiny_project, tmp_path):
    root = shutil.copytree(tiny_project, tmp_path / "lab")
    run_stage(open_project(root), "diversity")
    written = (root / "metrics/diversity.json").read_bytes()
    found = json.loads(written)
    assert set(found["spaces"]) == {"pixels", "robust", "standard"}
    for space in found["spaces"].values():
        assert set(space) == {"D", "D_R", "D_NR"}
        assert all(entry["ratio"] == 1.0 for entry in space["D"].values())
        assert all(entry["low"] <= entry["ratio"] <= entry["high"] for entry in space["D_R"].values())
    assert sum(found["sizes"].values()) == 240
    assert found["nearest_own_mean"]["D"]["n"] == 240
    run_stage(open_project(root), "diversity")
    assert (root / "metrics/diversity.json").read_bytes() == written


def test_a_class_with_few_images_does_not_stop_the_stage(tiny_project, tmp_path, capsys):
    root = shutil.copytree(tiny_project, tmp_path / "lab")
    params = yaml.safe_load((root / "params.yaml").read_text())
    counts = load_dataset(root / "data" / "train").labels.bincount()
    params["diversity"]["num_neighbours"] = int(counts.median()) // 2 - 2
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    run_stage(open_project(root), "diversity")
    found = json.loads((root / "metrics/diversity.json").read_text())
    small = {str(label): int(count) for label, count in enumerate(counts) if count < int(counts.median()) // 2 * 2}
    assert found["left_out"] == small
    assert 0 < len(small) < 10
    assert set(found["sizes"]) == set(found["classes"]) == set(map(str, range(10))) - set(small)
    assert f"images: {', '.join(small)}" in capsys.readouterr().err


def test_a_limit_that_leaves_too_few_neighbours_is_refused():
    with pytest.raises(ConfigError, match=r"diversity\.num_neighbours = 5: must be at most 2 where max_per_class is 8"):
        validate({"num_bootstrap": 10, "max_per_class": 8}, "diversity", DiversitySettings)
    few = validate({"num_bootstrap": 10, "max_per_class": 8, "num_neighbours": 2}, "diversity", DiversitySettings)
    rows = rows_by_class({"D": data([0] * 20)}, few, generator())[0]
    compare_class({"D": torch.rand(8, 3), "D_R": torch.rand(8, 3)}, few, generator=generator())
    assert len(rows) == 8
