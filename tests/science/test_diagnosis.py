"""Each cause is planted in a dataset that is sound otherwise, and the diagnosis names it."""

import io
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from notbugs.cli import main
from notbugs.construction.building import construct
from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import load_dataset, save_dataset
from notbugs.evaluation.learnt import NotLearnt, has_learnt, not_learnt
from notbugs.evaluation.results import ResultsError
from notbugs.models.base import Classifier
from notbugs.pipeline.diagnose import StrangeDatasetError, diagnosis_of
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.science.causes import Cause, causes, lines
from notbugs.science.diagnosis import Fit, Subject, measure

COUNT, EPS = 600, 1.02
LEARNT = Fit(losses=[[2.3, 1.2, 0.1]], on_y=0.8, on_shifted=0.05)


def made_by(model: Classifier, data: ImageData, recipe: str = "random_target", **settings: Any) -> ImageData:
    how = {"eps": EPS, "num_steps": 60, "step_size": 0.1, **settings}
    return construct(model, data, recipe, generator=make_generator(3), **how).data


@pytest.fixture(scope="module")
def base(digits: tuple[ImageData, ImageData]) -> ImageData:
    return digits[0].select(slice(0, COUNT))


@pytest.fixture(scope="module")
def sound(standard_model: Classifier, robust_model: Classifier, base: ImageData) -> Subject:
    """D_rand at an eps where the source is persuaded and images are still y."""
    made = made_by(standard_model, base)
    return Subject(made, base, made.labels, standard_model, robust_model, eps=EPS, fit=LEARNT)


def wrong_with(subject: Subject, name: str = "rand") -> list[Cause]:
    return causes(name, subject, measure(subject, make_generator(0)))


def keys(subject: Subject) -> list[str]:
    return [cause.key for cause in wrong_with(subject)]


def changed(subject: Subject, change: Callable[[Tensor], Tensor]) -> Subject:
    return replace(subject, made=replace(subject.made, images=change(subject.made.images)))


def through_jpeg(images: Tensor) -> Tensor:
    def one(image: Tensor) -> Tensor:
        kept = io.BytesIO()
        pixels = (255 * image[0]).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(kept, format="JPEG", quality=60)
        return torch.from_numpy(np.array(Image.open(kept))).float()[None] / 255

    return torch.stack([one(image) for image in images])


def test_nothing_is_wrong_with_a_sound_set(sound: Subject) -> None:
    assert wrong_with(sound) == []


def test_eps_too_small(sound: Subject, standard_model: Classifier, base: ImageData) -> None:
    made = made_by(standard_model, base, eps=0.3, step_size=0.05)
    found = wrong_with(replace(sound, made=made, recorded=made.labels, eps=0.3))
    assert found[0].key == "small_eps"
    assert "construct.rand.eps above 0.3" in found[0].change


def test_an_attack_that_ends_before_the_edge(sound: Subject, standard_model: Classifier, base: ImageData) -> None:
    made = made_by(standard_model, base, num_steps=3, step_size=0.1)
    assert keys(replace(sound, made=made, recorded=made.labels))[0] == "short_attack"


def test_an_undertrained_source(sound: Subject, new_model: Callable[..., Classifier], base: ImageData) -> None:
    weak = new_model(base).eval()
    with torch.no_grad():  # trained weights and untrained ones, half and half
        for mine, theirs in zip(weak.parameters(), sound.source.parameters(), strict=True):
            mine.add_(theirs).mul_(0.5)
    made = made_by(weak, base)
    subject = replace(sound, made=made, recorded=made.labels, source=weak)
    assert keys(subject)[0] == "undertrained_source"
    assert "undertrained_source" not in keys(replace(subject, adversarial=True))


def test_an_augmenting_fit(sound: Subject) -> None:
    subject = replace(sound, fit=replace(LEARNT, crop_padding=3, flip=True))
    found = wrong_with(subject)
    assert [cause.key for cause in found] == ["augmentation"]
    assert "fit.rand.crop_padding = 0" in found[0].change


def test_images_that_went_through_8_bits(sound: Subject) -> None:
    assert keys(changed(sound, lambda images: (255 * images).round() / 255)) == ["rounded"]


def test_a_dataset_that_was_stored_in_half_precision_was_not_rounded(sound: Subject) -> None:
    assert keys(changed(sound, lambda images: images.half().float())) == []


