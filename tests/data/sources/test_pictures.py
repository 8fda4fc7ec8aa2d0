import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from notbugs.data.sources import pictures
from notbugs.data.sources.pictures import decode

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
GREY16 = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65407], [65534, 65535, 1, 2], [300, 400, 500, 600]])


def smooth(height: int, width: int) -> np.ndarray:
    """Three gentle waves, (H, W, 3), uint8."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(3 * x), np.cos(2 * y), np.sin(2 * x + 3 * y)]
    return np.stack([(w * 100 + 128) for w in waves], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("PPM", {}),
        ("TGA", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
    ],
)
def test_lossless_formats_of_the_right_size_come_back_exactly(encode, file_format, options) -> None:
    decoded = decode(encode(NOISE, file_format, **options), 8, grey=False)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, NOISE.transpose(2, 0, 1))


@pytest.mark.parametrize(("file_format", "error"), [("JPEG", 4), ("WEBP", 6), ("GIF", 12)])
def test_lossy_formats_come_back_nearly(encode, file_format, error) -> None:
    picture = smooth(16, 16)
    decoded = decode(encode(picture, file_format), 16, grey=False).astype(int)
    assert np.abs(decoded - picture.transpose(2, 0, 1)).mean() < error


def test_grey_is_one_channel_of_luma(encode) -> None:
    decoded = decode(encode(NOISE), 8, grey=True)
    luma = NOISE @ np.array([0.299, 0.587, 0.114])
    assert decoded.shape == (1, 8, 8)
    assert np.abs(decoded[0] - luma).max() <= 0.5 + 1e-3


def test_a_grey_picture_fills_three_channels(encode) -> None:
    decoded = decode(encode(NOISE[..., 0]), 8, grey=False)
    assert np.array_equal(decoded, np.stack([NOISE[..., 0]] * 3))


def test_shrinking_averages_instead_of_dropping_pixels(encode) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255  # every second column: picking pixels would give all 0 or all 255
    inner = decode(encode(stripes), 8, grey=True)[0, :, 1:-1].astype(int)
    assert np.abs(inner - 127.5).max() <= 2


def test_enlarging_keeps_a_constant_picture(encode) -> None:
    assert np.unique(decode(encode(np.full((3, 5), 77, np.uint8)), 16, grey=True)).tolist() == [77]


@pytest.mark.parametrize("transposed", [False, True])
def test_the_longer_side_is_cropped_in_the_middle(encode, transposed) -> None:
    wide = RNG.integers(0, 256, (10, 30), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(wide).resize((15, 5), Image.Resampling.LANCZOS))
    decoded = decode(encode(wide.T if transposed else wide), 5, grey=True)[0]
    assert np.abs((decoded.T if transposed else decoded).astype(int) - resized[:, 5:10]).max() <= 1


def test_the_orientation_noted_by_the_camera_is_applied(encode) -> None:
    upright = smooth(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the file must be turned by 90 degrees clockwise to be upright
    lying = encode(np.rot90(upright), "PNG", exif=exif)
    assert np.array_equal(decode(lying, 16, grey=False), upright.transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore")
def test_broken_notes_of_the_camera_do_no_harm(encode) -> None:
    data = encode(NOISE, "PNG", exif=b"Exif\x00\x00no such thing")
    assert np.array_equal(decode(data, 8, grey=False), NOISE.transpose(2, 0, 1))


def test_transparency_is_laid_over_white(encode) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (10, 20, 30, 255)
    pixels[2] = (10, 20, 30, 0)
    pixels[3] = (0, 0, 0, 51)
    decoded = decode(encode(pixels), 4, grey=False)
    assert decoded[:, 0, 0].tolist() == [10, 20, 30]
    assert decoded[:, 2, 0].tolist() == [255, 255, 255]
    assert decoded[:, 3, 0].tolist() == [204, 204, 204]


def test_grey_with_transparency(encode) -> None:
    pixels = np.zeros((4, 4, 2), np.uint8)
    pixels[0] = (90, 255)
    assert decode(encode(pixels), 4, grey=True)[0, :, 0].tolist() == [90, 255, 255, 255]


def palette_picture(**options: object) -> bytes:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    picture.putpixel((0, 0), 0)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_palettes_are_looked_up() -> None:
    decoded = decode(palette_picture(), 4, grey=False)
    assert decoded[:, 0, 0].tolist() == [0, 0, 0]
    assert decoded[:, 3, 3].tolist() == [200, 100, 50]


def test_a_transparent_colour_of_a_palette_is_white() -> None:
    decoded = decode(palette_picture(transparency=0), 4, grey=False)
    assert decoded[:, 0, 0].tolist() == [255, 255, 255]
    assert decoded[:, 3, 3].tolist() == [200, 100, 50]


def test_black_and_white_pictures(encode) -> None:
    bits = np.eye(4, dtype=bool)
    assert np.array_equal(decode(encode(bits), 4, grey=True)[0], np.eye(4) * 255)


def test_cmyk_becomes_rgb() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(buffer, "TIFF")
    assert decode(buffer.getvalue(), 8, grey=False)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_rounded_to_eight(encode, file_format) -> None:
    decoded = decode(encode(GREY16.astype(np.uint16), file_format), 4, grey=True)
    assert np.array_equal(decoded[0], np.round(GREY16 / 65535 * 255))


def test_big_endian_sixteen_bits() -> None:
    picture = Image.frombytes("I;16B", (4, 4), GREY16.astype(">u2").tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF")
    assert np.array_equal(decode(buffer.getvalue(), 4, grey=True)[0], np.round(GREY16 / 65535 * 255))


def test_wider_integers_are_refused(encode) -> None:
    with pytest.raises(ValueError, match=r"values in 0\.\.65536; integers must lie in 0\.\.65535"):
        decode(encode(np.array([[0, 65536]], np.int32), "TIFF"), 4, grey=True)


def test_floating_point_between_zero_and_one(encode) -> None:
    values = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    assert decode(encode(values, "TIFF"), 2, grey=True)[0].tolist() == [[0, 64], [128, 255]]


@pytest.mark.parametrize("bad", [1.5, -0.1, np.nan])
def test_other_floating_point_is_refused(encode, bad) -> None:
    with pytest.raises(ValueError, match=r"floating point must lie in \[0, 1\]"):
        decode(encode(np.array([[0.0, bad]], np.float32), "TIFF"), 2, grey=True)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode(buffer.getvalue(), 4, grey=False)[:, 0, 0].tolist() == [255, 0, 0]


def test_a_large_jpeg_decoded_at_a_part_of_its_size_looks_the_same(encode, monkeypatch) -> None:
    data = encode(smooth(400, 640), "JPEG", quality=95)
    reduced = decode(data, 16, grey=False).astype(int)
    monkeypatch.setattr(pictures, "_DRAFT", 1000)
    whole = decode(data, 16, grey=False).astype(int)
    assert 0 < np.abs(reduced - whole).max() <= 2


def test_too_many_pixels_are_refused(encode, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 63)
    with pytest.raises(ValueError, match="8 x 8 pixels, more than 63"):
        decode(encode(NOISE), 8, grey=False)


def test_truncated_jpeg_is_refused(encode) -> None:
    data = encode(RNG.integers(0, 256, (64, 64), dtype=np.uint8), "JPEG")
    with pytest.raises(OSError, match="image file is truncated"):
        decode(data[:-1000], 64, grey=False)


def test_text_is_refused() -> None:
    with pytest.raises(Image.UnidentifiedImageError):
        decode(b"these are words", 8, grey=False)


def test_postscript_never_starts_a_program(monkeypatch) -> None:
    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    header = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    with pytest.raises(Image.UnidentifiedImageError):
        decode(header + b"showpage\n%%EOF\n", 8, grey=False)


def test_decoding_leaves_no_file_behind(encode, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    decode(encode(NOISE), 4, grey=False)
    assert list(tmp_path.iterdir()) == []
