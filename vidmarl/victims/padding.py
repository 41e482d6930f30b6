"""TensorFlow's "SAME" padding, which the weights of MoViNet and I3D were trained with."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int], value: float = 0.0) -> Tensor:
    """Pads the last axes so that a window of `kernel` at `stride` gives `ceil(size / stride)` outputs.

    The padding is split evenly, the odd one out going to the end: at stride 2 it depends on the size, and is not
    what the `padding` of PyTorch's layers does.

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
