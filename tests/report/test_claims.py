"""The verdicts: for every claim made-up results for reproduced, not reproduced, inconclusive; what they rest on."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from notbugs.evaluation.comparison import Basis, Estimate
from notbugs.evaluation.intervals import wilson_interval
from notbugs.evaluation.learnt import NotLearnt
from notbugs.evaluation.results import baseline_of
from notbugs.evaluation.statements import Verdict
from notbugs.report.claims import RULES, Criterion
from notbugs.report.evidence import Evidence, NotMeasuredError
from notbugs.report.honesty import Honesty, honesty_of
from notbugs.report.page import SECTIONS
from notbugs.report.sections import words

N = 360
CLAIMS = next(section for section in SECTIONS if section.key == "claims")
PRESETS = Path(__file__).parents[2] / "presets"

CLEAN = ("true", "clean", 0.0)
SHIFTED = ("shifted", "clean", 0.0)
HEADLINE = ("true", "worst", 0.5)
TRAINING = ("true", "worst", 1.0)
PGD = ("true", "pgd100", 0.5)
CURVE = ("true", "pgd20", 0.25)
Cells = dict[tuple[str, str, float], float]
# Accuracies and judges at which every claim is reproduced.
WORLD: dict[tuple[str, str], Cells] = {
    ("D", "standard"): {CLEAN: 0.99, HEADLINE: 0.30, TRAINING: 0.01},
    ("D", "robust"): {CLEAN: 0.96, HEADLINE: 0.77, TRAINING: 0.45},
    ("D", "as_D_R"): {CLEAN: 0.99, HEADLINE: 0.35, PGD: 0.37, CURVE: 0.90},
    ("D_R", "standard"): {CLEAN: 0.98, HEADLINE: 0.55, PGD: 0.57, CURVE: 0.88},
    ("D_NR", "standard"): {CLEAN: 0.97, HEADLINE: 0.22, PGD: 0.25, CURVE: 0.70},
    ("D_rand", "standard"): {CLEAN: 0.85},
    ("D_rand_still_y", "standard"): {CLEAN: 0.81},
    ("D_det", "standard"): {CLEAN: 0.60, SHIFTED: 0.20},
    ("D_det_still_y", "standard"): {CLEAN: 0.07, SHIFTED: 0.90},
    ("D_rand_from_robust", "standard"): {CLEAN: 0.40},
    ("D_det_from_robust", "standard"): {CLEAN: 0.05},
}
JUDGED = ("rand", "det", "rand_from_robust", "det_from_robust")
FIT = {"seeds": [0, 1], "epochs": 4, "lr": 0.1}
ATTACK = {"recipe": "random_target", "eps": 1.0}
PARAMS: dict[str, Any] = {
    "construct": {
        "robust": {"recipe": "invert", "model": "robust"},
        "nonrobust": {"recipe": "invert", "model": "standard"},
        **{name: {**ATTACK, "model": "robust" if "_" in name else "standard"} for name in JUDGED},
    },
    "fit": {
        "robust": {**FIT, "baseline": True},
        "nonrobust": {**FIT, "baseline": False},
        **dict.fromkeys(JUDGED, FIT),
    },
}


def world(
    changes: dict[tuple[str, str], Cells] | None = None,
    *,
    without: tuple[str, ...] = (),
    still_y: dict[str, tuple[float, float]] | None = None,
    success: dict[str, float] | None = None,
    facts: dict[str, dict[str, Any]] | None = None,
    offsets: Sequence[float] = (-0.005, 0.0, 0.005),
    only: dict[str, Sequence[float]] | None = None,
    num_fits: int = 2,
    num_classes: int = 10,
    robust_eps: float | None = 1.0,
    params: dict[str, Any] = PARAMS,
) -> Evidence:
    """The WORLD with changes, without some datasets, with other judges.

    Source model s lifts every accuracy by offsets[s] (`only`: dataset -> offsets of its own). Example by example the
    right images are nested, the first ones; on shifted labels they are the last ones.
    """
    rows, correct = [], []
    for model, cells in WORLD.items():
        if model[0] in without:
            continue
        direct = model in (("D", "standard"), ("D", "robust"))
        for (labels, attack, eps), mean in {**cells, **(changes or {}).get(model, {})}.items():
            for source, offset in enumerate((only or {}).get(model[0], offsets)):
                for seed in range(1 if direct else num_fits):
                    key = {"seed": source if direct else seed, "source_seed": pd.NA if direct else source}
                    told = {"dataset": model[0], "estimator": model[1], **key, "labels": labels, "attack": attack}
                    accuracy = min(max(mean + offset, 0.0), 1.0)
                    rows.append({**told, "norm": "l2", "eps": eps, "accuracy": accuracy, "n": N})
                    right = np.arange(N) < round(accuracy * N)
                    correct.append(right if labels == "true" else right[::-1])
    judges = {**dict.fromkeys(JUDGED, (0.93, 0.91)), **(still_y or {})}
    constructions: dict[str, dict[str, Any]] = {
        key: {
            "num_examples": 1000,
            "given_is_true": 0.1,
            "robust_model": {"still_y": robust, "target": 0.1},
            "nearest_neighbour": {"still_y": neighbour, "target": 0.1},
            "num_still_y": 123,
            **(facts or {}).get(key, {}),
        }
        for key, (robust, neighbour) in judges.items()
    }
    for key, share in (success or {}).items():
        constructions[key]["success_rate"] = share
    texts = dict.fromkeys(("dataset", "estimator", "labels", "attack"), "category")
    table = pd.DataFrame(rows).astype({"source_seed": "Int64", **texts})
    repeated = table.drop(columns=["norm", "accuracy", "n"]).loc[np.repeat(np.arange(len(table)), N)]
    masks = repeated.assign(example=np.tile(np.arange(N), len(table)), correct=np.concatenate(correct))
    return Evidence(table, num_classes, 0.5, robust_eps, constructions, masks, params)


def verdict(key: str, evidence: Evidence) -> Verdict:
    (claim,) = dataclasses.replace(CLAIMS, rules={key: RULES[key]}, more_rules=lambda _: ()).judge(evidence, {})
    return claim


def test_every_claim_is_reproduced_in_the_world_of_the_paper() -> None:
    claims = CLAIMS.judge(world(), {})
    assert [claim.key for claim in claims] == list(RULES)
    assert {claim.key: claim.printed for claim in claims} == dict.fromkeys(RULES, "reproduced")
    assert all(claim.sentence.endswith(".") and "  " not in claim.sentence for claim in claims)
    assert all(claim.notes.endswith(".") and "  " not in claim.notes for claim in claims)


@pytest.mark.parametrize(
    ("key", "evidence"),
    [
        ("robust_training", lambda: world({("D", "robust"): {TRAINING: 0.25}})),
        ("robust_training", lambda: world({("D", "robust"): {CLEAN: 0.30}})),
        ("robust_features", lambda: world({("D_R", "standard"): {HEADLINE: 0.42}})),
        ("robust_features", lambda: world({("D_NR", "standard"): {HEADLINE: 0.45}})),
        ("robust_features", lambda: world({("D_R", "standard"): {CLEAN: 0.30}})),
        ("robust_features", lambda: world(only={"D_R": (-0.2, 0.0, 0.2)})),
        ("nonrobust_features", lambda: world({("D_NR", "standard"): {HEADLINE: 0.45}})),
        ("nonrobust_features", lambda: world({("D_NR", "standard"): {CLEAN: 0.30}})),
        ("same_but_for_g", lambda: world({("D_R", "standard"): {HEADLINE: 0.30}})),
        ("same_but_for_g", lambda: world({("D_NR", "standard"): {CLEAN: 0.20}})),
        ("rand", lambda: world({("D_rand", "standard"): {CLEAN: 0.30}})),
        ("rand", lambda: world({("D_rand", "standard"): {CLEAN: 0.30}}, still_y={"rand": (0.1, 0.1)})),
        ("det", lambda: world({("D_det", "standard"): {CLEAN: 0.00, SHIFTED: 0.99}})),
        ("det", lambda: world({("D_det", "standard"): {CLEAN: 0.11, SHIFTED: 0.10}})),
        ("det", lambda: world({("D_det", "standard"): {CLEAN: 0.45, SHIFTED: 0.44}})),
        ("det", lambda: world({("D_det", "standard"): {CLEAN: 0.00, SHIFTED: 0.99}}, success={"det": 0.5})),
        ("control_rand", lambda: world({("D_rand_from_robust", "standard"): {CLEAN: 0.80}})),
        ("control_det", lambda: world({("D_det_from_robust", "standard"): {CLEAN: 0.70}})),
    ],
)
def test_not_reproduced(key: str, evidence: Callable[[], Evidence]) -> None:
    assert verdict(key, evidence()).printed == "not reproduced"


@pytest.mark.parametrize(
    ("key", "evidence", "sentence"),
    [
        ("robust_training", lambda: world(robust_eps=None), "no model is trained robustly"),
        ("robust_training", lambda: world(robust_eps=2.0), "eps 2 was not measured for D, robust"),
        ("robust_features", lambda: world(without=("D_R",)), "D_R is not in this pipeline"),
        ("robust_features", lambda: world(without=("D_NR",)), "D_NR is not in this pipeline"),
        ("nonrobust_features", lambda: world(without=("D_NR",)), "D_NR is not in this pipeline"),
        (
            "nonrobust_features",
            lambda: world({("D", "standard"): {HEADLINE: 0.60}}),
            "does not tell a robust model from one that is not",
        ),
        ("same_but_for_g", lambda: world(without=("D_NR",)), "D_NR is not in this pipeline"),
        ("rand", lambda: world(without=("D_rand",)), "D_rand is not in this pipeline"),
        ("rand", lambda: world(still_y={"rand": (0.93, 0.80)}), "the labels t are partly simply right"),
        ("rand", lambda: world(still_y={"rand": (0.80, 0.93)}), "that both still call y: 81.0%"),
        ("det", lambda: world(without=("D_det",)), "D_det is not in this pipeline"),
        (
            "rand",
            lambda: world({("D_rand", "standard"): {CLEAN: 0.10}}, success={"rand": 0.17}),
            "took its own source model to its target for 17.0% of the images only (threshold: 50.0%)",
        ),
        (
            "det",
            lambda: world({("D_det", "standard"): {CLEAN: 0.00, SHIFTED: 0.99}}, success={"det": 0.49}),
            "a larger eps or more steps",
        ),
        (
            "det",
            lambda: world(still_y={"det": (0.60, 0.60)}),
            "only the 123 images that both still call y: 7.0%",
        ),
        ("control_rand", lambda: world(without=("D_rand_from_robust",)), "D_rand from robust is not in this"),
        ("control_rand", lambda: world({("D_rand", "standard"): {CLEAN: 0.30}}), "nothing to lose"),
        ("control_det", lambda: world({("D_det", "standard"): {CLEAN: 0.00}}), "nothing to lose"),
        (
            "control_det",
            lambda: world({("D_det_from_robust", "standard"): {CLEAN: 0.60}}, still_y={"det_from_robust": (0.2, 0.9)}),
            "the labels t are partly simply right",
        ),
    ],
)
def test_inconclusive(key: str, evidence: Callable[[], Evidence], sentence: str) -> None:
    claim = verdict(key, evidence())
    assert claim.printed == "inconclusive"
    assert sentence in claim.sentence


@pytest.mark.parametrize(
    ("dataset", "undecided"),
    [
        ("D_rand", {"rand", "control_rand"}),
        ("D_det_from_robust", {"control_det"}),
        ("D_R", {"robust_features", "same_but_for_g"}),
        ("D_NR", {"nonrobust_features", "same_but_for_g"}),
    ],
)
def test_fits_that_have_not_learnt_yet_leave_their_claims_undecided(dataset: str, undecided: set[str]) -> None:
    """Their accuracy is that of a guess, whatever the dataset holds."""
    evidence = dataclasses.replace(world(), not_learnt={dataset: NotLearnt(1, 6)})
    found = {key: verdict(key, evidence) for key in RULES}
    assert {key for key, one in found.items() if one.finding == "inconclusive"} == undecided
    assert {"not learnt yet: 1 of 6 fits" in found[key].sentence for key in undecided} == {True}


def test_unjudged_images_cannot_be_honest() -> None:
    evidence = world()
    del evidence.constructions["rand"]["robust_model"]
    claim = verdict("rand", evidence)
    assert claim.finding == "inconclusive"
    assert claim.sentence == "Inconclusive: D_rand was not judged by robust model and 1-NN."


# Equal recipes


def test_d_r_is_compared_with_d_fitted_as_d_r_and_not_with_d_as_it_is() -> None:
    """D standard leaves 30%, D fitted by D_R's recipe 51%: the gain is 4 points, not 25."""
    evidence = world({("D", "as_D_R"): {HEADLINE: 0.51}})
    claim = verdict("robust_features", evidence)
    assert claim.finding == "not reproduced"
    assert "+4.0 points" in claim.sentence
    assert "over the same fits on D itself (51.0%" in claim.sentence


