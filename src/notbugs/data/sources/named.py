"""The sources by name. A reader is imported when it reads."""

from functools import partial

from notbugs.data.sources.base import Found, Source, Where
from notbugs.data.sources.own import READS as OWN_READS
from notbugs.data.sources.own import of_function
from notbugs.data.sources.planted import PlantedSettings, read_planted
from notbugs.runtime.registry import Registry, RegistryError

HUB_READS = ("splits", "columns", "image_size", "channels", "kwargs")
TORCHVISION_READS = ("splits", "image_size", "channels", "kwargs")
"""Settings that datasets of a library read."""


def _digits(where: Where, *, test_fraction: float) -> Found:
    from notbugs.data.sources.digits import read_digits

    return Found("digits", *read_digits(test_fraction, seed=where.seed))


def _cifar10(where: Where) -> Found:
    from notbugs.data.sources.cifar10 import read_cifar10

    return Found("cifar10", *read_cifar10(where.raw))


def _planted(where: Where, *, planted: PlantedSettings | None) -> Found:
    return Found("planted", *read_planted(planted or PlantedSettings(), seed=where.seed))


def _restricted_imagenet(where: Where, *, path: str, image_size: int | None) -> Found:
    from notbugs.data.sources.restricted_imagenet import IMAGE_SIZE, read_restricted_imagenet

    tree, side = where.place(path), image_size or IMAGE_SIZE
    return Found("restricted_imagenet", *read_restricted_imagenet(tree, image_size=side, progress=where.progress))


def _folder(
    where: Where,
    *,
    path: str,
    image_size: int,
    channels: str | None,
    skip_unreadable: bool,
    max_train: int | None,
    max_test: int | None,
    wanted_classes: tuple[str, ...] | None,
) -> Found:
    from notbugs.data.sources.archives import collection_name
    from notbugs.data.sources.folder import read_folder

    place = where.existing(path, "a directory or archive")
    pool, test, skipped = read_folder(
        place,
        image_size=image_size,
        grey=channels == "grey",
        skip_unreadable=skip_unreadable,
        max_train=max_train if wanted_classes is None else None,  # a choice by class comes after that of the classes
        max_test=max_test if wanted_classes is None else None,
        classes=wanted_classes,
        seed=where.seed,
        progress=where.progress,
    )
    return Found(f"folder:{collection_name(place)}", pool, test, skipped)


def _npz(where: Where, *, path: str) -> Found:
    from notbugs.data.sources.arrays import read_npz

    return read_npz(where, path=path)


def _stored(where: Where, *, path: str) -> Found:
    from notbugs.data.sources.stored import read_stored

    return read_stored(where, path=path)


def _local_parquet(where: Where, **given: object) -> Found:
    from notbugs.data.sources.huggingface import read_local

    return read_local(where, **given)  # type: ignore[arg-type]


def _of_hub(name: str) -> Source:
    """A dataset of Hugging Face's hub as a source; whether it is there is only known when it is read.

    Raises: RegistryError if `datasets` is not installed.
    """
    try:
        import datasets  # noqa: F401
    except ImportError:
        raise RegistryError(
            "of an installed library: datasets is not; `pip install 'notbugs[huggingface]'` installs it (local parquet "
            "files need none: source: huggingface with data.path)"
        ) from None
    return Source(partial(_from_hub, name), HUB_READS)


def _from_hub(name: str, where: Where, **given: object) -> Found:
    from notbugs.data.sources.huggingface import read_hub

    return read_hub(name, where, **given)  # type: ignore[arg-type]


def _of_torchvision(name: str) -> Source:
    """A dataset of torchvision as a source.

    Raises: RegistryError if it has none of that name that is one of classification.
    """
    from notbugs.data.sources.of_torchvision import read_torchvision, require_known

    require_known(name)
    return Source(partial(read_torchvision, name), TORCHVISION_READS)


_FOLDER = "a directory or archive that holds train/<class>/* and test/<class>/*"
_TREE = "a directory that holds train/<synset>/* and val/<synset>/*"
_BUILT_IN = {
    "digits": Source(_digits, ("test_fraction",), in_bytes=False),
    "cifar10": Source(_cifar10),
    "folder": Source(
        _folder,
        ("path", "image_size", "channels", "skip_unreadable", "max_train", "max_test", "wanted_classes"),
        needs={"path": _FOLDER, "image_size": "height and width in pixels"},
    ),
    "planted": Source(_planted, ("planted",), in_bytes=False),
    "restricted_imagenet": Source(_restricted_imagenet, ("path", "image_size"), needs={"path": _TREE}),
    "npz": Source(_npz, ("path",), needs={"path": "an .npz archive"}, in_bytes=None),
    "stored": Source(
        _stored,
        ("path",),
        needs={"path": "a stored dataset, or a folder that holds two: train/ and test/"},
        in_bytes=None,
    ),
    "huggingface": Source(
        _local_parquet,
        ("path", "splits", "columns", "image_size", "channels"),
        needs={"path": "a parquet file, or a folder of them"},
        in_bytes=None,
    ),
}
SOURCES = Registry(
    "sources", _BUILT_IN, libraries={"torchvision": _of_torchvision, "huggingface": _of_hub}, adapt=of_function
)
"""The sources by name."""
_OTHERS = {"torchvision:NAME": TORCHVISION_READS, "huggingface:NAME": HUB_READS, "your own": OWN_READS}


def readers(key: str) -> str:
    """The sources that read a setting, for an error."""
    found = [name for name in SOURCES if key in SOURCES.built_in[name].reads]
    found += [name for name, reads in _OTHERS.items() if key in reads]
    return " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
