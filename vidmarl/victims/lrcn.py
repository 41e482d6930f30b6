"""LRCN: a small convolutional network on every frame, and an LSTM over what it sees (Donahue et
al., "Long-term Recurrent Convolutional Networks for Visual Recognition and Description", CVPR
2015).

The networks are those of a Keras recipe, see `vidmarl.victims.ucf50`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims import ucf50
from vidmarl.victims.cards import Card
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, Weights, build

POOLS = (4, 4, 2, 2)
"""Window of the max pooling after each convolution: 64 px become 1, 128 px become 2."""
FILES = {
    "lrcn_ucf50_5": WeightFile("lrcn_ucf50_5.pt", "d1882c2c1eebab39cda2e006477c7cc818acba3caafc919dc301f344a2be36dd"),
    "lrcn_ucf50_50": WeightFile("lrcn_ucf50_50.pt", "e2c38b99406efb99d9870f6825fe3a7e6f6acfde0238de408c739ec862ecd3ae"),
}
SHAPES = {"lrcn_ucf50_5": (5, 128), "lrcn_ucf50_50": (50, 64)}
"""Number of classes, and height and width in px."""
PARAMETERS = {"lrcn_ucf50_5": 97_669, "lrcn_ucf50_50": 74_578}


class KerasLSTM(nn.Module):
    """An LSTM with one bias, as Keras has it; gates in the order input, forget, cell, output.

    PyTorch's has two biases, one of which would say nothing.
    """

    def __init__(self, inner: int, units: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * units, inner).uniform_(-1, 1) / units**0.5)
        self.weight_hh = nn.Parameter(torch.empty(4 * units, units).uniform_(-1, 1) / units**0.5)
        self.bias = nn.Parameter(torch.zeros(4 * units))

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b units"]:
        """The hidden state after the last frame."""
        hidden = cell = x.new_zeros(len(x), self.weight_hh.shape[1])
        for given in F.linear(x, self.weight_ih, self.bias).unbind(1):
            i, f, g, o = (given + F.linear(hidden, self.weight_hh)).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return hidden


class LRCN(ucf50.Network):
    """Four convolutions with max pooling, an LSTM, a classifier. Clips of any length, BGR in
    [0, 1].

    Args:
        classes: how many.
        size: height and width of the frames in px.
        widths: channels of the convolutions.
        units: of the LSTM.
        pools: see `POOLS`.
    """

    def __init__(
        self,
        classes: int = 50,
        size: int = 64,
        widths: tuple[int, ...] = (16, 32, 64, 64),
        units: int = 32,
        pools: tuple[int, ...] = POOLS,
    ) -> None:
        super().__init__(frames=None, size=size)
        self.pools = pools
        for number, (inner, outer) in enumerate(zip((3, *widths), widths, strict=False), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(inner, outer, 3, padding=1))
        for pool in pools:
            size //= pool
        self.lstm = KerasLSTM(widths[-1] * size * size, units)
        self.fc = nn.Linear(units, classes)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        x = rearrange(clips, "b c t h w -> (b t) c h w")
        for number, pool in enumerate(self.pools, start=1):
            x = F.max_pool2d(F.relu(self.get_submodule(f"conv{number}")(x)), pool)
        scores: Tensor = self.fc(self.lstm(rearrange(x, "(b t) c h w -> b t (h w c)", b=len(clips))))
        return scores


def like(weights: Weights) -> LRCN:
    """The network that a file's weights belong to, which says how large its frames are."""
    state = weights.state
    widths = tuple(len(value) for key, value in state.items() if key.startswith("conv") and key.endswith("bias"))
    pools = tuple(weights.facts.get("pools", POOLS))
    inner = state["lstm.weight_ih"].shape[1]
    side = math.isqrt(inner // widths[-1])  # of the last feature map
    return LRCN(len(state["fc.bias"]), side * math.prod(pools), widths, state["lstm.weight_hh"].shape[1], pools)


def names() -> list[str]:
    """The victims of this family."""
    return list(SHAPES)


def card(name: str) -> Card:
    """What is known of it."""
    description = "LRCN, a convolutional network on each frame and an LSTM"
    return ucf50.card(name, description, "Donahue et al., CVPR 2015", PARAMETERS[name], FILES[name])


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return ucf50.spec(SHAPES[name][1])


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """An LRCN; see `vidmarl.load_victim`."""
    usual, size = SHAPES[name]
    model, found = build(name, lambda classes=usual: LRCN(classes, size), weights, FILES[name], like)
    assert isinstance(model, LRCN)
    return ucf50.victim(name, model, found, spec, default_spec(name), **options)
