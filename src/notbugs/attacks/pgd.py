"""Projected gradient descent: one loop for every norm, loss and goal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from notbugs.attacks.losses import LOSSES, Loss
from notbugs.attacks.projections import NORMS


class PGDResult(NamedTuple):
    """What an attack found.

    Attributes:
        x_adv: (N, C, H, W), in the ball and in [0, 1].
        success: (N,) bool; the model calls x_adv something else than the label (the target, if targeted).
            False throughout where the loss reads no logits or compares them with something else than one
            class label an example.
    """

    x_adv: Tensor
    success: Tensor


def pgd(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step_size: float,
    num_steps: int,
    norm: Literal["l2", "linf", "box"] = "l2",
    loss: str | Loss | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
    targeted: bool = False,
    random_start: bool = False,
    num_restarts: int = 1,
    iterate: Literal["last", "best", "first_success"] = "last",
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> PGDResult:
    """Maximise (targeted: minimise) a per-example loss over a ball around each input.

        x ← clip(inputs + project(x ± step_size · steepest(∇ loss) − inputs), 0, 1)

    The gradient is normalised per example, so the result does not depend on the batch. The model is attacked
    in eval mode with frozen parameters, and left in the mode and with the gradients that it had.

    Args:
        model: (N, C, H, W) in [0, 1] -> logits (N, K); for a loss that reads it, with `.representation`.
        inputs: (N, C, H, W), in [0, 1].
        labels: (N,) true labels; target labels if targeted; or whatever the loss compares with, (N, ...).
        eps: radius, pixel units; ignored for the norm "box".
        step_size: length of a step, pixel units.
        num_steps: gradient steps of each restart.
        norm: "l2", "linf", or "box" for no ball.
        loss: a name in LOSSES, a Loss, or a callable (logits (N, K), labels) -> (N,).
        targeted: descend the loss instead of climbing it.
        random_start: begin at a uniform point of the ball.
        num_restarts: independent tries, the best kept; more than one needs random_start.
        iterate: "last" returns the last iterate; "best" the one with the best loss (the start included);
            "first_success" stops working on an example once it succeeded and returns that point, else the last.
        generator: for random starts; a CPU generator, whatever the device.
        start: (N, C, H, W), where to begin instead of at `inputs`; projected onto the ball.
    Returns: PGDResult.
    Raises: ValueError for eps < 0, num_steps < 1, step_size <= 0, an unknown name, or restarts without chance.
    Source: Madry et al. 2018; Ilyas et al. 2019, appendix C.
    """
    objective = _resolve(loss)
    _check(eps, step_size, num_steps, norm, num_restarts, random_start, iterate, objective)
    if iterate == "first_success" and not _are_classes(labels, len(inputs)):
        raise ValueError(f"first_success needs class labels ({len(inputs)},), not {tuple(labels.shape)} {labels.dtype}")
    inputs = inputs.detach()
    problem = _Problem(model, objective, targeted, eps, step_size, num_steps, norm)
    best: _State | None = None
    with frozen(model):
        for _ in range(num_restarts):
            begin = inputs if start is None else problem.inside(inputs, start.detach())
            if random_start:
                begin = problem.inside(inputs, begin + NORMS[norm].random(inputs, eps, generator))
            found = problem.solve(inputs, begin, labels, iterate)
            best = found if best is None else best.improved_by(found)
    assert best is not None
    return PGDResult(best.x, best.success)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in eval mode with parameters that need no gradient; as found afterwards, module by module."""
    modes = [(module, module.training) for module in model.modules()]
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in needs:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, needed in needs:
            parameter.requires_grad_(needed)
        for module, mode in modes:
            module.training = mode


@dataclass
class _State:
    """The point kept for each example, its score (the higher the better for the attack) and whether it succeeds."""

    x: Tensor  # (N, C, H, W)
    score: Tensor  # (N,)
    success: Tensor  # (N,)

    def improved_by(self, other: "_State") -> "_State":
        """Per example the better of two: success first, then the score."""
        gain = other.success & ~self.success
        gain |= (other.success == self.success) & (other.score > self.score)
        column = gain.view(-1, *[1] * (self.x.ndim - 1))
        return _State(
            torch.where(column, other.x, self.x),
            torch.where(gain, other.score, self.score),
            self.success | other.success,
        )


