"""The toy autoencoder x' = ReLU(WᵀWx + b) of n features in m dimensions, and a classifier that reads its code.

Source: Elhage et al. 2022, "Toy Models of Superposition".
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from notbugs.data.images import ImageData, make_generator
from notbugs.runtime.config import Seeds
from notbugs.science.common.lab import Lab
from notbugs.science.common.question import QuestionSettings
from notbugs.science.common.training import Attack, clean_and_attacked

REPRESENTED = 0.5
"""A feature counts as represented from this ‖W_i‖² on: 1 is full, 0 is not at all."""
ASKED = 8192
"""Inputs on which the gradient is measured."""


class ToySettings(QuestionSettings):
    """The features, and the autoencoders that learn them."""

    num_features: int = Field(default=20, ge=2, le=512)
    """n."""
    dimensions: int = Field(default=5, ge=1, le=512)
    """m, at most n; with m = n there is no need of superposition."""
    sparsities: tuple[float, ...] = Field(strict=False, min_length=4)
    """Chances that a feature is 0, rising, in [0, 1); else its value is uniform in [0, 1]."""
    importance: float = Field(default=0.9, gt=0, le=1)
    """The loss weighs feature i, from 0, with importance**i; with 1 dense features have no preferred directions."""
    seeds: Seeds = (0, 1, 2)
    """An autoencoder is trained for each, at each sparsity."""
    num_steps: int = Field(default=1500, ge=2)
    """Steps of Adam, on new inputs each."""
    batch_size: int = Field(default=128, ge=1)
    """Inputs a step."""
    lr: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """The highest learning rate of a one-cycle schedule."""

    @field_validator("sparsities")
    @classmethod
    def _rise(cls, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        if sparsities[0] < 0 or sparsities[-1] >= 1 or any(b <= a for a, b in pairwise(sparsities)):
            raise ValueError("a rising list of shares in [0, 1)")
        return sparsities

    @model_validator(mode="after")
    def _fits(self) -> "ToySettings":
        if self.dimensions > self.num_features:
            raise ValueError(f"dimensions of at most num_features = {self.num_features}, not {self.dimensions}")
        return self

    @property
    def weights(self) -> Tensor:
        """Of the features in the loss, (n,)."""
        return self.importance ** torch.arange(self.num_features)


class Code(NamedTuple):
    """An autoencoder: weight W (m, n), bias b (n,)."""

    weight: Tensor
    bias: Tensor

    @property
    def gram(self) -> Tensor:
        """G = WᵀW, (n, n) float64."""
        return self.weight.double().T @ self.weight.double()

    @property
    def represented(self) -> Tensor:
        """Places of the features that it holds, (R,)."""
        return (self.gram.diagonal() >= REPRESENTED).nonzero().flatten()

    def geometry(self) -> dict[str, float]:
        """Number of features held and features per dimension; mean interference and mean ‖G_i‖ of the held ones."""
        gram, held = self.gram, self.represented
        own, others = gram.diagonal()[held], gram[held].square().sum(dim=1)
        return {
            "represented": float(len(held)),
            "per_dimension": float(gram.trace()) / len(self.weight),
            "interference": float((others - own.square()).mean()) if len(held) else 0.0,
            "gain": float(others.sqrt().mean()) if len(held) else 0.0,
        }


class Readout(nn.Module):
    """Calls an input by the held feature whose output, before the ReLU, is largest: (N, 1, 1, n) -> (N, R)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, code: Code) -> None:
        super().__init__()
        held = code.represented
        self.register_buffer("weight", code.gram[held].float())
        self.register_buffer("bias", code.bias[held].float())

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = x.flatten(1) @ self.weight.T + self.bias
        return logits


def sparse_inputs(count: int, sparsity: Tensor, num_features: int, generator: torch.Generator) -> Tensor:
    """Inputs of each sparsity (K,), of the same draws: (K, count, n) float32 in [0, 1]."""
    values, drawn = torch.rand(2, count, num_features, generator=generator)
    found: Tensor = values * (drawn >= sparsity[:, None, None])
    return found


