"""Distortions: what can happen to a video, one file each.

A new distortion is a new file with a function and one `Distortion` around it, and nothing else. The
file is called like the class, in snake case: `GaussianNoise` in `gaussian_noise.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vidmarl.distortions.base import Distortion, FunctionDistortion
from vidmarl.registry import Registry

if TYPE_CHECKING:  # at run time these are imported when they are first asked for
    from vidmarl.distortions.brightness import Brightness as Brightness
    from vidmarl.distortions.contrast import Contrast as Contrast
    from vidmarl.distortions.dead_pixels import DeadPixels as DeadPixels
    from vidmarl.distortions.defocus_blur import DefocusBlur as DefocusBlur
    from vidmarl.distortions.fog import Fog as Fog
    from vidmarl.distortions.frame_freeze import FrameFreeze as FrameFreeze
    from vidmarl.distortions.frame_shuffle import FrameShuffle as FrameShuffle
    from vidmarl.distortions.gaussian_blur import GaussianBlur as GaussianBlur
    from vidmarl.distortions.gaussian_noise import GaussianNoise as GaussianNoise
    from vidmarl.distortions.glare import Glare as Glare
    from vidmarl.distortions.jpeg import JPEG as JPEG
    from vidmarl.distortions.motion_blur import MotionBlur as MotionBlur
    from vidmarl.distortions.sign_bands import SignBands as SignBands
    from vidmarl.distortions.sign_noise import SignNoise as SignNoise
    from vidmarl.distortions.speckle_noise import SpeckleNoise as SpeckleNoise
    from vidmarl.distortions.zoom_blur import ZoomBlur as ZoomBlur

__all__ = ["Distortion", "FunctionDistortion", "as_distortion", "list_distortions"]

DISTORTIONS = Registry("distortion", Distortion, __name__, shared=("base", "ladder"), convert=FunctionDistortion)


def list_distortions() -> list[str]:
    """The names of all distortions, sorted, such as "gaussian_noise"."""
    return DISTORTIONS.names()


def as_distortion(
    thing: Distortion | type[Distortion] | str | Mapping[str, Any] | Callable[..., Any], **settings: Any
) -> Distortion:
    """Makes a distortion of whatever names or is one.

    Args:
        thing: one of
            - a `Distortion` (returned as it is), or its class;
            - a name, "gaussian_noise" or "GaussianNoise", or a class path "package.module.Class";
            - `{"class_path": ..., "init_args": {...}}`, as in YAML and from
              `Distortion.to_record()`;
            - a function or module `f(clips, strength, noise) -> clips`, see `FunctionDistortion`,
              or the path of one, "package.module.function".
        **settings: settings of the distortion; they win over `init_args`.

    Raises:
        UnknownNameError: there is no distortion of that name or path; the message offers the
            nearest.
        SettingsError: `thing` is none of these, or the distortion has no such settings.
        ValueError: a setting is out of its range.
    """
    return DISTORTIONS.make(thing, **settings)


if not TYPE_CHECKING:  # so that a type checker finds a misspelling
    __getattr__, __dir__ = DISTORTIONS.attributes()
