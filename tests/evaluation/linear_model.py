"""A model whose decision boundary is known."""

import torch
from torch import nn


def linear(weights: torch.Tensor, bias: float) -> nn.Module:
    """Two classes, told apart by the sign of <weights, x> + bias; weights: (C·H·W,)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(weights), 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros_like(weights), weights]))
        model[1].bias.copy_(torch.tensor([0.0, bias]))
    return model
