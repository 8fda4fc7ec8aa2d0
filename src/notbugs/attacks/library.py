"""The usual attacks of other libraries, behind one call: Carlini-Wagner, DDN, FMN, EAD, and AutoAttack's four.

pyautoattack is the code of AutoAttack's authors; foolbox has Carlini-Wagner with a search over its constant, DDN, FMN
and EAD (docs/evaluation.md says why these two). Both are imported when an attack is asked for. Which of them minimise a
norm or work within its balls, the norm says itself (`norms.Ball`).
"""

import itertools
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks.engine import frozen
from notbugs.attacks.gradients import INWARD, followed, has_derivative
from notbugs.attacks.losses import LOSSES, log_odds, margin
from notbugs.attacks.modes import in_ordinary_mode
from notbugs.attacks.norms import Ball, norm_of
from notbugs.attacks.projections import column

NEEDS_CLASSES = {"apgd_t": 4}
"""Attack -> fewest classes that its loss is defined for (the targeted DLR loss reads the four largest logits)."""
SQUARE_PIXELS = 5
"""Smallest height and width that Square's L2 version is defined for."""
MOST_TARGETS = 9
"""Target classes that apgd_t and fab_t try, the likeliest first; AutoAttack's number."""
CW_SEARCHES = 9
"""Values of the constant that Carlini-Wagner and EAD try, by tenfold steps and then by halving."""
CW_PATH = 10.0
"""Carlini-Wagner's Adam steps have length CW_PATH/num_steps: 0.01 at 1,000 steps, as its authors took."""
USUAL_SIZES = (1.0, 100.0)
"""Sizes of logits (largest minus smallest of an image, median) that attacks are handed as they are."""
USUAL_SIZE = 16.0
"""What other sizes are scaled to, by a power of 2."""
FMN_STEP_L1 = 0.1
"""L2 length of FMN's first step in L1. At foolbox's 1.0 it found nothing for 5 and 15 of 40 digits of two networks, at
0.1 for none and 2."""
LEAST_SHRINKING = 10
"""Steps from which APGD's are enough to be spread over three radii."""
SURE = 5.0
"""Largest margin that DDN sees: the cross-entropy still has all its digits there."""
_LOG = logging.getLogger("notbugs.attacks.library")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False  # pyautoattack's own flags; `evaluation.masking` looks for the same things


@dataclass(frozen=True)
class _Task:
    """What an attack is told. `eps` is None for those that look for the smallest perturbation."""

    network: nn.Module
    inputs: Tensor
    labels: Tensor
    norm: type[Ball]
    eps: float | None
    num_steps: int
    num_classes: int
    seed: int

    @property
    def targeted(self) -> dict[str, int]:
        """What a targeted attack of pyautoattack is told: its steps for each target class, and how many it tries."""
        return {"n_iter": self.num_steps, "n_target_classes": min(MOST_TARGETS, self.num_classes - 1)}

    def pyautoattack(self, module: str, name: str, *, dlr_loss: Any = None, **arguments: Any) -> Tensor:
        """What an attack of pyautoattack finds, (N, C, H, W); dlr_loss: (logits, labels) -> (N,), in DLR's place."""
        attack = getattr(_library(f"pyautoattack.{module}"), name)(
            self.network,
            norm=self.norm.in_libraries["pyautoattack"],
            eps=self.eps,
            seed=self.seed,
            device=self.inputs.device,
            **arguments,
        )
        if dlr_loss is not None:
            attack.dlr_loss = dlr_loss
        found: Tensor = attack.perturb(self.inputs, self.labels)
        return found

    def foolbox(self, name: str, **arguments: Any) -> Tensor:
        """What an attack of foolbox finds, (N, C, H, W)."""
        foolbox = _library("foolbox")
        bounded = foolbox.PyTorchModel(self.network, bounds=(0, 1), device=self.inputs.device)
        attack = getattr(foolbox.attacks, name)(steps=self.num_steps, **arguments)
        found: Tensor = attack.run(bounded, self.inputs, foolbox.criteria.Misclassification(self.labels))
        return found


