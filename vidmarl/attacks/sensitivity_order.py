"""The oracle: what an attack could do that knew the victim's sensitivity for free. It is no
attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.attacks.base import Attack
from vidmarl.attacks.greedy_sensitivity import descending, shortest_beginning
from vidmarl.attacks.result import AttackResult
from vidmarl.attacks.search.minimize import minimize
from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import as_grid
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Search

AT_ONCE = 32
"""Probes that are rendered and asked about at once; bounds the memory."""


class SensitivityOrder(Attack):
    """An oracle, no attack: its probes are asked of the victim, but no clip is charged with them.

    Every tubelet is distorted alone at full strength, in both directions where the distortion has
    two. Then the tubelets are added in the order of what their probe has shown, the largest fall of
    the margin per added L2 first and each in its better direction: 1, 2, 4, ... of them until the
    goal holds, bisection for the shortest beginning that is enough, and `minimize`. Where even all
    of them fail, the order is gone through once more a fiftieth at a time, each kept if the margin
    falls.

    These queries are counted, and are all that `AttackResult.queries` shows. It says what knowing
    the order is worth: what lies between `GreedySensitivity`, which pays for its probes, and this.

    The probes have a budget of their own. `Victim.queries` counts them; the result's settings give
    their number for each clip as "uncounted_probes_per_clip". At 1,936 cells and two directions
    these are 3,872, so `box` can probe neighbours together.

    It bounds this kind of search and not all attacks: cells that only work together show nothing
    alone.

    Args:
        box: search cells over time, height and width that are probed together and share what is
            found. (1, 2, 2) costs a quarter of the probes.
    """

    box: Sequence[int] = (1, 1, 1)
    needs_scores = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.box) != 3 or min(self.box) < 1:
            raise ValueError(
                f"SensitivityOrder: box must be 3 whole numbers of search cells, at least 1 each, got {self.box}."
            )

    def batches(self, *args: Any, **kwargs: Any) -> Iterator[AttackResult]:
        """As `Attack.batches`; the settings of a result also say how many probes were not
        counted."""
        signs = 2 if as_distortion(self.distortion).signed else 1
        cells = as_grid(self.grid).coarser(self.search_cell)
        for result in super().batches(*args, **kwargs):
            boxes = self._boxes(cells.shape(result.clean)).max() + 1
            result.settings["uncounted_probes_per_clip"] = signs * int(boxes)
            yield result

    def params(self) -> dict[str, Any]:
        return super().params() | {
            "box": list(self.box),
            "oracle": "no attack: the probes are not counted in the queries",
        }

    def search(self, clip: ClipView) -> Search:
        full, gain = self._probe(clip)
        order = descending(gain, clip.rng)
        yield from shortest_beginning(full, order)
        if not clip.fooled:
            yield from _what_helps(full, order, clip.clean_margin)
        yield from minimize(clip)

    def _probe(self, clip: ClipView) -> tuple[Float[Tensor, "t y x"], Float[Tensor, "t y x"]]:
        """Asks outside of the budget about every box alone.

        Returns:
            The better direction of every cell, -1 or 1, and what the margin falls by with it, nats
            per L2.
        """
        boxes = self._boxes(clip.shape)
        parts = (boxes == torch.arange(int(boxes.max()) + 1)[:, None, None, None]).float()
        signs = [1.0, -1.0] if clip.min_strength < 0 else [1.0]
        gains = []
        for sign in signs:
            for some in parts.split(AT_ONCE):
                probes = clip.render(sign * some)
                this = torch.zeros(len(some), dtype=torch.int64, device=probes.device)
                fall = clip.clean_margin - clip.goal.margin(clip.victim(probes), this)
                norm = (probes - clip.pixels).flatten(1).norm(dim=1)
                gains.append((fall / norm.clamp_min(1e-6)).cpu())  # where nothing changed nothing falls
        gain, best = rearrange(torch.cat(gains), "(signs n) -> signs n", signs=len(signs)).max(0)
        return torch.tensor(signs)[best][boxes], gain[boxes]

    def _boxes(self, shape: tuple[int, int, int]) -> Int64[Tensor, "t y x"]:
        """The number of the box that each search cell lies in."""
        t, h, w = (torch.arange(length) // side for length, side in zip(shape, self.box, strict=True))
        return (t[:, None, None] * (h[-1] + 1) + h[:, None]) * (w[-1] + 1) + w


def _what_helps(full: Tensor, order: Tensor, margin: float) -> Search:
    """Adds a fiftieth of the tubelets after another, keeps what lowers the margin, until the goal
    holds."""
    strength = torch.zeros_like(full)
    for cells in order.split(-(-len(order) // 50)):
        candidate = strength.clone()
        candidate.view(-1)[cells] = full.flatten()[cells]
        response = yield candidate
        if response.success:
            return
        if response.margin < margin:
            strength, margin = candidate, float(response.margin)
