"""How diverse datasets are, class by class: are D_R's images less diverse than D's, mere prototypes?

Asked by Reviewer 3 of Ilyas et al. 2019. Image i of D_R and of D_NR was made from image i of D, so the three are
compared on the same rows, and the bootstrap resamples these rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from notbugs.data.images import Images, make_generator
from notbugs.evaluation.intervals import Z_95
from notbugs.runtime.config import Settings
from notbugs.runtime.errors import UserError
from notbugs.science.common.lab import Answer, Lab, UnfitError
from notbugs.science.common.shares import share
from notbugs.science.inversion import features

DATASETS = {"D": "train", "D_R": "robust", "D_NR": "nonrobust"}
"""Name in the paper -> in the lab."""


class DiversitySettings(Settings):
    """How many images of each class are compared, and how sure one wants to be."""

    max_per_class: int | None = Field(default=None, ge=8)
    """At most so many images of each class, drawn at random; null takes all."""
    num_bootstrap: int = Field(ge=10)
    """Resamplings of the images of each class for the intervals."""
    num_neighbours: int = Field(default=5, ge=1, le=50)
    """k of the coverage: an image counts as covered if a new one lies within the distance of its k-th neighbour."""

    @field_validator("num_neighbours")
    @classmethod
    def _fits_a_class(cls, num_neighbours: int, info: ValidationInfo) -> int:
        most = info.data.get("max_per_class")
        if most is not None and most < least_images(num_neighbours):
            raise ValueError(f"at most {most // 2 - 2} where max_per_class is {most}: half of it needs k + 2 images")
        return num_neighbours

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError if no class of D has enough images."""
        largest = int(data["train"].labels.bincount().max())
        if largest < least_images(self.num_neighbours):
            needed = f"it needs {least_images(self.num_neighbours)} images in a class"
            allowed = f"at most {largest // 2 - 2}: {needed}, and none of D's has more than {largest}"
            raise UnfitError("num_neighbours", self.num_neighbours, allowed)


def least_images(num_neighbours: int) -> int:
    """Images of a class from which it is measured: the halves of a bootstrap sample need neighbour number k."""
    return 2 * (num_neighbours + 2)


class DiversityError(UserError):
    """Datasets cannot be compared."""


class Ratio(TypedDict):
    """A measure of a dataset beside D's: its own value, and its share of D's with a 95% interval."""

    value: float
    ratio: float | None
    low: float | None
    high: float | None


def diversity(lab: Lab, settings: DiversitySettings) -> Answer:
    """How diverse D, D_R and D_NR are, in pixels and in the representations of the models behind D_R and D_NR.

    On digits about 20 s.
    """
    data = {name: lab.data[place] for name, place in DATASETS.items()}
    rows = rows_by_class(data, settings, make_generator(lab.seed, "diversity", "rows"))
    # Images (n, C, H, W) -> where they lie in the space, (n, d).
    spaces: dict[str, Callable[[Tensor], Tensor]] = {"pixels": lambda images: images.flatten(1)}
    spaces |= {name: partial(features, model) for name, model in lab.models.items()}
    names = data["D"].class_names
    table: dict[str, Any] = {}
    per_class: dict[str, Any] = {names[label]: {} for label in rows}
    for space, points in spaces.items():
        classes = []
        for label, members in lab.progress(rows.items(), f"diversity: {space}, classes", len(rows)):
            inside = {name: points(part.select(members).images) for name, part in data.items()}  # one class
            samples = make_generator(lab.seed, "diversity", "bootstrap", label)  # the same in every space
            classes.append(compare_class(inside, settings, generator=samples))
        table[space] = mean_over_classes(classes)
        for label, measured in zip(rows, classes, strict=True):
            per_class[names[label]][space] = {name: _as_they_are(values) for name, values in measured.items()}
    counts = data["D"].labels.bincount(minlength=len(names)).tolist()
    left_out = {name: counts[label] for label, name in enumerate(names) if label not in rows}
    metrics = {
        "sizes": {names[label]: len(members) for label, members in rows.items()},
        "left_out": left_out,
        "source_seeds": {name: lab.source_seeds[DATASETS[name]] for name in ("D_R", "D_NR")},
        "num_neighbours": settings.num_neighbours,
        "spaces": table,
        "nearest_own_mean": {name: share([mask]) for name, mask in prototypicality(data, rows).items()},
        "classes": per_class,
    }
    few = f"left out, with fewer than {least_images(settings.num_neighbours)} images: {', '.join(left_out)}"
    found = table["pixels"]["D_R"]
    shown = ", ".join(f"{measure.replace('_', ' ')} × {found[measure]['ratio']:.2f}" for measure in MEASURES)
    return Answer(metrics, (*([few] if left_out else []), f"D_R beside D, in pixels: {shown}"))


