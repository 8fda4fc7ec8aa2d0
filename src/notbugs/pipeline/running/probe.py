"""Whether a device does what the CPU does, and whether a CPU gains by bfloat16: each is used where it has shown so.

The code here decides what is used, and changes nothing of what is computed by it.
"""

import time

import torch
from torch import Tensor, nn

from notbugs.attacks import AttackSettings, pgd
from notbugs.attacks.library import library_attack
from notbugs.attacks.projections import lengths
from notbugs.data.images import ImageData, make_generator
from notbugs.evaluation.accuracy import predict
from notbugs.models import create_model, set_normalisation
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings

TURNS = 6
"""Of the comparison of precisions."""
TOLERANCE = 1e-3
"""Largest difference of logits, gradients and images that counts as rounding."""


def probe(device: torch.device) -> str | None:
    """Why a device does not do what the CPU does, in a few words; None if it does.

    A small network is looked at, attacked in both norms, trained adversarially for a step, and attacked by the
    libraries of the quick suite, which only have to run: what the stages do, in a second or two.
    """
    expected = _work(torch.device("cpu"))
    try:
        found = _work(device)
    except Exception as error:  # what a backend lacks, it says in errors of many kinds
        return f"it cannot do what is needed: {' '.join(str(error).split())[:150] or type(error).__name__}"
    for name, value in expected.items():
        difference = float((found[name] - value).abs().max())
        if not difference <= TOLERANCE:
            return f"its {name} differ from the CPU's by {difference:.2g}"
    return None


def bfloat16_gain() -> float:
    """How many times as fast as in float32 a convolution and its gradient are in bfloat16 on this CPU; some 50 ms.

    What counts is the processor's time of one thread, the least of several turns: it hardly depends on what else the
    machine does.
    """
    image = torch.rand(8, 64, 16, 16, generator=make_generator(0, "bfloat16"))
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False).requires_grad_(False)
    layer.to(memory_format=torch.channels_last)
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for dtype, turns in [*seconds.items()] * TURNS:
            given = image.to(dtype, memory_format=torch.channels_last).requires_grad_()
            convolution = layer.to(dtype)
            begun = time.thread_time()
            torch.autograd.grad(convolution(given).sum(), given)
            turns.append(time.thread_time() - begun)
    finally:
        torch.set_num_threads(before)
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])


def _work(device: torch.device) -> dict[str, Tensor]:
    """What is compared: name -> values, on the CPU."""
    generator = make_generator(0, "probe")
    data = ImageData(torch.rand(16, 1, 8, 8, generator=generator), torch.arange(16) % 4, ("a", "b", "c", "d"))
    model = create_model("small_cnn", data.image_shape, data.class_names, width=4, generator=generator).to(device)
    set_normalisation(model, data)
    found = {"logits": predict(model, data), "gradients": _gradients(model.eval(), data, device)}
    images, labels = data.images.to(device), data.labels.to(device)
    for norm, eps in (("l2", 0.5), ("linf", 0.05)):
        arguments = {"norm": norm, "eps": eps, "step_size": eps / 4, "num_steps": 3, "random_start": True}
        x_adv = pgd(model, images, labels, generator=make_generator(0, "probe", norm), **arguments).x_adv  # type: ignore[arg-type]
        found[f"adversarial images ({norm})"] = x_adv.cpu()
    recipe = TrainSettings(epochs=1, batch_size=16, lr=0.1, attack=AttackSettings(eps=0.5, num_steps=2))
    train(model, data, **recipe.arguments(), generator=make_generator(0, "probe", "train"))
    found["weights after a step"] = torch.cat([value.detach().flatten().cpu() for value in model.parameters()])
    for name in ("apgd_t", "square"):
        library_attack(name, model, images, labels, eps=0.5, num_steps=2, generator=make_generator(0, "probe", name))
    lengths(library_attack("ddn", model, images, labels, num_steps=2, generator=make_generator(0)) - images)
    return found


def _gradients(model: nn.Module, data: ImageData, device: torch.device) -> Tensor:
    """Of the cross-entropy with respect to the images, (N, C, H, W) on the CPU."""
    inputs = data.images.clone().to(device).requires_grad_()
    loss = nn.functional.cross_entropy(model(inputs), data.labels.to(device), reduction="sum")
    return torch.autograd.grad(loss, inputs)[0].cpu()
