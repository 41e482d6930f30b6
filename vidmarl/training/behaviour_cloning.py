"""The warm start: before they play, the agents learn from probes what distorting each cell does.

Behaviour cloning of an attacker who knows the sensitivities. Some queries a training clip buy the
fall of the margin at some cells of it; both actors together are trained towards a softmax of these
falls, given what the clip looks like and what a few other probes of it have shown, so that they
learn to go by both. After success they shall take away first what matters least, so there the
target is the reverse.
"""

from __future__ import annotations

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from tensordict import TensorDict
from torch import Tensor

from vidmarl.agents.credit import learn, scaled
from vidmarl.agents.environment import LEVELS, STATE, VideoAttackEnv
from vidmarl.agents.networks import Agents


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """The settings of the warm start.

    Attributes:
        epochs: epochs of training, from the first, that are warm start and no play; 0: none.
        probes: single-cell queries a clip, each time it is drawn.
        updates: gradient steps after each batch of clips, over all clips probed so far.
        minibatch: clips a gradient step.
        lr: learning rate of Adam.
        sharpness: logits per unit of the root mean square fall of a clip's cells, of what to add.
        sharpness_after: the same after success, of what to take away.
        known: up to how many of a clip's probes the agents are shown.
    """

    epochs: int = 0
    probes: int = 100
    updates: int = 12
    minibatch: int = 16
    lr: float = 2e-3
    sharpness: float = 6.0
    sharpness_after: float = 12.0
    known: int = 30