def test_d_nr_is_compared_with_the_fit_on_d_of_an_equal_recipe() -> None:
    assert "of the same fits on D itself they leave 35.0%" in verdict("nonrobust_features", world()).sentence
    other = {**PARAMS, "fit": {**PARAMS["fit"], "nonrobust": {**FIT, "lr": 0.3}}}
    claim = verdict("nonrobust_features", world(params=other))
    assert claim.finding == "inconclusive"
    assert "D was not fitted by the recipe of D_NR (params.yaml: fit.nonrobust.baseline)" in claim.sentence


def test_what_changes_no_model_does_not_make_recipes_differ() -> None:
    same = {**FIT, "measure_every": 2, "still_y": False}
    params = {**PARAMS, "fit": {**PARAMS["fit"], "nonrobust": same, "rand_from_robust": same}}
    evidence = world(params=params)
    assert [verdict(key, evidence).finding for key in ("nonrobust_features", "control_rand")] == [
        "reproduced",
        "reproduced",
    ]


@pytest.mark.parametrize(
    ("section", "name", "change", "key", "said"),
    [
        ("fit", "rand_from_robust", {"lr": 0.3}, "control_rand", "(params.yaml: fit: lr)"),
        ("construct", "det_from_robust", {"eps": 2.0}, "control_det", "(params.yaml: construct: eps)"),
        ("construct", "nonrobust", {"num_steps": 7}, "same_but_for_g", "(params.yaml: construct: num_steps)"),
        ("fit", "nonrobust", {"epochs": 9}, "same_but_for_g", "(params.yaml: fit: epochs)"),
    ],
)
def test_unequal_recipes_are_inconclusive(section: str, name: str, change: dict[str, Any], key: str, said: str) -> None:
    params = {**PARAMS, section: {**PARAMS[section], name: {**PARAMS[section][name], **change}}}
    claim = verdict(key, world(params=params))
    assert claim.finding == "inconclusive"
    assert said in claim.sentence


