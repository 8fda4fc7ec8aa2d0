"""What benchmarks/engine.py measured, as a file that later runs add to, a table and a picture."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, Any]
KEYS = ("task", "model", "implementation", "rate", "unit", "ratio_to_best_peer", "ratio_to_limit", "peak_mib")
OURS = ("notbugs", "notbugs bfloat16")
COLOURS = {
    **dict(zip(OURS, ("#0b6e4f", "#2a9d8f"), strict=True)),
    "notbugs compiled": "#6bbf9a",
    "limit": "#b0b0b0",
    "limit bfloat16": "#d0d0d0",
}
OTHERS = ("#8c6bb1", "#cc8400", "#c44e52", "#4c72b0")


def merge(file: Path, machine: Row, rows: list[Row]) -> list[Row]:
    """Write the rows into the file; those of the same task and model that it had are replaced. Returns all rows."""
    try:
        old = json.loads(file.read_text(encoding="utf-8"))["rows"]
    except FileNotFoundError:
        old = []
    new = {(row["task"], row["model"]) for row in rows}
    together = [row for row in old if (row["task"], row["model"]) not in new] + rows
    document = {"machine": machine, "rows": sorted(together, key=_place)}
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return list(document["rows"])


def _place(row: Row) -> tuple[bool, str, str]:
    return row["unit"] != "images·steps/s", row["model"], row["task"]


def write_table(file: Path, machine: Row, rows: list[Row]) -> None:
    """A Markdown table: a line a task and precision; our rate, ratios, how far our result is from the plain loop's."""
    lines = [
        f"Measured on {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"torchattacks {machine['torchattacks']}, foolbox {machine['foolbox']}, "
        f"ART {machine['adversarial-robustness-toolbox']}; medians, in turns, each in a process of its own.",
        "",
        "| task | model | notbugs | best peer | ratio to best peer | ratio to limit | result beside the plain loop's |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, model in dict.fromkeys((row["task"], row["model"]) for row in rows):
        group = {row["implementation"]: row for row in rows if (row["task"], row["model"]) == (task, model)}
        if "log-log slope" in {row["unit"] for row in group.values()}:
            continue
        peers = {name: row["rate"] for name, row in group.items() if name not in COLOURS}
        best = max(peers, key=lambda name: peers[name])
        for name in (name for name in OURS if name in group):
            ours, title = group[name], task + name.removeprefix(OURS[0]).replace(" ", ", ")
            lines.append(
                f"| {title} | {model} | {ours['rate']:,.0f} {ours['unit']} | {best} {peers[best]:,.0f} "
                f"| {ours['ratio_to_best_peer']:.2f} | {_shown(ours['ratio_to_limit'])} | {_agreement(ours)} |"
            )
    slopes = [row for row in rows if row["unit"] == "log-log slope"]
    if slopes:
        lines += ["", "| growth of our attack's time | log-log slope |", "|---|---|"]
        lines += [f"| {row['task']} | {row['rate']:.2f} |" for row in slopes]
    peaks = [row for row in rows if row["peak_mib"] is not None]
    if peaks:
        lines += ["", "| memory that PGD L2 adds at its peak | MiB |", "|---|---|"]
        lines += [f"| {row['model']}, {row['implementation']} | {row['peak_mib']:,.0f} |" for row in peaks]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _shown(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _agreement(row: Row) -> str:
    if row.get("accuracy") is not None:
        return f"adversarial accuracy {row['accuracy']:.1%}"
    if row.get("p99_dx") is not None:
        return f"99% of pixels within {row['p99_dx']:.0e}, {row['same_calls']:.1%} called the same"
    return ""


def draw(file: Path, machine: Row, rows: list[Row]) -> None:
    """Rates over the best peer's, a group of bars a task and model."""
    groups = list(dict.fromkeys((row["task"], row["model"]) for row in rows if row["unit"] != "log-log slope"))
    names = list(dict.fromkeys(row["implementation"] for row in rows if row["unit"] != "log-log slope"))
    others = iter(OTHERS)
    colours = {name: COLOURS.get(name) or next(others) for name in names}
    figure, axes = plt.subplots(figsize=(9, 0.75 * len(groups) + 1.2), layout="constrained")
    thickness = 0.8 / len(names)
    for place, (task, model) in enumerate(groups):
        group = {row["implementation"]: row for row in rows if (row["task"], row["model"]) == (task, model)}
        present = [name for name in names if name in group]
        for number, name in enumerate(present):
            ratio = group[name]["ratio_to_best_peer"]
            height = place + (number - (len(present) - 1) / 2) * thickness
            axes.barh(height, ratio, thickness, color=colours[name])
            if name in OURS:
                axes.text(ratio + 0.03, height, f"{ratio:.2f}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(groups)), [f"{task}\n{model}" for task, model in groups], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("speed over the best peer's")
    axes.set_title(f"Speed on {machine['device']}, {machine['threads']} threads", fontsize=10)
    axes.legend([plt.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names], names, fontsize=8, frameon=False)
    figure.savefig(file, dpi=120)
    plt.close(figure)
