"""What is left of a live view where nothing is live: a picture for each clip."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vidmarl.report import pictures
from vidmarl.report.figures.style import COLOURS, INK

_SIDE = 150
"""Of the pictures, px."""

Curve = tuple[Sequence[int], Sequence[float | None], Sequence[float | None]]
"""Queries, and at each the probability of the label and of its runner-up."""


@dataclasses.dataclass(frozen=True)
class Still:
    """One clip as it stands.

    Attributes:
        text: what stands above it.
        clean: float[3 t h w] in [0, 1].
        attacked: float[3 t h w] in [0, 1].
        strength: float[gt gh gw].
        curve: of the attack, where there was one.
    """

    text: str
    clean: Float[Tensor, "3 t h w"]
    attacked: Float[Tensor, "3 t h w"]
    strength: Float[Tensor, "gt gh gw"]
    curve: Curve | None = None


def still_html(stills: Sequence[Still], victim: str, kind: str) -> str:
    """Clips below each other, in HTML without scripts and styles: the region on the frame that is
    distorted most, that frame under attack, and the curve.

    Args:
        stills: the clips.
        victim: its name, in HTML.
        kind: class of the element.
    """
    parts = [
        f"<p>Victim: {victim}. Of each clip the frame that is distorted most, the region outlined; the probability of"
        " the label (solid) and of its runner-up (dashed) against queries.</p>"
    ]
    for still in stills:
        frame = int((still.attacked - still.clean).square().sum((0, 2, 3)).argmax())
        clean, attacked = (pictures.to_frames(clip[:, frame : frame + 1])[0] for clip in (still.clean, still.attacked))
        cell = pictures.cell_size(still.clean, still.strength)
        large = pictures.enlarged(clean, _SIDE)
        hulls = [hull * large.shape[0] / clean.shape[0] for hull in pictures.hulls(still.strength, cell, frame)]
        words = html.escape(still.text)
        images = [
            (pictures.picture(pictures.outlined(large, hulls)), f"frame {frame + 1} with the region"),
            (pictures.picture(pictures.enlarged(attacked, _SIDE)), "the same frame under attack"),
        ]
        if still.curve is not None:
            images.append((_curve_picture(still.curve), "probabilities against queries"))
        row = " ".join(f'<img height="{_SIDE}" src="{source}" alt="{alt}">' for source, alt in images)
        parts.append(f"<p><b>{words}</b><br>{row}</p>")
    return f'<div class="vidmarl-still {kind}">{"".join(parts)}</div>'


def _curve_picture(curve: Curve) -> str:
    """The probability of the label (solid) and of its runner-up (dashed) against queries, as an SVG
    in a data URL."""
    asked, *lines = curve
    width, height, left, low = 300, _SIDE, 34, 22
    last = max(asked[-1], 2)

    def at(query: int, value: float) -> str:
        x = left + (width - left - 6) * (query - 1) / (last - 1)
        return f"{x:.1f},{6 + (height - low - 6) * (1 - value):.1f}"

    text = f'font-family="sans-serif" font-size="11" fill="{INK}"'
    parts = [
        f'<text x="2" y="14" {text}>100%</text><text x="14" y="{height - low}" {text}>0%</text>',
        f'<text x="{left}" y="{height - 4}" {text}>1</text>',
        f'<text x="{width - 6}" y="{height - 4}" text-anchor="end" {text}>{last} queries</text>',
        f'<path d="M{left} 6V{height - low}H{width - 6}" fill="none" stroke="{INK}"/>',
    ]
    for values, colour, dash in zip(lines, COLOURS, ("", ' stroke-dasharray="5 3"'), strict=False):
        points = " ".join(at(query, value) for query, value in zip(asked, values, strict=True) if value is not None)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{''.join(parts)}</svg>"
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
