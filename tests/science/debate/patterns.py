"""A made-up world of orthogonal patterns, and linear classifiers that read them: all is known in closed form."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from notbugs import allow
from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import StoredDataset, load_dataset, save_dataset
from notbugs.models import ModelSettings
from notbugs.models.base import Classifier
from notbugs.science.common.lab import Lab

CLASSES = ("a", "b", "c", "d")
BASIS = torch.from_numpy(hadamard(64)).float() / 8  # (64, 64), rows of length 1; all but the first have mean 0
STRONG, FINE, OTHER = BASIS[1:5], BASIS[5:9], BASIS[9:13]  # (4, 64), one row a class
FIT = {"epochs": 15, "batch_size": 25, "lr": 0.1, "schedule": "one_cycle"}


def world(
    count: int,
    name: str,
    *,
    strong: float = 0.0,
    fine: float = 0.0,
    other: float = 0.0,
    agreement: float = 1.0,
    noise: float = 0.02,
) -> ImageData:
    """Images 1/2 + strong·s_k + fine·f_y + other·o_y + noise, the classes in turn.

    Args:
        strong, fine, other: amplitudes. agreement: share of the images with k = y; the rest show another class's.
        noise: standard deviation of each value.
    """
    draw = make_generator(0, "patterns", name)
    labels = torch.arange(count) % 4
    lies = torch.rand(count, generator=draw) >= agreement
    shown = torch.where(lies, (labels + torch.randint(1, 4, (count,), generator=draw)) % 4, labels)
    images = 0.5 + strong * STRONG[shown] + fine * FINE[labels] + other * OTHER[labels]
    images += noise * torch.randn(count, 64, generator=draw)
    return ImageData(images.view(-1, 1, 8, 8).clamp(0, 1), labels, CLASSES)


def plain(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """An architecture without hidden layers: it learns a sum of what its images show."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), num_classes))


def linear(weights: Tensor) -> Classifier:
    """Logits weights·x, (4, 64)."""
    model = Classifier(nn.Flatten(), 1, 64, 4)
    with torch.no_grad():
        model.head.weight.copy_(weights)
        model.head.bias.zero_()
    return model.eval()


def stored(folder: Path, data: ImageData) -> StoredDataset:
    table = pd.DataFrame({"index": range(len(data)), "label": data.labels.numpy()})
    save_dataset(folder, data, table, name=folder.name, source="testing", settings={})
    return load_dataset(folder)


@dataclass(frozen=True)
class PlantedLab(Lab):
    """A lab whose model files are names of models in memory."""

    planted: Mapping[str, Classifier] = field(default_factory=dict)

    def load(self, file: Path) -> Classifier:
        return self.planted[file.name]


def lab_of(folder: Path, train: ImageData, test: ImageData, **models: list[Classifier]) -> PlantedLab:
    """D, and source models by kind; the first of each kind is the source."""
    allow(["patterns:plain"])
    planted = {f"{kind}-{number}": model for kind, found in models.items() for number, model in enumerate(found)}
    return PlantedLab(
        seed=0,
        data={"train": stored(folder / "train", train), "test": stored(folder / "test", test)},
        models={kind: found[0] for kind, found in models.items()},
        trained={kind: [Path(f"{kind}-{number}") for number in range(len(found))] for kind, found in models.items()},
        architecture=ModelSettings(architecture="patterns:plain"),
        planted=planted,
    )
