"""D_det of digits from one source model and from an ensemble of three: the accuracy of its fits on y and on y + 1.

    python benchmarks/ensemble.py [FITS] [EPOCHS]    # fits of each dataset, default 2; epochs of a fit

Takes the digits preset in a temporary project, with the source seeds 0, 1 and 2. By the preset's settings it makes
D_det from each standard model alone, and from all three together, and fits the same classifiers on each. Intervals are
over test images and trainings (`notbugs.evaluation.comparison`). A trial at these settings gave 46.6% on y and 36.2% on
y + 1 for the ensemble, and 33.7% and 45.8% for the single source.

Writes benchmarks/ensemble.csv, one row a construction, and ensemble.md. About four minutes on one core.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from notbugs.evaluation.results import Accuracy, accuracy_table, load_results, percent, read_json
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.files import write_csv, write_text

HERE = Path(__file__).parent
SOURCES = [0, 1, 2]
TOGETHER = [f"standard/{seed}" for seed in SOURCES]
JUDGES = ("robust_model", "nearest_neighbour")
MEASURED = [f"{key}{end}" for key in ("y", "shifted") for end in ("", "_low", "_high")]
COLUMNS = ("sources", "eps", "fits", *MEASURED, *JUDGES)


def project(root: Path, num_fits: int, epochs: int | None) -> dict[str, dict[str, Any]]:
    """Write params.yaml; gives the constructions by name."""
    params = yaml.safe_load((HERE.parent / "presets" / "digits.yaml").read_text(encoding="utf-8"))
    det, fit = params["construct"]["det"], {**params["fit"]["det"], "still_y": False, "seeds": list(range(num_fits))}
    fit |= {"epochs": epochs} if epochs else {}
    together = {"from": TOGETHER, **{key: value for key, value in det.items() if key != "model"}}
    made = {"single": det, "ensemble": together}
    train = {name: {**settings, "seeds": SOURCES} for name, settings in params["train"].items()}
    params |= {"train": train, "construct": made, "fit": dict.fromkeys(made, fit), "num_threads": 1, "jobs": 1}
    params["evaluate"] |= {"suite_seeds": 0, "check_seeds": 0, "eps": [0.6], "num_steps": 1, "headline_num_steps": 1}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return made


def row(root: Path, name: str, eps: float, clean: Accuracy, shifted: Accuracy) -> dict[str, Any]:
    """A line of the table: percentages with the ends of their intervals, and what the judges still call y."""
    told: dict[str, Any] = {"sources": name, "eps": eps, "fits": clean.num_models}
    for key, found in (("y", clean), ("shifted", shifted)):
        told |= {key: percent(found.value), f"{key}_low": percent(found.low), f"{key}_high": percent(found.high)}
    facts = read_json(root / f"metrics/construct/{name}.json", f"construct@{name}", JUDGES)
    return told | {judge: percent(facts[judge]["still_y"]) for judge in JUDGES}


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = ["# D_det from one source model and from three", "", *(__doc__ or "").strip().splitlines()[4:8], ""]
    lines += [
        "| made from | eps | fits | on y | on y + 1 | still y, robust model | still y, 1-NN |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        cells = [f"{one[key]}% [{one[f'{key}_low']}, {one[f'{key}_high']}]" for key in ("y", "shifted")]
        cells = [one["sources"], str(one["eps"]), str(one["fits"]), *cells, *(f"{one[judge]}%" for judge in JUDGES)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(num_fits: int = 2, epochs: int | None = None) -> None:
    """Run it, print the table and write it."""
    os.environ["NOTBUGS_TRACKING"] = "off"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = project(root, num_fits, epochs)
        lab = open_project(root)
        stages = [("prepare", None), ("train", "standard"), ("train", "robust")]
        for stage in ("construct", "fit"):
            stages += [(stage, name) for name in made]
        for stage, name in [*stages, ("evaluate", None)]:
            run_stage(lab, stage, name)
        found = {one.dataset.removeprefix("D_"): one for one in accuracy_table(load_results(root))}
        rows = []
        for name, settings in made.items():
            clean, shifted = found[name].clean, found[name].shifted
            assert clean is not None
            assert shifted is not None
            rows.append(row(root, name, settings["eps"], clean, shifted))
    print(page(rows))
    write_text(HERE / "ensemble.md", page(rows))
    write_csv(HERE / "ensemble.csv", COLUMNS, rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
