"""What the tensors of published weight files are called elsewhere, and what they are called here.

MMAction2 puts a convolution and its batch norm into one module ("conv1.conv", "conv1.bn") where
torchvision has two ("conv1", "bn1"). The authors' TSM wraps the shifted convolution ("conv1.net").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

Rules = Sequence[tuple[str, str]]
"""Patterns and what they become, as for `re.sub`; an empty replacement of a whole name drops it."""

AROUND: Rules = (
    (r"^module\.", ""),  # of a network trained on several devices at once
    (r"^(backbone|base_model)\.", ""),
    (r"^(data_preprocessor|neck\.aux_head)\..*", ""),  # what only training needs
    (r"^(cls_head\.fc_cls|new_fc)\.", "fc."),
)
"""Of every network of MMAction2 and of the authors of TSM."""

RESNET: Rules = (
    *AROUND,
    (r"\.net\.", "."),
    (r"(^|\.)conv(\d)\.conv\.", r"\1conv\2."),
    (r"(^|\.)conv(\d)\.bn\.", r"\1bn\2."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
)
"""ResNets, as torchvision has them."""


def renamer(rules: Rules, prefix: str = "") -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """What gives the tensors of a published file the names of a network here.

    Names that are those already stay as they are.

    Args:
        rules: applied in order to each name.
        prefix: of every name here.
    """

    def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = {name: _apply(rules, name.removeprefix(prefix)) for name in state}
        return {prefix + new: state[old] for old, new in names.items() if new}

    return renamed


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
