"""The figures of a result, a method each. The figures themselves are functions in
`vidmarl.report.figures`, which know nothing of attacks."""

from __future__ import annotations

import html
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from vidmarl import metrics

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from jaxtyping import Bool, Float, Int64
    from torch import Tensor

MOST_CLASSES = 8
"""Classes whose regions are shown: those of the most clips."""


class Plots:
    """What can be drawn of a result, wherever its clips are."""

    if TYPE_CHECKING:
        success: Bool[Tensor, " b"]
        skipped: Bool[Tensor, " b"]
        strength: Float[Tensor, "b gt gh gw"]
        prediction: Int64[Tensor, " b"]
        queries: Int64[Tensor, " b"]
        full_l2: Float[Tensor, " b"]
        history: dict[str, Float[Tensor, "b q"]]
        settings: dict[str, Any]

        def __getitem__(self, rows: Any) -> Any: ...

    def plot(self, i: int = 0) -> go.Figure:
        """A frame slider over clip `i`: original, attacked, difference, region."""
        from vidmarl.report.figures import frames

        one = self[i]
        figure = frames(one.clean[0], one.adversarial[0], one.strength[0], self.settings.get("grid"))
        return figure.update_layout(title=f"{_said(one)}: {one.outcomes[0]}, {int(one.queries)} queries")

    def timeline(self, i: int = 0) -> go.Figure:
        """When clip `i` is attacked: its frames, the strength in each, and the flicker."""
        from vidmarl.report.figures import timeline

        one = self[i]
        return timeline(one.clean[0], one.adversarial[0], one.strength[0])

    def trajectory(self, i: int = 0) -> go.Figure:
        """The path of the attack on clip `i`: what the victim says, the margin and the size, query
        by query."""
        from vidmarl.report.figures import trajectory

        return trajectory(self[i])

    def regions(self, i: int | None = None, *, by: Literal["class"] | None = None) -> go.Figure:
        """Where and when clips are attacked on average; of the fooled ones, unless there is none.

        Args:
            i: one clip, shown with its most distorted frame; None: all.
            by: "class": those that the victim says the same of, each for themselves.

        Raises:
            ValueError: no clip was attacked, or `by` is something else.
        """
        from vidmarl.report.figures import regions

        if by not in (None, "class"):
            raise ValueError(f"Showing regions by {by!r}: expected by='class', or None.")
        if i is not None:
            one = self[i]
            most = int((one.adversarial - one.clean).square().sum((0, 1, 3, 4)).argmax())
            return regions({_said(one, markup=False): one.strength}, one.clean[0, :, most])
        attacked = ~self.skipped
        shown = self.success & attacked if (self.success & attacked).any() else attacked
        if not shown.any():
            raise ValueError("Showing regions: no clip was attacked.")
        if by is None:
            return regions({"all clips": self.strength[shown]})
        names = metrics.class_names(self, self.prediction)
        counts = Counter(name for name, kept in zip(names, shown.tolist(), strict=True) if kept)
        rows = {
            name: [k for k, kept in enumerate(shown.tolist()) if kept and names[k] == name]
            for name, _ in counts.most_common(MOST_CLASSES)
        }
        return regions({name: self.strength[of] for name, of in rows.items()})


def _said(one: Any, *, markup: bool = True) -> str:
    """What the victim says of the only clip of a result."""
    [name] = metrics.class_names(one, one.prediction)
    return html.escape(name) if markup else name  # plotly reads titles as markup
