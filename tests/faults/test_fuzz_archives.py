"""Bad archives by the hundred: read or refused, and nothing of them is written anywhere."""

import io
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import EDITS, Edits, Refusals, edited, fuzz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from notbugs.data.sources.base import SourceError
from notbugs.data.sources.folder import read_folder

Entry = tuple[str, bytes, bytes, str]
"""Name, content, type in a tar, target of a link."""

NAMES = ["train/cat/0.png", "train/dog/1.png", "test/cat/2.png", "test/dog/3.png"]
ODD_NAMES = [
    "../evil",
    "/tmp/evil",
    "train/../../evil",
    "train/cat/../../../evil",
    "C:\\evil",
    "train\\evil",
    "",
    ".",
    "train",
    "train/cat",
    "train/cat/\x1b[2J",
    "train/cat/" + "a" * 300,
    "train/cat/\udce9.png",
]
ODD_TYPES = [
    tarfile.REGTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.DIRTYPE,
    tarfile.GNUTYPE_SPARSE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.XHDTYPE,
    b"V",
]
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(ODD_NAMES) | st.text(max_size=9).map("train/cat/{}".format),
        st.binary(max_size=40),
        st.sampled_from(ODD_TYPES),
        st.sampled_from(["", "../evil", "/etc/passwd", NAMES[0]]),
    ),
    min_size=1,
    max_size=3,
)


def tar(entries: list[Entry], compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, content, kind, target in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(content), target
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped(entries: list[Entry]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names used twice
        for name, content, _, _ in entries:
            archive.writestr(zipfile.ZipInfo(name.replace("\udce9", "e") or "e"), content)
    return buffer.getvalue()


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


SOUND: list[Entry] = [(name, picture(shade), tarfile.REGTYPE, "") for shade, name in enumerate(NAMES)]


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz", "zip"])
def test_archives_of_any_members_and_bytes(tmp_path: Path, kind: str) -> None:
    refusals = Refusals(tmp_path, SourceError, one_line=False)
    file = tmp_path / f"pets.{kind or 'tar'}"

    def pack(entries: list[Entry]) -> bytes:
        return zipped(entries) if kind == "zip" else tar(entries, kind)

    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        refusals.of(lambda: read_folder(file, image_size=4, seed=0))

    @fuzz(90)
    @given(ENTRIES)
    def members(entries: list[Entry]) -> None:
        attempt(pack([*SOUND, *entries]))

    @fuzz(120)
    @given(EDITS, st.binary(max_size=50), st.booleans())
    def contents(edits: Edits, noise: bytes, wild: bool) -> None:
        attempt(sound[:6] + noise if wild else edited(sound, edits))

    sound = pack(SOUND)
    attempt(sound)
    assert refusals.count == 0
    members()
    contents()
    assert refusals.share >= 0.47
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
