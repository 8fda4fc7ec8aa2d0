"""The attack suite: cheapest attack first, each on what the ones before it left standing, and what all leave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from notbugs.attacks.engine import Engine
from notbugs.attacks.library import allows, library_attack
from notbugs.attacks.losses import USUAL_LOSS, fools
from notbugs.attacks.modes import in_ordinary_mode
from notbugs.data.images import ImageData, Images, make_generator
from notbugs.evaluation.accuracy import Outcome, batches, engine_of, model_device, outcomes, predict
from notbugs.evaluation.certificate import Certificate, certify
from notbugs.evaluation.levels import LEVELS, RANDOM_STARTS, Level, LevelName, pgd_name
from notbugs.evaluation.masking import Attacked, Check, Signs, Standing, look_for_signs, masking_checks, transfer_images
from notbugs.evaluation.minimum_norm import minimum_norms
from notbugs.evaluation.results import WORST
from notbugs.runtime.out_of_memory import BatchSplitter


@dataclass(frozen=True)
class Audit:
    """All that was found of one model, or of a part of the test split, example by example.

    Attributes:
        outcomes: clean, shifted, PGD at each radius, then the suite's attacks at the headline radius in their order
            and `worst`. A row of the suite counts what still stands after its attack and all before it.
        norms: attack -> smallest ‖δ‖ that it found, (N,) float64; infinity where it found none.
        standing, signs: what the checks are made of; None where that was not asked for.
        certificate: of the first images, where one was asked for.
    """

    outcomes: list[Outcome]
    norms: dict[str, Tensor]
    standing: Standing | None = None
    signs: Signs | None = None
    certificate: Certificate | None = None

    @property
    def checks(self) -> list[Check]:
        """Signs of masked gradients."""
        return [] if self.standing is None or self.signs is None else masking_checks(self.standing, self.signs)


PART = 1000
"""Test images measured at a time. Fixed, so that neither memory nor the number of processes changes what is found."""


@in_ordinary_mode
def audit(
    model: nn.Module,
    data: Images,
    *,
    headline_eps: float,
    generator: torch.Generator | None = None,
    compiled: bool = False,
    **arguments: Any,
) -> Audit:
    """Measure one model: the curve of PGD over eps, and, if thorough, suite, smallest perturbations and checks.

    Args:
        model: logits from images in [0, 1].
        data: the test split, with its own labels; read part by part.
        headline_eps: the radius that is spoken of, pixel units on [0, 1]; the suite attacks there.
        generator: for everything random; None takes the one that seed 0 gives.
        compiled: compile the engine of the curve's attacks (see `attacks.engine.pays_to_compile`).
        arguments: those of `find`: eps, norm, loss, num_steps, headline_num_steps, level, certificate, ...
    """
    generator = generator or make_generator(0, *RANDOM_STARTS)
    engine = engine_of(model, data, compiled=compiled)
    parts = []
    for rows in batches(len(data), PART):
        own = generator_of_part(generator, rows.start)
        where = {"headline_eps": headline_eps, "generator": own, "curve_engine": engine, "first": rows.start}
        parts.append(find(model, data.select(rows), **where, **arguments))
    return audited(*parts)


def generator_of_part(generator: torch.Generator, first: int) -> torch.Generator:
    """The generator of the part that begins with row `first`: parts do not depend on each other, nor on their order."""
    return make_generator(generator.initial_seed(), first) if first else generator


@in_ordinary_mode
def find(
    model: nn.Module,
    data: ImageData,
    *,
    headline_eps: float,
    eps: Sequence[float] | None = None,
    norm: str = "l2",
    loss: str = USUAL_LOSS,
    num_steps: int = 20,
    headline_num_steps: int = 100,
    level: LevelName | Level = "quick",
    certificate: Mapping[str, Any] | None = None,
    batch_size: int = 500,
    generator: torch.Generator,
    transfer_from: nn.Module | Tensor | None = None,
    thorough: bool = True,
    checked: bool = True,
    also_at: float | None = None,
    curve_engine: Engine | None = None,
    first: int = 0,
) -> Audit:
    """`audit` of a part of the test split.

    Args:
        data: the images of the part.
        headline_eps, eps, norm, loss, num_steps, headline_num_steps, batch_size: as for `accuracy.outcomes`.
        level: a name in LEVELS, or attacks of one's own.
        certificate: what `certify` is told, such as {"sigma": 0.25}, and `num_examples`, how many of the first images
            are certified; None for none.
        transfer_from: another model, whose adversarial images are tried on this one; or these images, of the part.
        thorough: run the level's attacks, not only PGD.
        checked: if thorough, also look for signs of masked gradients, certify, and search every image for its smallest
            perturbation; otherwise only what still stands is searched.
        also_at: if thorough, a second radius at which the headline's PGD is run and all attacks together (`worst`).
        curve_engine: attacked for the curve; made from the model.
        first: row of the test split that the part begins with.
    """
    shared: dict[str, Any] = {"norm": norm, "loss": loss, "num_steps": num_steps, "batch_size": batch_size}
    shared["headline_num_steps"] = headline_num_steps
    curve = outcomes(model, data, headline_eps=headline_eps, eps=eps, engine=curve_engine, **shared)
    if not thorough:
        return Audit(curve, {})
    attacked = Attacked(model, engine_of(model, data), data, first, norm, headline_eps, batch_size, generator, loss)
    attacks, steps = LEVELS[level] if isinstance(level, str) else level, (num_steps, headline_num_steps)
    suite = _Suite(attacked, attacks, curve, steps, search_all=checked)
    standing = suite.run()
    found = [*curve, *suite.found]
    if also_at is not None:
        there = outcomes(model, data, headline_eps=also_at, eps=(also_at,), engine=attacked.engine, **shared)
        second = _Suite(replace(attacked, eps=also_at), attacks, there, steps, search_all=False)
        second.run()
        headline = [outcome for outcome in there if outcome.attack == pgd_name(headline_num_steps)]
        known = {(outcome.attack, outcome.eps) for outcome in curve}
        found += [o for o in (*headline, second.found[-1]) if (o.attack, o.eps) not in known]
    if not checked:
        return Audit(found, {})
    if isinstance(transfer_from, nn.Module):
        transfer_from = transfer_images(
            transfer_from, data, eps=headline_eps, norm=norm, loss=loss, num_steps=num_steps, batch_size=batch_size
        )
    signs = look_for_signs(attacked, headline_num_steps=headline_num_steps, transferred=transfer_from)
    guaranteed = None if certificate is None else _certified(attacked, **certificate)
    return Audit(found, suite.norms, standing, signs, guaranteed)


def _certified(attacked: Attacked, *, num_examples: int | None = None, **arguments: Any) -> Certificate:
    """The certificate of those images that are among the first `num_examples` of the test split."""
    wanted = None if num_examples is None else max(num_examples - attacked.first, 0)
    images = attacked.data.images[:wanted].to(model_device(attacked.model))
    return certify(attacked.model, images, generator=attacked.generator, **arguments)


def audited(*parts: Audit) -> Audit:
    """What was found of all parts of the test split, in their order, as one."""
    joined: Audit = _joined(parts)
    return joined


def _joined(parts: Sequence[Any]) -> Any:
    """Equally built values with the tensors in them one after the other; of all else, the first's."""
    one = parts[0]
    if isinstance(one, Tensor):
        return torch.cat(list(parts))
    if isinstance(one, Certificate):
        return Certificate(*map(_joined, zip(*parts, strict=True)))
    if isinstance(one, list):
        return [_joined(values) for values in zip(*parts, strict=True)]
    if isinstance(one, dict):
        columns = zip(*(part.values() for part in parts), strict=True)
        return dict(zip(one, map(_joined, columns), strict=True))
    if is_dataclass(one) and not isinstance(one, type):
        return replace(one, **_joined([vars(part) for part in parts]))
    return one


