"""Hashes that tell networks and tensors apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint(thing: nn.Module | Tensor | Mapping[str, Tensor]) -> str:
    """A sha256 over names, types, shapes and values, in hex.

    Args:
        thing: a network (its parameters and buffers), named tensors, or one tensor.
    """
    if isinstance(thing, Tensor):
        thing = {"": thing}
    tensors = thing.state_dict() if isinstance(thing, nn.Module) else thing
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
