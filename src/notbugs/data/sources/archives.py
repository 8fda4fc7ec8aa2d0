"""A collection of files: a directory, a tar archive or a zip archive, read in order and never unpacked.

Archives come from strangers. Nothing of them is written to disk, no link in them is followed, a name that
points outside is an error, and no more than MAX_BYTES of one member are held.
"""

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, Protocol, Self

from notbugs.data.sources.base import SourceError

MAX_BYTES = 64 * 2**20
"""A larger file is not read."""

ARCHIVES = ".tar, .tar.gz, .tar.bz2, .tar.xz or .zip"
"""What is read, in words. A file is told by its content; these endings are only taken off its name."""

_ENDINGS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".tar", ".zip")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
_ZIPPED = (b"PK\x03\x04", b"PK\x05\x06")
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError)
_LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
_LINK = "a link, and links in archives are not followed"

SPLITS = ("train", "test")
"""Folders that hold the pictures."""
ReadContent = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder of a collection.

    Attributes:
        name: path inside the collection, parts separated by "/".
        position: its place among the members of an archive.
        is_folder: a folder, not a file.
        problem: why it must not be read, "" where nothing is known against it.
        path: where it lies in a directory, relative to that, if it goes by another name; "" otherwise.
    """

    name: str
    position: int = 0
    is_folder: bool = False
    problem: str = ""
    path: str = ""


class Collection(Protocol):
    """Files that can be listed, and read in the collection's own order."""

    def members(self) -> Iterator[Member]:
        """All files and folders except hidden ones.

        Raises: SourceError if the collection is damaged or a name in it points outside.
        """
        ...

    def read(self, wanted: Sequence[Member]) -> Iterator[tuple[Member, ReadContent]]:
        """The members wanted, each with a function to be called at once for its content.

        That function raises an error of any kind if this one member cannot be read.
        """
        ...


