"""Stage `prepare`: D from its source, split into train, validation and test."""

import torch

from notbugs.data.images import by_parts, fingerprints, part_rows
from notbugs.data.inspection import in_two_splits
from notbugs.data.sources import load_source
from notbugs.data.store import DatasetWriter
from notbugs.pipeline.running.job import Job
from notbugs.runtime.files import whole_folder, write_json


def prepare(job: Job) -> None:
    """Write data/train, data/validation and data/test.

    Command: `notbugs prepare`. Takes seconds on digits, about a minute on 60,000 pictures (for ImageNet see
    docs/scale.md). Expected on digits: 1,797 images in all.
    """
    import pandas as pd

    project, config = job.project, job.settings
    folders = {split: project.dataset(split) for split in ("train", "validation", "test")}
    with job.begin():
        source = load_source(config, seed=project.seed, root=project.root, progress=project.progress)
        contents = {}
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
                found = []
                for part in project.progress(by_parts(data), f"write {split}, parts", len(part_rows(data))):
                    writer.add(part)
                    found.append(fingerprints(part.images))
                contents[split] = torch.cat(found)
                writer.finish(examples, name=f"D_{split}", source=source.name, settings=config.model_dump(mode="json"))
        train = source.train
        summary = {split: len(data) for split, data in source.splits.items()}
        shape = {"classes": len(train.class_names), "image_shape": list(train.image_shape)}
        twice = in_two_splits(contents)
        write_json(job.metrics_file, {**summary, **shape, "duplicates": twice})
    counts = ", ".join(f"{count} {split}" for split, count in summary.items())
    for reason in source.skipped:
        job.say(f"left out: {reason}")
    for split, count in twice.items():
        if count:
            place = "train or validation" if split == "test" else "train"
            job.say(f"{count} of {summary[split]} {split} images are in {place} too, pixel by pixel")
    job.say(f"{source.name}: {counts} images {train.image_shape}")
