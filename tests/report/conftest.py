"""A made-up project folder in which every claim of the paper holds; tests bend it to their needs."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sweep_files import write_sweep

from notbugs.data.images import ImageData
from notbugs.data.store import save_dataset
from notbugs.evaluation.intervals import wilson_interval
from notbugs.runtime.config import DATASET_NAMES

N_TEST = 360
SEEDS = (0, 1, 2)
FIT_SEEDS = (0, 1)
EPS = (0.25, 0.5, 1.0)
CLEAN = {
    # model: (clean, shifted, {eps: adversarial})
    ("D", "standard"): (0.99, 0.0, (0.85, 0.35, 0.01)),
    ("D", "robust"): (0.96, 0.0, (0.90, 0.78, 0.45)),
    ("D", "as_D_R"): (0.99, 0.0, (0.86, 0.37, 0.02)),
    ("D_R", "standard"): (0.98, 0.0, (0.90, 0.55, 0.05)),
    ("D_NR", "standard"): (0.97, 0.0, (0.75, 0.22, 0.01)),
    ("D_rand", "standard"): (0.85, 0.02, (0.50, 0.05, 0.00)),
    ("D_rand_still_y", "standard"): (0.82, 0.02, (0.45, 0.04, 0.00)),
    ("D_det", "standard"): (0.60, 0.20, (0.30, 0.02, 0.00)),
    ("D_det_still_y", "standard"): (0.50, 0.30, (0.20, 0.01, 0.00)),
    ("D_rand_from_robust", "standard"): (0.40, 0.05, (0.20, 0.02, 0.00)),
    ("D_det_from_robust", "standard"): (0.05, 0.90, (0.01, 0.00, 0.00)),
}
PARAMS: dict[str, Any] = {
    "experiment": "made-up",
    "seed": 0,
    "num_threads": 2,
    "device": "cpu",
    "data": {"source": "digits"},
    "model": {"architecture": "small_cnn"},
    "train": {
        "standard": {"seeds": [0, 1, 2], "epochs": 4, "lr": 0.1},
        "robust": {
            "seeds": [0, 1, 2],
            "epochs": 4,
            "lr": 0.1,
            "attack": {"norm": "l2", "eps": 1.0, "num_steps": 7},
        },
    },
    "construct": {
        name: {"recipe": "invert" if "_" not in name and name.endswith("robust") else "target"}
        for name in DATASET_NAMES
    },
    "fit": {name: {"epochs": 4, "baseline": name == "robust"} for name in DATASET_NAMES},
    "evaluate": {
        "norm": "l2",
        "eps": list(EPS),
        "num_steps": 20,
        "headline_eps": 0.5,
        "headline_num_steps": 100,
    },
}


def result_rows(
    models: dict[tuple[str, str], tuple[float, float, tuple[float, ...]]],
) -> list[dict[str, Any]]:
    """Rows of results.csv; source model s is three test images better or worse than the mean, its fits equal.

    All attacks together leave five images less than the last PGD: for every model at the headline radius, for D's
    source models also at that of robust training.
    """
    rows = []
    for (dataset, estimator), (clean, shifted, attacked) in models.items():
        measured = [("true", "clean", 0.0, clean), ("shifted", "clean", 0.0, shifted)]
        measured += [("true", "pgd20", eps, value) for eps, value in zip(EPS, attacked, strict=True)]
        measured += [("true", "pgd100", 0.5, max(0.0, attacked[1] - 0.01))]
        direct = (dataset, estimator) in (("D", "standard"), ("D", "robust"))
        worst = max(0.0, attacked[1] - 0.01 - 5 / N_TEST)
        measured += [("true", attack, 0.5, worst) for attack in ("apgd_t20", "square200", "worst")]
        measured += [("true", "worst", 1.0, max(0.0, attacked[2] - 5 / N_TEST))] if direct else []
        for labels, attack, eps, mean in measured:
            for source, seed in [(s, k) for s in SEEDS for k in ((s,) if direct else FIT_SEEDS)]:
                count = min(max(round(mean * N_TEST) + 3 * (source - 1), 0), N_TEST)
                low, high = wilson_interval(count, N_TEST)
                rows.append(
                    {
                        "dataset": dataset,
                        "estimator": estimator,
                        "seed": seed,
                        "source_seed": "" if direct else source,
                        "architecture": "small_cnn",
                        "source": "digits",
                        "construction_eps": 1.0 if "rand" in dataset or "det" in dataset else "",
                        "labels": labels,
                        "attack": attack,
                        "norm": "l2",
                        "eps": eps,
                        "accuracy": count / N_TEST,
                        "low": low,
                        "high": high,
                        "n": N_TEST,
                    }
                )
    return rows


def correct_examples(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Which test images are right, as the rows' accuracies say: the first ones; on shifted labels the last ones."""
    parts = []
    for row in rows:
        count, n = round(row["accuracy"] * row["n"]), row["n"]
        example = np.arange(n)
        correct = example < count if row["labels"] == "true" else example >= n - count
        identity = {key: row[key] for key in ("dataset", "estimator", "seed", "labels", "attack", "eps")}
        identity["source_seed"] = pd.NA if row["source_seed"] == "" else row["source_seed"]
        parts.append(pd.DataFrame({**identity, "example": example, "correct": correct}))
    return pd.concat([part.astype({"source_seed": "Int64"}) for part in parts], ignore_index=True)


