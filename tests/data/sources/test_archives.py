import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from notbugs.data.sources import archives
from notbugs.data.sources.archives import Member, collection_name, open_collection
from notbugs.data.sources.base import SourceError

KINDS = ["pets.tar", "pets.tar.gz", "pets.tar.bz2", "pets.tar.xz", "pets.zip"]


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive of the kind that the name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    compression = path.suffix.removeprefix(".")
    with tarfile.open(path, "w" if compression == "tar" else f"w:{compression}") as archive:
        for name, content in files.items():
            add(archive, name, content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for field, value in fields.items():
        setattr(entry, field, value)
    archive.addfile(entry, io.BytesIO(content))


def contents(path: Path, members: list[Member] | None = None) -> dict[str, bytes]:
    collection = open_collection(path)
    wanted = [m for m in collection.members() if not m.is_folder] if members is None else members
    return {member.name: content() for member, content in collection.read(wanted)}


@pytest.mark.parametrize("name", KINDS)
def test_files_come_back_from_every_kind(tmp_path: Path, name: str) -> None:
    files = {"train/cat/b.jpg": b"one", "train/cat/a.jpg": b"two" * 100_000, "README": b"", "test/x": b"\x00"}
    assert contents(pack(tmp_path / name, files)) == files


@pytest.mark.parametrize("name", KINDS)
def test_only_the_members_wanted_are_read(tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / name, {f"{i}": bytes([i]) for i in range(9)})
    wanted = [m for m in open_collection(path).members() if m.name in ("7", "2")]
    assert contents(path, wanted[::-1]) == {"2": b"\x02", "7": b"\x07"}
    assert contents(path, []) == {}


def test_a_directory_lists_train_and_test_to_the_bottom_and_the_rest_by_name(tmp_path: Path) -> None:
    for name in (
        "train/cat/deep/a.jpg",
        "train/cat/b.jpg",
        "test/cat/c.jpg",
        "other/secret/d.jpg",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    members = list(open_collection(tmp_path).members())
    assert [m.name for m in members if m.is_folder] == [
        *("other", "test", "test/cat", "train", "train/cat", "train/cat/deep"),
    ]
    files = [m for m in members if not m.is_folder]
    assert {m.name for m in files} == {
        "notes.txt",
        "test/cat/c.jpg",
        "train/cat/b.jpg",
        "train/cat/deep/a.jpg",
    }
    assert contents(tmp_path, files) == {m.name: m.name.encode() for m in files}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_is_told_by_the_content(tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / name, {"a": b"one"}).rename(tmp_path / "download")
    assert contents(path) == {"a": b"one"}


@pytest.mark.parametrize("name", KINDS)
def test_hidden_files_are_left_out(tmp_path: Path, name: str) -> None:
    litter = (".DS_Store", "train/._a.jpg", "__MACOSX/train/a.jpg", "train/Thumbs.db", "train/.cache/a.jpg")
    path = pack(tmp_path / name, {"./train/a.jpg": b"one", **dict.fromkeys(litter, b"")})
    assert contents(path) == {"train/a.jpg": b"one"}


def test_hidden_files_are_left_out_of_directories(tmp_path: Path) -> None:
    for name in ("train/a.jpg", "train/.DS_Store", "train/.cache/b.jpg", ".git/c", "train/desktop.ini"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [m.name for m in open_collection(tmp_path).members()] == ["train", "train/a.jpg"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../evil", "train/../../evil", "/etc/evil"])
def test_a_name_that_points_outside_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = pack(tmp_path / kind, {name: b"x"})
    with pytest.raises(SourceError, match=f"^{path}: the name '{name}' in it points outside the archive"):
        list(open_collection(path).members())
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", ["plain.tar", "streamed.tar.gz"])
def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / kind, "w:gz" if kind.endswith("gz") else "w") as archive:
        add(archive, "a.jpg", b"one")
        add(archive, "soft.jpg", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret"))
        add(archive, "hard.jpg", type=tarfile.LNKTYPE, linkname="a.jpg")
        add(archive, "pipe.jpg", type=tarfile.FIFOTYPE)
    problems = {m.name: m.problem for m in open_collection(tmp_path / kind).members()}
    assert problems == {
        "a.jpg": "",
        "soft.jpg": "a link, and links in archives are not followed",
        "hard.jpg": "a link, and links in archives are not followed",
        "pipe.jpg": "not a regular file",
    }


def test_links_and_secrets_in_a_zip_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    link, locked = zipfile.ZipInfo("link.jpg"), zipfile.ZipInfo("locked.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr(locked, "x")
        locked.flag_bits |= 1  # written into the directory at the end of the file
    problems = {m.name: m.problem for m in open_collection(path).members()}
    assert problems == {
        "link.jpg": "a link, and links in archives are not followed",
        "locked.jpg": "encrypted",
    }


@pytest.mark.parametrize("name", KINDS)
def test_too_large_a_member_is_a_problem_known_from_the_list(tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 100)
    path = pack(tmp_path / name, {"fits": bytes(100), "large": bytes(101)})
    assert {m.name: m.problem for m in open_collection(path).members()} == {
        "fits": "",
        "large": "larger than 100 bytes",
    }


def test_no_more_is_read_than_allowed_whatever_the_list_says(tmp_path: Path, monkeypatch) -> None:
    path = pack(tmp_path / "pets.zip", {"large": bytes(101)})
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "large").write_bytes(bytes(101))
    monkeypatch.setattr(archives, "MAX_BYTES", 100)
    for where, name in ((path, "large"), (tmp_path, "train/large")):
        with pytest.raises(ValueError, match="larger than 100 bytes"):
            contents(where, [Member(name)])


def test_of_a_name_used_twice_both_are_listed_and_read_apart(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        add(archive, "a", b"old")
        add(archive, "a", b"new")
    members = list(open_collection(tmp_path / "pets.tar").members())
    assert contents(tmp_path / "pets.tar", members[1:]) == {"a": b"new"}
    assert contents(tmp_path / "pets.tar", members[:1]) == {"a": b"old"}


@pytest.mark.parametrize("name", KINDS)
def test_a_truncated_archive_is_an_error(tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / name, {str(i): os.urandom(5000) for i in range(5)})
    path.write_bytes(path.read_bytes()[:12_000])
    with pytest.raises(SourceError, match=r"pets\.[a-z.0-9]*: damaged, or no \.tar, \.tar\.gz"):
        list(open_collection(path).members())


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_archive_is_an_error(tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / name, {str(i): bytes([65 + i]) * 5000 for i in range(5)})
    raw = bytearray(path.read_bytes())
    # A tar's third header, or the middle of a compressed file, or the list at the end of a zip.
    at = {"pets.tar": 2 * 5632, "pets.zip": raw.rfind(b"PK\x01\x02")}.get(name, len(raw) // 2)
    raw[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    with pytest.raises(SourceError, match="damaged, or no"):
        list(open_collection(path).members())


@pytest.mark.parametrize(
    ("found", "put"),
    [(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\xff"), ("é".encode(), b"\xff\xfe")],
    ids=["version", "name"],
)
def test_a_zip_that_python_cannot_read_is_an_error(tmp_path: Path, found: bytes, put: bytes) -> None:
    path = pack(tmp_path / "pets.zip", {"train/é.jpg": b"one"})
    assert found in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(found, put))
    with pytest.raises(SourceError, match=rf"^{path}: damaged, or no .*: (zip file version|'utf-8' codec)"):
        list(open_collection(path).members())


def test_a_tar_that_ends_between_two_members_is_an_error(tmp_path: Path) -> None:
    path = pack(tmp_path / "pets.tar", {str(i): bytes(512) for i in range(5)})
    path.write_bytes(path.read_bytes()[:2048])  # two headers, two contents, no mark of the end
    with pytest.raises(SourceError, match=r"damaged, or no .*: empty header"):
        list(open_collection(path).members())


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "words.tar"
    path.write_text("these are words\n" * 100)
    with pytest.raises(SourceError, match=r"words\.tar: damaged, or no .*\.tar\.xz or \.zip"):
        list(open_collection(path).members())


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere: No such file or directory"):
        open_collection(tmp_path / "nowhere")


def test_a_damaged_member_of_a_zip_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a", b"first")
        archive.writestr("b", b"second")
    path.write_bytes(path.read_bytes().replace(b"first", b"fxrst"))
    collection = open_collection(path)
    outcomes = {}
    for member, content in collection.read(list(collection.members())):
        try:
            outcomes[member.name] = content()
        except zipfile.BadZipFile:
            outcomes[member.name] = b"damaged"
    assert outcomes == {"a": b"damaged", "b": b"second"}


def test_links_in_the_users_own_directory_are_followed(tmp_path: Path) -> None:
    (tmp_path / "store" / "cat").mkdir(parents=True)
    (tmp_path / "store" / "cat" / "a.jpg").write_bytes(b"one")
    (tmp_path / "pets" / "train").mkdir(parents=True)
    (tmp_path / "pets" / "train" / "cat").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "pets" / "train" / "b.jpg").symlink_to(tmp_path / "store" / "cat" / "a.jpg")
    assert contents(tmp_path / "pets") == {"train/b.jpg": b"one", "train/cat/a.jpg": b"one"}


def test_a_circle_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "again").symlink_to(tmp_path / "train")
    with pytest.raises(SourceError, match="again: a link to a folder that it lies in itself"):
        list(open_collection(tmp_path).members())


@pytest.mark.timeout(30)
def test_a_pipe_in_a_directory_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    os.mkfifo(tmp_path / "train" / "pipe.jpg")
    with pytest.raises(ValueError, match="not a regular file"):
        contents(tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    scandir = os.scandir

    def locked(folder: str) -> object:
        if str(folder).endswith("cat"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)  # taking the right to read away does not stop root
    with pytest.raises(SourceError, match="cat: Permission denied"):
        list(open_collection(tmp_path).members())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/pets.tar.xz", "pets"),
        ("pets.v1.zip", "pets.v1"),
        ("Pets.TGZ", "Pets"),
        ("x/pets/", "pets"),
        ("pets", "pets"),
    ],
)
def test_names_of_collections(path: str, name: str) -> None:
    assert collection_name(Path(path)) == name


def test_a_directory_keeps_its_whole_name(tmp_path: Path) -> None:
    (tmp_path / "pets.tar").mkdir()
    assert collection_name(tmp_path / "pets.tar") == "pets.tar"
