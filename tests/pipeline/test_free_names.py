"""Entries of train, construct and fit under names of one's own, and fits on datasets that were imported."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from resume_tools import set_params

from notbugs.cli.check import check
from notbugs.pipeline.running.unused import remove_unused
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.config import check_name, dataset_name, in_order_of_paper, read_params
from notbugs.runtime.errors import ConfigError
from tiny import ATTACK, CONSTRUCT, TINY_PARAMS, TRAIN

FIT = {**TRAIN, "seeds": [0], "still_y": False}


def test_names_of_the_paper_and_others() -> None:
    assert [dataset_name(key) for key in ("robust", "det", "det_strong")] == ["D_R", "D_det", "D_det_strong"]
    assert in_order_of_paper(["weak", "det", "robust", "also"]) == ["robust", "det", "weak", "also"]


@pytest.mark.parametrize("key", ["construct.weak", "fit.D2", "train.train", "train.robust_1"])
def test_names_that_are_taken_as_they_are(key: str) -> None:
    check_name(key)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("construct.", "a name has letters, digits and _"),
        ("construct.a/b", "a name has letters, digits and _"),
        ("fit.2nd", "a name has letters, digits and _, at most 64, and begins with a letter"),
        (f"train.{'x' * 65}", "at most 64"),
        ("construct.train", "the name is taken by something else"),
        ("fit.weak_still_y", "the name is taken by something else"),
        ("construct.R", "the name is taken by something else"),  # it would be called D_R
    ],
)
def test_names_that_cannot_be(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^params\.yaml: {key}: .*{message}"):
        check_name(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"construct": {"weak": {**CONSTRUCT["rand"], "model": "wide"}}},
            r"construct\.weak\.model = 'wide': must be an e",
        ),
        (
            {"fit": {"weaker": FIT}},
            r"fit\.weaker: there is no construct\.weaker to fit on, and no imported dataset in data/weaker",
        ),
        ({"construct": {"a-b": CONSTRUCT["rand"]}}, r"construct\.a-b: a name has letters"),
    ],
)
def test_entries_that_do_not_fit_are_one_line(change: dict, message: str) -> None:
    params = {**TINY_PARAMS, **{section: {**TINY_PARAMS[section], **entries} for section, entries in change.items()}}
    with pytest.raises(ConfigError, match=rf"^params\.yaml: {message}"):
        check(params)


def test_from_another_source_model_to_the_table(project: Path) -> None:
    """A third source model, a second D_rand made with it, and its fits, measured beside the others."""
    lab = set_params(
        project,
        train={"mild": {**TRAIN, "seeds": [3], "attack": {**ATTACK, "eps": 0.1}}},
        construct={"weak": {**CONSTRUCT["rand"], "model": "mild", "eps": 0.25}},
        fit={"weak": FIT},
        evaluate={"suite_seeds": 0},
    )
    for stage, name in (("train", "mild"), ("construct", "weak"), ("fit", "weak"), ("evaluate", None)):
        run_stage(lab, stage, name)
    facts = json.loads((project / "metrics/construct/weak.json").read_text())
    assert list(facts["sources"]) == ["3"]
    with (project / "metrics/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(row["dataset"], row["estimator"], row["source_seed"], row["construction_eps"]) for row in rows}
    assert {("D_weak", "standard", "3", "0.25"), ("D", "mild", "", "")} <= found
    header = (project / "plots/accuracy_vs_eps.csv").read_text().splitlines()[0].split(",")
    assert {"D_mild", "D_weak", "D_rand"} < set(header)


def test_an_imported_dataset_is_fitted_on(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """D_rand's images, stored without what the judges said of them, under data/released/source-0."""
    from notbugs.data.store import load_dataset, save_dataset

    made = load_dataset(project / "data/rand/source-0")
    examples = made.examples[["index"]]
    data = made.data()
    save_dataset(project / "data/released/source-0", data, examples, name="released", source="somebody", settings={})
    lab = set_params(project, fit={"released": {**FIT, "still_y": True}})
    params = {**TINY_PARAMS, "fit": {**TINY_PARAMS["fit"], "released": FIT}}
    check(params, project)
    run_stage(lab, "fit", "released")
    assert "fit released, source 0: no judge has looked at it, no second fit" in capfd.readouterr().err
    metrics = json.loads((project / "metrics/fit/released.json").read_text())
    assert metrics["dataset"]["source"] == "somebody"
    (model,) = (project / "models/fit/released").rglob("*.safetensors")
    twin = project / "models/fit/rand/full/source-0" / model.name
    assert model.stat().st_size == twin.stat().st_size
    remove_unused(lab)
    assert (project / "data/released").exists()  # no construction's


def test_what_was_made_under_a_name_goes_with_its_entry(project: Path) -> None:
    """Of names in dvc.lock, as of the paper's: here a fit's table, which Git keeps."""
    import yaml

    from notbugs.runtime.dvc_lock import md5

    table = project / "metrics/fit/weak.json"
    table.write_text("{}")
    out = {"path": "metrics/fit/weak.json", "hash": "md5", "md5": md5(table), "size": 2}
    lock = {"schema": "2.0", "stages": {"fit@weak": {"cmd": "notbugs fit weak", "outs": [out]}}}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    lab = set_params(project)
    remove_unused(lab)
    assert not table.exists()
    assert read_params(project / "params.yaml")["fit"].keys() == {"rand"}
    shutil.rmtree(project)
