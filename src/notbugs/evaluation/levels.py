"""How thoroughly a model is attacked: the section `evaluate` of params.yaml, and what each level stands for."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from notbugs.attacks import AttackSettings
from notbugs.evaluation.accuracy import EvaluateSettings
from notbugs.evaluation.certificate import CertificateSettings

LevelName = Literal["quick", "standard", "paper"]


@dataclass(frozen=True)
class Level:
    """The attacks of a level, beyond those that every model gets.

    Attributes:
        restarts: (num_steps, num_restarts) of PGD from random starts.
        more_steps: (num_steps, num_restarts) of PGD with more steps than the headline's; 0 steps for none.
        minimum: norm -> (attack, num_steps) that look for the smallest perturbation, on every image.
        fixed: (attack, num_steps) within the headline radius, each on what stands so far.
        square: queries of Square, the last.
    """

    restarts: tuple[int, int]
    more_steps: tuple[int, int]
    minimum: dict[str, tuple[tuple[str, int], ...]]
    fixed: tuple[tuple[str, int], ...]
    square: int


LEVELS: dict[LevelName, Level] = {
    "quick": Level(
        restarts=(20, 3),
        more_steps=(0, 1),
        minimum={"l2": (("ddn", 50),), "linf": (("fmn", 50),)},
        fixed=(("apgd_t", 20),),
        square=200,
    ),
    "standard": Level(
        restarts=(100, 5),
        more_steps=(500, 1),
        minimum={"l2": (("ddn", 200), ("cw", 100)), "linf": (("fmn", 200),)},
        fixed=(("apgd_ce", 100), ("apgd_t", 100), ("fab_t", 100)),
        square=5000,
    ),
    "paper": Level(
        restarts=(100, 10),
        more_steps=(2500, 5),
        minimum={"l2": (("ddn", 1000), ("cw", 1000)), "linf": (("fmn", 1000),)},
        fixed=(("apgd_ce", 100), ("apgd_t", 100), ("fab_t", 100)),
        square=5000,
    ),
}
"""AutoAttack's standard set is apgd_ce, apgd_t and fab_t with 100 steps and square with 5,000 queries."""


class SuiteSettings(EvaluateSettings):
    """How every model is measured on the test split, and how thoroughly."""

    level: LevelName = "quick"
    """Attacks beyond PGD: quick adds seconds a model, standard AutoAttack's set and Carlini-Wagner, paper
    PGD of 2,500 steps with restarts and Carlini-Wagner of 1,000."""
    suite_seeds: int | None = Field(default=None, ge=0)
    """How many models of each kind the level's attacks are run on: the first fit of every source model, then the
    second ones; null for all."""
    check_seeds: int = Field(default=1, ge=0)
    """How many of those are also checked for masked gradients, certified, and searched for the smallest perturbation of
    every image; on the others that search takes only the images that still stand."""
    batch_size: int = Field(default=500, ge=1)
    """Images attacked at a time; random starts depend on it."""
    certificate: CertificateSettings | None = None
    """Randomised smoothing of the same models; null for none."""

    @property
    def attacks_of_level(self) -> Level:
        """What `level` stands for."""
        return LEVELS[self.level]

    def pgd(self, num_steps: int, num_restarts: int = 1) -> AttackSettings:
        """PGD within the headline radius; from random starts if there are several."""
        return AttackSettings(
            norm=self.norm,
            eps=self.headline_eps,
            num_steps=num_steps,
            random_start=num_restarts > 1,
            num_restarts=num_restarts,
        )


RANDOM_STARTS = ("evaluate", "random start")
"""Purpose of the random numbers by which models are attacked (`images.make_generator`)."""


def pgd_name(num_steps: int, num_restarts: int = 1) -> str:
    """PGD's name in the results: "pgd100", "pgd100x5" with restarts."""
    return f"pgd{num_steps}" + (f"x{num_restarts}" if num_restarts > 1 else "")
