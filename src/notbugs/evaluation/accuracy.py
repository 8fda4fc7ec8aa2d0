"""Accuracy and adversarial accuracy, with intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from notbugs.attacks import AttackSettings, run_attack
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.gradients import followed
from notbugs.attacks.losses import NO_NUMBER, called
from notbugs.attacks.modes import in_ordinary_mode
from notbugs.data.images import Images, make_generator
from notbugs.evaluation.intervals import wilson_interval
from notbugs.runtime.config import Radii, Settings
from notbugs.runtime.devices import full_precision
from notbugs.runtime.out_of_memory import BatchSplitter


class EvaluateSettings(Settings):
    """How every model is measured on the test split."""

    norm: Literal["l2", "linf"] = "l2"
    """Norm of the attack."""
    eps: Radii
    """Radii of the accuracy-against-eps curve, pixel units on [0, 1], all > 0."""
    num_steps: int = Field(default=20, ge=1)
    """PGD steps of the curve; the step size is 2.5·eps/num_steps."""
    headline_eps: float = Field(gt=0, allow_inf_nan=False)
    """The radius that tables and verdicts speak of; named before the results are seen."""
    headline_num_steps: int = Field(default=100, ge=1)
    """PGD steps at the headline radius."""
    batch_size: int = Field(default=500, ge=1)
    """Images attacked at a time; does not change the results."""

    def attacks(self) -> list[tuple[str, AttackSettings]]:
        """Every attack with its name in the results, such as ("pgd20", ...)."""
        radii = sorted({*self.eps, self.headline_eps})
        curve = [(eps, self.num_steps) for eps in radii]
        headline = (self.headline_eps, self.headline_num_steps)
        return [
            (f"pgd{num_steps}", AttackSettings(norm=self.norm, eps=eps, num_steps=num_steps))
            for eps, num_steps in dict.fromkeys([*curve, headline])  # equal step numbers: measured once
        ]


@dataclass(frozen=True)
class Outcome:
    """Which examples were right: on D's labels or the shifted ones, untouched or under an attack."""

    labels: Literal["true", "shifted"]
    attack: str
    norm: str
    eps: float
    correct: Tensor
    """(N,) bool, on the CPU."""


@dataclass(frozen=True)
class Measurement:
    """One accuracy: a fraction of `n` images with its Wilson 95% interval."""

    labels: Literal["true", "shifted"]
    attack: str
    norm: str
    eps: float
    accuracy: float
    low: float
    high: float
    n: int


def batches(num_examples: int, batch_size: int) -> Iterator[slice]:
    """Slices that cover 0..num_examples - 1 in order."""
    for start in range(0, num_examples, batch_size):
        yield slice(start, min(start + batch_size, num_examples))


MANY_STEPS, COARSE_STEPS = 50, 10
"""Steps of an attack from which it pays to take what is easily fooled first, and in how many (docs/performance.md)."""


@torch.no_grad()
def predict(model: nn.Module, images: Tensor | Images, *, batch_size: int = 1000) -> Tensor:
    """Logits in eval mode and in full precision, on the CPU.

    Args:
        model: on any device; left in the mode it was in.
        images: (N, C, H, W), on any device; or a dataset, read batch by batch.
    Returns: (N, K) float32.
    """
    device = model_device(model)

    def logits(rows: slice) -> Tensor:
        part = images[rows] if isinstance(images, Tensor) else images.select(rows).images
        return followed(model, part.to(device)).float().cpu()

    with frozen(model), full_precision(device):
        return torch.cat(BatchSplitter("prediction").map(len(images), batch_size, logits))


def called_by(model: nn.Module, images: Tensor | Images, *, batch_size: int = 1000) -> Tensor:
    """What a model calls each image, (N,) int64, on the CPU; NO_NUMBER, no class, where its logits are no numbers.

    The arguments are those of `predict`.
    """
    return called(predict(model, images, batch_size=batch_size))


def shifted_labels(labels: Tensor, num_classes: int) -> Tensor:
    """(y + 1) mod C: what D_det labels an image of class y. Shape (N,)."""
    return (labels + 1) % num_classes


@in_ordinary_mode
def adversarially_correct(
    model: nn.Module,
    data: Images,
    attack: AttackSettings,
    *,
    batch_size: int = 500,
    generator: torch.Generator,
    engine: Engine | None = None,
    numbers: Tensor | None = None,
) -> Tensor:
    """Which examples withstand an untargeted PGD on the cross-entropy.

    An example counts as fooled if any iterate fooled the model, the unperturbed image included; work on it
    stops there. An iterate whose logits are no numbers fools nobody (the checks of `robustness` name such a model).
    An attack of MANY_STEPS or more begins with COARSE_STEPS long ones from the image itself, as attack suites do: what
    these fool is not attacked further. The engine finds the images; the model itself judges them, and what fooled the
    engine alone is attacked once more without it.

    Args:
        engine: made from the model as it is now; None makes one.
        numbers: (N,), what each example is known by: its random starts depend on `generator` and on this alone, not
            on the batch it is in. None numbers them in order.
    Returns: (N,) bool, on the CPU.
    """
    if not len(data):
        return torch.zeros(0, dtype=torch.bool)
    device = model_device(model)
    engine = engine or Engine(model, data.select(slice(0, 8)).images.to(device))
    known_by = torch.arange(len(data)) if numbers is None else numbers
    starts = _Starts(generator, known_by) if attack.random_start else None

    def withstand(rows: slice) -> Tensor:
        part = data.select(rows)
        inputs, labels = part.images.to(device), part.labels.to(device)
        generators = starts.of(rows) if starts else None
        if attack.num_steps < MANY_STEPS:
            return _withstand(model, engine, inputs, labels, attack, generators).cpu()
        coarse = run_attack(engine, inputs, labels, _coarse(attack), iterate="first_success")
        withstood = _withstands(model, coarse.x_adv, inputs, labels)
        left = withstood.nonzero().flatten()
        if len(left):
            own = generators and [generators[row] for row in left.tolist()]
            withstood[left] = _withstand(model, engine, inputs[left], labels[left], attack, own)
        return withstood.cpu()

    return torch.cat(BatchSplitter("adversarial accuracy").map(len(data), batch_size, withstand))


