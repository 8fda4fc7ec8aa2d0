"""Robustness that a sceptic accepts: a suite of attacks, smallest perturbations, checks of the evaluation itself."""

from notbugs.robustness.certificate import CertificateSettings
from notbugs.robustness.masking import Check
from notbugs.robustness.settings import SuiteSettings
from notbugs.robustness.suite import PART, Audit, Findings, audit, audited, find, generator_of_part

__all__ = [
    "PART",
    "Audit",
    "CertificateSettings",
    "Check",
    "Findings",
    "SuiteSettings",
    "audit",
    "audited",
    "find",
    "generator_of_part",
]
