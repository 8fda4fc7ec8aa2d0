"""Imports: what strangers made is checked, and refused in one line."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from notbugs.data.store import load_dataset
from notbugs.exchange import FORMATS
from notbugs.exchange.base import FormatError
from notbugs.exchange.exporting import export_dataset
from notbugs.exchange.importing import import_dataset

IMAGES = torch.arange(4 * 3 * 2 * 2).reshape(4, 3, 2, 2) / 48.0
LABELS = torch.tensor([0, 2, 1, 2])


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def npz(folder: Path, **arrays: object) -> Path:
    folder.mkdir()
    np.savez(folder / "x.npz", **{"images": IMAGES.numpy(), "labels": LABELS.numpy(), **arrays})  # type: ignore[arg-type]
    return folder


def madry(folder: Path, images: object = None, labels: object = None, **options: object) -> Path:
    folder.mkdir()
    torch.save([IMAGES[:1], IMAGES[1:]] if images is None else images, folder / "CIFAR_ims", **options)
    torch.save([LABELS[:3], LABELS[3:]] if labels is None else labels, folder / "CIFAR_lab", **options)
    return folder


def tree(folder: Path, suffix: str = ".npy") -> Path:
    for name, image in (("cat/a", 0), ("dog/b", 2), ("owl/c", 1), ("owl/d", 3)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save((folder / name).with_suffix(suffix), IMAGES[image].numpy())
    return folder


def refused(folder: Path, form: str, message: str, out: Path, **options: object) -> None:
    """One line, and nothing is left of the import."""
    with pytest.raises(FormatError, match=message) as error:
        import_dataset(folder, form, out, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not list(out.parent.glob(f"{out.name}*"))


@pytest.mark.parametrize("zipped", [True, False])
def test_the_released_form_is_read(tmp_path, zipped):
    """The authors' own files are of torch before 1.6, without the zip."""
    folder = madry(tmp_path / "robust_CIFAR", _use_new_zipfile_serialization=zipped)
    import_dataset(folder, "madry", tmp_path / "out", class_names=["cat", "dog", "owl"])
    found = load_dataset(tmp_path / "out")
    assert torch.equal(found.data().images, IMAGES)
    assert found.labels.tolist() == LABELS.tolist()
    assert (found.manifest.name, found.manifest.source) == ("robust_CIFAR", "import:madry")
    assert found.class_names == ("cat", "dog", "owl")
    assert found.examples.to_dict("list") == {
        "index": [0, 1, 2, 3],
        "source_index": [-1] * 4,
        "true_label": [-1] * 4,
        "given_label": [0, 2, 1, 2],
        "origin": [""] * 4,
    }


def test_without_names_the_numbers_are_the_names(tmp_path):
    assert import_dataset(npz(tmp_path / "a"), "npz", tmp_path / "out").class_names == ("0", "1", "2")
    given = npz(tmp_path / "b", class_names=np.array(["cat", "dog", "owl", "bee"]))
    assert import_dataset(given, "npz", tmp_path / "out2").class_names == ("cat", "dog", "owl", "bee")


def test_a_tree_keeps_names_and_origins(tmp_path):
    import_dataset(tree(tmp_path / "a"), "imagefolder", tmp_path / "out")
    found = load_dataset(tmp_path / "out")
    assert torch.equal(found.data().images, IMAGES[[0, 2, 1, 3]])
    assert found.class_names == ("cat", "dog", "owl")
    assert found.examples["origin"].tolist() == ["cat/a.npy", "dog/b.npy", "owl/c.npy", "owl/d.npy"]