def learn(lab: Lab, *, settings: ToySettings, seed: int) -> dict[str, Tensor]:
    """Autoencoders of every sparsity, side by side.

    Returns: weight (K, m, n) and bias (K, n); `slope` (K,), the length of the loss's gradient at the end in that at the
    beginning, on some inputs.
    """
    draw = make_generator(lab.seed, "superposition", seed)
    sparsity, count = torch.tensor(settings.sparsities), settings.num_features
    begun = torch.randn(len(sparsity), settings.dimensions, count, generator=draw) / math.sqrt(count)
    weight = begun.to(lab.device).requires_grad_()
    bias = torch.zeros(len(sparsity), count, device=lab.device, requires_grad=True)
    importance = settings.weights.to(lab.device)

    def losses(x: Tensor) -> Tensor:
        """Of inputs (K, N, n), for each sparsity (K,)."""
        found = (x @ weight.transpose(1, 2) @ weight + bias[:, None]).relu()
        loss: Tensor = (importance * (found - x).square()).sum(dim=2).mean(dim=1)
        return loss

    descent = torch.optim.Adam([weight, bias], lr=settings.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(descent, settings.lr, total_steps=settings.num_steps)
    asked = sparse_inputs(ASKED, sparsity, count, draw).to(lab.device)

    def slope() -> Tensor:
        """Length of the gradient, (K,)."""
        found = torch.autograd.grad(losses(asked).sum(), (weight, bias))
        length: Tensor = torch.cat([part.flatten(1) for part in found], dim=1).norm(dim=1)
        return length

    begun_with = slope()
    for _ in lab.progress(range(settings.num_steps), f"superposition: seed {seed}, steps"):
        descent.zero_grad(set_to_none=True)
        losses(sparse_inputs(settings.batch_size, sparsity, count, draw).to(lab.device)).sum().backward()
        descent.step()
        schedule.step()
    found = {"weight": weight, "bias": bias, "slope": slope() / begun_with}
    return {name: one.detach().cpu() for name, one in found.items()}


def fooled(code: Code, num_inputs: int, attack: Attack, seed: int, device: torch.device) -> Tensor:
    """Which inputs of one active feature, of those called by it, an attack makes the readout call otherwise.

    Every code is asked with the same draws: which of its held features is active, and its value, uniform in [0, 1].
    The sparsity that the code was trained at is no part of them.

    Returns: (number of inputs called rightly,) bool; none for a code of fewer than two features.
    """
    held = code.represented
    if len(held) < 2:
        return torch.zeros(0, dtype=torch.bool)
    which, values = torch.rand(2, num_inputs, generator=make_generator(seed, "superposition", "inputs"))
    labels = (which * len(held)).long().clamp(max=len(held) - 1)
    images = torch.zeros(num_inputs, 1, 1, code.weight.shape[1])
    images[torch.arange(len(labels)), 0, 0, held[labels]] = values
    data = ImageData(images, labels, tuple(map(str, held.tolist())))
    draw = make_generator(seed, "superposition", "attack")
    right, withstood = clean_and_attacked(Readout(code).to(device), data, attack, draw)
    return ~withstood[right]


def harm(code: Code, x: Tensor, importance: Tensor, radius: float) -> float:
    """What the worst of the perturbations ±radius·G_i/‖G_i‖ adds to the loss, mean over inputs x (N, n).

    Source: Elhage et al. 2022, who derive these since gradient descent is masked where ReLUs are 0.
    """
    gram, x = code.gram, x.double()

    def loss(seen: Tensor) -> Tensor:
        return (importance * ((seen @ gram + code.bias).relu() - x).square()).sum(dim=1)

    clean = loss(x)
    worst = clean
    for row in gram[gram.norm(dim=1) > 0]:
        step = radius * row / row.norm()
        worst = worst.maximum(loss(x + step)).maximum(loss(x - step))
    return float((worst - clean).mean())
