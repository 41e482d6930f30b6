"""Credit maps: what the responses to an attack's own queries say about where distortion helps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

REACH = 1.5
"""How far what one cell shows holds for its neighbours, in cells and in frames: the length of a
Gaussian kernel."""

NEAR, PLACE, FRAME, OWN = 0.35, 0.25, 0.1, 0.3
"""What a cell's effect is made of: what it shares with its neighbours in space and time, with the
same place in all frames, with the same frame at all places, and what is its own. With these shares
the effects of single cells are predicted best from each other (docs/experiments.md)."""


def learn(
    credit: Float[Tensor, "n gt gh gw"], change: Float[Tensor, "n gt gh gw"], margin_drop: Float[Tensor, " n"]
) -> Float[Tensor, "n gt gh gw"]:
    """One Kaczmarz step (Strohmer and Vershynin 2009) among smooth maps.

    The smallest change of the map, in the norm of the kernel, that explains the response. The
    margin is taken as linear in the strengths, which holds for few cells far apart.

    Args:
        credit: the estimate so far: the drop of the margin per unit of strength.
        change: the strength map asked about less the one that the drop is measured from.
        margin_drop: by how much the margin has fallen from that one.
    """
    t, y, x = (_kernel(n, change) for n in change.shape[1:])
    place = torch.einsum("yb,xc,ntbc->ntyx", y, x, change)
    near = torch.einsum("ta,nayx->ntyx", t, place)
    place = place.sum(1, keepdim=True)
    frame = torch.einsum("ta,na->nt", t, change.sum((2, 3)))[..., None, None]
    alike = NEAR * near + PLACE * place + FRAME * frame + OWN * change
    error = margin_drop - (credit * change).flatten(1).sum(1)
    step = error / (alike * change).flatten(1).sum(1).clamp_min(1e-6)
    return credit + step.view(-1, 1, 1, 1) * alike


def scaled(credit: Float[Tensor, "n gt gh gw"]) -> Float[Tensor, "n gt gh gw"]:
    """As the agents see it: drops are fractions of the clean margin, mostly some hundredths per
    cell."""
    return (10 * credit).tanh()


def _kernel(n: int, like: Tensor) -> Float[Tensor, "n n"]:
    place = torch.arange(n, device=like.device, dtype=like.dtype)
    return (-0.5 * ((place[:, None] - place) / REACH) ** 2).exp()
