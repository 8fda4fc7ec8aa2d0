"""How near inversions come to g(x), by steps and schedule, and what they take: a trade-off, on any project's models.

    python benchmarks/inversions.py PROJECT [IMAGES]    # a project whose source models are trained; default 200 images

Inverts training images of all classes by the robust and by the standard model of the lowest seed, from the same other
images, with steps of constant length (the paper's: 1,000 of 0.1) and with steps that shorten to 0, with momentum 0.75.
Writes benchmarks/inversions-<source>.csv and .md: a row a model and schedule with the median of the distance
‖g(x_r) − g(x)‖ as a share of where it began, how far x_r lies from x in pixels, and the seconds.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from notbugs.construction.building import construct
from notbugs.data.images import make_generator, stratified_subset
from notbugs.data.store import load_dataset
from notbugs.models import load_model
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.running.models import source_models
from notbugs.runtime.files import write_csv, write_text

HERE = Path(__file__).parent
CONSTANT = [("constant", 0.0, steps, 0.1) for steps in (20, 60, 100, 300, 1000)]
SHORTENED = [("linear", 0.75, steps, length) for steps in (20, 60, 100) for length in (0.25, 0.5, 1.0, 2.0)]
COLUMNS = ("model", "schedule", "momentum", "num_steps", "step_size", "distance_share", "pixel_distance", "seconds")


def measure(root: Path, count: int) -> tuple[str, list[dict[str, Any]]]:
    """The name of D's source, and the rows."""
    project, data = open_project(root), load_dataset(root / "data/train")
    some, rows = data.select(stratified_subset(data.labels, count, make_generator(0))), []
    for name in ("robust", "standard"):
        model = load_model(source_models(project, name)[0], device=project.device)
        for schedule, momentum, steps, length in (*CONSTANT, *SHORTENED):
            how = {"schedule": schedule, "momentum": momentum, "num_steps": steps, "step_size": length}
            started = time.perf_counter()
            made = construct(model, some, "invert", generator=make_generator(0), **how)
            seconds = time.perf_counter() - started
            shares = made.columns["representation_distance"] / made.columns["representation_distance_start"]
            pixels = (made.data.images - some.images).flatten(1).norm(dim=1)
            found = {"distance_share": statistics.median(shares.tolist()), "pixel_distance": float(pixels.median())}
            found = {key: round(value, 5) for key, value in {**found, "seconds": seconds}.items()}
            rows.append({"model": name, **how, **found})
            print(rows[-1], flush=True)
    return data.manifest.source, rows


def page(source: str, count: int, rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [f"# Inversions on {source}, {count} images", "", *(__doc__ or "").strip().splitlines()[4:8], ""]
    lines += [
        "| model | schedule | momentum | steps | length | distance left, % | ‖x_r − x‖₂ | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        lines.append(
            f"| {one['model']} | {one['schedule']} | {one['momentum']:g} | {one['num_steps']} | {one['step_size']:g} "
            f"| {100 * one['distance_share']:.2f} | {one['pixel_distance']:.2f} | {one['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(project: str, images: str = "200") -> None:
    """Measure and write."""
    source, rows = measure(Path(project).resolve(), int(images))
    file = HERE / f"inversions-{source.partition(':')[2] or source}"
    write_text(file.with_suffix(".md"), page(source, int(images), rows))
    write_csv(file.with_suffix(".csv"), COLUMNS, rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
