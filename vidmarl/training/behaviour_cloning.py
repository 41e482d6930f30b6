"""Behaviour cloning: before they play, the agents learn from probes what distorting each cell is
worth.

The expert is an attacker who knows the sensitivities. Some queries a training clip measure by how
much the margin drops at some of its cells. A search keeps what does not raise the margin, and it
pays in squared L2; so what a cell is worth to it is the drop, or nothing where there is none, over
the squared norm. Both actors together are trained towards a softmax of that, given what the clip
looks like and what a few other probes of it have shown, so that they learn to go by both. After
success they shall first remove what matters least, so there the target is the reverse.
"""

from __future__ import annotations

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from tensordict import TensorDict
from torch import Tensor

from vidmarl.agents.actions import WIDTHS, lasting, lengths
from vidmarl.agents.credit import learn, scaled
from vidmarl.agents.episodes import PROPOSAL_SIZES, STATE, Episodes
from vidmarl.agents.features import cost
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
        beta: inverse temperature of the softmax before success: logits per root mean square worth
            of a clip's cells.
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
        cells: int64[n p], flat indices of the search cells that the tubelets are centred in.
        widths: int64[n p], indices in `WIDTHS` of how many frames each lasts.
        maps: float[n p t gh gw], the strength maps asked about: one tubelet each, at full strength.
        drops: float[n p], of the margin, over the clean margin.
        costs: float[n p], squared L2 norm, over the mean one of a cell of the clip, see
            `vidmarl.agents.features.cost`.
    """

    seen: TensorDict
    cells: Int64[Tensor, "n p"]
    widths: Int64[Tensor, "n p"]
    maps: Float[Tensor, "n p t gh gw"]
    drops: Float[Tensor, "n p"]
    costs: Float[Tensor, "n p"]

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

    @staticmethod
    def pools(parts: list[Probes]) -> list[Probes]:
        """All clips of some, those of one shape together."""
        of_shape: dict[torch.Size, list[Probes]] = {}
        for part in parts:
            of_shape.setdefault(part.maps.shape[1:], []).append(part)
        return [Probes.cat(alike) for alike in of_shape.values()]


def probe(
    session: Session, count: int, generator: torch.Generator, classes: int = 0, longest: int = WIDTHS[-1]
) -> Probes:
    """Asks about `count` random tubelets of every active clip of a fresh session, each by itself.

    Args:
        session: on the clips.
        count: probes of each clip.
        generator: of the tubelets.
        classes: see `Episodes`.
        longest: frames that a tubelet lasts at most.
    """
    rows, shape, low = session.rows, session.renderer.coarse_shape, session.renderer.min_strength
    begun = Episodes(session, classes=classes).begin(rows)
    order = torch.stack([torch.randperm(shape[0] * shape[1] * shape[2], generator=generator) for _ in rows])
    cells = order[:, :count].to(rows.device)
    coin = torch.rand(cells.shape, generator=generator).to(rows.device) < 0.5
    signs = torch.where(coin & (low < 0), -1.0, 1.0)
    widths = torch.randint(lengths(shape[0], longest), cells.shape, generator=generator).to(rows.device)
    place = cells % (shape[1] * shape[2])
    course = signs[..., None] * lasting(cells // (shape[1] * shape[2]), widths, shape[0], alternate=low < 0)
    at = torch.nn.functional.one_hot(place, shape[1] * shape[2])
    maps = rearrange(torch.einsum("npt,npg->nptg", course, at.float()), "n p t (h w) -> n p t h w", h=shape[1])
    clean = session.goal.margin(session.clean[rows], rows)
    drops, energy = torch.zeros_like(signs), torch.zeros_like(signs)
    for i in range(cells.shape[1]):
        response = session.query(maps[:, i], rows)
        drops[:, i], energy[:, i] = clean - response.margin, response.l2.square()
    costs = cost(energy, begun["episode", "energy"].flatten(1).mean(1))
    seen = begun.exclude("episode")
    return Probes(seen, cells, widths, maps, drops / clean.clamp_min(1e-2)[:, None], costs)


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
        change = probes.maps[:, i]
        credit = learn(credit, change.abs(), probes.drops[:, i])
        signed = learn(signed, change, probes.drops[:, i])
        trials = trials + (change != 0).float()
    fooled = rand(n) < 0.5
    # What there is to remove: the probed cells among others.
    share = 2 ** (-8 * rand(n, 1))
    touched = (rand(n, credit[0].numel()) < share).float()
    direction = torch.where(rand(*touched.shape) < 0.5, probes.maps.flatten(1).amin(1, keepdim=True).sign(), 1.0)
    direction = torch.where(direction == 0, 1.0, direction)
    strength = (touched * direction).view_as(credit)
    probed = probes.maps.sum(1).sign()  # where two of them meet, either
    strength = torch.where(probed != 0, probed, strength) * fooled.view(-1, 1, 1, 1)
    td["maps"] = torch.stack([strength, scaled(credit), scaled(signed), trials.log1p()], 1)
    before = dict(zip(STATE, td["state"][:, : len(STATE)].unbind(1), strict=True))
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
    td["state"] = torch.cat([torch.stack([after[name] for name in STATE], 1), td["state"][:, len(STATE) :]], 1)
    td["temporal", "proposal_size"] = size.long()[:, None]
    return td, 1 - 2 * fooled.float()[:, None]


def cloning_loss(
    agents: Agents, probes: Probes, settings: Cloning, generator: torch.Generator, n_known: int | None = None
) -> tuple[Tensor, Tensor]:
    """How far the team's log-probabilities of the tubelets are from what these are worth, up to a
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
    of_each = [field.name for field in dataclasses.fields(probes) if field.name != "seen"]
    probes = dataclasses.replace(probes, **{name: getattr(probes, name)[:, mixed] for name in of_each})
    most = min(settings.n_known, probes.cells.shape[1] // 2)
    if n_known is None:
        n_known = int(torch.randint(most + 1, (), generator=generator))
    n_known = min(n_known, most)
    td, direction = examples(probes, n_known, generator)
    ranked = agents.rank(td)
    asked = probes.cells * ranked.shape[3] + probes.widths
    log_prob = ranked.flatten(1).gather(1, asked[:, n_known:])
    worth = probes.drops.clamp_min(0) / probes.costs
    spread = worth.square().mean(1, keepdim=True).sqrt().clamp_min(1e-3)
    beta = torch.where(direction > 0, settings.beta, -settings.beta_fooled)
    target = beta * worth[:, n_known:] / spread
    log_prob, target = (x - x.mean(1, keepdim=True) for x in (log_prob, target))
    correlation = torch.nn.functional.cosine_similarity(log_prob, target, dim=1)
    return ((log_prob - target) / beta).square().mean(), correlation.mean()
