"""What the agents see of a clip: what a black-box attacker can know, and nothing more.

What each search cell looks like and costs, what the victim says of the clean clip, and what its
answers so far have shown of each cell. An observation is a TensorDict with a row for each clip:

- "features" float[n c t y x]: of each search cell (`vidmarl.agents.features`).
- "maps" float[n 3 t y x]: two credit maps (`vidmarl.agents.credit`), what the queries so far say
  about the drop of the margin for each unit of strength, without and with regard to its sign; how
  often each cell was tried.
- "state" float[n 2 + classes]: the probabilities, on the clean clip, of the goal's class and of the
  strongest other one, and which class the goal is about.
- "known": the maps as they are learnt on, and what the nets do not see: "clean_margin" float[n],
  nats, and "energy" float[n t y x], what each cell adds to the squared L2 norm.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from tensordict import TensorDict
from torch import Tensor

from vidmarl.agents.credit import learn as explain
from vidmarl.agents.credit import scaled
from vidmarl.agents.features import extract
from vidmarl.queries.session import Session

MAPS = ("credit", "signed_credit", "trials")
STATE = ("label", "runner_up")
OBSERVATION = ["features", "maps", "state"]
"""What the nets see."""

SMALLEST_MARGIN = 1e-2
"""Nats; drops of the margin are seen as fractions of the clean one, or of this if it is larger."""


@torch.no_grad()
def look(session: Session, rows: Int64[Tensor, " n"], classes: int = 0) -> TensorDict:
    """The first observation of some clips, of which only the clean prediction is known. Costs no
    query.

    Args:
        session: the attack on a batch of clips.
        rows: which of them.
        classes: how many classes the agents tell apart: so many entries of "state" say which one
            the goal is about; all are 0 where the victim has another number of classes.
    """
    clips, clean, goal = session.renderer.clips[rows], session.clean[rows], session.goal
    wanted = goal.classes.to(rows.device)[rows]
    energy = session.renderer.cell_energy(rows)
    state = torch.stack([log_prob.exp() for log_prob in goal.label_and_runner_up(clean, wanted)], 1)
    which = clean.new_zeros(len(rows), classes)
    if clean.shape[1] == classes:
        which = torch.nn.functional.one_hot(wanted, classes).to(clean)
    known = {name: torch.zeros_like(energy) for name in MAPS}
    known |= {"clean_margin": session.margin(clean, rows), "energy": energy}
    seen = {
        "features": extract(clips, session.renderer.coarse, energy),
        "state": torch.cat([state, which], 1),
        "known": TensorDict(known, batch_size=[len(rows)]),
    }
    return _with_maps(TensorDict(seen, batch_size=[len(rows)], device=rows.device))


def learn(td: TensorDict, change: Float[Tensor, "n t y x"], drop: Float[Tensor, " n"]) -> TensorDict:
    """The observations after the victim's answers to some changes.

    Args:
        td: the observations before.
        change: of the strengths, maps of search cells.
        drop: by how much the margin has fallen with each, over the clean margin (`as_share`).
    """
    known = td["known"]
    new = {
        "credit": explain(known["credit"], change.abs(), drop),
        "signed_credit": explain(known["signed_credit"], change, drop),
        "trials": known["trials"] + (change != 0).float(),
    }
    return _with_maps(td.copy().update({"known": known.copy().update(new)}))


def as_share(drop: Float[Tensor, "n ..."], td: TensorDict) -> Float[Tensor, "n ..."]:
    """Drops of the margin, in nats, over the clean margin of each clip."""
    margin = td["known", "clean_margin"].clamp_min(SMALLEST_MARGIN)
    share: Tensor = drop / margin.view(-1, *[1] * (drop.ndim - 1))
    return share


def _with_maps(td: TensorDict) -> TensorDict:
    """The observations with what the nets see of what is known."""
    credit, signed_credit, trials = (td["known", name] for name in MAPS)
    return td.update({"maps": torch.stack([scaled(credit), scaled(signed_credit), trials.log1p()], 1)})
