"""The numbers in README.md and docs/: written between markers by `notbugs results --write-docs`.

A block stands between `<!-- NAME:start -->` and `<!-- NAME:end -->`. It is made from what Git holds alone (metrics,
params.yaml, reports/verdicts.json, recorded trials), so that a fresh clone can check that the pages say what the
metrics say.
"""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any

from notbugs.evaluation.results import (
    WORST,
    Accuracy,
    AccuracyRow,
    accuracy_table,
    attack_label,
    load_results,
    percent,
    percent_with_spread,
    read_json,
    spread_words,
)
from notbugs.report.honesty import CALLED_BEFORE, honesty_of
from notbugs.report.project import headline_eps
from notbugs.runtime.config import read_params
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import write_text

WIDTH = 120
"""Characters of a line of the pages."""
PICTURE = Path("docs/figure_2.png")
SHOWN = (
    ("D", "standard"),
    ("D", "robust"),
    ("D", "as_D_R"),
    ("D_R", "standard"),
    ("D_NR", "standard"),
    ("D_rand", "standard"),
    ("D_det", "standard"),
)
"""Models of the README's table."""
TRIAL = Path("benchmarks/folder_trial.csv")


class DocumentError(UserError):
    """A page's block cannot be written."""


def results_block(root: Path) -> str:
    """The README's table, picture and verdicts."""
    results, eps = load_results(root), headline_eps(read_params(root / "params.yaml"))
    rows = _rows(root)
    first = results.iloc[0]
    weaker = next((beside[0] for row in rows if (beside := row.pgd(eps))), "")
    intro = (
        f"What `make repro` printed ({first['source']}, {first['n']} test images, accuracy in %; "
        f"{spread_words(rows)}under attack: what all attacks together leave at {_norm(results)} eps {eps:g}, with "
        f"{attack_label(weaker)} alone beside it{_honest_words(root)}):"
    )
    head = [
        fill(intro, WIDTH, break_on_hyphens=False),
        "",
        f"| fitted on | on y | on y + 1 | under all attacks | {attack_label(weaker)} alone |",
        "|---|---|---|---|---|",
    ]
    body = [_line(row, eps) for row in rows if (row.dataset, row.estimator) in SHOWN]
    tail = ["", f"![Clean and adversarial accuracy of each fit]({PICTURE})", *_verdicts(root)]
    return "\n".join([*head, *body, *tail])


def _rows(root: Path) -> list[AccuracyRow]:
    return accuracy_table(load_results(root))


def _norm(results: Any) -> str:
    attacked = results[results["attack"] != "clean"]["norm"]
    return {"l2": "L2", "linf": "L∞"}.get(str(attacked.iloc[0]), "") if len(attacked) else ""


def _line(row: AccuracyRow, eps: float) -> str:
    beside = row.pgd(eps)
    cells = (row.clean, row.shifted, row.adversarial.get((eps, WORST)), beside[1] if beside else None)
    texts = [percent_with_spread(cells[0]), _plain(cells[1]), percent_with_spread(cells[2]), _plain(cells[3])]
    return f"| {row.label} | {' | '.join(texts)}{_how_many(row.clean, cells[2])} |"


def _how_many(all_of_them: Accuracy | None, cell: Accuracy | None) -> str:
    """Says where not every model went through the suite: " (suite: 1 of 3 models)"."""
    if cell is None or all_of_them is None or cell.num_models == all_of_them.num_models:
        return ""
    return f" (suite: {cell.num_models} of {all_of_them.num_models} models)"


def _plain(cell: Accuracy | None) -> str:
    return "–" if cell is None else percent(cell.value)


def _honest_words(root: Path) -> str:
    """What the judges still call y, of D_rand and D_det; empty where they were not made."""
    told = []
    for key, name in (("rand", "D_rand"), ("det", "D_det")):
        file = root / "metrics" / "construct" / f"{key}.json"
        found = honesty_of(read_json(file, f"construct@{key}", ("num_examples",))) if file.exists() else None
        if found is not None:
            told.append(f"{percent(found.robust)}% and {percent(found.neighbour)}% of {name}")
    if not told:
        return ""
    judges = "a robust model and a nearest neighbour"
    return f"; of the images that they {CALLED_BEFORE}, {judges} still call y {', '.join(told)}"


