"""Sensitivity maps: what is asked is counted, what is found is true, and how far off it may be is
said."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d

import vidmarl
from vidmarl.attacks.sensitivity.posterior import MOST_CELLS, OWN, alike, choose, prior
from vidmarl.errors import SettingsError

SHAPE = (4, 5, 6)
"""Cells of the clips: 4 frames of 20 x 24 px, in cells of 4 px."""


def brighter(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    return clips + 0.2 * strength


def brighter_on_the_left(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    return clips + 0.2 * strength * (torch.arange(clips.shape[-1]) < 12)


class Weighted(nn.Module):
    """Two classes; the margin of the first falls by a weight for each cell that is brighter."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, clips: Tensor) -> Tensor:
        cells = avg_pool3d(clips.mean(1, keepdim=True), (1, 4, 4))[:, 0]
        fall = ((cells - 0.4) / 0.2 * self.weights).flatten(1).sum(1)
        return torch.stack([5 - fall, torch.zeros_like(fall)], 1)


def victim_of(weights: Tensor) -> vidmarl.Victim:
    return vidmarl.Victim(Weighted(weights))


def flat_clips(b: int = 1) -> Tensor:
    """Clips of one grey each; the differences tell their seeds apart."""
    clips = torch.full((b, 3, 4, 20, 24), 102 / 255)
    clips[:, :, 0, 0, 0] += torch.arange(b).view(-1, 1) / 255
    return clips


def measure(weights: Tensor, budget: int, clips: Tensor | None = None, **how: Any) -> Any:
    clips = flat_clips() if clips is None else clips
    return vidmarl.sensitivity(victim_of(weights), clips, brighter, budget, grid=4, progress=False, **how)


def smooth(seed: int = 0) -> Tensor:
    """Effects that neighbours share."""
    rng = torch.Generator().manual_seed(seed)
    covariance = prior(torch.ones(SHAPE)).double()
    drawn = torch.randn(len(covariance), generator=rng).double()
    return (torch.linalg.cholesky(covariance) @ drawn).float().view(SHAPE)


@pytest.mark.thorough
@settings(max_examples=20)
@given(budget=st.integers(2, 140), method=st.sampled_from(["posterior", "rise", "occlusion"]))
def test_every_query_is_counted_and_none_is_beyond_the_budget(budget: int, method: str) -> None:
    victim = victim_of(smooth())
    found = vidmarl.sensitivity(victim, flat_clips(2), brighter, budget, grid=4, method=method, progress=False)
    assert int(found.queries.sum()) == victim.queries
    assert (found.queries <= budget).all()
    if method == "posterior":
        assert found.queries.tolist() == [min(budget, 120 + 1)] * 2
    if method == "rise":
        assert found.queries.tolist() == [budget] * 2


@pytest.mark.thorough
def test_with_a_query_for_every_cell_the_map_is_exact() -> None:
    weights = smooth()
    found = measure(weights, 121)
    assert torch.allclose(found.map[0], weights, atol=2e-3)
    assert found.std.max() == 0
    assert torch.allclose(found.spatial[0], weights.mean(0), atol=2e-3)
    assert torch.allclose(found.temporal[0], weights.mean((1, 2)), atol=2e-3)
    assert max(found.spatial_std.max(), found.temporal_std.max()) < 1e-5
    assert found.margin.tolist() == pytest.approx([5], abs=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("frame", range(4))
def test_a_victim_that_looks_at_one_frame_is_found_out(frame: int) -> None:
    weights = torch.zeros(SHAPE)
    weights[frame] = 0.1
    found = measure(weights, 25)
    assert int(found.temporal[0].argmax()) == frame
    others = [t for t in range(4) if t != frame]
    assert found.temporal[0, frame] > 1.5 * found.temporal[0, others].max()


@pytest.mark.thorough
@pytest.mark.parametrize("cell", [(0, 0, 0), (2, 3, 1)])
@pytest.mark.parametrize("method", ["posterior", "occlusion"])
def test_a_victim_that_looks_at_one_cell_is_found_out(cell: tuple[int, int, int], method: str) -> None:
    weights = torch.zeros(SHAPE)
    weights[cell] = 1.0
    found = measure(weights, 121, method=method)
    assert torch.unravel_index(found.map[0].argmax(), SHAPE) == cell
    assert float(found.map[0][cell]) == pytest.approx(1, abs=0.01)


def test_a_place_that_matters_in_every_frame_shows_in_the_spatial_map() -> None:
    weights = torch.zeros(SHAPE)
    weights[:, 1, 4] = 0.5
    found = measure(weights, 60)
    assert divmod(int(found.spatial[0].argmax()), 6) == (1, 4)


def test_more_queries_leave_less_unknown() -> None:
    found = [measure(smooth(), budget) for budget in (8, 30, 90)]
    for name in ("std", "spatial_std", "temporal_std"):
        means = [float(getattr(one, name).mean()) for one in found]
        assert means[0] > means[1] > means[2] > 0, name
    assert [int((one.std == 0).sum()) for one in found] == [7, 29, 89]


@pytest.mark.thorough
def test_it_is_as_far_off_as_it_says() -> None:
    off, where, when = [], [], []
    for seed in range(12):
        weights = smooth(seed)
        found = measure(weights, 40)
        off.append(((found.map[0] - weights) / found.std[0])[found.std[0] > 0])
        where.append(((found.spatial[0] - weights.mean(0)) / found.spatial_std[0]).flatten())
        when.append((found.temporal[0] - weights.mean((1, 2))) / found.temporal_std[0])
    for values in map(torch.cat, (off, where, when)):
        assert 0.75 < float(values.square().mean().sqrt()) < 1.25


@pytest.mark.thorough
def test_a_map_of_few_queries_is_near_the_truth() -> None:
    for seed in range(3):
        weights = smooth(seed)
        found = measure(weights, 40)
        assert torch.corrcoef(torch.stack([found.map[0].flatten(), weights.flatten()]))[0, 1] > 0.6


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["posterior", "rise", "occlusion"])
def test_a_clip_does_not_depend_on_the_clips_beside_it(method: str) -> None:
    together = measure(smooth(), 20, flat_clips(3), method=method)
    alone = measure(smooth(), 20, flat_clips(3)[2:], method=method)
    for name in ("map", "std", "spatial_std", "temporal_std"):
        assert torch.equal(getattr(together, name)[2:].nan_to_num(-1), getattr(alone, name).nan_to_num(-1))
    again = measure(smooth(), 20, flat_clips(3), method=method)
    assert torch.equal(together.map, again.map)