def test_bytes_are_divided_by_255(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 3, 2, 2)
    import_dataset(npz(tmp_path / "a", images=pixels), "npz", tmp_path / "out")
    assert torch.equal(load_dataset(tmp_path / "out").data().images, torch.from_numpy(pixels) / 255.0)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_pictures_are_turned_upright(tmp_path, orientation):
    """As the camera noted it (EXIF): by 180 degrees, 90 clockwise, 90 anticlockwise."""
    upright = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    lying = np.rot90(upright, {3: 2, 6: 1, 8: 3}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for label in "ab":
        (tmp_path / "in" / label).mkdir(parents=True)
        Image.fromarray(lying).save(tmp_path / "in" / label / "x.png", exif=exif)
    import_dataset(tmp_path / "in", "imagefolder", tmp_path / "out")
    found = load_dataset(tmp_path / "out").data().images
    assert torch.equal(found[0, 0], torch.from_numpy(upright) / 255.0)


def test_pictures_of_eight_and_sixteen_bits(tmp_path):
    for name, mode, values in (
        ("eight", "L", np.array([[0, 255], [128, 1]], np.uint8)),
        ("sixteen", "I;16", np.array([[0, 65535], [32768, 1]], np.uint16)),
    ):
        for label in "ab":
            (tmp_path / name / label).mkdir(parents=True)
            picture = Image.fromarray(values)
            assert picture.mode == mode
            picture.save(tmp_path / name / label / "x.png")
        import_dataset(tmp_path / name, "imagefolder", tmp_path / f"{name}-out")
        found = load_dataset(tmp_path / f"{name}-out").data().images
        top = 255 if name == "eight" else 65535
        assert torch.equal(found, torch.from_numpy((values / top).astype(np.float32))[None, None].expand(2, 1, 2, 2))


@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")
def test_pictures_inside_parquet_are_decoded(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra huggingface")
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    columns = {"img": [Image.fromarray(image) for image in pixels], "label": ["owl", "cat", "owl", "cat"]}
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=["owl", "cat"]))
    made = datasets.Dataset.from_dict(columns, features=features)
    (tmp_path / "hub").mkdir()
    for split in ("train", "test"):
        made.to_parquet(str(tmp_path / "hub" / f"{split}-00000-of-00001.parquet"))
    refused(tmp_path / "hub", "huggingface", "several splits; choose by --split one of test, train", tmp_path / "out")
    refused(tmp_path / "hub", "huggingface", "--split x: not there", tmp_path / "out", split="x")
    import_dataset(tmp_path / "hub", "huggingface", tmp_path / "out", split="test")
    found = load_dataset(tmp_path / "out")
    assert torch.equal(found.data().images, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0)
    assert found.class_names == ("owl", "cat")
    assert found.labels.tolist() == [0, 1, 0, 1]
    secret = Image.fromarray(pixels[0])
    secret.save(tmp_path / "secret.png")
    named = {"img": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "label": [0]}
    features = datasets.Features(img=datasets.Image(decode=False), label=datasets.Value("int64"))
    (tmp_path / "named").mkdir()
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(named, schema=features.arrow_schema), tmp_path / "named" / "train.parquet")
    refused(tmp_path / "named", "huggingface", "only the name of a file", tmp_path / "out2")


@pytest.mark.parametrize("file", ["CIFAR_ims", "CIFAR_lab"])
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, file, write):
    folder = madry(tmp_path / "a")
    write([Evil(tmp_path / "made_by_the_pickle")], folder / file)
    refused(folder, "madry", f"{file}: refused: not only tensors in it", tmp_path / "out")
    assert not (tmp_path / "made_by_the_pickle").exists()


