"""Where the base dataset D comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from notbugs.config import Settings
from notbugs.images import ImageData, make_generator, stratified_split
from notbugs.progress import Track, silent
from notbugs.sources.base import Pictures, SourceError
from notbugs.sources.planted import PlantedSettings, read_planted

__all__ = ["DataSettings", "SourceData", "SourceError", "load_source"]

RAW_FOLDER = "data/raw"
"""Where downloads go, relative to the project."""

_FOLDER_NEEDS = {
    "path": "given for source: folder (a directory or archive that holds train/<class>/* and test/<class>/*)",
    "image_size": "given for source: folder (height and width in pixels)",
}


class DataSettings(Settings):
    """Settings of the stage `prepare`: section `data` of params.yaml."""

    source: Literal["digits", "cifar10", "folder", "planted"] = "digits"
    """Where the images come from."""
    path: str | None = Field(default=None, min_length=1)
    """Only folder: directory or .tar, .tar.gz, .tar.bz2, .tar.xz, .zip, relative to the project."""
    image_size: int | None = Field(default=None, ge=4, le=1024)
    """Only folder: height and width that every picture is scaled and cropped to, pixels."""
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
    shard_size: int = Field(default=8192, ge=1)
    """Images in one file of the stored dataset; no result depends on it."""

    @field_validator("path", "image_size", "channels", "planted")
    @classmethod
    def _fits_source(cls, value: Any, info: ValidationInfo) -> Any:
        """Ask for what a source needs, and refuse it where it would be ignored."""
        source, field = info.data.get("source"), info.field_name
        reader = "planted" if field == "planted" else "folder"
        if source == "folder" and value is None and field in _FOLDER_NEEDS:
            raise ValueError(_FOLDER_NEEDS[field])
        if source not in (reader, None) and value is not None:
            raise ValueError(f"null: only source: {reader} reads it, and source is {source}")
        return value


@dataclass(frozen=True)
class SourceData:
    """The base dataset D, split.

    Attributes:
        name: "digits", "cifar10", "planted" or "folder:<name of the directory or archive>".
        train, validation, test: images; the classes are the same in all three.
        origins: for each split ("train", "validation", "test") the file name of every image, "" where there
            is none.
        source_indices: for each split (N,), int64: place of every image in the source's own order. Train and
            validation share one order; test shares it only for digits and has its own otherwise.
        skipped: files left out because of `skip_unreadable`, with the reason.
    """

    name: str
    train: ImageData
    validation: ImageData
    test: ImageData
    origins: dict[str, list[str]]
    source_indices: dict[str, Tensor]
    skipped: list[str]


def load_source(settings: DataSettings, *, seed: int, root: Path, progress: Track | None = None) -> SourceData:
    """Read the source and split it into train, validation and test, by class.

    Args:
        settings: what to read.
        seed: of the splits and of subsets.
        root: the project's folder, which `path` is relative to and which holds data/raw.
        progress: shows how far it is; None shows nothing.
    Returns: images as float32 in [0, 1].
    Raises: SourceError if the source is missing, damaged, or too small for the splits.
    """
    name, pool, test, skipped = _read(settings, seed, root, progress or silent)
    _require_two_of_each(pool)
    split_generator = make_generator(seed, "data", "validation")
    kept, held = stratified_split(pool.labels, settings.validation_fraction, split_generator)
    whole = torch.arange(len(test.labels))
    parts = {"train": (pool, kept), "validation": (pool, held), "test": (test, whole)}
    images = {split: pictures.images(indices) for split, (pictures, indices) in parts.items()}
    return SourceData(
        name=name,
        train=images["train"],
        validation=images["validation"],
        test=images["test"],
        origins={split: [part.origins[i] for i in indices.tolist()] for split, (part, indices) in parts.items()},
        source_indices={split: part.source_indices[indices] for split, (part, indices) in parts.items()},
        skipped=skipped,
    )


def _read(settings: DataSettings, seed: int, root: Path, progress: Track) -> tuple[str, Pictures, Pictures, list[str]]:
    """Name, training pool, test set, and files skipped. A source is imported only where it is read."""
    limits: dict[str, Any] = {"max_train": settings.max_train, "max_test": settings.max_test, "seed": seed}
    if settings.source == "digits":
        from notbugs.sources.digits import read_digits

        return "digits", *read_digits(settings.test_fraction, **limits), []
    if settings.source == "cifar10":
        from notbugs.sources.cifar10 import read_cifar10

        return "cifar10", *read_cifar10(root / RAW_FOLDER, **limits), []
    if settings.source == "planted":
        return "planted", *read_planted(settings.planted or PlantedSettings(), **limits), []
    from notbugs.sources.archives import collection_name
    from notbugs.sources.folder import read_folder

    if settings.path is None or settings.image_size is None:  # the settings were made without validation
        raise SourceError("data.path and data.image_size must be given for source: folder")
    path = root / settings.path
    if not path.exists():
        raise SourceError(f"params.yaml: data.path = {settings.path!r}: nothing there; must be a directory or archive")
    pool, test, skipped = read_folder(
        path,
        image_size=settings.image_size,
        grey=settings.channels == "grey",
        skip_unreadable=settings.skip_unreadable,
        progress=progress,
        **limits,
    )
    return f"folder:{collection_name(path)}", pool, test, skipped


def _require_two_of_each(pool: Pictures) -> None:
    counts = torch.bincount(pool.labels, minlength=len(pool.class_names))
    if int(counts.min()) < 2:
        name = pool.class_names[int(counts.argmin())]
        raise SourceError(
            f"class {name} has {int(counts.min())} image to learn from; at least 2 are needed, one of them "
            "for validation: add images or raise data.max_train"
        )
