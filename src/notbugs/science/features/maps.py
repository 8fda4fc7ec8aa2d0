"""Features as networks with `representation`, so that they can be read and attacked like a classifier's."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from notbugs.data.images import Images, by_parts
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


def principal_components(data: Images, count: int) -> Tensor:
    """Unit directions of the most variance, (count, C, H, W); fewer where the images span fewer.

    Args:
        data: N >= 2 images, read part by part; all at once where they are no more than an image has values.
    """
    size = math.prod(data.image_shape)
    if len(data) > size:
        variances, directions = _eigenvectors(_covariance(data))
        variances, directions = variances[:count], directions[:count]
    else:
        from sklearn.decomposition import PCA

        flat = data.select(slice(0, len(data))).images.flatten(1).double().numpy()
        fitted = PCA(min(count, *flat.shape), svd_solver="full").fit(flat)
        variances, directions = fitted.explained_variance_, fitted.components_
    alive = variances > 1e-9 * variances[0]
    return torch.from_numpy(directions[alive]).reshape(-1, *data.image_shape)


def _covariance(data: Images) -> NDArray[np.float64]:
    """(d, d) of the d values of an image."""
    count, size = len(data), math.prod(data.image_shape)
    total, products = np.zeros(size), np.zeros((size, size))
    for part in by_parts(data):
        flat = part.images.flatten(1).double().numpy()
        total += flat.sum(axis=0)
        products += flat.T @ flat
    mean = total / count
    products -= count * mean[:, None] * mean[None, :]
    products /= count - 1
    return products


def _eigenvectors(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues (d,) of a symmetric matrix, falling, and eigenvectors as rows (d, d), signs as scikit-learn's PCA."""
    from sklearn.utils.extmath import svd_flip

    values, vectors = np.linalg.eigh(matrix)
    _, rows = svd_flip(None, vectors[:, ::-1].T, u_based_decision=False)
    return values[::-1], rows
