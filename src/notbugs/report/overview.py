"""The sections of the page, one function each, in SECTIONS; a new section is a function and a line there.

A builder takes the Content and gives a Section, or None where this pipeline has nothing to show in it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from notbugs.evaluation.results import accuracy_table, attack_label
from notbugs.report import features, gaussian, planted, robustness, tables
from notbugs.report.blocks import Block, Code, Picture, Section, Table, Text, Words
from notbugs.report.claims import Claim
from notbugs.report.diversity import diversity_section
from notbugs.report.estimator import estimator_section
from notbugs.report.evidence import evidence_of
from notbugs.report.honesty import CALLED_BEFORE, STILL_Y_SHARE, Pipeline, honesty_of
from notbugs.report.inversion import inversion_section
from notbugs.report.paper import BIBTEX, CITATION, FIGURE_EPS, SETTING
from notbugs.report.project import Project
from notbugs.report.studies import sweep_blocks
from notbugs.report.transfer import transfer_section

GLOSSARY = (
    (
        "D",
        "The base dataset: images in [0, 1], labels y in 0..C − 1. D, standard and D, robust are trained on it.",
    ),
    ("standard training", "Minimises the expected loss on the training images."),
    (
        "robust (adversarial) training",
        "Minimises the expected loss under the worst perturbation of norm at most eps, found by PGD.",
    ),
    ("representation g(x)", "Activations of the penultimate layer: the input of the last linear layer."),
    (
        "D_R",
        "Robust dataset: from a different training image x', pixels are changed until the robust model's "
        "representation matches that of x; label y of x.",
    ),
    ("D_NR", "Non-robust dataset: the same with the representation of the standard model."),
    (
        "D_rand",
        "Each image is perturbed, within eps, so that the standard model calls it a class t drawn uniformly "
        "at random; label t.",
    ),
    ("D_det", "The same with t = y + 1, counted modulo the number of classes."),
    ("D_rand, D_det from robust", "Controls: the same perturbations made with the robust model."),
    ("δ", "The perturbation: the new image minus x; ‖δ‖₂ is its Euclidean length."),
    ("eps", "Radius of the ball that a perturbation must stay in, in pixel units on [0, 1]."),
    ("clean accuracy", "Accuracy on the untouched test images, always with D's own labels y."),
    (
        "adversarial accuracy",
        "Share of test images still classified as y under the worst perturbation that the attack finds.",
    ),
    (
        "accuracy on the shifted label",
        "Share of test images called y + 1: what a model learns from D_det if it sees only what is visible. "
        "With the accuracy on y it tells collapse from failure.",
    ),
    (
        "still y",
        "Whether a constructed image still looks like its source: the robust model and a 1-nearest-neighbour "
        "classifier on D both still call it y. Each judge's share is of the images that it "
        f"{CALLED_BEFORE}. A fit marked still y was trained on only the images that both called y before and "
        f"after. Where a share is below {100 * STILL_Y_SHARE:g}%, the labels t are partly simply right, and high "
        "accuracy proves nothing.",
    ),
    ("worst", "All attacks together: a test image counts only if none of them fooled the model."),
    (
        "power",
        "The chance that an experiment like this one tells a true difference as large as the margin from none: that "
        "its 95% interval lies above zero. A verdict also asks that the difference found reach the margin, and of a "
        "true difference just as large half the experiments fall short of it.",
    ),
    (
        "D, fitted as D_R",
        "D itself, fitted with the settings, the initialisations and the order of batches of the fits on D_R: what "
        "these are compared with.",
    ),
    (
        "on the edge",
        "A verdict that one test image, or one standard error, more or less would change.",
    ),
    (
        "masked gradients",
        "A model whose gradients do not lead to its adversarial examples looks robust without being so.",
    ),
    ("Wilson 95% interval", "Interval of a share that accounts for the finite number of test images."),
    (
        "source model, fit, seed",
        "A source model is trained on D and makes a dataset; a fit is trained on that. Each is trained anew for each "
        "of its seeds. Means are taken over the fits of a source model, then over source models; ± is the standard "
        "deviation over source models (over fits where there is one).",
    ),
)


@dataclass(frozen=True)
class Content:
    """What the builders choose from.

    Attributes:
        project: metrics and datasets.
        claims: the verdicts.
        pictures: file name without suffix -> PNG, for those that this pipeline has.
    """

    project: Project
    claims: list[Claim]
    pictures: dict[str, bytes]

    def picture(self, name: str, alt: str, caption: str) -> list[Picture]:
        """The picture, or nothing where the pipeline does not have it."""
        return [Picture(name, self.pictures[name], alt, caption)] if name in self.pictures else []


def _section(key: str, title: str, *blocks: Block | Table | None) -> Section | None:
    present = [block for block in blocks if block is not None]
    return Section(key, title, present) if present else None


def claims(content: Content) -> Section | None:
    """The verdicts."""
    how = (
        "Each verdict follows a rule fixed before the numbers were seen: a difference counts when it reaches the "
        "margin asked for and its 95% interval, given in brackets, lies above zero. Two fits are compared only if they "
        "share their recipe, and pair by pair: same source model, initialisation, order of batches and test images. "
        "Robustness is what all attacks together leave; PGD stands beside it. The intervals join what the choice of "
        "test images and what the choice of source models and fits brings. Power: the chance that the interval lies "
        "above zero if the true difference is the margin. On the edge: one image, or one standard error, more or less "
        "would change the verdict."
    )
    project = content.project
    failed = any(not row["passed"] for row in project.checks)
    warning = Text(robustness.checks_sentence(project)) if failed else None
    chosen = project.report.settings_note
    note = Text(f"How the settings were chosen: {chosen}") if chosen else None
    components = tables.components(evidence_of(project))
    table = tables.claims_table(content.claims)
    return _section("claims", "The claims", Text(how), note, warning, table, components)


def figure_2(content: Content) -> Section | None:
    """The paper's Figure 2 with what was measured here."""
    eps = content.project.headline_eps
    pictures = content.picture(
        "figure_2",
        "Bars of clean and adversarial test accuracy for D, D robust, D_R, D_NR, D_rand and D_det",
        f"Clean and adversarial (eps {eps:g}, {attacks_at(content.project)}) test accuracy after standard training on "
        "each dataset, and "
        "after robust training on D. Whiskers: 95% intervals over test images and trainings. Diamonds: the "
        f"paper's values ({SETTING}, L2 eps {FIGURE_EPS:g}), another dataset and another eps: compare the "
        "pattern, not the heights.",
    )
    return _section("figure-2", "Figure 2 of the paper, remade", *pictures)