@dataclass(frozen=True)
class _Problem:
    model: nn.Module
    loss: Loss
    targeted: bool
    eps: float
    step_size: float
    num_steps: int
    norm: str

    def solve(self, inputs: Tensor, begin: Tensor, labels: Tensor, iterate: str) -> _State:
        """One descent from `begin`."""
        if iterate == "first_success":
            return self._solve_dropping(inputs, begin, labels)
        x = begin
        best: _State | None = None
        for _ in range(self.num_steps):
            here, gradient = self._look(x, labels)
            if iterate == "best":
                best = here if best is None else _better(best, here)
            x = self._step(inputs, x, gradient)
        last = self._judge(x, labels)
        return last if best is None else _better(best, last)

    def _solve_dropping(self, inputs: Tensor, begin: Tensor, labels: Tensor) -> _State:
        """The same, leaving out examples from the step at which they succeed."""
        x = begin.clone()
        done = _State(x, x.new_zeros(len(x)), x.new_zeros(len(x), dtype=torch.bool))
        active = torch.arange(len(x), device=x.device)  # (n,) positions still worked on
        for step in range(self.num_steps + 1):
            here_x, here_labels = x[active], labels[active]
            if step == self.num_steps:
                here, gradient = self._judge(here_x, here_labels), here_x
            else:
                here, gradient = self._look(here_x, here_labels)
            done.score[active] = here.score.to(x.dtype)
            done.success[active] = here.success
            if step == self.num_steps:
                break
            left = ~here.success
            active = active[left]
            if not len(active):
                break
            x[active] = self._step(inputs[active], here_x[left], gradient[left])
        return done

    def _look(self, x: Tensor, labels: Tensor) -> tuple[_State, Tensor]:
        """Score and success at x, and the gradient of the score."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            outputs = self._outputs(x)
            scores = self._scores(outputs, labels)
            (gradient,) = torch.autograd.grad(scores.sum(), x)
        return _State(x.detach(), scores.detach(), self._success(outputs.detach(), labels)), gradient

    @torch.no_grad()
    def _judge(self, x: Tensor, labels: Tensor) -> _State:
        outputs = self._outputs(x)
        return _State(x, self._scores(outputs, labels), self._success(outputs, labels))

    def _outputs(self, x: Tensor) -> Tensor:
        network = self.model.representation if self.loss.reads == "representation" else self.model
        outputs: Tensor = network(x)  # type: ignore[operator]
        return outputs

    def _scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        losses = self.loss.function(outputs, labels)
        if losses.shape != (len(outputs),):
            raise ValueError(f"the loss must give one value an example, ({len(outputs)},), not {tuple(losses.shape)}")
        return -losses if self.targeted else losses

    def _success(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.loss.reads != "logits" or not _are_classes(labels, len(outputs)):
            return torch.zeros(len(outputs), dtype=torch.bool, device=outputs.device)
        called = outputs.argmax(dim=1)
        return called == labels if self.targeted else called != labels

    def _step(self, inputs: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        return self.inside(inputs, x + self.step_size * NORMS[self.norm].steepest_step(gradient))

    def inside(self, inputs: Tensor, x: Tensor) -> Tensor:
        """The point of the ball around `inputs` that is nearest to x, clipped to [0, 1]."""
        # Clipping moves every pixel towards `inputs`, which lies in [0, 1], so it never leaves the ball.
        return NORMS[self.norm].project(x - inputs, self.eps).add_(inputs).clamp_(0, 1)


def _better(best: _State, here: _State) -> _State:
    gain = here.score > best.score
    column = gain.view(-1, *[1] * (here.x.ndim - 1))
    return _State(
        torch.where(column, here.x, best.x),
        torch.where(gain, here.score, best.score),
        torch.where(gain, here.success, best.success),
    )


def _are_classes(labels: Tensor, count: int) -> bool:
    """Whether `labels` is one class an example, so that success has a meaning."""
    return labels.shape == (count,) and not labels.is_floating_point()


def _resolve(loss: str | Loss | Callable[[Tensor, Tensor], Tensor]) -> Loss:
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
        return LOSSES[loss]
    return loss if isinstance(loss, Loss) else Loss(loss)


def _check(
    eps: float,
    step_size: float,
    num_steps: int,
    norm: str,
    num_restarts: int,
    random_start: bool,
    iterate: str,
    loss: Loss,
) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
    if norm != "box" and not eps >= 0:
        raise ValueError(f"eps must be >= 0, not {eps}")
    if random_start and not 0 <= eps < float("inf"):
        raise ValueError(f"a random start needs a finite eps >= 0, not {eps}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be >= 1, not {num_steps}")
    if not step_size > 0 and not (eps == 0 and step_size == 0):
        raise ValueError(f"step_size must be > 0, not {step_size}")
    if num_restarts < 1 or (num_restarts > 1 and not random_start):
        raise ValueError(f"num_restarts must be 1, or more with random_start, not {num_restarts}")
    if iterate not in ("last", "best", "first_success"):
        raise ValueError(f"iterate must be last, best or first_success, not {iterate!r}")
    if iterate == "first_success" and loss.reads != "logits":
        raise ValueError("first_success needs a loss that reads logits")
