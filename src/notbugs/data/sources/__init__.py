"""Where the base dataset D comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from notbugs.data.images import Images, Subset, make_generator, stratified_split
from notbugs.data.sources.base import Pool, SourceError, limited
from notbugs.data.sources.planted import PlantedSettings, read_planted
from notbugs.runtime.config import Settings
from notbugs.runtime.progress import Track, silent

__all__ = ["DataSettings", "SourceData", "SourceError", "load_source"]

RAW_FOLDER = "data/raw"
"""Where downloads go, relative to the project."""

_READERS = {
    "path": ("folder", "restricted_imagenet"),
    "image_size": ("folder", "restricted_imagenet"),
    "channels": ("folder",),
    "planted": ("planted",),
}
"""Settings that only some sources read."""
_NEEDED = {
    ("folder", "path"): "a directory or archive that holds train/<class>/* and test/<class>/*",
    ("folder", "image_size"): "height and width in pixels",
    ("restricted_imagenet", "path"): "a directory that holds train/<synset>/* and val/<synset>/*",
}
"""What must be given, and what it is."""
_DRAWN = ("digits", "planted")
"""Sources whose values are no bytes."""


class DataSettings(Settings):
    """Settings of the stage `prepare`: section `data` of params.yaml."""

    source: Literal["digits", "cifar10", "folder", "planted", "restricted_imagenet"] = "digits"
    """Where the images come from."""
    path: str | None = Field(default=None, min_length=1)
    """Only folder (directory or .tar, .tar.gz, .tar.bz2, .tar.xz, .zip) and restricted_imagenet (directory): where the
    pictures are, relative to the project; ~ is the home of the user."""
    image_size: int | None = Field(default=None, ge=4, le=1024)
    """Only folder and restricted_imagenet (null: 224): height and width that every picture is scaled and cropped to,
    pixels."""
    channels: Literal["rgb", "grey"] | None = None
    """Only folder: colour or one channel of grey; null is rgb."""
    planted: PlantedSettings | None = None
    """Only planted: the patterns, the noise and the sizes of the world; null takes the defaults."""
    skip_unreadable: bool = False
    """Only folder: leave out files that are no pictures instead of stopping."""
    validation_fraction: float = Field(default=0.1, gt=0.0, le=0.5)
    """Share of every class of the training pool that becomes the validation split."""
    test_fraction: float = Field(default=0.2, gt=0.0, le=0.5)
    """Only digits, which have no test split of their own: share of every class that becomes it."""
    max_train: int | None = Field(default=None, ge=2)
    """At most this many images of train and validation together, drawn by class; null takes all."""
    max_test: int | None = Field(default=None, ge=1)
    """At most this many test images, drawn by class; null takes all."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Precision on disk. uint8 takes a quarter of the space and loses nothing, since pictures come as bytes; not for
    digits and planted, whose values are no bytes."""
    shard_size: int | None = Field(default=None, ge=1)
    """Images in one file of the stored dataset; null takes 16 MiB, at most 8192 images. No result depends on it."""

    @field_validator("path", "image_size", "channels", "planted")
    @classmethod
    def _fits_source(cls, value: Any, info: ValidationInfo) -> Any:
        """Ask for what a source needs, and refuse it where it would be ignored."""
        source, field = info.data.get("source"), str(info.field_name)
        if value is None and (what := _NEEDED.get((str(source), field))):
            raise ValueError(f"given for source: {source} ({what})")
        if source not in (*_READERS[field], None) and value is not None:
            readers = " or ".join(_READERS[field])
            raise ValueError(f"null: only source: {readers} reads it, and source is {source}")
        return value

    @field_validator("dtype")
    @classmethod
    def _loses_nothing(cls, dtype: str, info: ValidationInfo) -> str:
        if dtype == "uint8" and info.data.get("source") in _DRAWN:
            raise ValueError(f"float32 where source is {info.data['source']}: its values are no bytes")
        return dtype


@dataclass(frozen=True)
class SourceData:
    """The base dataset D, split.

    Attributes:
        name: "digits", "cifar10", "planted", "restricted_imagenet" or "folder:<name of the directory or archive>".
        train, validation, test: images, made float32 or (restricted_imagenet) decoded when they are asked for; the
            classes are the same in all three.
        origins: for each split ("train", "validation", "test") the file name of every image, "" where there
            is none.
        source_indices: for each split (N,), int64: place of every image in the source's own order. Train and
            validation share one order; test shares it only for digits and has its own otherwise.
        skipped: files left out because of `skip_unreadable`, and synsets that are not there, with the reason.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    origins: dict[str, list[str]]
    source_indices: dict[str, Tensor]
    skipped: list[str]

    @property
    def splits(self) -> dict[str, Images]:
        """Name of each split -> its images."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def load_source(settings: DataSettings, *, seed: int, root: Path, progress: Track | None = None) -> SourceData:
    """Read the source and split it into train, validation and test, by class.

    Args:
        settings: what to read.
        seed: of the splits and of subsets.
        root: the project's folder, which `path` is relative to and which holds data/raw.
        progress: shows how far it is; None shows nothing.
    Returns: images, float32 in [0, 1] where they are read.
    Raises: SourceError if the source is missing, damaged, or too small for the splits.
    """
    name, pool, test, skipped = _read(settings, seed, root, progress or silent)
    chosen = limited(pool.labels, settings.max_train, key="max_train", seed=seed)
    tested = limited(test.labels, settings.max_test, key="max_test", seed=seed)
    _require_two_of_each(pool.labels[chosen], pool.class_names)
    split_generator = make_generator(seed, "data", "validation")
    kept, held = stratified_split(pool.labels[chosen], settings.validation_fraction, split_generator)
    parts = {"train": (pool, chosen[kept]), "validation": (pool, chosen[held]), "test": (test, tested)}
    images, origins, source_indices = {}, {}, {}
    for split, (pictures, rows) in parts.items():
        images[split] = Subset(pictures, rows)
        origins[split] = [pictures.origins[row] for row in rows.tolist()]
        source_indices[split] = pictures.source_indices[rows]
    return SourceData(name, **images, origins=origins, source_indices=source_indices, skipped=skipped)


def _read(settings: DataSettings, seed: int, root: Path, progress: Track) -> tuple[str, Pool, Pool, list[str]]:
    """Name, training pool, test set, and files skipped. A source is imported only where it is read."""
    if settings.source == "digits":
        from notbugs.data.sources.digits import read_digits

        return "digits", *read_digits(settings.test_fraction, seed=seed), []
    if settings.source == "cifar10":
        from notbugs.data.sources.cifar10 import read_cifar10

        return "cifar10", *read_cifar10(root / RAW_FOLDER), []
    if settings.source == "planted":
        return "planted", *read_planted(settings.planted or PlantedSettings(), seed=seed), []
    if settings.source == "restricted_imagenet":
        from notbugs.data.sources.restricted_imagenet import IMAGE_SIZE, read_restricted_imagenet

        tree, side = _place(root, settings.path or ""), settings.image_size or IMAGE_SIZE
        return settings.source, *read_restricted_imagenet(tree, image_size=side, progress=progress)
    from notbugs.data.sources.archives import collection_name
    from notbugs.data.sources.folder import read_folder

    if settings.path is None or settings.image_size is None:  # the settings were made without validation
        raise SourceError("data.path and data.image_size must be given for source: folder")
    path = _place(root, settings.path)
    if not path.exists():
        raise SourceError(f"params.yaml: data.path = {settings.path!r}: nothing there; must be a directory or archive")
    pool, test, skipped = read_folder(
        path,
        image_size=settings.image_size,
        grey=settings.channels == "grey",
        skip_unreadable=settings.skip_unreadable,
        max_train=settings.max_train,
        max_test=settings.max_test,
        seed=seed,
        progress=progress,
    )
    return f"folder:{collection_name(path)}", pool, test, skipped


def _place(root: Path, path: str) -> Path:
    """Where `data.path` leads: relative to the project, or from the user's home (~), as in a shell."""
    try:
        return root / Path(path).expanduser()
    except RuntimeError:  # ~name of somebody who has no account here
        return root / path


def _require_two_of_each(labels: Tensor, class_names: tuple[str, ...]) -> None:
    counts = torch.bincount(labels, minlength=len(class_names))
    if int(counts.min()) < 2:
        name = class_names[int(counts.argmin())]
        raise SourceError(
            f"class {name} has {int(counts.min())} image to learn from; at least 2 are needed, one of them "
            "for validation: add images or raise data.max_train"
        )
