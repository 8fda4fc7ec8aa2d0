"""The numbers in README.md and docs/: written between markers by `notbugs results --write-docs`.

A block stands between `<!-- NAME:start -->` and `<!-- NAME:end -->`. It is made from what Git holds alone (metrics,
params.yaml, reports/verdicts.json, recorded trials), so that a fresh clone can check that the pages say what the
metrics say.
"""

import csv
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from html import unescape
from pathlib import Path
from textwrap import fill
from typing import Any

from markupsafe import Markup

from notbugs.evaluation.results import WORST, AccuracyRow, accuracy_table, load_results, read_json, spread_words
from notbugs.report.absent import metrics_file
from notbugs.report.figures import FIGURE_2
from notbugs.report.honesty import Honesty, honesty_of
from notbugs.report.project import headline_eps
from notbugs.report.sections import macros, words
from notbugs.report.verdicts import read_verdicts
from notbugs.runtime.config import read_params
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import write_text
from notbugs.runtime.outdated import outdated

WIDTH = 120
"""Characters of a line of the pages."""
DOCUMENTS = "documents.md.j2"
PICTURE = Path("docs/figure_2.png")
PICTURES = (PICTURE, Path("docs/datasets.png"))
"""Of the README, copied from the report's figures of the same names."""
TRIALS = {"folder-trial": Path("benchmarks/folder_trial.csv"), "quick-trial": Path("benchmarks/quick_trial.csv")}
"""Block -> the recorded table that it shows."""
RECORDED = {"natural": Path("results/cifar10_jpeg/summary.json")}
"""Block -> the recording that it shows (`notbugs record`)."""


class DocumentError(UserError):
    """A page's block cannot be written."""


def results_block(root: Path) -> str:
    """The README's table, picture and verdicts."""
    return results_of(root, picture=str(PICTURE), began="What `make repro` printed")


def results_of(root: Path, *, picture: str, began: str) -> str:
    """Table, picture and verdicts of a project that was run, or of its recording.

    Args:
        picture: where the page finds Figure 2.
        began: the words that the table's heading begins with.
    """
    results, eps = load_results(root), headline_eps(read_params(root / "params.yaml"))
    rows = accuracy_table(results)
    weaker = next((beside[0] for row in rows if (beside := row.pgd(eps))), "")
    attacked = results[results["attack"] != "clean"]["norm"]
    suite = any((eps, WORST) in row.adversarial for row in rows)
    intro = words(
        DOCUMENTS,
        "results_intro",
        began=began,
        first=results.iloc[0],
        spread=spread_words(rows),
        norm=attacked.iloc[0] if len(attacked) else "",
        eps=eps,
        weaker=weaker,
        suite=suite,
        judged=_judged(root),
    )
    shown = [row for row in rows if (row.dataset, row.estimator) in FIGURE_2]
    numbers = {
        "rows": shown,
        "eps": eps,
        "weaker": weaker,
        "suite": suite,
        "picture": picture,
        "verdicts": _verdicts(root),
    }
    return block_of("results", intro=fill(intro, WIDTH, break_on_hyphens=False), **numbers)


def block_of(macro: str, **numbers: Any) -> str:
    """A macro of the pages' template, filled in, as Markdown."""
    text: Markup = getattr(macros(DOCUMENTS), macro)(**numbers)
    return text.unescape().strip()


def _judged(root: Path) -> dict[str, Honesty]:
    """What the judges still call y, of D_rand and D_det, where they were made."""
    told = {}
    for key, name in (("rand", "D_rand"), ("det", "D_det")):
        file = metrics_file(root, f"construct@{key}")
        found = honesty_of(read_json(file, f"construct@{key}", ("num_examples",))) if file.exists() else None
        if found is not None:
            told[name] = found
    return told


def _verdicts(root: Path) -> dict[str, list[str]]:
    """Verdict -> claims, from the report's own record; nothing where there is none."""
    found: dict[str, list[str]] = {}
    for claim in read_verdicts(root, outdated(root, read_params(root / "params.yaml"))):
        found.setdefault(claim["verdict"], []).append(claim["title"])
    return found


