"""The two agents: small convolutional nets over the search cells of a clip, for any grid.

Both see the same observation, which holds only what a black-box attacker can know
(`vidmarl.agents.observation`). The temporal agent says in which frames a tubelet should be centred
and how long it should last; the spatial agent, where in each of these frames. Together they rank
all tubelets. Trunks may run in half precision; heads and log-probabilities are float32.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn

from vidmarl.agents.observation import OBSERVATION
from vidmarl.agents.tubelets import WIDTHS, lengths


@dataclasses.dataclass(frozen=True)
class AgentsConfig:
    """The shape of the nets.

    Attributes:
        features: channels of what a tubelet looks like and costs (`vidmarl.agents.features`).
        state: numbers that describe the clip as a whole.
        width: hidden channels.
        depth: residual blocks per trunk.
        classes: classes of the victim that they tell apart; 0: none.
        longest: frames that a tubelet lasts at most.
        apart: whether orders are drawn in passes in which neighbours keep apart
            (`vidmarl.agents.order_distribution`).

    Raises:
        ValueError: a number of them is not whole, below 1, or beyond all use, or `apart` is no
            bool.
    """

    features: int
    state: int
    width: int = 32
    depth: int = 2
    classes: int = 0
    longest: int = 1
    apart: bool = True

    def __post_init__(self) -> None:
        numbers = dataclasses.asdict(self)
        if type(numbers.pop("apart")) is not bool:
            raise ValueError(f"AgentsConfig: apart must be True or False, got {self.apart!r}.")
        for name, value in numbers.items():
            least, most = int(name != "classes"), 64 if name == "depth" else 4096  # a file must not take all memory
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"AgentsConfig: {name} must be a whole number from {least} to {most}, got {value!r}.")


class Residual(nn.Module):
    """A 3x3 convolution in space, then one over 3 frames, added to the input. Starts as the
    identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.space = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        nn.init.zeros_(self.time.weight)
        nn.init.zeros_(self.time.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.space(x))  # once more below: the nets that ship have learnt with both
        change: Tensor = self.time(nn.functional.gelu(hidden))
        return x + change


class Trunk(nn.Module):
    """From an observation to hidden features of every tubelet."""

    def __init__(self, config: AgentsConfig) -> None:
        super().__init__()
        self.enter = nn.Conv3d(config.features, config.width, 1)
        self.condition = nn.Linear(config.state + config.classes, 2 * config.width)
        self.blocks = nn.Sequential(*(Residual(config.width) for _ in range(config.depth)))

    def forward(self, features: Tensor, state: Tensor) -> Float[Tensor, "n d t gh gw"]:
        x = self.enter(features)
        # scale and shift (Perez et al. 2018): what counts differs between classes
        scale, shift = rearrange(self.condition(state), "n (k d) -> k n d 1 1 1", k=2)
        x = (1 + scale) * x + shift
        hidden: Tensor = self.blocks(nn.functional.gelu(x))
        return hidden.float()


class SpatialNet(nn.Module):
    """Where: a logit of every cell in every frame."""

    def __init__(self, config: AgentsConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.cells = nn.Conv3d(config.width, 1, 1)
        _start_flat(self.cells)

    def forward(self, features: Tensor, state: Tensor) -> Float[Tensor, "n t y x"]:
        hidden = self.trunk(features, state)
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.cells(hidden)
            return logits.squeeze(1)


class TemporalNet(nn.Module):
    """When: logits of how long a tubelet lasts, and of the frame that it is centred in."""

    def __init__(self, config: AgentsConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.frames = nn.Conv1d(2 * config.width, 1, 1)
        self.widths = nn.Linear(2 * config.width, len(WIDTHS))
        _start_flat(self.frames, self.widths)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Float[Tensor, "n w"], Float[Tensor, "n t"]]:
        x = self.trunk(features, state)
        with torch.autocast(x.device.type, enabled=False):
            frames = self.frames(_pooled(x, "n d t h w -> n d t"))
            return self.widths(_pooled(x, "n d t h w -> n d")), frames[:, 0]


def _pooled(x: Tensor, pattern: str) -> Tensor:
    """Mean and maximum side by side."""
    return torch.cat([reduce(x, pattern, "mean"), reduce(x, pattern, "max")], 1)


def _start_flat(*heads: nn.Module) -> None:
    """Heads that start at zero: the first ranking is uniform, whatever the clip."""
    for head in heads:
        nn.init.zeros_(head.weight)  # type: ignore[arg-type]
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]


def _joint(
    width: Float[Tensor, "n w"], frame: Float[Tensor, "n t"], cell: Float[Tensor, "n t y x"], longest: int
) -> Float[Tensor, "n t y x v"]:
    """The log-probability of each tubelet that fits, by what both agents say of it."""
    fits = lengths(frame.shape[-1], longest)
    frame, width = frame.log_softmax(-1), width[:, :fits].log_softmax(-1)
    cell = cell.flatten(2).log_softmax(-1).view_as(cell)
    return frame[:, :, None, None, None] + cell[..., None] + width[:, None, None, None]


class Agents(nn.Module):
    """The team.

    Args:
        config: the shape of the nets.
        trained: what the team was trained for, as plain data; None: nothing yet.

    Attributes:
        temporal, spatial: the two agents.
        trained: settings that an attack takes over unless it is given others ("distortion", "grid"
            as three integers, "search_cell", "coherence"), and what else describes the training
            ("victim", "training_queries", ...). "distortion" and "victim" are lists where there
            were several; an attack is then to be told which distortion.
    """

    def __init__(self, config: AgentsConfig, trained: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.trained: dict[str, Any] = dict(trained or {})
        when = [("temporal", "width_logits"), ("temporal", "frame_logits")]
        where = [("spatial", "cell_logits")]
        self.temporal = TensorDictModule(TemporalNet(config), in_keys=OBSERVATION, out_keys=when)
        self.spatial = TensorDictModule(SpatialNet(config), in_keys=OBSERVATION, out_keys=where)

    def rank(self, td: TensorDict) -> Float[Tensor, "n t y x w"]:
        """How likely both agents together are to choose each tubelet first: log-probabilities of
        the frame that it is centred in, its cell, and how long it lasts (an index in `WIDTHS`).

        Args:
            td: observations of n clips.
        """
        ranked: Tensor = self.ranking_net()(td.copy())["ranking"]
        return ranked

    def ranking_net(self) -> TensorDictSequential:
        """Both agents as one net, which writes what `rank` gives as "ranking"."""
        joint = partial(_joint, longest=self.config.longest)
        logits = [*self.temporal.out_keys, *self.spatial.out_keys]
        return TensorDictSequential(
            self.temporal, self.spatial, TensorDictModule(joint, in_keys=logits, out_keys=["ranking"])
        )

    def names_of(self, what: Literal["victim", "distortion"]) -> list[str]:
        """The victims, or the classes of the distortions, that the team was trained for."""
        told = self.trained.get(what) or []
        each = told if isinstance(told, list) else [told]
        names = [
            str(one.get("class_path", "")).rpartition(".")[2] if isinstance(one, dict) else str(one) for one in each
        ]
        return [name for name in names if name]

    def __repr__(self) -> str:
        trained = f"trained for {', '.join(self.names_of('distortion')) or 'nothing yet'}"
        if victims := self.names_of("victim"):
            trained += f" against {', '.join(victims)}"
        return f"Agents({trained}, {sum(p.numel() for p in self.parameters()):,} parameters)"
