"""Stage `prepare`: D from its source, split into train, validation and test."""

from notbugs.config import settings
from notbugs.files import whole_folder, write_json
from notbugs.images import by_parts, num_parts
from notbugs.sources import DataSettings, load_source
from notbugs.stages.context import Context
from notbugs.store import DatasetWriter


def prepare(project: Context) -> None:
    """Write data/train, data/validation and data/test.

    Command: `notbugs prepare`. Takes seconds on digits, about a minute on 60,000 pictures (for ImageNet see
    docs/scale.md). Expected on digits: 1,797 images in all.
    """
    import pandas as pd

    config = settings(project.params, "data", DataSettings)
    metrics_file = project.root / "metrics" / "prepare.json"
    folders = {split: project.dataset(split) for split in ("train", "validation", "test")}
    with project.tracked(
        "prepare",
        params={"data": config.model_dump(mode="json"), "seed": project.seed},
        inputs=[],
        outputs=[*folders.values(), metrics_file],
        metrics_file=metrics_file,
    ):
        source = load_source(config, seed=project.seed, root=project.root, progress=project.progress)
        for split, folder in folders.items():
            data = source.splits[split]
            examples = pd.DataFrame(
                {
                    "index": range(len(data)),
                    "source_index": source.source_indices[split].numpy(),
                    "label": data.labels.numpy(),
                    "origin": source.origins[split],
                }
            )
            with whole_folder(folder) as unfinished:
                writer = DatasetWriter(unfinished, dtype=config.dtype, shard_size=config.shard_size)
                for part in project.progress(by_parts(data), f"write {split}", num_parts(data)):
                    writer.add(part)
                writer.finish(examples, name=f"D_{split}", source=source.name, settings=config.model_dump(mode="json"))
        train = source.train
        summary = {split: len(data) for split, data in source.splits.items()}
        shape = {"classes": len(train.class_names), "image_shape": list(train.image_shape)}
        write_json(metrics_file, {**summary, **shape})
    counts = ", ".join(f"{count} {split}" for split, count in summary.items())
    for reason in source.skipped:
        project.say(f"prepare: left out: {reason}")
    project.say(f"prepare: {source.name}: {counts} images {train.image_shape}")
