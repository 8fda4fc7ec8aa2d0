"""The attack suite: cheapest attack first, each on what the ones before it left standing, and what all leave."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from notbugs.attacks import AttackSettings
from notbugs.attacks.engine import Engine
from notbugs.attacks.library import allows, library_attack
from notbugs.attacks.losses import fools
from notbugs.attacks.modes import in_ordinary_mode
from notbugs.data.images import ImageData, Images, make_generator
from notbugs.evaluation.accuracy import Outcome, adversarially_correct, batches, model_device, outcomes, predict
from notbugs.evaluation.certificate import Certificate, certify
from notbugs.evaluation.levels import SuiteSettings, pgd_name
from notbugs.evaluation.masking import (
    Check,
    Signs,
    Standing,
    look_for_signs,
    masking_checks,
    transfer_images,
)
from notbugs.evaluation.minimum_norm import minimum_norms
from notbugs.evaluation.results import WORST
from notbugs.runtime.out_of_memory import BatchSplitter


@dataclass(frozen=True)
class Audit:
    """All that was found of one model.

    Attributes:
        outcomes: clean, shifted, PGD at each radius, then the suite's attacks at the headline radius in their order
            and `worst`. A row of the suite counts what still stands after its attack and all before it.
        norms: attack -> smallest ‖δ‖ that it found, (N,) float64; infinity where it found none.
        checks: signs of masked gradients.
        certificate: of the first images, where settings ask for it.
    """

    outcomes: list[Outcome]
    norms: dict[str, Tensor]
    checks: list[Check]
    certificate: Certificate | None = None


@dataclass(frozen=True)
class Findings:
    """What was found of one model on some images, example by example; `audited` sums it up.

    Attributes:
        outcomes, norms, certificate: as of `Audit`.
        standing, signs: what the checks are made of; None where that was not asked for.
    """

    outcomes: list[Outcome]
    norms: dict[str, Tensor]
    standing: Standing | None = None
    signs: Signs | None = None
    certificate: Certificate | None = None


PART = 1000
"""Test images measured at a time. Fixed, so that neither memory nor the number of processes changes what is found."""


@in_ordinary_mode
def audit(
    model: nn.Module,
    data: Images,
    settings: SuiteSettings,
    *,
    generator: torch.Generator,
    transfer_from: nn.Module | None = None,
    thorough: bool = True,
    compiled: bool = False,
) -> Audit:
    """Measure one model: the curve of PGD over eps, and, if thorough, suite, smallest perturbations and checks.

    Args:
        model: logits from images in [0, 1].
        data: the test split, with its own labels; read part by part.
        settings: radii and level.
        generator: for everything random.
        transfer_from: another model, whose adversarial images are tried on this one.
        compiled: compile the engine of the curve's attacks (see `attacks.engine.pays_to_compile`).
    """
    few = data.select(slice(0, 8)).images.to(model_device(model))
    engine = Engine(model, few, compiled=compiled)
    parts = []
    for rows in batches(len(data), PART):
        part = data.select(rows)
        parts.append(
            find(
                model,
                part,
                settings,
                generator=generator_of_part(generator, rows.start),
                transferred=transfer_images(transfer_from, part, settings) if transfer_from else None,
                thorough=thorough,
                curve_engine=engine,
                first=rows.start,
            )
        )
    return audited(*parts)


def generator_of_part(generator: torch.Generator, first: int) -> torch.Generator:
    """The generator of the part that begins with row `first`: parts do not depend on each other, nor on their order."""
    return make_generator(generator.initial_seed(), first) if first else generator


@in_ordinary_mode
def find(
    model: nn.Module,
    data: ImageData,
    settings: SuiteSettings,
    *,
    generator: torch.Generator,
    transferred: Tensor | None = None,
    thorough: bool = True,
    checked: bool = True,
    also_at: float | None = None,
    curve_engine: Engine | None = None,
    first: int = 0,
) -> Findings:
    """`audit` of a part of the test split.

    Args:
        data: the images of the part.
        transferred: those that fool another model, of the same part.
        checked: if thorough, also look for signs of masked gradients, certify, and search every image for its smallest
            perturbation; otherwise only what still stands is searched.
        also_at: if thorough, a second radius at which the headline's PGD is run and all attacks together (`worst`).
        curve_engine: attacked for the curve; made from the model.
        first: row of the test split that the part begins with.
    """
    found = outcomes(model, data, settings, generator=generator, engine=curve_engine)
    if not thorough:
        return Findings(found, {})
    suite = _Suite(model, data, settings, generator, found, first, checked=checked)
    suite.run()
    more = [] if also_at is None else _at(also_at, model, data, settings, generator, suite.engine, first)
    known = {(outcome.attack, outcome.eps) for outcome in found}
    more = [outcome for outcome in more if (outcome.attack, outcome.eps) not in known]
    if not checked:
        return Findings([*found, *suite.found, *more], {})
    signs = look_for_signs(
        model, data, settings, engine=suite.engine, generator=generator, transferred=transferred, first=first
    )
    certificate = None
    if settings.certificate is not None:
        wanted = settings.certificate.num_examples
        images = data.images[: None if wanted is None else max(wanted - first, 0)].to(model_device(model))
        certificate = certify(model, images, settings.certificate, generator=generator)
    return Findings([*found, *suite.found, *more], suite.norms, suite.standing(), signs, certificate)


def _at(
    eps: float,
    model: nn.Module,
    data: ImageData,
    settings: SuiteSettings,
    generator: torch.Generator,
    engine: Engine,
    first: int,
) -> list[Outcome]:
    """PGD of the headline's steps at another radius, and what all attacks together leave there."""
    there = settings.model_copy(update={"headline_eps": eps, "eps": (eps,)})
    found = outcomes(model, data, there, generator=generator, engine=engine)
    suite = _Suite(model, data, there, generator, found, first, checked=False)
    suite.run()
    pgd = [outcome for outcome in found if outcome.attack == pgd_name(settings.headline_num_steps)]
    return [*pgd, suite.found[-1]]


