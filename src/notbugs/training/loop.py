"""Training classifiers: one loop, standard or, given an attack, adversarial."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from notbugs.attacks import AttackSettings, pgd
from notbugs.attacks.engine import Engine
from notbugs.data.augmentation import augment
from notbugs.data.batches import BatchReader
from notbugs.data.images import Images, Subset, part_size
from notbugs.evaluation.accuracy import adversarially_correct, called_by, shifted_labels
from notbugs.runtime.config import Settings
from notbugs.runtime.devices import noise_generator, training_precision, traits, widened
from notbugs.runtime.distribution import average_buffers, averaging, own_generator, own_part, summed, world_size
from notbugs.runtime.errors import UserError
from notbugs.runtime.out_of_memory import BatchSplitter
from notbugs.runtime.progress import Track, silent
from notbugs.training.checkpoints import Checkpoint, restore_training, training_state
from notbugs.training.early_stopping import BestEpoch, DecidingColumn, EpochRecord


class TrainSettings(Settings):
    """How a classifier is trained."""

    seeds: tuple[int, ...] = Field(default=(0,), strict=False, min_length=1)
    """One model is trained for each; of a fit, for each source model's dataset."""
    epochs: int = Field(ge=1)
    """Passes over the data."""
    batch_size: int = Field(default=128, ge=2)
    """Images a step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = Field(gt=0, allow_inf_nan=False)
    """Learning rate; the highest one of a one-cycle schedule."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    nesterov: bool = False
    """Nesterov's form of SGD's momentum."""
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    """L2 penalty (SGD) or decoupled decay (AdamW)."""
    schedule: Literal["step", "one_cycle", "constant"] = "step"
    """step divides lr by 10 at each milestone; one_cycle rises to lr and falls to 0."""
    milestones: tuple[int, ...] = Field(default=(), strict=False)
    """Epochs at which the step schedule divides the learning rate by 10."""
    crop_padding: int = Field(default=0, ge=0)
    """Random crops after padding with this many black pixels; 0 for none."""
    flip: bool = False
    """Random horizontal flips."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the uniform distribution in the labels."""
    early_stopping: int | None = Field(default=None, ge=1)
    """Stop after this many measured epochs without a better validation accuracy (adversarial accuracy, if
    trained adversarially), and keep the best epoch's weights; null trains to the end."""
    measure_every: int = Field(default=1, ge=1)
    """Validation is measured after every so many epochs, and after the last."""
    attack: AttackSettings | None = None
    """The inner attack of adversarial training; null for standard training."""
    validation_attack: AttackSettings | None = None
    """Attack of the adversarial accuracy in the learning curves; null leaves it out."""

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("seeds that differ from each other")
        return seeds

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("false where momentum is 0")
        return nesterov

    @field_validator("milestones")
    @classmethod
    def _is_for_steps(cls, milestones: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if milestones and info.data.get("schedule") != "step":
            raise ValueError(f"empty where schedule is {info.data.get('schedule')}")
        return milestones

    @field_validator("validation_attack")
    @classmethod
    def _serves_early_stopping(
        cls, validation_attack: AttackSettings | None, info: ValidationInfo
    ) -> AttackSettings | None:
        if validation_attack is None and info.data.get("attack") and info.data.get("early_stopping"):
            raise ValueError("given where early_stopping and attack are: the best epoch is chosen by it")
        return validation_attack

    @property
    def deciding_column(self) -> DecidingColumn:
        """What early stopping compares."""
        return "validation_accuracy" if self.attack is None else "validation_adversarial_accuracy"


class FitSettings(TrainSettings):
    """How a classifier is fitted on a constructed dataset."""

    still_y: bool = True
    """Fit a second time on only the images that the robust model and 1-NN still call y."""
    baseline: bool = False
    """Fit D itself too, by the same recipe, from the same initialisations and in the same order: what this
    construction, and each other of the same recipe, is to be compared with."""


class TrainingError(UserError):
    """Training cannot go on."""


def train(
    model: nn.Module,
    data: Images,
    settings: TrainSettings,
    *,
    generator: torch.Generator,
    validation: Images | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    compiled: bool = False,
    checkpoint: Checkpoint | None = None,
    progress: Track = silent,
    description: str = "train",
) -> list[EpochRecord]:
    """Train `model` in place; it is left in eval mode.

    Standard: minimise E[L(x, y)]. With `settings.attack`: minimise E[max over ‖δ‖ <= eps of L(x + δ, y)].
    In one of several processes (`distribution.process_group`) each learns from its part of every batch, and all
    end with the same model.

    Args:
        model: on the device to train on.
        data: images and labels to learn, in memory or stored; see `batches.BatchReader`.
        settings: optimiser, schedule, augmentation, attack.
        generator: CPU generator for the order of the examples, augmentation and random starts.
        validation: measured for the curves and early stopping; never trained on.
        on_epoch: called with each record.
        compiled: compile the engine of the inner attack (see `attacks.engine.pays_to_compile`).
        checkpoint: where the state is kept after an epoch, and taken up again; model and generator must then be
            as they were for the training that is taken up.
        progress: shows the epochs.
    Returns: one record an epoch.
    Raises: TrainingError if the loss is no longer finite, or for fewer than two examples a process; ValueError for
        early stopping without validation images.
    """
    _check(data, settings, validation)
    device = next(model.parameters()).device
    reader = BatchReader(data, device)
    model.to(memory_format=torch.channels_last)
    few = data.select(slice(0, 8)).images.to(device)
    engine = Engine(model, few, compiled=compiled, learning=True) if settings.attack else None
    steps = _steps_per_epoch(len(data), settings.batch_size)
    optimizer, scheduler = _optimizer(model, settings, steps)
    records: list[EpochRecord] = []
    best = BestEpoch(settings.early_stopping, settings.deciding_column)
    kept = checkpoint.load() if checkpoint else None
    if kept is not None:
        restore_training(kept["training"], model, optimizer, scheduler, generator)
        best.load_state_dict(kept["best"])
        records = kept["records"]
        if on_epoch:
            for record in records:
                on_epoch(record)
    network = averaging(model)
    splitter = BatchSplitter(
        description, smallest=2 if world_size() == 1 else len(data)
    )  # all processes take the same steps
    left = range(len(records) + 1, 1 if best.over else settings.epochs + 1)
    for epoch in progress(left, description):
        lr = optimizer.param_groups[0]["lr"]
        try:
            loss, accuracy = _train_epoch(
                network, engine, reader, settings, optimizer, scheduler, generator, splitter=splitter
            )
        except _NotFiniteError as error:
            kept_in = f"; the state of an earlier epoch is in {checkpoint.file}" if checkpoint and records else ""
            raise TrainingError(
                f"{description}: the loss is {error.loss} in epoch {epoch}, step {error.step} of {steps}; a smaller lr "
                f"may help{kept_in}"
            ) from None
        average_buffers(model)
        record = _unmeasured(epoch, lr, loss, accuracy)
        looked_at = validation if epoch % settings.measure_every == 0 or epoch == settings.epochs else None
        if looked_at is not None:
            _measure(model, looked_at, settings, record)
        records.append(record)
        if on_epoch:
            on_epoch(record)
        if looked_at is not None:
            best.see(model, record)
        if checkpoint:
            checkpoint.save(
                lambda: {
                    "training": training_state(model, optimizer, scheduler, generator),
                    "best": best.state_dict(),
                    "records": records,
                },
                last=best.over or epoch == settings.epochs,
            )
        if best.over:
            break
    optimizer.zero_grad(set_to_none=True)  # the last gradients are of no use to anybody
    best.restore(model)
    model.eval().to(memory_format=torch.contiguous_format)
    return records


def _check(data: Images, settings: TrainSettings, validation: Images | None) -> None:
    count, needed = min(len(data), settings.batch_size), 2 * world_size()
    if count < needed:
        whom = f", two for each of {world_size()} processes" if world_size() > 1 else ""
        raise TrainingError(f"training needs at least {needed} examples{whom}, not {count}")
    if settings.early_stopping is not None and validation is None:
        raise ValueError("early_stopping needs validation images")


def _unmeasured(epoch: int, lr: float, loss: float, accuracy: float) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        lr=lr,
        train_loss=loss,
        train_accuracy=accuracy,
        validation_accuracy=None,
        validation_accuracy_shifted=None,
        validation_adversarial_accuracy=None,
    )