def test_what_the_distortion_leaves_alone_is_known_for_nothing() -> None:
    victim = victim_of(torch.ones(SHAPE) / 20)
    found = vidmarl.sensitivity(victim, flat_clips(), brighter_on_the_left, 100, grid=4, progress=False)
    assert found.queries.tolist() == [1 + 4 * 5 * 3]
    assert found.map[..., 3:].abs().max() == found.std.max() == 0
    assert found.map[..., :3].min() > 0.04


def test_search_cells_are_the_cells_of_the_map() -> None:
    found = measure(torch.ones(SHAPE) / 20, 200, search_cell=2)
    assert found.map.shape == (1, 4, 3, 3)
    assert found.queries.tolist() == [37]
    assert float(found.map[0, 0, 0, 0]) == pytest.approx(4 / 20, abs=1e-2)
    assert float(found.map[0, 0, 2, 0]) == pytest.approx(2 / 20, abs=1e-2)  # cut by the border


def test_a_clip_whose_goal_holds_has_no_map() -> None:
    found = measure(torch.ones(SHAPE) / 20, 20, flat_clips(2), goal=vidmarl.Misclassify([0, 1]))
    assert found.queries.tolist() == [20, 1]
    assert found.map[0].isfinite().all()
    for name in ("map", "std", "spatial", "spatial_std", "temporal", "temporal_std"):
        assert getattr(found, name)[1].isnan().all()


def test_of_a_target_the_other_sign_counts() -> None:
    found = measure(torch.ones(SHAPE) / 20, 121, goal=vidmarl.Target(1))
    assert torch.allclose(found.map, torch.full_like(found.map, 1 / 20), atol=2e-3)


def test_the_result_says_what_it_is() -> None:
    found = measure(smooth(), 10, flat_clips(2))
    assert repr(found) == "Sensitivity(posterior: 2 clips of 4 x 5 x 6 cells, 20 queries)"
    assert len(found) == 2
    assert {"method", "budget", "distortion", "grid", "seed", "victim"} <= found.settings.keys()
    assert found.clips.shape == (2, 3, 4, 20, 24)


def test_what_is_left_unknown_is_that_of_a_gaussian_that_is_known_in_part() -> None:
    covariance = prior(torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(0)))
    cells, columns = choose(covariance, 7, torch.Generator().manual_seed(0))
    assert len(set(cells.tolist())) == 7
    across = covariance[:, cells].double()
    expected = covariance.double() - across @ torch.linalg.solve(across[cells], across.T)
    assert torch.allclose(covariance - columns @ columns.T, expected, atol=1e-6)


def test_the_chosen_cells_tell_more_than_random_ones() -> None:
    covariance = prior(torch.ones(6, 5, 5))
    rng = torch.Generator().manual_seed(0)
    _, columns = choose(covariance, 15, rng)
    for _ in range(10):
        some = torch.randperm(150, generator=rng)[:15]
        across = covariance[:, some]
        random = covariance - across @ torch.linalg.solve(across[some], across.T)
        assert (covariance - columns @ columns.T).trace() < random.trace()