class _Suite:
    """A run of the suite: what stands so far, and after which attack.

    Args:
        attacked: model, images, radius.
        level: the attacks.
        curve: outcomes of PGD at this radius, among others.
        steps: of the curve's PGD, and of the headline's.
        search_all: search every image for its smallest perturbation, not only those that stand.
    """

    def __init__(
        self, attacked: Attacked, level: Level, curve: list[Outcome], steps: tuple[int, int], *, search_all: bool
    ) -> None:
        self.attacked, self.level, self.search_all = attacked, level, search_all
        self.norms: dict[str, Tensor] = {}
        self.found: list[Outcome] = []
        self._most_steps = max(steps)
        by_name = {o.attack: o.correct for o in curve if o.eps == attacked.eps and o.labels == "true"}
        self._fewer_steps, self._headline = (by_name[pgd_name(number)] for number in steps)
        self._left = torch.stack(list(by_name.values())).all(dim=0)  # (N,)

    def run(self) -> Standing:
        """Every attack of the level, and `worst`; what stood on the way is for the checks to compare."""
        level = self.level
        restarts = self._pgd(*level.restarts)
        more_steps = (self._fewer_steps, self._fewer_steps & self._headline)
        if level.more_steps[0] > self._most_steps:
            more_steps = self._pgd(*level.more_steps)
        for name, num_steps in level.minimum:
            if name in self.attacked.ball.minimised_by:
                self._minimum(name, num_steps)
        for name, num_steps in level.fixed:
            self._fixed(name, num_steps)
        gradient = self._left
        self._fixed("square", level.square)
        self._record(WORST)
        return Standing(self._headline, *more_steps, *restarts, gradient, square=self._left)

    def _pgd(self, num_steps: int, num_restarts: int) -> tuple[Tensor, Tensor]:
        """PGD on what stands; what stood before and after."""
        before, rows = self._left, self._left.nonzero().flatten()
        withstood = self.attacked.withstand(
            rows, num_steps=num_steps, random_start=num_restarts > 1, num_restarts=num_restarts
        )
        self._fell(rows[~withstood])
        self._record(pgd_name(num_steps, num_restarts))
        return before, self._left

    def _minimum(self, name: str, num_steps: int) -> None:
        attacked = self.attacked
        rows = torch.arange(len(attacked.data)) if self.search_all else self._left.nonzero().flatten()
        how: dict[str, Any] = {"norm": attacked.norm, "num_steps": num_steps, "batch_size": attacked.batch_size}
        how |= {"generator": attacked.generator, "engine": attacked.engine}
        norms = minimum_norms(attacked.model, attacked.data.select(rows), name, **how)
        if self.search_all:
            self.norms[f"{name}{num_steps}"] = norms
        self._fell(rows[norms <= attacked.eps])
        self._record(f"{name}{num_steps}")

    def _fixed(self, name: str, num_steps: int) -> None:
        data = self.attacked.data
        works = name in self.attacked.ball.attacked_by
        if not (works and allows(name, len(data.class_names), data.image_shape)):
            return
        rows = self._left.nonzero().flatten()

        def attack(part: slice) -> None:
            """Attack some of the rows: the engine, then, where only its rounding was fooled, the model itself."""
            unsure = self._attack(name, num_steps, rows[part], self.attacked.engine)
            self._attack(name, num_steps, unsure, self.attacked.model)

        BatchSplitter(name).map(len(rows), self.attacked.batch_size, attack)
        self._record(f"{name}{num_steps}")

    def _attack(self, name: str, num_steps: int, rows: Tensor, network: nn.Module) -> Tensor:
        """Attack a network on some images; the model judges. Those that fool only the network, by its rounding."""
        if not len(rows):
            return rows
        attacked, device, part = self.attacked, model_device(self.attacked.model), self.attacked.data.select(rows)
        inputs, labels = part.images.to(device), part.labels.to(device)
        ball: dict[str, Any] = {"norm": attacked.norm, "eps": attacked.eps}
        x_adv = library_attack(name, network, inputs, labels, num_steps=num_steps, generator=attacked.generator, **ball)
        fooled = fools(predict(attacked.model, x_adv), part.labels)
        self._fell(rows[fooled])
        return rows[~fooled & fools(predict(network, x_adv), part.labels)]

    def _fell(self, rows: Tensor) -> None:
        self._left = self._left.clone()
        self._left[rows] = False

    def _record(self, attack: str) -> None:
        self.found.append(Outcome("true", attack, self.attacked.norm, self.attacked.eps, self._left))