@in_ordinary_mode
def library_attack(
    name: str,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str | type[Ball] = "l2",
    eps: float | None = None,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Look for adversarial images within a ball; or, without a radius, for the nearest one of each input.

    Args:
        name: within a ball one of FIXED_EPS: apgd_ce, apgd_t, fab_t (targeted at the likeliest classes), square;
            without, one of MINIMUM_NORM: cw, ddn for L2; fmn for L-infinity; fmn, ead for L1.
        model: (N, C, H, W) in [0, 1] -> logits (N, K); an `Engine` is fastest.
        inputs: (N, C, H, W), in [0, 1].
        labels: (N,) true labels.
        eps: radius, pixel units; None for none.
        norm: a name in NORMS, or a class of balls.
        num_steps: iterations for each target class; queries of square; gradient steps of the others, of which cw and
            ead take as many for each of CW_SEARCHES values of their constant; cw unless its loss stops falling.
        generator: seeds the attack; torch's global generators are as before afterwards.
    Returns: (N, C, H, W) in the ball and in [0, 1]; the input where nothing was found. Whether an image fools is
        for the caller's model to say.
    Raises: ValueError for an unknown name, or an attack that these classes or image sizes do not allow.
    Source: Croce & Hein 2020 (APGD, AutoAttack); Croce & Hein 2020 (FAB); Andriushchenko et al. 2020 (Square);
        Carlini & Wagner 2017; Rony et al. 2019 (DDN); Pintor et al. 2021 (FMN); Chen et al. 2018 (EAD).
    """
    ball = norm_of(norm)
    known, attacks = (ball.minimised_by, MINIMUM_NORM) if eps is None else (ball.attacked_by, FIXED_EPS)
    if name not in known or name not in attacks:
        raise ValueError(f"name must be one of {', '.join(known) or 'none'} for {norm}, not {name!r}")
    if eps is not None and not eps > 0:
        raise ValueError(f"eps must be > 0, not {eps}")
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    if not len(inputs):
        return inputs.clone()
    inputs = inputs.detach().contiguous()
    with frozen(model), _seeded(seed, inputs.device):
        network = _Plain(model, inputs, labels)
        with torch.no_grad():
            num_classes = network(inputs[:1]).shape[1]
        if not allows(name, num_classes, tuple(inputs.shape[1:])):
            raise ValueError(f"{name} is not defined for {num_classes} classes and images {tuple(inputs.shape[1:])}")
        task = _Task(network, inputs, labels, ball, eps, num_steps, num_classes, seed)
        found = attacks[name](task).detach()
    # What is no image at all counts as nothing found.
    good = column(found.isfinite().flatten(1).all(dim=1), inputs)
    found = torch.where(good, found.to(inputs.dtype), inputs).clamp(0, 1).contiguous()
    if eps is not None:
        ball(inputs, eps).project_(found)  # against rounding in the library
        assert (ball.length(found - inputs) <= eps * (1 + 1e-5)).all()
    return found


def allows(name: str, num_classes: int, image_shape: tuple[int, ...]) -> bool:
    """Whether an attack is defined for so many classes and images of this shape (C, H, W)."""
    if name == "square":
        return len(image_shape) == 3 and min(image_shape[1:]) >= SQUARE_PIXELS
    return num_classes >= NEEDS_CLASSES.get(name, 2)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The libraries draw from torch's global generators, and seed those of all devices: put all of them back.

    They also take it for granted that numbers are float32 unless something else is said.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    usual = torch.get_default_dtype()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(usual)


class _Plain(nn.Module):
    """A network as the libraries take one for granted, whatever the model is.

    In eval mode; with contiguous gradients that are numbers, of 0 where the model hides them; with logits of a usual
    size, since the libraries add constants such as 1e-12 to norms of gradients and begin searches at fixed constants;
    and sure of the label where the model's logits are no numbers, so that no attack stops there.

    Args:
        model: frozen.
        inputs: what is attacked, (N, C, H, W). labels: (N,).
    """

    def __init__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.model = [model]  # in a list: whoever puts this into eval mode need not reach it
        self.training = False
        self.dtype = inputs.dtype
        with torch.no_grad():
            logits = followed(model, inputs)
        self.factor = _factor(logits)
        self.inputs, self.sure = inputs, USUAL_SIZE * functional.one_hot(labels, logits.shape[1])
        slope = LOSSES["cross_entropy"].slope
        assert slope is not None
        self.inward = not has_derivative(model, inputs, lambda logits: slope(logits, labels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K), in the precision of x."""
        given = x
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda gradient: gradient.nan_to_num(0.0, 0.0, 0.0).contiguous())
        if self.inward:  # seen there, and followed back as if it had been seen here
            x = x + (x.clamp(INWARD, 1 - INWARD) - x).detach()
        logits = followed(self.model[0], x.to(self.dtype)).to(given.dtype) * self.factor
        lost = ~logits.detach().amax(dim=1).isfinite()
        if lost.any():
            nearest = torch.cdist(given.detach()[lost].flatten(1), self.inputs.to(given).flatten(1)).argmin(dim=1)
            lines = torch.zeros_like(logits)
            lines[lost] = self.sure[nearest].to(logits)
            logits = torch.where(lost[:, None], lines, logits)
        if given.requires_grad:  # what the model does not follow has a gradient of 0, not none
            logits = logits + 0 * given.flatten(1).sum(dim=1, keepdim=True)
        return logits


class _Altered(nn.Module):
    """A network with something done to its images or its logits.

    Args:
        function: (N, C, H, W) -> logits (N, K).
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.training = function, False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K)."""
        return self.function(x)


def _factor(logits: Tensor) -> float:
    """The power of 2 by which logits (N, K) of an unusual size are multiplied; 1 for usual ones."""
    sizes = (logits.amax(dim=1) - logits.amin(dim=1)).double()
    sizes = sizes[sizes.isfinite()]
    size = float(sizes.median()) if len(sizes) else 0.0
    if size == 0 or USUAL_SIZES[0] <= size <= USUAL_SIZES[1]:
        return 1.0
    return float(2.0 ** round(math.log2(USUAL_SIZE / size)))


