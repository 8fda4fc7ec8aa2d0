"""What a study is, before anything is stored: its settings, its points, and all that its results depend on."""

from collections.abc import Iterator, Mapping
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
from notbugs.sweeps.axes import changed_params, ends
from notbugs.sweeps.points import grid
from notbugs.sweeps.recorded import study_key
from notbugs.sweeps.settings import RUNG_PRUNERS, SweepSettings, at_first, has_ball, source_names, sweep_settings
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
    base = at_first(params, section)
    kinds = {kind: construct_settings(base["construct"][kind], f"construct.{kind}") for kind in section.kinds}
    files: set[Path] = set()
    sources: dict[str, dict[str, list[list[str]]]] = {}
    for kind, recipe in kinds.items():
        sources[kind] = {}
        for title, members, judge in _sources(lab, section, kind, recipe):
            seeds = [f"seed-{seed}" for _, seed in members]
            stems = seeds if recipe.ensemble is None else [f"{model}/seed-{seed}" for model, seed in members]
            sources[kind].setdefault(title, []).append([", ".join(stems), f"seed-{judge}"])
            needed = [one for one in [*members, ("robust", judge)] if not _is_retrained(section, one[0])]
            files.update(lab.trained(*one) for one in needed)
    record = {
        "sweep": section.model_dump(mode="json", exclude={"retries", "keep_datasets"}) | _rungs(section),
        "construct": {kind: _constant(base, section, kind, recipe) for kind, recipe in kinds.items()},
        "fit": {
            kind: settings(base, f"fit.{kind}", FitSettings).model_dump(
                mode="json", exclude={"seeds", "still_y", "baseline"}
            )
            for kind in kinds
        },
        "environment": lab.environment_of(base, f"sweep.{name}.axes") if section.axes else lab.environment,
        **file_hashes(project, [file for kind in kinds for file in _files(base, section, kind)]),
        "sources": sources,
        "source_models": {file.relative_to(project.root).as_posix(): sha256(file) for file in sorted(files)},
    }
    if section.source_eps is not None:
        robust = settings(params, "train.robust", TrainSettings).model_dump(mode="json")
        attack = robust["attack"]
        eps, step_size = attack.pop("eps"), attack["step_size"]
        attack["step_size"] = None if step_size is None else round(step_size / eps, 9)  # of eps
        record["train"] = robust
    trained = sorted({model for kind in kinds for model in (*source_names(params, section, kind), "robust")})
    for model in (model for model in trained if _is_retrained(section, model)):
        own = settings(base, f"train.{model}", TrainSettings).model_dump(mode="json", exclude={"seeds"})
        record.setdefault("retrained", {})[model] = own
    inputs = [*sorted(files), *(project.dataset(split) for split in SPLITS)]
    return Plan(
        lab,
        name,
        section,
        grid(params, section) if section.sampler == "grid" else None,
        record,
        {path: there.label for path, there in contents(project.root, inputs).items()},
    )


def _rungs(section: SweepSettings) -> dict[str, Any]:
    """What decides who is pruned when; written at its defaults, too, for these were others once."""
    has_rungs = section.pruner in RUNG_PRUNERS
    return {name: getattr(section, name) for name in ("reduction_factor", "min_epochs")} if has_rungs else {}


def plan_now(root: Path, name: str, section: Mapping[str, Any]) -> Plan:
    """The plan that a study of these settings, which params.yaml may not have any more, has now."""
    project = open_project(root)
    return make_plan(replace(project, params={**project.params, "sweep": {name: section}}), name)


def _sources(
    lab: Laboratory, section: SweepSettings, kind: str, recipe: ConstructSettings
) -> Iterator[tuple[str, list[tuple[str, int]], int]]:
    """Kind of source model, source models and judge's seed behind each fit of a point, in the order of the seeds."""
    if recipe.ensemble is not None:
        recipes = {"ensemble": recipe}
    else:
        names = source_names(lab.project.params, section, kind)
        recipes = {name: recipe.model_copy(update={"model": name}) for name in names}
    for title, one in recipes.items():
        for seed in section.seeds:
            members = lab.members(kind, one, seed)
            yield title, members, lab.judge_seed(members)


def _is_retrained(section: SweepSettings, name: str) -> bool:
    """Whether a model trained on D is another one at each point."""
    return any(leaf.startswith(("model.", f"train.{name}.")) for leaf in section.axes)


def _files(base: Mapping[str, Any], section: SweepSettings, kind: str) -> Iterator[str]:
    """Files that the recipe reads at one point or another."""
    own = f"construct.{kind}"
    axes = {leaf: axis for leaf, axis in section.axes.items() if leaf.startswith(f"{own}.")}
    for params in (base, *(changed_params(base, {leaf: value}) for leaf in axes for value in ends(axes[leaf]))):
        yield from construct_settings(params["construct"][kind], own).files


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
