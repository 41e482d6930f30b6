"""ConvLSTM: recurrent layers whose inputs, states and gates are images (Shi et al., "Convolutional
LSTM Network", NeurIPS 2015), as a classifier of clips.

The networks are those of a Keras recipe, see `vidmarl.victims.ucf50`.
"""

from __future__ import annotations

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

FILES = {
    "convlstm_ucf50_5": WeightFile(
        "convlstm_ucf50_5.pt", "b597180f5ca6f2611d3bffeafd8c16c608c5b2600ab76a2e3e37d369b0631594"
    ),
    "convlstm_ucf50_31": WeightFile(
        "convlstm_ucf50_31.pt", "be6cecf688ed564d10db731ff5bd9262938c397dfa893dd7e97b5abb3cbc9f38"
    ),
}
SHAPES: dict[str, dict[str, Any]] = {
    "convlstm_ucf50_5": {"classes": 5, "size": 128, "widths": (4, 8, 12, 16), "hard": True},
    "convlstm_ucf50_31": {"classes": 31, "size": 64, "widths": (4, 8, 14, 16), "hard": False},
}
"""The network of each name, see `ConvLSTM`."""
PARAMETERS = {"convlstm_ucf50_5": 107_797, "convlstm_ucf50_31": 122_311}


def hard_sigmoid(x: Tensor) -> Tensor:
    """The sigmoid of straight lines that recurrent layers of Keras 2 use; PyTorch's is steeper."""
    return (0.2 * x + 0.5).clamp(0, 1)


class Cell(nn.Module):
    """A recurrent layer: gates in the order input, forget, cell, output, from a 3x3 convolution of
    the frame without padding and one of the state with it.

    Args:
        inner: channels that come in.
        outer: channels of the state.
        hard: whether the gates use `hard_sigmoid`.
    """

    def __init__(self, inner: int, outer: int, hard: bool) -> None:
        super().__init__()
        self.input = nn.Conv2d(inner, 4 * outer, 3, bias=False)
        self.hidden = nn.Conv2d(outer, 4 * outer, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(4 * outer))
        self.hard = hard

    def forward(self, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t d h2 w2"]:
        """The state after each frame."""
        gate = hard_sigmoid if self.hard else torch.sigmoid
        frames = rearrange(x, "b t c h w -> (b t) c h w")
        given = rearrange(self.input(frames) + self.bias.view(-1, 1, 1), "(b t) c h w -> t b c h w", b=len(x))
        hidden = cell = torch.zeros_like(given[0]).chunk(4, 1)[0]
        states = []
        for now in given:
            i, f, g, o = (now + self.hidden(hidden)).chunk(4, 1)
            cell = gate(f) * cell + gate(i) * g.tanh()
            hidden = gate(o) * cell.tanh()
            states.append(hidden)
        return torch.stack(states, 1)


class ConvLSTM(ucf50.Network):
    """Four recurrent layers with max pooling, and a classifier of all their last states. Clips of
    one length and size, BGR in [0, 1].

    Args:
        classes: how many.
        size: height and width of the frames in px.
        widths: channels of the layers.
        hard: whether the gates use `hard_sigmoid`.
        frames: of a clip.
    """

    def __init__(
        self,
        classes: int = 31,
        size: int = 64,
        widths: tuple[int, ...] = (4, 8, 14, 16),
        hard: bool = False,
        frames: int = 20,
    ) -> None:
        super().__init__(frames=frames, size=size)
        self.depth = len(widths)
        for number, (inner, outer) in enumerate(zip((3, *widths), widths, strict=False), start=1):
            self.add_module(f"cell{number}", Cell(inner, outer, hard))
            size = -(-(size - 2) // 2)
        self.fc = nn.Linear(frames * size * size * widths[-1], classes)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        x = rearrange(clips, "b c t h w -> b t c h w")
        for number in range(1, self.depth + 1):
            x = F.max_pool3d(self.get_submodule(f"cell{number}")(x), (1, 2, 2), ceil_mode=True)
        scores: Tensor = self.fc(rearrange(x, "b t c h w -> b (t h w c)"))
        return scores


def like(weights: Weights, usual: dict[str, Any]) -> ConvLSTM:
    """The network that a file's weights belong to; what the file does not say is as usual."""
    state, facts = weights.state, weights.facts
    widths = tuple(len(value) // 4 for key, value in state.items() if key.startswith("cell") and key.endswith("bias"))
    hard = str(facts["recurrent_activation"]).startswith("hard") if "recurrent_activation" in facts else usual["hard"]
    size, frames = facts.get("size", usual["size"]), facts.get("frames", 20)
    return ConvLSTM(len(state["fc.bias"]), size, widths, hard, frames)


def names() -> list[str]:
    """The victims of this family."""
    return list(SHAPES)


def card(name: str) -> Card:
    """What is known of it."""
    description = "ConvLSTM, recurrent layers of images"
    return ucf50.card(name, description, "Shi et al., NeurIPS 2015", PARAMETERS[name], FILES[name])


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return ucf50.spec(SHAPES[name]["size"])


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """A ConvLSTM; see `vidmarl.load_victim`."""
    usual = SHAPES[name]
    model, found = build(
        name,
        lambda classes=usual["classes"]: ConvLSTM(**usual | {"classes": classes}),
        weights,
        FILES[name],
        lambda weights: like(weights, usual),
    )
    assert isinstance(model, ConvLSTM)
    return ucf50.victim(name, model, found, spec, default_spec(name), **options)
