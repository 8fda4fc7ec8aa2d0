"""What was ruled, by the models that the claims are about."""

import json
from pathlib import Path

from notbugs.report.claims import RULES
from notbugs.report.verdicts import ABOUT, verdicts_of_models
from projects import ROOT


def test_every_claim_about_one_model_has_it() -> None:
    assert set(RULES) - set(ABOUT) == {"same_but_for_g"}
    assert set(ABOUT) <= set(RULES)


def test_the_recorded_verdicts_by_their_models() -> None:
    ruled = {one["key"]: one["verdict"] for one in json.loads((ROOT / "reports" / "verdicts.json").read_text())}
    found = verdicts_of_models(ROOT)
    assert len(found) == len(ruled) - 1
    assert found["D", "robust"] == ruled["robust_training"]
    assert found["D_det_from_robust", "standard"] == ruled["control_det"]


def test_a_set_of_another_name_has_the_verdict_of_its_recipe(tmp_path: Path) -> None:
    assert verdicts_of_models(tmp_path) == {}
    (tmp_path / "reports").mkdir()
    told = [{"key": "rand", "verdict": "reproduced"}, {"key": "rand:weak", "verdict": "inconclusive"}]
    (tmp_path / "reports" / "verdicts.json").write_text(json.dumps(told))
    assert verdicts_of_models(tmp_path) == {
        ("D_rand", "standard"): "reproduced",
        ("D_weak", "standard"): "inconclusive",
    }
