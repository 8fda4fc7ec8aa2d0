"""Every stage of the pipeline but the sweeps', declared once and in the order of params.yaml.

A new question of the science is a module in `science`, an entry here, and its stage in dvc.yaml.
"""

from typing import TYPE_CHECKING, Any

from notbugs.pipeline.running.stage import Stage

if TYPE_CHECKING:
    from notbugs.pipeline.running.context import Context

SHARED = ("seed", "num_threads", "device", "precision", "engine")
SPLITS = ("data/train", "data/validation", "data/test")
SECTIONS = ("data", "model", "train", "construct", "fit", "evaluate")
QUESTIONS = ("transfer", "inversion", "diversity", "estimator", "features", "planted", "gaussian")
SEEDS = ("train.standard.seeds", "train.robust.seeds")
MODELS = ("models/train/robust", "models/train/standard")


def _by_name(name: str, does: str, settings: str, work: str, **more: Any) -> Stage:
    """A stage that is run for each entry of its section, by worker processes, or by several processes that share it."""
    return Stage(
        name=name,
        does=does,
        work=work,
        settings=settings,
        by_name=True,
        metrics_file=f"metrics/{name}/{{name}}.json",
        resumes=True,
        processes=True,
        workers=True,
        **more,
    )


def _question(name: str, does: str, settings: str, **more: Any) -> Stage:
    """A question of the science, answered by the function of its name beside its settings."""
    return Stage(
        name=name,
        does=does,
        work="notbugs.pipeline.science:answer_declared",
        study=f"{settings.partition(':')[0]}:{name}",
        settings=settings,
        metrics_file=f"metrics/{name}.json",
        **more,
    )


