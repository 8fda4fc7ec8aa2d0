"""What a study is, before anything is stored: its settings, its points, and all that its results depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from notbugs.construction.building import construct_settings
from notbugs.construction.settings import ConstructSettings
from notbugs.pipeline.running.context import Context, open_project
from notbugs.pipeline.running.own_code import file_hashes
from notbugs.runtime.config import settings
from notbugs.runtime.dvc_lock import contents
from notbugs.runtime.files import sha256
from notbugs.runtime.nested import flatten
from notbugs.sweeps.recorded import study_key
from notbugs.sweeps.settings import SweepSettings, grid, has_ball, sweep_settings
from notbugs.sweeps.trial import SPLITS, Laboratory
from notbugs.training.settings import FitSettings, TrainSettings


@dataclass(frozen=True)
class Plan:
    """A study as params.yaml and the project's files have it now.

    Attributes:
        lab: the project. name: of the study. settings: its entry in params.yaml.
        choices: the points of a grid; None for samplers.
        record: settings, and hashes of the inputs; two studies of equal records have equal results.
        hashes: DVC's hashes of source models and data, by path.
    """

    lab: Laboratory
    name: str
    settings: SweepSettings
    choices: list[dict[str, Any]] | None
    record: dict[str, Any]
    hashes: dict[str, str]

    @property
    def total(self) -> int:
        """Number of points to be tried."""
        return len(self.choices) if self.choices is not None else int(self.settings.trials or 0)

    @property
    def files_read(self) -> list[str]:
        """Files that its recipes read, as params.yaml names them."""
        return list(self.record.get("files", {}))

    @property
    def key(self) -> str:
        """What names this study among all there ever were."""
        return study_key(self.name, self.record)


def make_plan(project: Context, name: str) -> Plan:
    """The plan of the study `name` in an opened project.

    Raises: ConfigError for impossible settings, SweepError if a source model or a split is missing.
    """
    lab, params = Laboratory.of(project), project.params
    section = sweep_settings(params, name)
    kinds = {kind: construct_settings(params["construct"][kind], f"construct.{kind}") for kind in section.kinds}
    files: set[Path] = set()
    sources: dict[str, dict[str, list[list[str]]]] = {}
    for kind, recipe in kinds.items():
        sources[kind] = {}
        for model, pairs in _sources(lab, section, kind, recipe).items():
            files.update(*pairs)
            sources[kind][model] = [[source.stem, judge.stem] for source, judge in pairs]
    record = {
        "sweep": section.model_dump(mode="json", exclude={"retries", "keep_datasets"}),
        "construct": {kind: _constant(params, section, kind, recipe) for kind, recipe in kinds.items()},
        "fit": {
            kind: settings(params, f"fit.{kind}", FitSettings).model_dump(
                mode="json", exclude={"seeds", "still_y", "baseline"}
            )
            for kind in kinds
        },
        "environment": lab.environment,
        **file_hashes(project, [file for recipe in kinds.values() for file in recipe.files]),
        "sources": sources,
        "source_models": {file.relative_to(project.root).as_posix(): sha256(file) for file in sorted(files)},
    }
    if section.source_eps is not None:
        robust = settings(params, "train.robust", TrainSettings).model_dump(mode="json")
        attack = robust["attack"]
        eps, step_size = attack.pop("eps"), attack["step_size"]
        attack["step_size"] = None if step_size is None else round(step_size / eps, 9)  # of eps
        record["train"] = robust
    inputs = [*sorted(files), *(project.dataset(split) for split in SPLITS)]
    return Plan(
        lab,
        name,
        section,
        grid(params, section) if section.sampler == "grid" else None,
        record,
        {path: there.label for path, there in contents(project.root, inputs).items()},
    )


def plan_now(root: Path, name: str, section: Mapping[str, Any]) -> Plan:
    """The plan that a study of these settings, which params.yaml may not have any more, has now."""
    project = open_project(root)
    return make_plan(replace(project, params={**project.params, "sweep": {name: section}}), name)


def _sources(
    lab: Laboratory, section: SweepSettings, kind: str, recipe: ConstructSettings
) -> dict[str, list[tuple[Path, Path]]]:
    """Kind of source model -> files of source model and judge behind each fit of a point, in the order of the seeds."""
    found: dict[str, list[tuple[Path, Path]]] = {}
    for model in (recipe.model,) if section.source_eps is None else ("standard", "robust"):
        seeds = [lab.source_seed(kind, model, recipe.source_seeds, seed) for seed in section.seeds]
        found[model] = [(lab.trained(model, seed), lab.judge(model, seed)) for seed in seeds]
    return found


def _constant(params: Mapping[str, Any], section: SweepSettings, kind: str, recipe: Any) -> dict[str, Any]:
    """What of a recipe is the same at every point; so applying a point leaves the study what it is."""
    constant: dict[str, Any] = recipe.model_dump(mode="json", exclude={"eps", "num_steps", "step_size", "source_seeds"})
    if not has_ball(params, kind) and section.step_size is None:
        constant["path_length"] = round(recipe.num_steps * recipe.step_size, 6)
    if section.source_eps is not None:
        del constant["model"]
    return constant


def difference(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records: "sweep.eps: [0.5] -> [0.5, 1.0]"; hashes are shortened."""
    old, new = flatten(stored), flatten(now)
    keys = dict.fromkeys([*old, *new])
    return [f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}" for key in keys if old.get(key) != new.get(key)]


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:8]
    return "nothing" if value is None else str(value)
