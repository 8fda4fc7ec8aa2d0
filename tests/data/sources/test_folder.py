import io
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from notbugs.data.sources import folder
from notbugs.data.sources.base import SourceError
from notbugs.data.sources.folder import read_folder


def pack(root: Path, path: Path, top: str = "") -> Path:
    """An archive of the tree, its members in reversed order, all under the folder `top`."""
    files = sorted((file for file in root.rglob("*") if file.is_file()), reverse=True)
    names = {file: str(Path(top, file.relative_to(root))) for file in files}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file, name in names.items():
                archive.write(file, name)
    else:
        compression = path.suffix.removeprefix(".").removeprefix("tar")
        with tarfile.open(path, f"w:{compression}") as tar:
            for file, name in names.items():
                tar.add(file, name)
    return path


def reds(pictures: folder.Pictures) -> list[int]:
    return pictures.pixels[:, 0, 0, 0].tolist()


def test_a_directory_is_read_by_class_and_name(tree) -> None:
    train, test, skipped = read_folder(tree(), image_size=8, seed=0)
    assert train.pixels.shape == (7, 3, 8, 8)
    assert train.pixels.dtype == torch.uint8
    assert train.class_names == test.class_names == ("cat", "dog")
    assert reds(train) == [0, 1, 2, 3, 4, 5, 6]
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert train.source_indices.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert train.origins[:2] == ("train/cat/00.png", "train/cat/01.png")
    assert (reds(test), test.labels.tolist()) == ([7, 8, 9, 10], [0, 0, 1, 1])
    assert test.origins[3] == "test/dog/01.png"
    assert train.white == 255
    assert skipped == []


@pytest.mark.parametrize("top", ["", "pets-1.0", "./pets-1.0"])
@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.xz", ".zip"])
def test_an_archive_gives_the_same_as_its_directory(tree, tmp_path: Path, ending: str, top: str) -> None:
    root = tree()
    archive = pack(root, tmp_path / f"packed{ending}", top)
    for limits in ({}, {"max_train": 4, "max_test": 2}):
        expected = read_folder(root, image_size=8, seed=1, **limits)
        found = read_folder(archive, image_size=8, seed=1, **limits)
        for one, other in zip(found[:2], expected[:2], strict=True):
            assert one.pixels.equal(other.pixels)
            assert one.labels.equal(other.labels)
            assert one.source_indices.equal(other.source_indices)
            assert one.origins == other.origins
            assert one.class_names == other.class_names


def test_grey_and_another_size(tree) -> None:
    train, _, _ = read_folder(tree(), image_size=5, grey=True, seed=0)
    assert train.pixels.shape == (7, 1, 5, 5)
    assert train.pixels[0].unique().tolist() == [round(0.587 * 100 + 0.114 * 200)]


def test_any_format_in_any_folder_below_the_class(tree, encode) -> None:
    root = tree()
    picture = np.full((8, 8, 3), (250, 250, 250), np.uint8)
    (root / "train/dog/more/yet").mkdir(parents=True)
    for name, kind in (
        ("x.jpg", "JPEG"),
        ("x.gif", "GIF"),
        ("x.bmp", "BMP"),
        ("x.webp", "WEBP"),
        ("x", "TIFF"),
    ):
        (root / "train/dog/more/yet" / name).write_bytes(encode(picture, kind))
    train, _, _ = read_folder(root, image_size=8, seed=0)
    assert reds(train)[7:] == [250] * 5
    assert train.labels[7:].tolist() == [1] * 5
    assert train.origins[-1] == "train/dog/more/yet/x.webp"


