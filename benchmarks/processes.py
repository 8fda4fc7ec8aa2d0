"""What several processes change: constructions and measurements bit by bit, trainings against the noise of seeds.

    python benchmarks/processes.py [N]        # N processes beside one; default 2; about ten minutes on two cores

Runs stages of the digits preset in a temporary project and writes benchmarks/processes.json and processes.md.
"""

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from notbugs.data.store import load_dataset
from notbugs.runtime.files import write_json, write_text

HERE = Path(__file__).parent
SHARD_SIZE = 250
"""Small enough that digits (1,220 images) give every process some shards."""
MODELS, DATASETS = ("standard", "robust"), ("rand", "robust")


def settings(processes: int) -> dict[str, Any]:
    params = yaml.safe_load((HERE.parent / "presets" / "digits.yaml").read_text())
    params |= {"processes": processes, "device": "cpu", "num_threads": 1, "engine": "plain"}
    params["construct"] = {name: {**params["construct"][name], "shard_size": SHARD_SIZE} for name in DATASETS}
    params["fit"] = {"rand": params["fit"]["rand"]}
    return params


def run(project: Path, *command: str) -> float:
    """Seconds that `notbugs COMMAND` takes."""
    started = time.monotonic()
    environment = {**os.environ, "NOTBUGS_TRACKING": "off"}
    subprocess.run([sys.executable, "-m", "notbugs", *command], cwd=project, env=environment, check=True)
    return round(time.monotonic() - started, 1)


def pipeline(project: Path, processes: int, models: Path | None = None) -> dict[str, Any]:
    """Run the stages; with the given source models, so that constructions start from the same."""
    project.mkdir(parents=True)
    (project / "params.yaml").write_text(yaml.safe_dump(settings(processes), sort_keys=False))
    run(project, "prepare")
    seconds, validation = {}, {}
    for name in MODELS:
        seconds[f"train {name}"] = run(project, "train", name)
        found = json.loads((project / "metrics" / "train" / f"{name}.json").read_text())["full"]["seeds"]
        validation[name] = {seed: facts["validation_accuracy"] for seed, facts in found.items()}
    if models is not None:
        shutil.rmtree(project / "models")
        shutil.copytree(models, project / "models")
    for name in DATASETS:
        seconds[f"construct {name}"] = run(project, "construct", name)
    if models is None:
        seconds["fit rand"] = run(project, "fit", "rand")
    else:
        shutil.copytree(project.parent / "1" / "metrics" / "fit", project / "metrics" / "fit")
    seconds["evaluate"] = run(project, "evaluate")
    return {"seconds": seconds, "validation_accuracy": validation}


def digests(*paths: Path) -> dict[str, str]:
    return {
        file.name if path.is_file() else f"{path.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for path in paths
        for file in (sorted(path.glob("*.*")) if path.is_dir() else [path])
    }


def compare(alone: Path, together: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in DATASETS:
        one, other = (load_dataset(project / "data" / name).data() for project in (alone, together))
        same = digests(alone / "data" / name) == digests(together / "data" / name)
        found[f"construct {name}"] = {
            "shards": len(load_dataset(alone / "data" / name).manifest.shards),
            "same_bytes": same,
            "largest_pixel_difference": float((one.images - other.images).abs().max()),
        }
    tables = [
        digests(*(project / "metrics" / file for file in ("results.csv", "per_example.parquet", "checks.json")))
        for project in (alone, together)
    ]
    found["evaluate"] = {"same_bytes": tables[0] == tables[1]}
    return found


def markdown(result: dict[str, Any]) -> str:
    count = result["processes"]
    lines = [
        f"# One process and {count}",
        "",
        f"`python benchmarks/processes.py {count}`: the digits preset on the CPU, one thread a process, torch "
        f"{result['torch']}. Constructions and measurements start from the same source models.",
        "",
        "| output | same bytes | largest difference of a pixel |",
        "|---|---|---|",
    ]
    for name, facts in result["same"].items():
        difference = facts.get("largest_pixel_difference")
        lines.append(f"| {name} | {facts['same_bytes']} | {'' if difference is None else f'{difference:g}'} |")
    lines += [
        "",
        "| training | processes | validation accuracy by seed | mean | spread (std) |",
        "|---|---|---|---|---|",
    ]
    for name in MODELS:
        for processes, key in ((1, "alone"), (count, "together")):
            values = list(result[key]["validation_accuracy"][name].values())
            shown = ", ".join(f"{value:.1%}" for value in values)
            lines.append(
                f"| {name} | {processes} | {shown} | {statistics.fmean(values):.2%} | {statistics.stdev(values):.2%} |"
            )
    lines += ["", f"| seconds, start included | 1 process | {count} processes |", "|---|---|---|"]
    for name, seconds in result["together"]["seconds"].items():
        lines.append(f"| {name} | {result['alone']['seconds'][name]} | {seconds} |")
    return "\n".join(lines) + "\n"


def main(count: int) -> None:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        alone, together = Path(folder) / "1", Path(folder) / str(count)
        result: dict[str, Any] = {"processes": count, "torch": torch.__version__}
        result["alone"] = pipeline(alone, 1)
        result["together"] = pipeline(together, count, models=alone / "models")
        result["same"] = compare(alone, together)
    write_json(HERE / "processes.json", result)
    write_text(HERE / "processes.md", markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