def test_the_recipe_of_d_nr_does_not_hinder_d_r_against_d() -> None:
    """As in the paper, D_NR has a learning rate of its own: D_R is compared with D, by D_R's recipe, alone."""
    fits = {**PARAMS["fit"], "nonrobust": {**FIT, "lr": 0.01}}
    params = {**PARAMS, "fit": fits}
    claim = verdict("robust_features", world(params=params))
    assert claim.finding == "reproduced"
    assert claim.sentence.endswith(
        "not compared with D_NR: D_R and D_NR do not share their recipe (params.yaml: fit: lr)."
    )
    as_good = {("D_NR", "standard"): {HEADLINE: 0.54}}
    assert verdict("robust_features", world(as_good)).finding == "not reproduced"  # of one recipe: nothing gained
    assert verdict("robust_features", world(as_good, params=params)).finding == "reproduced"
    no_gain = {("D_R", "standard"): {HEADLINE: 0.42}}
    assert verdict("robust_features", world(no_gain, params=params)).finding == "not reproduced"


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_presets_let_the_claims_about_d_r_and_d_nr_be_judged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = yaml.safe_load(file.read_text())
    for key in ("robust", "nonrobust"):  # D as the preset has it fitted
        monkeypatch.setitem(WORLD, ("D", str(baseline_of(params, key))), WORLD["D", "as_D_R"])
    evidence = world(params=params)
    keys = ("robust_features", "nonrobust_features", "same_but_for_g")
    judged = {key for key in keys if verdict(key, evidence).finding == "reproduced"}
    of_the_paper = file.stem in ("cifar10_paper", "restricted_imagenet")  # two recipes, as it says
    assert judged == {*keys} - ({"same_but_for_g"} if of_the_paper else set())


