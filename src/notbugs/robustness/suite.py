"""The attack suite: cheapest attack first, each on what the ones before it left standing, and what all leave."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from notbugs.attacks import AttackSettings
from notbugs.attacks.engine import Engine
from notbugs.attacks.library import allows, library_attack
from notbugs.evaluation import Outcome, adversarially_correct, batches, model_device, outcomes, predict
from notbugs.images import Images, Subset
from notbugs.results import WORST
from notbugs.robustness.certificate import Certificate, certify
from notbugs.robustness.masking import Check, Standing, masking_checks
from notbugs.robustness.minimum_norm import minimum_norms
from notbugs.robustness.settings import SuiteSettings, pgd_name


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
        data: the test split, with its own labels; read batch by batch.
        settings: radii and level.
        generator: for everything random.
        transfer_from: another model, whose adversarial images are tried on this one.
        compiled: compile the engine of the curve's attacks (see `attacks.engine.pays_to_compile`).
    """
    found = outcomes(model, data, settings, generator=generator, compiled=compiled)
    if not thorough:
        return Audit(found, {}, [])
    suite = _Suite(model, data, settings, generator, found)
    suite.run()
    checks = masking_checks(
        model, data, settings, suite.standing(), engine=suite.engine, generator=generator, transfer_from=transfer_from
    )
    certificate = _certificate(model, data, settings, generator)
    return Audit([*found, *suite.found], suite.norms, checks, certificate)


def _certificate(
    model: nn.Module, data: Images, settings: SuiteSettings, generator: torch.Generator
) -> Certificate | None:
    """Of the first images, where settings ask for it; read batch by batch."""
    if settings.certificate is None:
        return None
    count = min(settings.certificate.num_examples or len(data), len(data))
    parts = [
        certify(model, data.select(rows).images.to(model_device(model)), settings.certificate, generator=generator)
        for rows in batches(count, settings.batch_size)
    ]
    return Certificate(torch.cat([part.called for part in parts]), torch.cat([part.radius for part in parts]))


class _Suite:
    """A run of the suite: what stands so far, and after which attack."""

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        settings: SuiteSettings,
        generator: torch.Generator,
        measured: list[Outcome],
    ) -> None:
        self.model, self.data, self.settings, self.generator = model, data, settings, generator
        self.engine = Engine(model, data.select(slice(0, 8)).images.to(model_device(model)))
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
            Subset(self.data, rows),
            attack,
            batch_size=self.settings.batch_size,
            generator=self.generator,
            engine=self.engine,
        )
        self._fell(rows[~withstood])
        self._record(pgd_name(num_steps, num_restarts))
        return before, self._left

    def _minimum(self, name: str, num_steps: int) -> None:
        norms = minimum_norms(
            self.model,
            self.data,
            name,
            norm=self.settings.norm,
            num_steps=num_steps,
            batch_size=self.settings.batch_size,
            generator=self.generator,
            engine=self.engine,
        )
        self.norms[f"{name}{num_steps}"] = norms
        self._fell((norms <= self.settings.headline_eps).nonzero().flatten())
        self._record(f"{name}{num_steps}")

    def _fixed(self, name: str, num_steps: int) -> None:
        shape = self.data.image_shape
        if not allows(name, len(self.data.class_names), shape):
            return
        rows = self._left.nonzero().flatten()
        for part in batches(len(rows), self.settings.batch_size):
            unsure = self._attacked(name, num_steps, rows[part], self.engine)
            self._attacked(name, num_steps, unsure, self.model)
        self._record(f"{name}{num_steps}")

    def _attacked(self, name: str, num_steps: int, rows: Tensor, network: nn.Module) -> Tensor:
        """Attack a network on some images; the model judges. Those that fool only the network, by its rounding."""
        if not len(rows):
            return rows
        device, some = model_device(self.model), self.data.select(rows)
        x_adv = library_attack(
            name,
            network,
            some.images.to(device),
            some.labels.to(device),
            norm=self.settings.norm,
            eps=self.settings.headline_eps,
            num_steps=num_steps,
            generator=self.generator,
        )
        fooled = predict(self.model, x_adv).argmax(dim=1) != some.labels
        self._fell(rows[fooled])
        return rows[~fooled & (predict(network, x_adv).argmax(dim=1) != some.labels)]

    def _fell(self, rows: Tensor) -> None:
        self._left = self._left.clone()
        self._left[rows] = False

    def _record(self, attack: str) -> None:
        self.found.append(Outcome("true", attack, self.settings.norm, self.settings.headline_eps, self._left))