_ALL = (
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
    _by_name(
        "train",
        "train the source models NAME (standard or robust) on D.",
        "notbugs.training.settings:train_settings",
        "notbugs.pipeline.train:train",
        shared=(*SHARED, "processes"),
        reads=("model",),
        inputs=SPLITS[:2],
        outputs=("models/train/{name}", "plots/learning/train-{name}.csv"),
    ),
    _by_name(
        "construct",
        "make the dataset NAME (robust, nonrobust, rand, det, ...) from D.",
        "notbugs.pipeline.construct:read_recipe",
        "notbugs.pipeline.construct:construct",
        shared=SHARED,
        reads=("train",),
        inputs=("data/train", "models/train"),
        outputs=("data/{name}",),
    ),
    _by_name(
        "fit",
        "train classifiers from scratch on the constructed dataset NAME.",
        "notbugs.training.settings:FitSettings",
        "notbugs.pipeline.train:train",
        shared=(*SHARED, "processes"),
        reads=("model",),
        inputs=(*SPLITS[:2], "data/{name}"),
        outputs=("models/fit/{name}", "plots/learning/fit-{name}.csv"),
    ),
    Stage(
        name="evaluate",
        does="measure every model on the test split. With --model and --data: measure that model.",
        work="notbugs.pipeline.evaluate:evaluate",
        settings="notbugs.evaluation.levels:SuiteSettings",
        shared=SHARED,
        reads=("model", "train", "fit"),
        inputs=("data/test", "metrics/fit", "models/fit", "models/train"),
        outputs=(
            *("metrics/results.csv", "metrics/per_class.csv", "metrics/certificates.csv", "metrics/checks.json"),
            *("metrics/headline.json", "metrics/per_example.parquet", "metrics/minimum_norms.parquet"),
            *("plots/accuracy_vs_eps.csv", "plots/accuracy_vs_minimum_norm.csv"),
        ),
        metrics_file="metrics/evaluate.json",
        processes=True,
        workers=True,
    ),
    Stage(
        name="diagnose",
        does="why each constructed dataset teaches what it does, or nothing. With NAME: print it for that one.",
        work="notbugs.pipeline.diagnose:diagnose",
        settings="notbugs.science.diagnosis:DiagnosisSettings",
        reads=("train", "construct", "fit"),
        inputs=("data", "metrics/fit", "models/train", "plots/learning"),
        metrics_file="metrics/diagnose.json",
    ),
    _question(
        "transfer",
        "fit other architectures on D_rand and D_det, and try the source's adversarial examples on them.",
        "notbugs.science.transfer:TransferSettings",
        reads=SEEDS[:1],
        inputs=("data/train", "data/rand", "data/det", "data/test", "models/train/standard"),
        paired={"standard": "det"},
        resumes=True,
        workers=True,
    ),
    _question(
        "inversion",
        "look closely at inverted images: what they resemble, other objectives, overfitting.",
        "notbugs.science.inversion:InversionSettings",
        reads=(*SEEDS, "fit.robust.seeds", "fit.nonrobust.seeds"),
        inputs=(
            *("data/train", "data/test", "data/robust", "data/nonrobust"),
            *(*MODELS, "models/fit/robust", "models/fit/nonrobust"),
        ),
        paired={"robust": "robust", "standard": "nonrobust"},
        outputs=("plots/inversion",),
    ),
    _question(
        "diversity",
        "measure how diverse D, D_R and D_NR are, class by class.",
        "notbugs.science.diversity:DiversitySettings",
        reads=SEEDS,
        inputs=("data/train", "data/robust", "data/nonrobust", *MODELS),
        paired={"robust": "robust", "standard": "nonrobust"},
    ),
    _question(
        "estimator",
        "vary the model behind D_R: its eps, seed, architecture, training.",
        "notbugs.science.estimator:EstimatorSettings",
        reads=("model",),
        inputs=("data/train", "data/test"),
        resumes=True,
        workers=True,
    ),
    _question(
        "features",
        "measure the usefulness of features on D, under attack and on every constructed dataset.",
        "notbugs.science.features.study:FeaturesSettings",
        reads=("data", "construct", *SEEDS),
        inputs=("data", "models/train"),
        outputs=("metrics/features.csv",),
        resumes=True,
        workers=True,
    ),
    _question(
        "planted",
        "run the experiment in a small world whose features are known.",
        "notbugs.science.planted.study:PlantedStudySettings",
        outputs=("plots/planted",),
        workers=True,
    ),
    _question(
        "gaussian",
        "the theory of two Gaussians, in closed form and checked.",
        "notbugs.science.gaussian.study:GaussianSettings",
        shared=("seed", "num_threads"),
    ),
    Stage(
        name="science",
        does="answer the question NAME of your own, of the section `science`.",
        work="notbugs.pipeline.questions:answer_entry",
        settings="notbugs.pipeline.questions:read_question",
        by_name=True,
        reads=("model", "train", "construct", "fit"),
        inputs=("data", "models/train", "models/fit"),
        metrics_file="metrics/science/{name}.json",
        resumes=True,
        workers=True,
    ),
    Stage(
        name="report",
        does="write reports/report.html and the figures.",
        work="notbugs.pipeline.report:report",
        settings="notbugs.report:ReportSettings",
        shared=SHARED,
        reads=(*SECTIONS, "diagnose", *QUESTIONS, "science", "sweep"),
        inputs=(
            *("data", "metrics", "models/fit", "models/train"),
            *("plots/inversion", "plots/learning", "plots/planted", "sweeps"),
        ),
        outputs=("reports/report.html", "reports/verdicts.json", "plots/figures"),
        workers=True,
    ),
)
STAGES = {stage.name: stage for stage in _ALL}
"""Name -> stage."""


def run_stage(project: "Context", stage: str, name: str | None = None) -> None:
    """Do the work of a stage: `run_stage(open_project(root), "train", "robust")`.

    Args:
        name: entry of the stage's section, of a stage that is run by name.
    Raises: ConfigError, and what the work raises.
    """
    from notbugs.pipeline.running.job import perform

    perform(STAGES[stage], project, name)