def test_pickled_objects_in_arrays_are_refused_and_not_run(tmp_path):
    evil = np.array([Evil(tmp_path / "made_by_the_pickle")] * 4, dtype=object)
    refused(npz(tmp_path / "a", labels=evil), "npz", "not of plain numbers", tmp_path / "out")
    refused(npz(tmp_path / "b", images=evil), "npz", "not of plain numbers", tmp_path / "out")
    folder = tree(tmp_path / "c")
    np.save(folder / "cat" / "a.npy", evil, allow_pickle=True)
    refused(folder, "imagefolder", r"a\.npy: cannot be read: .*Python objects", tmp_path / "out")
    assert not (tmp_path / "made_by_the_pickle").exists()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, None, "CIFAR_ims: must hold a list of tensors, not a tensor"),
        ({"a": IMAGES}, None, "must hold a list of tensors, not a dict"),
        ([], None, "must hold a list of tensors, not an empty list"),
        ([IMAGES, 3], None, "in it is a int"),
        ([IMAGES.double()], None, r"must hold tensors \(n, C, H, W\) float32 or float16, not .* torch.float64"),
        ([IMAGES[0]], None, r"not \(3, 2, 2\)"),
        ([IMAGES[:3]], None, "3 images and 4 labels"),
        ([IMAGES[:1].expand(10**6, 3, 2, 2)], None, "is not contiguous"),
        ([IMAGES.to_sparse()], None, "of layout torch.sparse_coo"),
        ([IMAGES[:2], IMAGES[2:, :1].contiguous()], None, r"images \(3, 2, 2\) and \(1, 2, 2\); all must be alike"),
        ([IMAGES * 1.1], None, r"examples 0 to 3: images must lie in \[0, 1\], not \[0\.0, 1\.07"),
        ([IMAGES / 0.0], None, r"images must lie in \[0, 1\], not \[nan, nan\]"),
        (None, [LABELS - 1], r"labels -1 to 1"),
        (None, [LABELS.float()], r"must hold tensors \(n,\) of whole numbers, not \(4,\) torch.float32"),
        (None, [LABELS + 10**9], "label 1000000002; labels must lie in 0..99999"),
    ],
)
def test_lists_that_are_no_dataset(tmp_path, images, labels, message):
    refused(madry(tmp_path / "a", images, labels), "madry", message, tmp_path / "out")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES.numpy().astype(np.float64)}, r"images must be .*, not \(4, 3, 2, 2\) float64"),
        ({"images": np.asfortranarray(IMAGES.numpy())}, "in C order"),
        ({"images": IMAGES.numpy()[:2]}, "2 images and 4 labels"),
        ({"images": np.zeros((4, 32, 32, 3), np.float32)}, "channels first"),
        ({"images": np.zeros((4, 0, 2, 2), np.float32)}, r"images of shape \(0, 2, 2\)"),
        ({"labels": np.array([0.0, 1.0, 2.0, 0.0])}, r"labels must be \(N,\) whole numbers, not \(4,\) float64"),
        ({"labels": np.zeros(0, np.int64), "images": IMAGES.numpy()[:0]}, "no images in it|0 examples"),
        ({"class_names": np.array(["a", "b"])}, "labels 0 to 2, and 2 classes"),
        ({"class_names": np.array(["a", "b", "a"])}, "all different"),
        ({"class_names": np.array(["a", "b", "x\ny"])}, "must be printable"),
        ({"class_names": np.array([1, 2, 3])}, r"class_names must be \(classes,\) text"),
    ],
)
def test_arrays_that_are_no_dataset(tmp_path, arrays, message):
    refused(npz(tmp_path / "a", **arrays), "npz", message, tmp_path / "out")


def test_archives_that_lie_about_their_size(tmp_path):
    def pack(name: str, header: bytes, content: bytes) -> Path:
        folder = npz(tmp_path / name)
        with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", header + content)
            with archive.open("labels.npy", "w") as file:
                np.save(file, LABELS.numpy())
        return folder

    def header(*shape: int) -> bytes:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()

    short = pack("short", header(4, 3, 2, 2), bytes(47 * 4))
    refused(short, "npz", "ends after 0 of 4 images", tmp_path / "out")
    long = pack("long", header(4, 3, 2, 2), bytes(49 * 4))
    refused(long, "npz", "more bytes than 4 images", tmp_path / "out")
    refused(pack("huge", header(4, 16, 4096, 4096), bytes(10**6)), "npz", "ends after|GiB are free", tmp_path / "out")
    refused(pack("code", b"\x93NUMPY\x01\x00\x10\x00__import__('os')", b""), "npz", "cannot be read", tmp_path / "out")


@pytest.mark.parametrize("form", FORMATS)
def test_a_link_is_refused(store, tmp_path, form):
    export_dataset(store(), form, tmp_path / "a")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "secret")
    refused(tmp_path / "a", form, "link: a link, or no regular file", tmp_path / "out")
    (tmp_path / "a" / "link").unlink()
    os.mkfifo(tmp_path / "a" / "pipe")
    refused(tmp_path / "a", form, "pipe: a link, or no regular file", tmp_path / "out")


