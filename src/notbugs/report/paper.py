"""The numbers that the paper reports, so that a figure can stand beside them.

All are accuracies (fractions) on the CIFAR-10 test set with a ResNet-50, adversarial ones under L2 PGD.
"""

from dataclasses import dataclass

CITATION = (
    "Andrew Ilyas, Shibani Santurkar, Dimitris Tsipras, Logan Engstrom, Brandon Tran, Aleksander Madry: "
    "Adversarial Examples Are Not Bugs, They Are Features. "
    "Advances in Neural Information Processing Systems 32 (NeurIPS 2019). arXiv:1905.02175"
)
BIBTEX = """\
@inproceedings{ilyas2019adversarial,
  title         = {Adversarial Examples Are Not Bugs, They Are Features},
  author        = {Ilyas, Andrew and Santurkar, Shibani and Tsipras, Dimitris and
                   Engstrom, Logan and Tran, Brandon and Madry, Aleksander},
  booktitle     = {Advances in Neural Information Processing Systems},
  volume        = {32},
  year          = {2019},
  eprint        = {1905.02175},
  archivePrefix = {arXiv}
}"""
SETTING = "CIFAR-10, ResNet-50"
EPS = (0.25, 0.5)
"""L2 radii of the paper's adversarial accuracies."""
FIGURE_EPS = 0.25
"""The radius of the paper's Figure 2."""


@dataclass(frozen=True)
class Reported:
    """What the paper reports of one model.

    Attributes:
        clean: accuracy on y.
        adversarial: eps -> accuracy under attack, where the paper gives it.
        near_zero: the paper says only that the adversarial accuracies are about 0.
    """

    clean: float
    adversarial: dict[float, float]
    near_zero: bool = False


CIFAR10: dict[tuple[str, str], Reported] = {
    ("D", "standard"): Reported(0.9525, {0.25: 0.0449, 0.5: 0.0}),
    ("D", "robust"): Reported(0.9083, {0.25: 0.825, 0.5: 0.701}),
    ("D_R", "standard"): Reported(0.8540, {0.25: 0.4820, 0.5: 0.2185}),
    ("D_NR", "standard"): Reported(0.8768, {0.25: 0.0082, 0.5: 0.0}),
    ("D_rand", "standard"): Reported(0.633, {0.25: 0.0, 0.5: 0.0}, near_zero=True),
    ("D_det", "standard"): Reported(0.437, {0.25: 0.0, 0.5: 0.0}, near_zero=True),
}
"""(dataset, estimator) -> what the paper reports; the zeros of D_rand and D_det are read off a plot."""
