"""The history of our speed: each ratio to the best peer that was ever committed in engine-cpu.md, when it was measured.

    python benchmarks/records.py     # writes benchmarks/records.csv anew from the history of the repository

A row is a measurement of a task on a network that differs from the one before it.
"""

import csv
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

PAGE = "benchmarks/engine-cpu.md"
FILE = Path(__file__).with_name("records.csv")
COLUMNS = ("date", "commit", "task", "model", "ours", "best_peer", "ratio", "what_changed")
ROW = re.compile(
    r"^\| (?P<task>[^|]+) \| (?P<model>[^|]+) \| (?P<ours>[^|]+) \| (?P<peer>[^|]+) \| (?P<ratio>[\d.]+) \|"
)


def git(*arguments: str) -> str:
    """What a Git command prints."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=FILE.parents[1]).stdout


def commits() -> Iterator[tuple[str, str, str]]:
    """(commit, date, subject) of each change of the page, the oldest first."""
    for line in git("log", "--reverse", "--format=%h\t%ad\t%s", "--date=short", "--", PAGE).splitlines():
        commit, date, subject = line.split("\t", 2)
        yield commit, date, subject


def measured(page: str) -> Iterator[dict[str, str]]:
    """The rows of the page's table of ratios."""
    for line in page.splitlines():
        found = ROW.match(line)
        if found:
            yield {key: value.strip() for key, value in found.groupdict().items()}


def main() -> None:
    """Write the table."""
    last: dict[tuple[str, str], str] = {}
    rows = []
    for commit, date, subject in commits():
        for row in measured(git("show", f"{commit}:{PAGE}")):
            key = row["task"], row["model"]
            if last.get(key) == row["ratio"]:
                continue
            last[key] = row["ratio"]
            rows.append((date, commit, *key, row["ours"], row["peer"], row["ratio"], subject))
    with FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"{FILE.name}: {len(rows)} measurements")


if __name__ == "__main__":
    main()
