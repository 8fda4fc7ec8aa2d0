"""Features as networks with `representation`, so that they can be read and attacked like a classifier's."""

import torch
from torch import Tensor, nn

from notbugs.models.base import Classifier


class FeatureMap(nn.Module):
    """Scaled features as a network: (N, C, H, W) -> (N, F), so that they can be attacked.

    Args:
        source: a network with `representation`. kept: which of its numbers, (F,). mean, std: of those on D, (F,).
    """

    kept: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, source: nn.Module, kept: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.source = source
        self.register_buffer("kept", kept)
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    def forward(self, x: Tensor) -> Tensor:
        """Scaled features in the precision of x."""
        return (self.source.representation(x)[:, self.kept] - self.mean) / self.std  # type: ignore[operator]


class LinearFeatures(nn.Module):
    """Linear functions of the pixels as a network with `representation`: aᵀ(x − ½); directions: (F, C, H, W)."""

    directions: Tensor

    def __init__(self, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("directions", directions.flatten(1).float())

    def representation(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, F)."""
        return (x - 0.5).flatten(1) @ self.directions.T


class Probabilities(nn.Module):
    """p(c|x) of a classifier as features: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def representation(self, x: Tensor) -> Tensor:
        """Softmax of the logits."""
        return self.model(x).softmax(dim=1)


def principal_components(images: Tensor, count: int) -> Tensor:
    """Unit directions of the most variance, (count, C, H, W); fewer where the images span fewer.

    Args:
        images: (N, C, H, W), N >= 2.
    """
    from sklearn.decomposition import PCA

    flat = images.flatten(1).double().numpy()
    solver = "covariance_eigh" if len(flat) > flat.shape[1] else "full"
    fitted = PCA(min(count, *flat.shape), svd_solver=solver).fit(flat)
    alive = fitted.explained_variance_ > 1e-9 * fitted.explained_variance_[0]
    return torch.from_numpy(fitted.components_[alive]).reshape(-1, *images.shape[1:])
