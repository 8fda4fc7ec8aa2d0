"""What the source model and the judges say of constructed images, an image a row, and in sum."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from notbugs.attacks.losses import called
from notbugs.construction.recipe import Constructed, pixel_distance
from notbugs.data.images import Images
from notbugs.evaluation.accuracy import called_by, model_device, predict
from notbugs.evaluation.neighbours import nearest_neighbour
from notbugs.models.base import Classifier

JUDGES = {"robust_model": "robust_prediction", "nearest_neighbour": "neighbour_prediction"}
"""Judge in the summary -> its column of examples.parquet; the column for the untouched image ends in `_before`."""


@dataclass(frozen=True)
class Untouched:
    """What models say of images of D before anything is made of them: the same for every dataset.

    Attributes:
        first: row of D of the first one.
        logits: of the source model, (n, K).
        robust_logits: of the robust model, (n, K).
    """

    first: int
    logits: Tensor
    robust_logits: Tensor

    def of(self, rows: slice) -> "Untouched":
        """Of these rows of D, which must be among them."""
        own = slice(rows.start - self.first, rows.stop - self.first)
        return Untouched(rows.start, self.logits[own], self.robust_logits[own])


def describe(
    constructed: Constructed,
    data: Images,
    model: Classifier,
    robust_model: Classifier,
    *,
    first: int = 0,
    reference: Images | None = None,
    neighbours: Tensor | None = None,
    untouched: Untouched | None = None,
    others: Sequence[Classifier] = (),
) -> dict[str, Tensor]:
    """The per-example facts of a constructed dataset or of a part, (N,) each, by the names of examples.parquet.

    `still_y` is true where both judges called the image y before the perturbation and still do: of an image that a
    judge did not know before, it cannot say what the perturbation changed.

    Where images are labelled y though they were pushed towards t (`target_label` among the columns), `success` and
    `success_other_seeds` are about t; elsewhere about the label given.

    Args:
        constructed: the dataset.
        data: D, from which it was made, row by row.
        model: its source model: probabilities before and after, success.
        robust_model: one of the two judges of what an image still shows; the other is 1-NN on D.
        first: row of D that the first example was made from.
        reference: D as 1-NN sees it, see `neighbours.neighbour_reference`; None for D itself.
        neighbours: what 1-NN calls each image of D (`neighbours.own_neighbours`), (len(data),); None computes it.
        untouched: what the two models say of D's own images, these rows among them; None asks them.
        others: models of the source's kind from other seeds; `success_other_seeds` is the share of them that the image
            persuades, NaN where there are none.
    """
    new, true, given = constructed.data.images, constructed.true_labels, constructed.data.labels
    aim = constructed.columns.get("target_label", given)
    rows = slice(first, first + len(new))
    old = data.select(rows).images
    unknown = torch.full((len(new),), torch.nan)
    known, device = data if reference is None else reference, model_device(model)
    if untouched is None:
        before = Untouched(first, predict(model, old), predict(robust_model, old))
    else:
        before = untouched.of(rows)
    if neighbours is None:
        neighbours_before = nearest_neighbour(old, known, first=first, device=device)
    else:
        neighbours_before = neighbours[rows]
    columns = {
        "true_label": true,
        "given_label": given,
        "delta_norm": pixel_distance(new, old),
        "pixel_distance_start": unknown,
        "representation_distance": unknown,
        "representation_distance_start": unknown,
        **constructed.columns,
        **_probabilities(before.logits, predict(model, new), true, given, aim),
        "success_other_seeds": _success(others, new, aim) if others else unknown,
        "robust_prediction_before": called(before.robust_logits),
        "robust_prediction": called_by(robust_model, new),
        "neighbour_prediction_before": neighbours_before,
        "neighbour_prediction": nearest_neighbour(new, known, first=first, device=device),
    }
    return {**columns, "still_y": _still_y(columns)}


def _probabilities(
    logits_before: Tensor, logits: Tensor, true: Tensor, given: Tensor, aim: Tensor
) -> dict[str, Tensor]:
    """What the source model says of the images before and after, and whether it calls them by the label aimed at."""
    before, after = logits_before.softmax(dim=1), logits.softmax(dim=1)
    return {
        "probability_true_before": _of(before, true),
        "probability_given_before": _of(before, given),
        "probability_true_after": _of(after, true),
        "probability_given_after": _of(after, given),
        "success": called(logits) == aim,
    }


def _still_y(columns: Mapping[str, Tensor]) -> Tensor:
    """Where each judge called the image y before, and still does, (N,) bool."""
    judged = [columns[f"{column}{when}"] for column in JUDGES.values() for when in ("", "_before")]
    return torch.stack([prediction == columns["true_label"] for prediction in judged]).all(dim=0)


def _success(models: Sequence[Classifier], images: Tensor, aim: Tensor) -> Tensor:
    """Share of the models that call each image by the label aimed at, (N,) float32."""
    hits = torch.stack([called_by(model, images) == aim for model in models])  # (M, N)
    return hits.float().mean(dim=0)


def summarise(columns: Mapping[str, Tensor]) -> dict[str, Any]:
    """Summary of the per-example facts, one source model's part of metrics/construct/<name>.json; shares are fractions.

    Of each judge: `before`, the share that it called y before the perturbation; `still_y`, the share still called y
    among those (null where there are none); `still_y_absolute`, the share of all that it calls y; `target`, the share
    that it calls by the label aimed at: the one given, but in sets labelled y. `still_y_both` is the share that both
    still call y, among those that both called y before.
    """
    true, given = columns["true_label"], columns["given_label"]
    aim, others = columns.get("target_label", given), columns["success_other_seeds"]
    summary: dict[str, Any] = {
        "num_examples": len(true),
        "success_rate": _share(columns["success"]),
        "success_other_seeds": None if others.isnan().any() else float(others.double().mean()),
        "given_is_true": _share(given == true),
    }
    for name in ("delta_norm", "pixel_distance_start", "representation_distance", "representation_distance_start"):
        if not columns[name].isnan().any():
            summary[name] = _quantiles(columns[name])
    knew = torch.ones_like(columns["still_y"])
    for judge, column in JUDGES.items():
        prediction, before = columns[column], columns[f"{column}_before"] == true
        knew &= before
        summary[judge] = {
            "before": _share(before),
            "still_y": _share((prediction == true)[before]),
            "still_y_absolute": _share(prediction == true),
            "target": _share(prediction == aim),
        }
    summary["still_y_both"] = _share(columns["still_y"][knew])
    summary["num_still_y"] = int(columns["still_y"].sum())
    return summary


def over_sources(summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Contents of metrics/construct/<name>.json: the mean of every number over the source models, and their own.

    Args:
        summaries: source seed -> what `summarise` gives.
    Returns: the keys of `summarise`, and `sources`: {seed: the same keys}. Counts are rounded to whole numbers; the
        mean of what some source does not have is null.
    """
    own = {str(seed): dict(summary) for seed, summary in summaries.items()}
    return {**_mean(list(summaries.values())), "sources": own}


def _mean(values: Sequence[Any]) -> Any:
    """Mean of equally nested numbers, number by number."""
    if isinstance(values[0], Mapping):

        def of(key: str) -> Any:
            return _mean([value[key] for value in values])

        return {key: of(key) for key in values[0]}
    if any(value is None for value in values):
        return None
    mean = math.fsum(values) / len(values)
    return round(mean) if isinstance(values[0], int) else mean


def _quantiles(values: Tensor) -> dict[str, float]:
    levels = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
    ordered = values.double().sort().values
    summary = {name: round(float(ordered[round(level * (len(ordered) - 1))]), 6) for name, level in levels.items()}
    return {**summary, "mean": round(float(values.double().mean()), 6)}


def _share(mask: Tensor) -> float | None:
    """Share that is true; None of none."""
    return float(mask.double().mean()) if len(mask) else None


def _of(probabilities: Tensor, labels: Tensor) -> Tensor:
    return probabilities.gather(1, labels[:, None])[:, 0]
