"""Diversity: measures against closed forms, intervals, errors, the stage."""

import json
import math
import shutil

import pytest
import torch

from notbugs.images import ImageData
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
from notbugs.stages.context import open_project
from notbugs.stages.diversity import diversity


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
    found = prototypicality({"D": base, "D_R": swapped}, [torch.tensor([0, 1]), torch.tensor([2, 3])])
    assert found["D"].all()
    assert not found["D_R"].any()


def test_a_class_missing_or_labels_that_do_not_pair_are_one_line():
    settings = DiversitySettings(num_bootstrap=10, num_neighbours=1)
    with pytest.raises(DiversityError, match=r"class b: 0 images; at least 6 are needed for diversity\.num_neigh"):
        rows_by_class({"D": data([0] * 10)}, settings, generator())
    with pytest.raises(DiversityError, match=r"D_R: its labels are not D's, row by row; `dvc repro`"):
        rows_by_class({"D": data([0, 1] * 5), "D_R": data([1, 0] * 5)}, settings, generator())


def test_a_limit_takes_the_same_rows_everywhere():
    settings = DiversitySettings(num_bootstrap=10, num_neighbours=1, max_per_class=8)
    first, second = rows_by_class({"D": data([0, 1] * 20)}, settings, generator())
    assert len(first) == len(second) == 8
    assert (first % 2 == 0).all()
    assert (second % 2 == 1).all()


def test_the_stage_compares_three_datasets_in_three_spaces(tiny_project, tmp_path):
    root = shutil.copytree(tiny_project, tmp_path / "lab")
    diversity(open_project(root))
    written = (root / "metrics/diversity.json").read_bytes()
    found = json.loads(written)
    assert set(found["spaces"]) == {"pixels", "robust", "standard"}
    for space in found["spaces"].values():
        assert set(space) == {"D", "D_R", "D_NR"}
        assert all(entry["ratio"] == 1.0 for entry in space["D"].values())
        assert all(entry["low"] <= entry["ratio"] <= entry["high"] for entry in space["D_R"].values())
    assert sum(found["sizes"].values()) == 240
    assert found["nearest_own_mean"]["D"]["n"] == 240
    diversity(open_project(root))
    assert (root / "metrics/diversity.json").read_bytes() == written
