"""Full disks and closed folders, for real: a small tmpfs, a read-only mount, in a namespace of the test's own."""

import subprocess
import sys
from pathlib import Path

import pytest

from projects import assert_same, contents, copy_of, environment, needs_mount

pytestmark = needs_mount

WRITING = """
import sys, pathlib, pandas, torch, numpy
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import write_text
from notbugs.data.images import ImageData, make_generator
from notbugs.models import create_model, load_model, save_model
from notbugs.runtime.files import whole_file, whole_folder
from notbugs.data.store import load_dataset, save_dataset

here = pathlib.Path(sys.argv[1])

def dataset(count, columns):
    data = ImageData(torch.rand(count, 1, 8, 8), torch.arange(count) % 3, tuple("abc"))
    rows = pandas.DataFrame({str(i): numpy.random.default_rng(i).random(count) for i in range(columns)})
    save_dataset(here / "data", data, rows, name="D", source="", settings={})

def model(width):
    made = create_model("small_cnn", (3, 32, 32), tuple("ab"), width=width, generator=make_generator(0))
    save_model(made, here / "models" / "m.safetensors")

def report(length):
    with whole_folder(here / "figures") as folder, whole_file(folder / "a.png") as temporary:
        temporary.write_bytes(bytes(length))
    write_text(here / "report.html", "x" * length)

dataset(10, 1), model(1), report(10)
for attempt in (lambda: dataset(1000, 1), lambda: dataset(500, 20), lambda: model(64), lambda: report(10**6)):
    try:
        attempt()
        print("written")
    except UserError as error:
        print(error)
print(len(load_dataset(here / "data")), load_model(here / "models" / "m.safetensors").description.width)
print((here / "report.html").stat().st_size, (here / "figures" / "a.png").stat().st_size)
print([path.name for path in here.rglob("*.tmp")])
"""


def inside(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A shell script that may mount; what it mounts is gone when it ends."""
    return subprocess.run(
        ["unshare", "-rm", "sh", "-euc", script, "sh", *arguments],
        env=environment(NOTBUGS_TRACKING="off"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_does_not_fit_leaves_what_was_there(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=200k tmpfs "$1"; "$2" -c "$3" "$1"'
    done = inside(mount, str(tmp_path), sys.executable, WRITING)
    assert done.stderr == ""
    full = "cannot be written: the disk is full; what was there before is kept"
    assert done.stdout.splitlines() == [
        f"{tmp_path}/data/images-00000.safetensors: {full}",
        f"{tmp_path}/data/examples.parquet: {full}",
        f"{tmp_path}/models/m.safetensors: {full}",
        f"{tmp_path}/figures/a.png: {full}",
        "10 1",
        "10 10",
        "[]",
    ]


LEARNING = """
import sys, pathlib, subprocess, torch
import notbugs.training.checkpoints
from notbugs.runtime.errors import UserError
from notbugs.data.images import ImageData, make_generator
from notbugs.models import create_model
from notbugs.runtime.state_file import load_state
from notbugs.training.loop import train

here = pathlib.Path(sys.argv[1])
file = here / "state.safetensors"
notbugs.training.checkpoints.SECONDS = 0.0
torch.set_num_threads(1)
images = torch.rand(40, 1, 8, 8, generator=make_generator(1))
data = ImageData(images, torch.arange(40) % 2, tuple("ab"))

def learn(checkpoint):
    model = create_model("small_cnn", (1, 8, 8), data.class_names, width=16, generator=make_generator(2))
    plain = {"epochs": 3, "batch_size": 20, "lr": 0.1, "schedule": "constant"}
    train(model, data, **plain, generator=make_generator(3), checkpoint=checkpoint)
    return model.state_dict()

try:
    learn(notbugs.training.checkpoints.Checkpoint(file))
except UserError as error:
    print(error)
print([path.name for path in here.iterdir()], len(load_state(file)["records"]))
subprocess.run(["mount", "-o", "remount,size=4m", here], check=True)
resumed, whole = learn(notbugs.training.checkpoints.Checkpoint(file)), learn(None)
print(len(load_state(file)["records"]), all(torch.equal(resumed[name], whole[name]) for name in whole))
"""


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    """There is room for one of 240 kB, and two are there while the second is written."""
    mount = 'mount -t tmpfs -o size=400k tmpfs "$1"; "$2" -c "$3" "$1"'
    done = inside(mount, str(tmp_path), sys.executable, LEARNING)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"{tmp_path}/state.safetensors: cannot be written: the disk is full; what was there before is kept",
        "['state.safetensors'] 1",
        "3 True",
    ]


STAGES = ["construct rand", "train standard", "report"]


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.timeout(1800)
def test_stages_on_a_full_disk_and_again_with_room(finished_project: Path, tmp_path: Path) -> None:
    copy = copy_of(finished_project, tmp_path)
    before = contents(copy)
    script = """
        mkdir "$2"; mount -t tmpfs -o size=300m tmpfs "$2"; cp -r "$1/." "$2"; cd "$2"
        cat /dev/zero > filler 2> /dev/null || true
        for stage in "construct rand" "train standard" "report"; do notbugs $stage 2>&1 | tail -n 1; done
        find . -name '*.tmp' -not -path './.notbugs/*' -not -path './.dvc/*'
        rm -r "$1/data" "$1/models" "$1/metrics" "$1/plots" "$1/reports" "$1/sweeps"
        keep() { cp -r data models metrics plots reports sweeps "$1"; }
        mkdir "$1/full"; keep "$1/full"
        rm filler
        for stage in "construct rand" "train standard" "report"; do notbugs $stage 2> /dev/null; done
        keep "$1"
    """
    done = inside(script, str(copy), str(tmp_path / "small"))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(STAGES)
    for line in lines:
        assert line.startswith(f"error: {tmp_path}/small/")
        assert line.endswith("cannot be written: the disk is full; what was there before is kept")
    assert contents(copy / "full") == before
    # Those of the finished project are blank, and the server of warm commands does not see the small disk.
    assert_same(finished_project, copy, but_for=("plots/figures/", "reports/report.html"))
    for name in ("plots/figures/figure_2.png", "reports/report.html"):
        assert (copy / name).stat().st_size > 2 * (finished_project / name).stat().st_size


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.timeout(1800)
def test_a_read_only_project(finished_project: Path, tmp_path: Path) -> None:
    copy = copy_of(finished_project, tmp_path)
    (copy / ".notbugs" / "checked").unlink(missing_ok=True)
    script = """
        mount --bind "$1" "$1"; mount -o remount,ro,bind,nosuid,nodev "$1"; cd "$1"
        notbugs check && echo checked
        notbugs results | sed -n 1p
        notbugs construct rand 2>&1 || echo "construct $?"
        dvc repro 2>&1 || echo "dvc $?"
    """
    done = inside(script, str(copy))
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "checked"
    assert "Accuracy on 60 test images" in lines[1]
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert error.startswith(f"error: {copy}/.notbugs/unfinished/construct-rand-")  # where its shards would go first
    assert error.endswith(": cannot be written: the folder is read-only; what was there before is kept")
    assert "construct 1" in lines
    assert lines[-1].startswith("dvc ")
    assert_same(finished_project, copy)
