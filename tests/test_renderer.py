"""What the tubelet grid, the noise and the renderer promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidmarl.distortions import as_distortion
from vidmarl.distortions.base import Distortion, State
from vidmarl.distortions.dead_pixels import DeadPixels
from vidmarl.distortions.gaussian_blur import GaussianBlur
from vidmarl.distortions.gaussian_noise import GaussianNoise
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.noise import clip_seeds, draw_noise
from vidmarl.perturbations.renderer import Renderer, to_8bit

grids = st.builds(TubeletGrid, st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
sizes = st.tuples(st.integers(1, 7), st.integers(1, 20), st.integers(1, 20))


def random_clips(b: int, t: int = 4, h: int = 20, w: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(b, 3, t, h, w, generator=torch.Generator().manual_seed(seed))


def rising(*shape: int) -> Tensor:
    """All different numbers of [0, 1), so that a wrong place shows."""
    return torch.arange(torch.Size(shape).numel()).view(shape) / torch.Size(shape).numel()


@given(grid=grids, size=sizes)
def test_every_pixel_gets_the_strength_of_its_tubelet(grid: TubeletGrid, size: tuple[int, int, int]) -> None:
    t, h, w = size
    strength = rising(2, *grid.shape(torch.zeros(2, 3, t, h, w)))
    per_pixel = grid.expand(strength, t, h, w)
    assert per_pixel.shape == (2, 1, t, h, w)
    for place in ((0, 0, 0), (t - 1, h - 1, w - 1), (t // 2, h // 3, w // 2)):
        f, y, x = place
        expected = strength[:, f // grid.frames, y // grid.height, x // grid.width]
        assert torch.equal(per_pixel[:, 0, f, y, x], expected)


@given(grid=grids, size=sizes)
def test_pooling_undoes_expansion_on_ragged_grids_too(grid: TubeletGrid, size: tuple[int, int, int]) -> None:
    strength = rising(2, *grid.shape(torch.zeros(2, 3, *size)))
    assert torch.allclose(grid.pool(grid.expand(strength, *size))[:, 0], strength, atol=1e-5)


@pytest.mark.parametrize("sides", [(0, 16, 16), (1, -1, 16), (1, 16, 0)])
def test_a_grid_needs_cells(sides: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"(frames|height|width) must be a whole number from 1 to"):
        TubeletGrid(*sides)


def test_rounding_to_8_bits_is_idempotent_and_exact_on_bytes() -> None:
    every_byte = torch.arange(256) / 255
    assert torch.equal(to_8bit(every_byte), every_byte)
    once = to_8bit(torch.linspace(-0.5, 1.5, 999))
    assert torch.equal(to_8bit(once), once)
    assert once.min() == 0
    assert once.max() == 1


def test_seeds_depend_on_the_clip_and_the_seed_and_on_nothing_else() -> None:
    clips = to_8bit(random_clips(3))
    seeds = clip_seeds(clips, 7)
    assert len(set(seeds)) == 3
    assert clip_seeds(clips[[2, 0]], 7) == [seeds[2], seeds[0]]
    assert clip_seeds(clips, 8) != seeds
    assert len(clip_seeds(clips, -1)) == 3


@pytest.mark.parametrize("coherence", ["static", "flow", "free"])
def test_noise_is_standard_normal_and_belongs_to_its_clip(coherence: str) -> None:
    clips = random_clips(2, 4, 64, 64)
    noise = draw_noise(clips, coherence, [1, 2])  # type: ignore[arg-type]
    assert noise.shape == clips.shape
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(1, abs=0.03)
    assert torch.equal(draw_noise(clips[1:], coherence, [2])[0], noise[1])  # type: ignore[arg-type]
    assert not torch.equal(noise[0], noise[1])


def test_coherence_in_time() -> None:
    clips = random_clips(1)
    static, free = (draw_noise(clips, kind, [5]) for kind in ("static", "free"))  # type: ignore[arg-type]
    assert torch.equal(static[:, :, 1:], static[:, :, :-1])
    assert abs(torch.corrcoef(free[0, :, :2].transpose(0, 1).flatten(1))[0, 1]) < 0.1
    still = clips[:, :, :1].expand(-1, -1, 4, -1, -1)
    assert torch.equal(draw_noise(still, "flow", [5]), draw_noise(still, "static", [5]))
    with pytest.raises(ValueError, match="'static', 'flow' or 'free', got 'smooth'"):
        draw_noise(clips, "smooth", [5])  # type: ignore[arg-type]


def test_a_still_pattern_is_stored_as_one_frame() -> None:
    renderer = Renderer(random_clips(2), as_distortion("gaussian_noise"))
    renderer.render(renderer.zeros() + 1)
    noise = renderer._state["noise"]
    assert noise.stride(2) == 0
    assert noise.untyped_storage().nbytes() == noise[:, :, 0].numel() * 4


class Recorder(Distortion):
    """Shows what reaches a distortion: returns its state, and remembers its arguments."""

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        mean = clips.mean(dim=(1, 2, 3, 4), keepdim=True)
        return {
            "row": mean,
            "wide": mean.expand_as(clips),
            "own": noise + 0,
            "same": mean.new_ones(1).expand(len(clips)),
        }

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        self.seen = {key: value.shape for key, value in state.items()}
        return state["wide"] * state["same"].view(-1, 1, 1, 1, 1) + 0 * state["row"] * state["own"]


def test_states_of_any_layout_reach_the_distortion_row_by_row() -> None:
    clips, recorder = random_clips(3) * torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1, 1, 1), Recorder()
    renderer, rows = Renderer(clips, recorder), torch.tensor([2, 0, 2])
    out = renderer.render(torch.ones_like(renderer.zeros()), rows)
    expected = clips[rows].mean(dim=(1, 2, 3, 4), keepdim=True)
    assert torch.allclose(out, expected.expand_as(out), atol=1 / 255)
    assert recorder.seen["wide"][1:] == recorder.seen["own"][1:] == clips.shape[1:]
    assert renderer._state["wide"].untyped_storage().nbytes() == 3 * 4, "what is expanded is stored once"


@settings(max_examples=30)
@given(rows=st.lists(st.integers(0, 3), min_size=1, max_size=9), grid=grids)
def test_rendering_rows_is_rendering_each_alone(rows: list[int], grid: TubeletGrid) -> None:
    renderer = Renderer(random_clips(4), as_distortion("gaussian_noise"), grid)
    strength = 2 * torch.rand(len(rows), *renderer.shape) - 1
    together = renderer.render(strength, torch.tensor(rows))
    for i, row in enumerate(rows):
        assert torch.equal(together[i], renderer.render(strength[i : i + 1], torch.tensor([row]))[0])


@pytest.mark.thorough
@given(grid=grids, size=sizes, search_cell=st.integers(1, 4))
def test_each_tubelet_has_the_strength_of_its_cell(
    grid: TubeletGrid, size: tuple[int, int, int], search_cell: int
) -> None:
    renderer = Renderer(random_clips(2, *size), as_distortion("brightness"), grid, search_cell=search_cell)
    t, gh, gw = renderer.shape
    assert (
        renderer.coarse_shape
        == renderer.coarse.shape(renderer.clips)
        == (t, -(-gh // search_cell), -(-gw // search_cell))
    )
    cells = rising(2, *renderer.coarse_shape)
    fine = renderer.upsample(cells)
    assert fine.shape[1:] == renderer.shape
    y, x = torch.arange(gh) // search_cell, torch.arange(gw) // search_cell
    assert torch.equal(fine, cells[:, :, y[:, None], x])
    assert torch.equal(renderer.upsample(fine), fine), "a strength map stays itself"
    assert torch.equal(grid.expand(fine, *size), renderer.coarse.expand(cells, *size))


@settings(max_examples=30)
@given(grid=grids, size=sizes, search_cell=st.integers(1, 4))
def test_rendering_cells_is_rendering_their_tubelets(
    grid: TubeletGrid, size: tuple[int, int, int], search_cell: int
) -> None:
    renderer = Renderer(random_clips(2, *size), as_distortion("gaussian_noise"), grid, search_cell=search_cell)
    rows = torch.tensor([1, 0, 1])
    cells = 2 * torch.rand(3, *renderer.coarse_shape) - 1
    seen = renderer.render(cells, rows)
    assert torch.equal(seen, renderer.render(renderer.upsample(cells), rows))
    coarse = Renderer(renderer.clips, as_distortion("gaussian_noise"), renderer.coarse)
    assert torch.equal(seen, coarse.render(cells, rows)), "a renderer of the cells alone shows the same"


@pytest.mark.parametrize("search_cell", [0, -1])
def test_cells_need_a_tubelet(search_cell: int) -> None:
    with pytest.raises(ValueError, match=f"at least one tubelet wide, got search_cell={search_cell}"):
        TubeletGrid().coarser(search_cell)
    with pytest.raises(ValueError, match="at least one tubelet"):
        Renderer(random_clips(1), as_distortion("brightness"), search_cell=search_cell)


@pytest.mark.parametrize("value", [1.01, -1.01, float("nan"), float("inf")])
def test_strengths_outside_the_range_are_refused(value: float) -> None:
    renderer = Renderer(random_clips(1), as_distortion("gaussian_noise"))
    strength = renderer.zeros()
    strength[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"Rendering GaussianNoise: expected strengths in \[-1, 1\]"):
        renderer.render(strength)


def test_a_distortion_cannot_reach_beyond_its_tubelets() -> None:
    renderer = Renderer(
        random_clips(1), as_distortion(lambda clips, strength, noise: 1 - clips), TubeletGrid(2, 10, 12)
    )
    strength = renderer.zeros()
    strength[0, 0, 0, 1] = 0.1
    out = renderer.render(strength)
    touched = torch.zeros_like(out, dtype=torch.bool)
    touched[:, :, :2, :10, 12:] = True
    assert torch.equal(out[~touched], renderer.clips[~touched])
    assert torch.equal(out[touched], to_8bit(1 - renderer.clips)[touched])


def test_the_callers_clips_are_left_alone() -> None:
    clips = to_8bit(random_clips(2))
    before = clips.clone()
    renderer = Renderer(clips, as_distortion("brightness"))
    renderer.render(renderer.zeros() + 1)
    assert torch.equal(clips, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["gaussian_noise", "dead_pixels", "frame_shuffle", "jpeg", "gaussian_blur", "glare"])
def test_a_gpu_renders_what_the_cpu_renders(name: str) -> None:
    clips = random_clips(3)
    here, there = (Renderer(clips.to(device), as_distortion(name)) for device in ("cpu", "cuda"))
    strength = torch.rand(3, *here.shape)
    rows = torch.tensor([2, 0, 2])
    assert torch.allclose(
        here.render(strength, rows), there.render(strength.cuda(), rows.cuda()).cpu(), atol=1.01 / 255
    )


@pytest.mark.parametrize("distortion", [GaussianNoise(std=0.3), GaussianBlur(sigma=2.0), DeadPixels(rate=0.05)])
def test_the_energies_of_tubelets_add_up_to_the_squared_norm(distortion: Distortion) -> None:
    clips = torch.rand(2, 3, 5, 18, 20, generator=torch.Generator().manual_seed(0))
    renderer, coarse = (Renderer(clips, distortion, TubeletGrid(2, 4, 4), search_cell=cell) for cell in (1, 2))
    for row in range(2):
        energy = renderer.energy(row)
        assert energy.shape == renderer.shape
        cells = coarse.cell_energy(torch.tensor([1 - row, row]))[1]
        assert cells.shape == coarse.coarse_shape
        of_tubelets = float(energy[0, :2, :2].sum())  # each in its own direction, a cell in one
        least = 0.9 if renderer.min_strength else 1 - 1e-5
        assert least * of_tubelets <= float(cells[0, 0, 0]) <= of_tubelets * (1 + 1e-5)
        full = [
            renderer.render(torch.full((1, *renderer.shape), end), torch.tensor([row]))
            for end in {renderer.min_strength or 1.0, 1.0}
        ]
        squared = [(clip[0] - renderer.clips[row]).square() for clip in full]
        for each in squared:
            changed = renderer.grid.pool(each.sum(0)[None, None])[0, 0] > 0
            assert (energy[changed] > 0).all()
            assert float(energy.sum()) >= float(each.sum()) * (1 - 1e-5)
        if renderer.min_strength == 0:
            assert float(energy.sum()) == pytest.approx(float(squared[0].sum()), rel=1e-5)
            assert torch.equal(energy > 0, changed)
