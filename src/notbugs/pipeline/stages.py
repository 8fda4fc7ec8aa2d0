"""Every stage of the pipeline but the sweeps', declared once and in the order of params.yaml.

A new question of the science is a module in `science`, an entry here, and its stage in dvc.yaml.
"""

from typing import TYPE_CHECKING

from notbugs.pipeline.running.stage import Stage

if TYPE_CHECKING:
    from notbugs.pipeline.running.context import Context

ANSWER = "notbugs.pipeline.science:answer"
"""How every question of the science is worked on."""
ENGINE = ("seed", "num_threads", "device", "engine")
SPLITS = ("data/train", "data/validation", "data/test")
SECTIONS = ("data", "model", "train", "construct", "fit", "evaluate")
SCIENCE = ("transfer", "inversion", "diversity", "estimator", "features", "planted", "gaussian")
CLOSE_LOOK = {"robust": "robust", "standard": "nonrobust"}
"""The models behind D_R and D_NR."""

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="prepare",
            does="read D from its source and split it into train, validation and test.",
            work="notbugs.pipeline.prepare:prepare",
            settings="notbugs.data.sources:DataSettings",
            section="data",
            shared=("seed",),
            outputs=SPLITS,
            metrics_file="metrics/prepare.json",
        ),
        Stage(
            name="train",
            does="train the source models NAME (standard or robust) on D.",
            work="notbugs.pipeline.train:train",
            settings="notbugs.training.loop:TrainSettings",
            by_name=True,
            shared=(*ENGINE, "processes"),
            reads=("model",),
            inputs=("data/train", "data/validation"),
            outputs=("models/train/{name}", "plots/learning/train-{name}.csv"),
            metrics_file="metrics/train/{name}.json",
            resumes=True,
            processes=True,
            workers=True,
        ),
        Stage(
            name="construct",
            does="make the dataset NAME (robust, nonrobust, rand, det, ...) from D.",
            work="notbugs.pipeline.construct:construct",
            settings="notbugs.pipeline.construct:read_recipe",
            by_name=True,
            shared=ENGINE,
            reads=("train.standard.seeds", "train.robust.seeds"),
            inputs=("data/train", "models/train/standard", "models/train/robust"),
            outputs=("data/{name}",),
            metrics_file="metrics/construct/{name}.json",
            resumes=True,
            processes=True,
            workers=True,
        ),
        Stage(
            name="fit",
            does="train classifiers from scratch on the constructed dataset NAME.",
            work="notbugs.pipeline.train:train",
            settings="notbugs.training.loop:FitSettings",
            by_name=True,
            shared=(*ENGINE, "processes"),
            reads=("model",),
            inputs=("data/train", "data/validation", "data/{name}"),
            outputs=("models/fit/{name}", "plots/learning/fit-{name}.csv"),
            metrics_file="metrics/fit/{name}.json",
            resumes=True,
            processes=True,
            workers=True,
        ),
        Stage(
            name="evaluate",
            does="measure every model on the test split. With --model and --data: measure that model.",
            work="notbugs.pipeline.evaluate:evaluate",
            settings="notbugs.evaluation.levels:SuiteSettings",
            shared=ENGINE,
            reads=("model", "train", "fit"),
            inputs=("data/test", "metrics/fit", "models/fit", "models/train"),
            outputs=(
                "metrics/results.csv",
                "metrics/per_class.csv",
                "metrics/headline.json",
                "metrics/checks.json",
                "metrics/certificates.csv",
                "metrics/per_example.parquet",
                "metrics/minimum_norms.parquet",
                "plots/accuracy_vs_eps.csv",
                "plots/accuracy_vs_minimum_norm.csv",
            ),
            metrics_file="metrics/evaluate.json",
            processes=True,
            workers=True,
        ),
        Stage(
            name="transfer",
            does="fit other architectures on D_rand and D_det, and try the source's adversarial examples on them.",
            work=ANSWER,
            study="notbugs.science.transfer:transfer",
            settings="notbugs.science.transfer:TransferSettings",
            reads=("train.standard.seeds",),
            inputs=("data/train", "data/rand", "data/det", "data/test", "models/train/standard"),
            paired={"standard": "det"},
            metrics_file="metrics/transfer.json",
            resumes=True,
        ),
        Stage(
            name="inversion",
            does="look closely at inverted images: what they resemble, other objectives, overfitting.",
            work=ANSWER,
            study="notbugs.science.inversion.study:inversion",
            settings="notbugs.science.inversion.study:InversionSettings",
            reads=("train.standard.seeds", "train.robust.seeds", "fit.robust.seeds", "fit.nonrobust.seeds"),
            inputs=(
                *("data/train", "data/test", "data/robust", "data/nonrobust"),
                *("models/train/robust", "models/train/standard", "models/fit/robust", "models/fit/nonrobust"),
            ),
            paired=CLOSE_LOOK,
            outputs=("data/inversion",),
            metrics_file="metrics/inversion.json",
        ),
        Stage(
            name="diversity",
            does="measure how diverse D, D_R and D_NR are, class by class.",
            work=ANSWER,
            study="notbugs.science.diversity:diversity",
            settings="notbugs.science.diversity:DiversitySettings",
            reads=("train.standard.seeds", "train.robust.seeds"),
            inputs=("data/train", "data/robust", "data/nonrobust", "models/train/robust", "models/train/standard"),
            paired=CLOSE_LOOK,
            metrics_file="metrics/diversity.json",
        ),
        Stage(
            name="estimator",
            does="vary the model behind D_R: its eps, seed, architecture, training.",
            work=ANSWER,
            study="notbugs.science.estimator:estimator",
            settings="notbugs.science.estimator:EstimatorSettings",
            reads=("model",),
            inputs=("data/train", "data/test"),
            metrics_file="metrics/estimator.json",
            resumes=True,
        ),
        Stage(
            name="features",
            does="measure the usefulness of features on D, under attack and on every constructed dataset.",
            work=ANSWER,
            study="notbugs.science.features.study:features",
            settings="notbugs.science.features.study:FeaturesSettings",
            reads=("data", "construct", "train.standard.seeds", "train.robust.seeds"),
            inputs=("data", "models/train"),
            outputs=("metrics/features.csv",),
            metrics_file="metrics/features.json",
        ),
        Stage(
            name="planted",
            does="run the experiment in a small world whose features are known.",
            work=ANSWER,
            study="notbugs.science.planted.study:planted",
            settings="notbugs.science.planted.study:PlantedStudySettings",
            outputs=("plots/planted",),
            metrics_file="metrics/planted.json",
            workers=True,
        ),
        Stage(
            name="gaussian",
            does="the theory of two Gaussians, in closed form and checked.",
            work=ANSWER,
            study="notbugs.science.gaussian.study:gaussian",
            settings="notbugs.science.gaussian.theory:GaussianSettings",
            shared=("seed", "num_threads"),
            metrics_file="metrics/gaussian.json",
        ),
        Stage(
            name="report",
            does="write reports/report.html and the figures.",
            work="notbugs.pipeline.report:report",
            settings="notbugs.report:ReportSettings",
            shared=ENGINE,
            reads=(*SECTIONS, *SCIENCE, "sweep"),
            inputs=("data", "metrics", "models/fit", "models/train", "plots/learning", "plots/planted", "sweeps"),
            outputs=("reports/report.html", "reports/verdicts.json", "plots/figures"),
        ),
    )
}
"""Name -> stage."""


def run_stage(project: "Context", stage: str, name: str | None = None) -> None:
    """Do the work of a stage: `run_stage(open_project(root), "train", "robust")`.

    Args:
        name: entry of the stage's section, of a stage that is run by name.
    Raises: ConfigError, and what the work raises.
    """
    from notbugs.pipeline.running.job import perform

    perform(STAGES[stage], project, name)
