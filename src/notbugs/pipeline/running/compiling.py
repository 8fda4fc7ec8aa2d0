"""Whether a stage compiles the networks that it attacks."""

import torch
from torch import nn

from notbugs.attacks.engine import multiply_adds, pays_to_compile
from notbugs.pipeline.running.context import Context


def compiles(project: Context, what: str, model: nn.Module, image_shape: tuple[int, ...], num_looks: int) -> bool:
    """Apply the param `engine` to a work, and say so where it leaves the choice to the amount of work.

    Args:
        what: the work's name.
        model: the network attacked, on the project's device.
        image_shape: (C, H, W).
        num_looks: images × steps.
    Raises: ConfigError if `compiled` is asked for where there is no compiler.
    """
    image = torch.zeros(1, *image_shape, device=project.device)
    compiled = pays_to_compile(project.runtime.engine, model, image, num_looks=num_looks)
    if project.runtime.engine == "auto":
        work = multiply_adds(model, image) * num_looks
        project.say(f"{what}: {'compiled' if compiled else 'plain'} engine for {work:.1e} multiply-adds")
    return compiled
