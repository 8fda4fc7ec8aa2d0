"""The evidence for the paper's claims: accuracies with intervals, and what the judges say of the images.

Estimates, paired differences and their power are those of `notbugs.evaluation.comparison`; here they are found in
the tables of a project (`notbugs.report.project.Project` is an `Evidence`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from notbugs.evaluation import comparison
from notbugs.evaluation.comparison import Estimate, Run
from notbugs.evaluation.learnt import NotLearnt
from notbugs.evaluation.results import WORST, attack_steps, baseline_of, model_label, recipe_of, set_title, strength
from notbugs.report.honesty import Honesty, honesty_of
from notbugs.report.sets import ConstructedSet, sets_of
from notbugs.runtime.config import dataset_name

CHANCE_MARGIN = 0.20
""""Far above chance": the lower end of an accuracy is this far above it, and above twice chance."""
Model = tuple[str, str]
"""(dataset, estimator) in the results."""


class NotMeasuredError(Exception):
    """A measurement that a claim needs is not there; the message says which."""


class Measurement(NamedTuple):
    """A row of the results; see `notbugs.evaluation.results`."""

    source_seed: int | None
    seed: int
    labels: str
    attack: str
    eps: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Evidence:
    """What the verdicts are made from.

    Attributes:
        results: rows of metrics/results.csv, one a measurement of one model.
        num_classes: C.
        headline_eps: radius that tables and verdicts speak of.
        robust_eps: radius of robust training; None if there is none, or in another norm than evaluated.
        constructions: key -> metrics/construct/<key>.json.
        per_example: metrics/per_example.parquet; None if there is none.
        params: params.yaml, for the recipes of constructions and fits.
        not_learnt: of datasets on which fits have not learnt yet, how many; by their names in the results.
    """

    results: pd.DataFrame
    num_classes: int
    headline_eps: float
    robust_eps: float | None
    constructions: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_example: pd.DataFrame | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    not_learnt: Mapping[str, NotLearnt] = field(default_factory=dict)

    @cached_property
    def sets(self) -> dict[str, ConstructedSet]:
        """The constructions by their keys in params.yaml."""
        return sets_of(self.params)

    @property
    def further(self) -> list[str]:
        """Keys of the sets under other names than the paper's that are no inversions."""
        return [key for key, one in self.sets.items() if not one.is_the_papers and one.like in ("rand", "det", "")]

    def check_is_the_papers(self, key: str) -> None:
        """What is said in the paper of a set can be said of this one.

        Raises: NotMeasuredError naming the options that make it another set.
        """
        another = self.sets[key].another_set if key in self.sets else ""
        if another:
            raise NotMeasuredError(f"{self.sets[key].title} is another set than the paper's ({another})")

    @property
    def chance(self) -> float:
        """1/C."""
        return 1 / self.num_classes

    @property
    def far_above_chance(self) -> float:
        """What the lower end of an accuracy must exceed: twice chance and chance + CHANCE_MARGIN.

        With two classes twice chance is 100%: there half of the way from chance to 100% is the threshold.
        """
        return max(min(2 * self.chance, (1 + self.chance) / 2), self.chance + CHANCE_MARGIN)

    def accuracy(
        self,
        dataset: str,
        estimator: str = "standard",
        *,
        eps: float = 0.0,
        labels: str = "true",
        attack: str | None = None,
    ) -> Estimate:
        """Accuracy of a model.

        Args:
            eps: radius; 0 for untouched images.
            labels: "true" or "shifted".
            attack: by default all attacks together, which every fit must have gone through.
        Raises: NotMeasuredError if the model, the radius or the attack was not measured.
        """
        runs, num_images = self._runs((dataset, estimator), eps, labels, attack, examples=False)
        return comparison.accuracy(runs, num_images)

    def difference(
        self,
        first: Model,
        second: Model,
        *,
        eps: float = 0.0,
        labels: tuple[str, str] = ("true", "true"),
        attack: str | None = None,
    ) -> Estimate:
        """How much more accurate the first model is, compared pair by pair; see `comparison.difference`.

        Args:
            first, second: (dataset, estimator); the same model twice to compare two labels.
            eps, attack: as in `accuracy`.
            labels: which labels each is right on.
        Raises: NotMeasuredError if it was not measured.
        """
        sides = [
            self._runs(model, eps, side, attack, examples=True)
            for model, side in zip((first, second), labels, strict=True)
        ]
        (ours, num_images), (theirs, _) = sides
        return comparison.difference(ours, theirs, num_images)

    def pgd(self, model: Model, eps: float) -> tuple[str, Estimate] | None:
        """The PGD of most steps that every fit went through at `eps`, and what it leaves; None without one."""
        steps = [(attack_steps(name), name) for name in self._complete_attacks(model, eps)]
        attack = max(steps, default=(0, ""))
        return (attack[1], self.accuracy(*model, eps=eps, attack=attack[1])) if attack[0] else None

    def strongest(self, model: Model, eps: float) -> tuple[str, Estimate]:
        """The strongest attack that every fit went through at `eps`, and what it leaves.

        Raises: NotMeasuredError if there is none.
        """
        attacks = self._complete_attacks(model, eps) or ["clean"]
        attack = max(attacks, key=lambda name: strength(name, 1))
        return attack, self.accuracy(*model, eps=eps, attack=attack)

    def curve_eps(self, first: Model, second: Model) -> list[tuple[float, str]]:
        """Radii at which every fit of both was attacked by the same PGD, with its name, ascending."""
        found = []
        for eps in sorted({row.eps for row in self._rows(first) if row.eps > 0}):
            shared = set(self._complete_attacks(first, eps)) & set(self._complete_attacks(second, eps))
            steps = [(attack_steps(name), name) for name in shared if attack_steps(name)]
            if steps:
                found.append((eps, max(steps)[1]))
        return found

    def fitted_as(self, key: str) -> Model:
        """D fitted by the recipe of a construction's fit, its initialisation and its order of batches.

        Args:
            key: of the construction in params.yaml.
        Raises: NotMeasuredError if no fit on D has this recipe.
        """
        estimator = baseline_of(self.params, key)
        if estimator is not None and self._rows(("D", estimator)):
            return "D", estimator
        name = set_title(key)
        raise NotMeasuredError(f"D was not fitted by the recipe of {name} (params.yaml: fit.{key}.baseline)")

    def check_has_learnt(self, *keys: str) -> None:
        """The fits on constructions have begun to learn: else their accuracy is that of a guess, whatever they hold.

        Raises: NotMeasuredError saying which have not.
        """
        for key in keys:
            stuck = self.not_learnt.get(dataset_name(key))
            if stuck is not None:
                raise NotMeasuredError(
                    f"{stuck} on {set_title(key)}: the training loss stands at ln {self.num_classes}, that of a guess "
                    f"(params.yaml: fit.{key}.epochs)"
                )

    def check_same_recipe(self, key: str, other: str) -> None:
        """Two constructions and their fits differ by the source model alone.

        Raises: NotMeasuredError naming the settings in which they differ.
        """
        for section in ("construct", "fit"):
            ours, theirs = (recipe_of((self.params.get(section) or {}).get(name)) for name in (key, other))
            differ = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
            if differ:
                names = " and ".join(set_title(name) for name in (key, other))
                raise NotMeasuredError(
                    f"{names} do not share their recipe (params.yaml: {section}: {', '.join(differ)})"
                )

    def _rows(self, model: Model, eps: float | None = None, labels: str | None = None) -> list[Measurement]:
        """Measurements of a model; at a radius and of the labels, where they are given."""
        return [
            row
            for row in self._by_model.get(model, [])
            if (eps is None or row.eps == eps) and (labels is None or row.labels == labels)
        ]

    @cached_property
    def _by_model(self) -> dict[Model, list[Measurement]]:
        found: dict[Model, list[Measurement]] = {}
        for row in self.results.to_dict(orient="records"):
            kept = {name: row[name] for name in ("labels", "attack", "accuracy", "n")}
            measured = Measurement(_seed(row["source_seed"]), int(row["seed"]), eps=float(row["eps"]), **kept)
            found.setdefault((row["dataset"], row["estimator"]), []).append(measured)
        return found

    @cached_property
    def _by_measurement(self) -> dict[tuple[str, str, str, str, float], pd.DataFrame]:
        """Rows of the table of examples, by model, labels, attack and eps."""
        table = self.per_example
        if table is None or "source_seed" not in table.columns:
            return {}
        groups = table.groupby(["dataset", "estimator", "labels", "attack", "eps"], sort=False, observed=True)
        found: Any = groups  # of tuples, as the five columns say
        return {
            (str(dataset), str(estimator), str(labels), str(attack), float(eps)): rows
            for (dataset, estimator, labels, attack, eps), rows in found
        }

    def _complete_attacks(self, model: Model, eps: float) -> list[str]:
        """Names of the attacks at `eps` that every run of the model went through, in alphabetical order."""
        runs = len({(row.source_seed, row.seed) for row in self._rows(model)})
        counts = Counter(row.attack for row in self._rows(model, eps, "true"))
        return sorted(name for name, count in counts.items() if count == runs)

    def _attack(self, model: Model, eps: float, labels: str, attack: str | None) -> str:
        """The attack that is meant, if it was measured on every run."""
        label = model_label(*model)
        if not self._rows(model):
            raise NotMeasuredError(f"{label} is not in this pipeline")
        rows = self._rows(model, eps, labels)
        if not rows:
            what = f"eps {eps:g}" if eps else f"accuracy on the {labels} labels"
            raise NotMeasuredError(f"{what} was not measured for {label}")
        if eps == 0:
            return "clean"
        wanted = attack or WORST
        if wanted not in self._complete_attacks(model, eps):
            name = "all attacks together (worst) were" if wanted == WORST else f"{wanted} was"
            every = "" if wanted in {row.attack for row in rows} else "at all "
            some = "" if every else "every seed of "
            raise NotMeasuredError(
                f"{name} not {every}run on {some}{label} at eps {eps:g} (params.yaml: evaluate.suite_seeds)"
            )
        return wanted

    def _runs(
        self, model: Model, eps: float, labels: str, attack: str | None, *, examples: bool
    ) -> tuple[list[Run], int]:
        """Every run of a model, and the number of test images; with `examples` which images are right."""
        attack = self._attack(model, eps, labels, attack)
        rows = [row for row in self._rows(model, eps, labels) if row.attack == attack]
        masks = self._masks(model, eps, labels, attack) if examples else {}
        runs = [Run(row.source_seed, row.seed, row.accuracy, masks.get((row.source_seed, row.seed))) for row in rows]
        return runs, int(rows[0].n)

    def _masks(
        self, model: Model, eps: float, labels: str, attack: str
    ) -> dict[tuple[int | None, int], comparison.Mask]:
        """(source seed, seed) -> which test images are right, (N,)."""
        table = self._by_measurement.get((*model, labels, attack, eps))
        if table is None:
            return {}
        groups: Any = table.groupby(["source_seed", "seed"], dropna=False)
        return {
            (_seed(source), int(seed)): group.sort_values("example")["correct"].to_numpy(dtype=bool)
            for (source, seed), group in groups
        }

    def honesty(self, key: str) -> Honesty:
        """What the robust model and the 1-NN say of a construction's images.

        Raises: NotMeasuredError if the construction or its judges are not there.
        """
        facts = self.constructions.get(key)
        if facts is None:
            raise NotMeasuredError(f"{set_title(key)} is not in this pipeline")
        found = honesty_of(facts)
        if found is None:
            raise NotMeasuredError(f"{set_title(key)} was not judged by robust model and 1-NN")
        return found

    def success(self, key: str) -> float | None:
        """Share of a construction's images that its source model calls by their given label; None if not known."""
        found = self.constructions.get(key, {}).get("success_rate")
        return None if found is None else float(found)


def _seed(value: Any) -> int | None:
    """A seed as tables hold it, None where the cell is empty."""
    return None if pd.isna(value) else int(value)
