"""Behaviour cloning: before they play, the agents learn from probes what distorting each cell does.

The expert is an attacker who knows the sensitivities. Some queries a training clip measure by how
much the margin drops at some of its cells. Both actors together are trained towards a softmax of
these drops, given what the clip looks like and what a few other probes of it have shown, so that
they learn to go by both. After success they shall first remove what matters least, so there the
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
from vidmarl.agents.episodes import PROPOSAL_SIZES, STATE, Episodes
from vidmarl.agents.networks import Agents
from vidmarl.queries.session import Session


@dataclasses.dataclass(frozen=True)
class Cloning:
    """The settings of behaviour cloning.

    Attributes:
        epochs: the first epochs of training, in which the agents are cloned and do not play; 0:
            none.
        probes: single-cell queries a clip, each time it is drawn.
        updates: gradient steps after each batch of clips, over all clips probed so far.
        minibatch: clips a gradient step.
        lr: learning rate of Adam.
        beta: inverse temperature of the softmax before success: logits per root mean square drop of
            a clip's cells.
        beta_fooled: the same after success, of what to remove.
        n_known: up to how many of a clip's probes the agents are shown.
    """

    epochs: int = 0
    probes: int = 100
    updates: int = 12
    minibatch: int = 16
    lr: float = 2e-3
    beta: float = 6.0
    beta_fooled: float = 12.0
    n_known: int = 30


@dataclasses.dataclass(frozen=True)
class Probes:
    """What probing some clips has shown.

    Attributes:
        seen: the observations before the first probe, [n].
        cells: int64[n p], flat indices of the search cells.
        signs: float[n p], the direction in which each was distorted at full strength.
        drops: float[n p], of the margin, over the clean margin.
    """

    seen: TensorDict
    cells: Int64[Tensor, "n p"]
    signs: Float[Tensor, "n p"]
    drops: Float[Tensor, "n p"]

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


def probe(session: Session, count: int, generator: torch.Generator) -> Probes:
    """Asks about `count` random single search cells of every active clip of a fresh session."""
    rows, shape, low = session.rows, session.renderer.coarse_shape, session.renderer.min_strength
    seen = Episodes(session).begin(rows).exclude("episode")
    order = torch.stack([torch.randperm(shape[0] * shape[1] * shape[2], generator=generator) for _ in rows])
    cells = order[:, :count].to(rows.device)
    coin = torch.rand(cells.shape, generator=generator).to(rows.device) < 0.5
    signs = torch.where(coin & (low < 0), -1.0, 1.0)
    clean = session.goal.margin(session.clean[rows], rows)
    drops = torch.zeros_like(signs)
    for i in range(cells.shape[1]):
        drops[:, i] = clean - session.query(_single(cells[:, i], signs[:, i], shape), rows).margin
    return Probes(seen, cells, signs, drops / clean.clamp_min(1e-2)[:, None])


def _single(cell: Int64[Tensor, " n"], sign: Float[Tensor, " n"], shape: tuple[int, ...]) -> Tensor:
    """Maps float[n *shape] that are 0 but for one cell each."""
    maps = sign.new_zeros(len(cell), *shape)
    maps.flatten(1).scatter_(1, cell[:, None], sign[:, None])
    return maps


def examples(probes: Probes, n_known: int, generator: torch.Generator) -> tuple[TensorDict, Tensor]:
    """Observations of agents that have made `n_known` of the probes themselves, half of them from
    after a success.

    Returns:
        The observations [n], and which direction the target has for each, float[n 1]: 1 before, -1
        after success.
    """
    td = probes.seen.clone()
    n, device = len(probes), probes.drops.device
    shape = td["features"].shape[-3:]

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator).to(device)

    credit, signed, trials = (torch.zeros(n, *shape, device=device) for _ in range(3))
    for i in range(n_known):
        change = _single(probes.cells[:, i], probes.signs[:, i], shape)
        credit = learn(credit, change.abs(), probes.drops[:, i])
        signed = learn(signed, change, probes.drops[:, i])
        trials = trials + change.abs()
    fooled = rand(n) < 0.5
    # What there is to remove: the probed cells among others.
    share = 2 ** (-8 * rand(n, 1))
    touched = (rand(n, credit[0].numel()) < share).float()
    direction = torch.where(rand(*touched.shape) < 0.5, probes.signs.amin(1, keepdim=True), 1.0)
    strength = (touched * direction).scatter(1, probes.cells, probes.signs).view_as(credit)
    strength = strength * fooled.view(-1, 1, 1, 1)
    td["maps"] = torch.stack([strength, scaled(credit), scaled(signed), trials.log1p()], 1)
    before = dict(zip(STATE, td["state"].unbind(1), strict=True))
    size = (PROPOSAL_SIZES * rand(n)).floor()
    after = before | {
        # The ratio of margins tells less than the probabilities, which say where the margin stands.
        "margin": torch.where(fooled, -rand(n), rand(n)),
        "label": torch.where(fooled, before["label"] * rand(n), before["label"]),
        "runner_up": torch.where(fooled, before["label"], before["runner_up"]),
        "spent": rand(n),
        "size": torch.where(fooled, -rand(n), before["size"]),
        "fooled": fooled.float(),
        "touched": (strength != 0).flatten(1).sum(1).log1p() / 4,
        "proposal_size": size / PROPOSAL_SIZES,
        "failures": (rand(n) * (n_known + 1)).floor().clamp_max(8) / 8,
    }
    td["state"] = torch.stack([after[name] for name in STATE], 1)
    td["temporal", "proposal_size"] = size.long()[:, None]
    return td, 1 - 2 * fooled.float()[:, None]


def cloning_loss(
    agents: Agents, probes: Probes, settings: Cloning, generator: torch.Generator, n_known: int | None = None
) -> tuple[Tensor, Tensor]:
    """How far the team's log-probabilities of the cells are from their sensitivities, up to a
    constant per clip.

    Args:
        agents: the team.
        probes: of some clips.
        settings: of behaviour cloning.
        generator: of what the agents are shown.
        n_known: how many of each clip's probes that is, at most half of them; None: drawn, up to
            `settings.n_known`.

    Returns:
        The loss, and the mean correlation between both over the clips.
    """
    mixed = torch.randperm(probes.cells.shape[1], generator=generator).to(probes.cells.device)
    probes = dataclasses.replace(
        probes, cells=probes.cells[:, mixed], signs=probes.signs[:, mixed], drops=probes.drops[:, mixed]
    )
    most = min(settings.n_known, probes.cells.shape[1] // 2)
    if n_known is None:
        n_known = int(torch.randint(most + 1, (), generator=generator))
    n_known = min(n_known, most)
    td, direction = examples(probes, n_known, generator)
    temporal, spatial = agents.temporal[0](td.clone()), agents.spatial[0](td.clone())
    frame = temporal["temporal", "frame_logits"].log_softmax(-1)  # n 1 t
    cell = spatial["spatial", "cell_logits"].log_softmax(-1)  # n 1 t g
    log_prob = rearrange(frame[..., None] + cell, "n 1 t g -> n (t g)").gather(1, probes.cells[:, n_known:])
    drops = probes.drops[:, n_known:]
    spread = probes.drops.square().mean(1, keepdim=True).sqrt().clamp_min(1e-3)
    beta = torch.where(direction > 0, settings.beta, -settings.beta_fooled)
    target = beta * (drops / spread).clamp(-4, 4)
    log_prob, target = (x - x.mean(1, keepdim=True) for x in (log_prob, target))
    correlation = torch.nn.functional.cosine_similarity(log_prob, target, dim=1)
    return ((log_prob - target) / beta).square().mean(), correlation.mean()
