"""3 × 3 convolutions with fewer multiplications, for wide frozen layers on the CPU.

Winograd's F(2 × 2, 3 × 3) (Lavin and Gray, arXiv 1509.09308) computes each 2 × 2 square of a convolution's output
from a 4 × 4 square d of its input: Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, 16 multiplications per channel pair instead of 36.
Summed over channels, ⊙ is 16 matrix products of (squares × channels in) with (channels in × channels out). The
filters of an attacked network are frozen, so G g Gᵀ is computed, and packed for the processor, once.

The gradient with respect to the input is itself such a convolution, with the filters turned by 180 degrees.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks.folding import is_plain

NARROWEST = 256
"""Channels in and out from which the saved multiplications outweigh the transforms (docs/performance.md)."""
SMALLEST = 4
"""Pixels a side from which they do."""


class WinogradConv2d(nn.Conv2d):
    """A frozen 3 × 3 convolution: the values of `conv`, to rounding, and its gradient with respect to the input.

    Args:
        conv: as `suits` asks for it; its weight and bias are shared, not copied. `repack` follows later changes.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 3, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.repack()

    @torch.no_grad()
    def repack(self) -> None:
        """Transform the filters that `weight` holds now."""
        self._filters = _Filters(self.weight)
        self._turned = _Filters(self.weight.transpose(0, 1).flip(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H, W), channels last; what is too small is convolved directly."""
        if not pays(x):
            return super().forward(x)
        outputs: Tensor = _Convolution.apply(x, self._filters, self._turned, self.bias)
        return outputs


def suits(module: nn.Module) -> bool:
    """Whether a module is a wide 3 × 3 convolution as this file does them: stride 1, padded by 1, float32, CPU."""
    return (
        type(module) is nn.Conv2d
        and is_plain(module)
        and module.kernel_size == (3, 3)
        and module.stride == module.dilation == (1, 1)
        and module.padding in ((1, 1), "same")
        and module.padding_mode == "zeros"
        and module.groups == 1
        and min(module.in_channels, module.out_channels) >= NARROWEST
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    )


def pays(x: Tensor) -> bool:
    """Whether inputs (N, C, H, W) are large enough."""
    return x.ndim == 4 and min(x.shape[2:]) >= SMALLEST


@torch.no_grad()
def use_winograd_(network: nn.Module, inputs: Tensor) -> None:
    """Replace the convolutions of a frozen network that `suits` names and `inputs`, (n, C, H, W), make worth it."""
    seen: set[nn.Module] = set()
    hooks = [
        module.register_forward_pre_hook(lambda module, args: seen.add(module) if pays(args[0]) else None)
        for module in network.modules()
        if suits(module)
    ]
    if not hooks:
        return
    try:
        network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in seen:
                setattr(parent, name, WinogradConv2d(child))  # type: ignore[arg-type]


class _Filters:
    """G g Gᵀ of all filters: 16 matrices (channels out, channels in), packed by oneDNN."""

    def __init__(self, weight: Tensor) -> None:
        rows = torch.stack(_transform_filter(weight.permute(2, 3, 0, 1)))
        squares = torch.stack(_transform_filter(rows.transpose(0, 1)), dim=1).flatten(0, 1)
        self.packed = [torch.ops.mkldnn._reorder_linear_weight(matrix) for matrix in squares.contiguous()]

    def __deepcopy__(self, _: Any) -> "_Filters":
        return self  # never written to, and packed tensors cannot be copied


def _transform_filter(g: Tensor) -> tuple[Tensor, ...]:
    """G g along the first axis, 3 -> 4."""
    ends, middle = (g[0] + g[2]) / 2, g[1] / 2
    return g[0], ends + middle, ends - middle, g[2]


class _Convolution(torch.autograd.Function):
    """Its gradient with respect to the input is the convolution with the turned filters; others it has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: _Filters, turned: _Filters, bias: Tensor | None) -> Tensor:
        """(N, C, H, W) -> (N, O, H, W)."""
        ctx.turned = turned
        return _convolve(x, filters, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        """(N, O, H, W) -> (N, C, H, W)."""
        return _convolve(slope, ctx.turned, None), None, None, None


def _convolve(x: Tensor, filters: _Filters, bias: Tensor | None) -> Tensor:
    """The convolution, padded by 1: (N, C, H, W) -> (N, O, H, W), channels last, a tensor of its own."""
    count, channels, height, width = x.shape
    down, across = -(-height // 2), -(-width // 2)
    padding = (0, 0, 1, 2 * across - width + 1, 1, 2 * down - height + 1)
    padded = functional.pad(x.permute(0, 2, 3, 1), padding)
    rows = padded.new_empty(4, count, down, 2 * across + 2, channels)
    _transform_input(padded, rows, axis=1)
    squares = padded.new_empty(4, 4, count, down, across, channels)  # (row, column of the 4 × 4 square, ...)
    _transform_input(rows, squares.transpose(0, 1), axis=3)
    matrices = squares.view(16, -1, channels)
    products = [
        # (1, 1) enters each of the 2 × 2 outputs once, and so may carry the bias
        torch.ops.mkldnn._linear_pointwise(matrix, packed, bias if place == 5 else None, "none", [], "")
        for place, (matrix, packed) in enumerate(zip(matrices, filters.packed, strict=True))
    ]
    shape = count, products[0].shape[-1], 2 * down, 2 * across
    outputs = torch.empty(shape, memory_format=torch.channels_last)  # no view: a ReLU may be about to write on it
    places = outputs.permute(0, 2, 3, 1).view(count, down, 2, across, 2, -1)
    sums = [_transform_output(*products[column::4]) for column in range(4)]
    for row in range(2):
        picked = [pair[row].view(count, down, across, -1) for pair in sums]
        left, right = places[:, :, row, :, 0], places[:, :, row, :, 1]
        torch.add(picked[0], picked[1], out=left).add_(picked[2])
        torch.sub(picked[1], picked[2], out=right).sub_(picked[3])
    if (height, width) == outputs.shape[2:]:
        return outputs
    return outputs[:, :, :height, :width].contiguous(memory_format=torch.channels_last)


def _transform_input(source: Tensor, target: Tensor, axis: int) -> None:
    """Bᵀ d along an axis in steps of two, into target[0], ..., target[3]."""
    length = source.shape[axis] - 2
    d = [source.narrow(axis, start, length).unfold(axis, 1, 2).squeeze(-1) for start in range(3)]
    d.append(source.narrow(axis, 3, length - 1).unfold(axis, 1, 2).squeeze(-1))
    torch.sub(d[0], d[2], out=target[0])
    torch.add(d[1], d[2], out=target[1])
    torch.sub(d[2], d[1], out=target[2])
    torch.sub(d[1], d[3], out=target[3])


def _transform_output(m0: Tensor, m1: Tensor, m2: Tensor, m3: Tensor) -> tuple[Tensor, Tensor]:
    """Aᵀ m, 4 -> 2; m0 and m1 are overwritten."""
    first = m0.add_(m1).add_(m2)
    return first, m1.sub_(m2).sub_(m3)
