"""What the agents see of a clip: what a black-box attacker can know, and nothing more.

What each search cell looks like and costs, and what the victim says of the clean clip. An
observation is a TensorDict with a row for each clip:

- "features" float[n c t y x]: of each search cell (`vidmarl.agents.features`).
- "state" float[n 2 + classes]: the probabilities, on the clean clip, of the goal's class and of the
  strongest other one, and which class the goal is about.
- "known": what the nets do not see: "clean_margin" float[n], nats, and "energy" float[n t y x],
  what each cell adds to the squared L2 norm.

What the victim says of the clip once it is distorted is not part of it: agents that saw it came to
the same (docs/experiments.md).
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from tensordict import TensorDict
from torch import Tensor

from vidmarl.agents.features import extract
from vidmarl.queries.session import Session

STATE = ("label", "runner_up")
OBSERVATION = ["features", "state"]
"""What the nets see."""


@torch.no_grad()
def look(session: Session, rows: Int64[Tensor, " n"], classes: int = 0) -> TensorDict:
    """The observation of some clips. Costs no query.

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
    known = {"clean_margin": session.margin(clean, rows), "energy": energy}
    seen = {
        "features": extract(clips, session.renderer.coarse, energy),
        "state": torch.cat([state, which], 1),
        "known": TensorDict(known, batch_size=[len(rows)]),
    }
    return TensorDict(seen, batch_size=[len(rows)], device=rows.device)
