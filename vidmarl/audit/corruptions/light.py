"""Light and weather: exposure, contrast, colours, fog."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.audit.corruptions.base import KINETICS_C, corruption
from vidmarl.distortions.fog import fog as mix_fog
from vidmarl.distortions.fog import plasma

FAMILY = "light and weather"

Clip = Float[Tensor, "3 t h w"]


@corruption(FAMILY, KINETICS_C, "added to the value (HSV)", (0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(clip: Clip, shift: float, rng: torch.Generator) -> Clip:
    """Lighter, the colours as they are."""
    return _in_hsv(clip, value=lambda value: value + shift)


@corruption(FAMILY, KINETICS_C, "factor", (0.5, 0.4, 0.3, 0.2, 0.1))
def contrast(clip: Clip, factor: float, rng: torch.Generator) -> Clip:
    """Every frame's values nearer to the frame's mean, in each channel."""
    return clip.mean((2, 3), keepdim=True).lerp(clip, factor)


@corruption(
    FAMILY,
    KINETICS_C,
    "factor of the saturation (HSV), and what is added",
    ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
)
def saturation(clip: Clip, how: tuple[float, float], rng: torch.Generator) -> Clip:
    """Pale at the first two severities, garish at the others."""
    factor, added = how
    return _in_hsv(clip, saturation=lambda saturation: saturation * factor + added)


@corruption(
    FAMILY, KINETICS_C, "how thick, and how smooth", ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
)
def fog(clip: Clip, how: tuple[float, float], rng: torch.Generator) -> Clip:
    """Banks of fog, which stand still."""
    thickness, smoothness = how
    h, w = clip.shape[-2:]
    banks = plasma(torch.rand(1, h * w, generator=rng), h, w, smoothness).to(clip.device)
    return mix_fog(clip[None], torch.ones_like(clip[None, :1]), banks, thickness)[0]


def _in_hsv(clip: Clip, **changes: Callable[[Tensor], Tensor]) -> Clip:
    """The clip with its saturation or its value changed."""
    from kornia.color import hsv_to_rgb, rgb_to_hsv

    hsv = dict(
        zip(("hue", "saturation", "value"), rgb_to_hsv(rearrange(clip, "c t h w -> t c h w")).unbind(1), strict=True)
    )
    for name, change in changes.items():
        hsv[name] = change(hsv[name]).clamp(0, 1)
    out: Tensor = hsv_to_rgb(torch.stack(list(hsv.values()), 1))
    return rearrange(out, "t c h w -> c t h w")
