"""One picture file, of any format that Pillow decodes by itself, as a small square of bytes."""

import io
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485
"""A picture with more pixels is refused as a decompression bomb: the limit at which Pillow warns."""

_COMMON = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
"""Formats tried first: for some others Pillow tries to decode, since they have no signature to look at."""

_OUTSIDE_PROGRAMS = ("EPS", "WMF")
"""Formats that Pillow hands to another program, which a data set must never start."""

_DRAFT = 3
"""JPEGs more than this many times too large are decoded at a half, a quarter or an eighth of their size."""


class UndecodableError(ValueError):
    """A file is no picture, or none that can be used."""


def decode(data: bytes, side: int, *, grey: bool) -> NDArray[np.uint8]:
    """Decode a picture, turn it upright and scale it to a square.

    The largest central square is scaled with a Lanczos filter that widens as it shrinks (so nothing aliases):
    the shorter side becomes `side` pixels and the longer one is cropped. A picture of the right size stays as
    it is. EXIF orientation is applied, transparency laid over white, 16-bit grey rounded to 8 bits, floating
    point taken as [0, 1]; of several frames the first is taken; colour profiles are ignored; grey is the luma
    of ITU-R 601.

    Args:
        data: content of the file.
        side: height and width of the result, pixels.
        grey: one channel instead of red, green, blue.
    Returns: (1 or 3, side, side), uint8.
    Raises: Exception of any kind, from Pillow, if the data cannot be decoded; ValueError if it is too large
        or has values that have no place in 8 bits.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=_formats()) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS}")
        picture.draft(None, (_DRAFT * side, _DRAFT * side))
        picture.load()
        return squared(picture, side, grey=grey)


def opened(data: bytes) -> "Image.Image":
    """A picture in its own size.

    Args:
        data: content of the file.
    Raises: Exception of any kind, as `decode`.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=_formats()) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS}")
        picture.load()
        return picture


def squared(picture: "Image.Image", side: int | None, *, grey: bool) -> NDArray[np.uint8]:
    """A picture as `decode` makes it of a file.

    Args:
        picture: of any mode and size.
        side: height and width of the result, pixels; None leaves the size as it is.
        grey: one channel instead of red, green, blue.
    Returns: (1 or 3, H, W), uint8.
    Raises: ValueError if it has values that have no place in 8 bits.
    """
    from PIL import Image

    turn_upright(picture)
    flat = _eight_bits(picture).convert("L" if grey else "RGB")
    if side is not None and flat.size != (side, side):
        flat = flat.resize((side, side), Image.Resampling.LANCZOS, box=_central_square(*flat.size))
    values = np.asarray(flat)
    return values[None] if grey else values.transpose(2, 0, 1)  # (C, H, W)


def read_picture(read: Callable[[], bytes], side: int, *, grey: bool) -> NDArray[np.uint8]:
    """`decode` what `read` gives.

    Raises: UndecodableError, with the reason in a line.
    """
    from PIL import UnidentifiedImageError

    try:
        return decode(read(), side, grey=grey)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UndecodableError("not a picture of a known format") from None  # Pillow's words hold a memory address
    except Exception as error:  # damaged files make Pillow's decoders raise errors of every kind
        raise UndecodableError(" ".join(str(error).split()) or type(error).__name__) from None


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    others = (name for name in Image.ID if name not in (*_COMMON, *_OUTSIDE_PROGRAMS))
    return (*(name for name in _COMMON if name in Image.OPEN), *others)


def turn_upright(picture: "Image.Image") -> None:
    """Apply the orientation that the camera noted (EXIF), in place."""
    from PIL import ImageOps

    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception:
        # The pixels are sound, only the notes beside them are broken, and Pillow's reader of those raises
        # errors of many kinds: the picture is taken as it lies.
        return


def is_grey(picture: "Image.Image") -> bool:
    """Whether a picture has one channel of grey, and nothing of colour."""
    return picture.mode in ("1", "L", "LA", "La", "I", "F") or picture.mode.startswith("I;16")


def _eight_bits(picture: "Image.Image") -> "Image.Image":
    """The picture without transparency and with 8 bits a value."""
    from PIL import Image

    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer)
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        wide = np.asarray(picture).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError(f"values in {wide.min()}..{wide.max()}; integers must lie in 0..65535")
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode == "F":
        real = np.asarray(picture)
        if not (real.min() >= 0.0 and real.max() <= 1.0):
            raise ValueError(f"values in [{real.min():g}, {real.max():g}]; floating point must lie in [0, 1]")
        return Image.fromarray((real * 255).round().astype(np.uint8))
    return picture


def _central_square(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest square in the middle."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
