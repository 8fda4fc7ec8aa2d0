"""Batches of images for training: from a copy on the device where that fits, else read from disk ahead of their use;
and random crops and flips of them."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

from notbugs.data.images import ImageData, Images, as_floats, part_rows
from notbugs.runtime.devices import free_memory, traits
from notbugs.runtime.distribution import own_part

CPU_BYTES = 2**24
"""A stored dataset up to this size is held by a process that computes on the CPU; the system caches larger ones."""
DEVICE_SHARE = 0.5
"""Share of a device's own free memory that a dataset may take."""
AHEAD = 2
"""Batches read before they are asked for."""


class BatchReader:
    """Gives batches in any order, the same ones whether the dataset is resident or streamed.

    Args:
        data: in memory, or stored: then images are moved in their stored type and made float32 on the device.
        device: where batches are wanted.
        resident: hold all of it there; None does so if it is in memory already or fits (CPU_BYTES, DEVICE_SHARE).
    """

    def __init__(self, data: Images, device: torch.device, *, resident: bool | None = None) -> None:
        self._data = data
        self.device = device
        self.resident = fits(data, device) if resident is None else resident
        self._resident = Resident(data, device) if self.resident else None
        self._labels = data.labels.to(device)

    def __len__(self) -> int:
        return len(self._data)

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For the rows of each batch, (n,) on the CPU: those rows, the images (n, C, H, W) float32, the labels (n,)."""
        if self._resident is not None:
            for rows in order:
                index = rows.to(self.device)
                yield rows, as_floats(self._resident.raw(index)), self._labels[index]
            return
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
            for rows in order:
                waiting.append((rows, reader.submit(self._read, rows)))
                if len(waiting) > AHEAD:
                    yield self._moved(*waiting.popleft())
            while waiting:
                yield self._moved(*waiting.popleft())

    def _read(self, rows: Tensor) -> Tensor:
        images = self._data.raw(rows)
        return images.pin_memory() if traits(self.device).pinned else images

    def _moved(self, rows: Tensor, images: Future[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        moved = images.result().to(self.device, non_blocking=True)
        return rows, as_floats(moved), self._labels[rows.to(self.device)]


def all_on(data: Images, device: torch.device) -> Tensor:
    """All images on the device, in the type that they are stored in."""
    if isinstance(data, ImageData):
        return data.images.to(device)
    first = data.raw(slice(0, 1))
    images = torch.empty(len(data), *data.image_shape, dtype=first.dtype, device=device)
    for rows in part_rows(data):
        images[rows] = data.raw(rows)
    return images


def fits(data: Images, device: torch.device) -> bool:
    """Whether all images may be held on the device, in the type that they are stored in: CPU_BYTES, DEVICE_SHARE."""
    one = data.raw(slice(0, 1))
    size = one.numel() * one.element_size() * len(data)
    free = free_memory(device)
    if free is not None:
        return size <= DEVICE_SHARE * free
    return isinstance(data, ImageData) or size <= CPU_BYTES


class Resident:
    """A dataset whose images all lie on a device, in the type that they are stored in."""

    def __init__(self, data: Images, device: torch.device) -> None:
        self.images = all_on(data, device)
        self.labels, self.class_names, self.image_shape = data.labels, data.class_names, data.image_shape

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor | slice) -> ImageData:
        """See `Images`; on the device, but for the labels."""
        return ImageData(as_floats(self.images[indices]), self.labels[indices], self.class_names)

    def raw(self, indices: Tensor | slice) -> Tensor:
        """See `Images`; on the device."""
        return self.images[indices]


def augment(
    images: Tensor, crop_padding: int, flip: bool, generator: torch.Generator, *, batch_size: int | None = None
) -> Tensor:
    """Random crops and flips, each image its own, on the images' device.

    Args:
        images: (N, C, H, W).
        crop_padding: black pixels put around before a crop of the old size; 0 for none.
        flip: mirror each image with probability 1/2.
        generator: CPU generator.
        batch_size: of the batch of which the images are this process's part; what is drawn is drawn for all of it, so
            that the generator is the same in all processes. None: they are the whole batch.
    Returns: (N, C, H, W).
    """
    whole = batch_size or len(images)
    mine = torch.arange(whole) if batch_size is None else own_part(torch.arange(whole))
    if crop_padding:
        drawn = torch.randint(0, 2 * crop_padding + 1, (2, whole), generator=generator)
        images = cropped(images, crop_padding, drawn[:, mine])
    if flip:
        images = mirrored(images, torch.rand(whole, generator=generator)[mine] < 0.5)
    return images


def cropped(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Each image moved by so many pixels, what comes in being black: a crop of its old size from one with a margin.

    Args:
        images: (N, C, H, W).
        padding: width of the margin, pixels.
        offsets: (2, N), first row and column of each crop, 0..2·padding.
    Returns: (N, C, H, W).
    """
    count, _, height, width = images.shape
    device = images.device
    offsets = offsets.to(device)
    padded = functional.pad(images, [padding] * 4).permute(0, 2, 3, 1)  # (N, H + 2p, W + 2p, C)
    rows = offsets[0][:, None] + torch.arange(height, device=device)  # (N, H)
    columns = offsets[1][:, None] + torch.arange(width, device=device)  # (N, W)
    example = torch.arange(count, device=device)[:, None, None]
    return padded[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def mirrored(images: Tensor, which: Tensor) -> Tensor:
    """Images (N, C, H, W), those mirrored left to right where `which` (N,) is true."""
    return torch.where(which.to(images.device)[:, None, None, None], images.flip(3), images)
