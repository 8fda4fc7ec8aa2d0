"""Where the base dataset D comes from."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
)
from torch import Tensor

from notbugs.data.images import Images, Subset, make_generator, stratified_split
from notbugs.data.sources.base import Pool, SourceError, Where, limited, part_of
from notbugs.data.sources.classes import grouped, require_known
from notbugs.data.sources.named import SOURCES, readers
from notbugs.data.sources.planted import PlantedSettings
from notbugs.runtime.config import Settings
from notbugs.runtime.progress import Track, silent

__all__ = ["SOURCES", "DataSettings", "SourceData", "SourceError", "load_source"]


class Splits(Settings):
    """Which parts of a dataset that names them are learnt from and tested on."""

    train: str
    """Becomes train and validation."""
    test: str | None = None
    """null takes `test_fraction` of train."""


class Columns(Settings):
    """Columns of a table."""

    image: str | None = None
    """Pictures or arrays; null takes what is called as usual."""
    label: str | None = None
    """Whole numbers or texts; null takes what is called as usual."""


class DataSettings(Settings):
    """Settings of the stage `prepare`: section `data` of params.yaml."""

    options = frozenset({"splits", "columns", "kwargs", "classes", "superclasses"})
    source: Annotated[str, AfterValidator(SOURCES.check)] = "digits"
    """Where the images come from: a built-in source by its name, torchvision:NAME, huggingface:NAME, or
    package.module:function of your own (docs/sources.md)."""
    path: str | None = Field(default=None, min_length=1)
    """Only folder (directory or .tar, .tar.gz, .tar.bz2, .tar.xz, .zip), restricted_imagenet (directory), npz, stored
    and huggingface (parquet): where the data are, relative to the project; ~ is the home of the user."""
    image_size: int | None = Field(default=None, ge=4, le=1024)
    """Height and width that every picture is scaled and cropped to, pixels. folder must have it, restricted_imagenet
    takes 224 for null; others scale nothing then, and ask for it where pictures are of several sizes."""
    channels: Literal["rgb", "grey"] | None = None
    """Colour or one channel of grey; null is rgb for folder, and elsewhere what the pictures have."""
    planted: PlantedSettings | None = None
    """Only planted: the patterns, the noise and the sizes of the world; null takes the defaults."""
    splits: Splits | None = None
    """Only huggingface, and datasets of torchvision that name their parts: which are train and test."""
    columns: Columns | None = None
    """Only huggingface: the columns of images and labels."""
    kwargs: dict[str, JsonValue] | None = None
    """Further arguments of a source of your own, of torchvision's class, of `datasets.load_dataset`."""
    classes: Annotated[tuple[str, ...], Field(strict=False, min_length=2)] | None = None
    """Only these classes, in this order; null takes all."""
    superclasses: dict[str, Annotated[tuple[str, ...], Field(strict=False, min_length=1)]] | None = None
    """New class -> the old ones in it; old ones that stand in none are left out."""
    skip_unreadable: bool = False
    """Only folder: leave out files that are no pictures instead of stopping."""
    validation_fraction: float = Field(default=0.1, gt=0.0, le=0.5)
    """Share of every class of the training pool that becomes the validation split."""
    test_fraction: float = Field(default=0.2, gt=0.0, le=0.5)
    """Only of sources that have no test split of their own, as digits: share of every class that becomes it."""
    max_train: int | None = Field(default=None, ge=2)
    """At most this many images of train and validation together, drawn by class; null takes all."""
    max_test: int | None = Field(default=None, ge=1)
    """At most this many test images, drawn by class; null takes all."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Precision on disk. uint8 takes a quarter of the space and loses nothing, since pictures come as bytes; not for
    digits, planted and others whose values are no bytes."""
    shard_size: int | None = Field(default=None, ge=1)
    """Images in one file of the stored dataset; null takes 16 MiB, at most 8192 images. No result depends on it."""

    @field_validator("path", "image_size", "channels", "planted", "splits", "columns", "kwargs")
    @classmethod
    def _fits_source(cls, value: Any, info: ValidationInfo) -> Any:
        """Ask for what a source needs, and refuse it where it would be ignored."""
        name, field = info.data.get("source"), str(info.field_name)
        if name is None:  # wrong, which is said already
            return value
        source = SOURCES[name]
        if value is None and (what := source.needs.get(field)):
            raise ValueError(f"given for source: {name} ({what})")
        if value is not None and field not in source.reads:
            raise ValueError(f"null: only source: {readers(field)} reads it, and source is {name}")
        return value

    @field_validator("classes")
    @classmethod
    def _each_once(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None and len(set(classes)) != len(classes):
            raise ValueError("a list of classes, each once")
        return classes

    @field_validator("superclasses")
    @classmethod
    def _in_one_each(
        cls, groups: dict[str, tuple[str, ...]] | None, info: ValidationInfo
    ) -> dict[str, tuple[str, ...]] | None:
        if groups is None:
            return None
        if info.data.get("classes") is not None:
            raise ValueError("null where classes is given: what stands in no superclass is left out anyway")
        named = [name for names in groups.values() for name in names]
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"a mapping in which each class stands once; {twice} stands twice")
        if len(groups) < 2:
            raise ValueError("a mapping of at least 2 superclasses, each to its classes")
        return groups

    @field_validator("dtype")
    @classmethod
    def _loses_nothing(cls, dtype: str, info: ValidationInfo) -> str:
        name = info.data.get("source")
        if dtype == "uint8" and name is not None and SOURCES[name].in_bytes is False:
            raise ValueError(f"float32 where source is {name}: its values are no bytes")
        return dtype

    @property
    def groups(self) -> dict[str, tuple[str, ...]] | None:
        """Each class of D -> the source's classes in it; None where D has the source's own."""
        if self.classes is not None:
            return {name: (name,) for name in self.classes}
        return self.superclasses

    @property
    def wanted_classes(self) -> tuple[str, ...] | None:
        """The source's classes that D is made of; None for all."""
        return None if self.groups is None else tuple(name for names in self.groups.values() for name in names)


