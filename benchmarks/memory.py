"""Peak memory of construction and evaluation against the number of images: both read and write in parts.

    python benchmarks/memory.py     # 2,000, 8,000 and 32,000 made-up 32-pixel images: some minutes

Each number of images and each work runs in a process of its own; what is counted is how much its peak rises above what
it held before the work began. Writes memory.csv beside this file.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

from notbugs.construction import TargetSettings, describe, parts, set_up
from notbugs.evaluation import EvaluateSettings, evaluate
from notbugs.files import whole_folder
from notbugs.images import ImageData, make_generator
from notbugs.models import ModelSettings, create_model
from notbugs.store import DatasetWriter, load_dataset

HERE = Path(__file__).parent
CLASSES = tuple("abcdefghij")
MODEL = ModelSettings(architecture="small_cnn", width=8)


def make(folder: Path, count: int) -> None:
    """A stored dataset of `count` random images."""
    generator = make_generator(0)
    with whole_folder(folder) as unfinished:
        writer = DatasetWriter(unfinished)
        for start in range(0, count, 1000):
            images = torch.rand(min(1000, count - start), 3, 32, 32, generator=generator)
            writer.add(ImageData(images, torch.arange(len(images)) % 10, CLASSES))
        writer.finish(pd.DataFrame({"index": range(count)}), name="D", source="made up", settings={})


def work(kind: str, folder: Path) -> None:
    """Construct D_det, or evaluate a model, on the dataset in `folder`."""
    data = load_dataset(folder)
    model = create_model(MODEL, data.manifest.image_shape, CLASSES, generator=make_generator(1)).eval()
    if kind == "evaluate":
        config = EvaluateSettings(eps=(0.25,), num_steps=2, headline_eps=0.25, headline_num_steps=2)
        evaluate(model, data, config, generator=make_generator(2))
        return
    config = TargetSettings(recipe="deterministic_target", model="standard", eps=0.5, num_steps=2, step_size=0.2)
    recipe = set_up(model, data, config, generator=make_generator(2))
    facts = []
    with whole_folder(folder.parent / "made") as unfinished:
        writer = DatasetWriter(unfinished)
        for rows, part in parts(recipe, len(data), config):
            writer.add(part.data)
            facts.append(pd.DataFrame(describe(part, data, model, model, first=rows.start)))
        writer.finish(pd.concat(facts), name="D_det", source="made up", settings={})


def status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", nargs="*", type=int, default=[2000, 8000, 32000])
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.work:
        before = status_mib("VmRSS")
        work(arguments.work[0], Path(arguments.work[1]))
        print(status_mib("VmHWM") - before)
        return
    rows = []
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "d", count)
            for kind in ("construct", "evaluate"):
                command = [sys.executable, __file__, "--work", kind, f"{folder}/d"]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                rows.append({"work": kind, "images": count, "peak_mib": round(float(output.split()[-1]))})
                print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(HERE / "memory.csv", index=False)


if __name__ == "__main__":
    main()
