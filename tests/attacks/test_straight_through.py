"""The last ReLUs pass gradients back as if they were not there; what the network says stays the same."""

import pytest
import torch
from torch import Tensor, fx, nn

from notbugs.attacks.engine import Engine
from notbugs.attacks.straight_through import NoReluError, straight_relu, straightened
from notbugs.models import create_model
from notbugs.models.base import Classifier
from notbugs.models.ensemble import Ensemble
from notbugs.models.foreign import Hooked


def made(architecture: str) -> Classifier:
    shape = (1, 16, 16)
    model = create_model(architecture, shape, ("a", "b"), width=8, generator=torch.Generator().manual_seed(0))
    model.train()(torch.rand(8, *shape, generator=torch.Generator().manual_seed(1)))  # statistics of its own
    return model.eval()


def gradient(model: Classifier, x: Tensor, weights: Tensor) -> Tensor:
    """Of weights·g(x), (N, ...)."""
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((model.representation(leaf) * weights).sum(), leaf)
    return found


def straight_calls(model: Classifier) -> int:
    assert isinstance(model.body, fx.GraphModule)
    return sum(node.target is straight_relu for node in model.body.graph.nodes)


def test_a_unit_that_is_off_passes_its_gradient() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU())
    body[1].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    body[1].bias.data = torch.tensor([-100.0, 0.0])  # the first is off everywhere in [0, 1]
    model = Classifier(body, 1, 2, 2)
    x = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    off = torch.tensor([1.0, 0.0])
    assert not gradient(model, x, off).any()
    straight = straightened(model)
    assert torch.equal(gradient(straight, x, off), body[1].weight[0].view(1, 1, 2, 2).expand(3, 1, 2, 2))
    assert torch.equal(straight(x), model(x))
    assert not gradient(model, x, off).any()  # the model itself is as it was


@pytest.mark.parametrize(
    ("architecture", "last"), [("small_cnn", 1), ("mlp", 1), ("resnet8", 1), ("densenet121", 1), ("inception", 4)]
)
def test_the_last_relus_of_every_kind_of_network(architecture: str, last: int) -> None:
    """A ResNet's block calls one ReLU twice, an Inception block ends in four branches."""
    model = made(architecture)
    straight = straightened(model)
    assert straight_calls(straight) == last
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    assert torch.equal(straight(x), model(x))
    assert torch.equal(straight.representation(x), model.representation(x))


def test_every_member_of_an_ensemble_is_straightened() -> None:
    members = [made("small_cnn"), made("resnet8")]
    model = Ensemble(members).eval()
    straight = straightened(model)
    assert [straight_calls(member) for member in straight.members] == [1, 1]
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    assert torch.equal(straight(x), model(x))
    weights = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    others = torch.zeros(4, straight.representation(x).shape[1] - 8)
    first = torch.cat([weights, others], dim=1)
    torch.testing.assert_close(gradient(straight, x, first), gradient(straightened(members[0]), x, weights))


def test_the_gradient_is_that_without_the_last_relu() -> None:
    model = made("small_cnn")
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    weights = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    leaf = x.clone().requires_grad_()
    before = model.body[:-3](model.normalise(leaf))  # the layers but ReLU, average and flattening
    (expected,) = torch.autograd.grad((before.mean(dim=(2, 3)) * weights).sum(), leaf)
    torch.testing.assert_close(gradient(straightened(model), x, weights), expected)
    assert float((gradient(model, x, weights) - expected).abs().max()) > 0.01 * float(expected.abs().max())


def test_an_engine_folds_and_runs_it() -> None:
    model = made("resnet8")
    x = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    engine = Engine(straightened(model), x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in engine.network.modules())
    torch.testing.assert_close(engine(x), model(x), rtol=1e-4, atol=1e-5)


class Choosing(nn.Module):
    """Its way depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).relu() if x.sum() > 0 else x.flatten(1)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Classifier(nn.Flatten(), 1, 4, 2), "it has no ReLU"),
        (Classifier(Choosing(), 1, 4, 2), "it cannot be traced: TraceError: "),
        (Hooked(nn.Sequential(nn.Flatten(), nn.ReLU()), 1, "1"), "its representation is not the input of its last"),
    ],
)
def test_a_network_without_such_relus_is_one_line(model: Classifier, why: str) -> None:
    with pytest.raises(NoReluError, match=r"^straight_through = true: must be false for this source model") as raised:
        straightened(model)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)
