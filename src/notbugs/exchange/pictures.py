"""One encoded picture or array file of an imported dataset as a tensor, unscaled."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from notbugs.data.sources.pictures import turn_upright
from notbugs.exchange.base import MAX_SIDE, FormatError, readable

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")


def read_array(path: Path) -> Tensor:
    """A .npy file, (C, H, W) uint8, float16 or float32.

    Raises: FormatError for anything else, pickled objects among it.
    """
    with readable(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise FormatError(f"{path}: an archive; a .npy file must hold one array")
        if array.ndim != 3 or array.dtype.name not in ("uint8", "float16", "float32"):
            allowed = "(C, H, W) uint8, float16 or float32"
            raise FormatError(f"{path}: must be {allowed}, not {array.shape} {array.dtype}")
        return torch.from_numpy(np.array(array, order="C", dtype=array.dtype.newbyteorder("=")))


def decode_picture(content: bytes, where: Path) -> Tensor:
    """A picture in its own size: (1 or 3, H, W) uint8; float32 if it has 16 bits of grey, or floating point.

    It is turned upright where the camera noted how it was held (EXIF).

    Args:
        content: of the file.
        where: what errors call it.
    Raises: FormatError if it is no picture or too large.
    """
    with readable(where), Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
        if max(picture.size) > MAX_SIDE:
            raise FormatError(f"{where}: {picture.width} x {picture.height} pixels; at most {MAX_SIDE} a side")
        if picture.has_transparency_data:
            raise FormatError(f"{where}: has transparency; lay it over a background first")
        turn_upright(picture)
        if picture.mode == "F":
            return torch.from_numpy(np.array(picture, dtype=np.float32))[None]
        if picture.mode.startswith("I;16") or picture.mode == "I":
            wide = np.asarray(picture).astype(np.float64)
            return torch.from_numpy((wide / 65535.0).astype(np.float32))[None]
        grey = picture.mode in ("1", "L")
        values = np.array(picture.convert("L" if grey else "RGB"))
        return torch.from_numpy(values[None] if grey else np.ascontiguousarray(values.transpose(2, 0, 1)))
