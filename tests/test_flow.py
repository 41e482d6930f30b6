"""What the motion estimate, warping, occlusion and carried patterns promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidmarl.distortions.gaussian_blur import gaussian_blur
from vidmarl.perturbations.flow import carry, estimate_flow, occlusion, warp

SHIFTS = [(2, 1), (-3, 0), (0, 2), (1, -2)]
MARGIN = 16


def panning(dx: int, dy: int, t: int = 6, size: int = 80) -> Tensor:
    """A texture whose content moves by (dx, dy) px a frame, to the right and down."""
    room = size + 8 * t
    texture = gaussian_blur(torch.rand(1, 3, 1, room, room, generator=torch.Generator().manual_seed(0)), 1.5)
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    start = 4 * t
    frames = [texture[:, :, 0, start - dy * i :, start - dx * i :][:, :, :size, :size] for i in range(t)]
    return torch.stack(frames, dim=2)


def inner(values: Tensor) -> Tensor:
    return values[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


@pytest.mark.parametrize(("dx", "dy"), SHIFTS)
def test_flow_is_the_displacement_in_px(dx: int, dy: int) -> None:
    clips = panning(dx, dy)
    forward, backward = estimate_flow(clips), estimate_flow(clips, "backward")
    assert forward.shape == (1, 5, 2, 80, 80)
    assert forward.dtype == torch.float32
    expected = torch.tensor([float(dx), float(dy)]).view(2, 1, 1)
    assert (inner(forward) - expected).abs().mean() < 0.05
    assert (inner(backward) + expected).abs().mean() < 0.05


@pytest.mark.parametrize(("dx", "dy"), SHIFTS)
def test_warping_brings_neighbouring_frames_together(dx: int, dy: int) -> None:
    clips = panning(dx, dy)
    before, after = clips[:, :, :-1], clips[:, :, 1:]
    unwarped = inner(after - before).abs().mean()
    assert inner(warp(after, estimate_flow(clips)) - before).abs().mean() < 0.05 * unwarped
    assert inner(warp(before, estimate_flow(clips, "backward")) - after).abs().mean() < 0.05 * unwarped


def test_warp_looks_up_where_the_flow_points() -> None:
    frames = torch.arange(12.0).view(1, 1, 1, 3, 4)
    flow = torch.zeros(1, 1, 2, 3, 4)
    assert torch.allclose(warp(frames, flow), frames)
    flow[:, :, 0] = 1  # one px to the right
    assert torch.allclose(warp(frames, flow)[..., :-1], frames[..., 1:])
    assert torch.allclose(warp(frames, flow)[..., -1], frames[..., -1])  # the border goes on
    flow[:, :, 0], flow[:, :, 1] = 0, 0.5  # half a px down
    assert torch.allclose(warp(frames, flow)[..., 0, :], frames[..., 0, :] + 2)


def test_occlusion_finds_what_leaves_and_what_is_covered() -> None:
    flow = torch.zeros(1, 1, 2, 20, 30)
    flow[:, :, 0] = 4
    hidden = occlusion(flow, -flow)
    assert hidden.shape == (1, 1, 1, 20, 30)
    assert hidden[..., 26:].all()
    assert not hidden[..., :26].any()
    square = torch.zeros(1, 1, 2, 20, 30)
    square[:, :, 0, 5:15, 5:15] = 6  # a square jumps over what stands still
    back = torch.zeros_like(square)
    back[:, :, 0, 5:15, 11:21] = -6
    hidden = occlusion(square, back)[0, 0, 0]
    assert hidden[5:15, 15:21].all()
    assert not hidden[5:15, 5:15].any()
    assert not hidden[:4].any()


def test_flow_of_a_still_clip_is_exactly_zero_and_nothing_is_hidden() -> None:
    still = panning(0, 0)
    flow = estimate_flow(still)
    assert (flow == 0).all()
    assert not occlusion(flow, flow).any()


def test_direction_is_checked() -> None:
    with pytest.raises(ValueError, match="'forward' or 'backward', got 'sideways'"):
        estimate_flow(panning(0, 0), "sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 3, 1, 40, 40), (2, 3, 3, 4, 7), (1, 3, 2, 1, 1), (1, 3, 4, 17, 90)])
def test_frames_of_any_size(shape: tuple[int, ...]) -> None:
    clips = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    b, _, t, h, w = shape
    assert estimate_flow(clips).shape == (b, t - 1, 2, h, w)
    pattern = torch.randn(b, 2, h, w)
    carried = carry(pattern, clips)
    assert carried.shape == (b, 2, t, h, w)
    assert torch.equal(carried[:, :, 0], pattern)


@pytest.mark.parametrize(("dx", "dy"), SHIFTS)
def test_carried_noise_moves_with_the_picture(dx: int, dy: int) -> None:
    pattern = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(1))
    carried = carry(pattern, panning(dx, dy))
    for i in range(6):
        moved = torch.roll(pattern, (dy * i, dx * i), (2, 3))
        assert (inner(carried[:, :, i]) == inner(moved)).float().mean() > 0.98


def test_carried_noise_follows_an_object_over_a_still_background() -> None:
    clips = panning(0, 0, t=9, size=96)
    for i in range(9):
        clips[:, :, i, 30:70, 4 + 4 * i : 44 + 4 * i] = panning(0, 0, t=9, size=40)[:, :, 0].flip(-1)
    pattern = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    carried = carry(pattern, clips)
    # 32 px further on; away from the object's outline, where the flow is smoothed and the error
    # adds up over frames
    assert (carried[:, :, 8, 42:58, 48:64] == pattern[:, :, 42:58, 16:32]).float().mean() > 0.95
    assert (carried[:, :, 8, :20] == pattern[:, :, :20]).float().mean() > 0.95


def test_carried_noise_is_the_pattern_where_the_clip_stands_still() -> None:
    pattern = torch.randn(1, 3, 80, 80)
    carried = carry(pattern, panning(0, 0))
    assert torch.equal(carried, pattern[:, :, None].expand_as(carried))


def test_carried_noise_stays_standard_normal_and_is_the_same_every_time() -> None:
    clips = panning(3, -2)
    pattern = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(2))
    carried = carry(pattern, clips)
    assert torch.equal(carried, carry(pattern, clips))
    assert torch.isin(carried, pattern).all()  # copies, never averages
    assert carried[:, :, -1].std() == pytest.approx(1, abs=0.03)
    assert carried[:, :, -1].mean() == pytest.approx(0, abs=0.03)


def test_motion_of_one_clip_does_not_depend_on_its_batch() -> None:
    clips = torch.cat([panning(2, 1), panning(-3, 0)])
    assert torch.equal(estimate_flow(clips)[1:], estimate_flow(clips[1:]))
