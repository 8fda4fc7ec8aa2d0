"""Stage `train`: the source models, standard and robust, trained on D."""

from notbugs.config import settings
from notbugs.distribution import is_first
from notbugs.files import publish, write_json
from notbugs.stages.context import Context
from notbugs.stages.learning import train_seeds, write_curves
from notbugs.stages.processes import in_processes
from notbugs.stages.unfinished import unfinished
from notbugs.store import load_dataset
from notbugs.training import TrainSettings


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
    learnt = {
        "train": {name: config.model_dump(mode="json")},
        "model": project.model_settings().model_dump(mode="json"),
    }
    with project.tracked(
        "train",
        name,
        params={**learnt, "runtime": project.runtime.model_dump(mode="json")},
        inputs=inputs,
        outputs=[folder, metrics_file, curves_file],
        metrics_file=metrics_file,
    ) as run:
        data, validation = (load_dataset(path) for path in inputs)
        with unfinished(project, "train", name, settings=learnt, inputs=inputs) as work:
            summary, rows = train_seeds(
                project,
                config,
                data,
                validation,
                stage="train",
                name=name,
                subset="full",
                file_of=lambda seed: work / "models" / f"seed-{seed}.safetensors",
                run=run,
                work=work,
            )
            if is_first():
                publish(work / "models", folder)
                write_curves(curves_file, rows)
                write_json(metrics_file, {"full": summary})
        run.model(folder)
    mean = summary["mean"]
    adversarial = mean.get("validation_adversarial_accuracy")
    project.say(
        f"train {name}: validation accuracy {mean['validation_accuracy']:.1%}"
        + (f", adversarial {adversarial:.1%}" if adversarial is not None else "")
        + f" (mean of {len(config.seeds)} seeds)"
    )
