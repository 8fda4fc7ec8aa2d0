"""Two pipelines side by side: what was run, what came out, and what may explain a difference.

Reviewer 3 of Ilyas et al. 2019 asked why D_R makes a more robust classifier on ImageNet than on CIFAR. Run both
presets, keep their metrics (as two folders, or two Git revisions of one), and `notbugs compare A B` puts the
candidates beside the answer.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich import box
from rich.table import Table

from notbugs.evaluation.comparison import signed as signed_points
from notbugs.evaluation.results import (
    COLUMNS,
    MAY_BE_EMPTY,
    AccuracyRow,
    accuracy_table,
    baseline_of,
    percent,
    read_table,
)
from notbugs.runtime.config import dataset_name
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import write_text
from notbugs.runtime.git import git
from notbugs.runtime.nested import flatten

RESULTS = "metrics/results.csv"
PARAMS = "params.yaml"


class CompareError(UserError):
    """A run cannot be read."""


@dataclass(frozen=True)
class FinishedRun:
    """What one pipeline left behind.

    Attributes:
        name: as it was given: a folder or a Git revision.
        results: metrics/results.csv.
        metrics: dotted name -> number, of every metrics/**/*.json, such as "construct.robust.success_rate".
        params: params.yaml, flattened; empty where there is none.
        accuracy: (dataset, estimator) -> what was measured.
    """

    name: str
    results: pd.DataFrame
    metrics: dict[str, float]
    params: dict[str, Any]
    accuracy: dict[tuple[str, str], AccuracyRow]

    @property
    def headline_eps(self) -> float | None:
        """The radius that its tables and verdicts speak of."""
        value = self.params.get("evaluate.headline_eps")
        return float(value) if value is not None else None


@dataclass(frozen=True)
class Line:
    """One row of the comparison; None where a run does not have it."""

    part: str
    what: str
    a: float | str | None
    b: float | str | None

    @property
    def difference(self) -> float | None:
        """b − a, for numbers."""
        if isinstance(self.a, int | float) and isinstance(self.b, int | float):
            return float(self.b) - float(self.a)
        return None


def read_run(name: str, root: Path) -> FinishedRun:
    """Read a finished pipeline.

    Args:
        name: a project folder, or a Git revision (branch, tag, commit) of the project `root`.
        root: the project that revisions are looked up in.
    Raises: CompareError if it is neither, ResultsError if its results are missing or wrong.
    """
    folder = Path(name)
    folder = folder if folder.is_absolute() else Path.cwd() / folder
    texts = _folder_texts(folder) if folder.is_dir() else _revision_texts(name, root)
    if RESULTS not in texts:
        raise CompareError(f"{name}: {RESULTS} is not there; `dvc repro evaluate` makes it")
    results = read_table(Path(name) / RESULTS, COLUMNS, "evaluate", MAY_BE_EMPTY, text=io.StringIO(texts[RESULTS]))
    metrics: dict[str, float] = {}
    for path, text in texts.items():
        if path.endswith(".json"):
            prefix = path.removeprefix("metrics/").removesuffix(".json").replace("/", ".")
            found = flatten(_parsed(json.loads, path, text, name), f"{prefix}.")
            metrics |= {key: value for key, value in found.items() if _is_number(value)}
    table = {(row.dataset, row.estimator): row for row in accuracy_table(results)}
    params = flatten(_parsed(yaml.safe_load, PARAMS, texts.get(PARAMS, ""), name))
    return FinishedRun(name, results, metrics, params, table)


def _folder_texts(folder: Path) -> dict[str, str]:
    """params.yaml and everything under metrics/, by path."""
    files = [*sorted((folder / "metrics").rglob("*.json")), folder / RESULTS, folder / PARAMS]
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files if file.is_file()}


def _revision_texts(revision: str, root: Path) -> dict[str, str]:
    """The same, from Git."""
    listing = git(root, "ls-tree", "-r", "--name-only", revision, "--", "metrics", PARAMS)
    if listing is None or revision.startswith("-"):
        raise CompareError(f"{revision}: neither a project folder nor a Git revision of {root.name}")
    wanted = [path for path in listing.splitlines() if path.endswith(".json") or path in (RESULTS, PARAMS)]
    return {path: git(root, "show", f"{revision}:./{path}") or "" for path in wanted}


def _parsed(read: Callable[[str], Any], path: str, text: str, name: str) -> dict[str, Any]:
    """The mapping in a file's text; empty if it holds something else."""
    try:
        value = read(text)
    except (ValueError, yaml.YAMLError) as error:
        raise CompareError(f"{name}: {path}: cannot be read: {' '.join(str(error).split())}") from None
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare(a: FinishedRun, b: FinishedRun) -> list[Line]:
    """The two runs beside each other: settings that differ, accuracies, explanations, then every metric."""
    return [*_settings(a, b), *_accuracies(a, b), *_explanations(a, b), *_metrics(a, b)]


