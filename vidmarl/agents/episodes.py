"""An episode of the two agents on a clip: how it begins, what a proposal changes, what they see.

Until the clip is fooled a proposal adds distortion and is accepted if the margin drops; after that
a proposal takes distortion away and is accepted if the clip stays fooled. What is not accepted is
taken back. So the untrained team is a search with signed blocks followed by a random removal, and
learning is learning to propose.

All that is true of an episode is in a TensorDict, a row for each clip. The environment steps all
rows for the training, the attack those of the clips that ask.
"""

from __future__ import annotations

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from tensordict import TensorDict
from torch import Tensor

from vidmarl.agents.actions import COUNTS, WIDTHS, directions
from vidmarl.agents.credit import learn, scaled
from vidmarl.agents.features import extract
from vidmarl.queries.session import Response, Session

MAPS = 4
"""Strength, two credit maps, trials: the channels of "maps" in an observation."""

STATE = (
    "margin",
    "label",
    "runner_up",
    "spent",
    "size",
    "accepted",
    "margin_drop",
    "fooled",
    "touched",
    "proposal_size",
    "failures",
)
"""The numbers that describe an episode as a whole: "state" in an observation."""

PROPOSAL_SIZES = len(COUNTS) + len(WIDTHS) - 1
"""Sizes of a proposal, each twice the one before: first in tubelets, then in frames that each of
them lasts."""

LEARNT = ("credit", "signed_credit", "trials")
"""The maps that another episode on the same clip goes on with."""

MAX_FAILED_ADDITIONS = 12
"""Additions that may fail in a row in an episode with a bound."""