# The worst case


def test_robustness_is_what_all_attacks_leave_and_pgd_stands_beside_it() -> None:
    evidence = world({("D", "robust"): {TRAINING: 0.268, ("true", "pgd20", 1.0): 0.402}})
    claim = verdict("robust_training", evidence)
    assert claim.finding == "not reproduced"
    assert "leave 26.8% [" in claim.sentence
    assert "(PGD-20 alone: 40.2%)" in claim.sentence


def test_a_claim_without_the_suite_on_every_seed_is_inconclusive() -> None:
    evidence = world({("D", "robust"): {("true", "pgd20", 1.0): 0.5}})
    table = evidence.results
    lacks = (table["estimator"] == "robust") & (table["attack"] == "worst") & (table["eps"] == 1.0)
    some = dataclasses.replace(evidence, results=table[~(lacks & (table["seed"] == 2))])
    none = dataclasses.replace(evidence, results=table[~lacks])
    assert verdict("robust_training", some).sentence == (
        "Inconclusive: all attacks together (worst) were not run on every seed of D, robust at eps 1 "
        "(params.yaml: evaluate.suite_seeds)."
    )
    assert "were not at all run on D, robust at eps 1" in verdict("robust_training", none).sentence


# What a verdict rests on


def test_an_attack_that_failed_leaves_the_edge_as_it_was() -> None:
    close = {
        ("D_rand", "standard"): {CLEAN: 0.33}
    }  # its lower end lies within a standard error of the threshold of 30%
    assert verdict("rand", world(close, success={"rand": 0.17})).printed == "inconclusive, on the edge"
    far = {("D_rand", "standard"): {CLEAN: 0.20}}
    assert verdict("rand", world(far, success={"rand": 0.17})).printed == "inconclusive"


