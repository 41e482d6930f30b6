"""The metrics: closed forms, tiny cases that can be checked by hand, and properties."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
import warnings
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidmarl import metrics
from vidmarl.data.paths import data_root
from vidmarl.data.spec import ClipSpec
from vidmarl.data.video import load_clips
from vidmarl.errors import CheckpointError
from vidmarl.metrics import Column, perceptual, visible_difference
from vidmarl.metrics import column as column_module
from vidmarl.metrics.column import number, percent
from vidmarl.metrics.lpips_network import STLPIPS, WEIGHTS
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import to_8bit


@dataclasses.dataclass(frozen=True)
class Attacked:
    """An attack's outcome written down by hand, one pixel a clip."""

    success: Tensor
    skipped: Tensor
    queries: Tensor
    clean: Tensor
    adversarial: Tensor
    strength: Tensor
    classes: Tensor
    prediction: Tensor
    adversarial_prediction: Tensor
    full_l2: Tensor
    history: dict[str, Tensor]
    settings: dict[str, Any]


def outcome(margins: list[list[float]], norms: list[list[float]], full: float = 9.0) -> Attacked:
    """What an attack with these margins and norms, query by query, comes to. A clip that starts
    below 0 is skipped."""
    longest = max(map(len, margins))
    pad = [[math.nan] * (longest - len(row)) for row in margins]
    margin = torch.tensor([row + more for row, more in zip(margins, pad, strict=True)])
    l2 = torch.tensor([row + more for row, more in zip(norms, pad, strict=True)])
    skipped = margin[:, 0] < 0
    n = len(margins)
    clips = to_8bit(torch.rand(n, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    return Attacked(
        success=(margin < 0).any(1) & ~skipped,
        skipped=skipped,
        queries=torch.tensor([len(row) for row in margins]),
        clean=clips,
        adversarial=clips.flip(-1),
        strength=torch.ones(n, 1, 1, 1),
        classes=torch.zeros(n, dtype=torch.int64),
        prediction=torch.zeros(n, dtype=torch.int64),
        adversarial_prediction=torch.ones(n, dtype=torch.int64),
        full_l2=torch.full((n,), full),
        history={"margin": margin, "l2": l2, "score": -margin},
        settings={"budget": longest},
    )


HAND = outcome(
    margins=[
        [1.0, 0.5, -0.1, -0.2, 0.1, -0.3],  # first fooled by query 3, then made smaller, then larger
        [1.0, 0.8, 0.9],  # never fooled, gave up after 3
        [-1.0],  # wrong from the start
        [1.0, -0.5],  # fooled by query 2
    ],
    norms=[[0.0, 5.0, 4.0, 2.0, 1.0, 3.0], [0.0, 5.0, 6.0], [0.0], [0.0, 7.0]],
)


def pair(change: float = 0.2) -> tuple[Tensor, Tensor]:
    """Grey clips [2 3 4 32 32]; of the second, a block of 2 frames x 16 x 16 px has `change` added
    to its red."""
    clean = torch.full((2, 3, 4, 32, 32), 0.4)
    adversarial = clean.clone()
    adversarial[1, 0, 1:3, :16, :16] += change
    return clean, adversarial


@pytest.fixture
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    metrics.columns()
    monkeypatch.setattr(column_module, "_METRICS", dict(column_module._METRICS))


class TestOfPerturbations:
    def test_norms_of_a_known_block(self) -> None:
        values = metrics.perturbation_metrics(*pair(0.2))
        pixels = 2 * 16 * 16
        assert values["l0"].tolist() == [0, pixels]
        assert values["l2"][1] == pytest.approx(0.2 * math.sqrt(pixels))
        assert values["linf"][1] == pytest.approx(0.2)
        assert values["map"][1] == pytest.approx(255 * 0.2 * pixels / (3 * 4 * 32 * 32))
        assert values["map_support"][1] == pytest.approx(255 * 0.2 / 3)
        assert values["frames"].tolist() == [0, 0.5]
        assert values["cells"].tolist() == [0, 2 / 16]

    def test_an_untouched_clip_is_at_the_best_of_every_scale(self) -> None:
        values = {name: float(v[0]) for name, v in metrics.perturbation_metrics(*pair()).items()}
        assert values.pop("ssim") == pytest.approx(1)
        assert values.pop("psnr") == math.inf
        assert set(values.values()) == {0.0}

    def test_psnr_is_that_of_the_touched_frames(self) -> None:
        mean_square = 0.2**2 * 256 / (3 * 32 * 32)
        assert metrics.psnr(*pair(0.2))[1] == pytest.approx(-10 * math.log10(mean_square))

    def test_ssim_of_a_constant_shift_of_a_constant_frame(self) -> None:
        a, b, c1 = 0.4, 0.6, 0.01**2
        clean = torch.full((1, 3, 2, 24, 24), a)
        expected = (2 * a * b + c1) / (a * a + b * b + c1)  # no variance: only the luminance term is left
        assert metrics.ssim(clean, torch.full_like(clean, b))[0] == pytest.approx(expected, abs=1e-3)

    def test_frames_below_the_window_have_no_ssim(self) -> None:
        clean = torch.rand(1, 3, 2, 8, 8)
        assert metrics.ssim(clean, clean).isnan().all()

    def test_flicker_of_known_courses(self) -> None:
        clean = torch.zeros(3, 3, 5, 8, 8)
        course = torch.tensor([[1.0, 1, 1, 1, 1], [0, 1, 2, 3, 4], [0, 1, 0, 1, 0]]) / 10
        adversarial = clean + course[:, None, :, None, None]
        assert metrics.flicker(clean, adversarial).tolist() == pytest.approx([0, 0.01, 0.01])
        assert metrics.flicker2(clean, adversarial).tolist() == pytest.approx([0, 0, 0.04], abs=1e-7)

    @pytest.mark.thorough
    @given(scale=st.floats(0.01, 1.0))
    def test_the_share_that_flickers_does_not_depend_on_the_norm(self, scale: float) -> None:
        clean = torch.zeros(3, 3, 4, 8, 8)
        course = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [0, 1, 0, 0]]) * scale / 2
        adversarial = clean + 0.5 + course[:, None, :, None, None]
        shares = metrics.perturbation_metrics(clean + 0.5, adversarial)["flicker_share"]
        # still; the largest there is; one frame of four: two steps of three, over a quarter of the
        # frames
        assert shares.tolist() == pytest.approx([0, 4, 8 / 3], rel=1e-3)

    @pytest.mark.parametrize("frames", [1, 2])
    def test_short_clips_have_defined_time_metrics(self, frames: int) -> None:
        clean = torch.full((2, 3, frames, 32, 32), 0.5)
        values = metrics.perturbation_metrics(clean, clean + 0.1)
        assert values["flicker"].tolist() == [0, 0]
        assert values["flicker2"].tolist() == [0, 0]
        assert metrics.warping_error(clean, clean + 0.1).tolist() == pytest.approx([0, 0], abs=1e-9)

    def test_cells_come_from_the_map_where_there_is_one(self) -> None:
        strength = torch.zeros(2, 4, 2, 2)
        strength[0, 0, 0, 0] = -0.5
        assert metrics.cells_touched(*pair(), strength).tolist() == [1 / 16, 0]
        assert metrics.cells_touched(*pair(), grid=TubeletGrid(4, 32, 32)).tolist() == [0, 1]

    def test_shapes_that_differ_are_refused(self) -> None:
        with pytest.raises(ValueError, match="of one shape"):
            metrics.perturbation_metrics(torch.rand(1, 3, 2, 8, 8), torch.rand(2, 3, 2, 8, 8))

    @pytest.mark.thorough
    @settings(max_examples=25)
    @given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 1), frames=st.integers(1, 5))
    def test_relations_between_the_norms(self, seed: int, scale: float, frames: int) -> None:
        random = torch.Generator().manual_seed(seed)
        clean = to_8bit(torch.rand(2, 3, frames, 12, 14, generator=random))
        noise = scale * torch.randn(clean.shape, generator=random) * (torch.rand(clean.shape, generator=random) < 0.3)
        adversarial = to_8bit(clean + noise)
        v = metrics.perturbation_metrics(clean, adversarial)
        assert (v["linf"] <= v["l2"] + 1e-6).all()
        assert (v["l2"] <= v["linf"] * (3 * v["l0"]).sqrt() + 1e-5).all()
        assert (v["map"] <= v["map_support"] + 1e-4).all()
        assert (v["map_support"] <= 255 * v["linf"] + 1e-3).all()
        assert (v["flicker2"] <= 4 * v["flicker"] * max(frames - 1, 1) / max(frames - 2, 1) + 1e-6).all()
        back = metrics.perturbation_metrics(adversarial, clean)
        for name in ("l0", "l2", "linf", "map", "ssim", "psnr", "flicker"):
            assert torch.allclose(v[name], back[name], atol=1e-4), name

    @settings(max_examples=10)
    @given(seed=st.integers(0, 2**31))
    def test_a_clip_does_not_depend_on_its_batch(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        clean = torch.rand(3, 3, 3, 16, 16, generator=random)
        adversarial = torch.rand(3, 3, 3, 16, 16, generator=random)
        together = metrics.perturbation_metrics(clean, adversarial)
        alone = metrics.perturbation_metrics(clean[1:2], adversarial[1:2])
        for name, value in alone.items():
            assert torch.allclose(together[name][1:2], value, atol=1e-5), name


class TestWarpingError:
    def moving(self, frames: int = 4) -> Tensor:
        """A smooth texture that moves 2 px a frame to the right."""
        random = torch.Generator().manual_seed(1)
        texture = torch.nn.functional.interpolate(
            torch.rand(1, 3, 16, 24, generator=random), scale_factor=6, mode="bicubic"
        )
        shots = [texture[..., 16:80, 40 - 2 * i : 104 - 2 * i] for i in range(frames)]
        return torch.stack(shots, 2).clamp(0, 1)

    def test_what_moves_with_the_clip_costs_less_than_what_stands_still_or_flickers(self) -> None:
        clean = self.moving()
        pattern = 0.1 * torch.randn(1, 3, 1, 64, 64 + 6, generator=torch.Generator().manual_seed(0))
        carried = torch.cat([pattern[..., 6 - 2 * i : 70 - 2 * i] for i in range(4)], 2)
        still = pattern[..., :64].expand_as(clean)
        free = 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
        errors = [float(metrics.warping_error(clean, clean + delta)) for delta in (0 * clean, carried, still, free)]
        assert errors[0] < errors[1] < 0.5 * errors[2]
        assert errors[1] < 0.5 * errors[3]

    def test_a_still_clip_has_no_error_and_flicker_shows(self) -> None:
        clean = self.moving()[:, :, :1].expand(-1, -1, 4, -1, -1)
        video = clean.clone()
        video[:, :, 1::2] += 0.1
        assert float(metrics.warping_error(clean, clean)) == pytest.approx(0, abs=1e-9)
        assert float(metrics.warping_error(clean, video)) == pytest.approx(0.01, rel=1e-3)


WEIGHT_FILE = data_root() / "weights" / WEIGHTS
needs_weights = pytest.mark.skipif(not WEIGHT_FILE.is_file(), reason=f"VIDMARL_DATA has no weights/{WEIGHTS}")


class TestSTLPIPS:
    @pytest.fixture(scope="class")
    def network(self) -> STLPIPS:
        return STLPIPS.from_file(WEIGHT_FILE)

    @pytest.fixture(scope="class")
    def scene(self) -> Tensor:
        """Four frames [4 3 96 97] of a film."""
        path = next(iter(sorted((data_root() / "clips" / "ucf101").glob("*/*.avi"))), None)
        if path is None:
            pytest.skip("VIDMARL_DATA has no clips/ucf101")
        return load_clips(path, ClipSpec(frames=4, size=(96, 97)))[0].transpose(0, 1)

    @pytest.mark.thorough
    @needs_weights
    def test_zero_for_equal_pictures_and_symmetric(self, network: STLPIPS, scene: Tensor) -> None:
        other = scene.flip(-1)
        assert network(scene, scene).tolist() == [0] * 4
        assert torch.allclose(network(scene, other), network(other, scene))
        assert (network(scene, other) > 0.1).all()

    @pytest.mark.thorough
    @needs_weights
    def test_grows_with_noise(self, network: STLPIPS, scene: Tensor) -> None:
        noise = torch.randn(scene.shape, generator=torch.Generator().manual_seed(1))
        steps = torch.stack([network(scene, (scene + std * noise).clamp(0, 1)) for std in (0.01, 0.03, 0.1, 0.3)])
        assert (steps.diff(dim=0) > 0).all()
        assert (steps[0] < 0.1).all()
        assert (steps[-1] > 0.4).all()

    @pytest.mark.thorough
    @needs_weights
    def test_forgives_a_shift_by_one_pixel(self, network: STLPIPS, scene: Tensor) -> None:
        here, there = scene[..., :96], scene[..., 1:]
        std = (here - there).square().mean((1, 2, 3), keepdim=True).sqrt()
        noise = std * torch.randn(here.shape, generator=torch.Generator().manual_seed(1))
        assert (network(here, there) < 0.1 * network(here, (here + noise).clamp(0, 1))).all()

    @pytest.mark.thorough
    @needs_weights
    def test_only_the_frames_that_differ_count(self, network: STLPIPS, scene: Tensor) -> None:
        clean = scene.transpose(0, 1)[None]
        adversarial = clean.clone()
        adversarial[:, :, 2] = adversarial[:, :, 2].flip(-1)
        values = metrics.perturbation_metrics(clean, adversarial, slow=True)
        assert torch.allclose(values["stlpips"], network(scene[2:3], scene[2:3].flip(-1)) / 4)
        assert {"warping", "warping_clean"} <= values.keys()

    def test_left_out_with_the_reason_said_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VIDMARL_DATA", str(tmp_path))
        perceptual._stlpips.cache_clear()
        clips = torch.rand(1, 3, 2, 32, 32)
        try:
            with pytest.warns(UserWarning, match=r"ST-LPIPS is left out.*VIDMARL_DATA"):
                first = metrics.perturbation_metrics(clips, clips, slow=True)
            with warnings.catch_warnings(action="error"):
                second = metrics.perturbation_metrics(clips, clips, slow=True)
        finally:
            perceptual._stlpips.cache_clear()
        assert "stlpips" not in first
        assert first.keys() == second.keys()

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
        (tmp_path / "text.pth").write_text("no weights")
        for name in ("other.pth", "text.pth"):
            with pytest.raises(CheckpointError, match="Loading ST-LPIPS"):
                STLPIPS.from_file(tmp_path / name)


def grating(cycles: float, frames: int = 4, side: int = 108) -> Tensor:
    """A grey clip [1 3 t h w] with an upright sine of amplitude 0.01, standing still."""
    wave = 0.5 + 0.01 * torch.sin(torch.arange(side) / side * cycles * 2 * math.pi)
    return wave.expand(1, 3, frames, side, side).contiguous()


class Viewer:
    """Stands for `pycvvdp`: writes down what it is shown, and how."""

    def __init__(self) -> None:
        self.geometry: list[dict[str, Any]] = []
        self.shown: list[tuple[tuple[int, ...], dict[str, Any]]] = []
        self.pix_per_deg = 40.0

    def cvvdp(self, **how: Any) -> Viewer:
        self.how = how
        return self

    def vvdp_display_geometry(self, resolution: tuple[int, int], ppd: float) -> float:
        return ppd

    def set_display_model(self, name: str, display_geometry: float) -> None:
        self.geometry.append({"name": name, "ppd": display_geometry})

    def predict(self, test: Tensor, reference: Tensor, **how: Any) -> tuple[Tensor, None]:
        self.shown.append((tuple(test.shape), how))
        return 10 - 100 * (test - reference).abs().mean(), None


class TestJOD:
    @pytest.fixture
    def viewer(self, monkeypatch: pytest.MonkeyPatch) -> Viewer:
        viewer = Viewer()
        monkeypatch.setattr(visible_difference, "_package", lambda: viewer)
        return viewer

    def test_all_clips_are_looked_at_alike(self, viewer: Viewer) -> None:
        for height, width in ((54, 80), (216, 108)):
            clean = torch.zeros(3, 3, 2, height, width)
            adversarial = clean.clone()
            adversarial[1:] += 0.01
            assert metrics.jod(clean, adversarial).tolist() == pytest.approx([10, 9, 9], abs=1e-4)
        assert viewer.how["display_name"] == "standard_fhd"
        assert viewer.geometry == [{"name": "standard_fhd", "ppd": 40 * side / 540} for side in (54, 108)]
        assert {shape[0] for shape, _ in viewer.shown} == {1}
        assert [how for _, how in viewer.shown] == [{"dim_order": "BCFHW", "frames_per_second": 5.0}] * 4

    def test_frames_too_small_for_it(self, viewer: Viewer) -> None:
        clean = torch.zeros(2, 3, 2, 7, 40)
        adversarial = clean.clone()
        adversarial[1] += 0.1
        quality = metrics.jod(clean, adversarial)
        assert quality[0] == 10
        assert quality[1].isnan()

    def test_left_out_with_the_reason_said_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pycvvdp", None)
        visible_difference._package.cache_clear()
        clips = torch.rand(1, 3, 2, 32, 32)
        try:
            with pytest.warns(UserWarning, match=r"JOD is left out.*pip install 'vidmarl\[perceptual\]'"):
                assert metrics.jod(clips, clips) is None
            with warnings.catch_warnings(action="error"):
                assert metrics.jod(clips, clips) is None
        finally:
            visible_difference._package.cache_clear()

    @pytest.mark.slow
    def test_the_conditions_are_those_that_its_documentation_states(self) -> None:
        """README of ColorVideoVDP, "Reporting metric results": standard_4k has 75.4 pixels a degree
        and 200 cd/m2; "Predicted quality scores": the highest quality is 10. Its other examples are
        of pictures that do not come with the package."""
        package = pytest.importorskip("pycvvdp")
        model = package.cvvdp(display_name="standard_4k", device=torch.device("cpu"), quiet=True)
        assert round(model.pix_per_deg, 1) == 75.4
        assert "Lpeak=200" in model.get_info_string()
        clip = grating(4)
        assert float(model.predict(clip, clip, dim_order="BCFHW", frames_per_second=5)[0]) == pytest.approx(
            10, abs=1e-4
        )
        ours = visible_difference._model(package, torch.device("cpu"), 108)
        assert ours.pix_per_deg == pytest.approx(108 / 14.27, rel=1e-3)
        assert ours.display_photometry.Y_peak == 200

    @pytest.mark.slow
    def test_it_is_as_it_was(self) -> None:
        """Values of cvvdp 0.5.7 on a CPU; none are published of clips that can be drawn."""
        pytest.importorskip("pycvvdp")
        clean = torch.full((1, 3, 4, 108, 108), 0.5)
        seen = {cycles: float(metrics.jod(clean, grating(cycles))) for cycles in (4, 16, 50)}
        assert seen == pytest.approx({4: 9.65, 16: 7.53, 50: 6.88}, abs=0.02)
        faint = clean + (grating(16) - clean) / 8
        assert 10 > float(metrics.jod(clean, faint)) > seen[16]
        both = metrics.jod(torch.cat([clean, clean]), torch.cat([grating(16), clean]))
        assert both.tolist() == pytest.approx([seen[16], 10], abs=1e-4)


class TestOfAttacks:
    def test_rates_and_queries_of_the_hand_made_case(self) -> None:
        assert metrics.first_success(HAND).tolist() == [3, 0, 0, 2]
        assert metrics.average_queries(HAND) == pytest.approx(
            {"AQ": (6 + 3 + 2) / 3, "AQ+": (6 + 2) / 2, "AQ first": (3 + 3 + 2) / 3, "AQ+ first": (3 + 2) / 2}
        )
        assert metrics.average_queries(HAND, 2) == pytest.approx(
            {"AQ": 2.0, "AQ+": 2.0, "AQ first": 2.0, "AQ+ first": 2.0}
        )

    def test_success_and_size_at_each_budget(self) -> None:
        budgets = [1, 2, 3, 4, 6, 100]
        assert metrics.success_at(HAND, budgets).int().tolist() == [
            [0, 0, 1, 1, 1, 1],
            [0] * 6,
            [0] * 6,
            [0, 1, 1, 1, 1, 1],
        ]
        best = metrics.best_l2_at(HAND, budgets)
        assert best[[0, 1, 3]].tolist() == [[9, 9, 4, 2, 2, 2], [9] * 6, [9, 7, 7, 7, 7, 7]]  # 1.0 was no success
        assert best[2].isnan().all()

    @pytest.mark.parametrize("budgets", [[], [0], [5, -1]])
    def test_budgets_below_one_query_are_refused(self, budgets: list[int]) -> None:
        with pytest.raises(ValueError, match="1 or more"):
            metrics.success_at(HAND, budgets)

    def test_curves_exclude_skipped_clips_and_repeat(self) -> None:
        curve = metrics.curves(HAND, [1, 2, 6], resamples=200, seed=3)
        assert curve["FR"].tolist() == pytest.approx([0, 1 / 3, 2 / 3])
        assert curve["L2"].tolist() == [9, 9, 7]
        assert (curve["FR low"] <= curve["FR"]).all()
        assert (curve["FR"] <= curve["FR high"]).all()
        assert curve.equals(metrics.curves(HAND, [1, 2, 6], resamples=200, seed=3))

    @pytest.mark.thorough
    def test_intervals_have_about_their_level(self) -> None:
        """Of many samples, the 90 % intervals of a share, a median and a mean hold the truth about
        nine times in ten; that of the median is on the safe side."""
        random = np.random.default_rng(0)
        share, full = 0.4, 9.0
        held = []
        for seed in range(200):
            wins, sizes = random.random(60) < share, random.uniform(0, 2, 60)
            clips = outcome(
                [[1.0, -1.0 if win else 1.0, -1.0] for win in wins], [[0.0, size, size] for size in sizes], full
            )
            early, late = metrics.curves(clips, [2, 3], resamples=200, level=0.9, seed=seed).to_dict("records")
            held.append(
                [
                    early["FR low"] <= share <= early["FR high"],
                    late["L2 low"] <= 1 <= late["L2 high"],
                    late["AQ first low"] <= 2 * share + 3 * (1 - share) <= late["AQ first high"],
                ]
            )
        assert ((np.mean(held, axis=0) >= 0.84) & (np.mean(held, axis=0) <= 0.97)).all(), np.mean(held, axis=0)

    def test_nothing_attacked_gives_nan_and_no_error(self) -> None:
        nothing = outcome([[-1.0], [-2.0]], [[0.0], [0.0]])
        table = metrics.summarise(nothing, [1])
        assert table["clips"].tolist() == [0]
        assert table["skipped"].tolist() == [2]
        assert table[["FR", "AQ", "L2"]].isna().all(axis=None)

    def test_summary_has_a_row_per_budget_up_to_the_attacks_own(self) -> None:
        table = metrics.summarise(HAND, (2, 4, 25, 50), resamples=50)
        assert table["budget"].tolist() == [2, 4, 6]
        assert table["FR"].tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3])
        assert table["L2"].tolist() == [9, 7, 7]
        assert table["clips"].tolist() == [3] * 3
        assert table["ssim"].isna().tolist() == [True, True, False]  # pictures of the final clips only
        fooled = HAND.success
        assert table["map"].iloc[-1] == pytest.approx(
            float(metrics.mean_absolute(HAND.clean[fooled], HAND.adversarial[fooled]).mean())
        )

    @pytest.mark.thorough
    @settings(max_examples=50)
    @given(
        st.lists(
            st.lists(st.tuples(st.floats(-2, 2, width=32), st.floats(0.125, 5, width=32)), min_size=1, max_size=12),
            min_size=1,
            max_size=5,
        )
    )
    def test_more_queries_never_hurt(self, clips: list[list[tuple[float, float]]]) -> None:
        result = outcome([[m for m, _ in c] for c in clips], [[n for _, n in c] for c in clips])
        budgets = range(1, 13)
        size = metrics.best_l2_at(result, budgets)[~result.skipped]
        wins = metrics.success_at(result, budgets).int()
        assert (size.diff(dim=1) <= 0).all() or size.max() > 9
        assert (wins.diff(dim=1) >= 0).all()
        assert torch.equal(wins[:, -1].bool(), result.success)
        for row in range(len(clips)):  # the definition, written as a loop
            for column, budget in enumerate(budgets):
                seen = clips[row][:budget]
                expected = any(m < 0 for m, _ in seen) and not result.skipped[row]
                assert bool(wins[row, column]) == expected
        both = metrics.average_queries(result, 5)
        if not math.isnan(both["AQ"]):
            assert both["AQ first"] <= both["AQ"] + 1e-9


