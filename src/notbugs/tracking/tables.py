"""The table of what MLflow shows of each stage: numbers of its metrics file, their names, and what they are, in words.

A stage that is not named here, such as a question of one's own, shows the first numbers of its metrics file.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from notbugs.tracking.learning import QUANTITIES, SUBSETS


@dataclass(frozen=True)
class Shown:
    """A number of a metrics file, or several of the same kind.

    Attributes:
        place: keys on the way to it, such as "full/mean/train_loss". `*` stands for any key or part of one, {eps} for
            the run's param of that name.
        name: of the metric; {0}, {1} are what the stars stood for.
        says: what it is, in words.
    """

    place: str
    name: str
    says: str


@dataclass(frozen=True)
class Table:
    """What is shown of a stage.

    Attributes:
        says: what its run is, in a sentence.
        numbers: in the order in which they get room; None takes the first ones of the metrics file.
        later: metrics that another stage adds to the run: (name, what it is).
        section: of params.yaml, where it is not called as the stage.
    """

    says: str = ""
    numbers: tuple[Shown, ...] | None = None
    later: tuple[tuple[str, str], ...] = ()
    section: str = ""


TEST = {
    "accuracy": "share of D's test images that get their own label y",
    "accuracy_shifted": "share of them that gets y + 1",
    "adversarial_accuracy": "share of them that gets y under the attack of the tag `evaluate.attack`",
    "worst_case_accuracy": "share of them that withstands all attacks of the suite at that radius",
}
"""What stage `evaluate` measures of every model."""
_MEAN = "; mean over the models"
_ADDED = "; mean over the models, added by stage `evaluate`"


def _trained(*subsets: str) -> tuple[Shown, ...]:
    """Last values of a training or of fits."""
    validation = [name for name in QUANTITIES if name.startswith("validation")]
    return (
        *(Shown(f"full/mean/{name}", name, says + _MEAN) for name, says in QUANTITIES.items()),
        *(
            Shown(f"full/std/{name}", f"{name}_std", f"standard deviation of `{name}` over seeds")
            for name in validation
        ),
        *(
            Shown(f"{subset}/mean/{name}", f"{subset}_{name}", f"`{name}` of {SUBSETS[subset]}")
            for subset in subsets
            for name in validation
        ),
    )


def _later(*subsets: str) -> tuple[tuple[str, str], ...]:
    """What is measured on the test split afterwards."""
    own = [(name, says + _ADDED) for name, says in TEST.items()]
    parts = [(f"{part}_{name}", f"`{name}` of {SUBSETS[part]}") for part in subsets for name in TEST]
    return (*own, *parts)


_CONSTRUCTED = (
    ("success_rate", "attack_success", "share of the images that the source model calls by the label aimed at"),
    ("success_other_seeds", "success_other_seeds", "the same share, by models of the same kind from other seeds"),
    ("robust_model/before", "before", "share that the robust judge calls y before the perturbation"),
    ("robust_model/still_y", "still_y", "share that it still calls y afterwards, among those"),
    ("robust_model/target", "target", "share that it calls by the label aimed at"),
    ("nearest_neighbour/before", "before_neighbour", "share that 1-NN calls y before the perturbation"),
    ("nearest_neighbour/still_y", "still_y_neighbour", "share that it still calls y afterwards, among those"),
    ("nearest_neighbour/target", "target_neighbour", "share that it calls by the label aimed at"),
    ("still_y_both", "still_y_both", "share that both judges still call y, among those that both called y"),
    ("given_is_true", "given_is_true", "share of the images whose given label is y"),
    ("delta_norm/mean", "mean_delta_norm", "mean L2 length of the perturbation, pixel units"),
    ("delta_norm/median", "median_delta_norm", "its median"),
    ("pixel_distance_start/median", "median_pixel_distance_start", "median L2 distance to the start x', pixel units"),
    ("representation_distance/median", "median_representation_distance", "median distance reached to g(x)"),
    ("representation_distance_start/median", "median_representation_distance_start", "the same before the first step"),
    ("num_examples", "num_examples", "images"),
    ("num_still_y", "num_still_y", "images that both judges still call y"),
)
_TRIAL = (
    *TEST.items(),
    *((name, QUANTITIES.get(name, "share of D's validation images that gets y under the attack")) for name in (
        "validation_accuracy", "validation_accuracy_shifted", "validation_adversarial_accuracy",
    )),
    *((name, says) for _, name, says in _CONSTRUCTED[:11]),
    ("work", "images times steps of a construction"),
    ("seconds", "seconds that its constructions, fits and measurements took"),
    ("pruned", "1: given up by the pruner"),
)  # fmt: skip

TABLES: Mapping[str, Table] = {
    "prepare": Table(
        "D, read and split into train, validation and test.",
        (
            Shown("train", "train", "images to learn from"),
            Shown("validation", "validation", "images on which everything is chosen"),
            Shown("test", "test", "images that are only reported on"),
            Shown("classes", "classes", "classes"),
            Shown("duplicates/*", "duplicates_{0}", "images of {0} that stand in train, too"),
        ),
        section="data",
    ),
    "train": Table(
        "Source models, trained on D, one a seed.",
        (*_trained(), Shown("full/num_examples", "num_examples", "images that are learnt from")),
        _later(),
    ),
    "construct": Table(
        "A dataset made from D, one from each source model; numbers are means over these.",
        tuple(Shown(*row) for row in _CONSTRUCTED),
    ),
    "fit": Table(
        "Classifiers from scratch on a constructed dataset, for each source model's one a seed.",
        _trained(*SUBSETS),
        _later(*SUBSETS),
    ),
    "evaluate": Table(
        "Every model on the test split. Each model's numbers are on the Models tab, and their means in the runs that "
        "trained them.",
        (
            Shown("*/*/clean", "accuracy/{0}.{1}", "accuracy on y of the models {1} of {0}"),
            Shown("*/*/shifted", "accuracy_shifted/{0}.{1}", "accuracy on y + 1 of the models {1} of {0}"),
            Shown(
                "*/*/pgd{headline_num_steps}_eps_{headline_eps}",
                "adversarial_accuracy/{0}.{1}",
                "accuracy of the models {1} of {0} under PGD at `headline_eps`",
            ),
            Shown(
                "*/*/worst_eps_{headline_eps}",
                "worst_case_accuracy/{0}.{1}",
                "share that withstands all attacks there, models {1} of {0}",
            ),
        ),
    ),
    "diagnose": Table(
        "Why each constructed dataset teaches what it does, or nothing.",
        tuple(
            Shown(f"constructions/*/{name}", f"{name}/{{0}}", says)
            for name, says in (
                ("success", "share of {0} that its source model calls by the label aimed at"),
                ("still_y", "share of {0} that the robust judge still calls y"),
                ("label_is_y", "share of {0} that is labelled y"),
                ("probe_delta", "accuracy of a linear probe that reads {0}'s labels from δ alone"),
                ("probe_image", "the same from the images of {0}"),
                ("loss", "training loss of the fits on {0} in the end; `chance_loss` is ln C"),
                ("on_y", "validation accuracy of these fits on y"),
                ("on_shifted", "the same on y + 1"),
            )
        ),
    ),
    "transfer": Table(
        "Other architectures X: what they learn from D, D_rand and D_det, and how often the source's adversarial "
        "examples fool them.",
        (
            Shown("source/accuracy", "source_accuracy", "test accuracy of the source model"),
            Shown("source/fooled/*", "source_fooled/{0}", "share of the test images that fool it, {0}"),
            Shown("architectures/*/accuracy/*", "accuracy_{1}/{0}", "test accuracy on y of {0} fitted on {1}"),
            Shown("architectures/*/accuracy_shifted/D_det", "accuracy_shifted_D_det/{0}", "on y + 1, {0} on D_det"),
            Shown(
                "architectures/*/transfer/*/conditional",
                "transfer_{1}/{0}",
                "share of what fools the source ({1}) that fools {0}, too",
            ),
            Shown("correlation/*/*/pearson", "correlation_{1}/{0}", "of accuracy on {0} and transfer ({1}), over X"),
        ),
    ),
    "inversion": Table(
        "Inverted images x_r, looked at closely; the numbers shown are those of the representation as objective.",
        (
            *(
                Shown(f"resemblance/*/representation/*/{name}", f"{name}/{{0}}.{{1}}", f"{says}, in {{1}}; {{0}} model")
                for name, says in (
                    ("to_target", "median distance of x_r to x"),
                    ("to_start", "median distance of x_r to x'"),
                    ("nearer_target", "share of x_r nearer to x than to x'"),
                    ("neighbour_target", "share whose nearest other image is of x's class"),
                )
            ),
            Shown("resemblance/*/representation/called_y/*", "called_y/{0}.{1}", "share of {0}'s that {1} calls y"),
            Shown("fits/*/*/clean", "fit_{1}/{0}", "accuracy of the models of {0} on their {1} images"),
            Shown("fits/*/*/attacked", "fit_{1}_attacked/{0}", "the same under attack"),
        ),
    ),
    "diversity": Table(
        "How diverse D, D_R and D_NR are, mean over the classes.",
        (
            Shown("spaces/*/*/*", "{2}/{1}.{0}", "{2} of {1} in the space {0}"),
            Shown("nearest_own_mean/*", "nearest_own_mean/{0}", "share of {0} nearest to the mean of its own class"),
        ),
    ),
    "estimator": Table(
        "One D, many estimators g behind D_R: what each makes, and what is learnt from it.",
        tuple(
            Shown(f"table/*/{name}", f"{name}/{{0}}", f"{says}; g: {{0}}")
            for name, says in (
                ("still_y", "share of the inverted images that still show y"),
                ("g_clean", "test accuracy of g"),
                ("g_attacked", "the same under attack"),
                ("fit_clean", "test accuracy of fits on what g made"),
                ("fit_attacked", "the same under attack"),
                ("blend_clean", "test accuracy of fits on x' moved straight towards x, as far"),
            )
        ),
    ),
    "features": Table(
        "Usefulness of features: of the models' representations, their outputs, and linear ones.",
        (
            Shown("sources/*/num_useful", "num_useful/{0}", "useful features of {0}"),
            Shown("sources/*/mean_rho", "mean_rho/{0}", "mean usefulness ρ of the features of {0}"),
            Shown(
                "sources/*/share_nonrobust/{headline_eps}",
                "share_nonrobust/{0}",
                "share of the useful features of {0} that are not robust at `headline_eps`",
            ),
            Shown("sources/*/kept/*", "kept_{1}/{0}", "share of the usefulness of {0} that {1} keeps"),
            Shown("sources/*/linear_classifier/all/clean", "linear_clean/{0}", "linear classifier on all of {0}"),
            Shown("circles/*", "circles/{0}", "ρ of {0} on concentric circles"),
        ),
    ),
    "planted": Table(
        "The experiment in a world whose features, a smooth and a fine pattern, are known.",
        (
            Shown("models/*/follows/*", "model_follows_{1}/{0}", "share that the {0} model calls by the {1} pattern"),
            Shown("models/*/*", "model_{1}/{0}", "{1} accuracy of the {0} model"),
            Shown("datasets/*/*/kept", "kept_{1}/{0}", "share of the usefulness of the {1} pattern that {0} keeps"),
            Shown("datasets/*/*/t", "t_{1}/{0}", "share of {0} whose {1} pattern says the given label t"),
            Shown("datasets/*/*/y", "y_{1}/{0}", "share of {0} whose {1} pattern says y"),
            Shown("fits/*/follows/*", "fit_follows_{1}/{0}", "share that fits on {0} call by the {1} pattern"),
            Shown("fits/*/*", "fit_{1}/{0}", "accuracy on {1} of the fits on {0}"),
        ),
    ),
    "gaussian": Table(
        "Two Gaussians, in the plane and in many dimensions.",
        (
            Shown("*/clean_accuracy", "clean_accuracy/{0}", "accuracy of the optimal classifier, {0}"),
            Shown("*/ball_accuracy", "ball_accuracy/{0}", "accuracy of the robust one for a ball as covariance, {0}"),
            Shown("*/condition", "condition/{0}", "condition number of the robust covariance, {0}"),
            Shown("*/dimension", "dimension/{0}", "dimensions, {0}"),
            Shown("*/largest_z", "largest_z/{0}", "largest deviation of Monte Carlo from closed form, in its errors"),
            Shown("*/stretch/C", "stretch_C/{0}", "multiplier C of the excess loss, {0}"),
            Shown("*/stretch/least_of_random", "stretch_least/{0}", "least excess loss of random covariances, {0}"),
        ),
    ),
    "report": Table("The report and its figures, under Artifacts.", ()),
    "sweep": Table("A study; its trials hang from this run."),
    "trial": Table(
        "One point of a study; numbers are means over its fits, and fits.json holds each.",
        tuple(Shown(name, name, says) for name, says in _TRIAL),
    ),
}
"""Stage -> what is shown; `trial` is that of a sweep."""
