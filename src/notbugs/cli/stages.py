"""One command a stage of dvc.yaml. `evaluate` and `sweep` can do more, and have modules of their own."""

from importlib import import_module

import click

from notbugs.cli.project import open_project, project_root

WHOLE = {
    "prepare": "read D from its source and split it into train, validation and test.",
    "transfer": "fit other architectures on D_rand and D_det, and try the source's adversarial examples on them.",
    "inversion": "look closely at inverted images: what they resemble, other objectives, overfitting.",
    "diversity": "measure how diverse D, D_R and D_NR are, class by class.",
    "estimator": "vary the model behind D_R: its eps, seed, architecture, training.",
    "features": "measure the usefulness of features on D, under attack and on every constructed dataset.",
    "planted": "run the experiment in a small world whose features are known.",
    "gaussian": "the theory of two Gaussians, in closed form and checked.",
    "report": "write reports/report.html and the figures.",
}
"""Stage -> what it does."""
BY_NAME = {
    "train": "train the source models NAME (standard or robust) on D.",
    "construct": "make the dataset NAME (robust, nonrobust, rand, det, ...) from D.",
    "fit": "train classifiers from scratch on the constructed dataset NAME.",
}
"""Stage that is run for each entry NAME of its section in params.yaml -> what it does."""
WITH_WORKERS = ("train", "construct", "fit", "planted")
"""Stages whose tasks worker processes do (`jobs` in params.yaml)."""


def stage_commands() -> list[click.Command]:
    """The commands of these stages."""
    return [
        *(_command(stage, what) for stage, what in WHOLE.items()),
        *(_command(stage, what, click.Argument(["name"])) for stage, what in BY_NAME.items()),
    ]


def _command(stage: str, what: str, *arguments: click.Argument) -> click.Command:
    """A command that calls the function of the stage's name in the module of its name."""

    def run(**given: str) -> None:
        """Do the stage's work in the project here."""
        if stage in WITH_WORKERS:
            import_module("notbugs.pipeline.running.fork_server").begin_early(project_root())
        work = getattr(import_module(f"notbugs.pipeline.{stage}"), stage)
        work(open_project(), *given.values())

    return click.Command(stage, callback=run, params=[*arguments], help=f"Stage: {what}")
