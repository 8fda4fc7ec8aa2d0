"""Scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that come with the library."""

import torch

from notbugs.data.images import make_generator, stratified_split
from notbugs.data.sources.base import Pictures


def read_digits(test_fraction: float, *, seed: int) -> tuple[Pictures, Pictures]:
    """Read the digits and split off a test set, since the source has none.

    Args:
        test_fraction: share of every class that goes into the test set.
        seed: of the split.
    Returns: the training pool and the test set, (N, 1, 8, 8), values 0..16.
    Source: Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits" (its test part).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
    labels, names = torch.from_numpy(bunch.target).to(torch.int64), tuple(map(str, bunch.target_names))
    parts = stratified_split(labels, test_fraction, make_generator(seed, "data", "test"))
    pool, test = (Pictures(pixels[rows], labels[rows], names, rows, ("",) * len(rows), white=16) for rows in parts)
    return pool, test
