"""Scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that come with the library."""

import torch

from notbugs.data.images import make_generator, stratified_split
from notbugs.data.sources.base import Pictures, limited


def read_digits(
    test_fraction: float, *, max_train: int | None = None, max_test: int | None = None, seed: int
) -> tuple[Pictures, Pictures]:
    """Read the digits and split off a test set, since the source has none.

    Args:
        test_fraction: share of every class that goes into the test set.
        max_train: at most this many images of the training pool.
        max_test: at most this many of the test set.
        seed: of the split and of the choice.
    Returns: the training pool and the test set, (N, 1, 8, 8), values 0..16.
    Source: Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits" (its test part).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
    pictures = Pictures(
        pixels,
        torch.from_numpy(bunch.target).to(torch.int64),
        tuple(str(name) for name in bunch.target_names),
        torch.arange(len(pixels)),
        ("",) * len(pixels),
        white=16,
    )
    pool, test = stratified_split(pictures.labels, test_fraction, make_generator(seed, "data", "test"))
    pool = pool[limited(pictures.labels[pool], max_train, key="max_train", seed=seed)]
    test = test[limited(pictures.labels[test], max_test, key="max_test", seed=seed)]
    return pictures.only(pool), pictures.only(test)