@pytest.mark.parametrize("form", FORMATS)
def test_an_altered_export_is_named(store, tmp_path, form):
    """Whether a bit is flipped in the data, in the table or in the manifest: it is not what was exported."""
    dataset = store()
    export_dataset(dataset, form, tmp_path / "a")
    bits = load_dataset(dataset).data().images[1, 0, 1].numpy().tobytes()
    data = next(file for file in sorted((tmp_path / "a").rglob("*")) if file.is_file() and bits in file.read_bytes())
    for name in (data.relative_to(tmp_path / "a"), "examples.parquet", "notbugs.json"):
        file = tmp_path / "a" / name
        content = file.read_bytes()
        place = content.find(bits) if bits in content else len(content) * 2 // 3
        file.write_bytes(content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :])
        refused(tmp_path / "a", form, "altered|cannot be read|must lie|Bad CRC", tmp_path / "out")
        file.write_bytes(content[:place])
        refused(tmp_path / "a", form, "altered|cannot be read|refused|ends after", tmp_path / "out")
        file.write_bytes(content)
    import_dataset(tmp_path / "a", form, tmp_path / "out")


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_there(tmp_path, form):
    (tmp_path / "a").mkdir()
    refused(tmp_path / "a", form, "missing|no images|no .parquet|0 .npz files", tmp_path / "out")
    refused(tmp_path / "b", form, "no such folder", tmp_path / "out")


def test_trees_that_are_no_dataset(tmp_path):
    folder = tree(tmp_path / "a")
    np.save(folder / "owl" / "c.npy", np.zeros((3, 3, 2), np.float32))
    refused(folder, "imagefolder", r"c\.npy: \(3, 3, 2\) torch.float32, and a.npy is \(3, 2, 2\)", tmp_path / "out")
    (folder / "owl" / "c.npy").unlink()
    (folder / "notes.txt").write_text("x")
    refused(folder, "imagefolder", r"notes\.txt: not in a class folder", tmp_path / "out")
    (folder / "notes.txt").rename(folder / "cat" / "notes.txt")
    refused(folder, "imagefolder", r"notes\.txt: not an image", tmp_path / "out")
    (folder / "cat" / "notes.txt").rename(folder / "cat" / "notes.png")
    refused(folder, "imagefolder", "both .npy files and pictures", tmp_path / "out")
    for file in folder.rglob("*.npy"):
        file.unlink()
    refused(folder, "imagefolder", r"notes\.png: cannot be read", tmp_path / "out")


def test_classes_given_must_fit(tmp_path):
    refused(tree(tmp_path / "a"), "imagefolder", "2 names for 3 classes", tmp_path / "out", class_names=["x", "y"])
    refused(npz(tmp_path / "b"), "npz", "labels 0 to 2, and 2 classes", tmp_path / "out", class_names=["x", "y"])
    refused(npz(tmp_path / "c"), "npz", "--split x: only --from huggingface", tmp_path / "out", split="x")


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)])
def test_a_loader_with_workers(tmp_path, context, workers):
    """What is imported is a torch Dataset like any other stored one."""
    import_dataset(npz(tmp_path / "a"), "npz", tmp_path / "out")
    data = load_dataset(tmp_path / "out")
    batches = list(DataLoader(data, batch_size=3, num_workers=workers, multiprocessing_context=context))
    assert [len(labels) for _, labels in batches] == [3, 1]
    assert torch.equal(torch.cat([images for images, _ in batches]), IMAGES)
    assert torch.cat([labels for _, labels in batches]).tolist() == LABELS.tolist()


def test_an_import_can_be_evaluated(tmp_path, new_model, digits):
    from notbugs.cli.one_model import measure_file
    from notbugs.models import save_model

    test = digits[1].select(slice(0, 20))
    model = new_model(test, width=2).eval()
    folder = tmp_path / "test"
    folder.mkdir()
    np.savez(folder / "x.npz", images=test.images.numpy(), labels=test.labels.numpy())
    import_dataset(folder, "npz", tmp_path / "out", class_names=test.class_names)
    save_model(model, tmp_path / "model.safetensors")
    changes = {"headline_eps": 0.3, "eps": [0.3], "num_steps": 2, "headline_num_steps": 2, "level": "quick"}
    found = measure_file(str(tmp_path / "model.safetensors"), tmp_path / "out", changes=changes)
    clean = next(row for row in found["accuracies"] if row["attack"] == "clean" and row["labels"] == "true")
    expected = float((model(test.images).argmax(1) == test.labels).float().mean())
    assert clean["accuracy"] == pytest.approx(expected)


def test_the_manifest_may_not_point_elsewhere(store, tmp_path):
    export_dataset(store(), "npz", tmp_path / "a")
    file = tmp_path / "a" / "notbugs.json"
    manifest = json.loads(file.read_text())
    manifest["shards"][0]["file"] = "../../evil.safetensors"
    file.write_text(json.dumps(manifest))
    refused(tmp_path / "a", "npz", r"notbugs\.json: cannot be read", tmp_path / "out")
