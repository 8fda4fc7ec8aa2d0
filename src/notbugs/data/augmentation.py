"""Random crops and flips of training images."""

import torch
from torch import Tensor
from torch.nn import functional

from notbugs.runtime.distribution import own_part


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
    count, _, height, width = images.shape
    device = images.device
    whole = batch_size or count
    mine = torch.arange(whole) if batch_size is None else own_part(torch.arange(whole))
    if crop_padding:
        drawn = torch.randint(0, 2 * crop_padding + 1, (2, whole), generator=generator)
        offsets = drawn[:, mine].to(device)
        padded = functional.pad(images, [crop_padding] * 4).permute(0, 2, 3, 1)  # (N, H + 2p, W + 2p, C)
        rows = offsets[0][:, None] + torch.arange(height, device=device)  # (N, H)
        columns = offsets[1][:, None] + torch.arange(width, device=device)  # (N, W)
        example = torch.arange(count, device=device)[:, None, None]
        images = padded[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
    if flip:
        mirrored = torch.rand(whole, generator=generator)[mine].to(device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images
