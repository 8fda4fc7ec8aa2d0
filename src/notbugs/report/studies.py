"""Sweeps in the report: the studies under sweeps/, their figures, and the answer to Reviewer 3."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from notbugs.evaluation.results import ResultsError, percent, read_table
from notbugs.evaluation.trials import COLUMNS, IMPORTANCE_COLUMNS, MEASURED
from notbugs.report import sweep_figures as figures
from notbugs.report.blocks import Block, Picture, Table, Text, name, number
from notbugs.report.drawing import report_style, to_png
from notbugs.report.honesty import CALLED_BEFORE, STILL_Y_SHARE, Pipeline, judged
from notbugs.report.sweeps import answer
from notbugs.runtime.config import DATASET_NAMES
from notbugs.runtime.files import sha256, whole_folder

if TYPE_CHECKING:
    import pandas as pd

_MAY_BE_EMPTY = ("eps", "source_eps", "source_seed")
FITS = ("source_seed", "seed", "accuracy", "accuracy_shifted")
"""What a point keeps of each of its fits."""


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        name: of its folder under sweeps/.
        about: study.json: settings, counts, hashes of the inputs.
        points: the complete points as means over their seeds, with `accuracy_std`, `honest`, `num_seeds`.
        importance: share of the variance that each parameter explains.
    """

    name: str
    about: dict[str, Any]
    points: "pd.DataFrame"
    importance: "pd.DataFrame"

    @property
    def kinds(self) -> list[str]:
        """The datasets that were made, in the order of the settings."""
        made = set(self.points["kind"])
        return [kind for kind in self.about["sweep"]["kinds"] if kind in made]

    def of(self, kind: str) -> "pd.DataFrame":
        """The points of one dataset."""
        return self.points[self.points["kind"] == kind]


def load_studies(root: Path) -> list[Study]:
    """Every study with results, by name, except those of other data than the project has now."""
    return [study for study in _all_studies(root) if _is_of_present_data(root, study)]


def _all_studies(root: Path) -> list[Study]:
    return [load_study(root, file.parent.name) for file in sorted((root / "sweeps").glob("*/trials.csv"))]


def _is_of_present_data(root: Path, study: Study) -> bool:
    manifest = root / "data" / "train" / "manifest.json"
    return "data" not in study.about or not manifest.exists() or study.about["data"] == sha256(manifest)


def load_study(root: Path, study: str) -> Study:
    """One study.

    Raises: ResultsError naming the file that is missing or wrong, and the command that makes it.
    """
    folder = root / "sweeps" / study
    trials = read_table(folder / "trials.csv", COLUMNS, f"sweep@{study}", (*_MAY_BE_EMPTY, *MEASURED, "work"))
    try:
        about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        importance = _importance(folder / "importance.csv")
    except (OSError, ValueError) as error:
        raise ResultsError(f"{folder}: cannot be read: {error}; `notbugs sweep {study}` writes it again") from None
    return Study(study, about, mean_points(trials[trials["state"] == "COMPLETE"]), importance)


