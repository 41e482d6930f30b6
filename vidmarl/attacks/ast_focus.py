"""AstFocus: two agents learn, on the clip under attack, in which frames and where in them to
estimate the gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.distributions import Categorical

from vidmarl.attacks.search.gradient_estimation import NESAttack, nes
from vidmarl.queries.clip import ClipView
from vidmarl.queries.goals import Goal
from vidmarl.queries.scheduler import Pixels, Search
from vidmarl.utils.kinds import check_least
from vidmarl.utils.randomness import seeded

PLACES = 7
"""Places of the window along each side of a frame."""

FEWEST, MOST = 2 / 16, 10 / 16
"""Fractions of the frames that may be attacked in one step."""

TEAM_SHARE_TEMPORAL, TEAM_SHARE_SPATIAL = 0.4, 0.6
"""What the common reward weighs in each agent's loss; the rest is its own reward for each frame."""

DRAWS = 3
"""Times that the frames are drawn before their number is made to fit."""


class AstFocus(NESAttack):
    """Gradient estimation in the windows and frames that two agents choose (Wei et al., "Efficient
    Robustness Assessment via Adversarial Spatial-Temporal Focus on Videos", TPAMI 2023).

    In every iteration a spatial agent chooses a place on a 7x7 grid for a window in each frame, a
    temporal agent which frames are attacked (2 to 10 of 16; drawn up to three times, then made to
    fit by motion). Natural evolution strategies estimate the gradient of the margin in there, 60
    queries in antithetic pairs; a sign step follows, and a query about it. The agents start from
    nothing for each clip and learn from these same queries by PPO: a frame is a step of an episode
    (gamma 0.7, 10 epochs, clip 0.2).

    Their common reward is `r = (a' - a) / (2 |a|)`, with `a = e^p(runner-up) - e^p(label)` of the
    probabilities before and after the step (for a target: `e^p(target) - e^p(strongest other)`),
    less its moving mean. The temporal agent gets `0.8 r - 0.2 ((k - 10) / 16)^2`, k being its
    frames. Besides, each frame has a reward of its own: for the window the share of what stands out
    in its frame, for a chosen frame how representative it is of the clip.

    The step starts at `step` and is halved, down to `smallest_step`, whenever 20 margins in a row
    have ended no lower than they began.

    What differs from the paper: its agents look at features of an ImageNet network and its windows
    are rewarded by an object detector; here, so that nothing is learnt elsewhere, the agents see
    each frame's colours and motion on a 7x7 grid, and what stands out are edges. Each agent is an
    LSTM of 64 units. The gradient is that of the margin in log-probabilities, where the public
    code ranks differences of probabilities.

    Args:
        window: side of the window, px; no more than the frame's.
        samples: probes of an iteration, an even number.
        learning_rate: of both agents.
    """

    window: int = 65
    samples: int = 60
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("learning_rate")
        check_least("AstFocus", window=(self.window, 1))

    def search(self, clip: ClipView) -> Search:
        pixels, rng = clip.pixels, clip.rng
        seen = observe(pixels)
        windows = all_windows(pixels.shape[-2], pixels.shape[-1], self.window)
        edges, typical, motion = edges_in(windows, pixels), representativeness(seen), seen[:, -(PLACES**2) :].mean(1)
        with seeded(int(torch.randint(2**62, (), generator=rng))):
            spatial = Agent(seen.shape[1], PLACES**2, TEAM_SHARE_SPATIAL, self.learning_rate)
            temporal = Agent(seen.shape[1], 2, TEAM_SHARE_TEMPORAL, self.learning_rate)
        current, step = pixels, self.step_size()
        size = step.now
        lead = advantage(clip.goal, clip.clean_log_probs)
        rewards: list[float] = []
        baseline = 0.0
        while True:
            where = spatial.act(seen, rng)
            chosen = choose_frames(temporal, seen, motion, rng)
            region = (windows[where] & chosen[:, None, None].bool()).to(pixels.device)

            def probes(noise: Tensor, x: Tensor = current, region: Tensor = region) -> Tensor:
                moved = x.repeat(len(noise), 1, 1, 1, 1)
                moved[..., region] += noise
                return moved

            shape = (3, int(region.sum()))
            slope = yield from nes(probes, shape, self.samples, self.sigma, rng, pixels.device)
            candidate = self.project(probes(-size * slope.sign()[None]), pixels)
            response = yield Pixels(candidate)
            if response.success:
                return
            current, size = candidate[0], step.after(float(response.margin))
            before, lead = lead, advantage(clip.goal, response.log_probs[0])
            rewards.append((lead - before) / (2 * max(abs(before), 1e-3)))  # |a| is next to 0 on the border
            baseline = 0.9 * baseline + 0.1 * sum(rewards) / len(rewards)
            team = rewards[-1] - baseline
            sparse = (float(chosen.sum()) / len(chosen) - MOST) ** 2
            spatial.learn(seen, where, edges.gather(1, where[:, None]).squeeze(1), team)
            temporal.learn(seen, chosen, typical * chosen, 0.8 * team - 0.2 * sparse)