class TestPaired:
    def test_half_the_size_on_every_clip(self) -> None:
        small = outcome([[1.0, -1.0]] * 6, [[0.0, float(k)] for k in range(1, 7)])
        large = outcome([[1.0, -1.0]] * 6, [[0.0, 2.0 * k] for k in range(1, 7)])
        compared = metrics.size_ratio(small, large)
        assert (compared.ratio, compared.low, compared.high) == (0.5, 0.5, 0.5)
        assert compared.p == pytest.approx(2 / 2**6)
        assert compared.clips == 6
        assert metrics.size_ratio(large, small).ratio == 2

    def test_infinite_ratios_have_an_interval_too(self) -> None:
        """A distortion that leaves some clips as they are has a norm of 0."""
        some = outcome([[1.0, 1.0]] * 8, [[0.0, 1.0]] * 8)
        none = dataclasses.replace(some, full_l2=torch.tensor([0.0] * 4 + [9.0] * 4))
        compared = metrics.size_ratio(some, none)
        assert (compared.ratio, compared.low, compared.high) == (math.inf, 1.0, math.inf)
        assert compared.p == pytest.approx(2 / 2**4)

    def test_equal_attacks_and_clips_that_either_skipped(self) -> None:
        compared = metrics.size_ratio(HAND, HAND)
        assert compared.ratio == 1
        assert compared.clips == 3
        assert math.isnan(compared.p)

    def test_failures_count_at_their_full_size(self) -> None:
        never = outcome([[1.0, 1.0]] * 3, [[0.0, 1.0]] * 3)
        fooled = outcome([[1.0, -1.0]] * 3, [[0.0, 3.0]] * 3)
        assert metrics.size_ratio(never, fooled).ratio == pytest.approx(3)
        assert metrics.size_ratio(never, fooled, budget=1).ratio == 1

    def test_queries_compare_by_their_means_and_a_failure_counts_what_it_spent(self) -> None:
        quick = outcome([[1.0, -1.0, 1.0]] * 6, [[0.0, 1.0, 1.0]] * 6)  # fooled with query 2, goes on
        slow = outcome([[1.0, 1.0, 1.0, -1.0]] * 3 + [[1.0] * 5] * 3, [[0.0, *[1.0] * 3]] * 3 + [[0.0, *[1.0] * 4]] * 3)
        compared = metrics.query_ratio(quick, slow)
        assert compared.ratio == pytest.approx(2 / 4.5)
        assert 2 / 5 <= compared.low < compared.ratio < compared.high <= 2 / 4
        assert compared.p == pytest.approx(2 / 2**6)
        assert compared.clips == 6
        assert metrics.query_ratio(quick, slow, budget=2).ratio == 1

    @settings(max_examples=40)
    @given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
    def test_wilcoxon_equals_the_count_over_all_signs(self, differences: list[int]) -> None:
        magnitudes = [abs(d) for d in differences if d]
        if not magnitudes:
            assert math.isnan(metrics.wilcoxon(np.array(differences)))
            return
        ranks = [np.mean([i + 1 for i, m in enumerate(sorted(magnitudes)) if m == own]) for own in magnitudes]
        seen = sum(r for r, d in zip(ranks, [d for d in differences if d], strict=True) if d > 0)
        sums = [
            sum(r for r, up in zip(ranks, signs, strict=True) if up)
            for signs in itertools.product([False, True], repeat=len(ranks))
        ]
        below, above = np.mean([s <= seen for s in sums]), np.mean([s >= seen for s in sums])
        assert metrics.wilcoxon(np.array(differences)) == pytest.approx(min(1, 2 * min(below, above)))

    def test_wilcoxon_knows_equal_ratios_of_counts(self) -> None:
        """log 6 - log 3 is log 2 - log 1 but for the last bit."""
        counts = [(6, 3), (2, 1), (3, 6), (10, 5), (7, 14), (3, 9), (30, 10), (5, 15), (12, 4)]
        differences = np.array([math.log(a) - math.log(b) for a, b in counts])
        ranks = np.array([1, 1, -1, 1, -1, -2, 2, -2, 2])
        assert metrics.wilcoxon(differences) == metrics.wilcoxon(ranks)

    def test_wilcoxon_of_a_published_table(self) -> None:
        """n = 8, rank sum 3: two-sided p = 0.0391 in the tables (5 of 256 sign patterns,
        doubled)."""
        assert metrics.wilcoxon(np.array([-1, -2, 3, 4, 5, 6, 7, 8.0])) == pytest.approx(2 * 5 / 256)


