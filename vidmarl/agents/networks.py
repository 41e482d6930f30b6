"""The two actors and their centralised critic: small convolutional nets over the tubelets, for any
grid.

All three see the same observation, which holds only what a black-box attacker can know
(`vidmarl.agents.environment`). The temporal actor says how many tubelets to change, for how long
and in which frames; the spatial actor, which cell in each of these frames, and in which direction.
Trunks may run in half precision; heads, log-probabilities and values are float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int64
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from vidmarl.agents.actions import COUNTS, WIDTHS, WhenDistribution, WhereDistribution, lengths

Acts = Literal["proposals", "order"]
"""How agents act: a proposal for each query (`vidmarl.agents.episodes`), or by one order of all
tubelets (`vidmarl.agents.order`)."""

OBSERVATION = ["features", "maps", "state"]


@dataclasses.dataclass(frozen=True)
class AgentsConfig:
    """The shape of the nets.

    Attributes:
        features: channels of what a tubelet looks like and costs (`vidmarl.agents.features`).
        maps: channels of what the episode has done and found out, per tubelet.
        state: numbers that describe the episode as a whole.
        width: hidden channels.
        depth: residual blocks per trunk.
        classes: classes of the victim that they tell apart; 0: none.
        longest: frames that a tubelet lasts at most, of agents that rank tubelets.

    Raises:
        ValueError: one of them is no whole number, below 1, or beyond all use.
    """

    features: int
    maps: int
    state: int
    width: int = 32
    depth: int = 2
    classes: int = 0
    longest: int = WIDTHS[-1]

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
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
        hidden = nn.functional.gelu(self.space(x))
        change: Tensor = self.time(nn.functional.gelu(hidden))
        return x + change


class Trunk(nn.Module):
    """From an observation to hidden features of every tubelet."""

    def __init__(self, config: AgentsConfig) -> None:
        super().__init__()
        self.enter = nn.Conv3d(config.features + config.maps, config.width, 1)
        self.condition = nn.Linear(config.state + config.classes, 2 * config.width)
        self.blocks = nn.Sequential(*(Residual(config.width) for _ in range(config.depth)))

    def forward(self, features: Tensor, maps: Tensor, state: Tensor) -> Float[Tensor, "n d t gh gw"]:
        x = self.enter(torch.cat([features, maps], 1))
        # Scale and shift (Perez et al. 2018): what counts turns round once the clip is fooled.
        scale, shift = rearrange(self.condition(state), "n (k d) -> k n d 1 1 1", k=2)
        x = (1 + scale) * x + shift
        hidden: Tensor = self.blocks(nn.functional.gelu(x))
        return hidden.float()


def pooled(x: Tensor, pattern: str) -> Tensor:
    """Mean and maximum side by side."""
    return torch.cat([reduce(x, pattern, "mean"), reduce(x, pattern, "max")], 1)


class Grid(nn.Module):
    """A net over one observation [n ...], usable with any leading dimensions; `infer` is the net
    itself, on one."""

    infer: Callable[..., Any]

    def forward(self, features: Tensor, maps: Tensor, state: Tensor, *more: Tensor) -> Any:
        lead = state.shape[:-1]
        flat = [x.reshape(-1, *x.shape[len(lead) :]) for x in (features, maps, state, *more)]
        out = self.infer(*flat)
        if isinstance(out, tuple):
            return tuple(x.reshape(*lead, *x.shape[1:]) for x in out)
        return out.reshape(*lead, *out.shape[1:])


class SpatialNet(Grid):
    """Where: logits of every cell in every frame, and of its direction; with one agent axis."""

    def __init__(self, config: AgentsConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.cells = nn.Conv3d(config.width, 2, 1)
        _start_flat(self.cells)

    def infer(self, features: Tensor, maps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(features, maps, state)
        with torch.autocast(x.device.type, enabled=False):
            cell, up = rearrange(self.cells(x), "n k t h w -> k n 1 t (h w)")
        return cell, up


class TemporalNet(Grid):
    """When: logits of how many tubelets, of how long they last, and of every frame; with one agent
    axis.

    The logits of count and width start around the size of proposal that the environment suggests.
    """

    def __init__(self, config: AgentsConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.frames = nn.Conv1d(2 * config.width, 1, 1)
        self.sizes = nn.Linear(2 * config.width, len(COUNTS) + len(WIDTHS))
        _start_flat(self.frames, self.sizes)

    def infer(
        self, features: Tensor, maps: Tensor, state: Tensor, proposal_size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.trunk(features, maps, state)
        with torch.autocast(x.device.type, enabled=False):
            frame = self.frames(pooled(x, "n d t h w -> n d t"))
            count, width = self.sizes(pooled(x, "n d t h w -> n d"))[:, None].split([len(COUNTS), len(WIDTHS)], -1)
        count = count + _around(proposal_size.clamp_max(len(COUNTS) - 1), len(COUNTS))
        width = width + _around((proposal_size - len(COUNTS) + 1).clamp_min(0), len(WIDTHS))
        return count, width, frame


def _around(index: Int64[Tensor, "n 1"], categories: int) -> Float[Tensor, "n 1 c"]:
    """Logits that fall off on both sides of a category."""
    return -2.0 * (torch.arange(categories, device=index.device) - index[..., None]).abs().float()


class ValueNet(Grid):
    """The team's value of a state, float[n 1 1]: one agent axis, one number."""

    def __init__(self, config: AgentsConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.head = nn.Sequential(
            nn.Linear(2 * config.width, 2 * config.width), nn.GELU(), nn.Linear(2 * config.width, 1)
        )
        nn.init.zeros_(self.head[-1].weight)  # type: ignore[arg-type]

    def infer(self, features: Tensor, maps: Tensor, state: Tensor) -> Tensor:
        x = self.trunk(features, maps, state)
        with torch.autocast(x.device.type, enabled=False):
            value: Tensor = self.head(pooled(x, "n d t h w -> n d"))
        return value[:, None]


def _start_flat(*heads: nn.Module) -> None:
    """Heads that start at zero: the first policy is uniform, whatever the clip."""
    for head in heads:
        nn.init.zeros_(head.weight)  # type: ignore[arg-type]
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]


