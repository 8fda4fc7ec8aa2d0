"""Training classifiers: one loop, standard or, given an attack, adversarial."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from notbugs.attacks import pgd
from notbugs.attacks.engine import Engine
from notbugs.data.batches import BatchReader, augment
from notbugs.data.images import Images, Subset, part_size
from notbugs.evaluation.accuracy import adversarially_correct, called_by, shifted_labels
from notbugs.runtime.devices import noise_generator, training_precision, traits, widened
from notbugs.runtime.distribution import average_buffers, averaging, own_generator, own_part, summed, world_size
from notbugs.runtime.errors import UserError
from notbugs.runtime.out_of_memory import BatchSplitter
from notbugs.runtime.progress import Track, silent
from notbugs.training.checkpoints import BestEpoch, Checkpoint, EpochRecord, History, deciding_column

Schedule = Literal["step", "one_cycle", "constant"]


class TrainingError(UserError):
    """Training cannot go on."""


def train(
    model: nn.Module,
    data: Images,
    *,
    epochs: int,
    lr: float,
    generator: torch.Generator,
    batch_size: int = 128,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
    schedule: Schedule = "step",
    milestones: Sequence[int] = (),
    crop_padding: int = 0,
    flip: bool = False,
    label_smoothing: float = 0.0,
    attack: Mapping[str, Any] | None = None,
    validation: Images | None = None,
    validation_attack: Mapping[str, Any] | None = None,
    measure_every: int = 1,
    early_stopping: int | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    compiled: bool = False,
    checkpoint: Checkpoint | None = None,
    progress: Track = silent,
    description: str = "train",
) -> list[EpochRecord]:
    """Train `model` in place; it is left in eval mode.

    Standard: minimise E[L(x, y)]. With an `attack`: minimise E[max over ‖δ‖ <= eps of L(x + δ, y)].
    In one of several processes (`distribution.process_group`) each learns from its part of every batch, and all
    end with the same model.

    Args:
        model: on the device to train on.
        data: images and labels to learn, in memory or stored; see `batches.BatchReader`.
        epochs, lr, batch_size, optimizer, momentum, nesterov, weight_decay, schedule, milestones, crop_padding, flip,
            label_smoothing, measure_every, early_stopping: as `settings.TrainSettings` says; its `arguments()` gives
            them.
        generator: CPU generator for the order of the examples, augmentation and random starts.
        attack: arguments of `pgd` for the inner attack, such as {"norm": "l2", "eps": 0.5, "num_steps": 7}.
        validation: measured for the curves and early stopping; never trained on.
        validation_attack: the same for the adversarial accuracy in the curves; None leaves it out.
        on_epoch: called with each record.
        compiled: compile the engine of the inner attack (see `attacks.engine.pays_to_compile`).
        checkpoint: where the state is kept after an epoch, and taken up again; model and generator must then be
            as they were for the training that is taken up.
        progress: shows the epochs.
    Returns: one record an epoch.
    Raises: TrainingError if the loss is no longer finite, or for fewer than two examples a process; ValueError for
        early stopping without validation images, or an impossible attack.
    """
    _check(len(data), batch_size, early_stopping, validation)
    device = next(model.parameters()).device
    reader = BatchReader(data, device)
    model.to(memory_format=torch.channels_last)
    few = data.select(slice(0, 8)).images.to(device)
    steps = _steps_per_epoch(len(data), batch_size)
    descent = _optimizer(model, optimizer, lr, momentum, nesterov, weight_decay)
    learner = _Learner(
        model=averaging(model),
        optimizer=descent,
        scheduler=_scheduler(descent, schedule, lr, milestones, epochs * steps),
        after_each_step=schedule == "one_cycle",
        engine=Engine(model, few, compiled=compiled, learning=True) if attack is not None else None,
        attack=attack,
        crop_padding=crop_padding,
        flip=flip,
        label_smoothing=label_smoothing,
        # of several processes all must take the same steps, so none may split its part of a batch
        splitter=BatchSplitter(description, smallest=2 if world_size() == 1 else len(data)),
    )
    best = BestEpoch(early_stopping, deciding_column(adversarial=attack is not None))
    told = on_epoch or (lambda record: None)
    history = History(model, descent, learner.scheduler, generator, best, checkpoint, told)
    history.resume()
    for epoch in progress(history.epochs_left(epochs), f"{description}, epochs"):
        last = epoch == epochs
        now = descent.param_groups[0]["lr"]
        loss, accuracy, losses = _train_epoch(learner, reader, batch_size, generator)
        if not math.isfinite(loss):
            kept = f"; the state of an earlier epoch is in {checkpoint.file}" if checkpoint and history.records else ""
            raise TrainingError(
                f"{description}: the loss is {loss} in epoch {epoch}, step {_first_not_finite(losses)} of {steps}; "
                f"a smaller lr may help{kept}"
            )
        average_buffers(model)
        record = unmeasured(epoch, now, loss, accuracy)
        measured = validation is not None and (last or epoch % measure_every == 0)
        if validation is not None and measured:
            measure_validation(model, validation, validation_attack, record)
        history.add(record, measured=measured, last=last)
        if best.over:
            break
    descent.zero_grad(set_to_none=True)  # the last gradients are of no use to anybody
    best.restore(model)
    model.eval().to(memory_format=torch.contiguous_format)
    return history.records


def _check(num_examples: int, batch_size: int, early_stopping: int | None, validation: Images | None) -> None:
    count, needed = min(num_examples, batch_size), 2 * world_size()
    if count < needed:
        whom = f", two for each of {world_size()} processes" if world_size() > 1 else ""
        raise TrainingError(f"training needs at least {needed} examples{whom}, not {count}")
    if early_stopping is not None and validation is None:
        raise ValueError("early_stopping needs validation images")


def unmeasured(epoch: int, lr: float, loss: float, accuracy: float) -> EpochRecord:
    """A record of what was seen while learning, its validation columns empty."""
    return EpochRecord(
        epoch=epoch,
        lr=lr,
        train_loss=loss,
        train_accuracy=accuracy,
        validation_accuracy=None,
        validation_accuracy_shifted=None,
        validation_adversarial_accuracy=None,
    )


_Learnt = tuple[Tensor, Tensor, int]
"""Mean loss, number of right ones (both on the device), number of examples."""


@dataclass(frozen=True)
class _Learner:
    """What a step needs: the network, what changes its weights, and what is done to its images before.

    Attributes:
        after_each_step: the schedule goes on with every step, not with every epoch.
        engine, attack: of adversarial training.
        splitter: halves a batch that the device's memory does not hold.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    after_each_step: bool
    engine: Engine | None
    attack: Mapping[str, Any] | None
    crop_padding: int
    flip: bool
    label_smoothing: float
    splitter: BatchSplitter

    def step(
        self, images: Tensor, labels: Tensor, batch_size: int, generator: torch.Generator, noise: torch.Generator
    ) -> list[_Learnt]:
        """Take one step, on this process's part of a batch of `batch_size` examples.

        Args:
            generator: of the augmentation, the same in all processes.
            noise: of random starts, this process's own.
        """
        weight = len(labels) * world_size() / batch_size  # gradients are averaged over processes
        inputs = augment(images, self.crop_padding, self.flip, generator, batch_size=batch_size)

        def learn(rows: slice) -> _Learnt:
            if rows.start == 0:
                self.optimizer.zero_grad(set_to_none=True)
            part = weight * (rows.stop - rows.start) / len(inputs)
            return self._learn(inputs[rows], labels[rows], noise, part)

        found = self.splitter(len(inputs), learn)
        self.optimizer.step()
        if self.after_each_step:
            self.scheduler.step()
        return found

    def _learn(self, inputs: Tensor, labels: Tensor, noise: torch.Generator, weight: float) -> _Learnt:
        """Attack a batch, or a part of one, and add the gradient of `weight` times its mean loss."""
        if self.engine is not None and self.attack is not None:
            self.engine.refresh()
            attacked = pgd(self.engine, inputs, labels, **self.attack, generator=noise, judge=False, check=False)
            inputs = attacked.x_adv
        with training_precision(inputs.device):
            logits = self.model(inputs).float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        (loss if weight == 1 else weight * loss).backward()
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum(), len(labels)