def test_hidden_files_and_other_folders_are_left_out(tree, tmp_path: Path) -> None:
    root = tree()
    for name in (".DS_Store", "train/.DS_Store", "train/cat/.DS_Store", "README.md", "validation/cat/x.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("no picture")
    for path in (root, pack(root, tmp_path / "pets.zip"), pack(root, tmp_path / "pets2.zip", "top")):
        assert len(read_folder(path, image_size=8, seed=0)[0].labels) == 7


def break_files(root: Path, encode) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (root / "train/cat/cut.jpg").write_bytes(encode(noise, "JPEG")[:-2000])
    (root / "train/dog/letter.jpg").write_text("Dear Sir")
    (root / "test/dog/empty.png").touch()


def test_unreadable_files_are_listed_and_stop_the_run(tree, encode, tmp_path: Path) -> None:
    root = tree()
    break_files(root, encode)
    for path in (root, pack(root, tmp_path / "pets.tar.xz")):
        with pytest.raises(SourceError) as caught:
            read_folder(path, image_size=8, seed=0)
        lines = str(caught.value).splitlines()
        assert lines[0] == (
            f"{path}: 3 of 14 files cannot be read as pictures; remove them or set data.skip_unreadable to true:"
        )
        assert lines[1] == "  test/dog/empty.png: not a picture of a known format"
        assert lines[2].startswith("  train/cat/cut.jpg: image file is truncated")
        assert lines[3] == "  train/dog/letter.jpg: not a picture of a known format"
        assert len(lines) == 4


def test_unreadable_files_are_skipped_on_request(tree, encode) -> None:
    root = tree()
    break_files(root, encode)
    train, test, skipped = read_folder(root, image_size=8, skip_unreadable=True, seed=0)
    assert reds(train) == [0, 1, 2, 3, 4, 5, 6]
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert train.source_indices.tolist() == [0, 1, 2, 3, 5, 6, 7]  # cut.jpg is 4, letter.jpg 8
    assert train.origins[4] == "train/dog/00.png"
    assert reds(test) == [7, 8, 9, 10]
    assert [line.split(": ")[0] for line in skipped] == [
        *("test/dog/empty.png", "train/cat/cut.jpg", "train/dog/letter.jpg"),
    ]


def test_of_many_unreadable_files_twenty_are_named(tree) -> None:
    root = tree()
    for i in range(23):
        (root / "train/cat" / f"bad{i:02}.jpg").touch()
    with pytest.raises(SourceError) as caught:
        read_folder(root, image_size=8, seed=0)
    lines = str(caught.value).splitlines()
    assert "23 of 34 files" in lines[0]
    assert lines[20].startswith("  train/cat/bad19.jpg")
    assert lines[21:] == ["  and 3 more"]


def test_a_link_in_an_archive_counts_as_unreadable(tree, tmp_path: Path) -> None:
    root = tree()
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(root / "train", "train")
        archive.add(root / "test", "test")
        link = tarfile.TarInfo("train/cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "00.png"
        archive.addfile(link)
    with pytest.raises(SourceError, match=r"1 of 12 files.*\n  train/cat/link\.png: a link, and links"):
        read_folder(tmp_path / "pets.tar", image_size=8, seed=0)


def test_a_name_pointing_outside_stops_the_run(tree, tmp_path: Path) -> None:
    root = tree()
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(root / "train", "train")
        archive.add(root / "test", "test")
        archive.addfile(tarfile.TarInfo("../evil"), io.BytesIO())
    with pytest.raises(SourceError, match=r"the name '\.\./evil' in it points outside"):
        read_folder(tmp_path / "pets.tar", image_size=8, skip_unreadable=True, seed=0)


def test_a_decompression_bomb_is_unreadable(tree, encode, monkeypatch) -> None:
    root = tree()
    (root / "train/cat/bomb.png").write_bytes(encode(np.zeros((20, 20), np.uint8)))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 150)  # Pillow itself raises beyond twice this
    with pytest.raises(SourceError, match=r"1 of 12 .*\n  train/cat/bomb\.png: Image size \(400 pixels\) exceeds"):
        read_folder(root, image_size=8, seed=0)


def test_what_pillow_only_warns_of_is_read_in_silence(tree, encode, monkeypatch) -> None:
    root = tree()
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 50)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(read_folder(root, image_size=8, seed=0)[0].labels) == 7
    assert caught == []


def test_running_out_of_memory_is_not_taken_for_a_bad_file(tree, monkeypatch) -> None:
    def exhausted(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr("notbugs.data.sources.pictures.decode", exhausted)
    with pytest.raises(MemoryError):
        read_folder(tree(), image_size=8, skip_unreadable=True, seed=0)


def test_of_a_subset_only_the_pictures_chosen_are_decoded(tree, monkeypatch) -> None:
    root = tree(train={"cat": 20, "dog": 10}, test={"cat": 4, "dog": 4})
    decoded = []
    read = folder.read_picture
    monkeypatch.setattr(folder, "read_picture", lambda *args, **kwargs: decoded.append(1) or read(*args, **kwargs))
    train, test, _ = read_folder(root, image_size=8, max_train=6, max_test=2, seed=0)
    assert len(decoded) == 8
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert test.labels.tolist() == [0, 1]
    assert reds(train) == train.source_indices.tolist()  # the red of a picture is its number in the tree
    assert reds(test) == (test.source_indices + 30).tolist()
    assert [int(Path(name).stem) for name in train.origins[:4]] == train.source_indices[:4].tolist()


def test_subsets_depend_on_the_seed(tree) -> None:
    root = tree(train={"cat": 20, "dog": 20})
    chosen = [read_folder(root, image_size=8, max_train=10, seed=seed)[0].source_indices.tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]


@pytest.mark.parametrize("key", ["max_train", "max_test"])
def test_a_subset_needs_one_of_each_class(tree, key: str) -> None:
    with pytest.raises(SourceError, match=f"data.{key} = 1: must be at least 2, one image a class"):
        read_folder(tree(), image_size=8, seed=0, **{key: 1})


def test_of_a_name_used_twice_the_last_counts(tree, tmp_path: Path, encode) -> None:
    root = tree()
    newer = encode(np.full((8, 8, 3), 222, np.uint8))
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(root / "train", "train")
        archive.add(root / "test", "test")
        entry = tarfile.TarInfo("train/cat/00.png")
        entry.size = len(newer)
        archive.addfile(entry, io.BytesIO(newer))
    assert reds(read_folder(tmp_path / "pets.tar", image_size=8, seed=0)[0]) == [222, 1, 2, 3, 4, 5, 6]


def test_no_test_folder(tree, tmp_path: Path) -> None:
    root = tree()
    shutil.rmtree(root / "test")
    for path in (root, pack(root, tmp_path / "pets.zip", "top")):
        with pytest.raises(SourceError, match=r"no test/ folder; expected train/<class>/<picture> and test/"):
            read_folder(path, image_size=8, seed=0)


def test_no_train_folder_says_what_there_is(tree, tmp_path: Path) -> None:
    root = tree(name="deep/pets").parents[1]
    with pytest.raises(SourceError, match=r"no train/ folder; .*; found deep$"):
        read_folder(root, image_size=8, seed=0)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SourceError, match=r"no train/ folder; .*; found nothing$"):
        read_folder(tmp_path / "nothing", image_size=8, seed=0)


