"""Settings of a pipeline that runs in seconds; a test changes what it is about."""

from typing import Any

SHARED: dict[str, Any] = {
    "experiment": "tiny",
    "seed": 0,
    "num_threads": 1,
    "device": "cpu",
    "precision": "float32",
    "data": {"source": "digits", "max_train": 320, "max_test": 60, "validation_fraction": 0.2},
    "model": {"architecture": "small_cnn", "width": 4},
}
TRAIN = {"seeds": [0, 1], "epochs": 4, "batch_size": 64, "lr": 0.1, "schedule": "one_cycle", "measure_every": 2}
ATTACK = {"eps": 0.5, "num_steps": 2}
_INVERT = {"recipe": "invert", "num_steps": 3, "step_size": 0.1}
_TARGET = {"model": "standard", "eps": 0.5, "num_steps": 3, "step_size": 0.2}
CONSTRUCT: dict[str, dict[str, Any]] = {
    "robust": {**_INVERT, "model": "robust"},
    "nonrobust": {**_INVERT, "model": "standard"},
    "rand": {**_TARGET, "recipe": "random_target"},
    "det": {**_TARGET, "recipe": "deterministic_target"},
}
EVALUATE = {"eps": [0.25, 0.5], "num_steps": 2, "headline_eps": 0.5, "headline_num_steps": 3}
FEATURES = {
    "eps": [0.2],
    "headline_eps": 0.2,
    "num_steps": 2,
    "max_features": 3,
    "max_linear": 5,
    "max_examples": 20,
    "circles": {"num_points": 100},
}
_WORLD_TRAIN = {"epochs": 1, "batch_size": 20, "lr": 0.1}
_WORLD_ATTACK = {"norm": "linf", "eps": 0.03, "num_steps": 1}
_WORLD_TARGET = {**_WORLD_ATTACK, "model": "standard", "step_size": 0.03}
PLANTED = {
    "world": {"num_train": 40, "num_test": 40},
    "model": {"width": 2},
    "standard": _WORLD_TRAIN,
    "robust": {**_WORLD_TRAIN, "attack": _WORLD_ATTACK},
    "invert": {"recipe": "invert", "model": "robust", "num_steps": 2, "step_size": 0.1},
    "rand": {**_WORLD_TARGET, "recipe": "random_target"},
    "det": {**_WORLD_TARGET, "recipe": "deterministic_target"},
    "fit": _WORLD_TRAIN,
    "eps": [0.02],
    "num_steps": 1,
}
_RECIPE = {"epochs": 2, "batch_size": 64, "lr": 0.1}
TINY_PARAMS: dict[str, Any] = {
    **SHARED,
    "engine": "auto",
    "processes": 1,
    "jobs": 1,
    "train": {"standard": TRAIN, "robust": {**TRAIN, "attack": ATTACK}},
    "construct": {
        **CONSTRUCT,
        **{name: {**CONSTRUCT[name], "source_seeds": [0]} for name in ("nonrobust", "det")},
        "weak": {**CONSTRUCT["rand"], "eps": 0.25, "source_seeds": [0]},  # a name that the paper does not have
    },
    "fit": {
        "robust": {**TRAIN, "seeds": [0], "still_y": False, "baseline": True},
        "nonrobust": {**TRAIN, "still_y": False},
        "rand": TRAIN,
        "weak": {**TRAIN, "seeds": [0], "still_y": False},
    },
    "evaluate": {**EVALUATE, "suite_seeds": 1},
    "diagnose": {"max_examples": 60},
    "transfer": {
        "architectures": {"mlp": {"architecture": "mlp", "width": 8}},
        "d": _RECIPE,
        "rand": _RECIPE,
        "det": _RECIPE,
        "attack": ATTACK,
    },
    "inversion": {
        "num_examples": 20,
        "num_test": 20,
        "num_steps": 2,
        "step_size": 0.1,
        "gap_attack": ATTACK,
        "num_bootstrap": 10,
    },
    "diversity": {"num_bootstrap": 10, "num_neighbours": 2},
    "estimator": {
        "eps": [0, 0.5],
        "num_examples": 20,
        "standard": _RECIPE,
        "robust": {**_RECIPE, "attack": ATTACK},
        "other": {"architecture": "mlp", "width": 8},
        "other_eps": 0.5,
        "num_steps": 2,
        "step_size": 0.1,
        "fit": _RECIPE,
        "attack": ATTACK,
    },
    "features": FEATURES,
    "planted": PLANTED,
    "gaussian": {"dimension": 3, "num_samples": 1000, "num_minimax": 20, "num_covariances": 3},
    "science": {},
    "sweep": {"small": {"kinds": ["rand"], "eps": [0.25, 0.5], "num_steps": [1, 3], "seeds": [0]}},
    "report": {"grid_examples": 3},
}
"""All of params.yaml."""
