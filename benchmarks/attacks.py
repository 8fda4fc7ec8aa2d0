"""PGD of this package beside a textbook loop and other libraries', interleaved in one process.

    make bench                      # small_cnn on 8 pixels, ResNet-18 of width 16 on 32 pixels

Prints images × steps a second (median of rounds) and the ratio to the best other one; checks first that all reach
about the same loss. Libraries that are not installed are left out and named.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import pgd
from notbugs.images import make_generator
from notbugs.models import ModelSettings, create_model

Attack = Callable[[nn.Module, Tensor, Tensor, float, float, int], Tensor]
CASES = {
    "small_cnn": (ModelSettings(architecture="small_cnn"), (1, 8, 8), 360, 20),
    "resnet18 width 16": (ModelSettings(architecture="resnet18", width=16), (3, 32, 32), 128, 10),
}


def ours(model: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int) -> Tensor:
    return pgd(model, x, y, eps=eps, step_size=step, num_steps=steps).x_adv


def textbook(model: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int) -> Tensor:
    """The loop of MadryLab/robustness in outline: parameters keep their gradients' graph, no folding."""
    z = x.clone()
    for _ in range(steps):
        z = z.detach().requires_grad_()
        loss = functional.cross_entropy(model(z), y)
        (gradient,) = torch.autograd.grad(loss, z)
        norms = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = (z.detach() + step * gradient / (norms + 1e-10) - x).renorm(p=2, dim=0, maxnorm=eps)
        z = (x + delta).clamp(0, 1)
    return z.detach()


def torchattacks_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int) -> Tensor:
    import torchattacks

    return torchattacks.PGDL2(model, eps=eps, alpha=step, steps=steps, random_start=False)(x, y)


def foolbox_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int) -> Tensor:
    import foolbox

    attack = foolbox.attacks.L2PGD(abs_stepsize=step, steps=steps, random_start=False)
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return attack.run(bounded, x, foolbox.criteria.Misclassification(y), epsilon=eps)


def art_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type=x.device.type
    )
    attack = ProjectedGradientDescent(
        classifier, norm=2, eps=eps, eps_step=step, max_iter=steps, batch_size=len(x), verbose=False
    )
    return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)


IMPLEMENTATIONS: dict[str, Attack] = {
    "notbugs": ours,
    "textbook loop": textbook,
    "torchattacks": torchattacks_pgd,
    "foolbox": foolbox_pgd,
    "ART": art_pgd,
}


def compare(name: str, rounds: int) -> None:
    settings, shape, count, steps = CASES[name]
    class_names = tuple(str(label) for label in range(10))
    model = create_model(settings, shape, class_names, generator=make_generator(0, "weights")).eval()
    generator = make_generator(0, "images")
    x = torch.rand(count, *shape, generator=generator)
    y = torch.randint(0, 10, (count,), generator=generator)
    eps, step = 0.5, 2.5 * 0.5 / steps
    runs, losses = {}, {}
    for title, attack in IMPLEMENTATIONS.items():
        try:
            found = attack(model, x, y, eps, step, steps)
        except ImportError as error:
            print(f"{title}: left out ({error})")
            continue
        losses[title] = float(functional.cross_entropy(model(found), y).detach())
        runs[title] = attack
    times: dict[str, list[float]] = {title: [] for title in runs}
    for _ in range(rounds):
        for title, attack in runs.items():
            started = time.perf_counter()
            attack(model, x, y, eps, step, steps)
            times[title].append(time.perf_counter() - started)
    rates = {title: count * steps / statistics.median(seconds) for title, seconds in times.items()}
    best_peer = max((rate for title, rate in rates.items() if title != "notbugs"), default=float("nan"))
    print(f"\n{name}: {count} images, {steps} steps, {torch.get_num_threads()} threads, {rounds} rounds")
    print(f"{'':16}{'images·steps/s':>16}{'ratio to best peer':>20}{'loss reached':>14}")
    for title, rate in rates.items():
        print(f"{title:16}{rate:16.0f}{rate / best_peer:20.2f}{losses[title]:14.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    for name in CASES:
        compare(name, arguments.rounds)


if __name__ == "__main__":
    main()
