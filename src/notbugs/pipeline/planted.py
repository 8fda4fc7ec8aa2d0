"""Stage `planted`: the whole experiment in a small world whose features are known."""

from notbugs.data.store import save_dataset
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.jobs import Say, do_all
from notbugs.runtime.config import settings
from notbugs.runtime.files import write_json
from notbugs.science.planted.study import FitTask, Fitted, PlantedStudySettings, fit_one, study


def planted(project: Context) -> None:
    """Write metrics/planted.json and, for the report's pictures, plots/planted.

    Command: `notbugs planted`. With the digits preset about 85 s. Expected: D_det's fits call more images y than y + 1.
    """
    import pandas as pd

    config = settings(project.params, "planted", PlantedStudySettings)
    folder, metrics_file = project.root / "plots" / "planted", project.root / "metrics" / "planted.json"
    with project.tracked(
        "planted",
        params={"planted": config.model_dump(mode="json"), "runtime": project.runtime.model_dump(mode="json")},
        inputs=[],
        outputs=[folder, metrics_file],
        metrics_file=metrics_file,
    ):
        found = study(
            config,
            seed=project.seed,
            device=project.device,
            progress=project.progress,
            do_all=lambda tasks: do_all(project, tasks, _fit, description="planted: fits"),
        )
        save_dataset(
            folder,
            found.pictures,
            pd.DataFrame({"kind": found.kinds}),
            name="planted",
            source="planted",
            settings=config.world.model_dump(mode="json"),
        )
        write_json(metrics_file, found.summary)
    filters, det = found.summary["filters"], found.summary["fits"]["D_det"]
    reached = f"{det['y']['value']:.1%} on y, {det['shifted']['value']:.1%} on y + 1"
    project.say(
        f"planted: {sum(row['inside'] for row in filters)} of {len(filters)} measured usefulnesses have the planted "
        f"one in their interval; D_det's fits reach {reached}"
    )


def _fit(task: FitTask, say: Say) -> Fitted:
    """One fit, by whichever process."""
    return fit_one(task)
