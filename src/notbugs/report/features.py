"""The report's section on usefulness: what was found, the ρ-γ plane, every feature on every dataset, circles."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from notbugs.evaluation.results import model_label, percent
from notbugs.report.blocks import Block, Cell, Section, Table, Text, name, number
from notbugs.report.claims import verdict
from notbugs.report.findings import (
    Finding,
    findings_table,
    metrics_of,
    number_with_interval,
    share_with_interval,
)
from notbugs.report.science_features_figures import KEYS, LOOKS, NAME
from notbugs.report.verdicts import rests_on

if TYPE_CHECKING:
    from notbugs.report.overview import Content

MODELS = ("standard", "robust")
NOTHING = "–"
GROUPS = (("robust", "robust features"), ("nonrobust", "non-robust features"), ("all", "features of all"))
WHOSE = {"standard": "of the standard model", "linear": "of the pixels, principal components"}
SUFFICE = 0.5
"""Accuracy above which features are said to classify, by the lower end of its interval."""


def section(content: "Content") -> Section | None:
    """Definitions, findings, figures, tables."""
    found = metrics_of(content.project, NAME, KEYS)
    if found is None:
        return None
    sizes = ", ".join(f"{part['num_features']} {key}" for key, part in found["sources"].items())
    how = (
        "A feature f, scaled to mean 0 and variance 1 on D, speaks for or against one class; y = ±1 says whether an "
        "image is of that class. ρ = E[y·f(x)] is its usefulness, γ = E[min over ‖δ‖ <= eps of y·f(x + δ)] its robust "
        "usefulness, by PGD on y·f itself, for linear features ρ − eps·‖a‖*/‖a‖_Σ. Class and sign were chosen on "
        "training images, ρ and γ measured on test images. With C equal classes no feature can exceed 2√(C − 1)/C. "
        f"Measured: {sizes} features on {found['num_examples']} test images, first seed of each model."
    )
    plane = content.picture(
        "features",
        "Scatter of usefulness against robust usefulness for each source; usefulness in concentric circles",
        "Each mark is a feature; bars are 95% intervals. Below the grey line a feature is useful but not robust. On "
        "the dotted line an adversary could do nothing. Last panel: on concentric circles the coordinates are useless "
        "one by one, the radius is useful, and nothing is as useful as p(y|x).",
    )
    datasets = content.picture(
        "features_datasets",
        "Usefulness of each feature on each constructed dataset against its usefulness on D",
        "Usefulness with the constructed dataset's own labels. D_R is defined by this picture: what the robust model "
        "uses should lie on the dotted line, all else at 0. Lines through 0 are least squares: the share kept.",
    )
    basis = rests_on(found["source_seeds"], "no fits", f"{found['num_examples']} test images")
    blocks: list[Block] = [Text(how), findings_table(f"What was found. {basis}", findings(found)), *plane]
    blocks += [_sources_table(found), _classifier_table(found), *datasets, _kept_table(found)]
    return Section(NAME, "Useful features, robust or not", blocks)


def findings(found: Mapping[str, Any]) -> list[Finding]:
    """Statements of the paper and its reviewers about features."""
    sources, eps = found["sources"], found["headline_eps"]
    results = [_shares(sources)]
    for dataset, most, least, statement in (
        (
            "D_R",
            "robust",
            "standard",
            "On D_R the robust model's features stay useful, more than the standard model's.",
        ),
        ("D_NR", "standard", "robust", "On D_NR it is the other way round."),
        ("D_rand", "standard", "robust", "D_rand's labels follow the standard model's features, not the robust ones."),
    ):
        if dataset in sources["standard"]["kept"]:
            results.append(_keeps(sources, dataset, most, least, statement))
    return [*results, _suffice(sources, eps), _most_useful(sources), _rings(found["circles"])]


def _shares(sources: Mapping[str, Any]) -> Finding:
    """The share of the useful features that is not robust, standard against robust model, at every eps."""
    standard, robust = (sources[key]["share_nonrobust"] for key in MODELS)
    title = "Standard models use non-robust features"
    statement = (
        "Of the standard model's useful features a larger share is not robust than of the robust model's: at no eps a "
        "smaller one, and at some eps each share lies outside the other's interval."
    )
    if not standard or not robust:
        return Finding(title, statement, "cannot be judged", "One of the models has no useful feature.")
    pairs = [(eps, standard[eps], robust[eps]) for eps in standard]
    apart = any(ours["low"] > theirs["value"] and ours["value"] > theirs["high"] for _, ours, theirs in pairs)
    never_less = all(ours["value"] >= theirs["value"] for _, ours, theirs in pairs)
    told = "; ".join(
        f"eps {eps}: standard {share_with_interval(ours)}, robust {share_with_interval(theirs)}"
        for eps, ours, theirs in pairs
    )
    return Finding(
        title,
        statement,
        verdict(apart and never_less),
        f"Share that is not robust, of {sources['standard']['num_useful']} useful features of the standard and "
        f"{sources['robust']['num_useful']} of the robust model; {told}. In brackets: what surely is and what may be, "
        "by the features' own 95% intervals.",
    )


def _keeps(sources: Mapping[str, Any], dataset: str, most: str, least: str, statement: str) -> Finding:
    kept = {key: sources[key]["kept"][dataset] for key in MODELS}
    return Finding(
        f"What {dataset} keeps",
        statement,
        verdict(kept[most]["low"] > kept[least]["high"]),
        f"Usefulness kept on {dataset}, as a share of that on D: robust model's features "
        f"{number_with_interval(kept['robust'], 2)}, standard model's {number_with_interval(kept['standard'], 2)}.",
    )


def _suffice(sources: Mapping[str, Any], eps: float) -> Finding:
    """Linear classifiers on only the non-robust features, beside those on only the robust ones."""
    parts = []
    for key in ("standard", "linear"):
        fitted = sources[key]["linear_classifier"]
        told = [
            f"only the {fitted[group]['num_features']} {label} {share_with_interval(fitted[group]['clean'])}, under "
            f"attack {share_with_interval(fitted[group]['adversarial'])}"
            for group, label in GROUPS[:2]
            if fitted[group]
        ]
        parts.append(f"{WHOSE[key]}: {', '.join(told)}")
    others = [sources[key]["linear_classifier"]["nonrobust"] for key in ("standard", "linear")]
    title = "Non-robust features alone classify"
    statement = (
        f"A linear classifier on only the features with γ < 0 is right in more than {SUFFICE:.0%} of the untouched "
        f"images and less of the attacked ones; on test images γ surely lies below 0 for most of these features."
    )
    sentence = f"At what eps {eps:g} calls robust or not: {'; '.join(parts)}."
    if not all(others):
        return Finding(title, statement, "cannot be judged", f"{sentence} There is no non-robust feature.")
    surely = " and ".join(f"{found['num_surely']} of {found['num_features']}" for found in others)
    sentence = f"{sentence} Of the non-robust features γ's interval lies below 0 for {surely}."
    if not all(found["num_surely"] for found in others):
        return Finding(title, statement, "cannot be judged", f"{sentence} So whether they are non-robust is not known.")
    return Finding(title, statement, verdict(all(_classify_by_nothing_robust(found) for found in others)), sentence)


def _classify_by_nothing_robust(fitted: Mapping[str, Any]) -> bool:
    """Accurate on untouched images and not under attack, by features most of which are surely not robust."""
    return bool(
        fitted["clean"]["low"] > SUFFICE > fitted["adversarial"]["high"]
        and 2 * fitted["num_surely"] > fitted["num_features"]
    )


def _most_useful(sources: Mapping[str, Any]) -> Finding:
    posterior, models = sources["posterior"], [sources[key] for key in MODELS]
    largest = [part["largest_rho"] for part in models]
    return Finding(
        "p(y|x) is the most useful feature",
        "The classifier's own probabilities, scaled, are on average more useful than any feature of a representation.",
        verdict(all(posterior["mean_rho"] > found["value"] for found in largest)),
        f"Mean usefulness of p(c|x) over the classes c: {posterior['mean_rho']:.3f}; the most useful feature of the "
        f"standard model's representation has {number_with_interval(largest[0])}, of the robust model's "
        f"{number_with_interval(largest[1])}.",
    )


def _rings(found: Mapping[str, Any]) -> Finding:
    names = list(found)
    raw = [found[key] for key in names if "coordinate" in key]
    best, radius = found["p(y|x)"], found["radius"]
    others = [found[key] for key in names if key != "p(y|x)"]
    seen = (
        all(value["low"] <= 0 for value in raw)
        and radius["low"] > 0.5
        and all(best["value"] >= value["value"] for value in others)
    )
    sentence = ", ".join(f"{key} {number_with_interval(found[key])}" for key in names)
    return Finding(
        "Single features can be useless where a combination is useful",
        "On concentric circles the coordinates are useless, the radius is useful, p(y|x) is most useful of all.",
        verdict(seen),
        f"Usefulness: {sentence}.",
    )


def _sources_table(found: Mapping[str, Any]) -> Table:
    radii = list(found["sources"]["standard"]["mean_gamma"])
    rows = []
    for key, part in found["sources"].items():
        dead = f"\n{part['num_dead']} without variance left out" if part["num_dead"] else ""
        shares = part["share_nonrobust"]
        cells = [
            number(str(part["num_useful"])),
            number(f"{part['mean_rho']:.3f}"),
            *(
                number(
                    f"{part['mean_gamma'][eps]:.3f}".replace("-", "−"),
                    f"{percent(shares[eps]['value'])}%\n{percent(shares[eps]['low'])}–{percent(shares[eps]['high'])}"
                    if shares
                    else NOTHING,
                )
                for eps in radii
            ),
        ]
        rows.append([name(LOOKS[key][2], f"{part['num_features']} features{dead}"), *cells])
    head = [name("source"), number("useful"), number("ρ")]
    return Table(
        "Features of each source: how many are useful, and the mean over all features of ρ and of γ at each eps; "
        "below γ, of the useful ones the share that is not robust, with the share that surely is and that may be.",
        [*head, *(number(f"γ {eps}") for eps in radii)],
        rows,
    )


def _classifier_table(found: Mapping[str, Any]) -> Table:
    """A row a source and group of features: a linear classifier on them, clean and under attack."""
    rows = []
    for key, part in found["sources"].items():
        for group, label in GROUPS:
            fitted = part["linear_classifier"][group]
            what = name(LOOKS[key][2], label if group != "all" else "all features")
            if fitted is None:
                rows.append([what, number("0"), number(NOTHING), number(NOTHING)])
                continue
            cells = [share_with_interval(fitted[measured]) for measured in ("clean", "adversarial")]
            surely = f"{fitted['num_surely']} surely" if group != "all" else ""
            rows.append([what, number(str(fitted["num_features"]), surely), *map(number, cells)])
    eps = f"eps {found['headline_eps']:g}"
    return Table(
        f"Logistic regression on only some features, on test images. Robust: γ > 0 at {eps} on training images; "
        "surely: the interval of γ on test images lies on that side of 0.",
        [name("source"), number("features"), number("accuracy"), number(f"at {eps}")],
        rows,
    )


def _kept_table(found: Mapping[str, Any]) -> Table:
    datasets = list(found["sources"]["standard"]["kept"])
    rows = [
        [name(LOOKS[key][2]), *(_kept_cell(part["kept"][dataset]) for dataset in datasets)]
        for key, part in found["sources"].items()
    ]
    return Table(
        "Share of the features' usefulness on D that each construction keeps under its own labels, with 95% intervals; "
        "1: all, 0: none, below 0: turned round.",
        [name("source"), *(number(model_label(dataset, "standard")) for dataset in datasets)],
        rows,
    )


def _kept_cell(found: Mapping[str, float]) -> Cell:
    text = f"{found['value']:.2f}".replace("-", "−")
    return number(text, f"{found['low']:.2f} to {found['high']:.2f}".replace("-", "−"))