def test_an_interval_s_end_within_a_standard_error_of_the_bar_is_on_the_edge() -> None:
    found = Estimate(0.35, 0.30, 0.40, Basis(3, 2, 10_000, "source models", 0.0, 0.025, 0.0, 0.0))
    for bar, holds, close in ((0.29, True, True), (0.31, False, True), (0.26, True, False), (0.34, False, False)):
        assert Criterion.above(found, bar) == Criterion(holds, close)
    assert Criterion.margin(dataclasses.replace(found, low=0.02), 0.1) == Criterion(True, True)


def test_every_verdict_says_what_it_rests_on() -> None:
    claim = verdict("robust_features", world())
    assert claim.notes.startswith("Rests on 3 source models, 2 fits of each, 360 test images; power to tell ")
    assert verdict("robust_training", world()).notes.startswith("Rests on 3 source models, 360 test images; power")
    assert "one source model: the interval speaks of its fits" in verdict("rand", world(offsets=(0.0,))).notes
    alone = verdict("rand", world(offsets=(0.0,), num_fits=1)).notes
    assert "one model: the interval speaks of the test images alone" in alone


def test_the_power_to_tell_the_margin_from_0_and_what_it_needs_are_said() -> None:
    assert "power to tell 10 points from 0: 1.00" in verdict("robust_features", world()).notes
    wide = verdict("robust_features", world(only={"D_R": (-0.06, 0.0, 0.06)})).notes
    assert "power to tell 10 points from 0: 0.37" in wide
    assert "(0.9 needs 8 source models with the spread measured here)" in wide