def write_robustness(root: Path, models: dict[tuple[str, str], Any]) -> None:
    """What stage `evaluate` writes beside the table of results."""
    rows = result_rows(models)
    write_csv(root / "metrics/results.csv", rows)
    correct_examples(rows).to_parquet(root / "metrics/per_example.parquet", index=False)
    norms = [
        pd.DataFrame(
            {"dataset": d, "estimator": e, "seed": 0, "attack": "ddn50", "norm": "l2", "example": np.arange(N_TEST)}
        ).assign(source_seed=None if d == "D" else 0, distance=np.linspace(0, attacked[1] + 0.3, N_TEST))
        for (d, e), (_, _, attacked) in models.items()
    ]
    pd.concat(norms, ignore_index=True).to_parquet(root / "metrics/minimum_norms.parquet", index=False)
    checks = [
        {
            "model": f"{d}/{e}/{'' if d == 'D' else 'source-0/'}seed-0",
            "check": name,
            "passed": True,
            "value": 0.0,
            "threshold": threshold,
        }
        for d, e in models
        for name, threshold in (("white_box_beats_noise", 0.0028), ("gradients_not_zero", 0.01))
    ]
    write_json(root / "metrics/checks.json", checks)
    (root / "metrics/certificates.csv").write_text(
        "dataset,estimator,source_seed,seed,sigma,eps,accuracy,abstained,n\n"
    )


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _quantiles(values: "np.ndarray[Any, Any]") -> dict[str, float]:
    levels = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
    return {
        **{name: float(np.quantile(values, level)) for name, level in levels.items()},
        "mean": float(values.mean()),
    }


def write_curves(root: Path, name: str, *, adversarial: bool) -> None:
    rows = []
    for seed in SEEDS:
        for epoch in range(1, 5):
            measured = epoch % 2 == 0
            rows.append(
                {
                    "subset": "full",
                    "source_seed": 0 if name.startswith("fit") else "",
                    "seed": seed,
                    "epoch": epoch,
                    "lr": 0.1,
                    "train_loss": 2.0 / epoch,
                    "train_accuracy": 1 - 0.5 / epoch,
                    "validation_accuracy": 0.95 - 0.4 / epoch + 0.02 * seed if measured else "",
                    "validation_accuracy_shifted": 0.05 if measured else "",
                    "validation_adversarial_accuracy": 0.5 - 0.2 / epoch if adversarial and measured else "",
                }
            )
    write_csv(root / f"plots/learning/{name}.csv", rows)


