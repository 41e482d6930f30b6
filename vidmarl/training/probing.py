"""Probing: the agents learn from single tubelets what distorting each is worth.

A contextual bandit: the context is a clip, an action a tubelet, and its reward what the tubelet is
worth to a search. A few queries of each training clip measure by how much the margin drops with
tubelets drawn at random. A search keeps what does not raise the margin, and it pays in squared L2;
so a tubelet is worth the drop, or nothing where there is none, over the squared norm. The policy of
both agents together is trained towards a softmax of these values, given what the clip looks like.
"""

from __future__ import annotations

import dataclasses

import torch
from einops import rearrange
from tensordict import TensorDict
from torch import Tensor

from vidmarl.agents.features import cost
from vidmarl.agents.networks import Agents
from vidmarl.agents.observation import look
from vidmarl.agents.tubelets import lasting, lengths, random_signs
from vidmarl.queries.session import Session
from vidmarl.utils.kinds import check_least, check_positive

SMALLEST_MARGIN = 1e-2
"""Nats; drops of the margin are told as shares of the clean one, or of this if it is larger."""


@dataclasses.dataclass(frozen=True)
class Probing:
    """The settings of probing.

    Attributes:
        epochs: the first epochs of training, in which the agents probe and do not play; 0: none.
        probes: queries of single tubelets for each clip, each time it is drawn.
        updates: gradient steps after each batch of clips, over all clips probed so far.
        minibatch: clips a gradient step.
        lr: learning rate of Adam.
        beta: inverse temperature of the softmax: logits per root mean square worth of a clip's
            probes.

    Raises:
        ValueError: a setting is out of its range.
    """

    epochs: int = 1
    probes: int = 40
    updates: int = 15
    minibatch: int = 32
    lr: float = 1e-3
    beta: float = 24.0

    def __post_init__(self) -> None:
        check_least("Probing", epochs=(self.epochs, 0))
        check_least("Probing", **{name: (getattr(self, name), 1) for name in ("probes", "updates", "minibatch")})
        check_positive("Probing", lr=self.lr, beta=self.beta)


def probe(session: Session, count: int, generator: torch.Generator, classes: int = 0, longest: int = 1) -> TensorDict:
    """Asks about random tubelets of every active clip of a fresh session, each by itself.

    Args:
        session: on the clips.
        count: probes of each clip, each of another cell; fewer where a clip has fewer cells.
        generator: of the tubelets.
        classes: see `vidmarl.agents.observation.look`.
        longest: frames that a tubelet lasts at most.

    Returns:
        Of n clips: "seen", the observations; "tubelets" int64[n p], flat indices into `Agents.rank`
        of a clip; "drops" float[n p], of the margin, over the clean margin (`SMALLEST_MARGIN` at
        least); "costs" float[n p], the squared L2 norm of each over that of the clip's mean cell,
        see `vidmarl.agents.features.cost`.
    """
    rows, (t, y, x), low = session.rows, session.renderer.coarse_shape, session.renderer.min_strength
    seen = look(session, rows, classes)
    order = torch.stack([torch.randperm(t * y * x, generator=generator) for _ in rows])
    cells = order[:, :count].to(rows.device)
    signs = random_signs(torch.rand(cells.shape, generator=generator).to(rows.device), low)
    widths = torch.randint(fits := lengths(t, longest), cells.shape, generator=generator).to(rows.device)
    course = signs[..., None] * lasting(cells // (y * x), widths, t, alternate=low < 0)
    at = torch.nn.functional.one_hot(cells % (y * x), y * x)
    maps = rearrange(torch.einsum("npt,npg->nptg", course, at.float()), "n p t (y x) -> n p t y x", y=y)
    drops, energy = torch.zeros_like(signs), torch.zeros_like(signs)
    for i in range(cells.shape[1]):
        response = session.query(maps[:, i], rows)
        drops[:, i], energy[:, i] = seen["known", "clean_margin"] - response.margin, response.l2.square()
    found = {
        "seen": seen,
        "tubelets": cells * fits + widths,
        "drops": drops / seen["known", "clean_margin"].clamp_min(SMALLEST_MARGIN)[:, None],
        "costs": cost(energy, seen["known", "energy"].flatten(1).mean(1)),
    }
    return TensorDict(found, batch_size=[len(rows)], device=rows.device)


def probing_loss(agents: Agents, probes: TensorDict, settings: Probing) -> tuple[Tensor, Tensor]:
    """How far the team's log-probabilities of the tubelets are from what these are worth, up to a
    constant per clip.

    Args:
        agents: the team.
        probes: of some clips, see `probe`.
        settings: of probing.

    Returns:
        The loss, and the mean correlation between both over the clips.
    """
    log_prob = agents.rank(probes["seen"]).flatten(1).gather(1, probes["tubelets"])
    worth = probes["drops"].clamp_min(0) / probes["costs"]
    target = settings.beta * worth / worth.square().mean(1, keepdim=True).sqrt().clamp_min(1e-3)
    log_prob, target = (x - x.mean(1, keepdim=True) for x in (log_prob, target))
    correlation = torch.nn.functional.cosine_similarity(log_prob, target, dim=1)
    return ((log_prob - target) / settings.beta).square().mean(), correlation.mean()
