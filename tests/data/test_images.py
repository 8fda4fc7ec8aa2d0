import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from notbugs.data.images import ImageData, make_generator, stratified_split, stratified_subset

label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=80)


def some_data(n: int = 4) -> ImageData:
    return ImageData(torch.rand(n, 3, 5, 7), torch.arange(n) % 2, ("even", "odd"))


def test_len_and_select_by_indices_keep_image_label_pairs() -> None:
    data = some_data()
    part = data.select(torch.tensor([3, 0]))
    assert len(data) == 4
    assert part.images.equal(data.images[[3, 0]])
    assert part.labels.tolist() == [1, 0]
    assert part.class_names == ("even", "odd")


def test_select_by_mask() -> None:
    data = some_data()
    assert data.select(data.labels == 1).images.equal(data.images[[1, 3]])


def test_to_the_same_device_changes_nothing() -> None:
    data = some_data()
    moved = data.to(torch.device("cpu"))
    assert moved.images.equal(data.images)
    assert moved.labels.equal(data.labels)
    assert moved.class_names == data.class_names


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_to_moves_images_and_labels() -> None:
    data = some_data()
    moved = data.to(torch.device("cuda"))
    assert (moved.images.device.type, moved.labels.device.type) == ("cuda", "cuda")
    assert moved.images.cpu().equal(data.images)


def test_no_images_are_allowed() -> None:
    assert len(ImageData(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64), ("a",))) == 0


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(2, 5, 7),
            torch.zeros(2).long(),
            r"images must be \(N, C, H, W\) float32, not \(2, 5, 7\)",
        ),
        (
            torch.zeros(2, 1, 5, 7, dtype=torch.float64),
            torch.zeros(2).long(),
            "float32, not .* torch.float64",
        ),
        (torch.zeros(2, 1, 5, 7), torch.zeros(3).long(), r"labels must be \(2,\) int64, not \(3,\)"),
        (torch.zeros(2, 1, 5, 7), torch.zeros(2).int(), r"int64, not \(2,\) torch.int32"),
        (torch.full((2, 1, 5, 7), 1.001), torch.zeros(2).long(), r"images must lie in \[0, 1\]"),
        (torch.full((2, 1, 5, 7), -0.001), torch.zeros(2).long(), r"images must lie in \[0, 1\]"),
        (
            torch.full((2, 1, 5, 7), torch.nan),
            torch.zeros(2).long(),
            r"images must lie in \[0, 1\], not \[nan",
        ),
        (torch.zeros(2, 1, 5, 7), torch.tensor([0, 2]), r"labels must lie in 0\.\.1"),
        (torch.zeros(2, 1, 5, 7), torch.tensor([0, -1]), r"labels must lie in 0\.\.1"),
    ],
)
def test_what_does_not_fit_is_refused(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageData(images, labels, ("a", "b"))


def draw(seed: int, *purpose: str | int) -> list[float]:
    return torch.rand(4, generator=make_generator(seed, *purpose), dtype=torch.float64).tolist()


def test_generator_is_stable() -> None:
    # Numbers of the first release: a change here would change every result of every project.
    assert make_generator(0, "data", "test").initial_seed() == 1909043508066746403
    assert draw(0, "data", "test") == draw(0, "data", "test")


def test_generators_of_other_seeds_and_purposes_differ() -> None:
    streams = [
        draw(0),
        draw(1),
        draw(0, "a"),
        draw(0, "b"),
        draw(0, "a", "b"),
        draw(0, "ab"),
        draw(0, "a", 1),
        draw(0, "a", "1"),
    ]
    assert len({tuple(stream) for stream in streams}) == len(streams)


@given(label_lists, st.floats(0.01, 0.99), st.integers(0, 2**31 - 1))
def test_split_is_a_stratified_partition(labels: list[int], fraction: float, seed: int) -> None:
    doubled = torch.tensor(labels * 2)  # every class has at least two
    first, second = stratified_split(doubled, fraction, make_generator(seed))
    assert torch.cat([first, second]).sort().values.tolist() == list(range(len(doubled)))
    assert first.tolist() == sorted(first.tolist())
    assert second.tolist() == sorted(second.tolist())
    for label in set(labels):
        size = 2 * labels.count(label)
        expected = min(max(round(fraction * size), 1), size - 1)
        assert int((doubled[second] == label).sum()) == expected


def test_split_depends_on_the_seed_alone() -> None:
    labels = torch.arange(200) % 4
    one, again, other = (stratified_split(labels, 0.3, make_generator(seed))[1].tolist() for seed in (0, 0, 1))
    assert one == again
    assert one != other


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_split_refuses_fractions_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\), not"):
        stratified_split(torch.tensor([0, 0]), fraction, make_generator(0))


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 0, 7], "class 7 has 1 example: too few to split"), ([], "no examples to split")],
)
def test_split_refuses_too_few_examples(labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stratified_split(torch.tensor(labels, dtype=torch.int64), 0.5, make_generator(0))


@given(st.data(), label_lists, st.integers(0, 2**31 - 1))
def test_subset_has_the_size_and_the_proportions(data: st.DataObject, labels: list[int], seed: int) -> None:
    size = data.draw(st.integers(len(set(labels)), len(labels)))
    chosen = stratified_subset(torch.tensor(labels), size, make_generator(seed)).tolist()
    assert len(set(chosen)) == size
    assert chosen == sorted(chosen)
    picked = [labels[i] for i in chosen]
    shares = {label: labels.count(label) * size / len(labels) for label in set(labels)}
    for label, share in shares.items():
        assert picked.count(label) >= 1
        if min(shares.values()) >= 1:  # else places were taken from the largest classes
            assert abs(picked.count(label) - share) < 1


def test_subset_takes_the_places_of_tiny_classes_from_the_largest() -> None:
    labels = torch.tensor([0] * 2 + [1] * 2 + [2] * 2 + [3] * 300 + [4] * 310)
    chosen = stratified_subset(labels, 8, make_generator(0))
    assert labels[chosen].bincount().tolist() == [1, 1, 1, 2, 3]


def test_subset_gives_places_left_over_to_the_largest_remainders() -> None:
    labels = torch.tensor([0] * 27 + [1] * 33 + [2] * 40)  # of ten: 2.7, 3.3 and 4.0
    assert labels[stratified_subset(labels, 10, make_generator(0))].bincount().tolist() == [3, 3, 4]


def test_subset_of_everything_is_everything() -> None:
    assert stratified_subset(torch.tensor([1, 1, 0]), 3, make_generator(0)).tolist() == [0, 1, 2]


def test_subset_depends_on_the_seed_alone() -> None:
    labels = torch.arange(200) % 4
    one, again, other = (stratified_subset(labels, 50, make_generator(seed)).tolist() for seed in (0, 0, 1))
    assert one == again
    assert one != other


@pytest.mark.parametrize("size", [-1, 0, 1, 5])
def test_subset_refuses_sizes_out_of_range(size: int) -> None:
    with pytest.raises(ValueError, match=rf"size must be in 2\.\.4, not {size}"):
        stratified_subset(torch.tensor([0, 0, 1, 1]), size, make_generator(0))
