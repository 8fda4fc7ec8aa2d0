"""One execution of a stage: its settings, inputs and outputs in a project, tracked, and its unfinished work kept."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Any

import torch

from notbugs.data.store import load_dataset
from notbugs.models import ModelSettings
from notbugs.models.missing import no_model
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.own_code import modules_named, require_watched
from notbugs.pipeline.running.processes import in_processes
from notbugs.pipeline.running.stage import Stage
from notbugs.pipeline.running.unused import remove_unused
from notbugs.runtime.cache import resumable_folder
from notbugs.runtime.config import runtime, settings
from notbugs.runtime.distribution import world_size
from notbugs.runtime.errors import printable
from notbugs.runtime.files import sha256
from notbugs.runtime.imports import made_with
from notbugs.tracking import Run, live_run

WHOLE_FOLDERS = {"data", "models/fit", "metrics"}
"""Inputs that hold what stages wrote for several names: nothing may lie there of names that are in use no more."""


def perform(stage: Stage, project: Context, name: str | None = None) -> None:
    """Do the work of a stage, in as many processes as it is made for.

    Raises: ConfigError, and what the work raises.
    """

    def work() -> None:
        """Here, or as one of several processes."""
        settings = stage.read_settings(project.params, name)
        require_watched(project.root, project.params, stage, name)
        if WHOLE_FOLDERS & set(stage.inputs):
            remove_unused(project)
        resolve_name(stage.work)(Job(stage, project, name, settings))

    if stage.processes:
        in_processes(project, work, stage.name, *([name] if name else []))
    else:
        work()


@dataclass(frozen=True)
class Job:
    """A stage, or one of its entries, in a project.

    Attributes:
        settings: of its section.
    """

    stage: Stage
    project: Context
    name: str | None
    settings: Any

    @property
    def title(self) -> str:
        """Its command: "train standard"."""
        return f"{self.stage.name} {self.name}" if self.name else self.stage.name

    def path(self, declared: str) -> Path:
        """Where a declared input or output is."""
        return self.project.root / declared.format(name=self.name)

    @property
    def outputs(self) -> list[Path]:
        """What it writes besides the metrics file."""
        return [self.path(output) for output in self.stage.outputs]

    @property
    def metrics_file(self) -> Path:
        """Where its numbers go."""
        return self.path(self.stage.metrics_file)

    def say(self, message: str) -> None:
        """One line for the person who watches, after the stage's and the entry's name."""
        self.project.say(f"{self.title}: {printable(message)}".replace("\n", "\\n"))

    @contextmanager
    def begin(
        self, inputs: Sequence[Path] | None = None, params: Mapping[str, Any] | None = None, **more: Any
    ) -> Iterator[tuple[Run, Path]]:
        """Track the block as one run in MLflow, and keep its unfinished work until it ends well.

        Args:
            inputs: datasets (folders) and models (files) that are read; None for all that the stage declares.
            params: sections handed to tracking beside its own, `model` if that counts, and what all stages share.
            more: what the work depends on besides these, as JSON.
        Gives: the run, and the folder of the unfinished work.
        """
        stage, project = self.stage, self.project
        inputs = [self.path(path) for path in stage.inputs] if inputs is None else inputs
        made_of = {**self._settings_as_json(), **more}
        others = {key: value for key, value in (params or {}).items() if isinstance(value, Mapping)}
        metrics_file = [self.metrics_file] if stage.metrics_file else []
        with ExitStack() as stack:
            run = stack.enter_context(
                live_run(
                    stage.name,
                    self.name,
                    root=project.root,
                    experiment=project.runtime.experiment,
                    params={**others, **tracked_settings(stage, project.params, self.name, self.settings)},
                    seed=project.seed,
                    inputs=inputs,
                    outputs=[*self.outputs, *metrics_file],
                    metrics_file=metrics_file[0] if metrics_file else None,
                )
            )
            if stage.resumes:
                made_from = self._made_from(made_of, inputs)
                title = f"{stage.name}-{self.name or 'all'}"
                work = stack.enter_context(resumable_folder(project.root, title, made_from))
            else:
                work = Path(stack.enter_context(TemporaryDirectory()))
            yield run, work

    def _settings_as_json(self) -> dict[str, Any]:
        """The sections that the stage is configured by."""
        return _sections(self.stage, self.project.params, self.name, self.settings)

    def _made_from(self, settings: Mapping[str, Any], inputs: Sequence[Path]) -> dict[str, Any]:
        """All that the work depends on."""
        project = self.project
        return {
            "stage": self.stage.name,
            "name": self.name,
            "settings": settings,
            "seed": project.seed,
            "num_threads": project.runtime.num_threads,
            "engine": project.runtime.engine,
            "precision": project.precision,
            "processes": world_size() if "processes" in self.stage.shared else "any number",
            "device": torch.cuda.get_device_name() if project.device.type == "cuda" else project.device.type,
            "inputs": {path.relative_to(project.root).as_posix(): _content(path) for path in inputs},
            **made_with(*self.stage.modules, *modules_named(project.params, self.stage.keys(self.name))),
        }


def tracked_settings(
    stage: Stage, params: Mapping[str, Any], name: str | None = None, own: Any = None
) -> dict[str, Any]:
    """What tracking is told of a stage's settings, whether it runs or is found in dvc.lock: nested, nothing left out.

    Args:
        params: params.yaml, or the part of it that dvc.lock has.
        own: the stage's settings, if they were read already.
    Raises: ConfigError for settings of another version.
    """
    own = stage.read_settings(params, name) if own is None else own
    shared = runtime(params).model_dump(mode="json")
    given = {key: getattr(own, key, None) for key in ("title", "colour")}  # no work depends on these: not in the dump
    titles = {key: value for key, value in given.items() if isinstance(value, str)}
    sections = _sections(stage, params, name, own)
    section, _, entry = stage.key(name).partition(".")
    (sections[section][entry] if entry else sections[section]).update(titles)
    return {**{key: shared[key] for key in stage.shared if key in shared}, **sections}


def _sections(stage: Stage, params: Mapping[str, Any], name: str | None, own: Any) -> dict[str, Any]:
    """The sections that a stage is configured by, as JSON."""
    section, _, entry = stage.key(name).partition(".")
    dump = own.model_dump(mode="json")
    found = {section: {entry: dump} if entry else dump}
    if "model" in stage.reads:
        found["model"] = settings(params, "model", ModelSettings).model_dump(mode="json")
    return found


def _content(path: Path) -> str:
    """SHA-256 of a model, or of a dataset's manifest.

    Raises: ModelError, DatasetError if it is not there.
    """
    if path.suffix:
        if not path.exists():
            raise no_model(path)
        return sha256(path)
    load_dataset(path, verify=False)
    return sha256(path / "manifest.json")
