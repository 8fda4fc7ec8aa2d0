"""Everything the report reads from a project folder, found and validated in one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from notbugs.data.store import StoredDataset, load_dataset, source_folders
from notbugs.evaluation.learnt import not_learnt
from notbugs.evaluation.results import (
    AccuracyRow,
    ResultsError,
    accuracy_rows,
    load_results,
    read_json,
    read_json_rows,
    read_table,
    reading,
    summarise,
)
from notbugs.report import ReportSettings
from notbugs.report.absent import NOT_RUN, metrics_file
from notbugs.report.evidence import Evidence
from notbugs.runtime.config import read_params, settings
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.outdated import outdated

CURVE_COLUMNS = {
    "subset": "string",
    "source_seed": "Int64",
    "seed": "Int64",
    "epoch": "Int64",
    "lr": "Float64",
    "train_loss": "Float64",
    "train_accuracy": "Float64",
    "validation_accuracy": "Float64",
    "validation_accuracy_shifted": "Float64",
    "validation_adversarial_accuracy": "Float64",
}
CURVES_MAY_BE_EMPTY = ("source_seed", *(name for name in CURVE_COLUMNS if name.startswith("validation")))
PER_CLASS_COLUMNS = {
    "dataset": "string",
    "estimator": "string",
    "source_seed": "Int64",
    "seed": "Int64",
    "class_name": "string",
    "accuracy": "Float64",
    "n": "Int64",
}
PER_EXAMPLE_COLUMNS = ("dataset", "estimator", "source_seed", "seed", "labels", "attack", "eps", "example", "correct")
MINIMUM_NORM_COLUMNS = ("dataset", "estimator", "source_seed", "seed", "attack", "norm", "example", "distance")
CHECK_KEYS = ("model", "check", "passed", "value", "threshold")


@dataclass(frozen=True, kw_only=True)
class Project(Evidence):
    """A project folder whose pipeline has run up to `evaluate`: the evidence, and what else the report shows.

    Attributes:
        root: the folder.
        report: the section `report` of params.yaml.
        summary: the results' mean over seeds (`notbugs.evaluation.results.summarise`).
        per_class: accuracy on y for each class and seed.
        prepare: metrics/prepare.json.
        minimum_norms: smallest ‖δ‖ that fools, for each test image; no rows if the suite was not run.
        checks: rows of metrics/checks.json.
        certificates: certified accuracies; no rows if none were asked for.
        curves: name of the training or fit ("train-standard", "fit-rand") -> learning curves.
        outdated: stages whose metrics are of other settings or other data -> why.
    """

    root: Path
    report: ReportSettings
    summary: pd.DataFrame
    per_class: pd.DataFrame
    prepare: dict[str, Any]
    minimum_norms: pd.DataFrame
    checks: list[dict[str, Any]]
    certificates: pd.DataFrame
    curves: dict[str, pd.DataFrame]
    outdated: dict[str, str]

    @cached_property
    def accuracies(self) -> list[AccuracyRow]:
        """The table of accuracies, one row a model."""
        return accuracy_rows(self.summary)

    @property
    def source(self) -> str:
        """Where D comes from, such as "digits"."""
        return str(self.results["source"].iloc[0])

    @property
    def architecture(self) -> str:
        """Architecture of the models."""
        return str(self.results["architecture"].iloc[0])

    @property
    def norm(self) -> str:
        """Norm of the evaluation's attacks."""
        attacked = self.results[self.results["attack"] != "clean"]["norm"]
        return str(attacked.iloc[0]) if len(attacked) else "l2"

    def dataset(self, key: str) -> StoredDataset:
        """Open data/<key>, of a construction the first source seed's dataset.

        Checksums are compared by the stage that fits on it, not again here.
        """
        folder = self.root / "data" / key
        return load_dataset(next(iter(source_folders(folder).values()), folder), verify=False)

    def why_left_out(self, address: str) -> str | None:
        """Why nothing is shown of a stage, such as "transfer" or "science@mine"; None if it is shown."""
        return self.outdated.get(address) if metrics_file(self.root, address).exists() else NOT_RUN

    def pictures(self, stage: str) -> StoredDataset:
        """Open plots/<stage>, the images that a stage left for the report."""
        return load_dataset(self.root / "plots" / stage, verify=False)


def load_project(root: Path) -> Project:
    """Read what the report shows.

    Raises:
        ConfigError if params.yaml is wrong or `evaluate.headline_eps` is not in it.
        ResultsError naming a metrics file that is missing or wrong, and the command that makes it.
    """
    params = read_params(root / "params.yaml")
    results = load_results(root)
    prepare = read_json(root / "metrics/prepare.json", "prepare", ("train", "validation", "test", "classes"))
    constructions = list(params.get("construct") or {})
    curves = {f"{stage}-{name}": f"{stage}@{name}" for stage in ("train", "fit") for name in params.get(stage) or {}}
    return Project(
        root=root,
        outdated=outdated(root, params),
        params=params,
        report=settings({"report": None, **params}, "report", ReportSettings),
        headline_eps=headline_eps(params),
        robust_eps=robust_eps(params),
        results=results,
        summary=summarise(results),
        per_class=read_table(root / "metrics/per_class.csv", PER_CLASS_COLUMNS, "evaluate", ("source_seed",)),
        num_classes=int(prepare["classes"]),
        prepare=prepare,
        constructions={
            name: read_json(root / f"metrics/construct/{name}.json", f"construct@{name}", ("num_examples",))
            for name in constructions
        },
        per_example=_read_parquet(root / "metrics/per_example.parquet", PER_EXAMPLE_COLUMNS),
        minimum_norms=_read_parquet(root / "metrics/minimum_norms.parquet", MINIMUM_NORM_COLUMNS),
        not_learnt=not_learnt(root, params.get("fit") or {}),
        checks=read_json_rows(root / "metrics/checks.json", "evaluate", CHECK_KEYS),
        certificates=_read_certificates(root / "metrics/certificates.csv"),
        curves={
            name: read_table(root / f"plots/learning/{name}.csv", CURVE_COLUMNS, stage, CURVES_MAY_BE_EMPTY)
            for name, stage in curves.items()
        },
    )


def headline_eps(params: Mapping[str, Any]) -> float:
    """`evaluate.headline_eps` of params.yaml.

    Raises: ConfigError if it is missing or no positive number.
    """
    value = (params.get("evaluate") or {}).get("headline_eps")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"params.yaml: evaluate.headline_eps = {value!r}: must be a number > 0")
    return float(value)


def robust_eps(params: Mapping[str, Any]) -> float | None:
    """Radius of robust training; None if nothing is trained robustly, or in another norm than evaluated."""
    attack = ((params.get("train") or {}).get("robust") or {}).get("attack") or {}
    same_norm = attack.get("norm", "l2") == (params.get("evaluate") or {}).get("norm", "l2")
    return float(attack["eps"]) if "eps" in attack and same_norm else None


def _read_parquet(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table that stage `evaluate` wrote; texts become categories, which take less memory."""
    with reading(path, "evaluate", damaged=Exception):  # pyarrow raises many kinds
        table = pd.read_parquet(path, page_checksum_verification=True)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ResultsError(f"{path}: column {', '.join(missing)} is missing; `dvc repro evaluate` writes it again")
    texts = [name for name in columns if name in ("dataset", "estimator", "labels", "attack", "norm")]
    return table.astype(dict.fromkeys(texts, "category"))


def _read_certificates(path: Path) -> pd.DataFrame:
    with reading(path, "evaluate"):
        return pd.read_csv(path)
