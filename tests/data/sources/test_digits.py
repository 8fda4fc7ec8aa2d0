import numpy as np
import torch
from sklearn.datasets import load_digits

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
