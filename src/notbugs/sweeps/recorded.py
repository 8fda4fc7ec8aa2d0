"""Finished studies as sweeps/ holds them, in Git: what a fresh clone has of them.

Importing this imports neither Optuna, pandas nor torch.
"""

import csv
import json
import sqlite3
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from notbugs.evaluation.trials import MEASURED, POINT
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.sweeps.axes import Axis, value_of
from notbugs.sweeps.points import Point, grid
from notbugs.sweeps.settings import SweepError, SweepSettings, dimensions

COUNTS = ("name", "points", "states", "repeats", "data", "inputs")
"""Keys of study.json besides what the results depend on, which is the plan's record."""
RECORDED = "recorded"
"""Attribute of a study in a database: `RecordedStudy.digest` of the files that hold the same."""


@dataclass(frozen=True)
class RecordedTrial:
    """A point that was settled.

    Attributes:
        number: of its point, from 0 on: of a grid's point its place in the grid, as in the database.
        point: what was tried.
        state: COMPLETE, PRUNED or FAIL.
        rows: of a complete point, one a seed: seed, source_seed, work and what was measured.
    """

    number: int
    point: Point
    state: str
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class RecordedStudy:
    """sweeps/<name>/.

    Attributes:
        name: of the study. folder: where it is.
        about: contents of study.json.
        digest: SHA-256 of trials.csv and study.json.
    """

    name: str
    folder: Path
    about: dict[str, Any]
    digest: str

    @property
    def record(self) -> dict[str, Any]:
        """What the results depend on, as the study's plan had it."""
        return {key: value for key, value in self.about.items() if key not in COUNTS}

    @property
    def key(self) -> str:
        """What names this study among all there ever were; as `Plan.key`."""
        return study_key(self.name, self.record)

    @cached_property
    def settings(self) -> SweepSettings:
        """The study's entry in params.yaml, as far as results depend on it.

        Raises: ConfigError.
        """
        return validate(self.about["sweep"], f"{self.folder / 'study.json'}: sweep", SweepSettings)

    @cached_property
    def trials(self) -> list[RecordedTrial]:
        """Every settled point, by number; one that a sampler tried again stands there as often.

        Raises: SweepError.
        """
        file = self.folder / "trials.csv"
        found: list[RecordedTrial] = []
        try:
            choices = grid(self.record, self.settings) if self.settings.sampler == "grid" else None
            with file.open(encoding="utf-8", newline="") as lines:
                for place, (point, own, rows) in enumerate(_points(csv.DictReader(lines), self.settings.axes)):
                    states = Counter(self.about.get("repeats", {}).get(str(place)) or {own: 1})
                    for state in states.elements():
                        number = len(found) if choices is None else choices.index(self.choice(point))
                        found.append(RecordedTrial(number, point, state, rows if state == own else ()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            raise SweepError(f"{file}: cannot be read: {_line(error)}; `dvc repro` writes it again") from None
        return sorted(found, key=lambda trial: trial.number)

    def choice(self, point: Point) -> dict[str, Any]:
        """A point as Optuna holds it: a value for each dimension that its kind has."""
        names = dimensions(self.record, self.settings, point.kind)
        return {
            "kind": point.kind,
            **{name: point.axes[name] if "." in name else getattr(point, name) for name in names},
        }


def recorded_studies(root: Path) -> list[RecordedStudy]:
    """All finished studies of a project, by name; one that cannot be read is left out."""
    found = []
    for file in sorted((root / "sweeps").glob("*/trials.csv")):
        try:
            study = recorded_study(root, file.parent.name)
            if study.settings and study.trials:
                found.append(study)
        except (SweepError, ConfigError):
            continue  # whoever needs it says so: the report, the stage
    return found


def recorded_study(root: Path, name: str) -> RecordedStudy:
    """One finished study.

    Raises: SweepError.
    """
    folder = root / "sweeps" / name
    try:
        text, trials = (folder / "study.json").read_bytes(), (folder / "trials.csv").read_bytes()
        about = json.loads(text)
        if not isinstance(about, dict) or "sweep" not in about:
            raise ValueError("no settings of a sweep in it")
    except FileNotFoundError:
        raise SweepError(f"{folder}: no finished study there; `notbugs sweep {name}` makes it") from None
    except (OSError, ValueError) as error:
        raise SweepError(f"{folder}: cannot be read: {_line(error)}") from None
    return RecordedStudy(name, folder, about, sha256(text + trials).hexdigest())


def study_key(name: str, record: Mapping[str, Any]) -> str:
    """A study's name and what its results depend on, in short."""
    return f"{name}-{sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]}"


def is_stored(database: Path, study: RecordedStudy) -> bool:
    """Whether an SQLite database of Optuna's holds all of a study; found out without Optuna."""
    query = (
        "SELECT value_json FROM study_user_attributes JOIN studies USING (study_id) WHERE study_name = ? AND key = ?"
    )
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute(query, (study.name, RECORDED)).fetchone()
    except sqlite3.Error:  # no such file, or without tables
        return False
    return found is not None and json.loads(found[0]) == study.digest


def trial_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of a complete trial: means over its fits."""
    return {name: mean(rows, name) for name in (*MEASURED, "work")}


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean over the fits of a point."""
    return statistics.fmean(row[name] for row in rows)


WORDS = {
    "validation_accuracy": "validation on y",
    "validation_accuracy_shifted": "validation on y + 1",
    "still_y": "still y",
}
"""What is printed of a point: column of trials.csv, in words."""


def in_words(means: Mapping[str, Any]) -> str:
    """The means of a point for people: "validation on y 62%, validation on y + 1 3%, still y 91%"."""
    return ", ".join(f"{words} {means[name]:.0%}" for name, words in WORDS.items())


def measured(row: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of a fit, and nothing besides."""
    return {name: row[name] for name in MEASURED}


def _points(
    lines: Iterable[Mapping[str, str]], axes: Mapping[str, Axis]
) -> Iterator[tuple[Point, str, tuple[dict[str, Any], ...]]]:
    """Point, state and rows of each point, in the order of the file, whose rows of a point stand together."""
    rows: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for line in lines:
        rows.setdefault((*(line[name] for name in (*POINT, *axes)), line["state"]), []).append(line)
    for (kind, eps, num_steps, step_size, source_eps, *cells, state), fits in rows.items():
        chosen = {leaf: value_of(axes[leaf], text) for leaf, text in zip(axes, cells, strict=True) if text}
        steps = int(num_steps) if num_steps else None
        point = Point(kind, _float(eps), steps, _float(step_size), _float(source_eps), chosen)
        yield point, state, tuple(map(_row, fits)) if state == "COMPLETE" else ()


def _row(fit: Mapping[str, str]) -> dict[str, Any]:
    source = fit.get("source_seed")
    identity = {"seed": int(fit["seed"]), "source_seed": int(source) if source else None, "work": int(fit["work"])}
    return {**identity, **{name: float(fit[name]) for name in MEASURED}}


def _float(text: str) -> float | None:
    return float(text) if text else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
