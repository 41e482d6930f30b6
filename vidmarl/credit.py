"""Credit maps: what the replies to an attack's own queries say about where distortion helps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

REACH = 1.5
"""How far what one cell shows holds for its neighbours, in cells and in frames: the length of a Gaussian kernel. With
it the effects of single cells on 60 clips are predicted best from each other (docs/experiments.md)."""

OWN = 0.3
"""What a cell has of its own, beside what it shares with its neighbours."""


def learn(
    credit: Float[Tensor, "n t gh gw"], change: Float[Tensor, "n t gh gw"], fall: Float[Tensor, " n"]
) -> Float[Tensor, "n t gh gw"]:
    """One Kaczmarz step (Strohmer and Vershynin 2009) among smooth maps.

    The smallest change of the map, in the norm of the kernel, that explains the reply. The margin is taken as linear in
    the strengths, which holds for few cells far apart.

    Args:
        credit: the estimate so far: the fall of the margin per unit of strength.
        change: the strength map asked about less the one that the fall is measured from.
        fall: of the margin.
    """
    near = torch.einsum("ta,yb,xc,nabc->ntyx", *(_kernel(n, change) for n in change.shape[1:]), change)
    near = (1 - OWN) * near + OWN * change
    error = fall - (credit * change).flatten(1).sum(1)
    step = error / (near * change).flatten(1).sum(1).clamp_min(1e-6)
    return credit + step.view(-1, 1, 1, 1) * near


def scaled(credit: Float[Tensor, "n t gh gw"]) -> Float[Tensor, "n t gh gw"]:
    """As the agents see it: falls are fractions of the clean margin, mostly some hundredths per cell."""
    return (10 * credit).tanh()


def _kernel(n: int, like: Tensor) -> Float[Tensor, "n n"]:
    place = torch.arange(n, device=like.device, dtype=like.dtype)
    return (-0.5 * ((place[:, None] - place) / REACH) ** 2).exp()