def _verdicts(root: Path) -> list[str]:
    """Which claims were reproduced, from the report's own record; nothing where there is none."""
    file = root / "reports" / "verdicts.json"
    if not file.exists():
        return []
    found: dict[str, list[str]] = {}
    for claim in json.loads(file.read_text(encoding="utf-8")):
        found.setdefault(claim["verdict"], []).append(claim["title"])
    lines = [f"- {verdict[:1].upper()}{verdict[1:]}: {'; '.join(titles)}." for verdict, titles in found.items()]
    return ["", "The paper's claims here (the report, `reports/report.html`, says why):", "", *lines]


def worst_block(root: Path) -> str:
    """How far PGD alone lies above all attacks together, for D's robust models."""
    eps = headline_eps(read_params(root / "params.yaml"))
    row = next((row for row in _rows(root) if (row.dataset, row.estimator) == ("D", "robust")), None)
    worst, beside = (row.adversarial.get((eps, WORST)), row.pgd(eps)) if row else (None, None)
    if worst is None or beside is None:
        return "PGD on the cross-entropy alone is not enough."
    return fill(
        f"PGD on the cross-entropy alone is not enough: at eps {eps:g} {attack_label(beside[0])} leaves "
        f"{percent(beside[1].value)}% of the robust models' images, all attacks together {percent(worst.value)}%.",
        WIDTH,
    )


def suite_block(root: Path) -> str:
    """Every model under PGD and under all attacks together at the headline radius."""
    params = read_params(root / "params.yaml")
    eps, level = headline_eps(params), (params.get("evaluate") or {}).get("level", "quick")
    rows = [row for row in _rows(root) if (eps, WORST) in row.adversarial]
    n = next((row.clean.n for row in rows if row.clean), 0)
    lines = [
        f"Accuracy at eps {eps:g} in % of {n} test images, mean over the models of each kind, level `{level}`:",
        "",
        "| fitted on | models | PGD alone | all attacks together |",
        "|---|---|---|---|",
    ]
    for row in rows:
        worst, beside = row.adversarial[eps, WORST], row.pgd(eps)
        pgd = f"{percent(beside[1].value)} ({attack_label(beside[0])})" if beside else "–"
        lines.append(f"| {row.label} | {worst.num_models} | {pgd} | {percent(worst.value)} |")
    return "\n".join(lines)


def trial_block(root: Path) -> str:
    """The recorded run of the folder preset."""
    with (root / TRIAL).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return "\n".join(["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|", *map(_table_line, rows[1:])])


def _table_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


BLOCKS: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {"results": results_block},
    "docs/evaluation.md": {"worst": worst_block, "suite": suite_block},
    "docs/presets.md": {"folder-trial": trial_block},
}
"""Page -> name of a block -> what makes it."""


def written_page(root: Path, page: str) -> str:
    """The page as its blocks are to be.

    Raises: DocumentError if a block's markers are missing, ResultsError if what it is made from is.
    """
    text = (root / page).read_text(encoding="utf-8")
    for name, build in BLOCKS[page].items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise DocumentError(f"{page}: {start} and {end} are not there")
        text = f"{before}{start}\n{build(root)}\n{end}{after}"
    return text


def write_documents(root: Path) -> list[str]:
    """Write every block, and the README's picture from the report's.

    Returns: the pages, and the picture, that changed.
    Raises: as `written_page`; DocumentError if `root` has no such pages.
    """
    missing = [page for page in BLOCKS if not (root / page).exists()]
    if missing:
        raise DocumentError(f"{missing[0]}: not found; --write-docs is for a checkout of notbugs itself")
    pages = {page: written_page(root, page) for page in BLOCKS}
    changed = [page for page, text in pages.items() if text != (root / page).read_text(encoding="utf-8")]
    for page in changed:
        write_text(root / page, pages[page])
    drawn = root / "plots" / "figures" / PICTURE.name
    if drawn.exists() and drawn.read_bytes() != (root / PICTURE).read_bytes():
        shutil.copyfile(drawn, root / PICTURE)
        changed.append(str(PICTURE))
    return changed