class TestIntervals:
    @pytest.mark.parametrize(
        ("fooled", "clips", "low", "high"),
        [(3, 3, 0.4385, 1), (0, 6, 0, 0.390), (15, 20, 0.531, 0.888), (1, 1, 0.207, 1), (0, 1000, 0, 0.0038)],
    )
    def test_a_share_has_wilsons(self, fooled: int, clips: int, low: float, high: float) -> None:
        found = metrics.wilson(np.array([fooled]), clips)
        assert found[0] == pytest.approx(low, abs=5e-4)
        assert found[1] == pytest.approx(high, abs=5e-4)

    @pytest.mark.thorough
    @given(st.integers(1, 300), st.floats(0.5, 0.999), st.data())
    def test_the_ends_of_a_share_are_where_its_test_turns(self, clips: int, level: float, data: st.DataObject) -> None:
        """The interval is all shares that a score test does not reject (Wilson 1927)."""
        fooled = data.draw(st.integers(0, clips))
        low, high = (float(end) for end in metrics.wilson(np.array(fooled), clips, level=level))
        assert 0 <= low <= fooled / clips <= high <= 1
        assert high - low > 0
        z = NormalDist().inv_cdf((1 + level) / 2)
        for end in {low, high} - {0.0, 1.0}:
            assert abs(fooled / clips - end) == pytest.approx(z * math.sqrt(end * (1 - end) / clips), rel=1e-6)

    @pytest.mark.parametrize(("clips", "rank"), [(5, 0), (6, 1), (8, 1), (9, 2), (20, 6), (35, 12), (64, 24)])
    def test_a_median_lies_between_order_statistics(self, clips: int, rank: int) -> None:
        """The ranks are those of the published critical values of the sign test, and 1."""
        values = np.random.default_rng(0).permutation(clips) + 1.0
        low, high = metrics.median_interval(values)
        if rank == 0:
            assert np.isnan([low, high]).all()
        else:
            assert (low, high) == (rank, clips + 1 - rank)

    def test_a_median_of_clips_that_are_all_alike_is_known(self) -> None:
        assert metrics.median_interval(np.full(6, 2.0)) == (2.0, 2.0)
        assert metrics.median_interval(np.array([1.0] * 10 + [np.inf] * 10)) == (1.0, np.inf)

    @pytest.mark.parametrize("values", [[], [4.0], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0], [7.0] * 20])
    def test_a_mean_of_clips_too_few_or_too_alike_has_none(self, values: list[float]) -> None:
        with warnings.catch_warnings(action="error"):
            assert np.isnan(metrics.bootstrap(np.array(values), np.mean)).all()

    def test_of_several_figures_each_has_its_own(self) -> None:
        values = np.stack([np.arange(8.0), np.full(8, 0.1)], axis=1)
        low, high = metrics.bootstrap(values, np.mean)
        assert 0 < low[0] < 3.5 < high[0] < 7
        assert np.isnan([low[1], high[1]]).all()

    @pytest.mark.parametrize("clips", range(1, 10))
    @pytest.mark.parametrize("fooled", ["none", "all", "first"])
    def test_no_figure_of_an_attack_has_a_point_for_an_interval(self, clips: int, fooled: str) -> None:
        """But for a median: that of six clips of one size is known."""
        wins = [fooled == "all" or (fooled == "first" and i == 0) for i in range(clips)]
        result = outcome([[1.0, -1.0 if win else 1.0] for win in wins], [[0.0, 1.0]] * clips)
        table = metrics.summarise(result, [1, 2])
        compared = metrics.query_ratio(result, result)
        assert (table["FR low"] < table["FR high"]).all()
        assert not (table["AQ first low"] == table["AQ first high"]).any()
        assert math.isnan(compared.low)
        assert table["L2 low"].isna().all() == (clips < 6)

    def test_a_dash_stands_where_there_is_none(self) -> None:
        column = Column("x", "X", "a size", format=".1f", interval=True)
        assert column.cell({"x": 2.0, "x low": math.nan, "x high": math.nan}) == "2.0 (—)"
        assert column.range({"x": 2.0, "x low": 1.0, "x high": math.inf}) == "1.0 to ∞"


