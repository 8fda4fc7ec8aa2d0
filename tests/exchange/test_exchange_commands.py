"""The command line: one line for what went well, one for what did not."""

import pytest
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.data.store import load_dataset


def test_export_and_import(store, tmp_path):
    dataset, out, back = store(), tmp_path / "out", tmp_path / "back"
    done = CliRunner().invoke(main, ["export", str(dataset), "--to", "madry", "--out", str(out)])
    assert (done.exit_code, len(done.output.splitlines())) == (0, 1)
    assert f"how to load it: {out / 'README.md'}" in done.output
    done = CliRunner().invoke(main, ["import", str(out), "--from", "madry", "--out", str(back)])
    assert done.output == f"{back}: D_det: 7 images (3, 6, 5), 3 classes\n"
    assert len(load_dataset(back)) == 7
    done = CliRunner().invoke(main, ["import", str(out), "--from", "madry", "--out", str(back)])
    assert done.exit_code == 1
    assert (
        done.stderr
        == f"error: --out {back}: something is there already, and nothing is overwritten; name a new folder\n"
    )


def test_paths_may_begin_at_home(store, tmp_path, monkeypatch):
    """Behind a "=" the shell leaves ~ as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    done = CliRunner().invoke(main, ["export", str(store()), "--to=npz", "--out=~/out"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "dataset.npz").exists()
    assert CliRunner().invoke(main, ["import", "~/out", "--from=npz", "--out=~/back"]).exit_code == 0
    assert len(load_dataset(tmp_path / "back")) == 7


def test_eight_bits_are_warned_of(store, tmp_path):
    arguments = ["export", str(store()), "--to", "imagefolder", "--encoding", "png", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: rounded to 8 bits: a pixel value by up to 0.0019")


@pytest.mark.parametrize("names", ["cat,dog", "cat,dog,dog", "cat,,owl"])
def test_classes_are_names_between_commas(store, tmp_path, names):
    out = tmp_path / "out"
    CliRunner().invoke(main, ["export", str(store()), "--to", "npz", "--out", str(out)])
    (out / "notbugs.json").unlink()
    arguments = ["import", str(out), "--from", "npz", "--out", str(tmp_path / "back"), "--classes"]
    done = CliRunner().invoke(main, [*arguments, names])
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    done = CliRunner().invoke(main, [*arguments, "a, b, c"])
    assert done.exit_code == 0
    assert load_dataset(tmp_path / "back").class_names == ("a", "b", "c")