@pytest.mark.parametrize("beside", [[], ["readme.txt", "test/cat/x.png", "other/x.png"]])
def test_one_level_above_is_taken_as_the_archive_of_it_is(tree, tmp_path: Path, beside: list[str]) -> None:
    root = tree(name="all/pets")
    for name in beside:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).touch()
    expected = read_folder(root, image_size=8, seed=0)
    for path in (tmp_path / "all", pack(tmp_path / "all", tmp_path / "all.zip")):
        found = read_folder(path, image_size=8, seed=0)
        for one, other in zip(found[:2], expected[:2], strict=True):
            assert one.pixels.equal(other.pixels)
            assert (one.origins, one.class_names) == (other.origins, other.class_names)


def test_two_folders_with_train(tree, tmp_path: Path) -> None:
    tree(name="all/a"), tree(name="all/b")
    for path in (tmp_path / "all", pack(tmp_path / "all", tmp_path / "all.zip")):
        with pytest.raises(SourceError, match="several folders hold a train/ folder: a/, b/; name one of them"):
            read_folder(path, image_size=8, seed=0)


def test_a_test_folder_outside_the_top_folder_is_not_taken(tree, tmp_path: Path) -> None:
    root = tree(name="all/top")
    shutil.move(root / "test", tmp_path / "all" / "test")
    for path in (tmp_path / "all", pack(tmp_path / "all", tmp_path / "all.zip")):
        with pytest.raises(SourceError, match=r"no test/ folder; .*; found test, top$"):
            read_folder(path, image_size=8, seed=0)


def test_files_outside_the_class_folders(tree) -> None:
    root = tree()
    (root / "train/labels.csv").touch()
    with pytest.raises(SourceError, match=r"not in a class folder: train/labels\.csv; expected train/<class>"):
        read_folder(root, image_size=8, seed=0)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"cat": 2, "dog": 2, "eel": 2}, {"cat": 1, "dog": 1}, "test/ has no folder for the classes eel;"),
        ({"cat": 2, "dog": 2}, {"cat": 1, "dog": 1, "eel": 1}, "train/ has no folder for the classes eel;"),
        ({"cat": 2, "dog": 0}, {"cat": 1, "dog": 1}, "no files in train/ for the classes dog;"),
        ({"cat": 2, "dog": 2}, {"cat": 0, "dog": 1}, "no files in test/ for the classes cat;"),
        ({"cat": 2}, {"cat": 2}, "1 class; at least 2 are needed;"),
    ],
)
def test_classes_that_do_not_fit(tree, train, test, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_folder(tree(train, test), image_size=8, seed=0)


def test_a_class_of_which_nothing_can_be_read(tree) -> None:
    root = tree()
    for file in (root / "test/dog").iterdir():
        file.write_text("no picture")
    with pytest.raises(SourceError, match="no readable picture in test/ for the classes dog"):
        read_folder(root, image_size=8, skip_unreadable=True, seed=0)


def test_an_empty_class_of_an_archive_is_seen(tree, tmp_path: Path) -> None:
    root = tree()
    (root / "train/eel").mkdir()
    (root / "test/eel").mkdir()
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(root, "pets")
    with pytest.raises(SourceError, match="no files in train/ for the classes eel"):
        read_folder(tmp_path / "pets.tar", image_size=8, seed=0)


def test_names_that_are_no_text_become_text(tree, tmp_path: Path) -> None:
    root = tree()
    (root / "train/dog/00.png").rename(root / "train/dog" / b"\xff0.png".decode("utf-8", "surrogateescape"))
    for path in (root, pack(root, tmp_path / "pets.tar")):
        train, _, _ = read_folder(path, image_size=8, seed=0)
        assert "train/dog/\ufffd0.png" in train.origins


def test_progress_sees_every_picture(tree) -> None:
    seen = {}

    def progress(iterable, description, total=None):
        items = list(iterable)
        seen[description] = (total, len(items))
        return iter(items)

    read_folder(tree(), image_size=8, seed=0, progress=progress)
    assert seen == {"list pets, files": (None, 17), "read pets, files": (11, 11)}
