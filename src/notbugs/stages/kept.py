"""What stage `evaluate` found of a model, kept in the work folder so that an unchanged model is not measured again."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import notbugs
from notbugs.evaluation import Outcome
from notbugs.files import sha256, write_json
from notbugs.robustness import Audit, Check, SuiteSettings
from notbugs.robustness.certificate import Certificate
from notbugs.stages.context import Context

MEASURING_CODE = (
    "attacks",
    "config.py",
    "evaluation.py",
    "images.py",
    "intervals.py",
    "models",
    "robustness",
    "stages/evaluate.py",
    "stages/kept.py",
)
"""Modules whose change makes kept measurements stale."""


class Kept:
    """Measurements of earlier runs, found by everything that they depend on.

    Args:
        project: its work folder holds them.
        settings: level, radii, batch size.
    """

    def __init__(self, project: Context, settings: SuiteSettings) -> None:
        self._folder = project.root / ".notbugs" / "evaluate"
        self._common = (
            _code(),
            sha256(project.dataset("test") / "manifest.json"),
            settings.model_dump_json(exclude={"suite_seeds"}),
            project.runtime.num_threads,
            project.runtime.engine == "compiled",
            project.seed,
            project.device.type,
            torch.__version__,
        )

    def get(self, model: Path, *others: object, measure: Callable[[], Audit]) -> Audit:
        """What is kept of a model file, else what `measure` finds.

        Args:
            model: the file that was measured.
            others: what else the measurement depends on.
        """
        parts = (*self._common, sha256(model), model.name, *others)
        file = self._folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()}.json"
        try:
            return _from_json(json.loads(file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # not there, or not whole
            found = measure()
            write_json(file, _to_json(found))
            return found


def _code() -> str:
    code = hashlib.sha256()
    package = Path(notbugs.__file__).parent
    for part in MEASURING_CODE:
        files = sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / part]
        for file in files:
            code.update(file.read_bytes())
    return code.hexdigest()


def _to_json(audit: Audit) -> dict[str, Any]:
    return {
        "outcomes": [
            [outcome.labels, outcome.attack, outcome.norm, outcome.eps, _bits(outcome.correct)]
            for outcome in audit.outcomes
        ],
        "norms": {
            attack: [None if math.isinf(norm) else norm for norm in norms.tolist()]
            for attack, norms in audit.norms.items()
        },
        "checks": [
            [check.check, None if math.isnan(check.value) else check.value, check.threshold] for check in audit.checks
        ],
        "certificate": audit.certificate and [part.tolist() for part in audit.certificate],
    }


def _from_json(kept: dict[str, Any]) -> Audit:
    called_and_radius = kept["certificate"]
    return Audit(
        outcomes=[
            Outcome(labels, attack, norm, eps, torch.tensor([bit == "1" for bit in bits], dtype=torch.bool))
            for labels, attack, norm, eps, bits in kept["outcomes"]
        ],
        norms={
            attack: torch.tensor([math.inf if norm is None else norm for norm in norms], dtype=torch.float64)
            for attack, norms in kept["norms"].items()
        },
        checks=[
            Check(name, math.nan if value is None else value, threshold) for name, value, threshold in kept["checks"]
        ],
        certificate=called_and_radius
        and Certificate(
            torch.tensor(called_and_radius[0], dtype=torch.int64),
            torch.tensor(called_and_radius[1], dtype=torch.float64),
        ),
    )


def _bits(correct: Tensor) -> str:
    return "".join("1" if right else "0" for right in correct.tolist())
