"""The nearest of many points, a part of them in memory at a time, and 1-NN as a judge of what an image still shows."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from notbugs.data.batches import Resident, fits
from notbugs.data.images import ImageData, Images, as_floats, by_parts, part_rows
from notbugs.evaluation.accuracy import batches
from notbugs.models.base import is_large
from notbugs.runtime.devices import full_precision
from notbugs.runtime.memory import give_back_freed_memory

BATCH = 1000
"""Points compared at a time, on either side."""


def nearest_rows(
    points: Tensor,
    parts: Iterable[Tensor],
    left_out: Sequence[Tensor],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
) -> Tensor:
    """Row of the nearest of many others in L2, for each point: (n, F) -> (n,), on the CPU; of equals the first.

    Args:
        points: (n, F).
        parts: the others, (m, F) each, in the order of their rows; one part is held at a time.
        left_out: rows of the others with which a point is not compared, (n,) each; outside of them all: none.
        device: where distances are computed.
        batch_size: points compared with a part at a time.
    """
    points, left_out = points.to(device), [left.to(device) for left in left_out]
    shortest = torch.full((len(points),), torch.inf, device=device)
    rows = torch.zeros(len(points), dtype=torch.int64, device=device)
    first = 0
    for part in parts:
        known = part.to(device)
        for batch in batches(len(points), batch_size):
            with full_precision(known.device):
                distances = torch.cdist(points[batch], known)  # (n, m)
            for left in left_out:
                _leave_out(distances, left[batch] - first)
            nearest, which = distances.min(dim=1)
            closer = nearest < shortest[batch]
            rows[batch] = torch.where(closer, first + which, rows[batch])
            shortest[batch] = torch.where(closer, nearest, shortest[batch])
        first += len(known)
        give_back_freed_memory(every=0.25)
    return rows.cpu()


def _leave_out(distances: Tensor, places: Tensor) -> None:
    """Make a distance of each row infinite, where its place lies among the columns; the host waits for nothing.

    Args:
        distances: (n, m), changed. places: (n,).
    """
    within = (places >= 0) & (places < distances.shape[1])
    column = torch.where(within, places, 0)[:, None]
    distances.scatter_(1, column, torch.where(within[:, None], torch.inf, distances.gather(1, column)))


NEIGHBOUR_SIZE = 32
"""Height and width at which 1-NN compares images of 128 pixels and more."""


def neighbour_reference(data: Images, device: torch.device | str = "cpu") -> Images:
    """D as 1-NN sees it: itself, or averaged to NEIGHBOUR_SIZE pixels where its images are large; on the device where
    that holds it (`data.batches.fits`).

    Each constructed image is compared with all of D, which would be read from disk again for every batch.
    """
    if is_large(data.image_shape):
        small = torch.cat([_averaged(part.images, NEIGHBOUR_SIZE, NEIGHBOUR_SIZE) for part in by_parts(data)])
        data = ImageData(small, data.labels, data.class_names)
    device = torch.device(device)
    if isinstance(data, ImageData) and data.images.device == device:
        return data
    return Resident(data, device) if fits(data, device) else data


def _averaged(images: Tensor, height: int, width: int) -> Tensor:
    """Averages over areas: (N, C, H, W) -> (N, C, height, width), in [0, 1] in spite of rounding."""
    return functional.adaptive_avg_pool2d(images, (height, width)).clamp(0.0, 1.0)


def nearest_neighbour(
    images: Tensor, reference: Images, *, first: int = 0, device: torch.device | str = "cpu", batch_size: int = BATCH
) -> Tensor:
    """Label of the nearest image of `reference` in L2 over pixels: (n, C, H, W) -> (n,), on the CPU.

    Image i is not compared with number first + i of `reference`, from which it was made: that one is never
    further than the perturbation, and would answer y for the image whatever it shows.

    Args:
        reference: read part by part, so that memory does not grow with it. Where its images are smaller, the others are
            averaged to their size first.
        batch_size: images and references compared at a time.
    Raises: ValueError if an image has no partner in `reference`, or that has fewer than two images.
    """
    if len(reference) < max(2, first + len(images)):
        raise ValueError(f"need a reference for each of images {first} to {first + len(images)}, not {len(reference)}")
    if images.shape[1:] != reference.image_shape:
        images = _averaged(images, *reference.image_shape[1:])
    parts = (as_floats(reference.raw(rows).to(device)).flatten(1) for rows in batches(len(reference), batch_size))
    own = torch.arange(first, first + len(images))
    return reference.labels[nearest_rows(images.flatten(1), parts, [own], device=device, batch_size=batch_size)]


def own_neighbours(reference: Images, *, device: torch.device | str = "cpu") -> Tensor:
    """What 1-NN calls each image of a dataset, the image itself left out: (N,) labels, on the CPU.

    Args:
        reference: D as 1-NN sees it, see `neighbour_reference`; read part by part.
    Raises: ValueError for fewer than two images.
    """
    found = []
    for rows in part_rows(reference):
        images = reference.select(rows).images
        found.append(nearest_neighbour(images, reference, first=rows.start, device=device))
    return torch.cat(found)