def audited(*parts: Findings) -> Audit:
    """What the findings of all parts of the test split, in their order, come to."""
    one = parts[0]
    found = [
        replace(outcome, correct=torch.cat([part.outcomes[number].correct for part in parts]))
        for number, outcome in enumerate(one.outcomes)
    ]
    norms = {attack: torch.cat([part.norms[attack] for part in parts]) for attack in one.norms}
    checks, certificate = [], None
    if one.standing is not None and one.signs is not None:
        standing = Standing(**_joined([part.standing for part in parts]))
        checks = masking_checks(standing, Signs(**_joined([part.signs for part in parts])))
    if one.certificate is not None:
        certified = [part.certificate for part in parts if part.certificate is not None]
        certificate = Certificate(
            torch.cat([part.called for part in certified]), torch.cat([part.radius for part in certified])
        )
    return Audit(found, norms, checks, certificate)


def _joined(parts: Sequence[Standing | Signs | None]) -> dict[str, Any]:
    """The fields of all parts, one after the other; None where they are None."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(parts[0])}  # type: ignore[arg-type]
    return {name: None if values[0] is None else torch.cat(values) for name, values in columns.items()}


class _Suite:
    """A run of the suite: what stands so far, and after which attack."""

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        settings: SuiteSettings,
        generator: torch.Generator,
        measured: list[Outcome],
        first: int,
        *,
        checked: bool = True,
    ) -> None:
        self.model, self.data, self.settings, self.generator = model, data, settings, generator
        self._first, self._checked = first, checked
        self.engine = Engine(model, data.images[:8].to(model_device(model)))
        self.norms: dict[str, Tensor] = {}
        self.found: list[Outcome] = []
        at_headline = {o.attack: o.correct for o in measured if o.eps == settings.headline_eps and o.labels == "true"}
        self._fewer_steps = at_headline[pgd_name(settings.num_steps)]
        self._headline = at_headline[pgd_name(settings.headline_num_steps)]
        self._left = torch.stack(list(at_headline.values())).all(dim=0)  # (N,)
        self._restarts = self._more_steps = (self._left, self._left)
        self._gradient = self._left

    def run(self) -> None:
        """Every attack of the level, and `worst`."""
        level = self.settings.attacks_of_level
        self._restarts = self._pgd(*level.restarts)
        self._more_steps = (self._fewer_steps, self._fewer_steps & self._headline)
        if level.more_steps[0] > max(self.settings.headline_num_steps, self.settings.num_steps):
            self._more_steps = self._pgd(*level.more_steps)
        for name, num_steps in level.minimum[self.settings.norm]:
            self._minimum(name, num_steps)
        for name, num_steps in level.fixed:
            self._fixed(name, num_steps)
        self._gradient = self._left
        self._fixed("square", level.square)
        self._record(WORST)

    def standing(self) -> Standing:
        """What the checks compare."""
        return Standing(
            headline=self._headline,
            fewer_steps=self._more_steps[0],
            more_steps=self._more_steps[1],
            fewer_restarts=self._restarts[0],
            more_restarts=self._restarts[1],
            gradient=self._gradient,
            square=self._left,
        )

    def _pgd(self, num_steps: int, num_restarts: int) -> tuple[Tensor, Tensor]:
        """PGD on what stands; what stood before and after."""
        before, rows = self._left, self._left.nonzero().flatten()
        attack: AttackSettings = self.settings.pgd(num_steps, num_restarts)
        withstood = adversarially_correct(
            self.model,
            self.data.select(rows),
            attack,
            batch_size=self.settings.batch_size,
            generator=self.generator,
            engine=self.engine,
            numbers=self._first + rows,
        )
        self._fell(rows[~withstood])
        self._record(pgd_name(num_steps, num_restarts))
        return before, self._left

    def _minimum(self, name: str, num_steps: int) -> None:
        rows = torch.arange(len(self.data)) if self._checked else self._left.nonzero().flatten()
        norms = minimum_norms(
            self.model,
            self.data.select(rows),
            name,
            norm=self.settings.norm,
            num_steps=num_steps,
            batch_size=self.settings.batch_size,
            generator=self.generator,
            engine=self.engine,
        )
        if self._checked:
            self.norms[f"{name}{num_steps}"] = norms
        self._fell(rows[norms <= self.settings.headline_eps])
        self._record(f"{name}{num_steps}")

    def _fixed(self, name: str, num_steps: int) -> None:
        if not allows(name, len(self.data.class_names), tuple(self.data.images.shape[1:])):
            return
        rows = self._left.nonzero().flatten()

        def attack(part: slice) -> None:
            """Attack some of the rows: the engine, then, where only its rounding was fooled, the model itself."""
            unsure = self._attacked(name, num_steps, rows[part], self.engine)
            self._attacked(name, num_steps, unsure, self.model)

        BatchSplitter(name).map(len(rows), self.settings.batch_size, attack)
        self._record(f"{name}{num_steps}")

    def _attacked(self, name: str, num_steps: int, rows: Tensor, network: nn.Module) -> Tensor:
        """Attack a network on some images; the model judges. Those that fool only the network, by its rounding."""
        device, labels = model_device(self.model), self.data.labels[rows]
        if not len(rows):
            return rows
        x_adv = library_attack(
            name,
            network,
            self.data.images[rows].to(device),
            labels.to(device),
            norm=self.settings.norm,
            eps=self.settings.headline_eps,
            num_steps=num_steps,
            generator=self.generator,
        )
        fooled = fools(predict(self.model, x_adv), labels)
        self._fell(rows[fooled])
        return rows[~fooled & fools(predict(network, x_adv), labels)]

    def _fell(self, rows: Tensor) -> None:
        self._left = self._left.clone()
        self._left[rows] = False

    def _record(self, attack: str) -> None:
        self.found.append(Outcome("true", attack, self.settings.norm, self.settings.headline_eps, self._left))