def _as_they_are(measures: Mapping[str, Tensor]) -> dict[str, float]:
    """The measures of a dataset without resampling."""
    return {measure: round(float(values[0]), 6) for measure, values in measures.items()}


def effective_rank(points: Tensor) -> Tensor:
    """exp(H(p)), p the eigenvalues of the covariance divided by their sum; (..., n, d) -> (...).

    The number of directions that the points use: 1 for points on a line, at most min(n − 1, d); 0 where all points
    are equal.

    Source: Roy & Vetterli 2007, on the covariance's eigenvalues.
    """
    centred = points - points.mean(dim=-2, keepdim=True)
    n, d = centred.shape[-2:]
    gram = centred.mT @ centred if d < n else centred @ centred.mT  # the same eigenvalues but for zeros
    return _exp_entropy(torch.linalg.eigvalsh(gram))


def vendi_score(points: Tensor, bandwidth: float) -> Tensor:
    """exp(H(eigenvalues of K/n)), K = exp(−‖a − b‖² / 2h²): an effective number of different images.

    1 where all are equal, n where all are far apart beside the bandwidth h; (..., n, d) -> (...).

    Source: Friedman & Dieng 2023.
    """
    squared = torch.cdist(points, points).square()
    return _exp_entropy(torch.linalg.eigvalsh(torch.exp(-squared / (2 * bandwidth**2))))


def spread(points: Tensor) -> Tensor:
    """Root mean square distance from the mean: (..., n, d) -> (...)."""
    centred = points - points.mean(dim=-2, keepdim=True)
    return centred.square().sum(dim=-1).mean(dim=-1).sqrt()


def covered(reference: Tensor, points: Tensor, num_neighbours: int) -> Tensor:
    """Which reference points have a point within the distance of their own k-th nearest neighbour.

    Their share is the coverage.

    Args:
        reference: (m, d), m > k. points: (n, d).
        num_neighbours: k.
    Returns: (m,) bool.
    Source: Naeem et al. 2020.
    """
    among = torch.cdist(reference, reference).fill_diagonal_(0.0)
    radius = among.kthvalue(num_neighbours + 1, dim=1).values  # the nearest is the point itself
    return torch.cdist(reference, points).amin(dim=1) <= radius


def _exp_entropy(eigenvalues: Tensor) -> Tensor:
    """exp(−Σ p log p) of eigenvalues (..., k) divided by their sum; 0 where the sum is 0."""
    positive = eigenvalues.clamp(min=0)
    total = positive.sum(dim=-1, keepdim=True)
    share = positive / torch.where(total > 0, total, 1)
    entropy = -torch.special.xlogy(share, share).sum(dim=-1)
    return torch.where(total[..., 0] > 0, entropy.exp(), 0.0)


MEASURES = ("effective_rank", "vendi_score", "spread", "coverage")


def rows_by_class(
    data: Mapping[str, Images], settings: DiversitySettings, generator: torch.Generator
) -> dict[int, Tensor]:
    """The rows compared, for the label of each class that has enough images; the same in every dataset.

    Raises: DiversityError if the datasets have different labels, or no class has enough images.
    """
    (base_name, base), *others = data.items()
    for name, other in others:
        if not torch.equal(other.labels, base.labels):
            raise DiversityError(f"{name}: its labels are not {base_name}'s, row by row; `dvc repro` makes both anew")
    least = least_images(settings.num_neighbours)
    found = {}
    for label in range(len(base.class_names)):
        rows = (base.labels == label).nonzero().flatten()
        if len(rows) < least:
            continue
        if settings.max_per_class is not None and len(rows) > settings.max_per_class:
            rows = rows[torch.randperm(len(rows), generator=generator)[: settings.max_per_class]].sort().values
        found[label] = rows
    if not found:
        raise DiversityError(f"no class has {least} images, which num_neighbours = {settings.num_neighbours} needs")
    return found