@dataclasses.dataclass(frozen=True)
class Episodes:
    """What happens in episodes on the clips of a session. Nothing of an episode is kept here.

    The state of an episode ("episode" in an observation), of n clips:

    - "strength", "credit", "signed_credit", "trials" float[n gt gh gw] over the search cells: the
      accepted strength map; the drop of the margin per unit of strength, without and with regard to
      its sign (`vidmarl.agents.credit`); how often a cell was tried.
    - "margin", "label", "runner_up", "l2" float[n] of that map: margin in nats, probabilities of
      the goal's class and of the strongest other one, norm. "fooled" bool[n]: whether the goal
      holds.
    - "clean_margin", "clean_label", "clean_runner_up", "full_l2" float[n]: the same of the clean
      clip, and the norm of the full distortion. "energy" float[n gt gh gw]: what each cell adds to
      its square.
    - "accepted", "margin_drop" float[n]: what came of the last proposal, as a fraction of the clean
      margin. "failures" int64[n]: proposals taken back since one was accepted. "proposal_size"
      int64[n]: the size of proposal that the responses suggest, in [0, `PROPOSAL_SIZES`).
    - "bound" float[n]: the norm that the map stays below; infinite in training.
    - "queries" int64[n]: spent on the clip.

    Attributes:
        session: answers the queries and counts them.
        step_size: how far an accepted addition moves the strength of a cell, in (0, 2]; 2 turns a
            tubelet round at once.
        proposal_size: of the first proposal, in [0, `PROPOSAL_SIZES`).
        max_failed_removals: removals that may fail in a row, at least 0; 0: the agents take nothing
            away.
        classes: how many classes the agents tell apart: so many entries of "state" say which one
            the goal is about; all are 0 where the victim has another number of classes.
    """

    session: Session
    step_size: float = 1.0
    proposal_size: int = 3
    max_failed_removals: int = 2
    classes: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 2:
            raise ValueError(f"Setting up the agents' search: step_size must lie in (0, 2], got {self.step_size}.")
        if not 0 <= self.proposal_size < PROPOSAL_SIZES:
            raise ValueError(
                f"Setting up the agents' search: proposal_size must lie in [0, {PROPOSAL_SIZES}), got"
                f" {self.proposal_size}."
            )

    def begin(self, rows: Int64[Tensor, " n"]) -> TensorDict:
        """The first observation of an episode on the clips of `rows`. Costs no query."""
        session = self.session
        clips, clean = session.renderer.clips[rows], session.clean[rows]
        label, runner_up = self._probabilities(clean, rows)
        energy = session.renderer.cell_energy(rows)
        nothing = {key: clips.new_zeros(len(rows), *session.renderer.coarse_shape) for key in LEARNT}
        episode = TensorDict(
            nothing
            | {
                "clean_margin": session.margin(clean, rows),
                "clean_label": label,
                "clean_runner_up": runner_up,
                "full_l2": session.full_l2[rows],
                "energy": energy,
                "proposal_size": torch.full_like(rows, self.proposal_size),
                "bound": clips.new_full((len(rows),), torch.inf),
                "queries": self._queries(rows),
            },
            batch_size=[len(rows)],
            device=rows.device,
        )
        return self.observe(extract(clips, session.renderer.coarse, energy), _clean(episode), rows)

    def restart(self, td: TensorDict, rows: Int64[Tensor, " n"], bound: float) -> TensorDict:
        """Another episode on the same clips, from the clean clip with all that was learnt about it.

        Args:
            td: the last observations.
            rows: the clip of each row of `td`.
            bound: the norm that the strength maps stay below from now on.
        """
        old = td["episode"]
        again = {
            "proposal_size": torch.where(old["fooled"], _half(old["strength"]), self.proposal_size),
            "bound": torch.full_like(old["bound"], bound),
            "queries": self._queries(rows),
        }
        return self.observe(td["features"], _clean(old).update(again), rows)

    def propose(
        self, td: TensorDict, when: Int64[Tensor, "n a"], where: Int64[Tensor, "n c"]
    ) -> Float[Tensor, "n gt gh gw"]:
        """The strength maps that the agents' actions ask for: more distortion, or after success
        less."""
        strength, low = td["episode", "strength"], self.session.renderer.min_strength
        _, t, gh, gw = strength.shape
        named = directions(when, where, (t, gh * gw), alternate=low < 0)
        named = rearrange(named, "n t (gh gw) -> n t gh gw", gh=gh)
        added = (strength + self.step_size * named).clamp(low, 1)
        left = torch.where(named == 0, strength, 0)
        return torch.where(_like(td["episode", "fooled"], strength), left, added)

    def step(
        self, td: TensorDict, rows: Int64[Tensor, " n"], proposal: Float[Tensor, "n gt gh gw"], response: Response
    ) -> TensorDict:
        """Accepts proposals or takes them back, and learns from what the victim has said of them.

        Args:
            td: the observations before.
            rows: the clip of each row of `td`.
            proposal: the strength maps asked about, of search cells.
            response: the victim's, n of them.

        Returns:
            The observations after.
        """
        old = td["episode"]
        label, runner_up = self._probabilities(response.log_probs, rows)
        drop = old["margin"] - response.margin
        shrunk = response.success & (response.l2 < old["l2"])
        accepted = torch.where(old["fooled"], shrunk, response.success | (drop > 0)) & (response.l2 < old["bound"])

        def kept(key: str, new: Tensor) -> Tensor:
            return torch.where(_like(accepted, new), new, old[key])

        scaled_drop = drop / old["clean_margin"].clamp_min(1e-2)
        episode = old.copy().update(
            {
                "strength": kept("strength", proposal),
                **self._learnt(old, rows, proposal, scaled_drop),
                "margin": kept("margin", response.margin),
                "label": kept("label", label),
                "runner_up": kept("runner_up", runner_up),
                "l2": kept("l2", response.l2),
                "fooled": old["fooled"] | (accepted & response.success),
                "accepted": accepted.float(),
                "margin_drop": scaled_drop,
                "failures": torch.where(accepted, 0, old["failures"] + 1),
            }
        )
        return self.observe(td["features"], episode.update({"proposal_size": _next_size(episode)}), rows)

    def learn(
        self,
        td: TensorDict,
        rows: Int64[Tensor, " n"],
        change: Float[Tensor, "n t gh gw"],
        drop: Float[Tensor, " n"],
    ) -> TensorDict:
        """What the victim's answers to some changes show of the cells that they touch.

        Args:
            td: the observations before, of the clean clip.
            rows: the clip of each row of `td`.
            change: strengths that came on top of what was there, maps of search cells.
            drop: by how much the margin fell with each, nats.

        Returns:
            The observations after, still of the clean clip.
        """
        old = td["episode"]
        scaled_drop = drop / old["clean_margin"].clamp_min(1e-2)
        return self.observe(td["features"], old.copy().update(self._learnt(old, rows, change, scaled_drop)), rows)

    def _learnt(self, old: TensorDict, rows: Tensor, strength: Tensor, drop: Tensor) -> dict[str, Tensor]:
        """What an answer about a map adds to what is known of the clip, by how the map differs from
        the accepted one."""
        return {
            "credit": learn(old["credit"], strength.abs() - old["strength"].abs(), drop),
            "signed_credit": learn(old["signed_credit"], strength - old["strength"], drop),
            "trials": old["trials"] + (strength != old["strength"]).float(),
            "queries": self._queries(rows),
        }

    def over(self, episode: TensorDict) -> Bool[Tensor, " n"]:
        """Whether an episode has ended.

        It ends with the budget; on a fooled clip, when one cell is left or `max_failed_removals`
        have failed in a row; under a bound, when no further cell fits or `MAX_FAILED_ADDITIONS`
        have failed in a row. On a clip that needs no attack it is over before it begins.
        """
        fooled, failures = episode["fooled"], episode["failures"]
        removable = (_touched(episode["strength"]) > 1) & (failures < self.max_failed_removals)
        stuck = (_cells_left(episode) < 1) | (episode["bound"].isfinite() & (failures >= MAX_FAILED_ADDITIONS))
        spent: Tensor = (episode["queries"] >= self.session.budget) | (episode["clean_margin"] < 0)
        return spent | torch.where(fooled, ~removable, stuck)

    def observe(
        self, features: Float[Tensor, "n c t gh gw"], episode: TensorDict, rows: Int64[Tensor, " n"]
    ) -> TensorDict:
        """What the agents see, with the state of the episode and whether it is over.

        See `vidmarl.agents.environment.VideoAttackEnv` for the entries.
        """
        e, low = episode, self.session.renderer.min_strength
        fooled, strength = e["fooled"], e["strength"]
        cells = rearrange(strength, "n t gh gw -> n 1 t (gh gw)")
        up, down = (  # after success either direction takes the cell away
            torch.where(_like(fooled, cells), cells != 0, mask) for mask in (cells < 1, cells > low)
        )
        touched, left = _touched(strength), _cells_left(e)
        counts = torch.tensor(COUNTS, device=fooled.device)
        count = torch.where(fooled[:, None], 2 * counts <= touched[:, None], counts <= left[:, None])
        count &= counts <= cells[0].numel()
        count[:, 0] = True
        state = {
            "margin": (e["margin"] / e["clean_margin"].clamp_min(1e-2)).clamp(-1, 2),
            "label": e["label"],
            "runner_up": e["runner_up"],
            "spent": 1 - (self.session.budget - e["queries"]) / self.session.budget,
            "size": (e["l2"].clamp_min(1e-2) / e["full_l2"].clamp_min(1e-2)).log() / 4,
            "accepted": e["accepted"],
            "margin_drop": e["margin_drop"].clamp(-1, 1),
            "fooled": fooled.float(),
            "touched": touched.float().log1p() / 4,
            "proposal_size": e["proposal_size"] / PROPOSAL_SIZES,
            "failures": e["failures"] / 8,
        }
        maps = (strength, scaled(e["credit"]), scaled(e["signed_credit"]), e["trials"].log1p())
        n, over = len(fooled), self.over(e)[:, None]
        group = {"batch_size": [n, 1], "device": episode.device}
        return TensorDict(
            {
                "features": features,
                "maps": torch.stack(maps, 1),
                "state": torch.cat([torch.stack([state[name] for name in STATE], 1), self._label(rows)], 1),
                "spatial": TensorDict({"up_mask": up, "down_mask": down}, **group),
                "temporal": TensorDict(
                    {
                        "count_mask": count[:, None],
                        "frame_mask": (up | down).any(3),
                        "proposal_size": e["proposal_size"][:, None],
                    },
                    **group,
                ),
                "episode": episode,
                "done": over,
                "terminated": over.clone(),
            },
            batch_size=[n],
            device=episode.device,
        )

    def _probabilities(self, log_probs: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of each goal's class, and of the strongest other one."""
        classes = self.session.goal.classes.to(rows.device)[rows]
        label, runner_up = self.session.goal.label_and_runner_up(log_probs, classes)
        return label.exp(), runner_up.exp()

    def _label(self, rows: Tensor) -> Float[Tensor, "n k"]:
        """Which class the goal is about, one-hot."""
        if self.session.clean.shape[1] != self.classes:
            return self.session.clean.new_zeros(len(rows), self.classes)
        classes = self.session.goal.classes.to(rows.device)[rows]
        return torch.nn.functional.one_hot(classes, self.classes).to(self.session.clean)

    def _queries(self, rows: Tensor) -> Tensor:
        return self.session.queries.to(rows.device)[rows]


def mean_cell_energy(episode: TensorDict) -> Float[Tensor, " n"]:
    """The mean squared norm of a search cell at full strength, above 0."""
    mean: Tensor = episode["full_l2"].square() / episode["strength"][0].numel()
    return mean.clamp_min(1e-12)


def _clean(episode: TensorDict) -> TensorDict:
    """The episode with the accepted map and the last response those of the clean clip."""
    n, margin = len(episode), episode["clean_margin"]
    return episode.copy().update(
        {
            "strength": torch.zeros_like(episode["trials"]),
            "margin": margin.clone(),
            "label": episode["clean_label"].clone(),
            "runner_up": episode["clean_runner_up"].clone(),
            **{key: torch.zeros_like(margin) for key in ("l2", "accepted", "margin_drop")},
            "failures": margin.new_zeros(n, dtype=torch.int64),
            "fooled": margin.new_zeros(n, dtype=torch.bool),
        }
    )


def _next_size(episode: TensorDict) -> Int64[Tensor, " n"]:
    """The next size of proposal: the step-size rule of evolution strategies (Rechenberg 1973).

    Twice the last one after one that was accepted, else half of it. After success at most half of
    what is there to take away, and that much after a removal that was accepted.
    """
    accepted, size, half = episode["accepted"] > 0, episode["proposal_size"], _half(episode["strength"])
    removal = torch.minimum(torch.where(accepted, half, size - 1), half)
    size = torch.where(episode["fooled"], removal, size + torch.where(accepted, 1, -1))
    return size.clamp(0, PROPOSAL_SIZES - 1)


def _half(strength: Float[Tensor, "n gt gh gw"]) -> Int64[Tensor, " n"]:
    """The size of proposal that is half of the touched cells."""
    half = (_touched(strength).clamp_min(2).float().log2() - 1).floor().long()
    return half.clamp_max(PROPOSAL_SIZES - 1)


def _touched(strength: Float[Tensor, "n gt gh gw"]) -> Int64[Tensor, " n"]:
    return strength.flatten(1).count_nonzero(1)


def _cells_left(episode: TensorDict) -> Float[Tensor, " n"]:
    """How many more cells of average size fit below the bound."""
    left: Tensor = episode["bound"].square() - episode["l2"].square()
    return left / mean_cell_energy(episode)


def _like(flag: Tensor, values: Tensor) -> Tensor:
    """A flag for each row, float or bool[n], with as many axes as the values."""
    return flag.view(-1, *[1] * (values.ndim - 1))
