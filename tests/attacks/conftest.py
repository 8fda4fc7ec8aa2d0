"""A project with a norm and losses of its own."""

from pathlib import Path

import pytest

from notbugs.runtime import registry

NORMS = '''
import torch
from notbugs.attacks import Ball
from notbugs.attacks.norms import L1Ball

class Colour(Ball):
    """The largest change of a pixel's colour, in L2 over the channels."""

    title = "colour"

    def project_(self, x):
        delta = x - self.centre
        sizes = delta.norm(dim=1, keepdim=True).clamp(min=self.eps or 1)
        x.copy_((self.centre + delta * (self.eps / sizes)).clamp(0, 1))

    @staticmethod
    def length(delta):
        return delta.norm(dim=1).flatten(1).amax(dim=1).double()

    @staticmethod
    def dual_length(gradient):
        return gradient.norm(dim=1).flatten(1).sum(dim=1).double()

    @classmethod
    def steepest(cls, gradient):
        sizes = gradient.norm(dim=1, keepdim=True)
        return gradient / torch.where(sizes > 0, sizes, 1)

    @staticmethod
    def random(like, eps, generator):
        direction = torch.randn(like.shape, generator=generator)
        radius = torch.rand(len(like), 1, *like.shape[2:], generator=generator) ** (1 / like.shape[1])
        return (eps * radius * direction / direction.norm(dim=1, keepdim=True)).to(like)

    @staticmethod
    def largest_radius(image):
        return image.shape[0] ** 0.5

class Tenth(L1Ball):
    quantile = 0.9

class Half(Ball):
    def project_(self, x):
        x.clamp_(0, 1)

    @staticmethod
    def length(delta):
        return delta.flatten(1).norm(dim=1)

number = 3
'''
LOSSES = """
import torch
from notbugs.attacks import Loss

def soft_margin(logits, labels):
    true = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1) - true

def negative(logits, labels):
    return logits.gather(1, labels[:, None])[:, 0]

def table(logits, labels):
    return logits - labels[:, None]

def detached(logits, labels):
    return soft_margin(logits.detach(), labels)

def number(logits, labels):
    return 3.0

true = Loss(negative)
of_features = Loss(negative, reads="representation")
"""


@pytest.fixture
def own(tmp_path: Path, fresh_names: None) -> Path:
    """A project whose src holds lab/norms.py and lab/losses.py; what they are called by is named in params.yaml."""
    folder = tmp_path / "src" / "lab"
    folder.mkdir(parents=True)
    (folder / "norms.py").write_text(NORMS)
    (folder / "losses.py").write_text(LOSSES)
    registry.allow([], tmp_path)
    return tmp_path