class _NotFiniteError(Exception):
    """The loss of a step is infinite or no number."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(loss, step)
        self.loss, self.step = loss, step


def _train_epoch(
    model: nn.Module,
    engine: Engine | None,
    reader: BatchReader,
    settings: TrainSettings,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    generator: torch.Generator,
    *,
    splitter: BatchSplitter,
) -> tuple[float, float]:
    """One pass; returns the mean loss and the accuracy on the batches as they were trained on."""
    model.train()
    device = reader.device
    order = torch.randperm(len(reader), generator=generator)
    own = noise_generator(own_generator(generator), device)
    total_loss = torch.zeros((), device=device, dtype=traits(device).widest)
    total_right = torch.zeros((), device=device, dtype=torch.int64)
    seen = 0
    losses = []
    whole = [batch for batch in order.split(settings.batch_size) if len(batch) >= 2 * world_size()]  # for BatchNorm
    for number, (share, images, labels) in enumerate(reader.batches(map(own_part, whole))):
        weight = len(share) * world_size() / len(whole[number])  # gradients are averaged over processes
        inputs = augment(images, settings.crop_padding, settings.flip, generator, batch_size=len(whole[number]))

        def learn(rows: slice, inputs: Tensor = inputs, labels: Tensor = labels, weight: float = weight) -> _Learnt:
            if rows.start == 0:
                optimizer.zero_grad(set_to_none=True)
            part = weight * (rows.stop - rows.start) / len(inputs)
            return _learn(model, engine, inputs[rows], labels[rows], settings, own, part)

        found = splitter(len(inputs), learn)
        optimizer.step()
        if settings.schedule == "one_cycle":
            scheduler.step()
        for loss, right, count in found:
            total_loss += widened(loss) * count
            total_right += right
        losses.append(torch.stack([loss for loss, *_ in found]).sum())
        seen += len(share)
    if settings.schedule != "one_cycle":
        scheduler.step()
    loss_sum, right_sum, count_sum = summed(total_loss, total_right, float(seen))
    if not math.isfinite(loss_sum):
        raise _NotFiniteError(loss_sum / count_sum, _first_not_finite(losses))
    return loss_sum / count_sum, right_sum / count_sum


_Learnt = tuple[Tensor, Tensor, int]
"""Mean loss, number of right ones (both on the device), number of examples."""


def _learn(
    model: nn.Module,
    engine: Engine | None,
    inputs: Tensor,
    labels: Tensor,
    settings: TrainSettings,
    generator: torch.Generator,
    weight: float,
) -> _Learnt:
    """Attack a batch, or a part of one, and add the gradient of `weight` times its mean loss."""
    if engine is not None and settings.attack is not None:
        engine.refresh()
        attack = settings.attack.arguments()
        inputs = pgd(engine, inputs, labels, **attack, generator=generator, judge=False, check=False).x_adv
    with training_precision(inputs.device):
        logits = model(inputs).float()
    loss = functional.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    (loss if weight == 1 else weight * loss).backward()
    return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum(), len(labels)


def _first_not_finite(losses: list[Tensor]) -> int:
    """Number of the first step, from 1, at which a loss is not finite in any process."""
    bad = (~torch.stack(losses).isfinite()).nonzero().flatten().cpu()
    first = int(bad[0]) if len(bad) else len(losses)
    counts = summed(*(torch.arange(len(losses)) >= first).double())
    return next(step for step, count in enumerate(counts, start=1) if count)


def _measure(model: nn.Module, validation: Images, settings: TrainSettings, record: EpochRecord) -> None:
    """Fill in the validation columns of a record; of several processes each measures its part of the images."""
    count, at_once = len(validation), 8 * part_size(validation.image_shape)
    mine = validation if world_size() == 1 else Subset(validation, own_part(torch.arange(count)))
    called = called_by(model, mine, batch_size=min(1000, at_once))
    shifted = shifted_labels(mine.labels, len(mine.class_names))
    record["validation_accuracy"] = _share(called == mine.labels, count)
    record["validation_accuracy_shifted"] = _share(called == shifted, count)
    if settings.validation_attack is not None:
        withstood = adversarially_correct(
            model,
            mine,
            **settings.validation_attack.arguments(),
            batch_size=min(500, at_once),
            generator=torch.Generator().manual_seed(0),
        )
        record["validation_adversarial_accuracy"] = _share(withstood, count)


def _share(mine: Tensor, count: int) -> float:
    """Share of `count` examples that are true, over all processes; mine: (n,) bool."""
    return summed(mine.sum())[0] / count


def kept_record(records: Sequence[EpochRecord], settings: TrainSettings) -> EpochRecord:
    """The record of the epoch whose weights `train` left in the model: the best with early stopping, else the last."""
    column = settings.deciding_column
    measured = [record for record in records if record[column] is not None]
    if settings.early_stopping is None or not measured:
        return records[-1]
    return max(measured, key=lambda record: record[column] or 0.0)


def _steps_per_epoch(num_examples: int, batch_size: int) -> int:
    full, rest = divmod(num_examples, batch_size)
    return full + (rest >= 2 * world_size())


def _optimizer(model: nn.Module, settings: TrainSettings, steps: int) -> tuple[Optimizer, LRScheduler]:
    optimizer: Optimizer
    if settings.optimizer == "sgd":
        optimizer = SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    else:
        optimizer = AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    if settings.schedule == "one_cycle":
        total = settings.epochs * steps
        return optimizer, OneCycleLR(optimizer, settings.lr, total_steps=total, cycle_momentum=False)
    if settings.schedule == "step":
        return optimizer, MultiStepLR(optimizer, list(settings.milestones), gamma=0.1)
    return optimizer, LambdaLR(optimizer, lambda _: 1.0)
