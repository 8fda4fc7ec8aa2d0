"""Peak memory against the number of images: construction, training and evaluation read and write in parts.

    python benchmarks/memory.py     # 2,000, 8,000 and 32,000 made-up 32-pixel images: some minutes

Each number of images and each work runs in a process of its own; what is counted is how much its peak rises above what
it held before the work began: of the resident set (peak_mib), and of that part of it which is no page of a file
(anonymous_mib, looked at every 5 ms). Pages of mapped shards are in the first alone; the kernel takes them back when
others need them. Writes memory.csv beside this file.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch

from notbugs.construction.building import parts, set_up
from notbugs.construction.describe import describe
from notbugs.construction.settings import TargetSettings
from notbugs.data.batches import BatchReader
from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import DatasetWriter, StoredDataset, load_dataset
from notbugs.evaluation.accuracy import evaluate
from notbugs.evaluation.neighbours import neighbour_reference
from notbugs.models import ModelSettings, create_model, set_normalisation
from notbugs.models.base import Classifier
from notbugs.runtime.files import whole_folder
from notbugs.runtime.memory import keep_freed_memory
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings

HERE = Path(__file__).parent
CLASSES = tuple("abcdefghij")
MODEL = ModelSettings(architecture="small_cnn", width=8)
IMAGE_BYTES = 4 * 3 * 32 * 32


def make(folder: Path, count: int) -> None:
    """A stored dataset of `count` random images."""
    generator = make_generator(0)
    with whole_folder(folder) as unfinished:
        writer = DatasetWriter(unfinished)
        for start in range(0, count, 1000):
            images = torch.rand(min(1000, count - start), 3, 32, 32, generator=generator)
            writer.add(ImageData(images, torch.arange(len(images)) % 10, CLASSES))
        writer.finish(pd.DataFrame({"index": range(count)}), name="D", source="made up", settings={})


def construct(model: Classifier, data: StoredDataset) -> None:
    """D_det with the facts of every example, as the stage makes it."""
    config = TargetSettings(recipe="deterministic_target", model="standard", eps=0.5, num_steps=2, step_size=0.2)
    recipe = set_up(model, data, **config.scalars(), generator=make_generator(2))
    reference = neighbour_reference(data)
    facts = []
    with whole_folder(data.path.parent / "made") as unfinished:
        writer = DatasetWriter(unfinished)
        for rows, part in parts(recipe, len(data)):
            writer.add(part.data)
            told = describe(part, data, model, model, first=rows.start, reference=reference)
            facts.append(pd.DataFrame({name: values.numpy() for name, values in told.items()}))
        writer.finish(pd.concat(facts), name="D_det", source="made up", settings={})


def fit(model: Classifier, data: StoredDataset) -> None:
    """One epoch, the dataset measured as validation besides."""
    config = TrainSettings(epochs=1, batch_size=128, lr=0.1, crop_padding=4, flip=True)
    set_normalisation(model, data)
    assert not BatchReader(data, torch.device("cpu")).resident
    train(model, data, **config.arguments(), generator=make_generator(2), validation=data)


def measure(model: Classifier, data: StoredDataset) -> None:
    """Clean accuracy and two attacks."""
    evaluate(model, data, eps=(0.25,), num_steps=2, headline_eps=0.25, headline_num_steps=3)


WORKS = {"construct": construct, "train": fit, "evaluate": measure}


def status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1]) / 2**10


@contextmanager
def watched_anonymous() -> Iterator[list[float]]:
    """A list that has grown to all values of the anonymous memory, MiB, when the block ends."""
    values, over = [status_mib("RssAnon")], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            values.append(status_mib("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield values
    finally:
        over.set()
        thread.join()


def work(kind: str, folder: Path) -> None:
    """Do the work, and print by how many MiB the peaks of the resident set and of the anonymous memory rose."""
    torch.set_num_threads(2)
    keep_freed_memory()
    data = load_dataset(folder)
    model = create_model(
        MODEL.architecture, data.image_shape, CLASSES, width=MODEL.width, generator=make_generator(1)
    ).eval()
    before = status_mib("VmRSS")
    with watched_anonymous() as values:
        WORKS[kind](model, data)
    print(status_mib("VmHWM") - before, max(values) - values[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", nargs="*", type=int, default=[2000, 8000, 32000])
    parser.add_argument("--only", nargs="*", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work[0], Path(arguments.work[1]))
        return
    rows = []
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "d", count)
            for kind in arguments.only:
                command = [sys.executable, __file__, "--work", kind, f"{folder}/d"]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                peak, anonymous = (round(float(number)) for number in output.split()[-2:])
                size = count * IMAGE_BYTES // 2**20
                row = {"work": kind, "images": count, "data_mib": size, "peak_mib": peak, "anonymous_mib": anonymous}
                rows.append(row)
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).sort_values(["work", "images"])
    if arguments.only == list(WORKS):
        table.to_csv(HERE / "memory.csv", index=False)


if __name__ == "__main__":
    main()
