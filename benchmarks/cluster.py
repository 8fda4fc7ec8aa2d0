"""What a preset would take on so many slots: simulated, from the arithmetic of `scale.py` and DVC's own graph.

    python benchmarks/cluster.py cifar10 restricted_imagenet --slots 1 2 8 32

A slot is a GPU with `scale.GPU_RATE`; the stages up to `evaluate`. Nothing is run. For a project that ran,
`notbugs repro --simulate 1,2,8,32` says the same from what its stages took.
"""

import argparse
import math
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from scale import GPU_RATE, PRESETS, SIZES, work

from notbugs.attacks.engine import multiply_adds
from notbugs.models import ModelSettings, create_model
from notbugs.pipeline.cluster.dvc_steps import Options, Step, open_pipeline
from notbugs.pipeline.cluster.schedule import Cost
from notbugs.pipeline.cluster.simulate import simulate
from notbugs.runtime.config import read_params, validate

ROOT = Path(__file__).parents[1]
READING = 60.0
"""Seconds taken for `prepare`."""


def steps_of(preset: str) -> list[Step]:
    """What `dvc repro evaluate` would look at."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(ROOT / "dvc.yaml", folder)
        shutil.copy(PRESETS / f"{preset}.yaml", folder / "params.yaml")
        subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=folder, check=True)
        with open_pipeline(folder, Options()) as pipeline:
            return pipeline.plan(["evaluate"])


def costs_of(preset: str) -> dict[str, Cost]:
    """Stage -> seconds on one GPU; the tasks of a stage stay on it."""
    params = read_params(PRESETS / f"{preset}.yaml")
    pool, num_test, side = SIZES[params["data"]["source"]]
    num_validation = round(pool * params["data"]["validation_fraction"])
    settings = validate(params["model"], "model", ModelSettings)
    model = create_model(settings.architecture, (3, side, side), ("a", "b"), width=settings.width).eval()
    each = multiply_adds(model, torch.zeros(1, 3, side, side))
    passes = work(params, pool - num_validation, num_validation, num_test)
    found = {stage.replace(" ", "@"): Cost(count * each / GPU_RATE) for stage, count in passes.items()}
    return {"prepare": Cost(READING), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="+", choices=sorted(path.stem for path in PRESETS.glob("*.yaml")))
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 2, 8, 32])
    given = parser.parse_args()
    print("| preset | slots | hours | busy | at least | longest chain |")
    print("|---|---|---|---|---|---|")
    for preset in given.presets:
        steps, costs = steps_of(preset), costs_of(preset)
        for slots in given.slots:
            found = simulate(steps, costs, slots)
            hours, bound = (
                f"{seconds / 3600:.{1 if math.log10(seconds) > 4 else 2}f}" for seconds in (found.seconds, found.bound)
            )
            print(f"| {preset} | {slots} | {hours} | {found.busy:.0%} | {bound} | {' > '.join(found.chain)} |")


if __name__ == "__main__":
    main()
