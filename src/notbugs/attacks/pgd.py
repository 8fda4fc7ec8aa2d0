"""Projected gradient descent: one loop for every norm, loss and goal."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from notbugs.attacks.course import Course, View
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.gradients import followed, look
from notbugs.attacks.losses import Loss, LossError, called, fools, loss_of
from notbugs.attacks.modes import in_ordinary_mode
from notbugs.attacks.modules import check_steady
from notbugs.attacks.norms import Ball, Box, norm_of
from notbugs.attacks.projections import column
from notbugs.runtime.devices import full_precision, traits


class PGDResult(NamedTuple):
    """What an attack found.

    Attributes:
        x_adv: (N, C, H, W), in the ball and in [0, 1].
        success: (N,) bool; the model calls x_adv something else than the label (the target, if targeted).
            False throughout where the loss reads no logits or compares them with something else than one
            class label an example, or where the logits are no numbers; None if it was not asked for.
    """

    x_adv: Tensor
    success: Tensor | None


def usual_step_size(eps: float, num_steps: int) -> float:
    """2.5·eps/num_steps: so many steps lead from any point of the ball to any other, with some to spare."""
    return 2.5 * eps / max(num_steps, 1)


@in_ordinary_mode
def pgd(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    num_steps: int = 20,
    norm: str | type[Ball] = "l2",
    loss: str | Loss | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
    targeted: bool = False,
    random_start: bool = False,
    num_restarts: int = 1,
    iterate: Literal["last", "best", "first_success"] = "last",
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    start: Tensor | None = None,
    course: Course | None = None,
    judge: bool = True,
    check: bool = True,
) -> PGDResult:
    """Maximise (targeted: minimise) a per-example loss over a ball around each input.

        x ← clip(inputs + project(x ± step_size · steepest(∇ loss) − inputs), 0, 1)

    The gradient is normalised per example, so the result does not depend on the batch. The model is attacked
    in eval mode with frozen parameters, and left in the mode and with the gradients that it had. It makes no
    difference whether torch is told to follow gradients, or is in inference mode.

    Args:
        model: (N, C, H, W) in [0, 1] -> logits (N, K); for a loss that reads it, with `.representation`. Many
            batches go faster with an `Engine` made from it once.
        inputs: (N, C, H, W), in [0, 1].
        labels: (N,) true labels; target labels if targeted; or whatever the loss compares with, (N, ...).
        eps: radius, pixel units; ignored for the norm "box".
        step_size: length of a step, pixel units; None takes 2.5·eps/num_steps.
        num_steps: gradient steps of each restart.
        norm: a name in NORMS, a class of balls, or "box" for no ball.
        loss: a name in LOSSES, a Loss, or a callable (logits (N, K), labels) -> (N,).
        targeted: descend the loss instead of climbing it.
        random_start: begin at a uniform point of the ball.
        num_restarts: independent tries, the best kept; more than one needs random_start.
        iterate: "last" returns the last iterate; "best" the one with the best loss (the start included);
            "first_success" stops working on an example once it succeeded and returns that point, else the last.
        generator: for random starts; on the CPU or on the images' device, or one for each example.
        start: (N, C, H, W), where to begin instead of at `inputs`; projected onto the ball.
        course: a schedule, momentum or views of the images; for the last iterate.
        judge: look at the last iterate once more for `success`; False saves that pass where nobody asks.
        check: look whether the inputs lie in [0, 1] and the model judges each image by itself (an engine was asked
            when it was made); False saves the host's wait for the device.
    Returns: PGDResult.
    Raises: ValueError for eps < 0, num_steps < 1, step_size <= 0, an unknown name, restarts without chance, images
        outside [0, 1], or a model whose logits of an image change with its batch.
    Source: Madry et al. 2018; Ilyas et al. 2019, appendix C.
    """
    objective, ball = loss_of(loss), norm_of(norm)
    if step_size is None:
        step_size = usual_step_size(eps, num_steps)
    _check(eps, step_size, num_steps, ball, num_restarts, random_start, iterate, objective)
    if iterate == "first_success" and not _are_classes(labels, len(inputs)):
        raise ValueError(f"first_success needs class labels ({len(inputs)},), not {tuple(labels.shape)} {labels.dtype}")
    if course is not None:
        _check_course(course, iterate, len(inputs), num_steps)
    if isinstance(model, Engine) and model.channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    inputs = inputs.detach()
    if check:
        _check_images(inputs)
    judged = judge or num_restarts > 1 or iterate != "last"
    climb = _Climb(model, objective, targeted, step_size, num_steps, traits(inputs.device).runs_ahead)
    attack = _Attack(climb, inputs, labels, ball, eps, start, iterate, judged, course)
    with frozen(model):
        if check and not isinstance(model, Engine) and objective.reads == "logits":
            check_steady(model, inputs)
        found = attack.restarted(num_restarts, generator) if random_start else attack.attempt(None, None)
    return PGDResult(found.x.contiguous(), found.success if judged else None)


class _Found(NamedTuple):
    """A point for each example, its score (the higher the better for the attack) and whether it succeeds."""

    x: Tensor  # (N, C, H, W)
    score: Tensor  # (N,)
    success: Tensor  # (N,)

    @classmethod
    def unjudged(cls, x: Tensor) -> "_Found":
        """A point that nobody looks at."""
        return cls(x, x.new_zeros(len(x)), torch.zeros(len(x), dtype=torch.bool, device=x.device))

    @classmethod
    def joined(cls, parts: "Sequence[_Found]") -> "_Found":
        """Parts in their order, as one."""
        return parts[0] if len(parts) == 1 else cls(*map(torch.cat, zip(*parts, strict=True)))

    def of(self, rows: Tensor) -> "_Found":
        """What was found for some of the examples."""
        return _Found(self.x[rows], self.score[rows], self.success[rows])

    def replaced(self, other: "_Found", gain: Tensor) -> "_Found":
        """`other` where gain (N,), else this."""
        return _Found(
            torch.where(column(gain, self.x), other.x, self.x),
            torch.where(gain, other.score, self.score),
            torch.where(gain, other.success, self.success),
        )

    def write_(self, rows: Tensor, part: "_Found") -> None:
        """Put what was found for some of the examples in its place."""
        self.x[rows], self.score[rows], self.success[rows] = part.x, part.score, part.success

    def or_restarted(self, other: "_Found") -> "_Found":
        """Per example the better of two tries: success first, then the score."""
        gain = other.success & ~self.success
        return self.replaced(other, gain | ((other.success == self.success) & (other.score > self.score)))


@dataclass(frozen=True)
class _Climb:
    """A network, a loss and its direction; how far and how often to step."""

    model: nn.Module
    loss: Loss
    targeted: bool
    step_size: float
    num_steps: int
    runs_ahead: bool

    @property
    def step(self) -> float:
        """Signed length of a step: negative where the loss is to fall."""
        return -self.step_size if self.targeted else self.step_size

    def to_the_end(self, ball: Ball, x: Tensor, labels: Tensor) -> Tensor:
        """All steps; the last iterate, (N, C, H, W)."""
        for number in range(self.num_steps):
            ball.climb_(x, self.look(x, labels, may_wait=self.asks(number))[1], self.step)
        return x

    def along(self, course: Course, ball: Ball, x: Tensor, labels: Tensor) -> Tensor:
        """All steps of a course; the last iterate, (N, C, H, W)."""

        def look(number: int, view: View | None) -> Tensor:
            return self.look(x, labels, may_wait=self.asks(number), view=view)[1]

        for direction, share in course.steps(self.num_steps, look):
            ball.climb_(x, direction, self.step * share)
        return x

    def to_the_best(self, ball: Ball, x: Tensor, labels: Tensor) -> _Found:
        """All steps; of all points, the start included, the one with the highest score."""
        best: _Found | None = None
        for number in range(self.num_steps):
            outputs, gradient = self.look(x, labels, may_wait=self.asks(number))
            here = self.found(x, outputs, labels)
            best = here._replace(x=x.clone()) if best is None else best.replaced(here, here.score > best.score)
            ball.climb_(x, gradient, self.step)
        last = self.judge(x, labels)
        assert best is not None  # num_steps >= 1
        return best.replaced(last, last.score > best.score)

    def to_success(self, ball: Ball, x: Tensor, labels: Tensor) -> _Found:
        """Until each example succeeds, or the steps are over; the first point that succeeded, else the last.

        What succeeded gets no further gradient, so it stays where it is, and the batch shrinks to what is left: on
        the CPU at once; where the host runs ahead of the device (CUDA) to halves of its size, every few steps, since
        asking how many are left makes it wait. Only what never succeeds gets a score.
        """
        runs_ahead = self.runs_ahead
        whole = _Found.unjudged(torch.empty_like(x))
        rows = torch.arange(len(x), device=x.device)  # what is still worked on
        for step in range(self.num_steps):
            waits = not runs_ahead or step % COUNTS_EVERY == 0
            outputs, gradient = self.look(x, labels, may_wait=waits)
            succeeded = self.succeeds(outputs, labels)
            if waits:
                size = _next_size(int((~succeeded).sum()), len(x), by_halves=runs_ahead)
                if size < len(x):
                    order = succeeded.to(torch.uint8).argsort(stable=True)
                    left, done = order[:size], order[size:]
                    whole.write_(rows[done], _Found(x[done], whole.score[done], succeeded[done]))
                    rows, x, labels, gradient = (tensor[left] for tensor in (rows, x, labels, gradient))
                    ball, succeeded = ball.select(left), succeeded[left]
                if size == 0:
                    return whole
            if runs_ahead:
                gradient.mul_(column(~succeeded, gradient))
            ball.climb_(x, gradient, self.step)
        whole.write_(rows, self.judge(x, labels))
        return whole

    def asks(self, step: int) -> bool:
        """Whether the host asks at this step if the gradient is made of numbers.

        Where it runs ahead of the device the answer costs: it asks at the first step, of an engine whose gradients are
        smooth not even then.
        """
        return not self.runs_ahead or (step == 0 and not (isinstance(self.model, Engine) and self.model.smooth))

    def look(self, x: Tensor, labels: Tensor, *, may_wait: bool, view: View | None = None) -> tuple[Tensor, Tensor]:
        """The outputs at x, (N, K), and the loss's gradient, (N, ...), to a positive factor an example.

        Args:
            view: what the network is shown of x; the gradient is x's.
        """
        own_slope, network = self.loss.slope or self.differentiated, self.network
        shown = network if view is None else lambda images: network(view(images))
        return look(shown, x, lambda outputs: own_slope(outputs, labels), look_again=may_wait, copy=self.careless)

    def judge(self, x: Tensor, labels: Tensor) -> _Found:
        """What is at x, in full precision where the network is not an engine of less."""
        with full_precision(x.device) if self.careless else nullcontext():
            outputs = followed(self.network, x, copy=self.careless)
        return self.found(x, outputs, labels)

    def found(self, x: Tensor, outputs: Tensor, labels: Tensor) -> _Found:
        """What is at x, where the outputs are (N, K)."""
        score = self.loss.score(outputs, labels) if self.loss.score else self.losses(outputs, labels)
        return _Found(x, -score if self.targeted else score, self.succeeds(outputs, labels))

    @property
    def careless(self) -> bool:
        """Whether the network may write on the images that it gets."""
        return not isinstance(self.model, Engine)

    @property
    def network(self) -> Callable[[Tensor], Tensor]:
        """What gives what the loss reads, (N, C, H, W) -> (N, K): logits or representation."""
        return self.model.representation if self.loss.reads == "representation" else self.model  # type: ignore[return-value]

    def differentiated(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss's derivative at the outputs by autograd, (N, K).

        Raises: LossError if the loss does not depend on the outputs in a way that autograd follows.
        """
        with torch.enable_grad():
            leaf = outputs.requires_grad_()
            losses, slope = self.losses(leaf, labels), None
            if losses.requires_grad:
                (slope,) = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)
        outputs.requires_grad_(False)
        if slope is None:
            raise LossError(
                f"{self.loss.name} has no gradient with respect to the logits: it leaves torch, or detaches"
            )
        return slope

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example, (N,).

        Raises: LossError if the loss gives anything else.
        """
        losses: Any = self.loss.function(outputs, labels)
        if not isinstance(losses, Tensor) or losses.shape != (len(outputs),):
            given = tuple(losses.shape) if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
            raise LossError(f"{self.loss.name} must give one value an example, ({len(outputs)},), not {given}")
        return losses

    def succeeds(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Which examples the network calls by another label (targeted: by the label), (N,) bool."""
        if self.loss.reads != "logits" or not _are_classes(labels, len(outputs)):
            return torch.zeros(len(outputs), dtype=torch.bool, device=outputs.device)
        return called(outputs) == labels if self.targeted else fools(outputs, labels)


