"""Memory does not grow with the dataset, whatever the format."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from notbugs.data.images import ImageData
from notbugs.data.store import DatasetWriter
from notbugs.exchange import FORMATS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PEAK = """
import sys, threading, time
from pathlib import Path

def own():  # bytes that are no file's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024

from notbugs.exchange.exporting import export_dataset
from notbugs.exchange.importing import import_dataset
dataset, form, out = sys.argv[1:]
if form == "huggingface":
    import datasets
export_dataset(Path(dataset + "-warm"), form, Path(out, "warm"))
import_dataset(Path(out, "warm"), form, Path(out, "warm-back"))
start = peak = own()
def watch():
    global peak
    while True:
        peak = max(peak, own())
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
export_dataset(Path(dataset), form, Path(out, "out"))
import_dataset(Path(out, "out"), form, Path(out, "back"))
print(peak - start)
"""


def write(folder: Path, count: int) -> None:
    """Images of 32 x 32 in shards of 512 (6 MiB)."""
    folder.mkdir()
    writer = DatasetWriter(folder, shard_size=512)
    for start in range(0, count, 512):
        images = torch.rand(512, 3, 32, 32, generator=torch.Generator().manual_seed(start))
        writer.add(ImageData(images, torch.arange(512) % 10, tuple("abcdefghij")))
    writer.finish(pd.DataFrame({"index": range(count)}), name="D_train", source="x", settings={})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("form", FORMATS)
def test_peak_memory(tmp_path: Path, form: str) -> None:
    """16,384 images are 192 MiB; what is held at a time stays under 60, of which most are a few shards."""
    write(tmp_path / "data", 16_384)
    write(tmp_path / "data-warm", 512)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "data"), form, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown = int(done.stdout) / 2**20
    print(f"{form}: {grown:.0f} MiB")
    assert grown < 60
