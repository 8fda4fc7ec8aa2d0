"""Variants of the paper's sets beside its four in one project: each has its title, colour and recipe's claim."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from matplotlib.figure import Figure
from resume_tools import set_params

from notbugs.cli import main
from notbugs.pipeline.stages import run_stage
from notbugs.report.drawing import drawn_as, look
from notbugs.report.sets import sets_of
from notbugs.runtime.config import read_params
from tiny import CONSTRUCT, TRAIN

FIT = {**TRAIN, "seeds": [0], "epochs": 8, "still_y": False}
DET, RAND = ({**CONSTRUCT[name], "source_seeds": [0]} for name in ("det", "rand"))
VARIANTS = {
    "det_strong": {**DET, "eps": 1.5},
    "det_ensemble": {**{key: DET[key] for key in ("recipe", "eps", "num_steps", "step_size")}, "from": ["standard"]},
    "rand_noise": {**RAND, "start": "noise", "title": "D_rand, from noise"},
    "untouched": {**DET, "label": "source", "colour": "#aa0011"},
}
PAPERS = {"nonrobust": {**CONSTRUCT["nonrobust"], "source_seeds": [0]}, "det": DET}


@pytest.fixture(scope="module")
def lab(made_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project with the paper's four sets, four variants, their fits, and the report; read only."""
    root = shutil.copytree(made_project, tmp_path_factory.mktemp("variants") / "project")
    made = {**PAPERS, **VARIANTS}
    project = set_params(
        root,
        construct=made,
        fit=dict.fromkeys(("robust", *made), FIT),
        evaluate={"suite_seeds": 0, "eps": [0.5], "headline_num_steps": 2},
        diagnose={"max_examples": 60},
        report={"grid_examples": 3},
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NOTBUGS_TRACKING", "off")
        patched.setattr(Figure, "savefig", lambda self, file, **options: file.write(b"\x89PNG" + bytes(32)))
        for name in ("robust", *made):
            run_stage(project, "construct", name)
            run_stage(project, "fit", name)
        run_stage(project, "evaluate")
        run_stage(project, "diagnose")
        run_stage(project, "report")
    return root


def test_each_is_in_the_table_under_its_title(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab)
    table = CliRunner().invoke(main, ["results"]).output
    titles = ["D_R", "D_NR", "D_rand", "D_det", "D_det_strong", "D_det_ensemble", "D_rand, from noise", "D_untouched"]
    rows = [line.strip() for line in table.splitlines()]
    assert all(any(row.startswith(f"{title} ") for row in rows) for title in titles)
    assert "D_rand_noise" not in table


def test_each_of_the_papers_sets_is_judged_by_its_recipes_claim(lab: Path) -> None:
    verdicts = {one["key"]: one for one in json.loads((lab / "reports/verdicts.json").read_text())}
    further = [key for key in verdicts if ":" in key]
    assert further == ["det:det_strong", "det:det_ensemble"]
    title = "Non-robust features suffice against the visible ones"
    assert verdicts["det:det_ensemble"]["title"] == f"{title} (D_det_ensemble)"
    assert verdicts["det"]["title"] == f"{title} (D_det)"
    assert verdicts["det:det_strong"]["measured"].startswith("The fit on D_det_strong calls ")
    assert "Of the images of D_det_strong that" in verdicts["det:det_strong"]["measured"]


def test_each_is_diagnosed_by_what_it_was_made_from(lab: Path) -> None:
    """Of a start from noise no ball lies around x; what is labelled y was pushed towards t."""
    found = json.loads((lab / "metrics/diagnose.json").read_text())["constructions"]
    assert set(found) == {"robust", "rand", *PAPERS, *VARIANTS}
    assert found["rand_noise"]["norm_share"] is None
    assert found["det"]["norm_share"] == pytest.approx(1, abs=0.05)
    assert found["untouched"]["label_is_y"] == 1
    assert found["untouched"]["success"] == found["det"]["success"]


def test_the_page_says_which_are_not_the_papers_and_why(lab: Path) -> None:
    page = (lab / "reports/report.html").read_text()
    told = "No claim of the paper is about D_rand, from noise (start = noise), D_untouched (label = source)."
    assert told in page
    for note in (
        "recipe random_target; start = noise",
        "recipe deterministic_target; label = source",
        "recipe deterministic_target; from = [&#34;standard&#34;]",
    ):
        assert note in page
    assert (lab / "plots/figures/grid_further.png").exists()


def test_their_colours_differ_and_follow_from_the_recipes(lab: Path) -> None:
    sets = sets_of(read_params(lab / "params.yaml"))
    with drawn_as(sets.values()):
        looks = {name: look(one.name) for name, one in sets.items()}
        assert look("D_det_strong_still_y").colour == looks["det_strong"].colour
    assert len({one.colour for one in looks.values()}) == len(looks)
    assert looks["untouched"].colour == "#aa0011"
    assert {looks[name].marker for name in ("det", "det_strong", "det_ensemble", "untouched")} == {"P"}
    assert looks["rand"].colour == "#009E73"
    assert look("D_det_strong").colour == "#595959"  # of no project


def test_a_papers_name_on_another_set_gets_no_verdict(lab: Path) -> None:
    from notbugs.report.page import SECTIONS, load_project

    project = load_project(lab)
    project.params["construct"]["det"] |= {"label": "source"}
    project.params["construct"]["rand"] |= {"recipe": "deterministic_target"}
    claims = next(section for section in SECTIONS if section.key == "claims")
    verdicts = {one.key: one for one in claims.judge(project, {})}
    assert verdicts["det"].sentence == "Inconclusive: D_det is another set than the paper's (label = source)."
    assert "D_rand is another set than the paper's (recipe = deterministic_target)" in verdicts["rand"].sentence


def test_titles_are_no_part_of_what_is_made(lab: Path) -> None:
    manifest = json.loads((lab / "data/rand_noise/source-0/manifest.json").read_text())
    assert manifest["name"] == "D_rand_noise"
    assert "title" not in manifest["settings"]
    assert yaml.safe_load((lab / "params.yaml").read_text())["construct"]["rand_noise"]["title"]


@pytest.mark.parametrize(
    ("train", "construct", "like", "another"),
    [
        ({}, {}, "nonrobust", "model = robust"),
        ({"attack": {"eps": 0.5}}, {}, "robust", ""),
        ({"from": "a.pt", "seeds": [0]}, {}, "robust", ""),  # nobody says how it was trained, but for its name
        ({"from": "a.pt", "seeds": [0]}, {"model": "given"}, "", "model = given"),
        ({"attack": {"eps": 0.5}}, {"recipe": "random_target", "eps": 0.5}, "rand", "recipe = random_target"),
    ],
)
def test_what_d_r_is_follows_from_its_source_model(train: dict, construct: dict, like: str, another: str) -> None:
    own = {**CONSTRUCT["robust"], **construct}
    params = {"train": {"robust": train, "given": {"from": "b.pt"}}, "construct": {"robust": own}}
    found = sets_of(params)["robust"]
    assert (found.like, found.another_set) == (like, another)


def test_a_targeted_set_of_a_robust_model_is_a_control() -> None:
    own = {**CONSTRUCT["rand"], "model": "robust"}
    made = dict.fromkeys(("rand", "rand_from_robust", "mine"), own)
    params = {"train": {"robust": {"attack": {"eps": 0.5}}}, "construct": made}
    found = sets_of(params)
    assert [found[key].another_set for key in found] == ["model = robust", "", "model = robust"]
