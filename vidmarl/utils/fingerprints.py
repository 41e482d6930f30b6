"""Hashes that tell networks and tensors apart."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint(thing: nn.Module | Tensor | Mapping[str, Tensor]) -> str:
    """A sha256 over names, types, shapes and values, in hex.

    Args:
        thing: a network (its parameters, buffers and whatever else its state has, as quantised ones
            do), named tensors, or one tensor.
    """
    if isinstance(thing, Tensor):
        thing = {"": thing}
    tensors = thing.state_dict() if isinstance(thing, nn.Module) else thing
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            torch.save((name, value), buffer := io.BytesIO())
            digest.update(buffer.getvalue())
    return digest.hexdigest()