def _joint(
    frame: Float[Tensor, "n 1 t"], width: Float[Tensor, "n 1 w"], cell: Float[Tensor, "n 1 t c"], longest: int
) -> Float[Tensor, "n t c v"]:
    """The log-probability of each tubelet that fits, by what both agents say of it."""
    fits = lengths(frame.shape[-1], longest)
    frame, width, cell = frame.log_softmax(-1), width[..., :fits].log_softmax(-1), cell.log_softmax(-1)
    both = frame[..., None, None] + cell[..., None] + width[..., None, None, :]
    return rearrange(both, "n 1 t c w -> n t c w")


class Agents(nn.Module):
    """The team: temporal actor, spatial actor (which sees what the temporal one has drawn), critic.

    Args:
        config: the shape of the nets.
        trained: what the team was trained for, as plain data; None: nothing yet.

    Attributes:
        trained: settings that an attack takes over unless it is given others ("distortion", "grid"
            as three integers, "search_cell", "coherence", "proposal_size"), how they act ("acts"),
            and what else describes the training ("victim", "training_queries", ...). "distortion"
            and "victim" are lists where there were several; an attack is then to be told which
            distortion.
    """

    def __init__(self, config: AgentsConfig, trained: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.trained: dict[str, Any] = dict(trained or {})
        common: dict[str, Any] = {
            "return_log_prob": True,
            "default_interaction_type": InteractionType.RANDOM,
        }
        self.temporal = ProbabilisticActor(
            TensorDictModule(
                TemporalNet(config),
                in_keys=[*OBSERVATION, ("temporal", "proposal_size")],
                out_keys=[("temporal", key) for key in ("count_logits", "width_logits", "frame_logits")],
            ),
            in_keys={
                key: ("temporal", key)
                for key in ("count_logits", "width_logits", "frame_logits", "count_mask", "frame_mask")
            },
            out_keys=[("temporal", "action")],
            distribution_class=WhenDistribution,
            log_prob_key=("temporal", "log_prob"),
            **common,
        )
        self.spatial = ProbabilisticActor(
            TensorDictModule(
                SpatialNet(config),
                in_keys=OBSERVATION,
                out_keys=[("spatial", key) for key in ("cell_logits", "up_logits")],
            ),
            in_keys={key: ("spatial", key) for key in ("cell_logits", "up_logits", "up_mask", "down_mask")}
            | {"when": ("temporal", "action")},
            out_keys=[("spatial", "action")],
            distribution_class=WhereDistribution,
            log_prob_key=("spatial", "log_prob"),
            **common,
        )
        self.critic = TensorDictModule(ValueNet(config), in_keys=OBSERVATION, out_keys=["state_value"])

    def rank(self, td: TensorDict) -> Float[Tensor, "n t c w"]:
        """How likely both agents together are to choose each tubelet first: log-probabilities of
        the frame that it is centred in, its cell, and how long it lasts (an index in `WIDTHS`).

        Args:
            td: observations of n clips.
        """
        ranked: Tensor = self.ranking_net()(td.copy())["ranking"]
        return ranked

    def ranking_net(self) -> TensorDictSequential:
        """Both actors' nets as one, which writes what `rank` gives as "ranking"."""
        logits = [("temporal", "frame_logits"), ("temporal", "width_logits"), ("spatial", "cell_logits")]
        joint = partial(_joint, longest=self.config.longest)
        return TensorDictSequential(
            self.temporal[0], self.spatial[0], TensorDictModule(joint, in_keys=logits, out_keys=["ranking"])
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
