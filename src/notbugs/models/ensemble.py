"""Several classifiers attacked as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from notbugs.models.base import Classifier


class Ensemble(Classifier):
    """Classifiers of the same classes, each behind its own normalisation, as one that is attacked by all their losses.

    It gives the mean of their log-probabilities: minus its value at a label is the mean of their cross-entropies there
    (the loss "log_probability"), and the class with the largest value is the one that they call together.

    Args:
        members: two classifiers or more.
    Raises: ValueError for fewer.
    Source: Liu et al. 2017, "Delving into Transferable Adversarial Examples", section 4 (attacks on ensembles).
    """

    attack_loss = "log_probability"

    def __init__(self, members: Sequence[Classifier]) -> None:
        nn.Module.__init__(self)
        if len(members) < 2:
            raise ValueError(f"an ensemble has two members or more, not {len(members)}")
        self.members = nn.ModuleList(members)
        self.description = members[0].description

    def representation(self, x: Tensor) -> Tensor:
        """The members' representations side by side: (N, C, H, W) in [0, 1] -> (N, sum of their sizes)."""
        return torch.cat([member.representation(x) for member in self.members], dim=1)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Mean of the members' log-probabilities: (N, C, H, W) in [0, 1] -> (N, K)."""
        found = [member(x).log_softmax(dim=1) for member in self.members]
        return torch.stack(found).mean(dim=0)
