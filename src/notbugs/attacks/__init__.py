"""Attacks on classifiers of images in [0, 1]."""

from notbugs.attacks.losses import LOSSES, Loss
from notbugs.attacks.norms import NORMS, Ball
from notbugs.attacks.pgd import PGDResult, pgd
from notbugs.attacks.projections import project_l1, project_l2, project_linf
from notbugs.attacks.settings import AttackSettings

__all__ = [
    "LOSSES",
    "NORMS",
    "AttackSettings",
    "Ball",
    "Loss",
    "PGDResult",
    "pgd",
    "project_l1",
    "project_l2",
    "project_linf",
]
