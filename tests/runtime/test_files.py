"""Files and folders appear whole or not at all; what cannot be written is named."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.runtime.cleaning import leftovers, remove
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import WriteError, file_lock, finish_moves, whole_file, whole_folder, write_csv, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def dead_process() -> int:
    """Number of a process that ran and is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with whole_folder(tmp_path / "x") as folder:
            (folder / text).write_text(text)
    assert names(tmp_path / "x") == ["new"]
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("wrong"), OSError(28, "No space left on device")])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    write_text(tmp_path / "x", "old")
    with whole_folder(tmp_path / "y") as folder:
        (folder / "old").touch()
    for whole in (whole_file(tmp_path / "x"), whole_folder(tmp_path / "y")):
        with pytest.raises((type(error), WriteError)), whole:
            raise error
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path / "y") == ["old"]
    assert names(tmp_path) == ["x", "y"]


def test_a_full_device_is_named(tmp_path: Path) -> None:
    def write() -> None:
        with whole_file(tmp_path / "x") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("text")

    with pytest.raises(WriteError) as caught:
        write()
    assert str(caught.value) == f"{tmp_path / 'x'}: cannot be written: the disk is full; what was there before is kept"
    assert names(tmp_path) == []


def test_a_file_in_an_unfinished_folder_is_named_as_it_would_be(tmp_path: Path) -> None:
    message = f"^{tmp_path}/x/y/z: cannot be written: the disk is full"
    with (
        pytest.raises(WriteError, match=message),
        whole_folder(tmp_path / "x") as folder,
        whole_file(folder / "y" / "z"),
    ):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, ""), "the disk is full"),
        (OSError(122, ""), "the disk quota is used up"),
        (OSError(27, ""), "larger than files may be here"),
        (OSError(30, ""), "the folder is read-only"),
        (PermissionError(13, ""), "permission denied"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_reasons(tmp_path: Path, error: Exception, reason: str) -> None:
    message = rf"x: cannot be written: {reason}; what was there before is kept"
    with pytest.raises(UserError, match=message), whole_file(tmp_path / "x"):
        raise error


def test_what_cannot_be_read_is_not_called_unwritable(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="other"), whole_folder(tmp_path / "x"):
        raise PermissionError(13, "Permission denied", str(tmp_path / "other"))


def test_a_file_where_a_folder_must_be(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(OSError, match="x"):
        write_text(tmp_path / "x" / "y", "text")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/x"), "error: /x: permission denied"),
        (OSError(5, "Input/output error"), "error: input/output error"),
        (WriteError(Path("/x"), "the disk is full"), "error: /x: cannot be written: the disk is full; what was there"),
        (UserError("evil\x1b[2Jname"), "error: evil\\x1b[2Jname"),
    ],
)
def test_the_command_line_says_it_in_one_line(tmp_path: Path, monkeypatch, error: Exception, line: str) -> None:
    def fail(*_: object) -> None:
        raise error

    (tmp_path / "params.yaml").write_text("seed: 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("notbugs.cli.check.check", fail)
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 1
    assert done.output.startswith(line)
    assert done.output.count("\n") == 1


def test_what_killed_processes_left_is_removed(tmp_path: Path, dead_process: int) -> None:
    (tmp_path / f"x.{dead_process}.tmp").mkdir()
    (tmp_path / f"x.{dead_process}.tmp" / "half").touch()
    (tmp_path / f"x.{dead_process}.old.tmp").touch()
    kept = [f"x.{os.getppid()}.tmp", f"y.{dead_process}.tmp", "x.tmp"]
    for name in kept:
        (tmp_path / name).touch()
    write_text(tmp_path / "x", "text")
    assert names(tmp_path) == sorted([*kept, "x"])


def test_a_table_has_its_columns_and_empty_cells(tmp_path: Path) -> None:
    rows = [{"b": 0.1, "a": "x,y"}, {"a": "z", "b": None}]
    write_csv(tmp_path / "table.csv", ("a", "b"), rows)
    assert (tmp_path / "table.csv").read_bytes() == b'a,b\n"x,y",0.1\nz,\n'
    with pytest.raises(ValueError, match="not in fieldnames"):
        write_csv(tmp_path / "table.csv", ("a",), rows)
    assert (tmp_path / "table.csv").read_bytes().startswith(b"a,b\n")


REPLACING = """
import os, sys
from pathlib import Path
path, last, calls = Path(sys.argv[1]), int(sys.argv[2]), 0

def deadly(call):
    def counted(*args, **kwargs):
        global calls
        if calls == last:
            os._exit(9)
        calls += 1
        return call(*args, **kwargs)
    return counted

from notbugs.runtime.files import whole_folder
for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
    setattr(os, name, deadly(getattr(os, name)))
with whole_folder(path) as folder:
    (folder / "name").write_text("new")
    (folder / "new").touch()
"""


@pytest.mark.parametrize("restored_by", ["a reader", "the next writer"])
def test_a_folder_survives_a_kill_between_any_two_steps(tmp_path: Path, restored_by: str) -> None:
    """Whole and old, or whole and new; the reader is a stage, whose project is opened first."""
    path, found = tmp_path / "data" / "x", []
    for steps in range(20):
        shutil.rmtree(path.parent, ignore_errors=True)
        with whole_folder(path) as folder:
            (folder / "name").write_text("old")
        done = subprocess.run([sys.executable, "-c", REPLACING, str(path), str(steps)], check=False)
        if restored_by == "a reader":
            finish_moves(tmp_path)
        else:
            with pytest.raises(KeyboardInterrupt), whole_folder(path):
                raise KeyboardInterrupt
            assert names(path.parent) == ["x"]
        found.append((path / "name").read_text())
        assert names(path) == (["name", "new"] if found[-1] == "new" else ["name"])
        with whole_folder(path) as folder:
            (folder / "newest").touch()
        assert names(path) == ["newest"]
        assert names(path.parent) == ["x"]
        if done.returncode == 0:
            break
        assert done.returncode == 9
    assert found == ["old"] * found.index("new") + ["new"] * (len(found) - found.index("new"))
    assert found.index("new") >= 2
    assert len(found) > found.index("new") + 3  # killed between the renames, and while the old one was removed


def test_an_interruption_between_the_renames_puts_the_old_folder_back(tmp_path: Path, monkeypatch) -> None:
    with whole_folder(tmp_path / "x") as folder:
        (folder / "old").touch()

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "x") as folder:
        (folder / "new").touch()
    assert names(tmp_path / "x") == ["old"]
    assert names(tmp_path) == ["x"]


