"""Stage `train`: the source models, standard and robust, trained on D."""

from notbugs.data.store import load_dataset
from notbugs.pipeline.learning import Lesson, learn_all, summary, write_curves
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.processes import in_processes
from notbugs.pipeline.running.unfinished import unfinished
from notbugs.runtime.config import settings
from notbugs.runtime.distribution import is_first
from notbugs.runtime.files import publish, write_json
from notbugs.training.settings import TrainSettings


@in_processes
def train(project: Context, name: str) -> None:
    """Train models/train/<name>, one model a seed.

    Command: `notbugs train standard`. On digits about 5 s a seed (robust: 20 s); expected validation accuracy
    98% or more (robust: about 95%).
    """
    config = settings(project.params, f"train.{name}", TrainSettings)
    inputs = [project.dataset("train"), project.dataset("validation")]
    folder = project.source_model(name, 0).parent
    metrics_file = project.root / "metrics" / "train" / f"{name}.json"
    curves_file = project.root / "plots" / "learning" / f"train-{name}.csv"
    made_from = {
        "train": {name: config.model_dump(mode="json")},
        "model": project.model_settings().model_dump(mode="json"),
    }
    with project.tracked(
        "train",
        name,
        params={**made_from, "runtime": project.runtime.model_dump(mode="json")},
        inputs=inputs,
        outputs=[folder, metrics_file, curves_file],
        metrics_file=metrics_file,
    ) as run:
        data, validation = (load_dataset(path) for path in inputs)
        with unfinished(project, "train", name, settings=made_from, inputs=inputs) as work:
            lessons = [
                Lesson(
                    project,
                    config,
                    data,
                    validation,
                    stream=("train", name, seed),
                    file=work / "models" / f"seed-{seed}.safetensors",
                    title=f"train {name}, seed {seed}",
                    seed=seed,
                    work=work,
                )
                for seed in config.seeds
            ]
            learnt = learn_all(lessons, run, description=f"train {name}")
            found = summary(lessons, learnt)
            if is_first():
                publish(work / "models", folder)
                write_curves(curves_file, lessons, learnt)
                write_json(metrics_file, {"full": found})
        run.model(folder)
    mean = found["mean"]
    adversarial = mean.get("validation_adversarial_accuracy")
    project.say(
        f"train {name}: validation accuracy {mean['validation_accuracy']:.1%}"
        + (f", adversarial {adversarial:.1%}" if adversarial is not None else "")
        + f" (mean of {len(config.seeds)} seeds)"
    )