class TestColumns:
    def test_every_metric_fills_its_columns_and_no_other(self) -> None:
        fast = metrics.perturbation_metrics(*pair())
        assert list(fast) == [column.name for column in metrics.columns()]
        names = [column.name for column in metrics.columns(slow=True)]
        assert set(fast) < set(names)
        assert len(set(names)) == len(names)
        assert all(column.label and column.meaning for column in metrics.columns(slow=True))

    def test_a_column_of_a_new_metric_stands_in_its_place(self, fresh_registry: None) -> None:
        @metrics.metric(Column("mean_red", "Mean red", "of the attacked clip"), order=12.5)
        def mean_red(clean: Tensor, adversarial: Tensor) -> Tensor:
            return adversarial[:, 0].flatten(1).mean(1)

        @metrics.metric(Column("largest", "Largest", "strength"), Column("sum", "Sum", "of strengths"), slow=True)
        def strengths(clean: Tensor, adversarial: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
            return strength.flatten(1).amax(1), strength.flatten(1).sum(1)

        clean, adversarial = pair()
        strength = torch.rand(2, 4, 2, 2)
        fast = metrics.perturbation_metrics(clean, adversarial, strength=strength)
        assert fast["mean_red"].tolist() == adversarial[:, 0].mean((1, 2, 3)).tolist()
        assert list(fast)[list(fast).index("linf") + 1] == "mean_red"
        assert "largest" not in fast
        measured = metrics.Metric((Column("a", "A", "a"), Column("b", "B", "b")), strengths, slow=True, order=0)
        values = measured.measure(clean, adversarial, strength)
        assert values["a"].tolist() == strength.amax((1, 2, 3)).tolist()
        assert [column.name for column in metrics.columns(slow=True)][-2:] == ["largest", "sum"]

    def test_two_metrics_of_one_column_are_refused(self, fresh_registry: None) -> None:
        def other(clean: Tensor, adversarial: Tensor) -> Tensor:
            return adversarial

        with pytest.raises(ValueError, match=r"perturbation\.l2 has a column 'l2' already"):
            metrics.metric(Column("l2", "L2", "again"))(other)
        with pytest.raises(ValueError, match="at least one column"):
            metrics.metric()(other)
        metrics.metric(Column("other", "Other", "first"))(other)
        metrics.metric(Column("other", "Other", "imported anew"))(other)
        assert metrics.columns()[-1].meaning == "imported anew"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0, "0"),
            (12345, "12,345"),
            (0.0, "0"),
            (0.12345, "0.123"),
            (123.4, "123"),
            (1234.5, "1,234"),
            (-1234.5, "-1,234"),
            (0.00012, "1.2e-04"),
            (math.nan, "—"),
            (None, "—"),
            (math.inf, "∞"),
            (-math.inf, "-∞"),
        ],
    )
    def test_numbers_for_people(self, value: float | None, text: str) -> None:
        assert number(value) == text

    def test_shares_for_people(self) -> None:
        assert [percent(share) for share in (0, 0.0123, 0.5, 1, math.nan)] == ["0 %", "1.2 %", "50 %", "100 %", "—"]

    def test_a_column_writes_its_values(self) -> None:
        share = Column("x", "X", "a share", "parts", format="%", better="higher", interval=True)
        assert share.heading == "X ↑"
        assert share.note == "X ↑: a share, in parts"
        assert share.cell({"x": 0.5, "x low": 0.25, "x high": 0.75}) == "50 % (25 % to 75 %)"
        assert share.cell({"x": math.nan}) == share.cell({}) == "—"
        assert Column("y", "Y", "a number", format=".2f").text(1.234) == "1.23"
        assert Column("y", "Y", "a number", format=".2f").text(math.inf) == "∞"

    def test_the_documentation_names_every_column(self) -> None:
        page = (Path(__file__).resolve().parent.parent / "docs" / "benchmark.md").read_text("utf-8")
        assert [c.name for c in (*metrics.columns(slow=True), *metrics.FIGURES[1:]) if f"`{c.name}`" not in page] == []
