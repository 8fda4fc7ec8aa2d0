"""What was ruled, by the models that the claims are about."""

import json
from pathlib import Path

from notbugs.report.claims import RULES
from notbugs.report.verdicts import ABOUT, of_models, read_verdicts
from projects import ROOT


def test_every_claim_about_one_model_has_it() -> None:
    assert set(RULES) - set(ABOUT) == {"same_but_for_g"}
    assert set(ABOUT) <= set(RULES)


def test_the_recorded_verdicts_by_their_models() -> None:
    ruled = {one["key"]: one["verdict"] for one in json.loads((ROOT / "reports" / "verdicts.json").read_text())}
    found = of_models(read_verdicts(ROOT, ()))
    assert len(found) == len(ruled) - 1
    assert found["D", "robust"] == ruled["robust_training"]
    assert found["D_det_from_robust", "standard"] == ruled["control_det"]


def test_a_set_of_another_name_has_the_verdict_of_its_recipe() -> None:
    told = [{"key": "rand", "verdict": "reproduced"}, {"key": "rand:weak", "verdict": "inconclusive"}]
    assert of_models(told) == {("D_rand", "standard"): "reproduced", ("D_weak", "standard"): "inconclusive"}


def test_there_are_none_without_a_report_and_none_of_an_outdated_one(tmp_path: Path) -> None:
    assert read_verdicts(tmp_path, ()) == []
    assert read_verdicts(ROOT, {"transfer": "seed has changed since"})
    assert read_verdicts(ROOT, {"report": "seed has changed since"}) == []