def compare_class(
    points: Mapping[str, Tensor], settings: DiversitySettings, *, generator: torch.Generator
) -> dict[str, dict[str, Tensor]]:
    """All measures of one class in one space, on the images as they are and on bootstrap samples of their rows.

    Coverage is of one half of D's images by the other half's: by D's own other half, by the images that D_R holds
    for the other half, and so on. So D's own coverage is no more than its other half's, and the sets are compared
    on an equal footing.

    Args:
        points: dataset -> (n, d), "D" first; row i of each belongs to row i of D.
    Returns: dataset -> measure -> (1 + num_bootstrap,) values; the first is of the images as they are.
    """
    base = points["D"].double()
    n = len(base)
    bandwidth = float(torch.pdist(base).median().clamp(min=1e-12))
    order = torch.randperm(n, generator=generator)
    draws = torch.cat([torch.arange(n)[None], torch.randint(0, n, (settings.num_bootstrap, n), generator=generator)])
    halves = (order[: n // 2], order[n // 2 :])
    table = {}
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "effective_rank": effective_rank,
        "vendi_score": partial(vendi_score, bandwidth=bandwidth),
        "spread": spread,
    }
    for name, values in points.items():
        values = values.double()
        table[name] = {key: torch.stack([measure(values[rows]) for rows in draws]) for key, measure in measures.items()}
        table[name]["coverage"] = _coverage(base, values, halves, draws, settings.num_neighbours)
    return table


def _coverage(
    base: Tensor, values: Tensor, halves: tuple[Tensor, Tensor], draws: Tensor, num_neighbours: int
) -> Tensor:
    """Coverage of each half of D by the other half's images, for each draw of the covered ones: (len(draws),)."""
    hit = torch.empty(len(base), dtype=torch.float64)
    for one, other in (halves, halves[::-1]):
        hit[one] = covered(base[one], values[other], num_neighbours).double()
    return hit[draws].mean(dim=1)


def mean_over_classes(classes: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> dict[str, dict[str, Ratio]]:
    """Each measure averaged over classes, and its ratio to D's: dataset -> measure -> Ratio."""
    found: dict[str, dict[str, Ratio]] = {name: {} for name in classes[0]}
    for measure in MEASURES:
        means = {name: torch.stack([table[name][measure] for table in classes]).mean(dim=0) for name in found}
        for name, values in means.items():
            found[name][measure] = ratio_to(values, means["D"])
    return found


def ratio_to(values: Tensor, base: Tensor) -> Ratio:
    """A measure beside D's, with a normal bootstrap interval of the logarithm of their ratio.

        ratio · exp(± 1.96 · sd of log(ratio) over the bootstrap samples)

    A bootstrap sample repeats images, which lowers ranks and scores; in the ratio, and in its spread, this cancels,
    where percentiles would be off.

    Args:
        values, base: (1 + B,), the first of the images as they are.
    """
    value, reference = float(values[0]), float(base[0])
    if value <= 0 or reference <= 0:
        return Ratio(value=round(value, 6), ratio=None, low=None, high=None)
    log_ratio = (values.clamp(min=1e-12) / base.clamp(min=1e-12)).log()
    half = Z_95 * float(log_ratio[1:].std())
    centre = math.log(value / reference)
    low, high = math.exp(centre - half), math.exp(centre + half)
    return Ratio(value=round(value, 6), ratio=round(value / reference, 6), low=round(low, 6), high=round(high, 6))


def prototypicality(data: Mapping[str, Images], rows: Mapping[int, Tensor]) -> dict[str, Any]:
    """Which images of each dataset lie nearest the mean image of their own class in D: dataset -> (N,) bool.

    A set of prototypes would score higher than D itself. `rows`: label of a class -> its rows; others are left out.
    """
    base = data["D"]
    means = torch.stack([_pixels(base, members).mean(dim=0) for members in rows.values()])  # (C, d)
    labels = torch.tensor(list(rows))  # (C,)
    found = {}
    for name, part in data.items():
        nearest = [torch.cdist(_pixels(part, members), means).argmin(dim=1) for members in rows.values()]
        own = torch.cat([part.labels[members] for members in rows.values()])
        found[name] = labels[torch.cat(nearest)] == own
    return found


def _pixels(data: Images, rows: Tensor) -> Tensor:
    """(n,) -> (n, C·H·W)."""
    return data.select(rows).images.flatten(1)
