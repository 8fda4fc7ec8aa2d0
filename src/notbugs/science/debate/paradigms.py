"""Paradigms (Li et al. 2023): are non-robust features useful to learning without labels?

Encoders of the pipeline's architecture are trained on D, D_R and D_NR: with labels, contrastively, and as masked
autoencoders. A linear probe on their representations of the same dataset's images, with its labels, is then asked for y
of D's test images. What D_NR loses from one paradigm to another beyond what D_R loses is what its features owe to
the first.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from notbugs.data.images import ImageData, Images, make_generator
from notbugs.evaluation.statements import Chart, Position, Series, Verdict
from notbugs.models.base import Classifier
from notbugs.runtime.config import Seeds, dataset_name
from notbugs.science.common.lab import Answer, Lab, require_images
from notbugs.science.common.question import Question, QuestionSettings
from notbugs.science.common.shares import share_table
from notbugs.science.common.training import StudyTraining, trained
from notbugs.science.debate._self_supervised import (
    Contrastive,
    Masked,
    contrastive_loss,
    head_of,
    masked_loss,
    train_unlabelled,
)
from notbugs.science.debate._shared import gaps, in_points, in_words, judged, near, sub_sample
from notbugs.science.inversion import features

MARGIN = 0.20
"""Points that D_NR must lose beyond D_R from supervised learning to another paradigm: a fifth of all test images."""
USEFUL = 0.20
"""Points above chance that supervised learning must get from D_NR: with less there is nothing to lose."""
DATASETS = {"train": "D", "robust": "D_R", "nonrobust": "D_NR"}
"""Name in the lab -> in the paper."""
Paradigm = Literal["untrained", "supervised", "contrastive", "masked"]
PARADIGMS: tuple[Paradigm, ...] = ("supervised", "contrastive", "masked", "untrained")
OTHERS: tuple[Paradigm, ...] = ("contrastive", "masked")
"""Those without labels, and what a verdict is on."""
Masks = dict[str, list[Tensor]]
"""Paradigm -> which test images are right, (N,) bool, one a seed."""


class ParadigmsSettings(QuestionSettings):
    """How encoders are trained."""

    seeds: Seeds = (0, 1)
    """One encoder for each, of every paradigm and dataset."""
    max_examples: int | None = Field(default=None, ge=10)
    """At most so many images of each dataset, the same rows of all; null takes all."""
    supervised: StudyTraining
    """Training with labels."""
    contrastive: Contrastive
    """SimCLR."""
    masked: Masked
    """The masked autoencoder."""

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError for fewer images than classes."""
        require_images("max_examples", self.max_examples, len(data["train"].labels.unique()))


def paradigms(lab: Lab, settings: ParadigmsSettings) -> Answer:
    """Accuracy of linear probes on encoders of every paradigm and dataset.

    On digits about 40 s. Expected: without labels D_NR loses its usefulness, D_R keeps its own.
    """
    parts = {
        f"paradigms-{name}-{paradigm}-seed-{seed}": partial(
            _probed, settings=settings, name=name, paradigm=paradigm, seed=seed
        )
        for name in DATASETS
        for paradigm in PARADIGMS
        for seed in settings.seeds
    }
    found = iter(lab.load_or_make_all(parts, "paradigms"))
    own: dict[str, Masks] = {}
    on_d: dict[str, Masks] = {}
    for name in DATASETS:
        own[name], on_d[name] = {}, {}
        for paradigm in PARADIGMS:
            masks = [next(found) for _ in settings.seeds]
            own[name][paradigm] = [one["own"] for one in masks]
            on_d[name][paradigm] = [one["d"] for one in masks]
    metrics: dict[str, Any] = {"chance": round(1 / len(lab.data["test"].class_names), 6)}
    metrics |= {"num_examples": len(sub_sample(lab.data["train"], settings.max_examples, _rows(lab)))}
    metrics |= {"own": share_table(own), "on_d": share_table(on_d)}
    metrics["lost"] = gaps({name: _both(own, name) for name in OTHERS})
    gained = {f"{name} {other}": (own[name][other], own[name]["untrained"]) for name in DATASETS for other in OTHERS}
    metrics["gained"] = gaps(gained)
    verdicts = [_judged(name, metrics) for name in OTHERS]
    told = "; ".join(
        f"{paradigm}: D_R {in_words(metrics['own']['robust'][paradigm])}, "
        f"D_NR {in_words(metrics['own']['nonrobust'][paradigm])}"
        for paradigm in PARADIGMS[:3]
    )
    return Answer(metrics, (f"probes on y, {told}",), charts=[_chart(metrics)], verdicts=verdicts)


def _both(own: Mapping[str, Masks], paradigm: Paradigm) -> tuple[list[Tensor], list[Tensor]]:
    """Sums of masks whose difference is what D_NR loses from supervised learning to a paradigm beyond what D_R does."""
    robust, nonrobust = own["robust"], own["nonrobust"]
    first, second = (("supervised", paradigm), (paradigm, "supervised"))
    sums = [
        [one.double() + other for one, other in zip(nonrobust[mine], robust[its], strict=True)]
        for mine, its in (first, second)
    ]
    return sums[0], sums[1]


def _rows(lab: Lab) -> torch.Generator:
    """Draws the same rows of every dataset: those of D_R and D_NR are D's."""
    return make_generator(lab.seed, "paradigms", "examples")


