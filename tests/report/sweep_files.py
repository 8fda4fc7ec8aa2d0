"""Made-up results of a sweep, with numbers that follow from the point."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

EPS = (0.5, 1.0, 2.0)
STEPS = (1, 4, 16)
SEEDS = (0, 1)
Numbers = Callable[[str, float, int], dict[str, float]]


def numbers(kind: str, eps: float, steps: int) -> dict[str, float]:
    """D_rand is 40, 60, 65% on y; D_det 5, 30, 60% on y and 90, 50, 20% on y + 1; one step loses 20 points."""
    place = EPS.index(eps)
    lost = 0.2 if steps == 1 else 0.0
    on_y = {"rand": (0.40, 0.60, 0.65), "det": (0.25, 0.50, 0.80)}[kind][place] - lost
    shifted = {"rand": (0.05, 0.05, 0.05), "det": (0.90, 0.45, 0.20)}[kind][place]
    return {"accuracy": on_y, "accuracy_shifted": shifted, "still_y": (0.97, 0.90, 0.60)[place]}


def trial_rows(kinds: tuple[str, ...] = ("rand", "det"), values: Numbers = numbers) -> list[dict[str, Any]]:
    """Rows of trials.csv; seed 1 is two points better than seed 0."""
    rows = []
    for kind in kinds:
        for eps in EPS:
            for steps in STEPS:
                for seed in SEEDS:
                    found = values(kind, eps, steps)
                    accuracy = found["accuracy"] + 0.02 * seed - 0.01
                    rows.append(
                        {
                            "kind": kind,
                            "eps": eps,
                            "num_steps": steps,
                            "step_size": 2.5 * eps / steps,
                            "source_eps": "",
                            "seed": seed,
                            "source_seed": seed,
                            "accuracy": accuracy,
                            "accuracy_shifted": found["accuracy_shifted"],
                            "adversarial_accuracy": 0.1 * (1 - found["accuracy"]),
                            "validation_accuracy": accuracy - 0.01,
                            "validation_accuracy_shifted": found["accuracy_shifted"],
                            "validation_adversarial_accuracy": 0.1 * (1 - found["accuracy"]),
                            "attack_success": 0.9,
                            "before": 0.95,
                            "before_neighbour": 0.9,
                            "still_y": found["still_y"],
                            "still_y_neighbour": 0.95,
                            "still_y_both": found["still_y"] - 0.02,
                            "mean_delta_norm": 0.99 * eps,
                            "work": 200 * steps,
                            "fits": len(SEEDS),
                            "state": "COMPLETE",
                        }
                    )
    return rows


def write_sweep(
    root: Path, name: str = "small", rows: list[dict[str, Any]] | None = None, sampler: str = "grid"
) -> Path:
    """Write sweeps/<name>/."""
    rows = rows or trial_rows()
    folder = root / "sweeps" / name
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "trials.csv", index=False)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    points = len({(row["kind"], row["eps"], row["num_steps"]) for row in rows})
    about = {
        "name": name,
        "points": points,
        "states": {"COMPLETE": points},
        "sweep": {"kinds": kinds, "seeds": list(SEEDS), "sampler": sampler},
    }
    (folder / "study.json").write_text(json.dumps(about))
    shares = [(kind, what, *pair) for kind in kinds for what in ("accuracy", "still_y") for pair in _SHARES]
    table = pd.DataFrame(shares, columns=["kind", "measured", "parameter", "importance"])
    table.to_csv(folder / "importance.csv", index=False)
    return folder


_SHARES = (("eps", 0.8), ("num_steps", 0.2))
