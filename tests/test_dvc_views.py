"""What DVC itself shows of the recorded pipeline: a narrow table of experiments, and plots that need no network."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import vl_convert
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.cli.plots import LIBRARY, PAGE, put_library
from notbugs.report.drawing import GREY, look
from projects import ROOT, git, run

RECORDED = ("dvc.yaml", "dvc.lock", "params.yaml", "metrics", "plots", "sweeps", ".dvc/config", ".dvc/plots")
TEMPLATES = ROOT / ".dvc" / "plots"
COLUMNS = 120


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Git holds of a pipeline that has run, committed, and once more with another eps and other numbers."""
    folder = tmp_path_factory.mktemp("recorded")
    for name in RECORDED:
        (folder / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("figures", "planted", "*.db*", "*.parquet")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    params, metrics = folder / "params.yaml", folder / "metrics" / "headline.json"
    recipe = "  det:"
    before, _, after = params.read_text().partition(recipe)
    params.write_text(before + recipe + after.replace("eps: 1.1", "eps: 1.4", 1))
    numbers = json.loads(metrics.read_text())
    for estimator in (found for dataset in numbers.values() for found in dataset.values()):
        estimator |= {name: round(value / 2, 6) for name, value in estimator.items()}
    metrics.write_text(json.dumps(numbers))
    lock = folder / "dvc.lock"
    lock.write_text(
        re.sub(r"(path: (?:data|sweeps|models/train)\n.*\n +md5: )\w{8}", r"\g<1>00000000", lock.read_text())
    )
    git(folder, "commit", "-qam", "y")
    return folder


def command(makefile: Path) -> str:
    """What `make experiments` runs."""
    found = re.search(r"^experiments:.*\n\t@(?:\$\(BIN\)/)?(dvc .*)", makefile.read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_table_of_experiments_fits_a_terminal(recorded: Path) -> None:
    shown = run(recorded, "sh", "-c", f"{command(ROOT / 'Makefile')} --num 2", COLUMNS=str(COLUMNS), cold=True).stdout
    assert max(map(len, shown.splitlines())) <= COLUMNS
    heading = shown.splitlines()[1].split()
    kept = ["D_R.standard.worst_eps_0.6", "D_rand.standard.clean", "D_det.standard.clean"]
    assert heading == ["Experiment", *kept, "construct.det.eps"]
    assert re.search(r"workspace +0\.\d+ +0\.\d+ +0\.\d+ +1\.4 ", shown)


def test_the_page_names_the_command_that_make_runs() -> None:
    assert f"\n{command(ROOT / 'Makefile')}\n" in (ROOT / "docs" / "dvc.md").read_text()
    assert command(ROOT / "template" / "Makefile") == command(ROOT / "Makefile")


@pytest.fixture(scope="module")
def page(recorded: Path) -> str:
    """What `dvc plots show` writes."""
    printed = run(recorded, "dvc", "plots", "show").stdout.strip()
    assert Path(printed.removeprefix("file://")) == recorded.resolve() / PAGE
    return (recorded / PAGE).read_text(encoding="utf-8")


def drawn(page: str) -> dict[str, str]:
    """Each plot of the page as Vega draws it without a network: the name of its place -> SVG."""
    found = re.findall(r'<div id = "([^"]+)">.*?var spec = (.*?);\n', page, re.DOTALL)
    return {name: vl_convert.vegalite_to_svg(spec) for name, spec in found}


def colours(svg: str) -> set[str]:
    """Of the lines."""
    return {colour.lower() for colour in re.findall(r'<path aria-label="[^"]*"[^>]*stroke="(#[0-9a-fA-F]{6})"', svg)}


def test_every_plot_is_drawn_in_the_colours_of_the_report(page: str) -> None:
    plots = drawn(page)
    fits = {"plots_learning_fit-det_csv": "D_det", "plots_learning_fit-nonrobust_csv": "D_NR"}
    paper = {look("D", "robust"), *map(look, ("D", "D_R", "D_NR", "D_rand", "D_det"))}
    for name in ("plots_accuracy_vs_eps_csv", "plots_accuracy_vs_minimum_norm_csv"):
        assert colours(plots[name]) == {one.colour.lower() for one in paper}
    for name, dataset in fits.items():
        assert colours(plots[name]) == {look(dataset).colour.lower()}
    assert colours(plots["plots_learning_train-robust_csv"]) == {look("D", "robust").colour.lower()}
    assert colours(plots["sweeps_small_trials_csv"]) == {look(name).colour.lower() for name in ("D_rand", "D_det")}


def test_learning_is_shown_on_validation_and_sweeps_with_both_labels(page: str) -> None:
    plots = drawn(page)
    robust = plots["plots_learning_train-robust_csv"]
    assert all(panel in robust for panel in (">on y<", ">on y + 1<", ">on y, under attack<"))
    curves = pd.read_csv(ROOT / "plots" / "learning" / "train-robust.csv").query("subset == 'full'")
    measured = ("validation_accuracy", "validation_adversarial_accuracy")
    for mean in (curves.groupby("epoch")[column].mean().dropna().iloc[-1] for column in measured):
        assert f"epoch: 30; Mean of share: {mean:.4f}"[:-1] in robust
    study = plots["sweeps_small_trials_csv"]
    assert all(text in study for text in (">on y<", ">on y + 1<", "D_rand (workspace)", "D_det (workspace)", ">steps<"))


def test_the_page_loads_vega_from_beside_it_else_as_dvc_does(page: str) -> None:
    assert re.findall(r'<script src="([^"]+)"', re.sub(r"<template.*?</template>", "", page, flags=re.DOTALL)) == [
        LIBRARY
    ]
    kept = re.search(r'<template id="network">(.*?)</template>', page, re.DOTALL)
    assert kept is not None
    assert "vega-embed" in kept[1]


def test_vega_is_put_beside_the_page_once(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recorded / "plots")
    assert CliRunner().invoke(main, ["plots", "--prepare"]).exit_code == 0
    script = recorded / PAGE.with_name(LIBRARY)
    assert "window.vegaEmbed" in script.read_text(encoding="utf-8")
    assert "</script" not in script.read_text(encoding="utf-8")
    script.write_text("mine")
    assert put_library(recorded).read_text() == "mine"


def conditions(template: Any) -> dict[str, str]:
    """Dataset -> colour, of a template that has a colour by condition."""
    colour = template["spec"]["encoding"]["color"]
    assert colour["value"] == GREY
    return {one["test"].split("'")[1]: one["value"] for one in colour["condition"]}


@pytest.mark.parametrize("name", ["learning", "sweep"])
def test_templates_have_the_colours_of_the_report(name: str) -> None:
    found = conditions(json.loads((TEMPLATES / f"{name}.json").read_text()))
    assert {"D", "D_robust", "D_R", "D_NR", "D_rand", "D_det", "D_rand_from_robust"} <= set(found)
    assert found == {one: look(*(("D", "robust") if one == "D_robust" else (one,))).colour for one in found}
