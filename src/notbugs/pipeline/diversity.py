"""Stage `diversity`: how diverse the images of D, D_R and D_NR are, class by class."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from notbugs.data.images import Images, make_generator
from notbugs.data.store import load_dataset
from notbugs.models import load_model
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.source_models import first_sources, source_model_of
from notbugs.runtime.config import settings
from notbugs.runtime.files import write_json
from notbugs.science.common.shares import share
from notbugs.science.diversity import (
    MEASURES,
    DiversitySettings,
    compare_class,
    least_images,
    mean_over_classes,
    prototypicality,
    rows_by_class,
)
from notbugs.science.inversion.inverting import features

DATASETS = {"D_R": "robust", "D_NR": "nonrobust"}
ESTIMATORS = {"robust": "robust", "standard": "nonrobust"}
"""Model in whose representation is looked -> the construction that is made with it."""


def diversity(project: Context) -> None:
    """Write metrics/diversity.json: of the first source seed that D_R and D_NR share.

    Command: `notbugs diversity`. On digits about 20 s.
    """
    config = settings(project.params, "diversity", DiversitySettings)
    made = first_sources(project, *DATASETS.values())
    folders = {"D": project.dataset("train")} | {
        name: project.dataset(key, made[key]) for name, key in DATASETS.items()
    }
    files = {name: source_model_of(project, name, made[key]) for name, key in ESTIMATORS.items()}
    metrics_file = project.root / "metrics" / "diversity.json"
    with project.tracked(
        "diversity",
        params={"diversity": config.model_dump(mode="json"), "runtime": project.runtime.model_dump(mode="json")},
        inputs=[*folders.values(), *files.values()],
        outputs=[metrics_file],
        metrics_file=metrics_file,
    ):
        data = {name: load_dataset(folder) for name, folder in folders.items()}
        rows = rows_by_class(data, config, make_generator(project.seed, "diversity", "rows"))
        spaces: dict[str, Callable[[Tensor], Tensor]] = {"pixels": lambda images: images.flatten(1)}
        for name, file in files.items():
            spaces[name] = partial(features, load_model(file, device=project.device))
        table: dict[str, Any] = {}
        names = [data["D"].class_names[label] for label in rows]
        left_out = _left_out(data["D"], rows)
        per_class: dict[str, Any] = {class_name: {} for class_name in names}
        for space, points in spaces.items():
            classes = _classes(project, config, space, points, data, rows)
            table[space] = mean_over_classes(classes)
            for class_name, measured in zip(names, classes, strict=True):
                per_class[class_name][space] = _values(measured)
        near = {name: share([mask]) for name, mask in prototypicality(data, rows).items()}
        sizes = dict(zip(names, map(len, rows.values()), strict=True))
        write_json(
            metrics_file,
            {
                "sizes": sizes,
                "left_out": left_out,
                "source_seeds": {name: made[key] for name, key in DATASETS.items()},
                "num_neighbours": config.num_neighbours,
                "spaces": table,
                "nearest_own_mean": near,
                "classes": per_class,
            },
        )
    if left_out:
        project.say(
            f"diversity: left out, with fewer than {least_images(config.num_neighbours)} images: " + ", ".join(left_out)
        )
    found = table["pixels"]["D_R"]
    project.say(
        "diversity: D_R beside D, in pixels: "
        + ", ".join(f"{measure.replace('_', ' ')} × {found[measure]['ratio']:.2f}" for measure in MEASURES)
    )


def _classes(
    project: Context,
    config: DiversitySettings,
    space: str,
    points: Callable[[Tensor], Tensor],
    data: Mapping[str, Images],
    rows: Mapping[int, Tensor],
) -> list[dict[str, dict[str, Tensor]]]:
    """`compare_class` for every class, of which alone the images are in memory; every space draws the same samples.

    Args:
        points: images (n, C, H, W) -> where they lie in the space, (n, d).
    """
    return [
        compare_class(
            {name: points(part.select(members).images) for name, part in data.items()},
            config,
            generator=make_generator(project.seed, "diversity", "bootstrap", label),
        )
        for label, members in project.progress(rows.items(), f"diversity: {space}", len(rows))
    ]


def _left_out(data: Images, rows: Mapping[int, Tensor]) -> dict[str, int]:
    """Images of each class that has too few to be measured."""
    counts = data.labels.bincount(minlength=len(data.class_names)).tolist()
    return {name: counts[label] for label, name in enumerate(data.class_names) if label not in rows}


def _values(measured: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, float]]:
    """The measures of one class on the images as they are: dataset -> measure -> value."""
    return {
        name: {measure: round(float(values[0]), 6) for measure, values in measures.items()}
        for name, measures in measured.items()
    }