def _importance(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_csv(path, dtype=IMPORTANCE_COLUMNS)


def mean_points(trials: "pd.DataFrame") -> "pd.DataFrame":
    """Points as means over their seeds.

    Returns: one row a point with the measurements, `accuracy_std` and `accuracy_shifted_std` (over seeds; 0 for
        one), `num_seeds`, `runs`: the FITS of each, `honest`: whether both judges still call STILL_Y_SHARE of the
        images y, and `on_edge`: whether one image, or one standard error, more or less would change that.
    """
    import pandas as pd

    point = ["kind", "source_eps", "eps", "num_steps", "step_size"]
    floats = trials.astype(dict.fromkeys(("eps", "source_eps", "step_size", *MEASURED), "float64"))
    groups = floats.groupby(point, dropna=False, sort=True)
    means = groups[[*MEASURED, "work"]].mean()
    for measured in ("accuracy", "accuracy_shifted"):
        means[f"{measured}_std"] = groups[measured].std().fillna(0.0)
    means["num_seeds"] = groups.size()
    means = means.reset_index()
    runs = [fits[list(FITS)].to_dict(orient="records") for _, fits in groups]
    means["runs"] = pd.Series(runs, index=means.index, dtype=object)
    return judged(means, {})


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """Every figure of a study, with its file name without suffix."""
    for kind in study.kinds:
        for suffix, points in _by_source(study, kind):
            yield f"sweep_{study.name}_{kind}{suffix}_heatmaps", figures.heatmaps(points, kind, study.about)
    for title, build in (
        ("lines", figures.lines),
        ("budget", figures.budget),
        ("front", figures.front),
        ("importance", figures.importance),
    ):
        figure = build(study)
        if figure is not None:
            yield f"sweep_{study.name}_{title}", figure


def _by_source(study: Study, kind: str) -> Iterator[tuple[str, "pd.DataFrame"]]:
    """Points of a kind, apart for each source model where the other axis is eps."""
    points = study.of(kind)
    if points["eps"].isna().all() or points["source_eps"].nunique(dropna=False) == 1:
        yield "", points
        return
    for source_eps, group in points.groupby("source_eps"):
        yield f"_source_{source_eps:g}", group


def sweep_pictures(root: Path) -> dict[str, bytes]:
    """PNG of every figure of every study; to be called within `report_style`."""
    return {name: to_png(figure) for study in load_studies(root) for name, figure in draw(study)}


def write_figures(root: Path, study: str) -> list[Path]:
    """Draw one study into sweeps/<study>/figures.

    Raises: ResultsError if it has no results.
    """
    found = load_study(root, study)
    folder = root / "sweeps" / study / "figures"
    with whole_folder(folder) as unfinished, report_style():
        for title, figure in draw(found):
            (unfinished / f"{title}.png").write_bytes(to_png(figure))
    return sorted(folder.glob("*.png"))


def sweep_blocks(
    root: Path,
    pictures: dict[str, bytes],
    num_classes: int,
    num_images: int,
    pipeline: Mapping[str, Pipeline] | None = None,
) -> list[Block]:
    """What the report's section says and shows of every study.

    Args:
        num_images: test images.
        pipeline: kind -> the eps of the pipeline's own dataset and what its judges said: there these decide.
    """
    every = _all_studies(root)
    studies = [study for study in every if _is_of_present_data(root, study)]
    blocks: list[Block] = []
    if studies:
        blocks.append(
            Text(
                "Reviewer 3 of the paper asked how sensitive D_rand and D_det are to eps. Each study below makes the "
                "datasets at many eps and numbers of steps with the same source models, fits each anew and measures "
                "it. Step size: 2.5·eps/steps unless said otherwise. Test accuracies; what is called best was "
                "chosen on validation."
            )
        )
    others = [study.name for study in every if not _is_of_present_data(root, study)]
    if others:
        blocks.append(Text(f"Left out, since made from other data than the project has now: {', '.join(others)}."))
    for study in studies:
        blocks += [Text(_heading(study)), *(Text(words) for words in answer(study, num_classes, num_images, pipeline))]
        blocks.append(_table(study, pipeline or {}))
        blocks += [
            Picture(title, png, f"{_what(title, study)} of the study {study.name}", _caption(title, study))
            for title, png in pictures.items()
            if title.startswith(f"sweep_{study.name}_") and _belongs(title, study, studies)
        ]
    return blocks


def _belongs(title: str, study: Study, studies: list[Study]) -> bool:
    """Whether a picture is this study's and not that of one with a longer name that starts the same."""
    longer = [other.name for other in studies if other.name.startswith(f"{study.name}_")]
    return not any(title.startswith(f"sweep_{name}_") for name in longer)


def _heading(study: Study) -> str:
    states = ", ".join(f"{count} {state.lower()}" for state, count in study.about["states"].items())
    seeds = len(study.about["sweep"]["seeds"])
    sampler = study.about["sweep"]["sampler"]
    return (
        f"Study {study.name} ({sampler}): {study.about['points']} points ({states}), "
        f"{seeds} fit{'s' * (seeds != 1)} of each."
        + (" One fit a point: differences of a few points may be chance." if seeds == 1 else "")
    )


def _table(study: Study, own: Mapping[str, Pipeline]) -> Table:
    """The best honest point of each dataset by validation, and the best of all."""
    rows = []
    for kind in study.kinds:
        points = judged(study.of(kind), own)
        for words, some in (("both judges still call 85% y", points[points["honest"]]), ("all", points)):
            if not len(some):
                rows.append([name(DATASET_NAMES[kind], f"best of {words}: none"), *[number("–")] * 7])
                continue
            best = some.iloc[int(some["validation_accuracy"].to_numpy(dtype=float).argmax())]
            eps = "–" if best["eps"] != best["eps"] else f"{best['eps']:g}"
            shares = ("accuracy", "accuracy_shifted", "adversarial_accuracy", "attack_success", "still_y")
            cells = [number(eps), number(f"{best['num_steps']:g}"), *(number(percent(best[key])) for key in shares)]
            rows.append([name(DATASET_NAMES[kind], f"best of {words}"), *cells])
    heads = ("eps", "steps", "on y", "on y + 1", "under attack", "success", "still y")
    return Table(
        f"The best points by validation accuracy, test accuracies in %. Still y: of the images that the robust model "
        f"{CALLED_BEFORE}.",
        [name("dataset"), *map(number, heads)],
        rows,
    )


def _what(title: str, study: Study) -> str:
    rest = title.removeprefix(f"sweep_{study.name}_")
    return {
        "lines": "Accuracy on y and on y + 1 against eps",
        "budget": "Accuracy against images times steps",
        "front": "Clean against adversarial accuracy",
        "importance": "Importance of the parameters",
    }.get(rest, "Heatmaps over eps and steps")


def _caption(title: str, study: Study) -> str:
    rest = title.removeprefix(f"sweep_{study.name}_")
    limit = f"{100 * STILL_Y_SHARE:g}%"
    captions = {
        "lines": "Mean over seeds; bars: one standard deviation. Hollow points: a judge no longer calls "
        f"{limit} of the images y that it {CALLED_BEFORE}.",
        "budget": "What an accuracy costs: images times steps of the construction.",
        "front": "Clean and adversarial test accuracy of every point. Line: points that no other one beats in both, "
        "found on validation.",
        "importance": "Share of the variance over the points that each parameter explains (functional ANOVA on a "
        "random forest; Hutter et al. 2014).",
    }
    return captions.get(
        rest,
        f"Means over seeds. Hatched: the robust model or a nearest neighbour still calls fewer than {limit} y of the "
        f"images that it {CALLED_BEFORE}, so the accuracy there says nothing about non-robust features.",
    )
