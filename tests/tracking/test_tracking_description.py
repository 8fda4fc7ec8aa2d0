import subprocess
from pathlib import Path

from notbugs.tracking.description import git_tags


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_tags(tmp_path: Path) -> None:
    assert git_tags(tmp_path) == {}
    git(tmp_path, "init", "-q")
    assert git_tags(tmp_path) == {}
    (tmp_path / "metrics").mkdir()
    for name in ("params.yaml", "dvc.lock", "metrics/fit.json"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    tags = git_tags(tmp_path)
    assert (len(tags["git.commit"]), tags["git.dirty"]) == (40, "false")
    (tmp_path / "metrics" / "fit.json").unlink()
    (tmp_path / "dvc.lock").write_text("2")
    assert git_tags(tmp_path)["git.dirty"] == "false"
    (tmp_path / "params.yaml").write_text("2")
    assert git_tags(tmp_path)["git.dirty"] == "true"