def open_collection(path: Path) -> Collection:
    """The directory or archive at `path`.

    Raises: SourceError if there is nothing that can be read.
    """
    if path.is_dir():
        return Directory(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    if start.startswith(_ZIPPED):
        return ZipArchive(path)
    return TarArchive(path, compressed=start.startswith(_COMPRESSED))


def collection_name(path: Path) -> str:
    """Name of a directory, or of an archive without its ending."""
    name = Path(os.path.abspath(path)).name  # noqa: PTH100 (resolve() would give the name behind a link)
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name if path.is_dir() else name[: len(name) - len(ending)]


class Directory:
    """A directory on disk, of which only train/ and test/ are listed to the bottom.

    They are its own or, if it has no train/, those of a folder in it, as an archive may hold them.
    It is the user's own, so links in it are followed: data tools lay files out by links.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def members(self) -> Iterator[Member]:
        """See `Collection`."""
        entries = _listing(self.path)
        one_level_down = not any(entry.name == "train" for entry in entries)
        for entry in entries:
            if not (entry.is_dir() and entry.name in SPLITS):
                yield Member(entry.name, is_folder=entry.is_dir())
            if not entry.is_dir():
                continue
            if entry.name in SPLITS:
                yield from self._split(entry)
            elif one_level_down and (entry / "train").is_dir():
                for split in _listing(entry):
                    if split.name in SPLITS and split.is_dir():
                        yield from self._split(split)

    def _split(self, top: Path) -> Iterator[Member]:
        """train/ or test/ and all that lies in it."""
        yield Member(top.relative_to(self.path).as_posix(), is_folder=True)
        for folder, folders, files in os.walk(top, onerror=_unlistable, followlinks=True):
            folders[:] = sorted(name for name in folders if not _hidden(name))
            inside = Path(folder).relative_to(self.path)
            for name in folders:
                _refuse_cycle(Path(folder, name))
                yield Member((inside / name).as_posix(), is_folder=True)
            for name in sorted(files):
                if not _hidden(name):
                    yield Member((inside / name).as_posix())

    def read(self, wanted: Sequence[Member]) -> Iterator[tuple[Member, ReadContent]]:
        """See `Collection`."""
        for member in wanted:
            path = self.path / (member.path or member.name)
            yield member, lambda path=path: _from_disk(path)  # type: ignore[misc]


class TarArchive:
    """A tar archive: compressed, read as a stream; plain, by skipping from member to member."""

    def __init__(self, path: Path, *, compressed: bool) -> None:
        self.path = path
        self.compressed = compressed

    def members(self) -> Iterator[Member]:
        """See `Collection`."""
        with _sound(self.path), self._open() as archive:
            entries = ((entry.name, entry.isdir(), _tar_problem(entry)) for entry in _entries(archive))
            yield from _members(self.path, entries)

    def read(self, wanted: Sequence[Member]) -> Iterator[tuple[Member, ReadContent]]:
        """See `Collection`; one pass, which ends with the last member wanted."""
        missing = {member.position: member for member in wanted}
        with _sound(self.path), self._open() as archive:
            for position, entry in enumerate(_entries(archive)):
                if not missing:
                    return
                if position in missing:
                    yield missing.pop(position), lambda entry=entry: _limited(archive.extractfile(entry))  # type: ignore[misc]

    def _open(self) -> tarfile.TarFile:
        if self.compressed:
            return tarfile.open(self.path, "r|*", tarinfo=_StrictInfo)
        return tarfile.open(self.path, "r:", tarinfo=_StrictInfo)


class ZipArchive:
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def members(self) -> Iterator[Member]:
        """See `Collection`."""
        with _sound(self.path), zipfile.ZipFile(self.path) as archive:
            entries = ((entry.filename, entry.is_dir(), _zip_problem(entry)) for entry in archive.infolist())
            yield from _members(self.path, entries)

    def read(self, wanted: Sequence[Member]) -> Iterator[tuple[Member, ReadContent]]:
        """See `Collection`."""
        with _sound(self.path), zipfile.ZipFile(self.path) as archive:
            entries = archive.infolist()
            for member in sorted(wanted, key=lambda member: entries[member.position].header_offset):
                entry = entries[member.position]
                yield member, lambda entry=entry: _limited(archive.open(entry))  # type: ignore[misc]


class _StrictInfo(tarfile.TarInfo):
    """Header of a member. `TarFile` takes a damaged one for the end of the archive, unless it gets this error."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """The next header; EOFHeaderError at the mark that ends an archive."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _entries(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (entry := archive.next()) is not None:
        yield entry
        archive.members = []  # type: ignore[attr-defined]  # else a kilobyte a member is kept


def _members(path: Path, entries: Iterable[tuple[str, bool, str]]) -> Iterator[Member]:
    """What an archive holds but hidden files; entries: name, whether it is a folder, and what is against it."""
    for position, (name, is_folder, problem) in enumerate(entries):
        if not _hidden(inside := _inside(path, name)):
            yield Member(inside, position, is_folder, problem)


def _tar_problem(entry: tarfile.TarInfo) -> str:
    if entry.issym() or entry.islnk():
        return _LINK
    if not (entry.isreg() or entry.isdir()):
        return "not a regular file"
    return _size_problem(entry.size)


def _zip_problem(entry: zipfile.ZipInfo) -> str:
    if stat.S_ISLNK(entry.external_attr >> 16):
        return _LINK
    if entry.flag_bits & 1:
        return "encrypted"
    return _size_problem(entry.file_size)


def _size_problem(size: int) -> str:
    return f"larger than {MAX_BYTES} bytes" if size > MAX_BYTES else ""


def _from_disk(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a pipe would be waited for in vain
        raise ValueError("not a regular file")
    return _limited(path.open("rb"))


def _limited(file: IO[bytes] | None) -> bytes:
    """Content of a file, which is closed; no more than the limit is read, whatever its header said."""
    if file is None:
        raise ValueError("not a regular file")
    with file:
        content = file.read(MAX_BYTES + 1)
    if problem := _size_problem(len(content)):
        raise ValueError(problem)
    return content


def _inside(path: Path, name: str) -> str:
    """The name with "." and empty parts taken out; an error if it points outside the archive."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise SourceError(f"{path}: the name {name!r} in it points outside the archive; pack it anew")
    return "/".join(part for part in parts if part not in ("", "."))


def _hidden(name: str) -> bool:
    """Whether a file is, or lies in, what file managers leave behind; the archive's own root counts too."""
    return not name or any(part.startswith(".") or part in _LITTER for part in name.split("/"))


def _listing(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        _unlistable(error)
    return [entry for entry in entries if not _hidden(entry.name)]


def _refuse_cycle(folder: Path) -> None:
    if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
        raise SourceError(f"{folder}: a link to a folder that it lies in itself")


def _unlistable(error: OSError) -> NoReturn:
    """Called by os.walk, which would otherwise leave out in silence what it cannot list."""
    raise SourceError(f"{error.filename}: {error.strerror}") from None


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn what the readers of archives raise into a SourceError."""
    try:
        yield
    except SourceError:
        raise
    except _DAMAGED as error:
        raise SourceError(f"{path}: damaged, or no {ARCHIVES}: {error}") from error