@dataclasses.dataclass(frozen=True)
class Probes:
    """What probing some clips has shown.

    Attributes:
        seen: the observations before the first probe, [n].
        cells: int64[n p], flat indices of the cells.
        signs: float[n p], the direction in which each was distorted at full strength.
        falls: float[n p], of the margin, over the clean margin.
    """

    seen: TensorDict
    cells: Int64[Tensor, "n p"]
    signs: Float[Tensor, "n p"]
    falls: Float[Tensor, "n p"]

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: Tensor) -> Probes:
        each = (getattr(self, field.name)[index] for field in dataclasses.fields(self))
        return Probes(*each)

    @staticmethod
    def cat(parts: list[Probes]) -> Probes:
        """All clips of some, which have equally many probes each."""
        first = parts[0]
        if len(parts) == 1:
            return first
        return Probes(*(torch.cat([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(first)))


def probe(env: VideoAttackEnv, count: int, generator: torch.Generator) -> Probes:
    """Asks about `count` random single cells of every clip of a fresh environment that is not
    skipped."""
    session, shape = env.session, env.shape_of_cells
    rows = env.running()
    seen = env.reset().select("features", "state", "maps", "temporal", "spatial")[rows]
    order = torch.stack([torch.randperm(shape[0] * shape[1] * shape[2], generator=generator) for _ in rows])
    cells = order[:, :count].to(env.device)
    low = session.renderer.low
    coin = torch.rand(cells.shape, generator=generator).to(env.device) < 0.5
    signs = torch.where(coin & (low < 0), -1.0, 1.0)
    clean = env.margin[rows]
    falls = torch.zeros_like(signs)
    for i in range(cells.shape[1]):
        strength = _single(cells[:, i], signs[:, i], shape)
        falls[:, i] = clean - session.query(strength, rows).margin
    return Probes(seen, cells, signs, falls / clean.clamp_min(1e-2)[:, None])


def _single(cell: Int64[Tensor, " n"], sign: Float[Tensor, " n"], shape: tuple[int, ...]) -> Tensor:
    """Maps float[n *shape] that are 0 but for one cell each."""
    maps = sign.new_zeros(len(cell), *shape)
    maps.flatten(1).scatter_(1, cell[:, None], sign[:, None])
    return maps


def examples(probes: Probes, known: int, generator: torch.Generator) -> tuple[TensorDict, Tensor]:
    """Observations of an agent that has made `known` of the probes itself, half of them from after
    a success.

    Returns:
        The observations [n], and which direction the target has for each, float[n 1]: 1 before, -1
        after success.
    """
    td = probes.seen.clone()
    n, device = len(probes), probes.falls.device
    shape = td["features"].shape[-3:]

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator).to(device)

    credit, signed, trials = (torch.zeros(n, *shape, device=device) for _ in range(3))
    for i in range(known):
        change = _single(probes.cells[:, i], probes.signs[:, i], shape)
        credit = learn(credit, change.abs(), probes.falls[:, i])
        signed = learn(signed, change, probes.falls[:, i])
        trials = trials + change.abs()
    won = rand(n) < 0.5
    # What is there to take away: the probed cells among others.
    share = 2 ** (-8 * rand(n, 1))
    touched = (rand(n, credit[0].numel()) < share).float()
    direction = torch.where(rand(*touched.shape) < 0.5, probes.signs.amin(1, keepdim=True), 1.0)
    strength = (touched * direction).scatter(1, probes.cells, probes.signs).view_as(credit)
    strength = strength * won.view(-1, 1, 1, 1)
    td["maps"] = torch.stack([strength, scaled(credit), scaled(signed), trials.log1p()], 1)
    before = dict(zip(STATE, td["state"].unbind(1), strict=True))
    level = (LEVELS * rand(n)).floor()
    after = before | {
        # What has come of the margin so far tells less than the probabilities, which say where it
        # stands.
        "margin": torch.where(won, -rand(n), rand(n)),
        "own": torch.where(won, before["own"] * rand(n), before["own"]),
        "rival": torch.where(won, before["own"], before["rival"]),
        "spent": rand(n),
        "size": torch.where(won, -rand(n), before["size"]),
        "won": won.float(),
        "touched": (strength != 0).flatten(1).sum(1).log1p() / 4,
        "level": level / LEVELS,
        "failures": (rand(n) * (known + 1)).floor().clamp_max(8) / 8,
    }
    td["state"] = torch.stack([after[name] for name in STATE], 1)
    td["temporal", "level"] = level.long()[:, None]
    return td, 1 - 2 * won.float()[:, None]


def cloning_loss(
    agents: Agents, probes: Probes, settings: WarmStart, generator: torch.Generator, known: int | None = None
) -> tuple[Tensor, Tensor]:
    """How far the team's log-probabilities of the cells are from their sensitivities, up to a
    constant per clip.

    Args:
        agents: the team.
        probes: of some clips.
        settings: of the warm start.
        generator: of what the agents are shown.
        known: how many of each clip's probes that is, at most half of them; None: drawn, up to
            `settings.known`.

    Returns:
        The loss, and the mean correlation between both over the clips.
    """
    mixed = torch.randperm(probes.cells.shape[1], generator=generator).to(probes.cells.device)
    probes = dataclasses.replace(
        probes, cells=probes.cells[:, mixed], signs=probes.signs[:, mixed], falls=probes.falls[:, mixed]
    )
    most = min(settings.known, probes.cells.shape[1] // 2)
    known = int(torch.randint(most + 1, (), generator=generator)) if known is None else min(known, most)
    td, direction = examples(probes, known, generator)
    temporal, spatial = agents.temporal[0](td.clone()), agents.spatial[0](td.clone())
    frame = temporal["temporal", "frame_logits"].log_softmax(-1)  # n 1 t
    cell = spatial["spatial", "cell_logits"].log_softmax(-1)  # n 1 t g
    log_prob = rearrange(frame[..., None] + cell, "n 1 t g -> n (t g)").gather(1, probes.cells[:, known:])
    falls = probes.falls[:, known:]
    spread = probes.falls.square().mean(1, keepdim=True).sqrt().clamp_min(1e-3)
    sharpness = torch.where(direction > 0, settings.sharpness, -settings.sharpness_after)
    target = sharpness * (falls / spread).clamp(-4, 4)
    log_prob, target = (x - x.mean(1, keepdim=True) for x in (log_prob, target))
    correlation = torch.nn.functional.cosine_similarity(log_prob, target, dim=1)
    return ((log_prob - target) / sharpness).square().mean(), correlation.mean()