def _train_epoch(
    learner: _Learner, reader: BatchReader, batch_size: int, generator: torch.Generator
) -> tuple[float, float, list[Tensor]]:
    """One pass; the mean loss and the accuracy on the batches as they were trained on, and the loss of each step."""
    learner.model.train()
    device = reader.device
    order = torch.randperm(len(reader), generator=generator)
    noise = noise_generator(own_generator(generator), device)
    total_loss = torch.zeros((), device=device, dtype=traits(device).widest)
    total_right = torch.zeros((), device=device, dtype=torch.int64)
    seen = 0
    losses = []
    whole = [batch for batch in order.split(batch_size) if len(batch) >= 2 * world_size()]  # for BatchNorm
    for number, (rows, images, labels) in enumerate(reader.batches(map(own_part, whole))):
        found = learner.step(images, labels, len(whole[number]), generator, noise)
        for loss, right, count in found:
            total_loss += widened(loss) * count
            total_right += right
        losses.append(torch.stack([loss for loss, *_ in found]).sum())
        seen += len(rows)
    if not learner.after_each_step:
        learner.scheduler.step()
    loss_sum, right_sum, count_sum = summed(total_loss, total_right, float(seen))
    return loss_sum / count_sum, right_sum / count_sum, losses


def _first_not_finite(losses: list[Tensor]) -> int:
    """Number of the first step, from 1, at which a loss is not finite in any process."""
    bad = (~torch.stack(losses).isfinite()).nonzero().flatten().cpu()
    first = int(bad[0]) if len(bad) else len(losses)
    counts = summed(*(torch.arange(len(losses)) >= first).double())
    return next(step for step, count in enumerate(counts, start=1) if count)


