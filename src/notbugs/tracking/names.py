"""Names as MLflow takes them: of metrics, params and tags, and of the project's models."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

_LONGEST_TAG = 7900
_SEEDS = {"source": "source_seed", "seed": "seed"}


def clean(key: str) -> str:
    """A key of characters that MLflow takes; what it does not take is replaced by `_`."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in key).strip("/.")[:250] or "_"


def clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as MLflow takes them, cut where it would refuse them."""
    return {clean(key): value[:_LONGEST_TAG] for key, value in tags.items()}


def model_name(file: str) -> str:
    """What a model of the project is called, by the file of its weights.

    `standard/0` is models/train/standard/seed-0.safetensors, `det/source-0/seed-1` one in models/fit/det/full,
    `det/still_y/source-0/seed-1` one in models/fit/det/still_y; with others it is the path without suffix.
    """
    parts = PurePosixPath(file).with_suffix("").parts
    if len(parts) == 4 and parts[:2] == ("models", "train"):
        return f"{parts[2]}/{parts[3].removeprefix('seed-')}"
    if len(parts) > 4 and parts[:2] == ("models", "fit"):
        return "/".join((parts[2], *(part for part in parts[3:] if part != "full")))
    return "/".join(parts)


def logged_name(file: str) -> str:
    """The model's name on MLflow's Models tab, which has room for some twenty letters: `standard-0`, `det-0-1`."""
    name = re.sub(r"/(?:source|seed)-(?=\d)", "/", model_name(file).removeprefix("models/"))
    return re.sub(r"[^\w-]+", "-", name)


def kind_name(file: str) -> str:
    """What models that differ in their seeds alone are called: `standard`, `D_det`, `D_det-still_y`."""
    from notbugs.runtime.config import dataset_name

    parts = PurePosixPath(file).with_suffix("").parts
    if len(parts) == 4 and parts[:2] == ("models", "train"):
        return parts[2]
    if len(parts) > 4 and parts[:2] == ("models", "fit"):
        return "-".join((dataset_name(parts[2]), *(parts[3:4] if parts[3] != "full" else ())))
    return re.sub(r"[^\w.-]+", "-", "/".join(parts).removeprefix("models/"))


def model_facts(file: str) -> dict[str, str]:
    """Seed, source seed and subset of a model, by the file of its weights, as params; what it has not is left out."""
    parts = PurePosixPath(file).with_suffix("").parts
    numbered = [re.fullmatch(r"(source|seed)-(\d+)", part) for part in parts]
    found = {_SEEDS[match[1]]: match[2] for match in numbered if match}
    subset = parts[3] if len(parts) > 4 and parts[:2] == ("models", "fit") else ""
    return found | ({"subset": subset} if subset else {})
