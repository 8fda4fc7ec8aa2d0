"""Section on the questions of one's own, entries of `science`: what each asks, what its study said, its numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

from notbugs.evaluation.results import ResultsError, percent, read_json
from notbugs.report.absent import metrics_file
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Section, counted, estimate, interval, short

SHARE = frozenset({"mean", "low", "high", "n", "num_seeds"})
"""Keys of a share, a fraction with its interval (`science.common.shares.share`)."""
INTERVAL = frozenset({"value", "low", "high"})
"""Keys, and no others, of any number with its interval (`science.common.shares.interval`)."""
MOST = 100
"""Rows of a table at most."""
LIST = 6
"""Entries of a list up to which they are shown."""


class OfEveryEntry(Section):
    """A section about entries of `science`, each with a metrics file of its own."""

    def is_in(self, project: Project) -> bool:
        """Whether params.yaml has an entry that was run."""
        return bool(entries(project))

    def metrics(self, project: Project) -> Facts:
        """Entry -> what its stage measured, of those that put nobody's position to the data (these: `debate`).

        Raises: ResultsError if a file is missing or incomplete.
        """
        found = self.of_entries(project)
        return {name: facts for name, facts in found.items() if "position" not in facts["question"]}

    def of_entries(self, project: Project) -> dict[str, Any]:
        """Entry -> what its stage measured, of all.

        Raises: ResultsError if a file is missing or incomplete.
        """
        files = {name: metrics_file(project.root, f"science@{name}") for name in entries(project)}
        found = {name: read_json(file, f"science@{name}", self.needs) for name, file in files.items()}
        for name, facts in found.items():
            about = facts["question"]
            if not (isinstance(about, dict) and {"title", "says", "found"} <= set(about)):
                raise ResultsError(
                    f"{files[name]}: question must hold title, says and found; `dvc repro science@{name}`"
                )
        return found


def entries(project: Project) -> list[str]:
    """Entries of `science` that were run on what the project has now."""
    return [name for name in project.params.get("science") or {} if project.why_left_out(f"science@{name}") is None]


def rows(key: str, value: Any) -> Iterator[tuple[str, str, str]]:
    """(dotted key, number or text, its interval) of what a metrics file holds; shares in percent.

    Args:
        key: dotted place of the value; empty for the whole file.
    """
    if isinstance(value, Mapping) and set(value) >= SHARE and _are_numbers(value, SHARE):
        yield key, f"{percent(estimate(value).value)}%", f"{percent(value['low'])}–{percent(value['high'])}%"
    elif isinstance(value, Mapping) and set(value) == INTERVAL and _are_numbers(value, INTERVAL):
        yield key, interval(value), ""
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from rows(f"{key}.{name}".lstrip("."), part)
    elif isinstance(value, list) and (len(value) > LIST or not all(map(_is_single, value))):
        yield key, counted(len(value), "value"), ""
    else:
        yield key, ", ".join(map(_shown, value)) if isinstance(value, list) else _shown(value), ""


def _are_numbers(value: Mapping[str, Any], keys: frozenset[str]) -> bool:
    return all(isinstance(value[key], int | float) for key in keys)


def _is_single(value: Any) -> bool:
    return not isinstance(value, Mapping | list)


def _shown(value: Any) -> str:
    """A single value in print."""
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return str(value).replace("-", "−")
    return short(value) if isinstance(value, float) else str(value)


def rows_of(facts: Facts) -> tuple[list[tuple[str, str, str]], int]:
    """The rows of a metrics file that a table shows, and how many further ones there are."""
    listed = list(rows("", {key: value for key, value in facts.items() if key != "question"}))
    return listed[:MOST], max(0, len(listed) - MOST)


def numbers(project: Project, found: Facts) -> dict[str, Any]:
    """Every question as the template shows it."""
    told = []
    for name, facts in found.items():
        shown, more = rows_of(facts)
        told.append({"name": name, **facts["question"], "rows": shown, "more": more})
    return {"questions": told}


SECTION = OfEveryEntry("science", needs=("question",), numbers=numbers)
