"""Randomness of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn on the CPU in here follows from the seed alone; all generators of the caller
    stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would set those of the GPUs too
        yield


def gumbel(uniform: Tensor) -> Tensor:
    """The Gumbel noise that uniform numbers in [0, 1) stand for. Log-probabilities with it, sorted,
    are in an order of draws without replacement (Yellott 1977)."""
    return -(-uniform.clamp_min(1e-20).log()).log()