def test_images_that_went_through_jpeg(sound: Subject) -> None:
    found = wrong_with(changed(sound, through_jpeg))
    assert found[0].key == "compressed"
    assert "JPEG" in found[0].says


@pytest.mark.parametrize("recorded", [True, False], ids=["before they were recorded", "afterwards"])
def test_labels_that_were_shuffled(sound: Subject, recorded: bool) -> None:
    shuffled = sound.made.labels[torch.randperm(COUNT, generator=make_generator(1))]
    subject = replace(sound, made=replace(sound.made, labels=shuffled))
    found = wrong_with(replace(subject, recorded=shuffled) if recorded else subject)
    assert found[0].key == "labels"


def test_a_perturbation_that_persuades_one_model_alone(sound: Subject, new_model: Callable[..., Classifier]) -> None:
    stranger = new_model(sound.base.select(slice(0, COUNT)), seed=7).eval()
    assert keys(replace(sound, others=[stranger])) == ["one_model_only"]


def test_a_perturbation_that_is_seen(sound: Subject, standard_model: Classifier, base: ImageData) -> None:
    made = made_by(standard_model, base, eps=3.0, step_size=0.5)
    assert "visible" in keys(replace(sound, made=made, recorded=made.labels, eps=3.0))


def test_an_eps_that_is_too_small_and_seen_is_not_to_be_raised_and_lowered(
    sound: Subject, robust_model: Classifier, base: ImageData
) -> None:
    """A robust source is persuaded by what is visible alone."""
    made = made_by(robust_model, base)
    found = wrong_with(replace(sound, made=made, recorded=made.labels, source=robust_model, adversarial=True))
    assert [cause.key for cause in found] == ["no_eps"]
    assert "a larger eps is seen even more" in found[0].change


def test_a_fit_that_has_not_begun(sound: Subject) -> None:
    stuck = Fit(losses=[[2.31, 2.303], [2.3, 0.5]], on_y=0.1, on_shifted=0.1)
    found = wrong_with(replace(sound, fit=stuck))
    assert [cause.key for cause in found] == ["not_learnt_yet"]
    assert "1 of 2" in found[0].says
    assert measure(replace(sound, fit=stuck), make_generator(0)).left_at == [None, 2]


def test_a_fit_that_has_only_begun(sound: Subject) -> None:
    begun = Fit(losses=[[2.31, 2.305, 2.303, 2.137]], on_y=0.17, on_shifted=0.1)
    found = wrong_with(replace(sound, fit=begun))
    assert [cause.key for cause in found] == ["only_begun"]
    assert "in epoch 4 of 4 and is 2.137 at the end" in found[0].says
    assert "divide fit.rand.lr by 4" in found[0].change
    assert keys(replace(sound, fit=replace(begun, losses=[[2.31, 2.305, 2.303, 0.9]]))) == []
    assert keys(replace(sound, fit=replace(begun, losses=[[2.31, 2.2, 2.1, 2.0]]))) == []


def test_a_fit_that_reads_the_object(sound: Subject, standard_model: Classifier, base: ImageData) -> None:
    made = made_by(standard_model, base, "deterministic_target")
    fit = Fit(losses=[[1.0, 0.1]], on_y=0.2, on_shifted=0.7)
    subject = replace(sound, made=made, recorded=made.labels, shifted=True, fit=fit)
    assert keys(subject) == ["reads_the_object"]
    assert keys(replace(subject, fit=replace(fit, on_y=0.7, on_shifted=0.2))) == []


def test_what_was_pushed_towards_t_and_labelled_y_is_judged_by_t(
    sound: Subject, standard_model: Classifier, base: ImageData
) -> None:
    made = made_by(standard_model, base)
    labelled_y = replace(made, labels=base.labels)
    subject = replace(sound, made=labelled_y, recorded=base.labels, aim=made.labels)
    found = measure(subject, make_generator(0))
    assert (found.success, found.label_is_y) == (measure(sound, make_generator(0)).success, 1)
    assert causes("untouched", subject, found) == []


def test_the_probes_read_what_is_there(sound: Subject) -> None:
    found = measure(sound, make_generator(0))
    assert found.probe_delta > 0.5
    shuffled = sound.made.labels[torch.randperm(COUNT, generator=make_generator(1))]
    lost = measure(replace(sound, made=replace(sound.made, labels=shuffled)), make_generator(0))
    assert lost.probe_delta < 0.25
    assert measure(sound, make_generator(0), max_examples=100).num_examples == 100