def _library(module: str) -> Any:
    """Import a library without its complaints: foolbox's about SciPy and, through GitPython, a missing git."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(module)


def _apgd_ce(task: _Task) -> Tensor:
    # The log-odds rise and fall with the cross-entropy, which is all that the attack reads of it, and do not saturate.
    # The library's place for a loss that it calls by name is that of DLR.
    arguments = {"n_iter": task.num_steps, "loss": "dlr", "dlr_loss": log_odds, **_shrinking(task)}
    return task.pyautoattack("autopgd_base", "APGDAttack", **arguments, logger=_LOG)


def _apgd_t(task: _Task) -> Tensor:
    return task.pyautoattack("autopgd_base", "APGDAttack_targeted", **task.targeted, **_shrinking(task), logger=_LOG)


def _shrinking(task: _Task) -> dict[str, bool]:
    """What APGD is told besides in L1: to begin in balls of three and two times the radius, as AutoAttack does."""
    in_l1 = task.norm.in_libraries["pyautoattack"] == "L1"
    return {"use_largereps": True} if in_l1 and task.num_steps >= LEAST_SHRINKING else {}


def _square(task: _Task) -> Tensor:
    height, width = task.inputs.shape[2:]
    is_tiled = task.norm.in_libraries["pyautoattack"] != "Linf"
    down, across = _tiled(height, width) if is_tiled else (height, width)
    padding = (0, across - width, 0, down - height)
    if any(padding):
        network = task.network
        cropped = _Altered(lambda x: network(x[:, :, :height, :width].contiguous()))
        task = replace(task, network=cropped, inputs=functional.pad(task.inputs, padding))
    found = task.pyautoattack("square", "SquareAttack", n_queries=task.num_steps, resc_schedule=False)
    return found[:, :, :height, :width]


def _tiled(height: int, width: int) -> tuple[int, int]:
    """The least larger height and width that Square's start in L2 and L1 tiles.

    It lays tiles of a side of height // 5 from an offset on, and as many as would fit without the offset: at 12, 14,
    18, 19 or 24 pixels the last one lies partly outside, and the library fails. (One of a single pixel is left out.)
    """
    sizes = itertools.product(range(height, height + 6), range(width, width + 6))
    return min((size for size in sizes if _tiles(*size)), key=lambda size: (size[0] * size[1], size))


def _tiles(height: int, width: int) -> bool:
    """Whether the tiles of Square's start in L2 and L1 lie within the image."""
    side = height // 5
    offset = (height - 5 * side) // 2
    return side == 1 or all(offset + (length // side) * side <= length for length in (height, width))


def _cw(task: _Task) -> Tensor:
    found = task.foolbox("L2CarliniWagnerAttack", binary_search_steps=CW_SEARCHES, stepsize=CW_PATH / task.num_steps)
    return _or_nothing(task, found)


def _fmn(task: _Task) -> Tensor:
    name = task.norm.in_libraries["foolbox"]
    how = {"max_stepsize": FMN_STEP_L1} if name == "L1" else {}
    return task.foolbox(f"{name}FMNAttack", **how)


def _ead(task: _Task) -> Tensor:
    # Its loss is summed over the batch: to stop when it no longer falls would make an image depend on the others.
    how = {"binary_search_steps": CW_SEARCHES, "decision_rule": "L1", "abort_early": False}
    return _or_nothing(task, task.foolbox("EADAttack", **how))


def _or_nothing(task: _Task, found: Tensor) -> Tensor:
    """What was found, or the input where foolbox gives a black image, which is how it says that there is nothing."""
    nothing = column((found == 0).flatten(1).all(dim=1), found)
    return torch.where(nothing, task.inputs, found)


def _ddn(task: _Task) -> Tensor:
    def doubtful(x: Tensor) -> Tensor:
        # The label's logit is lowered where the margin exceeds SURE. That changes neither the class nor, to a positive
        # factor, the gradient of the cross-entropy, but keeps it from rounding to 0.
        logits: Tensor = task.network(x)
        excess = (-margin(logits.detach(), task.labels) - SURE).clamp_(min=0)  # (N,)
        return logits.scatter_add(1, task.labels[:, None], -excess[:, None])

    return replace(task, network=_Altered(doubtful)).foolbox("DDNAttack")


FIXED_EPS: dict[str, Callable[[_Task], Tensor]] = {
    "apgd_ce": _apgd_ce,
    "apgd_t": _apgd_t,
    "fab_t": lambda task: task.pyautoattack("fab_pt", "FABAttack_PT", **task.targeted, targeted=True),
    "square": _square,
}
"""Attacks within a ball, by their name in the results."""
MINIMUM_NORM: dict[str, Callable[[_Task], Tensor]] = {
    "ddn": _ddn,
    "cw": _cw,
    "fmn": _fmn,
    "ead": _ead,
}
"""Attacks that look for the smallest perturbation, by their name in the results."""
