"""Sparse NES: rectified directions on a few frames, which an agent picks."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.attacks.search.gradient_estimation import nes, over_patches, random_start
from vidmarl.attacks.vbad import VBAD
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Pixels, Search

Frames = Literal["learned", "representative", "random"]


class SparseNES(VBAD):
    """V-BAD's descent on a few frames of the clip: SVA and EARL (Wei, Yan and Li, IJCV 2022, arXiv
    2001.03754).

    Which frames is the setting `frames`:

    - "learned" (EARL): an agent learns during the attack. Each iteration estimates the gradient on
      all frames with `samples` probes, then draws `draws` sets of frames from the agent and asks
      two probes for each: the step on all frames, and on the set. The reward `exp(-|difference of
      the margins|)` is largest where the set does what all frames would. The best set takes the
      step, and the agent is updated by REINFORCE with a running baseline. `samples + 2 draws + 1`
      queries an iteration: 48 + 10 + 1.
    - "representative": the frames that the clip's other frames resemble most, found once, without a
      query. The gradient is estimated on them alone: `samples + 1` queries, with `samples=24` the
      setting of SVA.
    - "random": a control, drawn once.

    What differs from the papers and their public code: the agent is one score per frame, learned
    from nothing on each clip, instead of a bidirectional LSTM over the features of a ResNet-18, and
    draws exactly `n_frames` frames instead of a Bernoulli number of them cut off there.
    "representative" maximises the reward for representativeness that SVA's agent is trained with,
    directly, on frames of 16 px instead of network features. The targeted attack is the untargeted
    one with another margin, where the code estimates the gradient of every pixel. As in `VBAD`, the
    loss is the margin of the goal, the directions are random unless an image prior is named, and
    success is looked for in 8 bits.

    Args:
        frames: how frames are picked, see above.
        n_frames: how many at a time; all, if the clip has no more.
        draws: sets of frames that the agent is rewarded for in an iteration; only for "learned".
        agent_step: learning rate of the agent; only for "learned".
    """

    frames: Frames = "learned"
    n_frames: int = 2
    draws: int = 5
    agent_step: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames not in get_args(Frames):
            raise ValueError(f"SparseNES: frames are picked by one of {get_args(Frames)}, got {self.frames!r}.")
        if min(self.n_frames, self.draws) < 1:
            raise ValueError(
                f"SparseNES: expected n_frames and draws of at least 1, got {self.n_frames} and {self.draws}."
            )

    def search(self, clip: ClipView) -> Search:
        pixels, rng = clip.pixels, clip.rng
        t, h, w = pixels.shape[1:]
        agent = FrameAgent(t, min(self.n_frames, t), self.agent_step, rng)
        chosen = representative(pixels, agent.size) if self.frames == "representative" else agent.draw()
        varied = torch.arange(t) if self.frames == "learned" else chosen
        step = self.step_size()
        offset = random_start(pixels, self.epsilon, rng) - pixels
        iterate = self.project(pixels + mask(chosen, pixels) * offset, pixels)
        while True:
            response = yield Pixels(iterate[None])
            if response.success:
                return
            size = step.after(float(response.margin))
            tentative = self._prior(iterate, rng)

            def probes(weights: Tensor, x: Tensor = iterate, d: Tensor = tentative) -> Tensor:
                moved = x.repeat(len(weights), 1, 1, 1, 1)
                moved[:, :, varied] += over_patches(weights, h, w) * d[:, varied]
                return moved

            shape = (len(varied), min(self.patches, h), min(self.patches, w))
            slope = yield from nes(probes, shape, self.samples, self.sigma, rng, pixels.device)
            move = torch.zeros_like(pixels)
            move[:, varied] = -size * over_patches(slope.sign(), h, w) * tentative[:, varied]
            if self.frames == "learned":
                if 2 * self.draws > clip.budget - clip.queries:
                    return
                sets = [agent.draw() for _ in range(self.draws)]
                pairs = [pair for some in sets for pair in (move, mask(some, pixels) * move)]
                response = yield Pixels(self.project(iterate + torch.stack(pairs), pixels), probe=True)
                dense, sparse = rearrange(response.margin, "(draw pair) -> pair draw", pair=2)
                rewards = (-(dense - sparse).abs()).exp()
                chosen = sets[int(rewards.argmax())]
                agent.update(sets, rewards)
            iterate = self.project(iterate + mask(chosen, pixels) * move, pixels)


class FrameAgent:
    """Draws sets of frames without putting any back, each frame as likely as the softmax of its
    score.

    Args:
        frames: of the clip.
        size: frames in a set.
        learning_rate: of the scores.
        rng: a source of random numbers, on the CPU.

    Attributes:
        scores: float[frames].
    """

    def __init__(self, frames: int, size: int, learning_rate: float, rng: torch.Generator) -> None:
        self.scores = torch.zeros(frames)
        self.size = size
        self.learning_rate = learning_rate
        self._rng = rng
        self._baseline: float | None = None

    def draw(self) -> Int64[Tensor, " size"]:
        """A set of frames, in the order in which they were drawn (Gumbel top-k: Kool et al., ICML
        2019)."""
        gumbel = -torch.empty_like(self.scores).exponential_(generator=self._rng).log()
        return (self.scores + gumbel).topk(self.size).indices

    def update(self, sets: list[Tensor], rewards: Float[Tensor, " n"]) -> None:
        """One step of REINFORCE; the baseline is a running mean of the rewards."""
        baseline = float(rewards.mean()) if self._baseline is None else self._baseline
        for some, reward in zip(sets, rewards.tolist(), strict=True):
            self.scores += self.learning_rate / len(sets) * (reward - baseline) * self._slope(some)
        self._baseline = 0.9 * baseline + 0.1 * float(rewards.mean())

    def _slope(self, some: Tensor) -> Tensor:
        """The gradient of the log-probability of an ordered draw."""
        left = torch.ones_like(self.scores, dtype=torch.bool)
        slope = torch.zeros_like(self.scores)
        for frame in some.tolist():
            slope[frame] += 1
            slope -= self.scores.masked_fill(~left, -torch.inf).softmax(0)
            left[frame] = False
        return slope


def mask(frames: Int64[Tensor, " k"], clip: Float[Tensor, "3 t h w"]) -> Float[Tensor, "t 1 1"]:
    """1 at the given frames of a clip, 0 at the others."""
    return clip.new_zeros(clip.shape[1]).index_fill(0, frames.to(clip.device), 1.0).view(-1, 1, 1)


def representative(clip: Float[Tensor, "3 t h w"], size: int) -> Int64[Tensor, " size"]:
    """The frames nearest to all others: greedy k-medoids on the Euclidean distances of frames of 16
    px."""
    small = F.adaptive_avg_pool2d(rearrange(clip, "c t h w -> t c h w"), 16).flatten(1).cpu()
    distance = torch.cdist(small, small, compute_mode="donot_use_mm_for_euclid_dist")
    chosen: list[int] = []
    nearest = torch.full((len(small),), torch.inf)
    for _ in range(size):
        cost = torch.minimum(nearest[:, None], distance).mean(0)
        cost[chosen] = torch.inf  # where frames repeat, another of them costs the same
        chosen.append(int(cost.argmin()))
        nearest = torch.minimum(nearest, distance[:, chosen[-1]])
    return torch.tensor(chosen)