def _settings(a: FinishedRun, b: FinishedRun) -> list[Line]:
    """The source, the sizes, and every setting that differs."""
    first = [Line("what ran", key, _fact(a, key), _fact(b, key)) for key in ("source", "architecture")]
    sizes = {"training images": "prepare.train", "test images": "prepare.test", "classes": "prepare.classes"}
    first += [Line("what ran", what, a.metrics.get(key), b.metrics.get(key)) for what, key in sizes.items()]
    keys = [*a.params, *(key for key in b.params if key not in a.params)]
    differ = [key for key in keys if a.params.get(key) != b.params.get(key) and key != "experiment"]
    return first + [Line("settings", key, _shown(a.params.get(key)), _shown(b.params.get(key))) for key in differ]


def _fact(run: FinishedRun, column: str) -> str:
    return str(run.results[column].iloc[0])


def _shown(value: Any) -> float | str | None:
    return value if value is None or _is_number(value) else str(value)


def _accuracies(a: FinishedRun, b: FinishedRun) -> list[Line]:
    """Clean accuracy, on the shifted label, and under attack at each run's own headline radius."""
    lines = []
    models = [*a.accuracy, *(model for model in b.accuracy if model not in a.accuracy)]
    for model in models:
        rows = [run.accuracy.get(model) for run in (a, b)]
        label = next(row.label for row in rows if row is not None)
        for what, cells in (
            ("on y", [row.clean if row else None for row in rows]),
            ("on y + 1", [row.shifted if row else None for row in rows]),
            ("at headline eps", [_attacked(run, model) for run in (a, b)]),
        ):
            values = [cell.value if cell is not None else None for cell in cells]
            if any(value is not None for value in values):
                lines.append(Line("accuracy", f"{label}, {what}", *values))
    return lines


def _attacked(run: FinishedRun, model: tuple[str, str]) -> Any:
    row, eps = run.accuracy.get(model), run.headline_eps
    return row.under_attack(eps) if row is not None and eps is not None else None


EXPLANATIONS = {
    "D_R: diversity in pixels, effective rank beside D's": "diversity.spaces.pixels.D_R.effective_rank.ratio",
    "D_R: diversity in pixels, Vendi score beside D's": "diversity.spaces.pixels.D_R.vendi_score.ratio",
    "D_R: spread in pixels beside D's": "diversity.spaces.pixels.D_R.spread.ratio",
    "D_R: coverage of D in pixels beside D's own": "diversity.spaces.pixels.D_R.coverage.ratio",
    "D_R: x_r nearer to x than x' in pixels": "inversion.resemblance.robust.representation.pixels.nearer_target.mean",
    "D_R: pixel distance left of that of x'": "inversion.resemblance.robust.representation.pixels.reached.median",
    "D_R: distance left in the robust g": "inversion.resemblance.robust.representation.robust.reached.median",
    "D_R: distance left in the standard g": "inversion.resemblance.robust.representation.standard.reached.median",
    "D_R: success (robust model calls x_r y)": "construct.robust.success_rate",
    "D_R: still y, both judges": "construct.robust.still_y_both",
    "D_NR: pixel distance left of that of x'": "inversion.resemblance.standard.representation.pixels.reached.median",
    "D_NR: diversity in pixels, effective rank beside D's": "diversity.spaces.pixels.D_NR.effective_rank.ratio",
}
"""What may explain how robust the fit on D_R is: name -> place in the metrics files. Free of units and sizes."""


def _explanations(a: FinishedRun, b: FinishedRun) -> list[Line]:
    """How much of the robust model's robustness D_R passes on, and what may explain it."""
    part = "why D_R is robust"
    derived = [
        ("robustness passed on by D_R", [_passed_on(run, "robust") for run in (a, b)]),
        ("robustness passed on by D_NR", [_passed_on(run, "nonrobust") for run in (a, b)]),
        ("robust model: accuracy at headline eps beside clean", [_kept(run) for run in (a, b)]),
        ("headline eps beside the robust model's training eps", [_radius(run) for run in (a, b)]),
        ("median distance x' to x in units of the training eps", [_scale(run) for run in (a, b)]),
    ]
    lines = [Line(part, what, *values) for what, values in derived]
    lines += [Line(part, what, a.metrics.get(key), b.metrics.get(key)) for what, key in EXPLANATIONS.items()]
    return [line for line in lines if line.a is not None or line.b is not None]


