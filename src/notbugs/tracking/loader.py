"""How MLflow gets a logged classifier back: `mlflow.pyfunc.load_model(uri).predict(images)`."""

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Predictor:
    """Images (N, C, H, W) float32 in [0, 1] -> logits (N, classes) float32."""

    def __init__(self, path: Path) -> None:
        from notbugs.models import load_model

        self.model = load_model(path)

    def predict(self, images: Array, params: dict[str, Any] | None = None) -> Array:
        """Logits of a batch of images; `params` is part of MLflow's interface and has no effect."""
        import torch

        with torch.no_grad():
            logits: Array = self.model(torch.from_numpy(np.ascontiguousarray(images))).numpy()
        return logits


def _load_pyfunc(path: str) -> Predictor:
    """Called by MLflow with the folder of the model's data."""
    return Predictor(Path(path) / "model.safetensors")
