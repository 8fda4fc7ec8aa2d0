"""The measurements on the test split: the one place that every printed number comes from.

`metrics/results.csv` holds one row a measurement (model × labels × attack × eps). Here it is read, validated,
summarised over seeds, and printed as table, JSON or CSV.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

from notbugs.runtime.config import DATASET_NAMES, dataset_name
from notbugs.runtime.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

FILE = Path("metrics/results.csv")
STILL_Y = "_still_y"
"""Suffix of the fit on only those images that the robust model and a 1-NN still call y."""
STILL_Y_SHARE = 0.85
"""What judges must still call y of the images that they called y before; below it t is partly simply right."""
FITTED_AS = "as_"
"""Beginning of the estimator of D fitted by a construction's recipe; the construction's name in the paper follows."""
MODELS: tuple[tuple[str, str], ...] = (
    ("D", "standard"),
    ("D", "robust"),
    *(("D", FITTED_AS + name) for name in DATASET_NAMES.values()),
    *((name + suffix, "standard") for name in DATASET_NAMES.values() for suffix in ("", STILL_Y)),
)
"""(dataset, estimator) of the paper's models, in the order of every table and figure; others come after them."""
COLUMNS = {
    "dataset": "string",
    "estimator": "string",
    "seed": "Int64",
    "source_seed": "Int64",
    "architecture": "string",
    "source": "string",
    "construction_eps": "Float64",
    "labels": "string",
    "attack": "string",
    "norm": "string",
    "eps": "Float64",
    "accuracy": "Float64",
    "low": "Float64",
    "high": "Float64",
    "n": "Int64",
}
"""Columns of results.csv with their types; only source_seed and construction_eps may be empty."""
MAY_BE_EMPTY = ("source_seed", "construction_eps")
MEASUREMENT = ("dataset", "estimator", "seed", "source_seed", "labels", "attack", "norm", "eps")
"""Columns that together tell two measurements apart."""
GROUP = ["dataset", "estimator", "labels", "attack", "norm", "eps"]
"""Columns of a measurement that is repeated over seeds."""
TERMINAL_WIDTH = 100
"""Characters that the printed table may be wide."""
TERMINAL_EPS = 4
"""Adversarial columns that the printed table shows at most."""


class ResultsError(UserError):
    """The table of results is missing, incomplete or wrong."""


def load_results(root: Path) -> "pd.DataFrame":
    """Read `metrics/results.csv` of the project folder `root`.

    Returns: one row a measurement with the COLUMNS, in the order of the file.
    Raises: ResultsError naming the file and what is missing, empty or impossible in it.
    """
    return read_table(root / FILE, COLUMNS, "evaluate", MAY_BE_EMPTY, _check_results)


def read_table(
    path: Path,
    columns: dict[str, str],
    stage: str,
    may_be_empty: tuple[str, ...] = (),
    check: "Callable[[Path, pd.DataFrame], None] | None" = None,
    text: TextIO | None = None,
) -> "pd.DataFrame":
    """Read a CSV of metrics and give its columns their types.

    Args:
        path: the file.
        columns: names that must be there -> pandas types; other columns are dropped.
        stage: the DVC stage that writes the file, for the error.
        may_be_empty: columns whose cells may be empty.
        check: called with (path, table); raises ResultsError.
        text: read instead of the file; `path` is then what errors call it.
    Raises: ResultsError naming the file and the column.
    """
    import pandas as pd

    with reading(path, stage):
        raw = pd.read_csv(path if text is None else text, dtype="string", keep_default_na=False)
    missing = [name for name in columns if name not in raw.columns]
    if missing:
        raise ResultsError(f"{path}: column {', '.join(missing)} is missing; `dvc repro {stage}` writes it again")
    if not len(raw):
        raise ResultsError(f"{path}: no rows; `dvc repro {stage}` writes it again")
    table = pd.DataFrame({name: _typed(raw[name], kind, path, name in may_be_empty) for name, kind in columns.items()})
    if check is not None:
        check(path, table)
    return table


