"""The same attacks by other libraries, each called as its own documentation says.

Every function takes (model, x, y, task) and returns x_adv; y are the labels, or the targets of a targeted task.
torchattacks is installed without its dependencies: it pins versions of requests and urllib3 that MLflow cannot use.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import LOSSES, pgd
from notbugs.attacks.engine import Engine
from notbugs.training.settings import TrainSettings

warnings.simplefilter("ignore")


@dataclass(frozen=True)
class Task:
    """One attack, the same for all."""

    norm: Literal["l2", "linf", "box"]
    eps: float
    step_size: float
    num_steps: int
    targeted: bool = False
    loss: str = "cross_entropy"


Attack = Callable[[nn.Module, Tensor, Tensor, Task], Tensor]


def notbugs_attack(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
    """Ours; `model` is an Engine, made once for all batches."""
    return pgd(
        model,
        x,
        y,
        norm=task.norm,
        eps=task.eps,
        step_size=task.step_size,
        num_steps=task.num_steps,
        targeted=task.targeted,
        loss=task.loss,
        judge=False,
    ).x_adv


def robustness_attack(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
    """The loop of MadryLab/robustness: mean loss, autograd.grad, step, projection; nothing frozen or folded."""
    sign = -1 if task.targeted else 1
    origin = x
    for _ in range(task.num_steps):
        x = x.clone().detach().requires_grad_(True)
        if task.loss == "representation_distance":
            losses = LOSSES[task.loss].function(model.representation(x), y)
        else:
            losses = functional.cross_entropy(model(x), y, reduction="none")
        (gradient,) = torch.autograd.grad(sign * losses.mean(), [x])
        with torch.no_grad():
            if task.norm == "linf":
                x = origin + (x + task.step_size * gradient.sign() - origin).clamp(-task.eps, task.eps)
            else:
                lengths = gradient.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
                x = x + task.step_size * gradient / (lengths + 1e-10)
                if task.norm == "l2":
                    x = origin + (x - origin).renorm(p=2, dim=0, maxnorm=task.eps)
            x = x.clamp(0, 1)
    return x.detach()


def torchattacks_attack(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
    import torchattacks

    kind = torchattacks.PGDL2 if task.norm == "l2" else torchattacks.PGD
    attack = kind(model, eps=task.eps, alpha=task.step_size, steps=task.num_steps, random_start=False)
    if task.targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    return attack(x, y)


def foolbox_attack(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
    import foolbox

    kind = foolbox.attacks.L2PGD if task.norm == "l2" else foolbox.attacks.LinfPGD
    attack = kind(abs_stepsize=task.step_size, steps=task.num_steps, random_start=False)
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    goal = foolbox.criteria.TargetedMisclassification if task.targeted else foolbox.criteria.Misclassification
    return attack.run(bounded, x, goal(y), epsilon=task.eps)


def art_attack(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    kind = "gpu" if x.is_cuda else "cpu"
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type=kind
    )
    attack = ProjectedGradientDescent(
        classifier,
        norm=2 if task.norm == "l2" else "inf",
        eps=task.eps,
        eps_step=task.step_size,
        max_iter=task.num_steps,
        targeted=task.targeted,
        batch_size=len(x),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)


PEERS: dict[str, Attack] = {
    "robustness": robustness_attack,
    "torchattacks": torchattacks_attack,
    "foolbox": foolbox_attack,
    "ART": art_attack,
}
"""Name -> attack. Only the first knows the representation loss."""


def bare(engine: Engine, x: Tensor) -> tuple[nn.Module, Tensor]:
    """The engine's network and images for it, all in the precision of its convolutions."""
    if engine.half_dtype is None:
        return engine.network, x
    return copy.deepcopy(engine.network).to(engine.half_dtype), x.to(engine.half_dtype)


def limit(model: nn.Module, x: Tensor, task: Task) -> None:
    """The bare forward passes and input gradients of a network (see `bare`): no attack can be faster with it."""
    network: Any = model.representation if task.loss == "representation_distance" else model
    leaf = x.clone(memory_format=torch.channels_last).requires_grad_()
    slope: Tensor | None = None
    for _ in range(task.num_steps):
        outputs = network(leaf)
        slope = torch.ones_like(outputs) if slope is None else slope
        torch.autograd.grad(outputs, leaf, slope)


def textbook_epoch(model: nn.Module, images: Tensor, labels: Tensor, config: TrainSettings) -> None:
    """One epoch of adversarial training as MadryLab/robustness does it: attack in eval mode, one step of SGD."""
    assert config.attack is not None
    attack = config.attack
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    task = Task(attack.norm, attack.eps, attack.step, attack.num_steps)
    for rows in torch.randperm(len(images)).split(config.batch_size):
        x, y = images[rows], labels[rows]
        model.eval()
        x_adv = robustness_attack(model, x, y, task)
        model.train()
        loss = functional.cross_entropy(model(x_adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
