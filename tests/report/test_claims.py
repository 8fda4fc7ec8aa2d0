"""The verdicts: for every claim made-up results for seen, not seen, cannot be judged; and the intervals."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from notbugs.intervals import wilson_interval
from notbugs.report.claims import RULES, Claim, judge
from notbugs.report.evidence import Estimate, Evidence, NotMeasuredError

N = 360

CLEAN = ("true", "clean", 0.0)
SHIFTED = ("shifted", "clean", 0.0)
HEADLINE = ("true", "pgd100", 0.5)
TRAINING = ("true", "pgd20", 1.0)
# Accuracies and judges at which every claim is seen.
WORLD: dict[tuple[str, str], dict[tuple[str, str, float], float]] = {
    ("D", "standard"): {CLEAN: 0.99, HEADLINE: 0.35, TRAINING: 0.01},
    ("D", "robust"): {CLEAN: 0.96, HEADLINE: 0.77, TRAINING: 0.45},
    ("D_R", "standard"): {CLEAN: 0.98, HEADLINE: 0.55},
    ("D_NR", "standard"): {CLEAN: 0.97, HEADLINE: 0.22},
    ("D_rand", "standard"): {CLEAN: 0.85},
    ("D_rand_still_y", "standard"): {CLEAN: 0.81},
    ("D_det", "standard"): {CLEAN: 0.60, SHIFTED: 0.20},
    ("D_det_still_y", "standard"): {CLEAN: 0.07, SHIFTED: 0.90},
    ("D_rand_from_robust", "standard"): {CLEAN: 0.40},
    ("D_det_from_robust", "standard"): {CLEAN: 0.05},
}
JUDGED = ("rand", "det", "rand_from_robust", "det_from_robust")


def world(
    changes: dict[tuple[str, str], dict[tuple[str, str, float], float]] | None = None,
    *,
    without: tuple[str, ...] = (),
    still_y: dict[str, tuple[float, float]] | None = None,
    success: dict[str, float] | None = None,
    std: float = 0.005,
    num_seeds: int = 3,
    num_classes: int = 10,
    robust_eps: float | None = 1.0,
) -> Evidence:
    """The WORLD with changes, without some datasets, with other judges.

    Example by example the right images are nested, the first ones; on shifted labels they are the last ones.
    """
    rows, examples = [], []
    for model, cells in WORLD.items():
        for (labels, attack, eps), mean in {**cells, **(changes or {}).get(model, {})}.items():
            low, high = wilson_interval(mean * N, N)
            facts = {
                "dataset": model[0],
                "estimator": model[1],
                "labels": labels,
                "attack": attack,
                "norm": "l2",
            }
            numbers = {"eps": eps, "mean": mean, "std": std, "low": low, "high": high, "n": N}
            if model[0] in without:
                continue
            rows.append({**facts, **numbers, "num_seeds": num_seeds})
            order = np.arange(N) if labels == "true" else np.arange(N)[::-1]
            for seed in range(num_seeds):
                correct = pd.DataFrame({**facts, "eps": eps, "seed": seed, "example": order})
                examples.append(correct.assign(correct=np.arange(N) < round(mean * N)))
    judges = {**dict.fromkeys(JUDGED, (0.93, 0.91)), **(still_y or {})}
    constructions: dict[str, dict[str, Any]] = {
        key: {
            "given_is_true": 0.1,
            "robust_model": {"still_y": robust, "target": 0.1},
            "nearest_neighbour": {"still_y": neighbour, "target": 0.1},
            "num_still_y": 123,
        }
        for key, (robust, neighbour) in judges.items()
    }
    for key, share in (success or {}).items():
        constructions[key]["success_rate"] = share
    return Evidence(
        pd.DataFrame(rows), num_classes, 0.5, robust_eps, constructions, pd.concat(examples, ignore_index=True)
    )


def verdict(key: str, evidence: Evidence) -> Claim:
    return next(claim for claim in judge(evidence) if claim.key == key)


def test_every_claim_is_seen_in_the_world_of_the_paper() -> None:
    claims = judge(world())
    assert [claim.key for claim in claims] == [rule.key for rule in RULES]
    assert {claim.key: claim.seen for claim in claims} == dict.fromkeys((rule.key for rule in RULES), "seen")
    assert all(claim.sentence.endswith(".") and "  " not in claim.sentence for claim in claims)


@pytest.mark.parametrize(
    ("key", "evidence"),
    [
        ("robust_training", lambda: world({("D", "robust"): {TRAINING: 0.29}})),
        ("robust_training", lambda: world({("D", "robust"): {CLEAN: 0.33}})),
        ("robust_features", lambda: world({("D_R", "standard"): {HEADLINE: 0.44}})),
        ("robust_features", lambda: world({("D_NR", "standard"): {HEADLINE: 0.42}})),
        ("robust_features", lambda: world({("D_R", "standard"): {CLEAN: 0.33}})),
        ("robust_features", lambda: world(std=0.08)),
        ("nonrobust_features", lambda: world({("D_NR", "standard"): {HEADLINE: 0.41}})),
        ("nonrobust_features", lambda: world({("D_NR", "standard"): {CLEAN: 0.33}})),
        ("same_but_for_g", lambda: world({("D_R", "standard"): {HEADLINE: 0.36}})),
        ("same_but_for_g", lambda: world({("D_NR", "standard"): {CLEAN: 0.20}})),
        ("rand", lambda: world({("D_rand", "standard"): {CLEAN: 0.33}})),
        ("rand", lambda: world({("D_rand", "standard"): {CLEAN: 0.33}}, still_y={"rand": (0.1, 0.1)})),
        ("det", lambda: world({("D_det", "standard"): {CLEAN: 0.00, SHIFTED: 0.99}})),
        ("det", lambda: world({("D_det", "standard"): {CLEAN: 0.11, SHIFTED: 0.10}})),
        ("det", lambda: world({("D_det", "standard"): {CLEAN: 0.45, SHIFTED: 0.44}})),
        ("det", lambda: world({("D_det", "standard"): {CLEAN: 0.00, SHIFTED: 0.99}}, success={"det": 0.5})),
        ("control_rand", lambda: world({("D_rand_from_robust", "standard"): {CLEAN: 0.76}})),
        ("control_det", lambda: world({("D_det_from_robust", "standard"): {CLEAN: 0.70}})),
    ],
)
def test_not_seen(key: str, evidence: Callable[[], Evidence]) -> None:
    assert verdict(key, evidence()).seen == "not seen"


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
        ("rand", lambda: world(still_y={"rand": (0.93, 0.84)}), "the labels t are partly simply right"),
        ("rand", lambda: world(still_y={"rand": (0.84, 0.93)}), "that both still call y: 81.0%"),
        ("det", lambda: world(without=("D_det",)), "D_det is not in this pipeline"),
        (
            "rand",
            lambda: world({("D_rand", "standard"): {CLEAN: 0.10}}, success={"rand": 0.17}),
            "took its own source model to its target for 17.0% of the images only (asked: 50.0%)",
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
def test_cannot_be_judged(key: str, evidence: Callable[[], Evidence], sentence: str) -> None:
    claim = verdict(key, evidence())
    assert claim.seen == "cannot be judged"
    assert sentence in claim.sentence


def test_unjudged_images_cannot_be_honest() -> None:
    evidence = world()
    del evidence.constructions["rand"]["robust_model"]
    claim = verdict("rand", evidence)
    assert claim.seen == "cannot be judged"
    assert claim.sentence == "Cannot be judged: D_rand was not judged by robust model and 1-NN."


def test_sentences_carry_the_numbers() -> None:
    sentence = verdict("robust_features", world()).sentence
    for number in ("98.0% [", "55.0% [", "at eps 0.5", "+20.0 points", "+33.0 points", "asked: 15 points"):
        assert number in sentence
    sentence = verdict("rand", world(still_y={"rand": (0.9321, 0.86)})).sentence
    for number in (
        "85.0% [",
        "chance 10.0%",
        "above 30.0%",
        "10.0% of its labels equal y",
        "93.2% y",
        "86.0%",
    ):
        assert number in sentence


@pytest.mark.parametrize(
    ("clean", "shifted", "words"),
    [(0.00, 0.99, "A collapse to the visible"), (0.11, 0.10, "A failure rather"), (0.40, 0.55, "Mixed:")],
)
def test_det_tells_collapse_from_failure(clean: float, shifted: float, words: str) -> None:
    claim = verdict("det", world({("D_det", "standard"): {CLEAN: clean, SHIFTED: shifted}}))
    assert claim.seen == "not seen"
    assert words in claim.sentence
    assert f"{100 * clean:.1f}% [" in claim.sentence
    assert f"{100 * shifted:.1f}% [" in claim.sentence


def test_det_says_where_the_seeds_differ_too_much() -> None:
    claim = verdict("det", world({("D_det", "standard"): {CLEAN: 0.80, SHIFTED: 0.19}}, std=0.4))
    assert claim.seen == "not seen"
    assert "more fit seeds would narrow it" in claim.sentence


def test_margin_is_reached_exactly() -> None:
    # 0.45 − 0.15 is 0.30000000000000004 or 0.29999999999999993 depending on the numbers: both must count.
    for low_end in (0.01, 0.15, 0.4):
        changes = {("D", "robust"): {TRAINING: low_end + 0.3}, ("D", "standard"): {TRAINING: low_end}}
        assert verdict("robust_training", world(changes)).seen == "seen"


def test_strongest_attack_is_used() -> None:
    evidence = world({("D_R", "standard"): {("true", "pgd20", 0.5): 0.9}})
    assert evidence.accuracy("D_R", eps=0.5).value == 0.55


def test_estimate_joins_test_images_and_seeds() -> None:
    low, high = wilson_interval(0.85 * N, N)
    spread = 4.302653 * 0.02 / math.sqrt(3)  # t with 2 degrees of freedom
    found = world(std=0.02).accuracy("D_rand")
    assert found.low == pytest.approx(0.85 - math.hypot(0.85 - low, spread))
    assert found.high == pytest.approx(0.85 + math.hypot(high - 0.85, spread))
    one = world(std=math.nan, num_seeds=1).accuracy("D_rand")
    assert (one.low, one.high) == pytest.approx((low, high))
    many = world(std=0.02, num_seeds=50).accuracy("D_rand")
    assert many.low == pytest.approx(0.85 - math.hypot(0.85 - low, 2.009575 * 0.02 / math.sqrt(50)))


def test_difference_is_newcombes() -> None:
    # Newcombe 1998, table II, example (a): 56/70 − 48/80 by method 10 is 0.2000 [0.0524, 0.3339].
    first, second = (Estimate(k / n, *wilson_interval(k, n)) for k, n in ((56, 70), (48, 80)))
    gap = first.minus(second)
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert gap.points == "+20.0 points [+5.2, +33.4]"
    assert gap.reaches(0.2)
    assert not gap.reaches(0.21)
    assert not Estimate(0.2, -0.01, 0.4).reaches(0.1)


@pytest.mark.parametrize(("classes", "bar"), [(2, 0.75), (3, 2 / 3), (4, 0.5), (10, 0.3), (100, 0.21)])
def test_far_above_chance(classes: int, bar: float) -> None:
    assert world(num_classes=classes).far_above_chance == pytest.approx(bar)


def test_missing_measurements_are_named() -> None:
    with pytest.raises(NotMeasuredError, match=r"eps 0\.75 was not measured for D_R"):
        world().accuracy("D_R", eps=0.75)
    with pytest.raises(NotMeasuredError, match="accuracy on the shifted labels was not measured for D_rand"):
        world().accuracy("D_rand", labels="shifted")
    with pytest.raises(NotMeasuredError, match="D_R is not in this pipeline"):
        world().still_y("robust")


# Paired comparison


def shuffled(evidence: Evidence, model: tuple[str, str], *, seeds: tuple[int, ...]) -> Evidence:
    """The same accuracies, but the model's right images are the last ones: as many disagreements as there can be."""
    table = evidence.per_example
    assert table is not None
    own = (table["dataset"] == model[0]) & (table["estimator"] == model[1]) & table["seed"].isin(seeds)
    turned = table["example"].where(~own, N - 1 - table["example"])
    return dataclasses.replace(evidence, per_example=table.assign(example=turned))