def test_what_happens_at_the_other_eps_is_computed() -> None:
    notes = verdict("robust_features", world()).notes
    assert "At the other eps, D_R minus D, fitted as D_R: 0.25: −2.0 points [" in notes
    assert notes.endswith("(PGD-20). It lies below at eps 0.25.")
    better = verdict("robust_features", world({("D_R", "standard"): {CURVE: 0.95}})).notes
    assert "0.25: +5.0 points" in better
    assert "lies below" not in better


# On the edge


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.70, "inconclusive"),
        (0.849, "inconclusive, on the edge"),
        (0.850, "reproduced, on the edge"),
        (0.9, "reproduced"),
    ],
)
def test_a_verdict_that_hangs_on_one_image_is_called_so(share: float, expected: str) -> None:
    claim = verdict("det", world(still_y={"det": (share, 0.95)}))
    assert claim.printed == expected
    assert ("within a standard error (1.1 points) of the threshold of 85%" in claim.sentence) == ("edge" in expected)


def test_source_models_that_differ_widen_the_edge() -> None:
    facts = {"robust_model": {"still_y": 0.88}, "nearest_neighbour": {"still_y": 0.95}, "num_examples": 1000}
    alike = {str(seed): facts for seed in range(3)}
    differ = {str(seed): {**facts, "robust_model": {"still_y": share}} for seed, share in enumerate((0.78, 0.88, 0.98))}
    found = [honesty_of({**facts, "sources": sources}) for sources in (alike, differ)]
    assert [one is not None and one.on_edge for one in found] == [False, True]


def test_the_edge_counts_the_images_that_the_deciding_judge_knew() -> None:
    """1-NN knows 35% of CIFAR's images: the standard error of its share is 1.7 times that over all images."""
    facts = {"robust_model": {"still_y": 0.95, "before": 0.9}, "nearest_neighbour": {"still_y": 0.86, "before": 0.35}}
    found = honesty_of({**facts, "num_examples": 1000})
    assert found is not None
    assert found.num_images == 350
    assert found.error == pytest.approx(math.sqrt(0.86 * 0.14 / 350))


def test_a_margin_within_a_standard_error_is_on_the_edge() -> None:
    assert (
        verdict("robust_features", world({("D_R", "standard"): {HEADLINE: 0.455}})).printed == "reproduced, on the edge"
    )
    assert verdict("robust_features", world({("D_R", "standard"): {HEADLINE: 0.445}})).printed == (
        "not reproduced, on the edge"
    )
    both = {("D_R", "standard"): {HEADLINE: 0.445, CLEAN: 0.2}}
    assert (
        verdict("robust_features", world(both)).printed == "not reproduced"
    )  # the clean accuracy decides, far from the bar


@pytest.mark.parametrize(
    ("least", "images", "holds", "edge"),
    [(0.85, None, True, False), (0.8499, 10_000, False, True), (0.86, 10_000, True, False), (0.86, 100, True, True)],
)
def test_the_rule_of_honest_images(least: float, images: int | None, holds: bool, edge: bool) -> None:
    found = Honesty(0.99, least, images)
    assert (found.holds, found.on_edge) == (holds, edge)


# Sentences


def test_sentences_carry_the_numbers() -> None:
    sentence = verdict("robust_features", world()).sentence
    for number in ("98.0% [", "55.0% [", "at eps 0.5", "+20.0 points", "+33.0 points", "threshold: 15 points"):
        assert number in sentence
    sentence = verdict("rand", world(still_y={"rand": (0.9321, 0.88)}, facts={"rand": {"success_other_seeds": 0.45}}))
    for number in (
        "85.0% [",
        "chance 10.0%",
        "above 30.0%",
        "10.0% of its labels equal y",
        "93.2% y",
        "88.0%",
        "The source's other seeds call 45.0% of them t.",
    ):
        assert number in sentence.sentence


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


