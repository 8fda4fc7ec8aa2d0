"""Superposition: codes known in closed form, the toy trained where theory knows the result, verdicts that turn."""

import math
from typing import Any

import pytest
import torch

from notbugs.report.charts import draw
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.training import Attack
from notbugs.science.debate._toy import Code, fooled, harm, learn
from notbugs.science.debate.superposition import QUESTION, SuperpositionSettings, in_planted_world, superposition
from notbugs.testing import check_question

SECTION: dict[str, Any] = {
    "num_features": 8,
    "dimensions": 2,
    "sparsities": [0, 0.6, 0.9, 0.97],
    "seeds": [0, 1],
    "num_steps": 400,
    "batch_size": 64,
    "lr": 0.05,
    "num_inputs": 300,
    "attack": {"eps": 0.2, "num_steps": 10, "loss": "margin", "random_start": True},
}


def config(**changed: Any) -> SuperpositionSettings:
    return validate({"study": "superposition", **SECTION, **changed}, "science.x", SuperpositionSettings)


def polygon(corners: int) -> Code:
    """Features at the corners of a regular polygon, of length 1, in two dimensions."""
    angles = 2 * math.pi * torch.arange(corners) / corners
    return Code(torch.stack([angles.cos(), angles.sin()]), torch.zeros(corners))


def orthogonal(count: int) -> Code:
    return Code(torch.eye(count), torch.zeros(count))


@pytest.mark.parametrize(("code", "interference"), [(orthogonal(5), 0.0), (polygon(4), 1.0), (polygon(5), 1.5)])
def test_geometry_of_known_codes(code: Code, interference: float):
    """n unit vectors in a plane, spread evenly: G² = (n/2)·G, so interference is n/2 − 1."""
    found = code.geometry()
    assert found["represented"] == code.weight.shape[1]
    assert found["per_dimension"] == pytest.approx(code.weight.shape[1] / len(code.weight))
    assert found["interference"] == pytest.approx(interference, abs=1e-6)
    assert found["gain"] == pytest.approx(math.sqrt(1 + interference))


def test_a_gain_is_how_far_an_l2_perturbation_moves_an_output():
    code = polygon(5)
    row = code.gram[0]
    assert float(row @ (0.3 * row / row.norm())) == pytest.approx(0.3 * code.geometry()["gain"])


def test_features_held_are_those_of_half_a_square():
    code = Code(torch.tensor([[1.0, 0.0, 0.7, 0.71]]), torch.zeros(4))
    assert code.represented.tolist() == [0, 3]


def test_pgd_finds_the_radius_that_theory_knows():
    """Without interference a feature of value v withstands v/√2 in any direction, with it less: 0.37·v in a pentagon.

    Values are uniform in [0, 1]; so of the orthogonal code eps·√2 are fooled. Where [0, 1] forbids to lower what is 0,
    the pentagon's neighbours still are reached at 0.69·v/1.49.
    """
    how = config().attack
    plain = fooled(orthogonal(5), 2000, how, 0, torch.device("cpu"))
    assert len(plain) == 2000
    assert float(plain.double().mean()) == pytest.approx(0.2 * math.sqrt(2), abs=0.02)
    shared = fooled(polygon(5), 2000, how, 0, torch.device("cpu"))
    neighbour = 1 - math.cos(2 * math.pi / 5)
    row = (polygon(5).gram[1] - polygon(5).gram[0]).clone()
    row[row < 0] *= torch.tensor([1.0, 1, 1, 1, 0]).double()[row < 0]  # the last stays 0
    assert float(shared.double().mean()) == pytest.approx(0.2 * float(row.norm()) / neighbour, abs=0.03)


def test_the_loss_of_an_orthogonal_code_is_harmed_by_the_square_of_the_radius():
    x = torch.full((4, 3), 0.5)
    assert harm(orthogonal(3), x, torch.ones(3), 0.1) == pytest.approx(0.01)
    pairs = Code(torch.tensor([[1.0, -1.0]]), torch.zeros(2))  # outputs x_0 − x_1 and its opposite
    x = torch.tensor([[1.0, 0.0]])
    assert harm(pairs, x, torch.ones(2), 0.1) == pytest.approx(0.02)  # √2 as far, so twice the square


def test_where_there_is_room_no_dimension_is_shared():
    learnt = learn(Lab(seed=0), settings=config(num_features=4, dimensions=4, sparsities=[0, 0.3, 0.6, 0.9]), seed=0)
    for place in range(4):
        found = Code(learnt["weight"][place], learnt["bias"][place]).geometry()
        assert found["represented"] == 4
        assert found["interference"] < 0.02


