"""What stage `evaluate` found of a model, kept in the work folder so that an unchanged model is not measured again.

A file holds what was found on one part of the test split, so that a killed stage goes on where it was.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import notbugs
from notbugs.evaluation import Outcome
from notbugs.files import sha256, write_json
from notbugs.robustness import Findings, SuiteSettings
from notbugs.robustness.certificate import Certificate
from notbugs.robustness.masking import Signs, Standing
from notbugs.stages.context import Context

MEASURING_CODE = (
    "attacks",
    "config.py",
    "evaluation.py",
    "halving.py",
    "images.py",
    "intervals.py",
    "models",
    "robustness",
    "stages/kept.py",
    "stages/measuring.py",
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
            settings.model_dump_json(exclude={"suite_seeds", "check_seeds"}),
            project.runtime.num_threads,
            project.runtime.engine == "compiled",
            project.seed,
            project.device.type,
            torch.__version__,
        )

    def get(self, *made_from: object) -> Findings | None:
        """What is kept, if anything is; `made_from` is all that it depends on besides what is said above."""
        try:
            kept = json.loads(self._file(made_from).read_text(encoding="utf-8"))
            return _from_json(kept["found"]) if kept["sha256"] == _checksum(kept["found"]) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # not there, or not whole
            return None

    def put(self, found: Findings, *made_from: object) -> None:
        """Keep what was found."""
        content = _to_json(found)
        write_json(self._file(made_from), {"sha256": _checksum(content), "found": content})

    def _file(self, made_from: tuple[object, ...]) -> Path:
        parts = (*self._common, *made_from)
        return self._folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()}.json"


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _code() -> str:
    code = hashlib.sha256()
    package = Path(notbugs.__file__).parent
    for part in MEASURING_CODE:
        files = sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / part]
        for file in files:
            code.update(file.read_bytes())
    return code.hexdigest()


def _to_json(found: Findings) -> dict[str, Any]:
    return {
        "outcomes": [
            [outcome.labels, outcome.attack, outcome.norm, outcome.eps, _bits(outcome.correct)]
            for outcome in found.outcomes
        ],
        "norms": {
            attack: [None if math.isinf(norm) else norm for norm in norms.tolist()]
            for attack, norms in found.norms.items()
        },
        "standing": found.standing and {name: _bits(mask) for name, mask in vars(found.standing).items()},
        "signs": found.signs
        and {
            **{name: mask if mask is None else _bits(mask) for name, mask in vars(found.signs).items()},
            "random": [None if math.isnan(value) else value for value in found.signs.random.tolist()],
        },
        "certificate": found.certificate and [part.tolist() for part in found.certificate],
    }


def _from_json(kept: dict[str, Any]) -> Findings:
    standing, signs, called_and_radius = kept["standing"], kept["signs"], kept["certificate"]
    if signs is not None:
        random = [math.nan if value is None else value for value in signs.pop("random")]
        masks: dict[str, Any] = {name: bits if bits is None else _mask(bits) for name, bits in signs.items()}
        signs = Signs(random=torch.tensor(random, dtype=torch.float64), **masks)
    return Findings(
        outcomes=[
            Outcome(labels, attack, norm, eps, _mask(bits)) for labels, attack, norm, eps, bits in kept["outcomes"]
        ],
        norms={
            attack: torch.tensor([math.inf if norm is None else norm for norm in norms], dtype=torch.float64)
            for attack, norms in kept["norms"].items()
        },
        standing=standing and Standing(**{name: _mask(bits) for name, bits in standing.items()}),
        signs=signs,
        certificate=called_and_radius
        and Certificate(
            torch.tensor(called_and_radius[0], dtype=torch.int64),
            torch.tensor(called_and_radius[1], dtype=torch.float64),
        ),
    )


def _mask(bits: str) -> Tensor:
    return torch.tensor([bit == "1" for bit in bits], dtype=torch.bool)


def _bits(correct: Tensor) -> str:
    return "".join("1" if right else "0" for right in correct.tolist())
