import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from notbugs.data.sources.base import SourceError
from notbugs.data.sources.digits import read_digits


def test_pixels_and_labels_are_those_of_scikit_learn() -> None:
    bunch = load_digits()
    for part in read_digits(0.2, seed=0):
        assert part.pixels.shape[1:] == (1, 8, 8)
        assert part.white == 16
        assert np.array_equal(part.pixels[:, 0].numpy(), bunch.images[part.source_indices])
        assert np.array_equal(part.labels.numpy(), bunch.target[part.source_indices])
        assert part.class_names == tuple("0123456789")
        assert part.origins == ("",) * len(part.labels)


def test_the_test_set_is_a_stratified_share_of_all() -> None:
    pool, test = read_digits(0.25, seed=0)
    together = torch.cat([pool.source_indices, test.source_indices]).sort().values
    assert together.tolist() == list(range(1797))
    sizes = pool.labels.bincount() + test.labels.bincount()
    assert test.labels.bincount().tolist() == [round(0.25 * size) for size in sizes.tolist()]


def test_the_split_depends_on_the_seed() -> None:
    first, again, other = (read_digits(0.2, seed=seed)[1].source_indices.tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_subsets_come_out_of_their_own_part() -> None:
    pool, test = read_digits(0.2, seed=0)
    fewer, fewer_test = read_digits(0.2, max_train=100, max_test=50, seed=0)
    assert (len(fewer.labels), len(fewer_test.labels)) == (100, 50)
    assert set(fewer.source_indices.tolist()) < set(pool.source_indices.tolist())
    assert set(fewer_test.source_indices.tolist()) < set(test.source_indices.tolist())
    assert fewer.labels.bincount().min() >= 9


def test_a_maximum_above_the_size_takes_all() -> None:
    pool, test = read_digits(0.2, max_train=10_000, max_test=10_000, seed=0)
    assert len(pool.labels) + len(test.labels) == 1797


def test_a_subset_needs_one_of_each_class() -> None:
    with pytest.raises(SourceError, match=r"data\.max_test = 9: must be at least 10, one image a class"):
        read_digits(0.2, max_test=9, seed=0)
