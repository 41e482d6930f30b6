"""What every distortion promises, checked for each of them; then what single ones promise."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TYPES_ARE_CHECKED
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import vidmarl
from vidmarl import cli, distortions
from vidmarl.data import write_lossless
from vidmarl.distortions import as_distortion, list_distortions
from vidmarl.distortions.base import Distortion, FunctionDistortion
from vidmarl.distortions.frame_freeze import frame_freeze
from vidmarl.distortions.frame_shuffle import shuffled
from vidmarl.distortions.gaussian_blur import gaussian_blur
from vidmarl.distortions.jpeg import coarser, jpeg
from vidmarl.distortions.ladder import climb
from vidmarl.distortions.motion_blur import line_kernel
from vidmarl.errors import DistortionError, UnknownNameError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.noise import Coherence
from vidmarl.perturbations.renderer import Renderer

NAMES = list_distortions()
SIGNED = [name for name in NAMES if as_distortion(name).signed]
GRID = TubeletGrid(2, 8, 8)


def moving_clips(b: int = 2, t: int = 6, h: int = 28, w: int = 36) -> Tensor:
    """Smooth coloured waves that move, each clip another way, all values well inside [0, 1]."""
    time, y, x = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
    waves = [
        0.5 + 0.25 * torch.sin(0.5 * x + (1 + n) * time + c) * torch.cos(0.7 * y - time + n)
        for n in range(b)
        for c in range(3)
    ]
    return torch.stack(waves).view(b, 3, t, h, w).float()


CLIPS = moving_clips()
RENDERERS = {name: Renderer(CLIPS, as_distortion(name), GRID) for name in NAMES}


@pytest.fixture(params=NAMES)
def renderer(request: pytest.FixtureRequest) -> Renderer:
    return RENDERERS[request.param]


def change(renderer: Renderer, strength: Tensor) -> Tensor:
    return renderer.render(strength) - renderer.clips


def test_full_strength_changes_every_clip_and_keeps_shape_and_type(renderer: Renderer) -> None:
    out = renderer.render(torch.ones_like(renderer.zeros()))
    assert out.shape == CLIPS.shape
    assert out.dtype == torch.float32
    assert ((out - renderer.clips).flatten(1).norm(dim=1) > 0.5).all()


def test_zero_strength_is_bit_identical(renderer: Renderer) -> None:
    assert torch.equal(renderer.render(renderer.zeros()), renderer.clips)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), density=st.floats(0, 1))
def test_any_map_gives_8_bit_clips_and_spares_untouched_tubelets(name: str, seed: int, density: float) -> None:
    renderer = RENDERERS[name]
    values, chosen = torch.rand(2, *renderer.zeros().shape, generator=torch.Generator().manual_seed(seed))
    strength = (renderer.min_strength + (1 - renderer.min_strength) * values) * (chosen < density)
    out = renderer.render(strength)
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal((out * 255).round() / 255, out)
    untouched = (GRID.expand(strength, *CLIPS.shape[-3:]) == 0).expand_as(out)
    assert torch.equal(out[untouched], renderer.clips[untouched])


def test_same_map_same_clip_and_removal_undoes_addition(renderer: Renderer) -> None:
    before = torch.zeros_like(renderer.zeros())
    before[:, 1, 1, 2] = 0.6
    first = renderer.render(before)
    after = before.clone()
    after[:, 2, 2, 1] = 1.0
    assert not torch.equal(renderer.render(after), first)
    after[:, 2, 2, 1] = 0.0
    assert torch.equal(renderer.render(after), first)


def test_a_second_renderer_gives_the_same_clip(renderer: Renderer) -> None:
    strength = torch.full_like(renderer.zeros(), 0.8)
    again = Renderer(CLIPS, as_distortion(renderer.distortion.to_record()), GRID)
    assert torch.equal(again.render(strength), renderer.render(strength))


def test_more_strength_is_no_smaller_change(renderer: Renderer) -> None:
    sizes = [
        change(renderer, torch.full_like(renderer.zeros(), s)).flatten(1).norm(dim=1) for s in torch.linspace(0, 1, 9)
    ]
    for weaker, stronger in itertools.pairwise(sizes):
        assert (stronger >= 0.98 * weaker).all()
    assert (sizes[-1] > 1.5 * sizes[2]).all()  # and strength 1/4 is well below strength 1


@pytest.mark.parametrize("name", SIGNED)
def test_signed_distortions_mirror(name: str) -> None:
    clips = Renderer(CLIPS, as_distortion(name)).clips
    distortion = as_distortion(name)
    state = distortion.prepare(clips, torch.randn_like(clips))
    strength = torch.rand_like(clips[:, :1])
    up = distortion(clips, strength, state) - clips
    down = distortion(clips, -strength, state) - clips
    assert torch.allclose(up, -down, atol=1e-6)
    assert up.abs().max() > 0.01


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(SIGNED)))
def test_one_sided_distortions_refuse_negative_strengths(name: str) -> None:
    renderer = RENDERERS[name]
    with pytest.raises(ValueError, match=r"expected strengths in \[0, 1\]"):
        renderer.render(renderer.zeros() - 0.5)


def test_a_clip_does_not_depend_on_its_batch(renderer: Renderer) -> None:
    strength = torch.full_like(renderer.zeros(), 0.9)
    alone = Renderer(CLIPS[1:], renderer.distortion, GRID).render(strength[1:])
    assert torch.equal(alone[0], renderer.render(strength)[1])


@pytest.mark.parametrize("coherence", ["static", "flow", "free"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_in_any_order_are_those_of_a_renderer_of_their_own(name: str, coherence: str) -> None:
    both = moving_clips(2)
    renderer = Renderer(both, as_distortion(name), GRID, coherence)  # type: ignore[arg-type]
    alone = Renderer(both[1:], as_distortion(name), GRID, coherence)  # type: ignore[arg-type]
    strength = torch.ones(3, *renderer.shape)
    out = renderer.render(strength, torch.tensor([1, 0, 1]))
    assert torch.equal(out[1], renderer.render(torch.ones_like(renderer.zeros()))[0])
    assert torch.equal(out[0], alone.render(strength[:1])[0])
    assert torch.equal(out[2], out[0])


@pytest.mark.parametrize("name", NAMES)
def test_odd_little_clips(name: str) -> None:
    for shape in ((1, 3, 1, 5, 7), (2, 3, 5, 17, 16)):
        clips = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        renderer = Renderer(clips, as_distortion(name), coherence="flow")
        assert renderer.render(torch.ones_like(renderer.zeros())).shape == clips.shape


def test_descriptions_are_plain_and_make_the_same_distortion(renderer: Renderer) -> None:
    description = json.loads(json.dumps(renderer.distortion.to_record()))
    again = as_distortion(description)
    assert type(again) is type(renderer.distortion)
    assert again.to_record() == description
    assert repr(again) == repr(renderer.distortion)


def test_description_keeps_arguments() -> None:
    again = as_distortion(distortions.MotionBlur(length=7.5, angle=30.0).to_record())
    assert again.to_record()["init_args"] == {"length": 7.5, "angle": 30.0}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_a_distortion_leads_to_it(name: str) -> None:
    kind = type(as_distortion(name))
    path = f"{kind.__module__}.{kind.__qualname__}"
    assert kind.__module__ == f"vidmarl.distortions.{name}"
    assert getattr(distortions, kind.__name__) is kind
    assert kind.__name__ in dir(distortions)
    for spelling in (kind.__name__, path, kind, {"class_path": path}, {"class_path": kind.__name__, "init_args": {}}):
        assert type(as_distortion(spelling)) is kind


OUT_OF_RANGE = {
    "gaussian_noise": {"std": 0.0},
    "sign_noise": {"epsilon": 0.5 / 255},
    "sign_bands": {"height": 0},
    "gaussian_blur": {"sigma": -1.0},
    "motion_blur": {"length": 1e9},
    "dead_pixels": {"rate": 1.5},
    "brightness": {"shift": -0.1},
    "contrast": {"gain": 2.0},
    "glare": {"radius": 0.0},
    "jpeg": {"quality": 100},
    "frame_freeze": {"hold": 10**30},
    "frame_shuffle": {"reach": 1},
}
SETTINGS = [(name, setting) for name in NAMES for setting in as_distortion(name).settings()]
NO_NUMBERS = [math.inf, -math.inf, math.nan, np.float32("nan"), "2", "", b"2", True, False, [1], {}, 1j, torch.ones(())]


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_settings_out_of_range_are_refused_with_the_range_and_the_value(name: str) -> None:
    ((setting, value),) = OUT_OF_RANGE[name].items()
    kind = type(as_distortion(name)).__name__
    message = rf"{kind}: {setting} must be a (whole )?number from [\d.e-]+ to [\d.]+, got {re.escape(repr(value))}\."
    with pytest.raises(ValueError, match=message):
        as_distortion({"class_path": kind, "init_args": {setting: value}})


@pytest.mark.parametrize("value", [*NO_NUMBERS, None], ids=repr)
@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_a_setting_that_is_no_number_is_refused(name: str, setting: str, value: object) -> None:
    if (name, setting, value) == ("motion_blur", "angle", None):
        pytest.skip("it draws an angle for each clip")
    with pytest.raises(
        ValueError, match=rf"{setting} must be (None or )?a (whole )?number from .*, got {re.escape(repr(value))}"
    ):
        as_distortion(name, **{setting: value})


@pytest.mark.parametrize(("name", "setting"), [("frame_freeze", "hold"), ("sign_bands", "height"), ("jpeg", "quality")])
def test_a_setting_that_counts_is_whole(name: str, setting: str) -> None:
    for value in (1.5, 2.0):
        with pytest.raises(ValueError, match=rf"{setting} must be a whole number from 1 to \d+, got {value}"):
            as_distortion(name, **{setting: value})


WHOLE = st.one_of(st.integers(), st.integers(0, 12_000))
FLOATS = st.one_of(st.floats(), st.floats(0, 1), st.floats(0, 300))


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "setting"), SETTINGS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_setting_is_refused_or_works(name: str, setting: str, data: st.DataObject) -> None:
    whole = isinstance(as_distortion(name).settings()[setting], int)
    value = data.draw(WHOLE if whole else FLOATS)
    try:
        distortion = as_distortion(name, **{setting: value})
    except ValueError as error:
        assert f"{setting} must be" in str(error)  # noqa: PT017
        return
    assert json.loads(json.dumps(distortion.to_record())) == distortion.to_record()
    renderer = Renderer(CLIPS[:1, :, :3, :9, :11], distortion)
    assert renderer.render(torch.ones_like(renderer.zeros())).shape == (1, 3, 3, 9, 11)


@pytest.mark.skipif(TYPES_ARE_CHECKED, reason="NumPy's numbers are no floats for the checker of types")
@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5)])
def test_a_numpy_number_is_a_number(value: float) -> None:
    assert json.dumps(as_distortion("gaussian_noise", std=value).settings()) == '{"std": 0.5}'


def test_settings_may_come_beside_a_name_and_win_over_a_description() -> None:
    described = {"class_path": "gaussian_noise", "init_args": {"std": 0.3}}
    assert as_distortion("gaussian_noise", std=0.2).settings() == {"std": 0.2}
    assert as_distortion(described, std=0.2).settings() == {"std": 0.2}
    assert as_distortion(described).settings() == {"std": 0.3}


def test_a_function_has_a_path() -> None:
    path = f"{fade_to_red.__module__}.{fade_to_red.__qualname__}"
    assert as_distortion(path).settings() == {"function": path, "signed": False}
    assert as_distortion({"class_path": path, "init_args": {"signed": True}}).signed
    with pytest.raises(UnknownNameError, match="fade_to_red"):
        as_distortion(f"{fade_to_red.__module__}.fade_to_re")


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="gaussian_noise"):
        as_distortion("gausian_noise")
    with pytest.raises(UnknownNameError, match="there is no"):
        as_distortion("no_such_package.Thing")
    with pytest.raises(UnknownNameError, match="there is no"):
        as_distortion("vidmarl.distortions.gaussian_noise.Nothing")
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = distortions.Nothing


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (3, "expected a subclass of Distortion, its name"),
        (None, "expected a subclass of Distortion, its name"),
        (dict, "expected a subclass of Distortion, its name"),
        ({"class_path": "subprocess.Popen", "init_args": {"args": "true"}}, "expected a subclass of Distortion"),
        ({"name": "gaussian_noise"}, "expected {'class_path'"),
        ({"class_path": "GaussianNoise", "std": 0.1}, "expected {'class_path'"),
        ({"class_path": "GaussianNoise", "init_args": {"stdd": 0.1}}, "GaussianNoise: .*'stdd'; did you mean std"),
    ],
)
def test_what_is_no_distortion_is_refused(thing: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_distortion(thing)  # type: ignore[arg-type]


def fade_to_red(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    return clips + strength * (clips.new_tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1) - clips)


def test_a_users_function_is_a_distortion() -> None:
    renderer = Renderer(CLIPS, as_distortion(fade_to_red), GRID)
    strength = renderer.zeros()
    strength[:, 0, 0, 0] = 1
    out = renderer.render(strength)
    assert (out[:, 0, :2, :8, :8] == 1).all()
    assert (out[:, 1:, :2, :8, :8] == 0).all()
    assert torch.equal(out[:, :, 2:], renderer.clips[:, :, 2:])
    again = as_distortion(renderer.distortion.to_record())
    assert isinstance(again, FunctionDistortion)
    assert again.function is fade_to_red


def test_a_users_function_may_be_signed_and_may_write_to_its_clips() -> None:
    def darken(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
        return clips.sub_(0.1 * strength)

    renderer = Renderer(CLIPS, FunctionDistortion(darken, signed=True), GRID)
    clean = renderer.clips.clone()
    assert (renderer.render(renderer.zeros() - 1) > clean).all()
    assert torch.equal(renderer.clips, clean)
    with pytest.raises(ValueError, match=r"pass it\s+as an object"):
        as_distortion(renderer.distortion.to_record())


def test_a_users_module_is_a_distortion_and_its_weights_are_found() -> None:
    class Tint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.colour = nn.Parameter(torch.tensor([0.2, 0.0, 0.0]).view(3, 1, 1, 1))

        def forward(self, clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
            return clips + strength * self.colour

    distortion = as_distortion(Tint())
    assert len(list(distortion.parameters())) == 1
    out = Renderer(CLIPS, distortion, GRID).render(torch.ones(2, *GRID.shape(CLIPS)))
    assert not out.requires_grad


def broken(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    raise RuntimeError("no rain today")


BAD_RESULTS = {
    "None": (lambda clips, *_: None, r"got None \(is a return missing\?\)"),
    "numpy": (lambda clips, *_: clips.numpy(), "got an object of type ndarray"),
    "tuple": (lambda clips, *_: (clips, clips), "got an object of type tuple"),
    "shape": (lambda clips, *_: clips[:, :1], r"shape \(1, 3, 6, 28, 36\) .*got .*shape \(1, 1, 6, 28, 36\)"),
    "axes": (lambda clips, *_: clips.mean(), r"got a float32 tensor of shape \(\)"),
    "bytes": (lambda clips, *_: (clips * 255).to(torch.uint8), "got a uint8 tensor"),
    "booleans": (lambda clips, *_: clips > 0.5, "got a bool tensor"),
    "complex": (lambda clips, *_: clips * 1j, "got a complex64 tensor"),
    "NaN": (lambda clips, *_: clips / 0 * 0, r"got .* with 18144 NaN"),
    "0 to 255": (
        lambda clips, *_: clips * 255,
        r"expected values in \[0, 1\], got values in .* Divide 8-bit values by",
    ),
    "raises": (
        broken,
        "raised while distorting clips of shape .*: RuntimeError: no rain today",
    ),
    "arguments": (lambda clips: clips, "raised while distorting clips .*TypeError"),
}


@pytest.mark.parametrize("kind", BAD_RESULTS)
def test_a_users_function_with_a_bad_result_is_named_before_a_query_is_spent(kind: str) -> None:
    function, message = BAD_RESULTS[kind]
    with pytest.raises(DistortionError, match=rf"The distortion test_distortions\.(broken|<lambda>).*{message}"):
        Renderer(CLIPS, as_distortion(function), GRID)


def test_another_precision_is_converted() -> None:
    renderer = Renderer(CLIPS, as_distortion(lambda clips, strength, noise: clips.double() * (1 - strength)), GRID)
    assert renderer.render(torch.ones_like(renderer.zeros())).dtype == torch.float32


class Forgetful(Distortion):
    def __init__(self, state: object) -> None:
        super().__init__()
        self.state = state

    def prepare(self, clips: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return self.state(clips)  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda clips: {"mean": clips.mean()}, r"'mean', a float32 tensor of shape \(\)"),
        (lambda clips: {"mean": clips[:1]}, r"'mean', a float32 tensor of shape \(1, 3, 6, 28, 36\)"),
        (lambda clips: {"mean": 0.5}, "'mean', an object of type float"),
        (lambda clips: None, "got None"),
        (lambda clips: clips.nothing, "raised while preparing clips .*AttributeError"),
    ],
)
def test_a_state_without_a_row_per_clip_is_named(state: object, message: str) -> None:
    with pytest.raises(DistortionError, match=rf"The distortion Forgetful.*{message}"):
        Renderer(CLIPS, Forgetful(state))


@pytest.mark.parametrize("epsilon", [12.75 / 255, 10 / 255, 1 / 255, 8.0 / 255, 0.03])
@settings(max_examples=10)
@given(strength=st.floats(-1, 1, width=32))
def test_sign_noise_stays_in_its_ball_after_rounding(epsilon: float, strength: float) -> None:
    clips = torch.randint(0, 256, (2, 3, 2, 16, 16), generator=torch.Generator().manual_seed(1)) / 255
    renderer = Renderer(clips, distortions.SignNoise(epsilon))
    delta = change(renderer, torch.full_like(renderer.zeros(), strength))
    assert delta.abs().max() <= epsilon + 1e-7


@pytest.mark.parametrize("kind", [distortions.SignNoise, distortions.SignBands])
def test_sign_noise_uses_the_whole_ball(kind: type[distortions.SignNoise]) -> None:
    renderer = Renderer(torch.full((1, 3, 2, 16, 16), 0.5), kind())
    steps = (change(renderer, renderer.zeros() + 1) * 255).round()
    assert set(steps.unique().tolist()) == {-12.0, 12.0}


@pytest.mark.parametrize("coherence", ["static", "free"])
def test_sign_bands_are_lines_of_one_colour_over_the_whole_width(coherence: Coherence) -> None:
    clips = torch.tensor([0.4, 0.6]).view(2, 1, 1, 1, 1).expand(2, 3, 4, 24, 16)
    renderer = Renderer(clips, distortions.SignBands(height=3), coherence=coherence)
    bands = change(renderer, renderer.zeros() + 1)
    first = rearrange(bands, "b c t (y line) w -> b c t y line w", line=3)[..., :1, :1]
    assert torch.equal(bands, first.expand(-1, -1, -1, -1, 3, 16).reshape(bands.shape))
    assert len(first.flatten(1).unique(dim=0)) == 2, "each clip has bands of its own"
    assert bool((first[:, :, 1:] == first[:, :, :1]).all()) == (coherence == "static")


def test_gaussian_noise_has_the_std_asked_for() -> None:
    renderer = Renderer(torch.full((1, 3, 4, 64, 64), 0.5), distortions.GaussianNoise(0.05), coherence="free")
    assert change(renderer, renderer.zeros() + 1).std() == pytest.approx(0.05, rel=0.03)
    assert change(renderer, renderer.zeros() - 0.5).std() == pytest.approx(0.025, rel=0.03)


def test_gaussian_blur_spreads_a_point_into_a_gaussian() -> None:
    frame = torch.zeros(1, 3, 1, 41, 41)
    frame[..., 20, 20] = 1
    blurred = gaussian_blur(frame, 2.0)
    offset = torch.arange(41) - 20.0
    assert blurred[0, 0, 0].sum() == pytest.approx(1, abs=1e-5)
    assert (blurred[0, 0, 0].sum(0) * offset.square()).sum().sqrt() == pytest.approx(2.0, rel=0.03)
    assert torch.allclose(gaussian_blur(torch.full((1, 3, 2, 4, 9), 0.3), 5.0), torch.tensor(0.3))


@pytest.mark.parametrize(("angle", "axis"), [(0.0, 0), (90.0, 1)])
def test_motion_blur_smears_along_its_angle_only(angle: float, axis: int) -> None:
    kernel = line_kernel(9.0, torch.tensor([angle]))[0]
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (kernel.sum(axis) > 0.01).sum() >= 9
    assert (kernel.sum(1 - axis) > 0.01).sum() == 1


def test_motion_blur_counts_its_angle_counter_clockwise() -> None:
    kernel = line_kernel(9.0, torch.tensor([45.0]))[0]
    radius = len(kernel) // 2
    assert kernel[radius - 2, radius + 2] > 0.02  # up and to the right
    assert kernel[radius + 2, radius + 2] == 0


def test_motion_blur_draws_an_angle_per_clip() -> None:
    flat = torch.zeros(2, 3, 1, 32, 32)
    flat[..., 16, 16] = 1
    noise = torch.zeros_like(flat)
    noise[0, 0, 0, 0, 0] = 1.0
    horizontal, drawn = distortions.MotionBlur(angle=0.0), distortions.MotionBlur()
    assert torch.equal(horizontal.at(1.0, flat, noise)[0], horizontal.at(1.0, flat, noise)[1])
    assert not torch.equal(drawn.at(1.0, flat, noise)[0], drawn.at(1.0, flat, noise)[1])


def test_dead_pixels_are_as_many_as_asked_black_or_white_and_nested() -> None:
    renderer = Renderer(torch.full((1, 3, 3, 64, 64), 0.5), distortions.DeadPixels(rate=0.1))
    full, half = (renderer.render(renderer.zeros() + s) for s in (1.0, 0.5))
    dead, fewer = (out != renderer.clips for out in (full, half))
    assert set(full[dead].unique().tolist()) == {0.0, 1.0}
    assert dead.float().mean() == pytest.approx(0.1, abs=0.015)
    assert fewer.float().mean() == pytest.approx(0.05, abs=0.01)
    assert (dead | ~fewer).all()
    assert torch.equal(dead, dead[:, :1, :1].expand_as(dead))  # the whole pixel, in every frame


def test_contrast_of_minus_one_leaves_the_mean_grey() -> None:
    renderer = Renderer(CLIPS, distortions.Contrast(gain=1.0))
    out = renderer.render(renderer.zeros() - 1)
    assert (out - renderer.clips.mean(dim=(1, 2, 3, 4), keepdim=True)).abs().max() <= 0.5 / 255 + 1e-6


def test_glare_is_brightest_at_the_lamp_and_never_darkens() -> None:
    renderer = Renderer(torch.full((3, 3, 2, 64, 64), 0.2), distortions.Glare(peak=1.0, radius=10.0))
    added = change(renderer, renderer.zeros() + 1)
    assert added.min() >= 0
    assert (added.flatten(1).amax(1) > 0.78).all()
    half = (added[0, 0, 0] >= 0.4).sum()
    assert half <= 3.15 * 10**2 * 1.1  # a disc of the radius, or what the border leaves of it


def test_jpeg_steps_follow_the_scale_of_libjpeg() -> None:
    assert coarser(10, 1.0) == 10
    assert coarser(10, 0.5) == 20
    assert coarser(25, 0.5) == 50
    assert coarser(50, 0.5) == 75
    errors = [(jpeg(CLIPS, quality) - CLIPS).norm() for quality in (95, 50, 5)]
    assert errors[0] < errors[1] < errors[2]


def test_frame_freeze_shows_earlier_frames() -> None:
    out = frame_freeze(CLIPS, torch.ones_like(CLIPS[:, :1]), hold=2)
    assert torch.equal(out[:, :, 2:], CLIPS[:, :, :-2])
    assert torch.equal(out[:, :, :2], CLIPS[:, :, :1].expand(-1, -1, 2, -1, -1))


@pytest.mark.thorough
@given(t=st.integers(1, 40), reach=st.integers(2, 9), seed=st.integers(0, 999))
def test_frame_shuffle_permutes_within_windows_and_moves_every_frame(t: int, reach: int, seed: int) -> None:
    keys = torch.rand(3, t, generator=torch.Generator().manual_seed(seed))
    source = shuffled(keys, reach)
    frames = torch.arange(t).expand(3, t)
    assert torch.equal(source.sort(1).values, frames)
    assert torch.equal(source // reach, frames // reach)
    lonely = frames[0] if t % reach == 1 else frames[0][:0]
    stayed = frames[0][(source == frames).any(0)]
    assert set(stayed.tolist()) <= set(lonely[-1:].tolist())


def test_frame_shuffle_shows_real_frames_in_another_order() -> None:
    renderer = Renderer(CLIPS, distortions.FrameShuffle(reach=3))
    out = renderer.render(renderer.zeros() + 1)
    for clip, shown in zip(renderer.clips, out, strict=True):
        source = [
            next(i for i in range(clip.shape[1]) if torch.equal(clip[:, i], shown[:, k])) for k in range(clip.shape[1])
        ]
        assert sorted(source) == list(range(clip.shape[1]))
        assert source != sorted(source)


def test_ladder_meets_its_rungs_and_is_linear_between_them() -> None:
    clips = torch.zeros(1, 3, 1, 1, 1)
    rungs = torch.tensor([10, 40, 30, 200], dtype=torch.uint8).view(1, 4, 1, 1, 1, 1).expand(1, 4, 3, 1, 1, 1)
    for strength, level in ((0.25, 10.0), (0.5, 40.0), (0.75, 30.0), (1.0, 200.0), (0.125, 5.0), (0.875, 115.0)):
        out = climb(clips, rungs, torch.full((1, 1, 1, 1, 1), strength))
        assert torch.allclose(out * 255, torch.tensor(level), atol=1e-3)


@pytest.mark.thorough
def test_heavy_libraries_stay_out_until_a_distortion_needs_them() -> None:
    code = (
        "import sys, vidmarl.distortions as d; [d.as_distortion(n) for n in d.list_distortions()];"
        "print(sorted({'cv2', 'kornia', 'torchvision', 'lightning', 'torchrl'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.thorough
def test_a_function_in_the_working_folder_is_a_distortion_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rain.py").write_text("def rain(clips, strength, noise):\n    return clips + 0.5 * strength\n")
    write_lossless(tmp_path / "clip.webm", CLIPS[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    asked = ["attack", "clip.webm", "--victim", "test_distortions.Grey", "--distortion", "rain.rain", "--budget", "4"]
    cli.main([*asked, "--attack", "random_cells", "--out", "out", "--no-progress"])
    assert vidmarl.AttackResult.load("out/result").settings["distortion"]["init_args"]["function"] == "rain.rain"
    with pytest.raises(SystemExit):
        cli.main([*asked, "--out", "other", "--no-progress"])
    assert "needs trained agents, and none ship for the distortion 'rain.rain'" in capsys.readouterr().err


class Grey(vidmarl.Victim):
    def __init__(self, device: object = None) -> None:
        super().__init__(lambda clips: clips.mean((2, 3, 4)), spec=vidmarl.ClipSpec(frames=6, size=(28, 36)))
