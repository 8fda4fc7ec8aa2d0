"""The files that stage `evaluate` writes beside the table of results: example by example, and what the checks say."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from notbugs.evaluation.levels import SuiteSettings
from notbugs.evaluation.minimum_norm import accuracy_curve, smallest
from notbugs.evaluation.suite import Audit
from notbugs.runtime.files import whole_file, write_csv, write_json

Audits = Iterable[tuple[dict[str, Any], Audit]]
"""Facts of a model (dataset, estimator, source_seed, seed) and what was found of it."""
IDENTITY = ("dataset", "estimator", "source_seed", "seed")
CURVE_POINTS = 60
"""Steps of eps in the curve of the smallest perturbations, up to one and a half times the largest radius."""
CERTIFICATE_COLUMNS = (*IDENTITY, "sigma", "eps", "accuracy", "abstained", "n")


def write_per_example(path: Path, audits: Audits) -> None:
    """One row a model, attack, eps and test image: whether the image was right.

    Columns: dataset, estimator, source_seed (null for models of D), seed, labels, attack, eps, example (index in the
    test split), correct.
    """
    columns: dict[str, list[Any]] = {}
    for facts, audit in audits:
        for outcome in audit.outcomes:
            about = {name: getattr(outcome, name) for name in ("labels", "attack", "eps")}
            _add_examples(columns, facts, about, "correct", outcome.correct)
    _write_parquet(path, columns)


def write_minimum_norms(path: Path, audits: Audits) -> None:
    """One row a model, attack and test image: the smallest ‖δ‖ found, pixel units; infinity where there is none.

    Columns: dataset, estimator, source_seed (null for models of D), seed, attack, norm, example, distance.
    """
    columns: dict[str, list[Any]] = {name: [] for name in (*IDENTITY, "attack", "norm", "example", "distance")}
    for facts, audit in audits:
        for attack, distances in audit.norms.items():
            about = {"attack": attack, "norm": audit.outcomes[0].norm}
            _add_examples(columns, facts, about, "distance", distances)
    _write_parquet(path, columns)


def _add_examples(
    columns: dict[str, list[Any]], facts: dict[str, Any], about: dict[str, Any], column: str, values: Tensor
) -> None:
    """A row for each of a model's values (N,), with what it is about."""
    for name, value in {**{name: facts[name] for name in IDENTITY}, **about}.items():
        columns.setdefault(name, []).extend([value] * len(values))
    columns.setdefault("example", []).extend(range(len(values)))
    columns.setdefault(column, []).extend(values.tolist())


def write_minimum_norm_curves(path: Path, audits: Audits, settings: SuiteSettings) -> None:
    """Accuracy against eps from the smallest perturbations that any attack found: a column a model, first seeds."""
    top = 1.5 * max(*settings.eps, settings.headline_eps)
    radii = [round(top * step / CURVE_POINTS, 6) for step in range(CURVE_POINTS + 1)]
    curves: dict[str, list[float]] = {}
    for facts, audit in audits:
        name = column_name(facts)
        if audit.norms and name not in curves:
            curves[name] = accuracy_curve(smallest(list(audit.norms.values())), radii)
    rows = [
        {"eps": eps, **{name: round(values[index], 6) for name, values in curves.items()}}
        for index, eps in enumerate(radii)
    ]
    write_csv(path, ("eps", *curves), rows)


def column_name(facts: dict[str, Any]) -> str:
    """A model's column in the curves: its dataset, or D_robust, D_as_D_R and so on."""
    dataset, estimator = str(facts["dataset"]), str(facts["estimator"])
    return dataset if estimator == "standard" else f"{dataset}_{estimator}"


def model_name(facts: dict[str, Any]) -> str:
    """A model's name in the checks, such as D/robust/seed-0 or D_rand/standard/source-1/seed-0."""
    source = "" if facts["source_seed"] is None else f"source-{facts['source_seed']}/"
    return f"{facts['dataset']}/{facts['estimator']}/{source}seed-{facts['seed']}"


def write_checks(path: Path, audits: Audits) -> None:
    """One row a model and check: model, check, passed, value, threshold."""
    write_json(
        path,
        [
            {
                "model": model_name(facts),
                "check": check.check,
                "passed": check.passed,
                "value": None if math.isnan(check.value) else check.value,
                "threshold": check.threshold,
            }
            for facts, audit in audits
            for check in audit.checks
        ],
    )


def write_certificates(path: Path, audits: Audits, settings: SuiteSettings, labels: list[int]) -> None:
    """Certified accuracy of the smoothed classifiers at 0 and every radius; the head alone where there are none.

    Args:
        labels: of the test images.
    """
    rows = []
    for facts, audit in audits:
        if audit.certificate is None or settings.certificate is None:
            continue
        called, radius = audit.certificate.called.tolist(), audit.certificate.radius.tolist()
        n = len(called)
        for eps in (0.0, *sorted({*settings.eps, settings.headline_eps})):
            certified = sum(c == y and r >= eps for c, y, r in zip(called, labels, radius, strict=False))
            rows.append(
                {
                    **{name: facts[name] for name in IDENTITY},
                    "sigma": settings.certificate.sigma,
                    "eps": eps,
                    "accuracy": certified / n,
                    "abstained": sum(r == 0 for r in radius) / n,
                    "n": n,
                }
            )
    write_csv(path, CERTIFICATE_COLUMNS, rows)


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "source_seed": pa.int32(),
        "seed": pa.int32(),
        "eps": pa.float64(),
        "example": pa.int32(),
        "correct": pa.bool_(),
        "distance": pa.float64(),
    }
    arrays = [pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()]
    table = pa.Table.from_arrays(arrays, names=list(columns))
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
