"""Whether datasets made in bfloat16 teach what those made in float32 teach: digits, five fits each.

    python benchmarks/precisions.py [FITS]    # about eight minutes on one core with AVX512_BF16

Takes the digits preset in a temporary project, trains its source models once, in float32, and makes D_R, D_NR, D_rand
and D_det from the same models in both precisions. Fits are trained in the precision of their dataset, as
`precision: bfloat16` in params.yaml does it. Writes benchmarks/precisions.csv, one row a dataset and precision, and
precisions.md. `spread` is the standard deviation over the fits.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from notbugs.evaluation.results import load_results, percent
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.files import write_csv, write_text

HERE = Path(__file__).parent
DATASETS = {"robust": "D_R", "nonrobust": "D_NR", "rand": "D_rand", "det": "D_det"}
"""Entry of construct -> its name in the results."""
PRECISIONS = ("float32", "bfloat16")
EPS = 0.6
"""L2 radius of the adversarial accuracy: the digits preset's headline."""
MEASURES = {"y": ("true", "clean"), "shifted": ("shifted", "clean"), "adversarial": ("true", "pgd20")}
COLUMNS = ("dataset", "precision", "fits", *(f"{key}{end}" for key in MEASURES for end in ("", "_spread")))


def params_of(num_fits: int) -> dict[str, Any]:
    """The digits preset with one source seed and the paper's four datasets alone."""
    params = yaml.safe_load((HERE.parent / "presets" / "digits.yaml").read_text(encoding="utf-8"))
    params["train"] = {name: {**told, "seeds": [0]} for name, told in params["train"].items()}
    params["construct"] = {name: params["construct"][name] for name in DATASETS}
    fits = {name: params["fit"][name] for name in DATASETS}
    changed = {"seeds": list(range(num_fits)), "still_y": False}
    params["fit"] = {name: {**told, **changed} for name, told in fits.items()}
    params |= {"num_threads": 1, "jobs": 1}
    params["evaluate"] |= {"suite_seeds": 0, "check_seeds": 0, "eps": [EPS], "num_steps": 20, "headline_num_steps": 20}
    return params


def write(root: Path, params: dict[str, Any]) -> None:
    """params.yaml of the project."""
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def rows_of(root: Path, precision: str) -> list[dict[str, Any]]:
    """What the fits of each dataset came to, from the results of `evaluate`."""
    results = load_results(root)
    rows = []
    for name in DATASETS.values():
        fits = results[(results["dataset"] == name) & (results["estimator"] == "standard")]
        row: dict[str, Any] = {"dataset": name, "precision": precision}
        for key, (labels, attack) in MEASURES.items():
            found = fits[(fits["labels"] == labels) & (fits["attack"] == attack)]["accuracy"]
            row |= {"fits": len(found), key: percent(found.mean()), f"{key}_spread": percent(found.std())}
        rows.append(row)
    return rows


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = ["# D_R, D_NR, D_rand and D_det made in float32 and in bfloat16", ""]
    lines += [*(__doc__ or "").strip().splitlines()[4:8], ""]
    lines += [f"| dataset | precision | fits | on y | on y + 1 | PGD-20 at L2 {EPS} |", "|---|---|---|---|---|---|"]
    for one in rows:
        cells = [f"{one[key]} ± {one[f'{key}_spread']}" for key in MEASURES]
        lines.append(f"| {' | '.join([one['dataset'], one['precision'], str(one['fits']), *cells])} |")
    return "\n".join(lines) + "\n"


def main(num_fits: int = 5) -> None:
    """Run it, print the table and write it."""
    os.environ["NOTBUGS_TRACKING"] = "off"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root, params = Path(folder), params_of(num_fits)
        for precision in PRECISIONS:
            write(root, params | {"precision": precision})
            lab = open_project(root)
            stages = [("construct", name) for name in DATASETS] + [("fit", name) for name in DATASETS]
            if precision == PRECISIONS[0]:
                stages = [("prepare", None), ("train", "standard"), ("train", "robust"), *stages]
            for stage, name in [*stages, ("evaluate", None)]:
                run_stage(lab, stage, name)
            rows += rows_of(root, precision)
    rows.sort(key=lambda row: list(DATASETS.values()).index(row["dataset"]))
    print(page(rows))
    write_text(HERE / "precisions.md", page(rows))
    write_csv(HERE / "precisions.csv", COLUMNS, rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
