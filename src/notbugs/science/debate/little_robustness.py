"""A little robustness (Springer et al. 2021), and similarity that rises with robustness (Jones et al. 2022).

Source models g are trained at radii from 0 up, each in two architectures. Of each: how often its targeted adversarial
examples make other, standard models say t; what a fit on its D_rand learns; what all fits of the pipeline say of test
images that g inverted; and how alike the two architectures' representations of these images are (linear CKA).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from notbugs.evaluation.statements import Chart, Position, Series, Verdict
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import Question
from notbugs.science.common.shares import share_table
from notbugs.science.debate._shared import gaps, in_points, in_words, judged, near, over_seeds
from notbugs.science.debate._sources import FITS, MEASURES, LittleRobustnessSettings, Masks, masks_of, measure_source
from notbugs.science.transfer import correlation

GAIN = 0.05
"""Share of test images that transfer from a slightly robust g must win over a standard one: a twentieth of all."""
LEAST_FOOLED = 0.5
"""A standard g that says t of fewer of its own examples was not attacked well enough to speak of transfer."""
LEVEL = 0.05
"""Of the permutation test that CKA rises with eps: the usual level."""
RISE = 0.10
"""Of CKA from eps 0 to the largest: a tenth of its range. Two seeds of one radius should differ by less."""
REACHED = 0.5
"""Median of ‖g(x_r) − g(x)‖ / ‖g(x') − g(x)‖ above which an image counts as not inverted."""


def little_robustness(lab: Lab, settings: LittleRobustnessSettings) -> Answer:
    """Transfer, what D_rand teaches, inverted test images and CKA, by the radius that g is trained at.

    On digits about a minute.
    """
    parts = {
        f"little_robustness-{number}-seed-{seed}": partial(measure_source, settings=settings, eps=eps, seed=seed)
        for number, eps in enumerate(settings.eps)
        for seed in settings.seeds
    }
    found = iter(lab.load_or_make_all(parts, "little_robustness"))
    units = {eps: [next(found) for _ in settings.seeds] for eps in settings.eps}
    masks = masks_of(lab, settings, units)
    table = share_table({f"{eps:g}": columns for eps, columns in masks.items()})
    rows: dict[str, dict[str, Any]] = {eps: dict(row) for eps, row in table.items()}
    for name in MEASURES:
        means = over_seeds({f"{eps:g}": [one[name] for one in seeds] for eps, seeds in units.items()})
        for eps, mean in means.items():
            rows[eps][name] = mean
    cka = [row["cka"]["value"] for row in rows.values()]
    metrics: dict[str, Any] = {"attack": settings.attack.model_dump(mode="json", include={"norm", "eps", "num_steps"})}
    metrics |= {"num_seeds": len(settings.seeds), "num_targets": len(lab.trained["standard"])}
    metrics |= {"num_inverted": len(units[0][0]["inverted.D"]), "num_test": len(lab.data["test"])}
    metrics |= {"chance": round(1 / len(lab.data["test"].class_names), 6), "architecture": settings.other.architecture}
    metrics |= {"table": rows, "correlation": correlation(settings.eps, cka), **_gains(masks)}
    verdicts = [_slightly(metrics), _alike(metrics)]
    told = ", ".join(f"{eps} {in_words(row['transfer'])}" for eps, row in rows.items())
    says = (f"targeted transfer by the radius of g: {told}", verdicts[1].sentence)
    return Answer(metrics, says, charts=_charts(metrics), verdicts=verdicts)


def _gains(masks: Mapping[float, Masks]) -> dict[str, Any]:
    """The radius above 0 of most transfer, chosen on every other test image, and its gain over 0 on the rest."""
    transfers = {eps: row["transfer"] for eps, row in masks.items()}
    chosen = {eps: sum(float(one[::2].mean()) for one in seeds) for eps, seeds in transfers.items() if eps > 0}
    peak = max(chosen, key=lambda eps: chosen[eps])
    rest = {eps: [one[1::2] for one in seeds] for eps, seeds in transfers.items()}
    gains = gaps({f"{eps:g}": (rest[eps], rest[0]) for eps in chosen})
    return {"peak": peak, "largest": max(chosen), "gain": gains[f"{peak:g}"]}


def _basis(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['num_seeds']} source models at each of {len(metrics['table'])} radii"


def _slightly(metrics: Mapping[str, Any]) -> Verdict:
    """Reproduced if a radius below the largest transfers most, by GAIN more than 0, the interval above 0."""
    gain, peak, largest = metrics["gain"], metrics["peak"], metrics["largest"]
    own, why = metrics["table"]["0"]["own"], ""
    sentence = (
        f"Transfer is highest from source models of eps {peak:g} (of 0 to {largest:g}, chosen on every other test "
        f"image); on the rest it is {in_points(gain)} beside eps 0. Thresholds: {100 * GAIN:g} points, the interval "
        f"above 0, and a radius below {largest:g}."
    )
    if own["mean"] < LEAST_FOOLED:
        why = f"Inconclusive: standard source models say t of {in_words(own)} of their own examples, below half."
    elif gain["low"] <= 0 and gain["value"] >= GAIN and peak < largest:
        why = "Inconclusive: these seeds and images do not tell the gain from 0."
    holds = peak < largest and gain["value"] >= GAIN
    title = "Targeted transfer is highest from slightly robust models"
    return judged(
        "slightly", title, sentence, _basis(metrics), holds=holds, why_open=why, on_edge=not why and near(gain, GAIN)
    )


def _alike(metrics: Mapping[str, Any]) -> Verdict:
    """Reproduced if CKA on inverted images rises with the radius, at LEVEL, and by RISE from 0 to the largest."""
    rows, found, why = metrics["table"], metrics["correlation"], ""
    reached = max(row["reached"]["value"] for row in rows.values())
    first, last = ([row[name]["value"] for name in ("cka", "cka_plain")] for row in (rows["0"], [*rows.values()][-1]))
    ranks = f"{found['spearman']:.2f}, p {found['p_value']:.3f}" if found else "not defined"
    sentence = (
        f"CKA on inverted images is {first[0]:.2f} at eps 0 and {last[0]:.2f} at {metrics['largest']:g} (untouched "
        f"ones: {first[1]:.2f} and {last[1]:.2f}); its rank correlation with eps is {ranks}. Thresholds: p {LEVEL:g} "
        f"and a rise of {RISE:g}."
    )
    if reached > REACHED:
        why = f"Inconclusive: an inversion ends {reached:.2f} times as far from g(x) as it began, above {REACHED:g}."
    rises = found is not None and found["spearman"] > 0 and found["p_value"] <= LEVEL
    title = "Two architectures grow alike with robustness"
    return judged("alike", title, sentence, _basis(metrics), holds=rises and last[0] - first[0] >= RISE, why_open=why)


def _charts(metrics: Mapping[str, Any]) -> list[Chart]:
    rows = {float(eps): row for eps, row in metrics["table"].items()}

    def series(names: Mapping[str, str]) -> list[Series]:
        return [Series.of_shares(label, {eps: row[name] for eps, row in rows.items()}) for name, label in names.items()]

    kinds = {"same": "models of the same architecture", "other": f"models of the other ({metrics['architecture']})"}
    kinds |= {"noise": "both, random noise as long", "rand": "a fit on g's D_rand, on y"}
    caption = (
        "Test images that standard models call t after g's attack towards it, by the radius that g was trained at; and "
        "accuracy on y of fits on g's D_rand; whiskers: 95% intervals."
    )
    marks = {"chance of a fit": metrics["chance"]}
    transfer = Chart("transfer", caption, "training eps of g", "share of test images", series(kinds), marks=marks)
    kinds = {"cka": "on images that g inverted", "cka_plain": "on untouched test images"}
    caption = (
        f"How alike g and a model of the other architecture ({metrics['architecture']}), trained at the same radius, "
        "represent images (linear CKA), by that radius; whiskers: 95% intervals over seeds."
    )
    return [transfer, Chart("similarity", caption, "training eps", "linear CKA", series(kinds), percent=False)]


QUESTION = Question(
    settings=LittleRobustnessSettings,
    study=little_robustness,
    inputs=(
        *("data/train", "data/test", "models/train/standard"),
        *(f"models/fit/{key}" for key in FITS.values()),
    ),
    title="A little robustness",
    says="Do slightly robust models give the adversarial examples that transfer best, and do robust models grow alike?",
    position=Position(
        who="Springer et al. 2021, Jones et al. 2022",
        claim="A little robustness makes targeted examples transfer; representations of robust models grow alike.",
        reported="on ImageNet slightly robust source models (L2 eps 0.1) give targeted examples that transfer "
        "substantially better, even to transformers. Jones et al.: between architectures CKA on inverted images is "
        "much lower than on plain ones, and rises with the models' robustness.",
        source="https://arxiv.org/abs/2106.02105",
        mind="Slightly robust models that transfer less than 5 points better than standard ones, or CKA that rises by "
        "less than 0.1 from eps 0 to the largest.",
    ),
)
