"""Whether a fit has begun to learn: its training loss has left ln C, what a guess among C classes costs.

A fit on D_rand stands at ln C for epochs before it falls: nothing visible helps it to begin. Its accuracy is that of a
guess then, and says nothing about the dataset.
"""

import math

LEFT = 0.98
"""Share of ln C below which a training loss has left it."""


def chance_loss(num_classes: int) -> float:
    """ln C: the cross-entropy of a guess."""
    return math.log(num_classes)


def has_learnt(train_loss: float, num_classes: int) -> bool:
    """Whether a mean training loss over an epoch has left ln C."""
    return train_loss < LEFT * chance_loss(num_classes)
