"""Encoders trained without labels: contrastively (SimCLR), and to reconstruct images of which patches are covered.

Both train the body of a classifier, on views or covered images drawn from a generator; its head is left alone.
Sources: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations"; He et al. 2022,
"Masked Autoencoders Are Scalable Vision Learners".
"""

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn

from notbugs.data.batches import BatchReader, augment
from notbugs.data.images import Images
from notbugs.evaluation.accuracy import model_device
from notbugs.models.base import Classifier
from notbugs.runtime.config import Settings
from notbugs.runtime.devices import training_precision
from notbugs.runtime.errors import UserError
from notbugs.runtime.progress import Track, silent
from notbugs.training.loop import TrainingError

Loss = Callable[[Classifier, nn.Module, Tensor, torch.Generator], Tensor]
"""(encoder, head, images (N, C, H, W), generator of what is drawn) -> the loss."""


class LibraryError(UserError):
    """A library that only this part of the debate needs is not installed."""


class Views(Settings):
    """Two random views of an image, which are to be told from those of other images."""

    shift: int = Field(default=1, ge=0)
    """Pixels that a view is moved by, at most, across and down."""
    flip: bool = False
    """Mirrored with probability 1/2: not for digits."""
    noise: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Standard deviation of normal noise on every value, on [0, 1]."""
    covered: float = Field(default=0.2, ge=0, lt=1)
    """Share of the patches that are covered."""
    patch: int = Field(default=2, ge=1)
    """Side of a patch, pixels."""


class Unlabelled(Settings):
    """How an encoder is trained without labels: by AdamW, with a one-cycle schedule."""

    epochs: int = Field(ge=1)
    """Passes over the images."""
    batch_size: int = Field(default=128, ge=4)
    """Images a step."""
    lr: float = Field(gt=0, allow_inf_nan=False)
    """The highest learning rate."""
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    """Decoupled decay."""


class Contrastive(Unlabelled):
    """SimCLR."""

    temperature: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    """Of the NT-Xent loss."""
    projection: int = Field(default=32, ge=2)
    """Numbers that the loss compares, behind one hidden layer of as many."""
    views: Views = Views()
    """What two views of an image are."""


class Masked(Unlabelled):
    """An autoencoder that sees an image with patches covered, and is asked for what they cover."""

    covered: float = Field(default=0.5, gt=0, lt=1)
    """Share of the patches that are covered."""
    patch: int = Field(default=2, ge=1)
    """Side of a patch, pixels."""
    hidden: int = Field(default=128, ge=2)
    """Units of the decoder's one hidden layer."""


def patches(images: Tensor, share: float, side: int, generator: torch.Generator) -> Tensor:
    """Which pixels are covered: (N, 1, H, W) bool, a random share of the cells of a grid, at least one each.

    Args:
        images: (N, C, H, W). share: of the cells. side: of a cell, pixels; the last ones may be cut.
    """
    count, _, height, width = images.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    order = torch.rand(count, rows * columns, generator=generator).argsort(dim=1)
    cells = (order < max(1, round(share * rows * columns))).view(count, 1, rows, columns)
    pixels = cells.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    return pixels[:, :, :height, :width].to(images.device)


def view(images: Tensor, how: Views, grey: Tensor, generator: torch.Generator) -> Tensor:
    """A random view of each image, (N, C, H, W) in [0, 1]; grey: what covers a patch, (1, C, 1, 1)."""
    found = augment(images, how.shift, how.flip, generator)
    if how.covered:
        found = torch.where(patches(found, how.covered, how.patch, generator), grey, found)
    if how.noise:
        found = found + how.noise * torch.randn(found.shape, generator=generator).to(found.device)
    return found.clamp(0, 1)


def contrastive_loss(how: Contrastive) -> Loss:
    """NT-Xent of two views of every image.

    Where an image has one other view the library's SupConLoss is the same number as its NTXentLoss, and takes memory
    for N² numbers in a batch of N where that takes it for N³.

    Raises: LibraryError without pytorch-metric-learning.
    """
    try:
        losses = import_module("pytorch_metric_learning.losses")
    except ImportError:
        raise LibraryError(
            "paradigms: contrastive learning needs pytorch-metric-learning: pip install 'notbugs[debate]'"
        ) from None
    nt_xent = losses.SelfSupervisedLoss(losses.SupConLoss(temperature=how.temperature))

    def loss(encoder: Classifier, head: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        grey = encoder.normalise.mean
        both = torch.cat([view(images, how.views, grey, generator) for _ in range(2)])
        with training_precision(images.device):
            projected = head(encoder.representation(both))
        first, second = projected.float().chunk(2)
        found: Tensor = nt_xent(first, second)
        return found

    return loss


def masked_loss(how: Masked) -> Loss:
    """Mean squared error on the covered pixels, in units of D's deviation."""

    def loss(encoder: Classifier, head: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        hidden = patches(images, how.covered, how.patch, generator)
        seen = torch.where(hidden, encoder.normalise.mean, images)
        wanted = encoder.normalise(images)
        with training_precision(images.device):
            made = head(encoder.representation(seen))
        errors = (made.float().view_as(wanted) - wanted).square()
        found: Tensor = (errors * hidden).sum() / (hidden.sum() * images.shape[1])
        return found

    return loss


def head_of(sizes: Sequence[int], generator: torch.Generator) -> nn.Module:
    """Linear layers with ReLUs between; the generator's seed decides the weights, as of `create_model`."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator.initial_seed())
        for number, (size, out) in enumerate(pairwise(sizes)):
            layers += [nn.ReLU()] * (number > 0) + [nn.Linear(size, out)]
    return nn.Sequential(*layers)


def train_unlabelled(
    encoder: Classifier,
    head: nn.Module,
    data: Images,
    how: Unlabelled,
    loss: Loss,
    generator: torch.Generator,
    progress: Track = silent,
    description: str = "train",
) -> None:
    """Train the encoder's body in place; it is left in eval mode.

    Args:
        encoder: on the device to train on. head: what the loss puts behind it; both are trained.
        data: images, whose labels nobody looks at.
        generator: CPU generator for the order of the images and all that the loss draws.
    Raises: TrainingError if the loss is no longer finite.
    """
    device = model_device(encoder)
    reader = BatchReader(data, device)
    body = [*encoder.body.parameters(), *head.to(device).parameters()]
    whole = [rows for rows in torch.arange(len(data)).split(how.batch_size) if len(rows) >= 4]  # for BatchNorm
    descent = torch.optim.AdamW(body, lr=how.lr, weight_decay=how.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(descent, how.lr, total_steps=how.epochs * len(whole))
    encoder.train().to(memory_format=torch.channels_last)
    for epoch in progress(range(how.epochs), f"{description}, epochs"):
        order = torch.randperm(len(data), generator=generator)
        total = torch.zeros((), device=device)
        for _, images, _ in reader.batches(order[rows] for rows in whole):
            descent.zero_grad(set_to_none=True)
            value = loss(encoder, head, images, generator)
            value.backward()
            descent.step()
            schedule.step()
            total += value.detach()
        if not bool(total.isfinite()):
            raise TrainingError(f"{description}: the loss is not finite in epoch {epoch + 1}; a smaller lr may help")
    encoder.eval().to(memory_format=torch.contiguous_format)
