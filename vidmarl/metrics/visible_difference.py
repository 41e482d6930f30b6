"""Whether people would tell an attacked clip from the original: ColorVideoVDP, in JOD.

The model (Mantiuk et al., SIGGRAPH 2024) is that of the package `cvvdp`, which the extra
`vidmarl[perceptual]` installs. What is visible depends on how one looks at it. Here all clips are
looked at alike, whatever their size in pixels and their rate:

- a Full-HD monitor of 24 inches, 200 cd/m2, in an office of 250 lux, from twice its height away
  (`standard_fhd` of ColorVideoVDP);
- the short side of a clip fills half the height of the screen, 14.3 degrees. Pixels are not
  interpolated: a pixel of the clip is a pixel of that size;
- `FRAME_RATE` frames a second, as `ClipSpec` samples by default.

ColorVideoVDP publishes no values of clips that come with it or can be drawn. So the tests hold what
its documentation says of displays, and the 10 of equal clips, against it; other values are held to
those of cvvdp 0.5.7.
"""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.metrics.column import Column, metric

DISPLAY = "standard_fhd"

SHORT_SIDE = 540
"""Pixels of the display that the short side of a clip fills."""

FRAME_RATE = 5.0

OF_EQUAL = 10.0
"""The quality of a clip that nothing was done to."""

SMALLEST = 8
"""Frames need this many pixels on their short side, for a pyramid of two levels."""


@metric(
    Column("jod", "JOD", "ColorVideoVDP, 10 for equal clips; 75 % of people see 1 less", format=".2f", better="higher"),
    slow=True,
    order=23,
)
def jod(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"] | None:
    """Quality in just-objectionable differences, 10 for equal clips, below 0 for very different
    ones.

    NaN for frames smaller than `SMALLEST`. None where `cvvdp` is not installed; a warning says so,
    once.
    """
    package = _package()
    if package is None:
        return None
    height, width = clean.shape[-2:]
    quality = clean.new_full((len(clean),), OF_EQUAL)
    differ = (clean != adversarial).flatten(1).any(1)
    if min(height, width) < SMALLEST:
        return quality.masked_fill(differ, torch.nan)
    model = _model(package, clean.device, min(height, width))
    with torch.inference_mode():
        for row in differ.nonzero().flatten().tolist():  # one by one: a batch is held in memory as a whole
            both = (clips[row : row + 1].clamp(0, 1) for clips in (adversarial, clean))
            quality[row] = model.predict(*both, dim_order="BCFHW", frames_per_second=FRAME_RATE)[0]
    return quality


@cache
def _package() -> Any:
    """The package `pycvvdp`, or None (said once) where it is not installed."""
    try:
        return importlib.import_module("pycvvdp")
    except ImportError as error:
        warnings.warn(
            f"JOD is left out: ColorVideoVDP cannot be imported ({error}). It comes with an extra: pip install"
            " 'vidmarl[perceptual]'.",
            stacklevel=4,
        )
        return None


@cache
def _model(package: Any, device: torch.device, short_side: int) -> Any:
    """ColorVideoVDP for clips whose short side has so many pixels."""
    model = package.cvvdp(display_name=DISPLAY, device=device, quiet=True)
    per_degree = model.pix_per_deg * short_side / SHORT_SIDE
    model.set_display_model(DISPLAY, display_geometry=package.vvdp_display_geometry((1920, 1080), ppd=per_degree))
    return model
