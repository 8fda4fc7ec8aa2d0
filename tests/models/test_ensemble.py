"""An ensemble's value at a label is the mean of its members' cross-entropies, and attacks on it fool all of them."""

import pytest
import torch
from torch.nn import functional

from notbugs.attacks import pgd
from notbugs.attacks.engine import Engine
from notbugs.attacks.losses import LOSSES
from notbugs.models.base import Classifier
from notbugs.models.ensemble import Ensemble


@pytest.fixture
def ensemble(standard_model: Classifier, robust_model: Classifier) -> Ensemble:
    return Ensemble([standard_model, robust_model]).eval()


def test_the_loss_is_the_mean_of_the_members_losses(ensemble, digits):
    x, labels = digits[1].images[:20].clone().requires_grad_(), digits[1].labels[:20]
    loss = LOSSES[ensemble.attack_loss]
    ours = loss.function(ensemble(x), labels)
    mean = torch.stack([functional.cross_entropy(m(x), labels, reduction="none") for m in ensemble.members]).mean(dim=0)
    torch.testing.assert_close(ours, mean)
    (wanted,) = torch.autograd.grad(mean.sum(), x)
    outputs = ensemble(x)
    (found,) = torch.autograd.grad(outputs, x, loss.slope(outputs.detach(), labels))
    torch.testing.assert_close(found, wanted)


def test_representations_stand_side_by_side(ensemble, digits):
    x = digits[1].images[:3]
    one, other = (member.representation(x) for member in ensemble.members)
    assert torch.equal(ensemble.representation(x), torch.cat([one, other], dim=1))


def test_an_attack_on_it_fools_both(ensemble, digits):
    """An attack on one of them lowers the other's loss less."""
    data = digits[1].select(torch.arange(60))
    targets = (data.labels + 1) % 10
    settings = {"norm": "l2", "eps": 1.5, "num_steps": 20, "step_size": 0.2, "targeted": True}

    def losses(model: Classifier) -> list[float]:
        """Mean cross-entropy of both members on the targets, after an attack."""
        engine = Engine(model, data.images[:8])
        found = pgd(engine, data.images, targets, loss=model.attack_loss, **settings).x_adv
        return [float(functional.cross_entropy(member(found), targets).detach()) for member in ensemble.members]

    together, alone = losses(ensemble), losses(ensemble.members[0])
    assert sum(together) < sum(alone)
    assert together[1] < 0.5 * alone[1]


def test_one_member_is_none(standard_model):
    with pytest.raises(ValueError, match="an ensemble has two members or more, not 1"):
        Ensemble([standard_model])
