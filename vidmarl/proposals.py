"""The two action distributions: where (a block of cells with directions) and when (a soft window of frames).

Both have exact log-probabilities, and both can be drawn from given uniform numbers, so that an attack's result for a
clip depends on that clip's own generator alone and not on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

BLOCK_SIZES = (1, 2, 4, 8, 16, 32)
"""How many cells a proposal may change."""

WINDOW_WIDTHS = (1, 2, 4, 8, 16)
"""How many frames a window spans (full width at half height)."""

_NEVER = -1e4
"""The logit of a masked choice: finite, so that a row without any choice left stays defined."""


class BlockDistribution(Distribution):
    """A block of cells without repetition, each with a direction.

    The size is categorical over `BLOCK_SIZES`; the cells are drawn one after another without replacement
    (Plackett-Luce); each drawn cell has an independent direction, up or down. An action is int64[1 + 2 K] with
    K = min(32, cells): the index of the size, K cells in the order of the draw, K directions (1 up, 0 down). What lies
    beyond the size is carried along but neither acts nor counts.

    Args:
        cell_logits: float[... g].
        up_logits: float[... g], logit of going up at each cell.
        size_logits: float[... len(BLOCK_SIZES)].
        can_up: bool[... g], whether going up would change the cell anywhere in the clip.
        can_down: bool[... g], likewise. A cell that can do neither is not drawn.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own class attribute)
    has_rsample = False

    def __init__(
        self,
        cell_logits: Float[Tensor, "... g"],
        up_logits: Float[Tensor, "... g"],
        size_logits: Float[Tensor, "... s"],
        can_up: Bool[Tensor, "... g"],
        can_down: Bool[Tensor, "... g"],
    ) -> None:
        g = cell_logits.shape[-1]
        self.k = min(BLOCK_SIZES[-1], g)
        fits = torch.tensor([size <= g for size in BLOCK_SIZES], device=cell_logits.device)
        self.cell_logits = cell_logits.float().masked_fill(~(can_up | can_down), _NEVER)
        up = up_logits.float().masked_fill(~can_up, _NEVER)
        self.up_logits = torch.where(can_up & ~can_down, -torch.full_like(up, _NEVER), up)
        self.size = Categorical(logits=size_logits.float().masked_fill(~fits, _NEVER), validate_args=False)
        super().__init__(cell_logits.shape[:-1], torch.Size([1 + 2 * self.k]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Non-negative integers."""
        return constraints.nonnegative_integer

    @property
    def uniforms_needed(self) -> int:
        """How many uniform numbers one draw takes."""
        return 1 + self.cell_logits.shape[-1] + self.k

    def draw(self, uniform: Float[Tensor, "... u"]) -> Int64[Tensor, "... a"]:
        """The action that these uniform numbers in [0, 1) stand for (Gumbel top-k)."""
        g = self.cell_logits.shape[-1]
        size = _invert(self.size.probs, uniform[..., 0])
        gumbel = -(-uniform[..., 1 : 1 + g].clamp(1e-9, 1 - 1e-7).log()).log()
        cells = (self.cell_logits + gumbel).topk(self.k, dim=-1).indices
        up = uniform[..., 1 + g :] < self.up_logits.expand_as(gumbel).gather(-1, cells).sigmoid()
        return torch.cat([size[..., None], cells, up.long()], -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + (self.uniforms_needed,)
        return self.draw(torch.rand(shape, device=self.cell_logits.device))

    @property
    def mode(self) -> Tensor:
        """The likeliest size, cells in order of their logits, each in its likelier direction."""
        cells = self.cell_logits.topk(self.k, dim=-1).indices
        up = self.up_logits.gather(-1, cells) > 0
        return torch.cat([self.size.probs.argmax(-1)[..., None], cells, up.long()], -1)

    deterministic_sample = mode

    def log_prob(self, value: Int64[Tensor, "... a"]) -> Float[Tensor, ...]:
        """Exact: size, then each cell among those not drawn before it, then its direction."""
        index, cells, up = value[..., 0], value[..., 1 : 1 + self.k], value[..., 1 + self.k :]
        sizes = torch.tensor(BLOCK_SIZES, device=value.device)[index]
        counts = torch.arange(self.k, device=value.device) < sizes[..., None]
        drawn = torch.nn.functional.one_hot(cells, self.cell_logits.shape[-1]).cumsum(-2)
        before = torch.nn.functional.pad(drawn, (0, 0, 1, 0))[..., :-1, :].bool()
        logits = self.cell_logits[..., None, :].masked_fill(before, -torch.inf)
        log_cell = logits.gather(-1, cells[..., None]).squeeze(-1) - logits.logsumexp(-1)
        at = self.up_logits.gather(-1, cells)
        log_up = torch.nn.functional.logsigmoid(torch.where(up.bool(), at, -at))
        return self.size.log_prob(index) + ((log_cell + log_up) * counts).sum(-1)

    def entropy(self) -> Float[Tensor, ...]:
        """Of the size, the first cell and its direction: a bonus for exploring, not the entropy of the whole block."""
        first = Categorical(logits=self.cell_logits, validate_args=False)
        p = self.up_logits.sigmoid()
        logsig = torch.nn.functional.logsigmoid
        direction = -(p * logsig(self.up_logits) + (1 - p) * logsig(-self.up_logits))
        return self.size.entropy() + first.entropy() + (first.probs * direction).sum(-1)

    @staticmethod
    def block(action: Int64[Tensor, "n a"], g: int) -> Float[Tensor, "n g"]:
        """The change of every cell that an action means: +1, -1 or 0."""
        k = (action.shape[-1] - 1) // 2
        sizes = torch.tensor(BLOCK_SIZES, device=action.device)[action[:, 0]]
        counts = torch.arange(k, device=action.device) < sizes[:, None]
        change = (action[:, 1 + k :] * 2 - 1) * counts
        return torch.zeros(len(action), g, device=action.device).scatter(1, action[:, 1 : 1 + k], change.float())


class WindowDistribution(Distribution):
    """A soft window over the frames: a centre and a width.

    An action is int64[2]: the centre's frame, and the index of the width in `WINDOW_WIDTHS`.

    Args:
        centre_logits: float[... t].
        width_logits: float[... len(WINDOW_WIDTHS)].
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, centre_logits: Float[Tensor, "... t"], width_logits: Float[Tensor, "... w"]) -> None:
        t = centre_logits.shape[-1]
        fits = torch.tensor(
            [w <= max(t, 1) or i == 0 for i, w in enumerate(WINDOW_WIDTHS)], device=centre_logits.device
        )
        self.centre = Categorical(logits=centre_logits.float(), validate_args=False)
        self.width = Categorical(logits=width_logits.float().masked_fill(~fits, _NEVER), validate_args=False)
        super().__init__(centre_logits.shape[:-1], torch.Size([2]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Non-negative integers."""
        return constraints.nonnegative_integer

    uniforms_needed = 2
    """How many uniform numbers one draw takes."""

    def draw(self, uniform: Float[Tensor, "... u"]) -> Int64[Tensor, "... a"]:
        """The action that these uniform numbers in [0, 1) stand for."""
        centre = _invert(self.centre.probs, uniform[..., 0])
        width = _invert(self.width.probs, uniform[..., 1])
        return torch.stack([centre, width], -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + (self.uniforms_needed,)
        return self.draw(torch.rand(shape, device=self.centre.probs.device))

    @property
    def mode(self) -> Tensor:
        """The likeliest centre and width."""
        return torch.stack([self.centre.probs.argmax(-1), self.width.probs.argmax(-1)], -1)

    deterministic_sample = mode

    def log_prob(self, value: Int64[Tensor, "... a"]) -> Float[Tensor, ...]:
        """Exact."""
        return self.centre.log_prob(value[..., 0]) + self.width.log_prob(value[..., 1])

    def entropy(self) -> Float[Tensor, ...]:
        """Exact."""
        return self.centre.entropy() + self.width.entropy()

    @staticmethod
    def window(action: Int64[Tensor, "n 2"], t: int) -> Float[Tensor, "n t"]:
        """The weight of every frame in [0, 1]: 1 at the centre, falling as a raised cosine, 1/2 at half the width.

        A width of 1 touches the centre alone; weights below 1/8 are cut, so that a window ends.
        """
        centre = action[:, :1].float()
        width = torch.tensor(WINDOW_WIDTHS, device=action.device)[action[:, 1:]].float()
        distance = (torch.arange(t, device=action.device) - centre).abs()
        weight = 0.5 + 0.5 * torch.cos(math.pi * (distance / width).clamp(max=1))
        return torch.where((weight < 0.125) | (distance >= width), 0.0, weight)


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """The category at which the cumulative probability passes `uniform`."""
    index = (probs.cumsum(-1) < uniform[..., None]).sum(-1)
    return index.clamp(max=probs.shape[-1] - 1)
