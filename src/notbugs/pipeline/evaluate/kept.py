"""What stage `evaluate` found of a model, kept in the work folder so that an unchanged model is not measured again.

A file holds what was found on one part of the test split, so that a killed stage goes on where it was.
"""

import math
from typing import Any

import torch
from torch import Tensor

from notbugs.evaluation.accuracy import Outcome
from notbugs.evaluation.certificate import Certificate
from notbugs.evaluation.levels import SuiteSettings
from notbugs.evaluation.masking import Signs, Standing
from notbugs.evaluation.suite import Audit
from notbugs.pipeline.running.context import Context
from notbugs.runtime.cache import ResultCache, work_folder
from notbugs.runtime.files import sha256
from notbugs.runtime.imports import made_with

STAGE = "notbugs.pipeline.evaluate"
"""The module that measures; with all that it imports (the reader of the data too) it made a measurement."""


class Kept:
    """Measurements of earlier runs, found by everything that they depend on.

    Args:
        project: its work folder holds them.
        settings: level, radii, batch size.
    """

    def __init__(self, project: Context, settings: SuiteSettings) -> None:
        self._results = ResultCache(work_folder(project.root, "evaluate"))
        self._common = {
            **made_with(STAGE),
            "data": sha256(project.dataset("test") / "manifest.json"),
            "settings": settings.model_dump(mode="json", exclude={"suite_seeds", "check_seeds"}),
            "num_threads": project.runtime.num_threads,
            "compiled": project.runtime.engine == "compiled",
            "seed": project.seed,
            "device": project.device.type,
        }

    def get(self, *made_from: object) -> Audit | None:
        """What is kept, if anything is; `made_from` is all that it depends on besides what is said above."""
        found = self._results.get(self._key(made_from))
        try:
            return None if found is None else _from_json(found)
        except (ValueError, KeyError, TypeError):
            return None

    def put(self, found: Audit, *made_from: object) -> None:
        """Keep what was found."""
        self._results.put(self._key(made_from), _to_json(found))

    def _key(self, made_from: tuple[object, ...]) -> dict[str, Any]:
        return {**self._common, "of": made_from}


def _to_json(found: Audit) -> dict[str, Any]:
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


def _from_json(kept: dict[str, Any]) -> Audit:
    standing, signs, called_and_radius = kept["standing"], kept["signs"], kept["certificate"]
    if signs is not None:
        random = [math.nan if value is None else value for value in signs.pop("random")]
        masks: dict[str, Any] = {name: bits if bits is None else _mask(bits) for name, bits in signs.items()}
        signs = Signs(random=torch.tensor(random, dtype=torch.float64), **masks)
    return Audit(
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