@dataclass(frozen=True)
class SourceData:
    """The base dataset D, split.

    Attributes:
        name: of the source, and of the directory or file where it has one: "digits", "folder:pets"; no path.
        train, validation, test: images, made float32 or (restricted_imagenet) decoded when they are asked for; the
            classes are the same in all three.
        origins: for each split ("train", "validation", "test") the file name of every image, "" where there
            is none.
        source_indices: for each split (N,), int64: place of every image in the source's own order. Train and
            validation share one order; test shares it where it was split off, as of digits, and has its own otherwise.
        skipped: what was left out: files because of `skip_unreadable`, synsets and classes without pictures, with the
            reason.
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
    name, pool, test, skipped = _read(settings, Where(root, seed, progress or silent))
    chosen = limited(pool.labels, settings.max_train, key="max_train", seed=seed)
    tested = limited(test.labels, settings.max_test, key="max_test", seed=seed)
    _require_two_of_each(pool.labels[chosen], pool.class_names)
    split_generator = make_generator(seed, "data", "validation")
    kept, held = stratified_split(pool.labels[chosen], settings.validation_fraction, split_generator)
    parts = {"train": (pool, chosen[kept]), "validation": (pool, chosen[held]), "test": (test, tested)}
    images, origins, source_indices = {}, {}, {}
    for split, (pictures, rows) in parts.items():
        names = pictures.origins
        images[split] = Subset(pictures, rows)
        origins[split] = [names[row] for row in rows.tolist()]
        source_indices[split] = pictures.source_indices[rows]
    return SourceData(name, **images, origins=origins, source_indices=source_indices, skipped=skipped)


def _read(settings: DataSettings, where: Where) -> tuple[str, Pool, Pool, list[str]]:
    """Name, training pool, test set, and what was left out; of the classes that are wanted."""
    source = SOURCES[settings.source]
    given = {key: getattr(settings, key) for key in source.reads}
    for key, what in source.needs.items():
        if given[key] is None:  # the settings were made without validation
            raise SourceError(f"params.yaml: data.{key}: must be given for source: {settings.source} ({what})")
    for key in ("splits", "columns"):
        if isinstance(given.get(key), Settings):
            given[key] = {name: value for name, value in given[key].model_dump().items() if value is not None}
    found = source.read(where, **given)
    if settings.dtype == "uint8" and source.in_bytes is None and found.pool.raw(slice(0, 1)).dtype != torch.uint8:
        raise SourceError(
            f"params.yaml: data.dtype = 'uint8': must be float32: the values of {found.name} are no bytes"
        )
    pool, test = found.pool, found.test
    _require_names(pool, found.name)
    if test is not None:
        _require_alike(pool, test, found.name)
    groups = settings.groups
    if groups is not None:
        key = "data.classes" if settings.classes is not None else "data.superclasses"
        require_known([name for names in groups.values() for name in names], pool.class_names, key)
        pool, test = grouped(pool, groups), None if test is None else grouped(test, groups)
    if test is None:
        pool, test = _divided(pool, settings.test_fraction, where.seed)
    if len(test) == 0:
        raise SourceError(f"{found.name}: no test images")
    return found.name, pool, test, found.skipped


def _divided(pool: Pool, test_fraction: float, seed: int) -> tuple[Pool, Pool]:
    """A pool without a test set of its own: what is learnt from, and a share of every class to test on."""
    _require_two_of_each(pool.labels, pool.class_names)
    learnt, tested = stratified_split(pool.labels, test_fraction, make_generator(seed, "data", "test"))
    return part_of(pool, learnt), part_of(pool, tested)


def _require_names(pool: Pool, name: str) -> None:
    """Raises: SourceError unless there are two classes or more, of different names."""
    counts = Counter(pool.class_names)
    if len(pool.class_names) < 2:
        raise SourceError(f"{name}: {len(pool.class_names)} class; at least 2 are needed")
    twice = next((each for each, count in counts.items() if count > 1), None)
    if twice is not None:
        raise SourceError(f"{name}: two classes are called {twice!r}; names must differ")


def _require_alike(pool: Pool, test: Pool, name: str) -> None:
    """Raises: SourceError unless the training pool and the test set have images and classes of one kind."""
    if pool.image_shape != test.image_shape:
        raise SourceError(
            f"{name}: images of train are {pool.image_shape} and of test {test.image_shape}; they must be alike"
        )
    if tuple(pool.class_names) != tuple(test.class_names):
        lacking = sorted(set(pool.class_names) ^ set(test.class_names))
        what = f"only one of them has {', '.join(lacking[:5])}" if lacking else "they stand in another order"
        raise SourceError(f"{name}: the classes of train and of test must be the same; {what}")


def _require_two_of_each(labels: Tensor, class_names: tuple[str, ...]) -> None:
    counts = torch.bincount(labels, minlength=len(class_names))
    if int(counts.min()) < 2:
        name = class_names[int(counts.argmin())]
        raise SourceError(
            f"class {name} has {int(counts.min())} image to learn from; at least 2 are needed, one of them "
            "for validation: add images or raise data.max_train"
        )
