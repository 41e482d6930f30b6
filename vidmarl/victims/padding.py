"""How networks from elsewhere lay their windows: TensorFlow's "SAME" padding, and pools made for
one input size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYOUT = torch.channels_last_3d
"""How 3-D networks hold their clips and weights: in bf16 on a CPU more than twice as fast as the
plain layout."""


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int], value: float = 0.0) -> Tensor:
    """Pads the last axes so that a window of `kernel` at `stride` gives `ceil(size / stride)`
    outputs.

    The padding is split evenly, the odd one out going to the end: at stride 2 it depends on the
    size, and is not what the `padding` of PyTorch's layers does.

    Args:
        x: [..., *sizes], one size for each entry of `kernel`.
        kernel: window, per axis.
        stride: step, per axis.
        value: what is padded with.

    Returns:
        The padded tensor; `x` itself where nothing is to be padded.
    """
    sizes = x.shape[-len(kernel) :]
    pads: list[int] = []
    for size, window, step in zip(reversed(sizes), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // step) - 1) * step + window - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value) if any(pads) else x


def avg_pool_same(x: Tensor, window: int, stride: int) -> Tensor:
    """Average pooling of frames [..., h, w] with "SAME" padding, of the pixels inside the frame
    only; at stride 1 `x` itself."""
    if stride == 1:
        return x
    kernel, step = (window, window), (stride, stride)
    total = F.avg_pool2d(pad_same(x, kernel, step), kernel, step)
    inside = F.avg_pool2d(pad_same(torch.ones_like(x[:1, :1]), kernel, step), kernel, step)
    return total / inside


class FittingAvgPool3d(nn.AvgPool3d):
    """Average pooling whose window shrinks to what there is, so that clips smaller than the usual
    ones go through."""

    def forward(self, x: Tensor) -> Tensor:
        usual = self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,) * 3
        window = [min(size, full) for size, full in zip(x.shape[2:], usual, strict=True)]
        return F.avg_pool3d(x, window, self.stride, self.padding)


def fit_pools(model: nn.Module) -> None:
    """Makes every 3-D average pool of a network a fitting one; on clips of the usual size nothing
    changes."""
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.AvgPool3d):
            model.set_submodule(path, FittingAvgPool3d(module.kernel_size, module.stride, module.padding))