def test_a_part_of_a_dataset_that_is_sorted_by_class_holds_all_classes(sound: Subject) -> None:
    """The first class is blackened: the source calls all of it the same."""
    order = sound.base.labels.argsort(stable=True)
    base, made = sound.base.select(order), sound.made.select(order)
    black = replace(base, images=base.images * (base.labels != 0)[:, None, None, None])
    found = measure(replace(sound, made=made, base=black, recorded=made.labels), make_generator(0), max_examples=50)
    assert found.num_examples == 50
    assert 0.5 < found.source_accuracy < 1


def test_the_words_hold_the_numbers(sound: Subject) -> None:
    subject = replace(sound, fit=Fit(losses=[[2.303]], on_y=0.1, on_shifted=0.1))
    found = measure(subject, make_generator(0))
    text = "\n".join(lines("rand", found, causes("rand", subject, found)))
    assert f"success {found.success:.1%} on the source" in text
    assert "left ln C = 2.303 in epoch not yet" in text
    assert "1. the fits have not learnt yet" in text


def test_a_loss_that_has_left_the_guess() -> None:
    assert not has_learnt(math.log(10), 10)
    assert not has_learnt(2.29, 10)
    assert has_learnt(2.2, 10)
    assert str(NotLearnt(1, 3)) == "not learnt yet: 1 of 3 fits"
    assert str(NotLearnt(1, 1)) == "not learnt yet"


def test_fits_that_have_not_learnt_are_found_in_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics/fit").mkdir(parents=True)
    (tmp_path / "metrics/prepare.json").write_text('{"classes": 10}')
    fits = {"0": {"0": {"train_loss": 2.3}, "1": {"train_loss": 0.2}}}
    (tmp_path / "metrics/fit/rand.json").write_text(json.dumps({"full": {"seeds": fits}}))
    assert not_learnt(tmp_path, ["rand", "det"]) == {"D_rand": NotLearnt(1, 2)}
    (tmp_path / "metrics/fit/rand.json").write_text("{}")
    with pytest.raises(ResultsError, match="full"):
        not_learnt(tmp_path, ["rand"])


def test_the_stage_and_the_command(finished_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of the stage are those that the command prints for one dataset."""
    root = tmp_path / "project"
    shutil.copytree(finished_project, root, symlinks=True)
    run_stage(open_project(root), "diagnose")
    found = json.loads((root / "metrics/diagnose.json").read_text())["constructions"]
    params = yaml.safe_load((root / "params.yaml").read_text())
    assert set(found) == set(params["construct"])
    rand = found["rand"]
    assert rand["num_examples"] == params["diagnose"]["max_examples"]
    assert 0 <= rand["success"] <= 1
    assert found["robust"]["norm_share"] is None
    monkeypatch.chdir(root)
    printed = CliRunner().invoke(main, ["diagnose", "rand"])
    assert printed.exit_code == 0, printed.output
    assert f"success {rand['success']:.1%} on the source" in printed.output
    unknown = CliRunner().invoke(main, ["diagnose", "rnd"])
    assert unknown.exit_code != 0
    assert "rnd" in f"{unknown.output}{unknown.exception}"
    made = load_dataset(root / "data/rand/source-0")
    assert len(made) >= rand["num_examples"]


def test_a_dataset_from_elsewhere_is_left_out(
    finished_project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which image of D each was made from is not known: the stage goes on, the command says so."""
    root = tmp_path / "project"
    shutil.copytree(finished_project, root, symlinks=True)
    folder = root / "data/rand/source-0"
    made = load_dataset(folder)
    table, data = made.examples.assign(source_index=-1), made.select(slice(None))
    shutil.rmtree(folder)
    save_dataset(folder, data, table, name="D_rand", source="import:npz", settings={})
    run_stage(open_project(root), "diagnose")
    assert "rand: left out: " in capfd.readouterr().err
    assert "rand" not in json.loads((root / "metrics/diagnose.json").read_text())["constructions"]
    with pytest.raises(StrangeDatasetError, match="nothing to compare with"):
        diagnosis_of(open_project(root), "rand")
