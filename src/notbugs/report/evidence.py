"""The evidence for the paper's claims: accuracies with intervals, and what the judges say of the images."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notbugs.comparison import Paired, paired, t_half_width
from notbugs.config import DATASET_NAMES
from notbugs.results import model_label, percent, strength

if TYPE_CHECKING:
    import pandas as pd

    from notbugs.report.project import Project

STILL_Y_SHARE = 0.85
"""Share of a construction's images that both judges must still call y; below it t is partly simply right."""
CHANCE_MARGIN = 0.20
""""Far above chance": the lower end of an accuracy is this far above it, and above twice chance."""
PAIRED_P = 0.05
"""A difference between two models counts if McNemar's test on the same images gives less, for every seed."""


@dataclass(frozen=True)
class Estimate:
    """An accuracy (or a difference of two) with its 95% interval.

    The interval joins, in quadrature, the Wilson interval (which test images) and the t interval of the mean
    over seeds (which training run); with one seed only the former is known.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{percent(self.value)}% [{percent(self.low)}, {percent(self.high)}]"

    def minus(self, other: "Estimate") -> "Estimate":
        """Difference with the interval of Newcombe's hybrid score method (1998, method 10).

        d − sqrt((a − low_a)² + (high_b − b)²), d + sqrt((high_a − a)² + (b − low_b)²)
        """
        gap = self.value - other.value
        down = math.hypot(self.value - self.low, other.high - other.value)
        up = math.hypot(self.high - self.value, other.value - other.low)
        return Estimate(gap, gap - down, gap + up)

    @property
    def points(self) -> str:
        """As a difference: "+21.3 points [18.0, 24.6]"."""
        text = f"{100 * self.value:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return text.replace("-", "−")

    def reaches(self, margin: float) -> bool:
        """Whether a difference is at least `margin` and its interval lies above zero."""
        # 1e-9: a difference of two decimal fractions that equals the margin must not fail by rounding.
        return self.value >= margin - 1e-9 and self.low > 0


@dataclass(frozen=True)
class Pairs:
    """Two models compared on the same test images, once for each seed.

    Attributes:
        first, second: what is right where the other is wrong, in words.
        seeds: one comparison a seed.
    """

    first: str
    second: str
    seeds: tuple[Paired, ...]

    @property
    def support(self) -> bool:
        """Whether the first is better, and chance alone does not explain it, for every seed."""
        return all(pair.difference > 0 and pair.p_value < PAIRED_P for pair in self.seeds)

    def __str__(self) -> str:
        largest = max(pair.p_value for pair in self.seeds)
        seeds = f" for each of {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return (
            f"On the same images{seeds}, only {self.first} is right on {_range([p.only_first for p in self.seeds])}, "
            f"only {self.second} on {_range([p.only_second for p in self.seeds])} of {self.seeds[0].n} "
            f"(McNemar: p {_p_value(largest)}, asked: below {PAIRED_P:g})."
        )


def _range(counts: list[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"at most {p:.3f}"


class NotMeasuredError(Exception):
    """A measurement that a claim needs is not there; the message says which."""


@dataclass(frozen=True)
class Evidence:
    """What the verdicts are made from.

    Attributes:
        summary: `notbugs.results.summarise`.
        constructions: key -> metrics/construct/<key>.json.
        per_example: metrics/per_example.parquet; None if there is none.
        num_classes: C.
        headline_eps: radius of the claims about D_R and D_NR.
        robust_eps: radius of robust training; None if unknown.
    """

    summary: "pd.DataFrame"
    num_classes: int
    headline_eps: float
    robust_eps: float | None
    constructions: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_example: "pd.DataFrame | None" = None

    @property
    def chance(self) -> float:
        """1/C."""
        return 1 / self.num_classes

    @property
    def far_above_chance(self) -> float:
        """What the lower end of an accuracy must exceed: twice chance and chance + CHANCE_MARGIN.

        With two classes twice chance is 100%: there half of the way from chance to 100% is asked instead.
        """
        return max(min(2 * self.chance, (1 + self.chance) / 2), self.chance + CHANCE_MARGIN)

    def accuracy(
        self, dataset: str, estimator: str = "standard", *, eps: float = 0.0, labels: str = "true"
    ) -> Estimate:
        """Accuracy of a model, under the strongest attack at `eps` that all its seeds went through.

        Raises: NotMeasuredError if the model, or the radius, was not measured.
        """
        row = self._row(dataset, estimator, eps, labels)
        return _estimate(row["mean"], row["std"], row["low"], row["high"], row["num_seeds"])

    def paired(
        self,
        first: tuple[str, str],
        second: tuple[str, str],
        *,
        eps: float = 0.0,
        labels: tuple[str, str] = ("true", "true"),
    ) -> Pairs:
        """Two models on the same images, seed by seed (those they share, else in their order).

        Args:
            first, second: (dataset, estimator); the same model twice to compare two labels.
            eps: radius of the attack, the one that `accuracy` takes.
            labels: which labels each is right on.
        Raises: NotMeasuredError if it was not measured, or not kept example by example.
        """
        sides = [self._examples(*model, eps, side) for model, side in zip((first, second), labels, strict=True)]
        shared = [seed for seed in sides[0] if seed in sides[1]]
        pairs = [(seed, seed) for seed in shared] or list(zip(*sides, strict=False))
        names = [
            model_label(*model) + (" on y + 1" if side == "shifted" else "")
            for model, side in zip((first, second), labels, strict=True)
        ]
        return Pairs(names[0], names[1], tuple(paired(sides[0][a], sides[1][b]) for a, b in pairs))

    def _row(self, dataset: str, estimator: str, eps: float, labels: str) -> dict[Any, Any]:
        table = self.summary
        model = table[(table["dataset"] == dataset) & (table["estimator"] == estimator)]
        if not len(model):
            raise NotMeasuredError(f"{model_label(dataset, estimator)} is not in this pipeline")
        rows = model[(model["labels"] == labels) & (model["eps"].astype(float) == eps)]
        if not len(rows):
            what = f"eps {eps:g}" if eps else f"accuracy on the {labels} labels"
            raise NotMeasuredError(f"{what} was not measured for {model_label(dataset, estimator)}")
        return max(rows.to_dict(orient="records"), key=lambda row: strength(row["attack"], row["num_seeds"]))

    def _examples(self, dataset: str, estimator: str, eps: float, labels: str) -> dict[int, list[bool]]:
        """Seed -> which test images are right."""
        attack = self._row(dataset, estimator, eps, labels)["attack"]
        table = self.per_example
        if table is not None:
            table = table[(table["dataset"] == dataset) & (table["estimator"] == estimator)]
            table = table[(table["labels"] == labels) & (table["attack"] == attack) & (table["eps"] == eps)]
        if table is None or not len(table):
            raise NotMeasuredError(f"{model_label(dataset, estimator)} was not kept example by example")
        return {
            int(seed): group.sort_values("example")["correct"].astype(bool).tolist()
            for seed, group in table.groupby("seed")
        }

    def still_y(self, key: str) -> tuple[float, float]:
        """Share of a construction's images still called y by the robust model and by the 1-NN.

        Raises: NotMeasuredError if the construction or its judges are not there.
        """
        facts = self.constructions.get(key)
        if facts is None:
            raise NotMeasuredError(f"{DATASET_NAMES.get(key, key)} is not in this pipeline")
        try:
            return float(facts["robust_model"]["still_y"]), float(facts["nearest_neighbour"]["still_y"])
        except (KeyError, TypeError):
            raise NotMeasuredError(f"{DATASET_NAMES.get(key, key)} was not judged by robust model and 1-NN") from None

    def success(self, key: str) -> float | None:
        """Share of a construction's images that its source model calls by their given label; None if not known."""
        found = self.constructions.get(key, {}).get("success_rate")
        return None if found is None else float(found)

    def is_honest(self, key: str) -> bool:
        """Whether both judges still call at least STILL_Y_SHARE of the images y."""
        return min(self.still_y(key)) >= STILL_Y_SHARE


def _estimate(mean: float, std: float, low: float, high: float, num_seeds: int) -> Estimate:
    """Wilson interval and t interval over seeds, joined; see Estimate."""
    spread = t_half_width(std, num_seeds)
    down, up = math.hypot(mean - low, spread), math.hypot(high - mean, spread)
    return Estimate(mean, max(0.0, mean - down), min(1.0, mean + up))


def evidence_of(project: "Project") -> Evidence:
    """The evidence in a project folder."""
    return Evidence(
        summary=project.summary,
        num_classes=project.num_classes,
        headline_eps=project.headline_eps,
        robust_eps=project.robust_eps,
        constructions=project.constructions,
        per_example=project.per_example,
    )
