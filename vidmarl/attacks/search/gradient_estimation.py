"""Gradients estimated from scores, for attacks that descend the margin of the goal in a ball (see
`ball`).

The estimators are parts of a `Search`: they yield what they ask, and are used as `slope =
yield from nes(...)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.attacks.search.linf_ball import BallAttack
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Pixels, Request, Search
from vidmarl.queries.session import Response

Estimate = Generator[Tensor | Request, Response, Tensor]
"""A part of a search that asks, and returns what it has found."""


def nes(
    candidates: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    samples: int,
    sigma: float,
    rng: torch.Generator,
    device: torch.device,
) -> Estimate:
    """The gradient of the margin by natural evolution strategies with antithetic pairs (Ilyas et
    al., ICML 2018).

    `1 / (samples sigma) sum_i margin(candidates(sigma u_i)) u_i`, with `u_i` standard normal, half
    of them the other half negated. It asks `samples` probes.

    Args:
        candidates: from variables float[samples *shape] to clips float[samples 3 t h w].
        shape: of the variables.
        samples: an even number.
        sigma: standard deviation of the probes, in units of the variables.
        rng: a source of random numbers, on the CPU.
        device: where the variables are wanted.

    Returns:
        float[*shape].
    """
    half = torch.randn(samples // 2, *shape, generator=rng).to(device)
    noise = torch.cat([half, -half])
    response = yield Pixels(candidates(sigma * noise), probe=True)
    return torch.einsum("n,n...->...", response.margin.to(noise), noise) / (samples * sigma)


def bandit(
    iterate: Float[Tensor, "3 t h w"],
    slope: Float[Tensor, "3 t h w"],
    direction: Float[Tensor, "3 t h w"],
    *,
    reach: float,
    exploration: float,
    learning_rate: float,
) -> Estimate:
    """A running estimate of the gradient, corrected along one direction: bandit optimisation (Ilyas
    et al., ICLR 2019).

    With `w = slope ± exploration * direction`, it asks two probes `iterate + reach * w / |w|`, the
    norm taken in each frame, and adds to the slope their difference times `learning_rate / (reach *
    exploration)` along the direction.

    Args:
        iterate: where the margin is probed.
        slope: the estimate so far.
        direction: where to explore, of about unit variance.
        reach: norm of a probe in each frame, in [0, 1] pixels: epsilon in the papers.
        exploration: share of the direction in a probe: delta in the papers.
        learning_rate: eta in the papers.

    Returns:
        The new estimate, float[3 t h w].
    """
    pair = torch.stack([slope + exploration * direction, slope - exploration * direction])
    norms = torch.linalg.vector_norm(pair, dim=(1, 3, 4), keepdim=True).clamp_min(1e-12)
    response = yield Pixels(iterate + reach * pair / norms, probe=True)
    rise = (response.margin[0] - response.margin[1]) / (reach * exploration)
    return slope + learning_rate * rise.to(direction) * direction


MOST_SAMPLES = 10_000
"""Probes of an iteration of `nes`, which are made together."""


class NESAttack(BallAttack):
    """What attacks by `nes` have in common: the probes, and a step that becomes smaller.

    Args:
        samples: probes of an iteration, an even number.
        sigma: standard deviation of the probes, in [0, 1] pixels.
        step: the first step in [0, 1] pixels.
        smallest_step: the last one.
        patience: margins that are looked at together before the step is halved, see `StepSize`.

    Raises:
        ValueError: a setting is out of its range.
    """

    samples: int = 48
    sigma: float = 1e-3
    step: float = 1e-2
    smallest_step: float = 1e-3
    patience: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.samples <= MOST_SAMPLES or self.samples % 2:
            raise ValueError(
                f"{type(self).__name__}: probes come in pairs, so samples must be even, from 2 to {MOST_SAMPLES}, got"
                f" {self.samples}."
            )
        self.check_positive("sigma", "step", "smallest_step", "patience")
        if self.smallest_step > self.step:
            raise ValueError(
                f"{type(self).__name__}: smallest_step must be at most step, {self.step}, got {self.smallest_step}."
            )

    def step_size(self) -> StepSize:
        """The steps of one search."""
        return StepSize(self.step, self.smallest_step, self.patience)


class BanditAttack(BallAttack):
    """Descent by the signs of a `bandit` estimate; a subclass says where it explores.

    An iteration asks two probes and then about the iterate: 3 queries.

    Args:
        reach: norm of the probes in each frame: the papers' epsilon.
        exploration: share of the noise in the probes: the papers' delta.
        learning_rate: of the estimate: the papers' eta.
        step: step in [0, 1] pixels.
    """

    reach: float = 0.1
    exploration: float = 0.1
    learning_rate: float = 0.1
    step: float = 0.025

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("reach", "exploration", "step")

    @abstractmethod
    def directions(self, clip: Float[Tensor, "3 t h w"], rng: torch.Generator) -> Iterator[Float[Tensor, "3 t h w"]]:
        """Directions of about unit variance, one an iteration, without end."""

    def search(self, clip: ClipView) -> Search:
        iterate, slope = clip.pixels, torch.zeros_like(clip.pixels)
        for direction in self.directions(clip.pixels, clip.rng):
            slope = yield from bandit(
                iterate,
                slope,
                direction,
                reach=self.reach,
                exploration=self.exploration,
                learning_rate=self.learning_rate,
            )
            iterate = self.project(iterate - self.step * slope.sign(), clip.pixels)
            response = yield Pixels(iterate[None])
            if response.success:
                return


def random_start(clip: Float[Tensor, "3 t h w"], epsilon: float, rng: torch.Generator) -> Tensor:
    """A point drawn uniformly from the Linf ball around a clip, not clamped to [0, 1]."""
    return clip + epsilon * (2 * torch.rand(clip.shape, generator=rng) - 1).to(clip.device)


def over_patches(weights: Float[Tensor, "*n t p q"], h: int, w: int) -> Float[Tensor, "*n 1 t h w"]:
    """A weight per patch of each frame, given to all pixels of the patch; a frame is split as
    evenly as it can be."""
    p, q = weights.shape[-2:]
    rows = (torch.arange(h) * p // h).to(weights.device)
    columns = (torch.arange(w) * q // w).to(weights.device)
    return rearrange(weights[..., rows, :][..., columns], "... t h w -> ... 1 t h w")


class StepSize:
    """A step that is halved whenever `patience` margins in a row have ended no lower than they
    began.

    Args:
        largest: the first step, in [0, 1] pixels.
        smallest: the last one.
        patience: how many margins are looked at together.
    """

    def __init__(self, largest: float, smallest: float, patience: int) -> None:
        self.now = largest
        self.smallest = smallest
        self.patience = patience
        self._margins: list[float] = []

    def after(self, margin: float) -> float:
        """The step to take next, one more margin known."""
        self._margins = [*self._margins, margin][-self.patience :]
        if len(self._margins) == self.patience and self._margins[-1] >= self._margins[0]:
            self.now = max(self.now / 2, self.smallest)
            self._margins = []
        return self.now