def attacks_at(project: Project) -> str:
    """What the adversarial bars are measured by, such as "all attacks together"."""
    names = {row.attack_at(project.headline_eps) for row in accuracy_table(project.results)} - {""}
    return " or ".join(attack_label(name) for name in sorted(names)) or "not measured"


def accuracies(content: Content) -> Section | None:
    """The accuracy table."""
    return _section("accuracy", "Accuracy", tables.accuracy(content.project))


def curves(content: Content) -> Section | None:
    """Accuracy against eps."""
    pictures = content.picture(
        "accuracy_vs_eps",
        "Accuracy of each model against the radius of the attack",
        "Accuracy on y under attack. Bands: 95% intervals over test images and trainings. Controls are dashed, D "
        "fitted by another recipe dash-dotted.",
    )
    return _section("eps", "Accuracy against eps", *pictures)


def attacks(content: Content) -> Section | None:
    """The attack suite, the smallest perturbations, the checks and the certificates."""
    project = content.project
    sentences = " ".join(filter(None, (robustness.checks_sentence(project), robustness.gap_sentence(project))))
    pictures = content.picture(
        "minimum_norm",
        "Accuracy of each model against the length of the smallest perturbation that fools it",
        "Lines: for each test image the smallest perturbation that an attack without a fixed radius found, one seed; "
        "the line at eps is the share of images that needs a longer one. Marks: PGD at that radius. Marks above their "
        "line mean that PGD missed images that the other attack fooled.",
    )
    return _section(
        "attacks",
        "How far the attacks can be trusted",
        Text(sentences) if sentences else None,
        robustness.suite_table(project),
        *pictures,
        robustness.checks_table(project),
        robustness.certificates_table(project),
    )


