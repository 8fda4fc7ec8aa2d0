"""One trial: construct at a point with the pipeline's source models, fit, measure. Knows nothing of Optuna.

Fit k of a point learns from the dataset of source model k, where there is one: the spread over a point's fits is that
over source models and fits together.

The random streams are those of the stages `train`, `construct` and `fit`, so that `dvc repro` with the point in
params.yaml makes the same dataset, the same models and the same metrics.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from notbugs.attacks.engine import pays_to_compile
from notbugs.construction.building import construct as build
from notbugs.construction.building import construct_settings, recipe_generator
from notbugs.construction.describe import describe, summarise
from notbugs.construction.recipe import Constructed
from notbugs.construction.settings import ConstructSettings
from notbugs.data.images import ImageData, Images, make_generator
from notbugs.data.store import load_dataset, save_dataset
from notbugs.evaluation.accuracy import Measurement, measure
from notbugs.evaluation.levels import RANDOM_STARTS, SuiteSettings
from notbugs.evaluation.neighbours import neighbour_reference, own_neighbours
from notbugs.evaluation.suite import audit
from notbugs.models import load_model
from notbugs.pipeline.construct import attacked, write_samples
from notbugs.pipeline.origins import ensemble_members
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.models import construction_seeds, judge_seed, source_seeds
from notbugs.pipeline.running.own_code import file_hashes, modules_named
from notbugs.pipeline.train import Lesson, learn, summary
from notbugs.runtime.cache import ResultCache, digest, work_folder
from notbugs.runtime.config import dataset_name, settings, value_at
from notbugs.runtime.files import sha256, whole_file
from notbugs.runtime.imports import made_with
from notbugs.runtime.progress import silent
from notbugs.sweeps.axes import changed_params
from notbugs.sweeps.points import Point, changes
from notbugs.sweeps.settings import SweepError
from notbugs.training.checkpoints import EpochRecord
from notbugs.training.settings import FitSettings, TrainSettings

SPLITS = ("train", "validation", "test")
OnEpoch = Callable[[int, int, Mapping[str, float | None]], None]
"""Called with seed, epoch and the values of the learning curves."""


@dataclass(frozen=True)
class Laboratory:
    """What all trials of a project share; they show no progress."""

    project: Context

    @classmethod
    def of(cls, project: Context) -> "Laboratory":
        """The laboratory of an opened project.

        Raises: SweepError naming what is missing, and the command that makes it.
        """
        for split in SPLITS:
            if not (project.dataset(split) / "manifest.json").exists():
                raise SweepError(f"{project.dataset(split)}: no dataset there; `dvc repro prepare` makes it")
        return cls(replace(project, progress=silent))

    @cached_property
    def splits(self) -> dict[str, ImageData]:
        """D: train, validation and test."""
        return {name: load_dataset(self.project.dataset(name)).data() for name in SPLITS}

    @property
    def results(self) -> ResultCache:
        """What fits of any study were measured."""
        return ResultCache(work_folder(self.project.root, "sweeps") / "results")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What every result depends on besides its point, seed and source model."""
        return self.environment_of(self.project.params)

    def environment_of(self, params: dict[str, Any], *keys: str) -> dict[str, Any]:
        """The same for other params.

        Args:
            keys: dotted, of more parts of them that may name the user's own code.
        """
        project = replace(self.project, params=params)
        evaluation = settings(params, "evaluate", SuiteSettings)
        return {
            "seed": project.seed,
            "num_threads": project.runtime.num_threads,
            "device": project.device.type,
            "engine": project.runtime.engine,
            "precision": project.precision,
            **made_with(__name__, *modules_named(params, ("model", "train", "construct", "fit", "evaluate", *keys))),
            "model": project.model_settings().model_dump(mode="json"),
            "evaluate": {
                "norm": evaluation.norm,
                "eps": evaluation.headline_eps,
                "num_steps": evaluation.headline_num_steps,
                **evaluation.model_dump(include={"loss"}),  # nothing where it is the usual one
            },
            **self._data,
        }

    @cached_property
    def _data(self) -> dict[str, str]:
        return {f"data/{name}": sha256(self.project.dataset(name) / "manifest.json") for name in SPLITS}

    @cached_property
    def neighbours(self) -> torch.Tensor:
        """What 1-NN calls each training image of D, (N,): the same for every point."""
        return own_neighbours(self.reference, device=self.project.device)

    @cached_property
    def reference(self) -> Images:
        """D as 1-NN sees it."""
        return neighbour_reference(self.splits["train"], self.project.device)

    def source_seed(self, kind: str, model: str, asked: Sequence[int] | None, seed: int) -> int:
        """Seed of the source model behind a fit: the fit's own where it is used, else those in use in turn.

        So what differs between the fits of a point holds both: other source models, other fits.

        Args:
            kind, model, asked: the dataset, its `model` and its `source_seeds` in `construct`.
            seed: of the fit.
        Raises: ConfigError for a source seed without a model.
        """
        trained = source_seeds(self.project, model)
        sources = construction_seeds(trained, asked, model=model, key=f"construct.{kind}")
        return seed if seed in sources else sources[seed % len(sources)]

    def members(self, kind: str, recipe: ConstructSettings, seed: int) -> list[tuple[str, int]]:
        """(entry of `train`, seed) of the source models behind a fit: one, or an ensemble.

        Args:
            kind, recipe: the dataset, and its settings.
            seed: of the fit.
        Raises: ConfigError for a source seed without a model.
        """
        if recipe.ensemble is not None:
            return ensemble_members(self.project.params, recipe.ensemble, f"construct.{kind}")
        return [(recipe.model, self.source_seed(kind, recipe.model, recipe.source_seeds, seed))]

    def judge_seed(self, members: Sequence[tuple[str, int]]) -> int:
        """Seed of the robust model that judges what these source models make."""
        return judge_seed(source_seeds(self.project, "robust"), members)

    def trained(self, name: str, seed: int) -> Path:
        """File of a model that the pipeline trained on D.

        Raises: SweepError if it is not there.
        """
        file = self.project.source_model(name, seed)
        if not file.exists():
            raise SweepError(f"{file}: the source model is missing; `dvc repro train@{name}` makes it")
        return file


