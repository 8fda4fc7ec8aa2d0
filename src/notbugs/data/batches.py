"""Batches of images for training: from a copy on the device where that fits, else read from disk ahead of their use."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from notbugs.data.images import ImageData, Images, as_floats, part_rows
from notbugs.runtime.devices import free_memory, traits

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
        self.resident = _fits(data, device) if resident is None else resident
        self._images = _all_on(data, device) if self.resident else None
        self._labels = data.labels.to(device)

    def __len__(self) -> int:
        return len(self._data)

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For the rows of each batch, (n,) on the CPU: those rows, the images (n, C, H, W) float32, the labels (n,)."""
        if self._images is not None:
            for rows in order:
                index = rows.to(self.device)
                yield rows, as_floats(self._images[index]), self._labels[index]
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


def _all_on(data: Images, device: torch.device) -> Tensor:
    """All images on the device, in the type that they are stored in."""
    if isinstance(data, ImageData):
        return data.images.to(device)
    first = data.raw(slice(0, 1))
    images = torch.empty(len(data), *data.image_shape, dtype=first.dtype, device=device)
    for rows in part_rows(data):
        images[rows] = data.raw(rows)
    return images


def _fits(data: Images, device: torch.device) -> bool:
    one = data.raw(slice(0, 1))
    size = one.numel() * one.element_size() * len(data)
    free = free_memory(device)
    if free is not None:
        return size <= DEVICE_SHARE * free
    return isinstance(data, ImageData) or size <= CPU_BYTES
