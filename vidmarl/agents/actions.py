"""The two action distributions: when (how many tubelets, for how long, in which frames) and where
(which cell in each).

A proposal is a set of up to `DRAWS` tubelets. The temporal agent draws their frames, the spatial
agent a cell for each frame drawn, so together they can express any distribution over tubelets, and
each has an exact log-probability of its own. Both can be drawn from given uniform numbers, so that
an attack's result for a clip depends on that clip's own generator alone and not on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

COUNTS = (1, 2, 4, 8, 16, 32)
"""How many tubelets a proposal may name."""

DRAWS = COUNTS[-1]

WIDTHS = (1, 2, 4, 8, 16)
"""How many frames each of them lasts."""

_NEVER = -1e4
"""The logit of a masked choice: finite, so that a row without any choice left stays defined."""


class WhenDistribution(Distribution):
    """How many tubelets, how long they last, and in which frame each of them begins to be centred.

    An action is int64[2 + DRAWS]: the index of the count in `COUNTS`, the index of the width in
    `WIDTHS`, and the frames, drawn independently. Frames beyond the count are carried along but
    neither act nor count.

    Args:
        count_logits: float[... len(COUNTS)].
        width_logits: float[... len(WIDTHS)].
        frame_logits: float[... t].
        count_mask: bool[... len(COUNTS)], the counts that make sense now.
        frame_mask: bool[... t], the frames in which something can be changed.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own class attribute)
    has_rsample = False

    def __init__(
        self,
        count_logits: Float[Tensor, "... c"],
        width_logits: Float[Tensor, "... w"],
        frame_logits: Float[Tensor, "... t"],
        count_mask: Bool[Tensor, "... c"],
        frame_mask: Bool[Tensor, "... t"],
    ) -> None:
        t = frame_logits.shape[-1]
        fits = torch.tensor([width <= t for width in WIDTHS], device=frame_logits.device)
        self.count = _categorical(count_logits, count_mask)
        self.width = _categorical(width_logits, fits)
        self.frame = _categorical(frame_logits, frame_mask)
        super().__init__(frame_logits.shape[:-1], torch.Size([2 + DRAWS]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Non-negative integers."""
        return constraints.nonnegative_integer

    uniforms_needed = 2 + DRAWS
    """How many uniform numbers one draw takes."""

    def draw(self, uniform: Float[Tensor, "... u"]) -> Int64[Tensor, "... a"]:
        """The action that these uniform numbers in [0, 1) stand for."""
        count, width = _invert(self.count.probs, uniform[..., 0]), _invert(self.width.probs, uniform[..., 1])
        frames = _invert(self.frame.probs[..., None, :], uniform[..., 2:])
        return torch.cat([count[..., None], width[..., None], frames], -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + (self.uniforms_needed,)
        return self.draw(torch.rand(shape, device=self.frame.logits.device))

    @property
    def mode(self) -> Tensor:
        """The likeliest count and width, and the likeliest frame throughout."""
        parts = [self.count.probs.argmax(-1), self.width.probs.argmax(-1), self.frame.probs.argmax(-1)]
        frames = parts[2][..., None].expand(*self.batch_shape, DRAWS)
        return torch.cat([parts[0][..., None], parts[1][..., None], frames], -1)

    deterministic_sample = mode

    def log_prob(self, value: Int64[Tensor, "... a"]) -> Float[Tensor, ...]:
        """Exact, over the frames within the count."""
        frames = self.frame.logits.expand(*value.shape[:-1], -1).gather(-1, value[..., 2:])
        total: Tensor = self.count.log_prob(value[..., 0]) + self.width.log_prob(value[..., 1])
        return total + (frames * within(value)).sum(-1)

    def entropy(self) -> Float[Tensor, ...]:
        """Of the count, the width and one frame: a bonus for exploring, not the entropy of the
        whole set."""
        total: Tensor = self.count.entropy() + self.width.entropy() + self.frame.entropy()
        return total


class WhereDistribution(Distribution):
    """A cell, and a direction, for every frame that the temporal agent has drawn.

    An action is int64[2 DRAWS]: the cells, drawn independently, then the directions (1 up, 0 down).

    Args:
        cell_logits: float[... t g].
        up_logits: float[... t g], logit of going up.
        up_mask: bool[... t g], whether going up would change the tubelet.
        down_mask: bool[... t g], likewise. A tubelet that can do neither is not drawn.
        when: int64[... 2 + DRAWS], the temporal agent's action.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        cell_logits: Float[Tensor, "... t g"],
        up_logits: Float[Tensor, "... t g"],
        up_mask: Bool[Tensor, "... t g"],
        down_mask: Bool[Tensor, "... t g"],
        when: Int64[Tensor, "... a"],
    ) -> None:
        up = up_logits.float().masked_fill(~up_mask, _NEVER)
        up = torch.where(up_mask & ~down_mask, -torch.full_like(up, _NEVER), up)
        cells = cell_logits.float().masked_fill(~(up_mask | down_mask), _NEVER).log_softmax(-1)
        frames = when[..., 2:, None].expand(*when.shape[:-1], DRAWS, cells.shape[-1])
        self.within = within(when)
        self.cell_logits = cells.gather(-2, frames)
        self.up_logits = up.gather(-2, frames)
        super().__init__(when.shape[:-1], torch.Size([2 * DRAWS]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Non-negative integers."""
        return constraints.nonnegative_integer

    uniforms_needed = 2 * DRAWS
    """How many uniform numbers one draw takes."""

    def draw(self, uniform: Float[Tensor, "... u"]) -> Int64[Tensor, "... a"]:
        """The action that these uniform numbers in [0, 1) stand for."""
        cells = _invert(self.cell_logits.exp(), uniform[..., :DRAWS])
        up = uniform[..., DRAWS:] < self._at(cells).sigmoid()
        return torch.cat([cells, up.long()], -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + (self.uniforms_needed,)
        return self.draw(torch.rand(shape, device=self.cell_logits.device))

    @property
    def mode(self) -> Tensor:
        """The likeliest cell of every frame, in its likelier direction."""
        cells = self.cell_logits.argmax(-1)
        return torch.cat([cells, (self._at(cells) > 0).long()], -1)

    deterministic_sample = mode

    def log_prob(self, value: Int64[Tensor, "... a"]) -> Float[Tensor, ...]:
        """Exact, over the draws within the temporal agent's count, given its frames."""
        cells, up = value[..., :DRAWS], value[..., DRAWS:].bool()
        log_cell = _pick(self.cell_logits, cells)
        at = self._at(cells)
        log_up = torch.nn.functional.logsigmoid(torch.where(up, at, -at))
        return ((log_cell + log_up) * self.within).sum(-1)

    def entropy(self) -> Float[Tensor, ...]:
        """Mean over the draws within the count, of the cell and its direction."""
        p = self.cell_logits.exp()
        up = self.up_logits.sigmoid()
        logsig = torch.nn.functional.logsigmoid
        direction = -(up * logsig(self.up_logits) + (1 - up) * logsig(-self.up_logits))
        each = (p * (direction - self.cell_logits)).sum(-1)
        return (each * self.within).sum(-1) / self.within.sum(-1)

    def _at(self, cells: Tensor) -> Tensor:
        return _pick(self.up_logits, cells)


def within(when: Int64[Tensor, "... a"]) -> Bool[Tensor, "... draws"]:
    """Which of the draws lie within the count of a temporal action."""
    counts = torch.tensor(COUNTS, device=when.device)[when[..., 0]]
    return torch.arange(DRAWS, device=when.device) < counts[..., None]


def directions(
    when: Int64[Tensor, "n a"], where: Int64[Tensor, "n b"], shape: tuple[int, int], *, alternate: bool = False
) -> Float[Tensor, "n t g"]:
    """What two actions mean: +1 or -1 for the tubelets that they name, 0 elsewhere; the last draw
    of one holds.

    Args:
        when: the temporal agent's action.
        where: the spatial agent's.
        shape: (t, g).
        alternate: see `lasting`.
    """
    n, (t, g), device = len(when), shape, when.device
    course = lasting(when[:, 2:], when[:, 1:2], t, alternate=alternate) * within(when)[..., None]
    cells, sign = where[:, :DRAWS], (where[:, DRAWS:] * 2 - 1).float()
    out = torch.zeros(n, t, g, device=device)
    rows = torch.arange(n, device=device)
    for draw in range(DRAWS):
        old = out[rows, :, cells[:, draw]]
        out[rows, :, cells[:, draw]] = torch.where(course[:, draw] != 0, sign[:, draw, None] * course[:, draw], old)
    return out


def lengths(frames: int, longest: int) -> int:
    """How many of `WIDTHS`, from the first on, tubelets may last in a clip.

    Args:
        frames: of the clip.
        longest: frames that a tubelet lasts at most.
    """
    return sum(width <= min(frames, longest) for width in WIDTHS)


def lasting(
    frame: Int64[Tensor, "*n"], width: Int64[Tensor, "*#n"], frames: int, *, alternate: bool
) -> Float[Tensor, "*n t"]:
    """The course of a tubelet in time: 1 or -1 in the frames in which it lasts, 0 in the others.

    With width w it lasts from w // 2 frames before its frame to (w - 1) // 2 after it, cut at the
    clip's ends.

    Args:
        frame: which frame it is centred in.
        width: index in `WIDTHS` of how many frames it lasts.
        frames: of the clip.
        alternate: whether its direction turns from frame to frame. A pattern that is held fools few
            victims, one that turns fools most (docs/experiments.md).
    """
    last = torch.tensor(WIDTHS, device=width.device)[width][..., None]
    offset = torch.arange(frames, device=frame.device) - frame[..., None]
    lasts = (offset >= -(last // 2)) & (offset <= (last - 1) // 2)
    return (lasts * (1 - 2 * (offset % 2) if alternate else 1)).float()


def _categorical(logits: Tensor, mask: Tensor) -> Categorical:
    return Categorical(logits=logits.float().masked_fill(~mask, _NEVER), validate_args=False)


def _pick(logits: Tensor, index: Tensor) -> Tensor:
    """`logits[..., index]`; the index may have further leading dimensions, those of a sample
    shape."""
    return logits.expand(*index.shape, -1).gather(-1, index[..., None]).squeeze(-1)


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """The category at which the cumulative probability passes `uniform`: never one of probability
    0, not even for a uniform number of 0 or where the probabilities sum to a little less than 1."""
    passed = probs.cumsum(-1)
    return (passed <= uniform[..., None] * passed[..., -1:]).sum(-1)
