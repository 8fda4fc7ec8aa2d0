"""Attacks on classifiers of images in [0, 1]."""

from notbugs.attacks.losses import LOSSES, Loss
from notbugs.attacks.pgd import PGDResult, pgd
from notbugs.attacks.projections import NORMS, project_l2, project_linf
from notbugs.attacks.settings import AttackSettings

__all__ = ["LOSSES", "NORMS", "AttackSettings", "Loss", "PGDResult", "pgd", "project_l2", "project_linf"]
