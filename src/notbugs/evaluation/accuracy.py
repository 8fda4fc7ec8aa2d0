"""Accuracy and adversarial accuracy, with intervals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from notbugs.attacks import pgd
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.gradients import followed
from notbugs.attacks.losses import NO_NUMBER, USUAL_LOSS, called
from notbugs.attacks.modes import in_ordinary_mode
from notbugs.attacks.pgd import usual_step_size
from notbugs.data.images import Images, make_generator
from notbugs.evaluation.intervals import wilson_interval
from notbugs.evaluation.levels import RANDOM_STARTS, pgd_name
from notbugs.runtime.devices import full_precision, traits
from notbugs.runtime.out_of_memory import BatchSplitter

Part = TypeVar("Part")


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


def on_device(
    what: str, data: Images, device: torch.device, batch_size: int, work: Callable[[slice, Tensor, Tensor], Part]
) -> list[Part]:
    """Do a work on the images of a dataset, batch by batch, in smaller ones where the device's memory is short.

    Args:
        what: the work's name, for the line that says so.
        work: (rows, images (n, C, H, W), labels (n,), both on the device) -> anything.
    Returns: what it gave, in the order of the rows.
    """

    def over(rows: slice) -> Part:
        part = data.select(rows)
        return work(rows, part.images.to(device), part.labels.to(device))

    return BatchSplitter(what).map(len(data), batch_size, over)


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
        return _outputs(model, part.to(device)).float().cpu()

    with frozen(model), full_precision(device):
        return torch.cat(BatchSplitter("prediction").map(len(images), batch_size, logits))


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    """What a network gives, (N, K), the images laid out so that convolutions are fastest.

    On the CPU that is channels last, by a quarter or more (docs/performance.md); not for a network that then fails.
    """
    if x.ndim != 4 or x.shape[1] == 1 or traits(x.device).runs_ahead:
        return followed(model, x)
    try:
        return followed(model, x.contiguous(memory_format=torch.channels_last))
    except RuntimeError as error:
        # A network that flattens by `view` cannot; torch's own words are the only sign.
        if "view size is not compatible" not in str(error):
            raise
    return followed(model, x)


def called_by(model: nn.Module, images: Tensor | Images, *, batch_size: int = 1000) -> Tensor:
    """What a model calls each image, (N,) int64, on the CPU; NO_NUMBER, no class, where its logits are no numbers.

    The arguments are those of `predict`.
    """
    return called(predict(model, images, batch_size=batch_size))


def shifted_labels(labels: Tensor, num_classes: int) -> Tensor:
    """(y + 1) mod C: what D_det labels an image of class y. Shape (N,)."""
    return (labels + 1) % num_classes


MANY_STEPS, COARSE_STEPS = 50, 10
"""Steps of an attack from which it pays to take what is easily fooled first, and in how many (docs/performance.md)."""
LOOK_STEPS = 5
"""Steps of the second look. On digits they find what PGD-100 in float32 finds, to an image in 300."""


@in_ordinary_mode
def adversarially_correct(
    model: nn.Module,
    data: Images,
    *,
    eps: float,
    num_steps: int = 20,
    step_size: float | None = None,
    norm: str = "l2",
    loss: str = USUAL_LOSS,
    random_start: bool = False,
    num_restarts: int = 1,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
    engine: Engine | None = None,
    numbers: Tensor | None = None,
) -> Tensor:
    """Which examples withstand an untargeted PGD, by default on the cross-entropy; its arguments are those of `pgd`.

    An example counts as fooled if any iterate fooled the model, the unperturbed image included; work on it
    stops there. An iterate whose logits are no numbers fools nobody (the checks of `masking` name such a model).
    An attack of MANY_STEPS or more begins with COARSE_STEPS long ones from the image itself, as attack suites do: what
    these fool is not attacked further. The engine finds the images; the model itself judges them, and what fooled the
    engine alone is attacked once more without it. What withstands an engine of half precision gets a second look: a
    few more steps in full precision, from where it ended.

    Args:
        batch_size: images attacked at a time; does not change the results.
        generator: for random starts; None takes the one that seed 0 gives.
        engine: made from the model as it is now; None makes one.
        numbers: (N,), what each example is known by: its random starts depend on `generator` and on this alone, not
            on the batch it is in. None numbers them in order.
    Returns: (N,) bool, on the CPU.
    """
    if not len(data):
        return torch.zeros(0, dtype=torch.bool)
    engine = engine or engine_of(model, data)
    known_by = torch.arange(len(data)) if numbers is None else numbers
    generator = generator or make_generator(0, *RANDOM_STARTS)
    seed = int(torch.randint(2**62, (), generator=generator)) if random_start else 0
    coarsely: dict[str, Any] = {"norm": norm, "loss": loss, "eps": eps, "num_steps": COARSE_STEPS}
    coarsely["iterate"] = "first_success"
    more = {"num_steps": num_steps, "step_size": step_size, "random_start": random_start, "num_restarts": num_restarts}
    full = {**coarsely, **more}

    def withstand(rows: slice, inputs: Tensor, labels: Tensor) -> Tensor:
        generators = [make_generator(seed, number) for number in known_by[rows].tolist()] if random_start else None
        if num_steps < MANY_STEPS:
            return _withstand(model, engine, inputs, labels, full, generators).cpu()
        coarse = pgd(engine, inputs, labels, **coarsely)
        withstood = _withstands(model, coarse.x_adv, inputs, labels)
        left = withstood.nonzero().flatten()
        if len(left):
            withstood[left] = _withstand(model, engine, inputs[left], labels[left], full, _of(generators, left))
        return withstood.cpu()

    return torch.cat(on_device("adversarial accuracy", data, model_device(model), batch_size, withstand))


def _withstand(
    model: nn.Module,
    engine: Engine,
    inputs: Tensor,
    labels: Tensor,
    attack: dict[str, Any],
    generators: Sequence[torch.Generator] | None,
) -> Tensor:
    """Which examples of a batch withstand, (n,) bool, on its device; generators: one an example, for random starts."""
    found = pgd(engine, inputs, labels, generator=generators, **attack)
    withstood = _withstands(model, found.x_adv, inputs, labels)
    assert found.success is not None  # it was asked for
    unsure = withstood & found.success  # of the engine's rounding alone
    left = withstood.nonzero().flatten()
    if engine.half_dtype is not None and len(left):
        second_look = {**_second_look(attack), "start": found.x_adv[left]}
        closer = pgd(engine.in_full(inputs), inputs[left], labels[left], **second_look)
        withstood[left] = _withstands(model, closer.x_adv, inputs[left], labels[left])
        unsure &= withstood
    if unsure.any():
        rows = unsure.nonzero().flatten()
        x, y, own = inputs[rows], labels[rows], _of(generators, rows)
        if engine.half_dtype is None:
            withstood[rows] = _withstands(model, pgd(model, x, y, generator=own, **attack).x_adv, x, y)
        else:
            withstood[rows] = _withstand(model, engine.in_full(inputs), x, y, attack, own)
    if attack["random_start"]:  # no iterate was the unperturbed image
        withstood &= _called(model, inputs) == labels
    return withstood


def _second_look(attack: Mapping[str, Any]) -> dict[str, Any]:
    """A few more steps of an attack, as long as its own, from where it ended: what half precision may have missed."""
    step_size = attack["step_size"] or usual_step_size(attack["eps"], attack["num_steps"])
    kept = {name: attack[name] for name in ("norm", "loss", "eps", "iterate")}
    return {**kept, "step_size": step_size, "num_steps": min(attack["num_steps"], LOOK_STEPS)}


def _of(generators: Sequence[torch.Generator] | None, rows: Tensor) -> list[torch.Generator] | None:
    """Those of some of the examples; rows: (n,) indices."""
    return None if generators is None else [generators[row] for row in rows.tolist()]


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
        return called(_outputs(model, inputs))


def measure(outcome: Outcome) -> Measurement:
    """The accuracy that an outcome comes to."""
    count, n = int(outcome.correct.sum()), len(outcome.correct)
    low, high = wilson_interval(count, n)
    return Measurement(outcome.labels, outcome.attack, outcome.norm, outcome.eps, count / n, low, high, n)


def usual_radii(headline_eps: float) -> tuple[float, ...]:
    """Radii of an accuracy-against-eps curve around the one that is spoken of."""
    return tuple(headline_eps * share for share in (0.25, 0.5, 1.0, 1.5))


def curve_attacks(
    headline_eps: float, eps: Sequence[float] | None, num_steps: int, headline_num_steps: int
) -> list[tuple[float, int]]:
    """(eps, num_steps) of every PGD of a curve and of its headline; equal ones are measured once."""
    radii = usual_radii(headline_eps) if eps is None else eps
    curve = [(radius, num_steps) for radius in sorted({*radii, headline_eps})]
    return list(dict.fromkeys([*curve, (headline_eps, headline_num_steps)]))


def outcomes(
    model: nn.Module,
    data: Images,
    *,
    headline_eps: float,
    eps: Sequence[float] | None = None,
    norm: str = "l2",
    loss: str = USUAL_LOSS,
    num_steps: int = 20,
    headline_num_steps: int = 100,
    batch_size: int = 500,
    engine: Engine | None = None,
) -> list[Outcome]:
    """Every measurement of one model, example by example: clean, shifted, then PGD at every radius.

    Args:
        model: logits from images in [0, 1].
        data: the test split, with its own labels.
        headline_eps: the radius that is spoken of, pixel units on [0, 1]; named before the results are seen.
        eps: radii of the accuracy-against-eps curve; None takes `usual_radii`.
        norm: of the attacks. loss: what they climb.
        num_steps: PGD steps of the curve; the step size is 2.5·eps/num_steps.
        headline_num_steps: PGD steps at the headline radius.
        batch_size: images attacked at a time; does not change the results.
        engine: made from the model as it is now; None makes one.
    """
    calls = called_by(model, data, batch_size=batch_size)  # (N,)
    found = [
        Outcome("true", "clean", norm, 0.0, calls == data.labels),
        Outcome("shifted", "clean", norm, 0.0, calls == shifted_labels(data.labels, len(data.class_names))),
    ]
    engine = engine or engine_of(model, data)
    for radius, steps in curve_attacks(headline_eps, eps, num_steps, headline_num_steps):
        withstood = adversarially_correct(
            model, data, norm=norm, loss=loss, eps=radius, num_steps=steps, batch_size=batch_size, engine=engine
        )
        found.append(Outcome("true", pgd_name(steps), norm, radius, withstood))
    return found


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
    model: nn.Module, data: Images, *, headline_eps: float, **arguments: Any
) -> tuple[list[Measurement], dict[str, tuple[float, int]]]:
    """All accuracies of one model, clean and under PGD; the arguments are those of `outcomes`.

    Returns: the measurements, and per class name (clean accuracy, number of images).
    """
    found = outcomes(model, data, headline_eps=headline_eps, **arguments)
    return [measure(outcome) for outcome in found], class_accuracies(found[0].correct, data)


def engine_of(model: nn.Module, data: Images, **arguments: Any) -> Engine:
    """The engine for attacking a model on images like these; other arguments are those of `Engine`."""
    return Engine(model, data.select(slice(0, 8)).images.to(model_device(model)), **arguments)


def model_device(model: nn.Module) -> torch.device:
    """Where the model's parameters (else its buffers) lie; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