@pytest.mark.parametrize(
    ("clean", "shifted", "half", "said"),
    [
        (0.348, 0.461, 0.03, "Mixed: it learnt y from the perturbations, but y + 1"),
        (0.371, 0.471, 0.03, "Mixed: it learnt y from the perturbations, but y + 1"),
        (0.10, 0.80, 0.03, "A collapse to the visible content"),
        (0.32, 0.46, 0.05, "A collapse to the visible content"),
        (0.45, 0.44, 0.04, "Undecided: it learnt both"),
        (0.11, 0.10, 0.03, "A failure rather than a collapse"),
        (0.60, 0.20, 0.03, "It learnt y from the perturbations, more than"),
        (0.20, 0.05, 0.03, "but y not far above chance"),
    ],
)
def test_the_words_of_d_det_follow_from_y_against_y_plus_one(
    clean: float, shifted: float, half: float, said: str
) -> None:
    shares = {"clean": estimate(clean, half), "shifted": estimate(shifted, half)}
    told = words("parts", "det_words", **shares, gap=estimate(clean - shifted, half), bar=0.3)
    assert said in told


def test_margin_is_reached_exactly() -> None:
    # 0.45 − 0.15 is 0.30000000000000004 or 0.29999999999999993 depending on the numbers: both must count.
    for low_end in (0.01, 0.15, 0.4):
        changes = {("D", "robust"): {TRAINING: low_end + 0.3}, ("D", "standard"): {TRAINING: low_end}}
        assert verdict("robust_training", world(changes)).finding == "reproduced"


def test_estimate_joins_test_images_and_source_models() -> None:
    low, high = wilson_interval(0.85 * N, N)
    spread = 4.302653 * 0.02 / math.sqrt(3)  # t with 2 degrees of freedom
    found = world(offsets=(-0.02, 0.0, 0.02)).accuracy("D_rand")
    assert found.low == pytest.approx(0.85 - math.hypot(0.85 - low, spread))
    assert found.high == pytest.approx(0.85 + math.hypot(high - 0.85, spread))
    one = world(offsets=(0.0,), num_fits=1).accuracy("D_rand")
    assert (one.low, one.high) == pytest.approx((low, high))


@pytest.mark.parametrize(("classes", "bar"), [(2, 0.75), (3, 2 / 3), (4, 0.5), (10, 0.3), (100, 0.21)])
def test_far_above_chance(classes: int, bar: float) -> None:
    assert world(num_classes=classes).far_above_chance == pytest.approx(bar)


def test_missing_measurements_are_named() -> None:
    with pytest.raises(NotMeasuredError, match=r"eps 0\.75 was not measured for D_R"):
        world().accuracy("D_R", eps=0.75)
    with pytest.raises(NotMeasuredError, match="accuracy on the shifted labels was not measured for D_rand"):
        world().accuracy("D_rand", labels="shifted")
    with pytest.raises(NotMeasuredError, match="D_R is not in this pipeline"):
        world().honesty("robust")


def test_the_strongest_attack_that_all_went_through() -> None:
    evidence = world()
    assert evidence.strongest(("D_R", "standard"), 0.5) == ("worst", evidence.accuracy("D_R", eps=0.5))
    assert evidence.strongest(("D_R", "standard"), 0.25)[0] == "pgd20"
    assert evidence.strongest(("D_R", "standard"), 0.0)[0] == "clean"
    assert evidence.curve_eps(("D_R", "standard"), ("D", "as_D_R")) == [(0.25, "pgd20"), (0.5, "pgd100")]


def test_without_examples_the_interval_is_wider_and_the_report_says_so() -> None:
    evidence = world()
    apart = dataclasses.replace(evidence, per_example=None)
    models = (("D_R", "standard"), ("D", "as_D_R"))
    together, unpaired = (one.difference(*models, eps=0.5) for one in (evidence, apart))
    assert unpaired.value == pytest.approx(together.value)
    assert unpaired.low < together.low
    assert "not compared image by image" in verdict("robust_features", apart).notes


def test_more_source_models_do_not_make_the_rule_stricter() -> None:
    """McNemar's test for every seed, the rule before, asked for more with every seed added."""
    few = world(offsets=(-0.02, 0.0, 0.02)).difference(("D_R", "standard"), ("D", "as_D_R"), eps=0.5)
    many = world(offsets=(-0.02, 0.0, 0.02) * 4).difference(("D_R", "standard"), ("D", "as_D_R"), eps=0.5)
    assert many.high - many.low <= few.high - few.low