class Trial:
    """One point; a source model's dataset is made when a fit asks for it, and thrown away with the next or the trial.

    Args:
        seeds: of the fits.
        keep_dataset: write the dataset to .notbugs/sweeps/datasets.
    """

    def __init__(self, lab: Laboratory, point: Point, seeds: tuple[int, ...], *, keep_dataset: bool = False) -> None:
        self.lab, self.point, self.keep_dataset = lab, point, keep_dataset
        params = changed_params(lab.project.params, changes(lab.project.params, point, seeds))
        self.project = replace(lab.project, params=params)
        self.environment = lab.environment_of(params) if point.axes else lab.environment
        key = f"construct.{point.kind}"
        self.recipe: ConstructSettings = construct_settings(params["construct"][point.kind], key)
        self.fit = settings(params, f"fit.{point.kind}", FitSettings)
        self.picture: Path | None = None
        """Samples of the first dataset that was asked for; the file need not be there."""
        self._last: tuple[int, tuple[Constructed, dict[str, Any], float]] | None = None

    def measure(self, seed: int, on_epoch: OnEpoch | None = None) -> dict[str, Any]:
        """The measurements of one fit, `curves` and `seconds` among them; kept ones are not made again.

        Args:
            on_epoch: called for each epoch, in the order of the training; what it raises ends the trial.
        Raises: TrainingError, SweepError.
        """
        live = False

        def compute() -> dict[str, Any]:
            """Measure, and note that the epochs were seen while they ran."""
            nonlocal live
            live = True
            return self._compute(seed, samples, on_epoch)

        made_from = self._made_from(seed)
        samples = self._picture(made_from)
        self.picture = self.picture or samples
        result = self.lab.results.get_or_compute(made_from, compute)
        if on_epoch and not live:
            for epoch, values in result["curves"]:
                on_epoch(seed, epoch, values)
        return result

    def known(self, seed: int) -> dict[str, Any] | None:
        """What an earlier run measured of a fit, if it is kept; nothing is computed."""
        if self.point.source_eps or any(leaf.startswith(("model.", "train.")) for leaf in self.point.axes):
            return None  # its source model would have to be trained first, to know its hash
        found: dict[str, Any] | None = self.lab.results.get(self._made_from(seed))
        return found

    def source_seed(self, seed: int) -> int:
        """Seed of the source model that a fit's dataset is made with, the lowest of an ensemble's."""
        return min(source for _, source in self._members(seed))

    @property
    def work(self) -> int:
        """Images times steps of the construction; a recipe without steps takes one."""
        return len(self.lab.splits["train"]) * (self.point.num_steps or 1)

    def _picture(self, made_from: Mapping[str, Any]) -> Path:
        """Where the samples are of the dataset that a fit learns from; whatever the fit, the same."""
        dataset = {key: value for key, value in made_from.items() if not key.startswith("fit")}
        return work_folder(self.project.root, "sweeps") / "samples" / f"{digest(dataset)}.png"

    def _members(self, seed: int) -> list[tuple[str, int]]:
        return self.lab.members(self.point.kind, self.recipe, seed)

    def _made_from(self, seed: int) -> dict[str, Any]:
        sources = [sha256(file) for file in self.source_files(seed)]
        return {
            **self.environment,
            "kind": self.point.kind,
            "construct": self.recipe.model_dump(mode="json", exclude={"source_seeds"}),
            **file_hashes(self.project, self.recipe.files),
            "fit": self.fit.model_dump(mode="json", exclude={"seeds", "still_y", "baseline"}),
            "fit_seed": seed,
            "source_seed": self.source_seed(seed),
            "source_model": sources[0] if len(sources) == 1 else sources,
            "judge": sha256(self.judge_file(seed)),
        }

    def source_files(self, seed: int) -> list[Path]:
        """The source models behind a fit: the pipeline's own, or trained as this point has it."""
        return [self._trained(self.project.params, name, source) for name, source in self._members(seed)]

    def judge_file(self, seed: int) -> Path:
        """The robust model that judges the dataset of a fit; another `source_eps` leaves the judge as it is."""
        params = changed_params(self.lab.project.params, self.point.axes)
        return self._trained(params, "robust", self.lab.judge_seed(self._members(seed)))

    def _trained(self, params: dict[str, Any], name: str, seed: int) -> Path:
        """A model trained on D by these params."""
        if not any(leaf.startswith(("model.", f"train.{name}.")) for leaf in self.point.axes):
            ours = self.lab.trained(name, seed)
            if value_at(params, f"train.{name}") == value_at(self.lab.project.params, f"train.{name}"):
                return ours
        return self._train_source(params, name, seed)

    def _train_source(self, params: dict[str, Any], name: str, seed: int) -> Path:
        """Train `train.<name>` by these params; once, whichever trial asks first."""
        config = settings(params, f"train.{name}", TrainSettings).model_copy(update={"seeds": (seed,)})
        environment = {key: value for key, value in self.environment.items() if key != "evaluate"}
        made_from = {**environment, "train": config.model_dump(mode="json")}
        if name != "robust":  # the one that was there first
            made_from["name"] = name
        folder = work_folder(self.project.root, "sweeps") / "models"
        file = folder / digest(made_from) / f"seed-{seed}.safetensors"

        def compute() -> dict[str, Any]:
            """Train and save the model; its summary."""
            train, validation = self.lab.splits["train"], self.lab.splits["validation"]
            stream, title = ("train", name, seed), f"train {name}, seed {seed}"
            lesson = Lesson(self.project, config, train, validation, stream, file, title, seed)
            return summary([lesson], [learn(lesson)])

        ResultCache(folder).get_or_compute(made_from, compute)
        if not file.exists():
            raise SweepError(f"{file}: the source model of an earlier trial is gone; remove {folder} and start again")
        return file

    def _construct(self, source_seed: int, seed: int, samples: Path) -> tuple[Constructed, dict[str, Any], float]:
        """The dataset of the source models behind a fit, its summary, and the seconds that it took.

        Args:
            samples: picture to be drawn of it.
        """
        started = time.monotonic()
        device = self.project.device
        model = attacked(self.source_files(seed), device)
        judge = load_model(self.judge_file(seed), device=device)
        data = self.lab.splits["train"]
        generator = recipe_generator(self.project.seed, self.recipe.recipe, source_seed)
        image, looks = data.images[:1].to(device), len(data) * self.recipe.looks
        compiled = pays_to_compile(self.project.runtime.engine, model, image, num_looks=looks)
        recipe = self.recipe.located(self.project.root)
        made = build(model, data, **recipe.arguments(), generator=generator, compiled=compiled)
        columns = describe(made, data, model, judge, reference=self.lab.reference, neighbours=self.lab.neighbours)
        with whole_file(samples) as unfinished:
            write_samples(unfinished, data, made.data)
        if self.keep_dataset:
            self._keep(made, columns, source_seed)
        return made, summarise(columns), time.monotonic() - started

    def _keep(self, made: Constructed, columns: Mapping[str, torch.Tensor], source_seed: int) -> None:
        import pandas as pd

        kind, source = self.point.kind, load_dataset(self.project.dataset("train"), verify=False).manifest.source
        recipe = {**self.recipe.model_dump(mode="json", exclude={"source_seeds"}), "source_seed": source_seed}
        name = f"{kind}-eps-{self.point.eps}-steps-{self.point.num_steps}-{digest({**recipe, **self.point.axes})[:8]}"
        examples = pd.DataFrame({"index": range(len(made.data)), **{k: v.numpy() for k, v in columns.items()}})
        folder = work_folder(self.project.root, "sweeps") / "datasets" / name
        save_dataset(
            folder,
            made.data,
            examples,
            name=dataset_name(kind),
            source=source,
            settings=recipe,
            dtype=self.recipe.dtype,
        )

    def _compute(self, seed: int, samples: Path, on_epoch: OnEpoch | None) -> dict[str, Any]:
        source_seed = self.source_seed(seed)
        if self._last is None or self._last[0] != source_seed:
            self._last = None  # two datasets at once would take twice the memory
            self._last = source_seed, self._construct(source_seed, seed, samples)
        made, facts, construct_seconds = self._last[1]
        started = time.monotonic()
        curves: list[tuple[int, dict[str, float | None]]] = []
        # contiguous: as the stage `fit` reads it from the disk
        images = ImageData(made.data.images.contiguous(), made.data.labels, made.data.class_names)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"seed-{seed}.safetensors"
            lesson = Lesson(
                self.project,
                self.fit,
                images,
                self.lab.splits["validation"],
                stream=("fit", source_seed, seed),
                file=file,
                title=f"fit {self.point.kind}, source {source_seed}, seed {seed}",
                seed=seed,
            )

            def follow(record: EpochRecord) -> None:
                """Keep an epoch's values, and hand them on."""
                curves.append((record["epoch"], dict(lesson.curve_names(record))))
                if on_epoch:
                    on_epoch(seed, *curves[-1])

            fitted = summary([lesson], [learn(lesson, follow)])
            fit_seconds = time.monotonic() - started
            model = load_model(file, device=self.project.device)
        final = fitted["seeds"][str(seed)]
        clean, shifted, attacked = self._evaluation("test", model)
        *_, attacked_on_validation = self._evaluation("validation", model)
        return {
            "accuracy": clean.accuracy,
            "accuracy_shifted": shifted.accuracy,
            "adversarial_accuracy": attacked.accuracy,
            "validation_accuracy": final["validation_accuracy"],
            "validation_accuracy_shifted": final["validation_accuracy_shifted"],
            "validation_adversarial_accuracy": attacked_on_validation.accuracy,
            "attack_success": facts["success_rate"],
            "before": facts["robust_model"]["before"],
            "before_neighbour": facts["nearest_neighbour"]["before"],
            # 0 where the judge knew no image before: nothing shows then that any is still y
            "still_y": facts["robust_model"]["still_y"] or 0.0,
            "still_y_neighbour": facts["nearest_neighbour"]["still_y"] or 0.0,
            "still_y_both": facts["still_y_both"] or 0.0,
            "mean_delta_norm": facts["delta_norm"]["mean"],
            "work": self.work,
            "curves": curves,
            "seconds": {
                "construct": round(construct_seconds, 3),
                "fit": round(fit_seconds, 3),
                "measure": round(time.monotonic() - started - fit_seconds, 3),
            },
        }

    def _evaluation(self, split: str, model: torch.nn.Module) -> list[Measurement]:
        """Clean accuracies and the attack of the headline, as the stage `evaluate` measures them."""
        whole = settings(self.project.params, "evaluate", SuiteSettings)
        headline = whole.model_copy(update={"eps": (whole.headline_eps,), "num_steps": whole.headline_num_steps})
        generator = make_generator(self.project.seed, *RANDOM_STARTS)
        found = audit(model, self.lab.splits[split], **headline.arguments(), generator=generator, thorough=False)
        return [measure(outcome) for outcome in found.outcomes]
