"""What a run is described by, live or rebuilt: its tags, its params, the datasets that it read."""

import getpass
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from notbugs.runtime.dvc_lock import BACKGROUND_HASH_LIMIT, Content, command_of, contents
from notbugs.runtime.files import read_mapping
from notbugs.runtime.git import git
from notbugs.runtime.nested import flatten
from notbugs.tracking.learning import Model
from notbugs.tracking.shown import dataset_params, shown_params

_WRITTEN = ("dvc.lock", "data", "metrics", "models", "plots", "reports")
NOTE = "mlflow.note.content"
"""Tag of a run that its page shows above everything, as Markdown."""
_SOURCE = "source-"
"""Beginning of the folder of a dataset that one source model made, as in `runtime.config`, which is slow to import."""


def run_tags(stage: str, name: str | None, seed: Any = None) -> dict[str, str]:
    """What was run and by whom, as MLflow's pages show it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for the user
        user = "unknown"
    source = {"mlflow.source.name": command_of(stage, name), "mlflow.source.type": "LOCAL"}
    tags = {"stage": stage, "mlflow.user": user, **source}
    named = {"name": name, "seed": seed}
    return tags | {key: str(value) for key, value in named.items() if value is not None}


def run_params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as MLflow takes them: dotted names, text; lists as JSON."""
    return {
        key: json.dumps(list(value)) if isinstance(value, list | tuple) else str(value)
        for key, value in flatten(settings).items()
    }


def live_params(stage: str, name: str | None, settings: Mapping[str, Any], inputs: Sequence[Path]) -> dict[str, Any]:
    """Params of a run by their names, not yet text; a fit's `dataset.*` are those of what it learns."""
    found = shown_params(stage, name, settings)
    if stage != "fit" or name is None:
        return found
    manifests = (read_mapping(path / "manifest.json") for path in inputs if name in (path.name, path.parent.name))
    about = next((manifest for manifest in manifests if manifest), {})
    return found | dataset_params(name, about.get("settings") or {})


def live_models(params: Mapping[str, Any], inputs: Sequence[Path]) -> list[Model]:
    """The models that a stage trains on everything, as far as its params and inputs tell."""
    names = [path.name.removeprefix(_SOURCE) for path in inputs if path.name.startswith(_SOURCE)]
    sources = [int(name) for name in names if name.isdecimal()] or [-1]
    seeds = params.get("seeds")
    return [Model(source, int(seed)) for source in sources for seed in seeds] if isinstance(seeds, list | tuple) else []


def curve_name(column: str, subset: str, seed: str | int, source_seed: str | int | None) -> str:
    """Name of a learning curve: `train_loss/seed-0`; of a fit on a subset `still_y_train_loss/source-0-seed-1`."""
    source = "" if source_seed is None else f"source-{source_seed}-"
    return f"{'' if subset == 'full' else f'{subset}_'}{column}/{source}seed-{seed}"


def describe_inputs(root: Path, inputs: list[Path]) -> dict[str, Any]:
    """Hash a stage's inputs and ask Git, beside the running stage.

    Args:
        inputs: files and folders; those with a manifest.json are datasets.
    Returns: `tags` and `datasets` of the run.
    """
    there = contents(root, inputs, BACKGROUND_HASH_LIMIT)
    found = [dataset(root / path, path, content) for path, content in there.items()]
    return {
        "tags": git_tags(root) | {f"dvc.dep.{path}": content.label for path, content in there.items()},
        "datasets": [one for one in found if one],
    }


def dataset(path: Path, relative: str, there: Content) -> dict[str, Any] | None:
    """An input as MLflow shows it, without loading it; None if no manifest.json says that it is a dataset."""
    about = read_mapping(path / "manifest.json")
    if not about:
        return None
    return {
        "name": str(about.get("name") or path.name),
        "digest": there.label,
        "path": relative,
        "context": path.name if path.name in ("validation", "test") else "training",
        "profile": {key: about[key] for key in ("num_examples", "image_shape", "source") if key in about},
    }


def git_tags(folder: Path) -> dict[str, str]:
    """Commit, and whether code or settings differ from it; empty without Git, or without a commit.

    What the pipeline itself writes does not count: DVC removes a stage's outputs before it runs.
    """
    commit = git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    paths = [".", *(f":(exclude){path}" for path in _WRITTEN)]
    changes = git(folder, "status", "--porcelain", "--untracked-files=no", "--", *paths)
    dirty = "unknown" if changes is None else str(bool(changes)).lower()
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}