def test_dense_features_share_nothing_and_sparse_ones_lie_opposite():
    settings = config(num_features=4, importance=0.8, num_steps=800, lr=0.03, sparsities=[0, 0.1, 0.9, 0.95])
    learnt = learn(Lab(seed=0), settings=settings, seed=0)
    dense, sparse = (Code(learnt["weight"][place], learnt["bias"][place]) for place in (0, 3))
    assert len(dense.represented) == 2
    assert dense.geometry()["interference"] < 0.02
    assert sparse.represented.tolist() == [0, 1, 2, 3]
    unit = sparse.weight / sparse.weight.norm(dim=0)
    nearest = (unit.T @ unit).min(dim=1)
    assert torch.allclose(nearest.values, torch.full((4,), -1.0), atol=0.02)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2, 3]  # in pairs
    assert float(learnt["slope"].max()) < 0.1


@pytest.fixture(scope="module")
def answer() -> Answer:
    return superposition(Lab(seed=0), config())


def test_vulnerability_rises_with_interference(answer: Answer):
    rows = answer.metrics["rows"]
    assert [row["sparsity"] for row in rows] == [0, 0.6, 0.9, 0.97]
    assert rows[-1]["interference"]["value"] > rows[0]["interference"]["value"] + 0.5
    assert rows[-1]["fooled"]["mean"] > rows[0]["fooled"]["mean"] + 0.1
    assert rows[0]["harm"]["value"] == pytest.approx(1, abs=0.2)
    assert [one.finding for one in answer.verdicts] == ["reproduced", "reproduced"]
    assert answer.verdicts[0].sentence.startswith("Spearman's rho")


def test_without_superposition_nothing_follows():
    found = superposition(Lab(seed=0), config(dimensions=8, importance=1.0))
    assert max(row["interference"]["value"] for row in found.metrics["rows"]) < 0.1
    assert [one.finding for one in found.verdicts] == ["inconclusive", "inconclusive"]
    assert "no superposition was tried" in found.verdicts[0].sentence


def test_a_readout_without_vulnerability_turns_the_verdict(monkeypatch: pytest.MonkeyPatch):
    """Of codes that are fooled less the more they interfere, and harmed as one without superposition is."""
    module = "notbugs.science.debate.superposition"

    def less(code: Code, num_inputs: int, attack: Attack, seed: int, device: torch.device) -> torch.Tensor:
        return torch.arange(100) < 50 - 5 * code.geometry()["interference"]

    monkeypatch.setattr(f"{module}.fooled", less)
    monkeypatch.setattr(f"{module}.relative_harm", lambda *_: 1.0)
    found = superposition(Lab(seed=0), config())
    assert [one.finding for one in found.verdicts] == ["not reproduced", "not reproduced"]
    assert found.metrics["correlation"]["spearman"] == pytest.approx(-1)


def test_a_training_cut_short_is_no_verdict():
    found = superposition(Lab(seed=0), config(num_steps=20, lr=0.001))
    assert [one.finding for one in found.verdicts] == ["inconclusive", "inconclusive"]
    assert "not converged" in found.verdicts[0].sentence


def test_the_planted_world_is_vulnerable_without_interference():
    found = in_planted_world()
    assert found["smooth"]["interference"] == pytest.approx(1)  # two pairs of opposite colours
    assert found["fine"]["interference"] == pytest.approx(0, abs=1e-9)
    assert found["fine"]["radius"] < 0.1 * found["smooth"]["radius"]


def test_the_question_is_one_and_its_page_shows_the_numbers(answer: Answer):
    check_question("superposition", settings={**SECTION, "num_steps": 20, "num_inputs": 20})
    about = {"title": "", "says": "", "found": [], "page": QUESTION.study.__module__}
    page = Part("superposition", {**answer.metrics, "question": about}).page()
    assert "8 features in 2 dimensions, 2 at each sparsity" in page
    assert page.count("<tr>") == 5
    for chart in answer.charts:
        assert draw(chart).spec["layer"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sparsities": [0, 0.5, 0.4, 0.9]}, "a rising list of shares"),
        ({"sparsities": [0, 0.5, 0.9, 1.0]}, "a rising list of shares"),
        ({"sparsities": [-0.1, 0.5, 0.9, 0.95]}, "a rising list of shares"),
        ({"sparsities": [0, 0.9]}, "sparsities"),
        ({"dimensions": 9}, "dimensions of at most num_features = 8"),
        ({"importance": 0}, "importance"),
        ({"attack": {"eps": 0, "num_steps": 2, "random_start": True}}, "eps"),
        ({"attack": {"eps": 0.1, "num_steps": 2}}, "with random_start: true"),
    ],
)
def test_bad_settings(changed: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        config(**changed)