def _write_datasets(root: Path, names: list[str]) -> None:
    digits = load_digits()
    images = torch.tensor(digits.images[:200] / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target[:200], dtype=torch.int64)
    classes = tuple(str(name) for name in range(10))
    base = pd.DataFrame({"index": range(200), "source_index": range(200), "label": labels, "origin": ""})
    for name in ("train", "validation", "test"):
        save_dataset(
            root / "data" / name,
            ImageData(images, labels, classes),
            base,
            name="D",
            source="digits",
            settings={},
        )
    generator = torch.Generator().manual_seed(0)
    for name in names:
        inverted = name in ("robust", "nonrobust")
        start = (torch.arange(200) + 7) % 200 if inverted else torch.full((200,), -1)
        given = (
            labels
            if inverted
            else (labels + 1) % 10
            if name.startswith("det")
            else torch.randint(0, 10, (200,), generator=generator)
        )
        new = images[start] * 0.4 + images * 0.6 if inverted else images
        new = (new + 0.08 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        norms = (new - images).flatten(1).norm(dim=1)
        to_start = (new - images[start]).flatten(1).norm(dim=1) if inverted else torch.full((200,), torch.nan)
        examples = pd.DataFrame(
            {
                "index": range(200),
                "source_index": range(200),
                "start_index": start,
                "true_label": labels,
                "given_label": given,
                "delta_norm": norms,
                "pixel_distance_start": to_start,
            }
        )
        save_dataset(
            root / "data" / name / "source-0",
            ImageData(new, given, classes),
            examples,
            name=DATASET_NAMES[name],
            source="digits",
            settings={},
        )
        facts: dict[str, Any] = {"num_examples": 200, "success_rate": 0.9, "given_is_true": 0.1}
        facts["delta_norm"] = _quantiles(norms.numpy())
        if inverted:
            facts["pixel_distance_start"] = _quantiles(to_start.numpy())
            facts["representation_distance"] = {
                "q05": 0.1,
                "q25": 0.2,
                "median": 0.3,
                "q75": 0.4,
                "q95": 0.5,
                "mean": 0.3,
            }
            facts["representation_distance_start"] = {
                "q05": 1.0,
                "q25": 2.0,
                "median": 3.0,
                "q75": 4.0,
                "q95": 5.0,
                "mean": 3.0,
            }
        facts["success_other_seeds"] = None
        facts["robust_model"] = {"before": 1.0, "still_y": 0.93, "still_y_absolute": 0.93, "target": 0.12}
        facts["nearest_neighbour"] = {"before": 0.99, "still_y": 0.91, "still_y_absolute": 0.90, "target": 0.11}
        facts["still_y_both"], facts["num_still_y"] = 0.88, 176
        write_json(root / f"metrics/construct/{name}.json", {**facts, "sources": {"0": facts}})


def write_project(root: Path, *, constructions: tuple[str, ...] = tuple(DATASET_NAMES), grid_examples: int = 2) -> Path:
    """Write everything that the report reads."""
    datasets = {"D", *(DATASET_NAMES[name] + suffix for name in constructions for suffix in ("", "_still_y"))}
    models = {model: values for model, values in CLEAN.items() if model[0] in datasets}
    if "robust" not in constructions:
        del models["D", "as_D_R"]
    params = {
        **PARAMS,
        **{key: {name: PARAMS[key][name] for name in constructions} for key in ("construct", "fit")},
    }
    params["report"] = {"grid_examples": grid_examples}
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    (root / "metrics").mkdir()
    write_robustness(root, models)
    per_class = [
        {
            "dataset": d,
            "estimator": e,
            "source_seed": "" if d == "D" else 0,
            "seed": seed,
            "class_name": str(label),
            "accuracy": max(0.0, round(clean - 0.01 * label - 0.01 * seed, 4)),
            "n": 36,
        }
        for (d, e), (clean, _, _) in models.items()
        for seed in SEEDS
        for label in range(10)
    ]
    write_csv(root / "metrics/per_class.csv", per_class)
    write_json(
        root / "metrics/prepare.json",
        {"train": 200, "validation": 200, "test": N_TEST, "classes": 10, "image_shape": [1, 8, 8]},
    )
    for name in ("standard", "robust"):
        write_curves(root, f"train-{name}", adversarial=True)
        folder = root / "models/train" / name
        folder.mkdir(parents=True)
        (folder / "seed-0.safetensors").write_bytes(name.encode())
    for name in constructions:
        write_curves(root, f"fit-{name}", adversarial=False)
    _write_datasets(root, list(constructions))
    return root


@pytest.fixture(scope="session", autouse=True)
def _quick_pictures() -> Iterator[None]:
    """Coarse, and with nothing moved so that labels do not overlap, which takes longer than all else of a page."""
    save = Figure.savefig

    def save_coarsely(self: Figure, *args: Any, **options: Any) -> None:
        self.set_layout_engine("none")
        save(self, *args, **{**options, "dpi": 40})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", save_coarsely)
        yield


@pytest.fixture(scope="session")
def make_project() -> Callable[..., Path]:
    """`write_project`, for tests that want their own or a smaller one."""
    return write_project


@pytest.fixture(scope="session")
def fake_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole project in which every claim holds; read only."""
    root = write_project(tmp_path_factory.mktemp("project") / "lab", grid_examples=10)
    write_sweep(root)
    return root
