"""`notbugs register`: a model of the project in MLflow's registry, under a name and an alias."""

import re
from collections import defaultdict
from pathlib import Path

from notbugs.runtime.errors import UserError, meant
from notbugs.tracking import location
from notbugs.tracking.names import kind_name, model_name
from notbugs.tracking.reconcile import experiment_name
from notbugs.tracking.store import TrackingError, open_store

_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)


class RegisterError(UserError):
    """A model cannot be registered."""


def register(root: Path, name: str, alias: str | None = None, registered: str | None = None) -> str:
    """Register a model of the project in MLflow; the same again changes nothing.

    A model that MLflow lacks is logged first.

    Args:
        name: such as `standard/0`, `det/source-0/seed-1`, or a path under models/.
        alias: that the model gets; it is taken from another version of the registered model.
        registered: name of the registered model; None takes <experiment>-<kind>, such as `digits-standard` or
            `digits-D_det`, so that the seeds of a kind are its versions.
    Returns: what was done, in a line.
    Raises: RegisterError for a model that is not there, an impossible alias, or where MLflow cannot be used.
    """
    if alias is not None and (not _ALIAS.fullmatch(alias) or _RESERVED.fullmatch(alias)):
        raise RegisterError(
            f"--alias {alias}: must be of letters, digits, _ and -, and neither `latest` nor v and a number"
        )
    file = _file(root, name)
    called = model_name(file)
    experiment = experiment_name(root)
    target = registered or re.sub(r"[^\w.-]+", "-", f"{experiment}-{kind_name(file)}")
    if not target.strip() or set(target) & set("/:"):
        raise RegisterError(f"--as {target}: must be a name without / and :")
    project = location.anchor(root)
    uri = location.tracking_uri(project)
    reason = location.problem(uri)
    if reason:
        raise RegisterError(f"MLflow at {location.shown(uri)}: {reason}")
    try:
        with open_store(uri, experiment, project) as store:
            address = _trained_by(file)
            trained = store.trained(address)[:1] if address else []
            run = (trained[0].run_id, trained[0].params) if trained else None
            version, is_new, before = store.register(root / file, file, address, target, alias, run)
    except TrackingError as error:
        raise RegisterError(str(error)) from None
    done = f"registered {called} as" if is_new else f"{called} is"
    line = f"{done} {target} version {version}{'' if is_new else ' already'}"
    if alias is None:
        return f"{line}: models:/{target}/{version}"
    moved = f", before version {before}" if before not in (None, version) else ""
    return f"{line}, alias {alias}{moved}: models:/{target}@{alias}"


def _file(root: Path, name: str) -> str:
    """File of a model in the project, by its name or a path.

    Raises: RegisterError naming what is there.
    """
    files = (file.relative_to(root).as_posix() for file in sorted((root / "models").rglob("*.safetensors")))
    there = {model_name(file): file for file in files if (root / file).with_suffix(".json").is_file()}
    if not there:
        raise RegisterError(f"{name}: no models in {root / 'models'}; `dvc repro` trains them, `dvc pull` fetches them")
    path = Path(name)
    place = (path.relative_to(root) if path.is_absolute() and path.is_relative_to(root) else path).as_posix()
    for called, file in there.items():
        if name == called or place in (file, file.removesuffix(".safetensors")):
            return file
    kinds: dict[str, list[str]] = defaultdict(list)
    for called, file in there.items():
        kinds[kind_name(file)].append(called)
    listed = ", ".join(
        names[0] if len(names) == 1 else f"{names[0]} (first of {len(names)})" for names in kinds.values()
    )
    raise RegisterError(f"{name}: no such model here{meant(name, there)}; there is {listed}")


def _trained_by(file: str) -> str:
    """The stage that trained a model, such as "fit@det"; empty for a file of another place."""
    parts = file.split("/")
    return f"{parts[1]}@{parts[2]}" if parts[1] in ("train", "fit") and len(parts) > 3 else ""