def _withstand(
    model: nn.Module,
    engine: Engine,
    inputs: Tensor,
    labels: Tensor,
    attack: AttackSettings,
    generators: Sequence[torch.Generator] | None,
) -> Tensor:
    """Which examples of a batch withstand, (n,) bool, on its device; generators: one an example, for random starts."""
    found = run_attack(engine, inputs, labels, attack, iterate="first_success", generator=generators)
    withstood = _withstands(model, found.x_adv, inputs, labels)
    assert found.success is not None  # it was asked for
    unsure = withstood & found.success  # of the engine's rounding alone
    if unsure.any():
        own = generators and [generators[row] for row in unsure.nonzero().flatten().tolist()]
        again = run_attack(model, inputs[unsure], labels[unsure], attack, iterate="first_success", generator=own)
        withstood[unsure] = _withstands(model, again.x_adv, inputs[unsure], labels[unsure])
    if attack.random_start:  # no iterate was the unperturbed image
        withstood &= _called(model, inputs) == labels
    return withstood


def _coarse(attack: AttackSettings) -> AttackSettings:
    """The attack in few long steps from the image itself."""
    update = {"num_steps": COARSE_STEPS, "step_size": None, "random_start": False, "num_restarts": 1}
    return attack.model_copy(update=update)


class _Starts:
    """Random starts that depend on the example alone.

    Args:
        generator: gives the seed that all share.
        numbers: (N,), what each example is known by.
    """

    def __init__(self, generator: torch.Generator, numbers: Tensor) -> None:
        self._seed, self._numbers = int(torch.randint(2**62, (), generator=generator)), numbers

    def of(self, rows: slice) -> list[torch.Generator]:
        """A generator for each example."""
        return [make_generator(self._seed, number) for number in self._numbers[rows].tolist()]


def _withstands(model: nn.Module, x_adv: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Whether the model calls each adversarial image by its label, (N,) bool, on the model's device.

    Where it gives no number the attack achieved nothing, and what counts is what it says of the image itself.
    """
    found = _called(model, x_adv)
    withstood, lost = found == labels, found == NO_NUMBER
    if lost.any():
        withstood[lost] = _called(model, inputs[lost]) == labels[lost]
    return withstood


@torch.no_grad()
def _called(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the model calls each image, (N,) int64, on the model's device."""
    with frozen(model), full_precision(inputs.device):
        return called(followed(model, inputs))


def measure(correct: Tensor, labels: Literal["true", "shifted"], attack: str, norm: str, eps: float) -> Measurement:
    """A measurement from which examples are right, (N,) bool."""
    count, n = int(correct.sum()), len(correct)
    low, high = wilson_interval(count, n)
    return Measurement(labels, attack, norm, eps, count / n, low, high, n)


def outcomes(
    model: nn.Module,
    data: Images,
    settings: EvaluateSettings,
    *,
    generator: torch.Generator,
    engine: Engine | None = None,
) -> list[Outcome]:
    """Every measurement of one model, example by example: clean, shifted, then the attacks of `settings`.

    Args:
        model: logits from images in [0, 1].
        data: the test split, with its own labels.
        settings: attacks and radii.
        generator: for random starts.
        engine: made from the model as it is now; None makes one.
    """
    calls = called_by(model, data, batch_size=settings.batch_size)  # (N,)
    found = [
        Outcome("true", "clean", settings.norm, 0.0, calls == data.labels),
        Outcome("shifted", "clean", settings.norm, 0.0, calls == shifted_labels(data.labels, len(data.class_names))),
    ]
    engine = engine or Engine(model, data.select(slice(0, 8)).images.to(model_device(model)))
    for name, attack in settings.attacks():
        withstood = adversarially_correct(
            model, data, attack, batch_size=settings.batch_size, generator=generator, engine=engine
        )
        found.append(Outcome("true", name, attack.norm, attack.eps, withstood))
    return found


def measure_outcome(outcome: Outcome) -> Measurement:
    """The accuracy that an outcome comes to."""
    return measure(outcome.correct, outcome.labels, outcome.attack, outcome.norm, outcome.eps)


def class_accuracies(correct: Tensor, data: Images) -> dict[str, tuple[float, int]]:
    """Class name -> (share of its images that are right, number of its images); classes without images are left out.

    Args:
        correct: (N,) bool.
    """
    found = {}
    for label, class_name in enumerate(data.class_names):
        members = data.labels == label
        if members.any():
            found[class_name] = (float(correct[members].double().mean()), int(members.sum()))
    return found


def evaluate(
    model: nn.Module, data: Images, settings: EvaluateSettings, *, generator: torch.Generator
) -> tuple[list[Measurement], dict[str, tuple[float, int]]]:
    """All accuracies of one model; the arguments are those of `outcomes`.

    Returns: the measurements, and per class name (clean accuracy, number of images).
    """
    found = outcomes(model, data, settings, generator=generator)
    return [measure_outcome(outcome) for outcome in found], class_accuracies(found[0].correct, data)


def model_device(model: nn.Module) -> torch.device:
    """Where the model's parameters (else its buffers) lie; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