def test_a_half_written_folder_never_takes_the_place_of_a_deleted_one(tmp_path: Path, dead_process: int) -> None:
    """The old folder's last files were being removed when the process was killed; then somebody deleted the new one."""
    (tmp_path / "data" / f"x.{dead_process}.old.tmp").mkdir(parents=True)
    (tmp_path / "data" / f"y.{dead_process}.tmp").mkdir()
    finish_moves(tmp_path)
    assert names(tmp_path / "data") == [f"x.{dead_process}.old.tmp", f"y.{dead_process}.tmp"]


def test_what_a_running_process_moves_is_left_to_it(tmp_path: Path) -> None:
    between = [f"x.{os.getppid()}.old.tmp", f"x.{os.getppid()}.tmp"]
    for name in between:
        (tmp_path / "data" / name).mkdir(parents=True)
    finish_moves(tmp_path)
    assert names(tmp_path / "data") == between


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_process_that_nobody_waited_for_is_gone(tmp_path: Path) -> None:
    """A container whose first process is no init keeps the numbers of killed processes."""
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        half = tmp_path / f"x.{process.pid}.tmp"
        half.touch()
        while half.exists():  # it has closed its output, and ends in a moment
            write_text(tmp_path / "x", "text")
        assert process.returncode is None
    assert names(tmp_path) == ["x"]


def test_every_folder_of_the_pipeline_is_looked_after(tmp_path: Path, dead_process: int) -> None:
    stages = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"].values()
    outs = [out for stage in stages for out in stage.get("do", stage).get("outs", []) if isinstance(out, str)]
    folders = [out.replace("${key}", "x") for out in outs if not Path(out).suffix]
    assert {"data/train", "data/x", "models/train/x", "plots/figures"} <= set(folders)
    for folder in folders:
        for name in (f"{folder}.{dead_process}.old.tmp", f"{folder}.{dead_process}.tmp"):
            (tmp_path / name).mkdir(parents=True)
    finish_moves(tmp_path)
    assert all((tmp_path / folder).is_dir() for folder in folders)


def test_clean_finishes_a_move_and_removes_what_was_moved_away(tmp_path: Path, dead_process: int) -> None:
    for name, content in ((f"x.{dead_process}.old.tmp", "old"), (f"x.{dead_process}.tmp", "new")):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / content).touch()
    (found,) = leftovers(tmp_path)
    remove(found)
    assert names(tmp_path / "data") == ["x"]
    assert names(tmp_path / "data" / "x") == ["new"]


def _hold(path: Path, held_event: Event, release: Event) -> None:
    with file_lock(path):
        held_event.set()
        release.wait(20)


def test_the_lock_is_one_processes_until_it_dies(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    taken, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", taken, release))
    other.start()
    assert taken.wait(20)
    with file_lock(tmp_path / "lock", 0.1) as mine:
        assert not mine
    other.kill()
    other.join()
    with file_lock(tmp_path / "lock") as mine:
        assert mine