def measure_validation(
    model: nn.Module, validation: Images, attack: Mapping[str, Any] | None, record: EpochRecord
) -> None:
    """Fill in the validation columns of a record; of several processes each measures its part of the images."""
    count, at_once = len(validation), 8 * part_size(validation.image_shape)
    mine = validation if world_size() == 1 else Subset(validation, own_part(torch.arange(count)))
    called = called_by(model, mine, batch_size=min(1000, at_once))
    shifted = shifted_labels(mine.labels, len(mine.class_names))
    record["validation_accuracy"] = _share(called == mine.labels, count)
    record["validation_accuracy_shifted"] = _share(called == shifted, count)
    if attack is not None:
        starts = torch.Generator().manual_seed(0)
        withstood = adversarially_correct(model, mine, **attack, batch_size=min(500, at_once), generator=starts)
        record["validation_adversarial_accuracy"] = _share(withstood, count)


def _share(mine: Tensor, count: int) -> float:
    """Share of `count` examples that are true, over all processes; mine: (n,) bool."""
    return summed(mine.sum())[0] / count


def _steps_per_epoch(num_examples: int, batch_size: int) -> int:
    full, rest = divmod(num_examples, batch_size)
    return full + (rest >= 2 * world_size())


def _optimizer(
    model: nn.Module, name: str, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> Optimizer:
    if name == "sgd":
        return SGD(
            model.parameters(), lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=True
        )
    return AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)


def _scheduler(
    optimizer: Optimizer, schedule: Schedule, lr: float, milestones: Sequence[int], total_steps: int
) -> LRScheduler:
    if schedule == "one_cycle":
        return OneCycleLR(optimizer, lr, total_steps=total_steps, cycle_momentum=False)
    if schedule == "step":
        return MultiStepLR(optimizer, list(milestones), gamma=0.1)
    return LambdaLR(optimizer, lambda _: 1.0)
