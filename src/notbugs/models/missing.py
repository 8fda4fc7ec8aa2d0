"""What is said of a model that is not there, or not whole: its file, and the command that makes it."""

from pathlib import Path

from notbugs.models.foreign import ModelError


def no_model(path: Path) -> ModelError:
    """The error for a model that is not there: "models/train/standard/seed-0.safetensors: no model there; ...".

    Args:
        path: the .safetensors file, or the .json that describes it.
    """
    weights = path.with_suffix(".safetensors")
    if path.suffix == ".json" and weights.exists():
        return ModelError(f"{weights}: its description {path.name} is not beside it; {remedy(path)}")
    return ModelError(f"{weights}: no model there; {remedy(path)}")


def remedy(path: Path) -> str:
    """What makes a model of the pipeline, by its place: "`dvc repro fit@det` makes it"; of others, where to look."""
    folders = path.parts[:-1]
    for models, stage, name in zip(folders, folders[1:], folders[2:], strict=False):
        if models == "models" and stage in ("train", "fit"):
            return f"`dvc repro {stage}@{name}` makes it"
    return "those that `dvc repro` makes are under models/train and models/fit"