def labels(content: Content) -> Section | None:
    """D_rand and D_det: what was learnt, and whether their images still look like y."""
    pictures = content.picture(
        "label_accuracies",
        "Bars of the accuracy on y and on the shifted label for D_rand, D_det and their controls",
        "What the fits on D_rand and D_det learnt. Triangles: the share of the training images that still "
        f"look like y; below {100 * STILL_Y_SHARE:g}% the given labels are partly simply right.",
    )
    return _section("labels", "Right label or shifted label", *pictures)


def construction(content: Content) -> Section | None:
    """How the constructed images came out."""
    table = tables.constructions(content.project)
    pictures = content.picture(
        "distances",
        "Histograms of the distances of constructed images from their sources and starts",
        "How far the new images lie from their source x and, for D_R and D_NR, from the image x' they "
        "started at. An inversion that lands on x itself has returned D and shows nothing.",
    )
    return _section("construction", "The constructed datasets", table, *pictures)


def grids(content: Content) -> Section | None:
    """Sample grids."""
    rule = "Of each class the first example in D is shown, whatever it looks like."
    pictures = [
        *content.picture(
            "grid_inverted",
            "Sources x, starts x' and the images of D_R and D_NR",
            f"D_R and D_NR beside their sources x and starts x', with L2 distances. {rule}",
        ),
        *content.picture(
            "grid_rand",
            "Images of D beside those of D_rand from the standard and from the robust model",
            "D_rand: original with label y; from the standard and from the robust model with the given label "
            f"t, a random class (sometimes y). δ is enlarged by the factor given, grey is 0. {rule}",
        ),
        *content.picture(
            "grid_det",
            "Images of D beside those of D_det from the standard and from the robust model",
            f"D_det: the same with t = y + 1. {rule}",
        ),
    ]
    return _section("samples", "Samples", *pictures)


def sweeps(content: Content) -> Section | None:
    """How the datasets depend on eps and steps."""
    project = content.project
    own: dict[str, Pipeline] = {}
    for key, facts in project.constructions.items():
        eps, judged = (project.params["construct"][key] or {}).get("eps"), honesty_of(facts)
        if eps is not None and judged is not None:
            own[key] = (float(eps), judged)
    num_images = int(project.results["n"].iloc[0])
    blocks = sweep_blocks(project.root, content.pictures, project.num_classes, num_images, own)
    return _section("sweeps", "How sensitive to eps and steps", *blocks)


def learning(content: Content) -> Section | None:
    """Learning curves and where they ended."""
    pictures = content.picture(
        "learning_curves",
        "Training and validation accuracy over the epochs for each model",
        "Learning curves, mean over seeds; bands: one standard deviation. Validation images are D's own, "
        "unperturbed or under attack; they enter no construction.",
    )
    return _section("learning", "Learning curves", *pictures, tables.final_epochs(content.project))


def per_class(content: Content) -> Section | None:
    """Accuracy of each class."""
    return _section("classes", "Accuracy for each class", tables.per_class(content.project))


def provenance(content: Content) -> Section | None:
    """Settings and hashes."""
    return _section(
        "settings",
        "Settings, data and models",
        Text("Every setting that the numbers depend on:"),
        Code(tables.settings_text(content.project)),
        tables.hashes(content.project),
    )


def glossary(content: Content) -> Section | None:
    """What each word means."""
    return _section("words", "What each word means", Words(GLOSSARY))


def citation(content: Content) -> Section | None:
    """How to cite the paper."""
    return _section("cite", "The paper", Text(CITATION + "."), Code(BIBTEX))


SECTIONS: tuple[Callable[[Content], Section | None], ...] = (
    claims,
    figure_2,
    accuracies,
    curves,
    attacks,
    labels,
    construction,
    grids,
    transfer_section,
    inversion_section,
    diversity_section,
    estimator_section,
    features.section,
    planted.section,
    gaussian.section,
    sweeps,
    learning,
    per_class,
    provenance,
    glossary,
    citation,
)
"""Every section, in the order of the page."""