def _probed(lab: Lab, *, settings: ParadigmsSettings, name: str, paradigm: Paradigm, seed: int) -> dict[str, Tensor]:
    """Train one encoder, and probe it: which test images are right, (N,) bool.

    Returns: `own`, of a probe on the same dataset and its labels (Li et al.); `d`, of one on D and D's labels.
    """
    data = sub_sample(lab.data[name], settings.max_examples, _rows(lab))
    encoder = _encoder(lab, settings, data, paradigm, seed, f"paradigms: {dataset_name(name)}, {paradigm}")
    test, base = lab.data["test"].data(), sub_sample(lab.data["train"], settings.max_examples, _rows(lab))
    asked = features(encoder, test.images)
    right = {key: probe(features(encoder, one.images), one.labels, asked) for key, one in (("own", data), ("d", base))}
    return {key: called == test.labels for key, called in right.items()}


def _encoder(
    lab: Lab, settings: ParadigmsSettings, data: ImageData, paradigm: Paradigm, seed: int, description: str
) -> Classifier:
    """A network whose representation was trained on a dataset; those of one seed begin alike."""
    stream = ("paradigms", seed)
    with_labels = settings.supervised if paradigm == "supervised" else None
    encoder = trained(lab, lab.architecture, data, with_labels, stream, description)
    if paradigm in ("supervised", "untrained"):
        return encoder
    width, pixels = encoder.head.in_features, data.images[0].numel()
    draw = make_generator(lab.seed, *stream, paradigm)
    if paradigm == "contrastive":
        how = settings.contrastive
        head = head_of((width, how.projection, how.projection), draw)
        train_unlabelled(encoder, head, data, how, contrastive_loss(how), draw, lab.progress, description)
    else:
        decoder = head_of((width, settings.masked.hidden, pixels), draw)
        loss = masked_loss(settings.masked)
        train_unlabelled(encoder, decoder, data, settings.masked, loss, draw, lab.progress, description)
    return encoder


def probe(seen: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """What a logistic regression on representations (N, F) calls others (M, F): (M,) int64."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    mean, std = seen.mean(dim=0), seen.std(dim=0).clamp(min=1e-6)
    with threadpool_limits(torch.get_num_threads()):  # of workers side by side each would take every processor
        found = LogisticRegression(max_iter=5000).fit(((seen - mean) / std).numpy(), labels.numpy())
    return torch.from_numpy(found.predict(((asked - mean) / std).numpy())).long()


def _judged(name: Paradigm, metrics: Mapping[str, Any]) -> Verdict:
    """Reproduced if D_NR loses MARGIN more than D_R, the interval above 0; judged only where there was much to lose."""
    rows, lost = metrics["own"], metrics["lost"][name]
    of, d_r, d_nr = ((rows[key]["supervised"], rows[key][name]) for key in DATASETS)
    sentence = (
        f"From D_NR supervised learning gets {in_words(d_nr[0])}, {name} {in_words(d_nr[1])}; from D_R "
        f"{in_words(d_r[0])} and {in_words(d_r[1])}; from D {in_words(of[0])} and {in_words(of[1])}. D_NR loses "
        f"{in_points(lost)} more than D_R. Thresholds: {100 * MARGIN:g} points, the interval above 0."
    )
    why = ""
    if d_nr[0]["low"] < metrics["chance"] + USEFUL:
        why = f"Inconclusive: D_NR teaches less than {100 * USEFUL:g} points above chance with labels, too."
    elif metrics["gained"][f"train {name}"]["low"] <= 0:
        gained = in_points(metrics["gained"][f"train {name}"])
        why = f"Inconclusive: on D itself this paradigm teaches no more than an untrained encoder has ({gained})."
    return judged(
        f"lost_{name}",
        f"Non-robust features lose their usefulness without labels ({name})",
        sentence,
        f"one source model, {d_nr[0]['num_seeds']} encoders each, {d_nr[0]['n']} test images",
        holds=lost["value"] >= MARGIN and lost["low"] > 0,
        why_open=why,
        on_edge=near(lost, MARGIN),
    )


def _chart(metrics: Mapping[str, Any]) -> Chart:
    series = [Series.of_shares(label, metrics["own"][name]) for name, label in DATASETS.items()]
    caption = (
        "Accuracy on y of D's test images: a linear probe, trained on a dataset's own images and labels, on encoders "
        "that learnt it in different ways; whiskers: 95% intervals."
    )
    return Chart(
        "probes",
        caption,
        "how the encoder learnt",
        "test accuracy on y",
        series,
        "bars",
        marks={"chance": metrics["chance"]},
    )


QUESTION = Question(
    settings=ParadigmsSettings,
    study=paradigms,
    inputs=("data/train", "data/test", "data/robust", "data/nonrobust"),
    title="Other learning paradigms",
    says="Are non-robust features useful to encoders that learn without labels?",
    position=Position(
        who="Li et al. 2023",
        claim="Non-robust features are shortcuts of supervised learning: in other paradigms they are of little use.",
        reported="on CIFAR-10, features of D_NR are poorly useful to contrastive learning (SimCLR), masked "
        "autoencoders and diffusion models, while those of D_R and D keep their usefulness.",
        source="https://arxiv.org/abs/2310.18936",
        mind="D_NR that loses less than 20 points more than D_R from supervised learning to another paradigm.",
    ),
)
