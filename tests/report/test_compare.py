"""Two pipelines side by side: folders and Git revisions, what differs, what may explain it, files and errors."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.report.compare import CompareError, FinishedRun, Line, compare, read_run, write_comparison


def with_science(root: Path, rank: float) -> Path:
    facts = {"spaces": {"pixels": {"D_R": {"effective_rank": {"value": 5, "ratio": rank}}}}}
    (root / "metrics/diversity.json").write_text(json.dumps(facts))
    return root


@pytest.fixture(scope="module")
def folders(make_project, tmp_path_factory) -> tuple[Path, Path]:
    """A, and B with another headline radius, a smaller D_R robustness and less diversity."""
    place = tmp_path_factory.mktemp("compare")
    a = with_science(make_project(place / "a"), 1.5)
    b = with_science(shutil.copytree(a, place / "b"), 0.5)
    params = (b / "params.yaml").read_text().replace("headline_eps: 0.5", "headline_eps: 0.25")
    (b / "params.yaml").write_text(params)
    return a, b


def outcomes(folders: tuple[Path, Path]) -> tuple[FinishedRun, FinishedRun]:
    return read_run(str(folders[0]), folders[0]), read_run(str(folders[1]), folders[0])


def line(lines: list[Line], what: str) -> Line:
    (found,) = [one for one in lines if one.what == what]
    return found


def test_what_differs_and_what_was_measured(folders):
    lines = compare(*outcomes(folders))
    settings = [(one.what, one.a, one.b) for one in lines if one.part == "settings"]
    assert settings == [("evaluate.headline_eps", 0.5, 0.25)]
    assert line(lines, "source").a == "digits"
    assert line(lines, "training images").a == 200
    attacked = line(lines, "D_R, at headline eps")
    assert (attacked.a, attacked.b) == pytest.approx((0.525, 0.90), abs=0.003)
    assert attacked.difference == pytest.approx(0.375, abs=0.005)
    assert line(lines, "D_det, on y + 1").a == pytest.approx(0.20, abs=0.003)
    assert line(lines, "diversity.spaces.pixels.D_R.effective_rank.ratio").difference == -1.0


def test_what_may_explain_it(folders):
    lines = compare(*outcomes(folders))
    # At eps 0.5, all attacks: D by D_R's recipe 0.346, robust 0.756, D_R 0.525; at eps 0.25, PGD-20: 0.86, 0.90, 0.90.
    passed = line(lines, "robustness passed on by D_R")
    assert (passed.a, passed.b) == pytest.approx((0.18 / 0.41, 1.0), abs=0.02)
    kept = line(lines, "robust model: accuracy at headline eps beside clean")
    assert kept.a == pytest.approx(0.756 / 0.96, abs=0.005)
    assert line(lines, "headline eps beside the robust model's training eps").b == 0.25
    rank = line(lines, "D_R: diversity in pixels, effective rank beside D's")
    assert (rank.a, rank.b) == (1.5, 0.5)


def test_robustness_passed_on_is_unknown_without_d_by_the_same_recipe(folders, tmp_path):
    root = shutil.copytree(folders[0], tmp_path / "lab")
    params = (root / "params.yaml").read_text().replace("baseline: true", "baseline: false")
    (root / "params.yaml").write_text(params)
    found = read_run(str(root), root)
    assert not [one for one in compare(found, found) if one.what.startswith("robustness passed on")]


def test_csv_and_html_hold_every_line(folders, tmp_path):
    lines = compare(*outcomes(folders))
    write_comparison(lines, "A", "B", tmp_path / "out.csv")
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert rows[0] == ["part", "what", "A", "B", "difference"]
    assert len(rows) == len(lines) + 1
    write_comparison(lines, "A<b>", "B", tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    assert "A&lt;b&gt;" in page
    assert "A<b>" not in page
    assert "robustness passed on by D_R" in page
    assert "metrics" not in [one.part for one in lines]
    assert page.count('<th scope="row"') == len(lines)
    with pytest.raises(CompareError, match=r"out\.txt: the file must end in \.csv or \.html"):
        write_comparison(lines, "A", "B", tmp_path / "out.txt")


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_revisions_are_read_as_they_were(folders, tmp_path):
    root = shutil.copytree(folders[0], tmp_path / "lab")
    git(root, "init", "-q")
    git(root, "add", "params.yaml", "metrics")
    git(root, "commit", "-qm", "first")
    git(root, "tag", "first")
    shutil.copy(folders[1] / "params.yaml", root / "params.yaml")
    git(root, "commit", "-qam", "second")
    old, new = read_run("first", root), read_run("HEAD", root)
    assert (old.headline_eps, new.headline_eps) == (0.5, 0.25)
    direct = read_run(str(folders[0]), root)
    assert old.metrics == direct.metrics
    assert old.results.equals(direct.results)


def test_what_cannot_be_read_is_one_line(folders, tmp_path):
    with pytest.raises(CompareError, match="nowhere: neither a project folder nor a Git revision of a"):
        read_run("nowhere", folders[0])
    with pytest.raises(CompareError, match="--version: neither"):
        read_run("--version", folders[0])
    (tmp_path / "metrics").mkdir()
    with pytest.raises(CompareError, match=r"metrics/results\.csv is not there; `dvc repro evaluate` makes it"):
        read_run(str(tmp_path), folders[0])
    broken = shutil.copytree(folders[0], tmp_path / "broken")
    (broken / "metrics/diversity.json").write_text("{")
    with pytest.raises(CompareError, match=r"metrics/diversity\.json: cannot be read"):
        read_run(str(broken), folders[0])


def test_the_command_prints_a_table(folders, monkeypatch):
    monkeypatch.chdir(folders[0])
    found = CliRunner().invoke(main, ["compare", ".", str(folders[1])])
    assert found.exit_code == 0, found.output
    assert "robustness passed on by D_R" in found.output
    assert "construct.rand.num_examples" not in found.output
    bad = CliRunner().invoke(main, ["compare", ".", "nowhere"])
    assert bad.exit_code == 1
    assert "error: nowhere: neither" in bad.output