def read_json(path: Path, stage: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read a metrics file that holds at least these keys.

    Raises: ResultsError naming the file, and the stage that makes it.
    """
    with reading(path, stage):
        value = json.loads(path.read_text(encoding="utf-8"))
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise ResultsError(f"{path}: {', '.join(missing)} is missing; `dvc repro {stage}` writes it again")
    return dict(value)


def read_json_rows(path: Path, stage: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read a metrics file that is a list of mappings, each with at least these keys.

    Raises: ResultsError naming the file, and the stage that makes it.
    """
    with reading(path, stage):
        rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or any(not isinstance(row, dict) or set(keys) - set(row) for row in rows):
        raise ResultsError(f"{path}: must be a list of {', '.join(keys)}; `dvc repro {stage}` writes it again")
    return rows


@contextmanager
def reading(path: Path, stage: str, damaged: type[Exception] = ValueError) -> Iterator[None]:
    """Say in one line that a file cannot be read.

    Args:
        path: the file.
        stage: the DVC stage that writes it.
        damaged: what is raised, besides OSError, where the content is wrong.
    Raises: ResultsError naming the file; if there is none, also the command that makes it.
    """
    try:
        yield
    except FileNotFoundError:
        raise ResultsError(f"{path}: not found; `dvc repro {stage}` makes it") from None
    except (OSError, damaged) as error:
        raise ResultsError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def _typed(column: "pd.Series[str]", kind: str, path: Path, may_be_empty: bool) -> "pd.Series[Any]":
    """One column of strings as `kind`; empty cells become NA where they are allowed."""
    import pandas as pd

    empty = column == ""
    if bool(empty.any()) and not may_be_empty:
        raise ResultsError(f"{path}: column {column.name}: empty in row {int(empty.to_numpy().argmax()) + 2}")
    if kind == "string":
        return column
    try:
        numbers = pd.to_numeric(column.mask(empty)).astype("Float64")
    except (ValueError, TypeError) as error:
        raise ResultsError(f"{path}: column {column.name}: {error}") from None
    fractional = numbers.notna() & (numbers % 1 != 0)
    if kind == "Int64" and bool(fractional.any()):  # astype alone would cut the fraction off
        raise ResultsError(f"{path}: column {column.name}: {numbers[fractional].iloc[0]} is no whole number")
    return numbers.astype(kind)  # type: ignore[call-overload]


def _check_results(path: Path, table: "pd.DataFrame") -> None:
    for name in ("accuracy", "low", "high"):
        wrong = table[(table[name] < 0) | (table[name] > 1)]
        if len(wrong):
            raise ResultsError(f"{path}: column {name}: {wrong[name].iloc[0]} is no fraction in [0, 1]")
    if bool((table["n"] < 1).any()) or bool((table["eps"] < 0).any()):
        raise ResultsError(f"{path}: column n must be at least 1 and eps at least 0 in every row")
    twice = table[table.duplicated(list(MEASUREMENT))]
    if len(twice):
        row = twice.iloc[0]
        raise ResultsError(f"{path}: measured twice: {', '.join(f'{k}={row[k]}' for k in MEASUREMENT)}")


def summarise(results: "pd.DataFrame") -> "pd.DataFrame":
    """Nested mean of every measurement: over the fits on one source model's dataset, then over the source models.

    Models trained on D itself have no source: their mean is over their seeds.

    Returns: one row a (dataset, estimator, labels, attack, norm, eps), in the order of MODELS, with
        mean: mean over sources of the mean over fits, a fraction;
        std: standard deviation (ddof = 1) of what is independent: of the sources' means, or, where there is one source
            or none, of the single models; NaN for one;
        num_seeds: how many of these there are, so that t_half_width(std, num_seeds) holds;
        std_fits: standard deviation of the fits on one source's dataset, pooled over the sources; NaN for one fit each;
        num_models, num_sources: models measured, and different sources among them (0 for D);
        low, high: 95% interval over test images and trainings (`notbugs.evaluation.comparison.joined_interval`);
        n: number of test images.
    Raises: ResultsError if the seeds of one measurement were taken on different numbers of images.
    """
    import pandas as pd

    from notbugs.evaluation.comparison import joined_interval

    rows: list[dict[str, Any]] = []
    for key, group in results.groupby(GROUP, sort=False):
        if group["n"].nunique() > 1:
            raise ResultsError(f"{'/'.join(map(str, key))}: seeds measured on different numbers of test images")
        n, spread = int(group["n"].iloc[0]), _spread(group)
        low, high = joined_interval(spread["mean"], n, spread["std"], spread["num_seeds"])
        rows.append({**dict(zip(GROUP, key, strict=True)), **spread, "low": low, "high": high, "n": n})
    rows.sort(key=lambda row: (_place(row["dataset"], row["estimator"]), row["labels"] != "true", row["eps"]))
    return pd.DataFrame(rows)


def _spread(group: "pd.DataFrame") -> dict[str, Any]:
    """Nested mean of one measurement and its spread at both levels; see `summarise`."""
    accuracy = group["accuracy"].astype(float)
    sources = accuracy.groupby(group["source_seed"])  # drops models of no source
    means = sources.mean()
    independent = means if len(means) > 1 else accuracy
    freedom = len(accuracy) - len(means)
    within = float(((accuracy - sources.transform("mean")) ** 2).sum()) if len(means) else 0.0
    return {
        "mean": float(means.mean() if len(means) else accuracy.mean()),
        "std": float(independent.std(ddof=1)),
        "num_seeds": len(independent),
        "std_fits": math.sqrt(within / freedom) if len(means) and freedom else math.nan,
        "num_models": len(accuracy),
        "num_sources": len(means),
    }


def in_order(models: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(dataset, estimator) of models, each once: those in MODELS as they stand there, then the others as given."""
    return sorted(dict.fromkeys(models), key=lambda model: _place(*model))


def _place(dataset: str, estimator: str) -> int:
    """Position in tables; what is not in MODELS comes last."""
    return MODELS.index((dataset, estimator)) if (dataset, estimator) in MODELS else len(MODELS)


_titles: ContextVar[Mapping[str, str]] = ContextVar("titles", default=MappingProxyType({}))


@contextmanager
def titled(params: Mapping[str, Any]) -> Iterator[None]:
    """Call constructions by the titles that params.yaml gives them (`construct.NAME.title`), in all that is printed."""
    construct = params.get("construct")
    sections = construct.items() if isinstance(construct, Mapping) else ()
    given = {str(key): section.get("title") for key, section in sections if isinstance(section, Mapping)}
    token = _titles.set({dataset_name(key): title for key, title in given.items() if isinstance(title, str)})
    try:
        yield
    finally:
        _titles.reset(token)


def model_label(dataset: str, estimator: str) -> str:
    """How a model is called in tables and figures, such as "D, robust", "D_rand, still y" or "D, fitted as D_R".

    Within `titled` a project's own titles take the place of the names.
    """
    if estimator.startswith(FITTED_AS):
        return f"{dataset}, fitted as {model_label(estimator.removeprefix(FITTED_AS), 'standard')}"
    name = dataset.removesuffix(STILL_Y)
    name = _titles.get().get(name) or name.replace("_from_robust", " from robust")
    if dataset.endswith(STILL_Y):
        return f"{name}, still y"
    return f"{name}, {estimator}" if dataset == "D" else name


def set_title(key: str) -> str:
    """How a construction is called in print, by its key in params.yaml."""
    return model_label(dataset_name(key), "standard")


def fitted_model(name: str, subset: str) -> tuple[str, str]:
    """(dataset, estimator) of the models of `fit.<name>` on a subset: full, still_y or baseline."""
    dataset = dataset_name(name)
    if subset == "baseline":
        return "D", FITTED_AS + dataset
    return dataset + (STILL_Y if subset == "still_y" else ""), "standard"


def baseline_of(params: Mapping[str, Any], name: str) -> str | None:
    """Estimator of the fits of D that a construction's fits are to be compared with: those of the same recipe.

    Its own (`fit.<name>.baseline`), else that of another entry with the same recipe, as written, and seeds.

    Args:
        params: params.yaml.
        name: of the construction there, such as "nonrobust".
    Returns: such as "as_D_R"; None if D is fitted by no such recipe, so that no fit of D can be compared.
    """
    fits = params.get("fit") or {}
    recipe = recipe_of(fits.get(name))
    for other in (name, *fits):
        settings = fits.get(other) or {}
        same_seeds = settings.get("seeds") == (fits.get(name) or {}).get("seeds")
        if settings.get("baseline") is True and recipe_of(settings) == recipe and same_seeds:
            return FITTED_AS + dataset_name(other)
    return None


NOT_OF_THE_RECIPE = (
    "seeds",
    "source_seeds",
    "model",
    "still_y",
    "baseline",
    "measure_every",
    "validation_attack",
    "title",
    "colour",
)
"""Settings in which two constructions, or two fits, may differ and still share their recipe."""


def recipe_of(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """How an entry of `construct` or `fit` makes or trains, whatever from."""
    return {key: value for key, value in (settings or {}).items() if key not in NOT_OF_THE_RECIPE}


def attack_steps(attack: str) -> int:
    """Number of steps of "pgd20" and the like; 0 for any other attack."""
    match = re.fullmatch(r"pgd(\d+)", attack)
    return int(match[1]) if match else 0


def attack_label(attack: str) -> str:
    """How an attack is called in print: "PGD-100", "all attacks together"."""
    if attack == WORST:
        return "all attacks together"
    return f"PGD-{attack_steps(attack)}" if attack_steps(attack) else attack


WORST = "worst"
"""Name in the results of all attacks together, example by example (`notbugs.evaluation.suite`)."""


def strength(attack: str, num_models: int) -> tuple[int, bool, int]:
    """Orders attacks at one eps: those that more models went through, then all attacks together, then more steps."""
    return num_models, attack == WORST, attack_steps(attack)


@dataclass(frozen=True)
class Accuracy:
    """Nested mean of one measurement; fractions. See `summarise`."""

    value: float
    std: float
    low: float
    high: float
    n: int
    num_seeds: int
    std_fits: float = math.nan
    num_models: int = 1
    num_sources: int = 0


@dataclass(frozen=True)
class AccuracyRow:
    """All that was measured of one model.

    Attributes:
        dataset, estimator: the model; `label` is its name in print.
        clean: accuracy on y. shifted: accuracy on the shifted label y + 1.
        adversarial: (eps, attack) -> accuracy on y under attack, ascending.
    """

    dataset: str
    estimator: str
    clean: Accuracy | None = None
    shifted: Accuracy | None = None
    adversarial: dict[tuple[float, str], Accuracy] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name in print."""
        return model_label(self.dataset, self.estimator)

    def under_attack(self, eps: float) -> Accuracy | None:
        """Accuracy at `eps` under the strongest attack that all models went through; clean accuracy at 0."""
        if eps == 0:
            return self.clean
        attack = self.attack_at(eps)
        return self.adversarial[eps, attack] if attack else None

    def attack_at(self, eps: float) -> str:
        """Name of the attack that `under_attack` speaks of; empty if there is none."""
        attacks = [
            (strength(attack, cell.num_models), attack) for (at, attack), cell in self.adversarial.items() if at == eps
        ]
        return max(attacks)[1] if attacks else ""

    def pgd(self, eps: float) -> tuple[str, Accuracy] | None:
        """The PGD of most steps at `eps`, by name, and what it leaves; None if there is none."""
        steps = [
            (attack_steps(attack), attack) for at, attack in self.adversarial if at == eps and attack_steps(attack)
        ]
        return (max(steps)[1], self.adversarial[eps, max(steps)[1]]) if steps else None


def accuracy_table(results: "pd.DataFrame") -> list[AccuracyRow]:
    """One row a model, in the order of MODELS: clean, shifted, adversarial at every eps."""
    return accuracy_rows(summarise(results))


def accuracy_rows(summary: "pd.DataFrame") -> list[AccuracyRow]:
    """The rows of `accuracy_table`, of what `summarise` gave."""
    names = [field.name for field in fields(Accuracy)]
    cells: dict[tuple[str, str], dict[tuple[float, str, str], Accuracy]] = {}
    for row in summary.to_dict(orient="records"):
        measured = cells.setdefault((row["dataset"], row["estimator"]), {})
        measured[row["eps"], row["attack"], row["labels"]] = Accuracy(row["mean"], *(row[name] for name in names[1:]))
    return [_accuracy_row(*model, measured) for model, measured in cells.items()]


def _accuracy_row(dataset: str, estimator: str, measured: dict[tuple[float, str, str], Accuracy]) -> AccuracyRow:
    ordered = sorted(measured.items(), key=lambda item: (item[0][0], attack_steps(item[0][1]), item[0][1]))
    adversarial = {
        (eps, attack): accuracy for (eps, attack, labels), accuracy in ordered if labels == "true" and attack != "clean"
    }
    clean, shifted = measured.get((0.0, "clean", "true")), measured.get((0.0, "clean", "shifted"))
    return AccuracyRow(dataset, estimator, clean, shifted, adversarial)


HEADLINES: dict[tuple[str, str], tuple[str, ...]] = {
    ("D", "standard"): ("clean", "worst", "pgd", "worst at training eps"),
    ("D", "robust"): ("clean", "worst", "pgd", "worst at training eps"),
    ("D", "as_D_R"): ("clean", "worst", "pgd"),
    ("D_R", "standard"): ("clean", "worst", "pgd"),
    ("D_NR", "standard"): ("clean", "worst", "pgd"),
    ("D_rand", "standard"): ("clean",),
    ("D_det", "standard"): ("clean", "shifted"),
}
"""What metrics/headline.json holds of each model."""


def headlines(rows: Iterable[Mapping[str, Any]], headline_eps: float, robust_eps: float | None) -> dict[str, Any]:
    """The numbers that `dvc metrics show` and `dvc metrics diff` print: nested means, about twenty.

    Args:
        rows: of results.csv, one a measurement of one model.
        headline_eps: radius of "worst" and "pgd" (the one of most steps). robust_eps: of robust training.
    Returns: dataset -> estimator -> name, such as "worst_eps_0.6" or "pgd100_eps_0.6" -> accuracy. What was not
        measured on every run of a model is left out.
    """
    from notbugs.evaluation.comparison import Run, nested_mean

    cells: dict[tuple[str, str], dict[tuple[str, str, float], list[Run]]] = {}
    for row in rows:
        model, key = (row["dataset"], row["estimator"]), (row["labels"], row["attack"], float(row["eps"]))
        run = Run(row["source_seed"], row["seed"], float(row["accuracy"]))
        cells.setdefault(model, {}).setdefault(key, []).append(run)
    found: dict[str, Any] = {}
    for (dataset, estimator), wanted in HEADLINES.items():
        measured = cells.get((dataset, estimator), {})
        runs = max(map(len, measured.values()), default=0)
        complete = {key: nested_mean(own) for key, own in measured.items() if len(own) == runs}
        numbers = _headlines_of(complete, wanted, headline_eps, robust_eps)
        if numbers:
            found.setdefault(dataset, {})[estimator] = {name: round(value, 6) for name, value in numbers.items()}
    return found


def _headlines_of(
    measured: Mapping[tuple[str, str, float], float], wanted: Sequence[str], eps: float, robust_eps: float | None
) -> dict[str, float]:
    """Name -> accuracy of one model; see `headlines`."""
    steps = max((attack_steps(attack) for _, attack, at in measured if at == eps), default=0)
    places = {
        "clean": ("clean", ("true", "clean", 0.0)),
        "shifted": ("shifted", ("shifted", "clean", 0.0)),
        "worst": (f"{WORST}_eps_{eps:g}", ("true", WORST, eps)),
        "pgd": (f"pgd{steps}_eps_{eps:g}", ("true", f"pgd{steps}", eps)),
    }
    if robust_eps is not None:
        places["worst at training eps"] = (f"{WORST}_eps_{robust_eps:g}", ("true", WORST, robust_eps))
    chosen = (places[what] for what in wanted if what in places)
    return {name: measured[key] for name, key in chosen if key in measured}


def to_json(results: "pd.DataFrame") -> str:
    """A JSON array with one object a measurement, one on a line; empty cells are null."""
    empty = results.isna().to_dict(orient="records")
    rows = zip(results.to_dict(orient="records"), empty, strict=True)
    lines = [json.dumps({key: None if gone[key] else value for key, value in row.items()}) for row, gone in rows]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def to_csv(results: "pd.DataFrame") -> str:
    """The measurements as CSV, columns as in COLUMNS."""
    return str(results.to_csv(index=False, lineterminator="\n"))


_OF_CLAIMS = "; verdict: on the paper's claim about it"


def print_table(
    results: "pd.DataFrame",
    headline_eps: float,
    console: "Console | None" = None,
    not_learnt: Mapping[str, object] = MappingProxyType({}),
    verdicts: Mapping[tuple[str, str], str] = MappingProxyType({}),
) -> None:
    """Print the accuracy table, as wide as the terminal allows and at most 100 columns.

    Percentages, ± one standard deviation over trainings. At the headline eps the first column is what all attacks
    together leave; PGD stands beside it by name.

    Args:
        results: as `load_results` gives them.
        headline_eps: always among the eps shown (at most TERMINAL_EPS), and marked.
        console: where to print; standard output by default, 100 columns wide if that is no terminal.
        not_learnt: of datasets whose fits have not learnt yet, what is said of them (`learnt.not_learnt`).
        verdicts: (dataset, estimator) -> what was ruled on the claim about it; a column, where there is room.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=TERMINAL_WIDTH)
    rows = accuracy_table(results)
    first = results.iloc[0]
    verdicts = {row: verdicts[row] for row in ((row.dataset, row.estimator) for row in rows) if row in verdicts}
    left = console.width - max(len(row.label) for row in rows)
    said = max((len(verdict) + 1 for verdict in verdicts.values()), default=0)
    column = len(" 100.0 ±0.0 ")
    if left - said < 3 * column:  # clean, shifted, and one under attack
        verdicts, said = {}, 0
    room = (left - said) // column - 2
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Accuracy on {first['n']} test images of {first['source']}, {first['architecture']} (%)",
        caption="\n".join(
            [
                f"{spread_words(rows)}eps: on y under attack; * headline eps{_OF_CLAIMS if verdicts else ''}",
                *(f"{model_label(name, 'standard')}: {words}" for name, words in not_learnt.items()),
            ]
        ),
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    columns = _attack_columns(rows, headline_eps, min(max(room, 1), TERMINAL_EPS))
    table.add_column("fitted on", no_wrap=True)
    for name in ("on y", "on y+1", *(_column_head(*column, headline_eps) for column in columns)):
        table.add_column(name, justify="right", no_wrap=True)
    if verdicts:
        table.add_column("verdict", no_wrap=True)
    for row in rows:
        cells = (row.clean, row.shifted, *(row.adversarial.get(column) for column in columns))
        verdict = [verdicts.get((row.dataset, row.estimator), "")] if verdicts else []
        table.add_row(row.label, *(percent_with_spread(cell) for cell in cells), *verdict)
    console.print(table)


def spread_words(rows: Sequence[AccuracyRow]) -> str:
    """What stands behind ±: "± standard deviation over 5 source models (means of 2 fits each); "; empty for one."""
    cells = [row.clean for row in rows if row.clean]
    sources = max((cell.num_sources for cell in cells), default=0)
    seeds = max((cell.num_seeds for cell in cells), default=1)
    if seeds < 2:
        return ""
    if sources < 2:
        return f"± standard deviation over {seeds} seeds; "
    fits = max(cell.num_models // cell.num_sources for cell in cells if cell.num_sources)
    each = f" (means of {fits} fits each)" if fits > 1 else ""
    return f"± standard deviation over {sources} source models{each}; "


def _attack_columns(rows: list[AccuracyRow], headline_eps: float, count: int) -> list[tuple[float, str]]:
    """(eps, attack) of at most `count` columns: the worst case at the headline eps, PGD there and elsewhere."""
    measured = {key for row in rows for key in row.adversarial}
    worst = [(headline_eps, WORST)] if (headline_eps, WORST) in measured else []
    steps = {(eps, attack_steps(name)): name for eps, name in measured if attack_steps(name)}
    pgd = {eps: steps[eps, max(count for at, count in steps if at == eps)] for eps, _ in steps}
    radii = chosen_eps(sorted(pgd), headline_eps, max(count - len(worst), 0))
    return sorted([*worst, *((eps, pgd[eps]) for eps in radii)], key=lambda key: (key[0], key[1] != WORST))


def _column_head(eps: float, attack: str, headline_eps: float) -> str:
    """The radius and, below it, the attack: "eps 0.6*" over "worst"."""
    mark = "*" if eps == headline_eps else ""
    return f"eps {eps:g}{mark}\n{WORST if attack == WORST else attack_label(attack)}"


def chosen_eps(available: list[float], headline_eps: float, count: int) -> list[float]:
    """At most `count` eps, ascending: the headline eps, the largest, then those nearest the headline."""
    largest = max(available, default=0.0)
    order = sorted(available, key=lambda eps: (eps != headline_eps, eps != largest, abs(eps - headline_eps), eps))
    return sorted(order[:count])


def percent(fraction: float) -> str:
    """A fraction as a percentage with one decimal, without the sign."""
    return f"{100 * fraction:.1f}"


def percent_with_spread(cell: Accuracy | None) -> str:
    """ "98.3 ±0.4"; without the spread for one seed; a dash where nothing was measured."""
    if cell is None:
        return "–"
    return percent(cell.value) if cell.num_seeds < 2 else f"{percent(cell.value)} ±{percent(cell.std)}"