class Agent(nn.Module):
    """A policy that makes one choice for each frame of a clip, one after another.

    Args:
        features: numbers that it sees of a frame.
        choices: what there is to choose from.
        team_share: weight of the common reward in its loss.
        learning_rate: of Adam.
    """

    def __init__(self, features: int, choices: int, team_share: float, learning_rate: float, hidden: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, hidden)
        self.memory = nn.LSTM(hidden, hidden)
        self.actor = nn.Linear(hidden, choices)
        self.critic = nn.Linear(hidden, 1)
        self.team_share = team_share
        self.optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)

    def forward(self, seen: Float[Tensor, "t f"]) -> tuple[Categorical, Float[Tensor, " t"]]:
        """What it does in each frame, and the return that it expects from there."""
        state, _ = self.memory(self.encoder(seen).relu())
        return Categorical(logits=self.actor(state)), self.critic(state).squeeze(-1)

    @torch.no_grad()
    def act(self, seen: Float[Tensor, "t f"], rng: torch.Generator) -> Int64[Tensor, " t"]:
        """A choice for each frame."""
        return torch.multinomial(self(seen)[0].probs, 1, generator=rng).squeeze(1)

    @torch.enable_grad()
    def learn(
        self, seen: Float[Tensor, "t f"], actions: Int64[Tensor, " t"], own: Float[Tensor, " t"], team: float
    ) -> None:
        """PPO on one episode: the agent's own reward for each frame, and the common one for all
        frames alike."""
        returns = discounted(own, gamma=0.7)
        returns = (returns - returns.mean()) / (returns.std(correction=0) + 1e-5)
        old = self(seen)[0].log_prob(actions).detach()
        for _ in range(10):
            policy, value = self(seen)
            ratio = (policy.log_prob(actions) - old).exp()
            loss_own = (
                -clipped(ratio, returns - value.detach()).mean()
                + 0.5 * F.mse_loss(value, returns)
                - 0.01 * policy.entropy().mean()
            )
            loss_team = -clipped(ratio, torch.full_like(ratio, team)).mean()
            self.optimizer.zero_grad()
            ((1 - self.team_share) * loss_own + self.team_share * loss_team).backward()
            self.optimizer.step()


def clipped(ratio: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    """PPO's objective for each action (Schulman et al. 2017, arXiv 1707.06347, equation 7)."""
    return torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def discounted(rewards: Float[Tensor, " t"], gamma: float) -> Float[Tensor, " t"]:
    """What each step and those after it bring."""
    returns = rewards.clone()
    for i in reversed(range(len(rewards) - 1)):
        returns[i] += gamma * returns[i + 1]
    return returns


def choose_frames(
    agent: Agent, seen: Float[Tensor, "t f"], motion: Float[Tensor, " t"], rng: torch.Generator
) -> Int64[Tensor, " t"]:
    """1 for the frames that are attacked: as many as allowed, by the agent's choice where it draws
    such a number.

    Else the frames of most motion are kept, or added.
    """
    fewest = max(1, round(FEWEST * len(seen)))
    most = max(fewest, round(MOST * len(seen)))
    for _ in range(DRAWS):
        chosen = agent.act(seen, rng)
        if fewest <= chosen.sum() <= most:
            return chosen
    count = min(max(int(chosen.sum()), fewest), most)
    rank = motion + (1 + motion.amax()) * (chosen == 1 if chosen.sum() < fewest else -1.0 * (chosen == 0))
    return torch.zeros_like(chosen).scatter(0, rank.topk(count).indices, 1)


def advantage(goal: Goal, log_probs: Float[Tensor, " k"]) -> float:
    """The paper's `a`: how far the wanted label is ahead, `e^p(wanted) - e^p(unwanted)`; above 0
    the goal holds."""
    label, runner_up = goal.label_and_runner_up(log_probs[None].cpu(), goal.classes.cpu())
    wanted, unwanted = (label, runner_up) if goal.targeted else (runner_up, label)
    return float(wanted.exp().exp() - unwanted.exp().exp())


def observe(clip: Float[Tensor, "3 t h w"]) -> Float[Tensor, "t f"]:
    """What the agents see of each frame, on the CPU: its colours on a 7x7 grid, and, last, its
    motion there."""
    frames = rearrange(clip.cpu(), "c t h w -> t c h w")
    moved = (frames - frames.roll(1, 0)).abs().mean(1, keepdim=True)
    moved[0] = moved[1] if len(moved) > 1 else 0
    grids = [F.adaptive_avg_pool2d(frames, PLACES) - 0.5, F.adaptive_avg_pool2d(moved, PLACES)]
    return torch.cat([grid.flatten(1) for grid in grids], 1)


def all_windows(height: int, width: int, side: int) -> Bool[Tensor, "places h w"]:
    """The window at each of its places, row by row, from edge to edge of the frame."""
    covered = []
    for length in (height, width):
        start = (torch.linspace(0, 1, PLACES) * max(length - side, 0)).round()[:, None]
        covered.append((torch.arange(length) >= start) & (torch.arange(length) < start + side))
    return rearrange(covered[0][:, None, :, None] & covered[1][None, :, None, :], "i j h w -> (i j) h w")


def edges_in(windows: Bool[Tensor, "places h w"], clip: Float[Tensor, "3 t h w"]) -> Float[Tensor, "t places"]:
    """The share of each frame's edges that lies in each window."""
    grey = clip.cpu().mean(0)
    edges = F.pad(grey.diff(dim=1).abs(), (0, 0, 0, 1)) + F.pad(grey.diff(dim=2).abs(), (0, 1))
    inside = torch.einsum("phw,thw->tp", windows.float(), edges)
    return inside / edges.sum((1, 2)).clamp_min(1e-6)[:, None]


def representativeness(seen: Float[Tensor, "t f"]) -> Float[Tensor, " t"]:
    """How near each frame is to all frames of its clip, in (0, 1]: mean over them of
    exp(-distance)."""
    return torch.exp(-torch.linalg.vector_norm(seen[:, None] - seen[None], dim=2)).mean(1)