@dataclass(frozen=True)
class _Attack:
    """The images of a call of `pgd`, and what each try on them shares.

    In its methods `left` are the numbers, (n,), of the images that a try is about (None: all), and `noise` is what
    is added to where they begin, (n, C, H, W) or None.
    """

    climb: _Climb
    inputs: Tensor
    labels: Tensor
    norm: type[Ball]
    eps: float
    start: Tensor | None
    iterate: str
    judged: bool
    course: Course | None

    def restarted(self, num_restarts: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> _Found:
        """The best of several tries from random points."""
        best = self.attempt(None, self.noise(None, generator))
        for _ in range(1, num_restarts):
            # What is fooled needs no other try, unless the best of all points is asked for.
            left = (~best.success).nonzero().flatten() if self.iterate == "first_success" else None
            noise = self.noise(left, generator)
            if left is None:
                best = best.or_restarted(self.attempt(None, noise))
            elif len(left):
                best.write_(left, best.of(left).or_restarted(self.attempt(left, noise)))
        return best

    def attempt(self, left: Tensor | None, noise: Tensor | None) -> _Found:
        """One try, by an engine in parts."""
        count = len(self.inputs) if left is None else len(left)

        def some(network: nn.Module, rows: slice) -> _Found:
            chosen = rows if left is None else left[rows]
            return self.descend(network, chosen, None if noise is None else noise[rows])

        model = self.climb.model
        if isinstance(model, Engine):
            return _Found.joined(model.in_parts(count, some))
        return some(model, slice(0, count))

    def descend(self, network: nn.Module, chosen: slice | Tensor, noise: Tensor | None) -> _Found:
        """One try on some of the images with one network."""
        climb = replace(self.climb, model=network)
        ball, labels = self.norm(self.inputs[chosen], self.eps), self.labels[chosen]
        with torch.no_grad():
            x = _start(ball, None if self.start is None else self.start[chosen], noise)
            if self.iterate == "first_success":
                return climb.to_success(ball, x, labels)
            if self.iterate == "best":
                return climb.to_the_best(ball, x, labels)
            if self.course is None:
                x = climb.to_the_end(ball, x, labels)
            else:
                x = climb.along(self.course.of(chosen), ball, x, labels)
            return climb.judge(x, labels) if self.judged else _Found.unjudged(x)

    def noise(self, left: Tensor | None, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
        """A random point of the ball for each example, the same whichever others are left."""
        if generator is None or isinstance(generator, torch.Generator):
            noise = self.norm.random(self.inputs, self.eps, generator)
            return noise if left is None else noise[left]
        like = torch.empty(1, *self.inputs.shape[1:], dtype=self.inputs.dtype)
        own = generator if left is None else [generator[row] for row in left.tolist()]
        return torch.cat([like[:0], *(self.norm.random(like, self.eps, one) for one in own)]).to(self.inputs.device)


def _start(ball: Ball, start: Tensor | None, noise: Tensor | None) -> Tensor:
    """Where a descent begins, (N, C, H, W): a new tensor in the layout of the ball's centre."""
    x = ball.centre.clone()
    if start is not None:
        x.copy_(start)
    if noise is not None:
        x += noise
    if start is not None or noise is not None:
        ball.project_(x)
    return x


COUNTS_EVERY = 8
"""Steps between two counts of the examples that are left, where the host runs ahead of the device."""


def _next_size(left: int, size: int, *, by_halves: bool) -> int:
    """How many rows a batch of `size` is cut to when `left` examples are to be worked on."""
    if not by_halves or left == 0:
        return left
    while size // 2 >= left:
        size //= 2
    return size


def _are_classes(labels: Tensor, count: int) -> bool:
    """Whether `labels` is one class an example, so that success has a meaning."""
    return labels.shape == (count,) and not labels.is_floating_point()


def _check_images(inputs: Tensor) -> None:
    """The ball that is promised is kept only around images in [0, 1]."""
    if not inputs.numel():
        return
    low, high = (float(end) for end in torch.stack(inputs.aminmax()))
    if not (low >= 0 and high <= 1):
        raise ValueError(f"inputs must lie in [0, 1], not [{low:g}, {high:g}]; normalisation belongs inside the model")


def _check_course(course: Course, iterate: str, count: int, num_steps: int) -> None:
    if iterate != "last":
        raise ValueError(f"a course is for the last iterate, not {iterate!r}")
    if course.views is not None and (course.views.shape[:2] != (count, num_steps) or course.views.shape[3:] != (3,)):
        raise ValueError(f"views must be ({count}, {num_steps}, k, 3), not {tuple(course.views.shape)}")


def _check(
    eps: float,
    step_size: float,
    num_steps: int,
    norm: type[Ball],
    num_restarts: int,
    random_start: bool,
    iterate: str,
    loss: Loss,
) -> None:
    if norm is not Box and not eps >= 0:
        raise ValueError(f"eps must be >= 0, not {eps}")
    if random_start and not 0 <= eps < float("inf"):
        raise ValueError(f"a random start needs a finite eps >= 0, not {eps}")
    if step_size == float("inf"):
        raise ValueError("step_size must be finite; without a ball (eps infinite) it must be given")
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