def _passed_on(run: FinishedRun, key: str) -> float | None:
    """(accuracy of the fit − of D fitted by its recipe) / (of D robust − the same), all at the headline eps."""
    baseline = baseline_of({"fit": _entries(run.params, "fit")}, key)
    if baseline is None:
        return None
    cells = [_attacked(run, model) for model in ((dataset_name(key), "standard"), ("D", baseline), ("D", "robust"))]
    if any(cell is None for cell in cells):
        return None
    fit, base, robust = (cell.value for cell in cells)
    return round((fit - base) / (robust - base), 6) if robust > base else None


def _entries(params: Mapping[str, Any], section: str) -> dict[str, dict[str, Any]]:
    """Entries of a section of flattened params: name -> its settings."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in params.items():
        first, _, rest = key.partition(".")
        name, _, setting = rest.partition(".")
        if first == section:
            found.setdefault(name, {})[setting] = value
    return found


def _kept(run: FinishedRun) -> float | None:
    row, attacked = run.accuracy.get(("D", "robust")), _attacked(run, ("D", "robust"))
    if row is None or row.clean is None or attacked is None or not row.clean.value:
        return None
    return round(attacked.value / row.clean.value, 6)


def _radius(run: FinishedRun) -> float | None:
    trained = run.params.get("train.robust.attack.eps")
    return round(run.headline_eps / trained, 6) if run.headline_eps and trained else None


def _scale(run: FinishedRun) -> float | None:
    trained = run.params.get("train.robust.attack.eps")
    moved = run.metrics.get("construct.nonrobust.delta_norm.median")
    left = run.metrics.get("inversion.resemblance.standard.representation.pixels.reached.median")
    return round(moved / left / trained, 6) if trained and moved and left else None


def _metrics(a: FinishedRun, b: FinishedRun) -> list[Line]:
    keys = [*a.metrics, *(key for key in b.metrics if key not in a.metrics)]
    return [Line("every metric", key, a.metrics.get(key), b.metrics.get(key)) for key in keys]


def terminal_table(lines: list[Line], a: str, b: str) -> "Table":
    """For a terminal: everything but the long list of every metric."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading, side in (("", "left"), (a, "right"), (b, "right"), ("B − A", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    part = ""
    for line in lines:
        if line.part == "every metric":
            continue
        if line.part != part:
            part = line.part
            table.add_row(f"[bold]{part}[/bold]")
        table.add_row(line.what, *_cells(line))
    return table


def _cells(line: Line) -> tuple[str, str, str]:
    return _text(line, line.a), _text(line, line.b), _text(line, line.difference, signed=True)


def _text(line: Line, value: float | str | None, *, signed: bool = False) -> str:
    if value is None:
        return "" if signed else "–"
    if isinstance(value, str):
        return value
    if line.part == "accuracy":
        return signed_points(value) if signed else f"{percent(value)}%"
    return (f"{value:+.4g}" if signed else f"{value:.4g}").replace("-", "−")


def write_comparison(lines: list[Line], a: str, b: str, out: Path) -> None:
    """Write all lines as CSV or as one self-contained HTML page, by the file's suffix.

    Raises: CompareError for another suffix.
    """
    if out.suffix == ".csv":
        write_text(out, _csv(lines, a, b))
    elif out.suffix in (".html", ".htm"):
        write_text(out, comparison_page(lines, a, b))
    else:
        raise CompareError(f"{out}: the file must end in .csv or .html")


def comparison_page(lines: list[Line], a: str, b: str) -> str:
    """HTML, self-contained, in the report's style: the lines of each part in a table."""
    from notbugs.report.page import Body, render_page  # matplotlib loads only when a page is made
    from notbugs.report.sections import render, words

    parts: dict[str, list[tuple[str, tuple[str, str, str]]]] = {}
    for line in lines:
        parts.setdefault(line.part, []).append((line.what, _cells(line)))
    passed = next((line for line in lines if line.what == "robustness passed on by D_R"), None)
    sections = [
        Body(part.replace(" ", "-"), part.capitalize(), render("compare", part=part, rows=rows, a=a, b=b))
        for part, rows in parts.items()
    ]
    abstract = words("compare", "abstract", passed=passed, a=a, b=b)
    return render_page(f"{a} beside {b}", "Two pipelines compared", abstract, sections)


def _csv(lines: list[Line], a: str, b: str) -> str:
    import csv

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", "what", a, b, "difference"])
    for line in lines:
        values = (line.a, line.b, line.difference)
        writer.writerow([line.part, line.what, *("" if value is None else value for value in values)])
    return text.getvalue()
