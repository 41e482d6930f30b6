"""What the description of tubelets promises."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidmarl.agents.features import CHANNELS, NAMES, SMALLEST_COST, extract
from vidmarl.data import load_clips
from vidmarl.data.spec import ClipSpec
from vidmarl.distortions import GaussianBlur
from vidmarl.perturbations.flow import GREY
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import Renderer

GRID = TubeletGrid(1, 8, 8)


def flat(value: float = 0.5, t: int = 4, h: int = 32, w: int = 32) -> Tensor:
    return torch.full((1, 3, t, h, w), value)


def even(clips: Tensor, grid: TubeletGrid) -> Tensor:
    """All tubelets cost the same."""
    return torch.ones(len(clips), *grid.shape(clips))


def named(clips: Tensor, grid: TubeletGrid = GRID) -> dict[str, Tensor]:
    return dict(zip(NAMES, extract(clips, grid, even(clips, grid)).unbind(1), strict=True))


@pytest.mark.thorough
@settings(max_examples=40)
@given(
    grid=st.builds(TubeletGrid, st.integers(1, 5), st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 6), st.integers(1, 21), st.integers(1, 21)),
)
def test_any_grid_on_any_clip(grid: TubeletGrid, size: tuple[int, int, int]) -> None:
    clips = torch.rand(2, 3, *size)
    energy = torch.rand(2, *grid.shape(clips))
    features = extract(clips, grid, energy)
    assert features.shape == (2, CHANNELS, *grid.shape(clips))
    assert features.isfinite().all()
    assert torch.allclose(extract(clips[1:], grid, energy[1:]), features[1:], atol=1e-5)


def test_colour_and_thumbnail_of_a_cell() -> None:
    clips = flat(0.0)
    clips[:, 0, 2, 8:12, 20:24] = 1.0  # red, in the top right quarter of the cell (1, 2)
    found = named(clips)
    assert found["red"][0, 2, 1, 2] == pytest.approx(0.25)
    assert found["green"].abs().max() == 0
    assert found["top_right"][0, 2, 1, 2] == pytest.approx(GREY[0])
    for other in ("top_left", "bottom_left", "bottom_right"):
        assert found[other].abs().max() == 0
    assert (found["red"] > 0).sum() == 1


def test_thumbnail_of_a_ragged_cell_halves_what_is_there() -> None:
    clips = flat(0.0, h=8, w=12)  # the second cell is 4 px wide
    clips[..., 8:10] = 1.0
    found = named(clips)
    assert torch.allclose(found["top_left"][0, :, 0, 1], torch.tensor(1.0))
    assert torch.allclose(found["top_right"][0, :, 0, 1], torch.tensor(0.0))


def test_cells_of_one_pixel_have_four_equal_quarters() -> None:
    clips = torch.rand(1, 3, 2, 4, 4)
    found = named(clips, TubeletGrid(1, 1, 1))
    for quarter in ("top_left", "top_right", "bottom_left", "bottom_right"):
        assert torch.allclose(found[quarter], found["top_left"])


def test_gradients_tell_their_direction() -> None:
    stripes = flat()
    stripes[..., ::2] = 0.2
    upright, lying = named(stripes), named(stripes.transpose(-1, -2))
    assert upright["gradient_x"].min() > 1
    assert upright["gradient_y"].abs().max() < 1e-5
    assert torch.allclose(upright["gradient_x"], lying["gradient_y"].transpose(-1, -2), atol=1e-5)
    assert named(flat())["contrast"].abs().max() < 0.01
    assert upright["contrast"].min() > 0.3


def test_change_is_where_and_when_it_happens() -> None:
    clips = flat()
    clips[:, :, 2, :8, :8] = 0.9
    found = named(clips)
    before, after = found["change_before"][0, :, 0, 0] > 0, found["change_after"][0, :, 0, 0] > 0
    assert before.tolist() == [False, False, True, True]
    assert after.tolist() == [False, True, True, False]
    assert found["change_before"][0, :, 1:].abs().max() == 0


def test_motion_leaves_out_what_the_whole_frame_does() -> None:
    flicker = flat()
    flicker[:, :, 1::2] += 0.2
    assert named(flicker)["change_after"][0, :-1].min() > 0.5
    assert named(flicker)["motion"].abs().max() < 1e-5
    flicker[:, :, 1::2, 8:16, 8:16] += 0.2
    moving = named(flicker)["motion"]
    assert (moving[0, :, 1, 1] > 0.5).all()
    assert moving[0, :, 0].abs().max() < 1e-5


def test_places_run_from_border_to_border() -> None:
    found = named(flat(t=5, h=16, w=24))
    assert torch.allclose(found["x"][0, 0, 0], torch.tensor([-2 / 3, 0.0, 2 / 3]), atol=1e-6)
    assert torch.allclose(found["y"][0, 0, :, 0], torch.tensor([-0.5, 0.5]), atol=1e-6)
    assert torch.allclose(found["time"][0, :, 0, 0], torch.linspace(0, 1, 5))


def test_the_cost_of_a_tubelet_is_told_beside_those_of_its_clip() -> None:
    clips = torch.cat([flat(), flat()])
    energy = even(clips, GRID)
    energy[0, 1, 2, 3], energy[1] = 0, 7.0
    found = dict(zip(NAMES, extract(clips, GRID, energy).unbind(1), strict=True))["cost"]
    assert float(found[0, 1, 2, 3]) == pytest.approx(math.log(SMALLEST_COST))
    assert torch.allclose(found[0].flatten().median(), torch.tensor(64 / 63 + SMALLEST_COST).log())
    assert torch.allclose(found[1], torch.tensor(1 + SMALLEST_COST).log())
    assert extract(clips, GRID, 0 * energy).isfinite().all()  # a distortion that leaves a clip as it is


@pytest.mark.thorough
def test_natural_clips_have_features_of_about_unit_range(data_root: Path) -> None:
    files = sorted((data_root / "clips" / "ucf101").glob("*/*.avi"))[:12]
    clips = load_clips(files, ClipSpec(frames=16, sampling="stride"))
    grid = TubeletGrid()
    energy = Renderer(clips, GaussianBlur(sigma=2.0), grid).cell_energy(torch.arange(len(clips)))
    features = extract(clips, grid, energy)
    assert features.abs().amax() < 6
    spread = features.transpose(0, 1).flatten(1).std(1)
    told = dict(zip(NAMES, spread.tolist(), strict=True))
    assert 0.1 < told.pop("cost") < 2  # of blur
    assert all(0.1 < each < 1.5 for each in told.values()), told