def test_each_cell_is_the_one_that_leaves_the_least_variance() -> None:
    covariance = prior(torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))).double()
    cells, _ = choose(covariance.float(), 12, torch.Generator().manual_seed(0))
    left = covariance
    for cell in cells.tolist():
        removed = left.square().sum(0) / left.diagonal().clamp_min(1e-9)
        assert removed[cell] > 0.997 * removed[left.diagonal() > 1e-6].max()
        left = left - torch.outer(left[cell], left[cell]) / left[cell, cell]


def test_neighbours_are_less_alike_with_distance_and_alike_on_both_sides() -> None:
    every = alike(5, 7, 7)
    assert torch.equal(every, every.T)
    told = every.view(5, 7, 7, 5, 7, 7)[2, 3, 3]
    assert told[2, 3, 3] == pytest.approx(1)
    for line in (told[:, 3, 3], told[2, :, 3], told[2, 3, :]):
        assert torch.allclose(line, line.flip(0))
        middle = len(line) // 2
        assert (line[middle:].diff() < 0).all()
        assert line.min() > 0
        assert line[middle + 1] < 1 - OWN  # the cell has something of its own
    assert torch.allclose(told, told.transpose(1, 2))


def smooth_truth(seed: int) -> Tensor:
    """The effects of cells as they are: a bump somewhere, and every cell's own part."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(8.0), torch.arange(8.0), indexing="ij"))
    centre = torch.rand(3, 1, 1, 1, generator=generator) * 6
    bump = (-(place - centre).square().sum(0) / 8).exp()
    return (bump + 0.1 * torch.randn(6, 8, 8, generator=generator)).flatten()


@pytest.mark.parametrize("seed", range(3))
def test_single_cells_tell_more_than_of_themselves(seed: int) -> None:
    truth, every = smooth_truth(seed), alike(6, 8, 8)
    known, unseen = torch.randperm(384, generator=torch.Generator().manual_seed(seed)).split([40, 344])
    told = every[:, known] @ torch.linalg.solve(every[known][:, known], truth[known])
    assert torch.allclose(told[known], truth[known], atol=1e-3)
    error = (told - truth)[unseen].square().mean()
    assert error < 0.7 * truth[unseen].square().mean()


def test_the_prior_is_a_covariance() -> None:
    covariance = prior(torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(covariance, covariance.T, atol=1e-6)
    assert float(covariance.diagonal().mean()) == pytest.approx(1, rel=1e-4)
    assert torch.linalg.eigvalsh(covariance.double()).min() > 0


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"method": "lime"}, ValueError, "method must be one of posterior, rise, occlusion, got 'lime'"),
        ({"method": 3}, SettingsError, "method"),
        ({"budget": 1}, ValueError, "budget must be at least 2, got 1"),
        ({"budget": 5.5}, SettingsError, "budget must be a whole number"),
        ({"distortion": "rain"}, vidmarl.errors.UnknownNameError, "rain"),
        ({"coherence": "loose"}, ValueError, "coherence must be"),
        ({"search_cell": 0}, ValueError, "search_cell=0"),
        ({"goal": [0, 1]}, ValueError, "one class for each of the 1 clips"),
        ({"clips": torch.zeros(3, 4, 20, 24)}, vidmarl.errors.ClipError, "b 3 t h w"),
        ({"victim": Weighted(torch.zeros(SHAPE))}, TypeError, r"Wrap it: Victim\(model\)"),
    ],
)
def test_mistakes_are_explained(how: dict[str, Any], error: type[Exception], says: str) -> None:
    right = {"victim": victim_of(torch.zeros(SHAPE)), "clips": flat_clips(), "grid": 4, "progress": False}
    with pytest.raises(error, match=says):
        vidmarl.sensitivity(**{**right, **how})


def test_more_cells_than_memory_allows_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"at most 8,192 search cells.*search_cell=2"):
        prior(torch.ones(MOST_CELLS + 1, 1, 1))


@pytest.mark.parametrize("method", ["posterior", "rise"])
def test_the_figure_has_a_band_where_it_is_known(method: str) -> None:
    found = measure(smooth(), 20, flat_clips(2), method=method)
    figure = found.plot(1)
    [heat] = figure.select_traces({"type": "heatmap"})
    assert torch.allclose(torch.tensor(heat.z), found.spatial[1].double())
    bands = list(figure.select_traces({"fill": "toself"}))
    assert len(bands) == (method == "posterior")
    if bands:
        top = torch.tensor(bands[0].y)[:4]
        assert torch.allclose(top, (found.temporal[1] + 2 * found.temporal_std[1]).double())
    assert len(figure.to_json()) < 200_000
    with pytest.raises(IndexError, match="there are 2 clips, and none of the index 2"):
        found.plot(2)


def test_the_figure_of_a_clip_without_a_map_can_be_drawn() -> None:
    measure(torch.zeros(SHAPE), 5, goal=1).plot()


def test_nothing_is_imported_before_it_is_used() -> None:
    assert importlib.import_module("vidmarl.attacks.sensitivity.measure").sensitivity is vidmarl.sensitivity
    assert not {"sensitivity", "measure"} & set(vidmarl.list_attacks())