def worst_block(root: Path) -> str:
    """How far PGD alone lies above all attacks together, for D's robust models."""
    eps, rows = headline_eps(read_params(root / "params.yaml")), accuracy_table(load_results(root))
    row = next((row for row in rows if (row.dataset, row.estimator) == ("D", "robust")), AccuracyRow("D", "robust"))
    return fill(words(DOCUMENTS, "worst", eps=eps, worst=row.adversarial.get((eps, WORST)), pgd=row.pgd(eps)), WIDTH)


def suite_block(root: Path) -> str:
    """Every model under PGD and under all attacks together at the headline radius."""
    params = read_params(root / "params.yaml")
    eps, level = headline_eps(params), (params.get("evaluate") or {}).get("level", "quick")
    rows = [row for row in accuracy_table(load_results(root)) if (eps, WORST) in row.adversarial]
    return block_of("suite", rows=rows, eps=eps, level=level, n=next((row.clean.n for row in rows if row.clean), 0))


def trial_block(file: Path, root: Path) -> str:
    """A recorded run of a preset."""
    with (root / file).open(encoding="utf-8", newline="") as table:
        return block_of("table", rows=list(csv.reader(table)))


def recorded_block(file: Path, root: Path) -> str:
    """What was recorded of a run elsewhere: how its datasets were made, its table, and where the rest of it is."""
    found = json.loads((root / file).read_text(encoding="utf-8"))
    attack = next((row["attack"] for row in found["rows"] if row["attack"]), "")
    intro = words(DOCUMENTS, "recorded_intro", found=found, place=file.parent.as_posix())
    return block_of("recorded", intro=fill(intro, WIDTH, break_on_hyphens=False), found=found, attack=attack)


def words_block(root: Path) -> str:
    """The glossary of the report, as Markdown."""
    page = str(macros("words").page(pictures={}, verdicts=())).replace("\n", " ")
    found = re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page)
    return "\n\n".join(f"**{unescape(term)}**\n: {unescape(meaning)}" for term, meaning in found)


BLOCKS: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {
        "results": results_block,
        **{name: partial(recorded_block, file) for name, file in RECORDED.items()},
    },
    "docs/glossary.md": {"words": words_block},
    "docs/evaluation.md": {"worst": worst_block, "suite": suite_block},
    "docs/presets.md": {name: partial(trial_block, file) for name, file in TRIALS.items()},
}
"""Page -> name of a block -> what makes it."""


def blocks_of(root: Path, page: str) -> dict[str, Callable[[Path], str]]:
    """The blocks of a page; recorded runs only where they are recorded, which a project of one's own is not."""
    shown = {**TRIALS, **RECORDED}
    return {name: build for name, build in BLOCKS[page].items() if name not in shown or (root / shown[name]).exists()}


def written_page(root: Path, page: str) -> str:
    """The page as its blocks are to be.

    Raises: DocumentError if a block's markers are missing, ResultsError if what it is made from is.
    """
    text = (root / page).read_text(encoding="utf-8")
    for name, build in blocks_of(root, page).items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise DocumentError(f"{page}: {start} and {end} are not there")
        text = f"{before}{start}\n{build(root)}\n{end}{after}"
    return text


def write_documents(root: Path) -> list[str]:
    """Write every block, and the README's pictures from the report's.

    Returns: the pages, and the pictures, that changed.
    Raises: as `written_page`; DocumentError if `root` has none of the pages.
    """
    there = [page for page in BLOCKS if (root / page).exists()]
    if not there:
        raise DocumentError(f"{root / next(iter(BLOCKS))}: not found; --write-docs writes between markers that it has")
    pages = {page: written_page(root, page) for page in there}
    changed = [page for page, text in pages.items() if text != (root / page).read_text(encoding="utf-8")]
    for page in changed:
        write_text(root / page, pages[page])
    for picture in PICTURES:
        drawn, shown = root / "plots" / "figures" / picture.name, root / picture
        if drawn.exists() and not (shown.exists() and drawn.read_bytes() == shown.read_bytes()):
            shown.parent.mkdir(exist_ok=True)
            shutil.copyfile(drawn, shown)
            changed.append(str(picture))
    return changed
