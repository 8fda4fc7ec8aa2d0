"""Files and folders appear whole or not at all; what cannot be written is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.errors import UserError
from notbugs.files import WriteError, whole_file, whole_folder, write_csv, write_text


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
    def fail(params: object) -> None:
        raise error

    (tmp_path / "params.yaml").write_text("seed: 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("notbugs.stages.check.check", fail)
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
