"""How thoroughly a model is attacked: the section `evaluate` of params.yaml, and what each level stands for."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from notbugs.attacks.norms import NormName
from notbugs.attacks.settings import WithLoss
from notbugs.runtime.config import Radii, Settings

LevelName = Literal["quick", "standard", "paper"]


@dataclass(frozen=True)
class Level:
    """The attacks of a level, beyond those that every model gets.

    Attributes:
        restarts: (num_steps, num_restarts) of PGD from random starts.
        more_steps: (num_steps, num_restarts) of PGD with more steps than the headline's; 0 steps for none.
        minimum: (attack, num_steps) that look for the smallest perturbation, on every image.
        fixed: (attack, num_steps) within the headline radius, each on what stands so far.
        square: queries of Square, the last.

    Of all these, those are run that the norm says work in it (`norms.Ball`).
    """

    restarts: tuple[int, int]
    more_steps: tuple[int, int]
    minimum: tuple[tuple[str, int], ...]
    fixed: tuple[tuple[str, int], ...]
    square: int


LEVELS: dict[LevelName, Level] = {
    "quick": Level(
        restarts=(20, 3),
        more_steps=(0, 1),
        minimum=(("ddn", 50), ("fmn", 50)),
        fixed=(("apgd_t", 20),),
        square=200,
    ),
    "standard": Level(
        restarts=(100, 5),
        more_steps=(500, 1),
        minimum=(("ddn", 200), ("cw", 100), ("fmn", 200), ("ead", 100)),
        fixed=(("apgd_ce", 100), ("apgd_t", 100), ("fab_t", 100)),
        square=5000,
    ),
    "paper": Level(
        restarts=(100, 10),
        more_steps=(2500, 5),
        minimum=(("ddn", 1000), ("cw", 1000), ("fmn", 1000), ("ead", 1000)),
        fixed=(("apgd_ce", 100), ("apgd_t", 100), ("fab_t", 100)),
        square=5000,
    ),
}
"""AutoAttack's standard set is apgd_ce, apgd_t and fab_t with 100 steps and square with 5,000 queries."""


class CertificateSettings(Settings):
    """Randomised smoothing as params.yaml writes it."""

    sigma: float = Field(default=0.25, gt=0, allow_inf_nan=False)
    """Standard deviation of the noise, pixel units on [0, 1]."""
    num_select: int = Field(default=100, ge=1)
    """Noisy copies that choose the class."""
    num_estimate: int = Field(default=1000, ge=1)
    """Noisy copies, others, that estimate its probability; 1,000 certify at most 2.46·sigma at alpha 0.001."""
    alpha: float = Field(default=0.001, gt=0, lt=1)
    """Probability that a certificate is wrong."""
    num_examples: int | None = Field(default=None, ge=1)
    """Test images certified, the first ones; null takes all."""
    batch_size: int = Field(default=1000, ge=1)
    """Noisy copies at a time."""


class SuiteSettings(WithLoss):
    """How every model is measured on the test split, and how thoroughly."""

    norm: NormName = "l2"
    """Norm of the attacks: l2, linf, l1, or package.module:attribute of your own."""
    eps: Radii
    """Radii of the accuracy-against-eps curve, pixel units on [0, 1], all > 0."""
    num_steps: int = Field(default=20, ge=1)
    """PGD steps of the curve; the step size is 2.5·eps/num_steps."""
    headline_eps: float = Field(gt=0, allow_inf_nan=False)
    """The radius that tables and verdicts speak of; named before the results are seen."""
    headline_num_steps: int = Field(default=100, ge=1)
    """PGD steps at the headline radius."""
    batch_size: int = Field(default=500, ge=1)
    """Images attacked at a time; does not change the results."""
    level: LevelName = "quick"
    """Attacks beyond PGD: quick adds seconds a model, standard AutoAttack's set and Carlini-Wagner, paper
    PGD of 2,500 steps with restarts and Carlini-Wagner of 1,000."""
    suite_seeds: int | None = Field(default=None, ge=0)
    """How many models of each kind the level's attacks are run on: the first fit of every source model, then the
    second ones; null for all."""
    check_seeds: int = Field(default=1, ge=0)
    """How many of those are also checked for masked gradients, certified, and searched for the smallest perturbation of
    every image; on the others that search takes only the images that still stand."""
    certificate: CertificateSettings | None = None
    """Randomised smoothing of the same models; null for none."""

    def arguments(self) -> dict[str, Any]:
        """What `audit` and `find` are told."""
        return self.model_dump(exclude={"suite_seeds", "check_seeds"})

    def transfer(self) -> dict[str, Any]:
        """What `transfer_images` is told."""
        return {"eps": self.headline_eps, **self.model_dump(include={"norm", "loss", "num_steps", "batch_size"})}


RANDOM_STARTS = ("evaluate", "random start")
"""Purpose of the random numbers by which models are attacked (`images.make_generator`)."""


def pgd_name(num_steps: int, num_restarts: int = 1) -> str:
    """PGD's name in the results: "pgd100", "pgd100x5" with restarts."""
    return f"pgd{num_steps}" + (f"x{num_restarts}" if num_restarts > 1 else "")