def test_pairs_by_hand() -> None:
    pairs = world().paired(("D_R", "standard"), ("D", "standard"), eps=0.5)
    assert [(pair.only_first, pair.only_second, pair.n) for pair in pairs.seeds] == [(72, 0, N)] * 3
    assert pairs.support
    assert str(pairs) == (
        "On the same images for each of 3 seeds, only D_R is right on 72, only D, standard on 0 of 360 "
        "(McNemar: p < 0.001, asked: below 0.05)."
    )
    turned = shuffled(world(), ("D_R", "standard"), seeds=(1,)).paired(("D_R", "standard"), ("D", "standard"), eps=0.5)
    assert [(pair.only_first, pair.only_second) for pair in turned.seeds] == [(72, 0), (198, 126), (72, 0)]


def test_one_seed_without_support_is_enough_to_doubt() -> None:
    """10 points with a clear interval, yet on one seed the models disagree everywhere, 198 against 162 images."""
    close = world({("D", "standard"): {HEADLINE: 0.45}}, std=0.0)
    assert verdict("robust_features", close).seen == "seen"
    doubted = shuffled(close, ("D_R", "standard"), seeds=(2,))
    pairs = doubted.paired(("D_R", "standard"), ("D", "standard"), eps=0.5)
    assert max(pair.p_value for pair in pairs.seeds) == pytest.approx(binomtest(198, 360).pvalue)
    assert not pairs.support
    claim = verdict("robust_features", doubted)
    assert claim.seen == "not seen"
    assert "p at most 0.06" in claim.sentence
    closer = world({("D_det", "standard"): {CLEAN: 0.45, SHIFTED: 0.36}}, std=0.0)
    assert verdict("det", closer).seen == "not seen"  # 162 against 130 images: p is 0.07


def test_seeds_without_a_partner_are_paired_in_their_order() -> None:
    evidence = world()
    table = evidence.per_example
    assert table is not None
    moved = table.assign(seed=table["seed"] + 10 * (table["dataset"] == "D_NR"))
    pairs = dataclasses.replace(evidence, per_example=moved).paired(("D_R", "standard"), ("D_NR", "standard"), eps=0.5)
    assert len(pairs.seeds) == 3


def test_without_examples_nothing_is_judged() -> None:
    claim = verdict("robust_training", dataclasses.replace(world(), per_example=None))
    assert claim.seen == "cannot be judged"
    assert claim.sentence == "Cannot be judged: D, robust was not kept example by example."


def test_the_worst_case_counts_once_all_seeds_have_it() -> None:
    worst = ("true", "worst", 0.5)
    evidence = world({("D_R", "standard"): {worst: 0.4}})
    assert evidence.accuracy("D_R", eps=0.5).value == 0.4
    evidence.summary.loc[evidence.summary["attack"] == "worst", "num_seeds"] = 1
    assert evidence.accuracy("D_R", eps=0.5).value == 0.55
