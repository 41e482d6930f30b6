"""Signed blocks, the sensitivity bound, SimBA-DCT, AstFocus and STDE, on victims whose answer is
known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vidmarl import ClipSpec, Target, TubeletGrid, Victim
from vidmarl.attacks import Attack, AttackResult, as_attack
from vidmarl.attacks.ast_focus import (
    Agent,
    AstFocus,
    advantage,
    all_windows,
    choose_frames,
    discounted,
    edges_in,
    observe,
    representativeness,
)
from vidmarl.attacks.greedy_sensitivity import GreedySensitivity
from vidmarl.attacks.sensitivity_order import SensitivityOrder
from vidmarl.attacks.signed_blocks import SignedBlocks
from vidmarl.attacks.simba_dct import SimbaDCT, wave
from vidmarl.attacks.stde import STDE, Patch, random_patch, shrink
from vidmarl.data.encode import write_lossless
from vidmarl.distortions.base import FunctionDistortion
from vidmarl.distortions.sign_noise import SignNoise
from vidmarl.errors import ClipError
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.goals import Misclassify
from vidmarl.queries.session import Session

GRID = TubeletGrid(frames=1, height=8, width=8)
SHAPE = (3, 4, 4)  # tubelets of the clips below
GREY = torch.full((1, 3, 3, 32, 32), 128 / 255)
SIGNED = FunctionDistortion(lambda clips, strength, noise: clips + 0.2 * strength, signed=True)
ONE_SIDED = FunctionDistortion(lambda clips, strength, noise: clips - 0.3 * strength)
BALL = SignNoise(12.75 / 255)

each_direction = pytest.mark.parametrize("distortion", [SIGNED, ONE_SIDED], ids=["signed", "one-sided"])
each_ball_attack = pytest.mark.parametrize("kind", [SimbaDCT, AstFocus])


def cell_means(clips: Tensor) -> Tensor:
    return rearrange(clips - GREY, "b c t (gh h) (gw w) -> b (t gh gw) (c h w)", h=8, w=8).mean(-1)


class Effects(nn.Module):
    """Class 0 leads grey by `lead`; a brighter cell adds its known effect to class 1, with class 2
    far behind."""

    def __init__(self, effect: Tensor, lead: float = 0.6) -> None:
        super().__init__()
        self.effect = effect.flatten()
        self.lead = lead
        self.asked: list[Tensor] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.asked.extend(clips)
        gain = cell_means(clips) @ self.effect
        return torch.stack([torch.full_like(gain, self.lead), gain, torch.full_like(gain, -9.0)], 1)

    def maps(self) -> list[Tensor]:
        """What was asked about after the clean clip: the cells' changes."""
        return [cell_means(clip[None])[0] for clip in self.asked[1:]]


class Slope(nn.Module):
    """Linear in the pixels: class 1 gains with a known direction, and class 2 loses."""

    def __init__(self, direction: Tensor, lead: float) -> None:
        super().__init__()
        self.direction = direction
        self.lead = lead
        self.seen = 0

    def forward(self, clips: Tensor) -> Tensor:
        self.seen += len(clips)
        gain = ((clips - GREY[..., :1, :1]) * self.direction).flatten(1).sum(1)
        return torch.stack([torch.full_like(gain, self.lead), gain, -gain], 1)


def effects(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def direction(seed: int = 0) -> Tensor:
    return torch.randn(GREY.shape[1:], generator=torch.Generator().manual_seed(seed))


def make(kind: type[Attack], distortion: Any = SIGNED, **kwargs: Any) -> Attack:
    return kind(distortion, **{"budget": 60, "grid": GRID, "progress": False} | kwargs)


def make_ball(kind: type[Attack], **kwargs: Any) -> Attack:
    own = {"window": 16, "samples": 20} if kind is AstFocus else {"ratio": 1.0}
    return make(kind, BALL, **own | kwargs)


def noisy_clips(n: int = 4, t: int = 3) -> Tensor:
    return torch.rand(n, 3, t, 32, 32, generator=torch.Generator().manual_seed(3)) * 0.6 + 0.2


def same(one: AttackResult, other: AttackResult) -> bool:
    return torch.equal(one.queries, other.queries) and torch.equal(one.adversarial, other.adversarial)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("signed_blocks", SignedBlocks),
        ("sensitivity_order", SensitivityOrder),
        ("simba_dct", SimbaDCT),
        ("ast_focus", AstFocus),
        ("stde", STDE),
    ],
)
def test_found_by_name(name: str, kind: type[Attack]) -> None:
    assert type(as_attack(name)) is kind
    assert as_attack(name).params()["attack"] == kind.__name__


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (SignedBlocks, {"block": 0}),
        (SensitivityOrder, {"box": (1, 0, 1)}),
        (SimbaDCT, {"ratio": 0.0}),
        (SimbaDCT, {"step": 0.0}),
        (AstFocus, {"samples": 3}),
        (AstFocus, {"window": 0}),
        (STDE, {"population": 3}),
        (STDE, {"factor": 0.0}),
    ],
)
def test_wrong_settings_are_refused(kind: type[Attack], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}.*got"):
        kind(**wrong)


class TestSignedBlocks:
    @each_direction
    def test_keeps_what_lowers_the_margin_and_only_that(self, distortion: Any) -> None:
        model = Effects(effects(), lead=50)
        make(SignedBlocks, distortion, block=5)(Victim(model), GREY)
        kept = torch.zeros(48)
        for asked in model.maps():
            changed = asked != kept
            assert 1 <= changed.sum() <= 5
            if (asked - kept) @ model.effect > 0:
                kept = asked
        assert kept @ model.effect > 0

    def test_a_block_that_fails_is_tried_turned(self) -> None:
        attack = make(SignedBlocks, block=48, budget=3)
        attack(Victim(model := Effects(effects(), lead=50)), GREY)
        signs = model.maps()[0].sign()
        attack(Victim(fails := Effects(-signs, lead=50)), GREY)
        assert torch.equal(fails.maps()[0].sign(), signs)
        assert torch.equal(fails.maps()[1].sign(), -signs)
        attack(Victim(helps := Effects(signs, lead=50)), GREY)
        assert torch.equal(helps.maps()[0].sign(), signs)
        assert not torch.equal(helps.maps()[1].sign(), -signs), "it was kept: another draw comes next"

    @pytest.mark.parametrize("seed", range(4))
    def test_every_block_brings_something_within_two_queries(self, seed: int) -> None:
        """On a linear victim one of the two signs of each block helps: after 8 blocks of 6 all 48
        cells are used."""
        model = Effects(effects(seed), lead=50)
        result = make(SignedBlocks, block=6, budget=17)(Victim(model), GREY)
        assert (result.strength != 0).all()

    def test_one_direction_has_one_try(self) -> None:
        model = Effects(torch.ones(SHAPE), lead=50)  # darker cells never help
        make(SignedBlocks, ONE_SIDED, block=8, budget=7)(Victim(model), GREY)
        touched = torch.stack([asked != 0 for asked in model.maps()])
        assert torch.equal(touched.sum(0), torch.ones(48, dtype=torch.long))

    @pytest.mark.thorough
    def test_a_second_pass_can_take_back(self) -> None:
        """The first cell helps alone, and is in the way once the second is dark."""

        def model(clips: Tensor) -> Tensor:
            dark = (cell_means(clips) < -0.1).float()
            gain = dark[:, 0] * (1 - 2 * dark[:, 1]) + dark[:, 1] * 1.5
            return torch.stack([torch.full_like(gain, 9.0), gain], 1)

        session = Session(Victim(model), Renderer(GREY, ONE_SIDED, GRID), budget=300)
        for _ in SignedBlocks(ONE_SIDED, block=1, budget=300, grid=GRID).run(session):
            pass
        assert session.best_strength[0].flatten()[:2].tolist() == [0, 1], "the second without the first is best"

    def test_a_pass_with_nothing_left_to_ask_ends_the_search(self) -> None:
        """One tubelet that can only be on: each round asks about it once, and never about the clean
        clip."""
        clip, asked = GREY[:, :, :1, :8, :8], []

        def model(clips: Tensor) -> Tensor:
            asked.extend(clips)
            return torch.stack([3 + clips.flatten(1).mean(1), clips.new_zeros(len(clips))], 1)

        result = make(SignedBlocks, ONE_SIDED, block=3, budget=6)(Victim(model), clip)
        assert not result.success.any()
        assert all(torch.equal(one, asked[1]) for one in asked[1:])
        assert not torch.equal(asked[0], asked[1])

    def test_targeted(self) -> None:
        result = make(SignedBlocks, budget=100)(Victim(Effects(effects(), lead=0.3)), GREY, Target([1]))
        assert result.success.all()


class TestSensitivityOrder:
    @each_direction
    def test_takes_the_most_sensitive_first_in_its_direction(self, distortion: Any) -> None:
        model = Effects(effects(), lead=50)
        make(SensitivityOrder, distortion, budget=8)(Victim(model), GREY)
        counted = model.maps()[96 if distortion is SIGNED else 48 :]
        assert [int((asked != 0).sum()) for asked in counted] == [1, 2, 4, 8, 16, 32, 48]
        best = model.effect.abs() if distortion is SIGNED else -model.effect
        for asked in counted:
            chosen = asked != 0
            assert best[chosen].min() >= best[~chosen].max() if not chosen.all() else True
        if distortion is SIGNED:
            assert torch.equal(counted[-1].sign(), model.effect.sign())

    def test_probes_are_counted_by_the_victim_but_not_in_the_budget(self) -> None:
        model = Effects(effects(), lead=50)
        victim = Victim(model)
        result = make(SensitivityOrder, budget=5)(victim, GREY)
        assert result.queries.tolist() == [5]
        assert victim.queries == len(model.asked) == 5 + 96
        assert result.settings["uncounted_probes_per_clip"] == 96
        assert "no attack" in result.settings["oracle"]

    def test_a_skipped_clip_is_not_probed(self) -> None:
        victim = Victim(Effects(effects()))
        result = make(SensitivityOrder)(victim, GREY, Misclassify([1]))
        assert result.skipped.all()
        assert victim.queries == 1

    def test_boxes_are_probed_together(self) -> None:
        model = Effects(effects(), lead=50)
        victim = Victim(model)
        result = make(SensitivityOrder, ONE_SIDED, box=(2, 3, 4), budget=2)(victim, GREY)
        probes = [(asked != 0).view(SHAPE) for asked in model.maps()[:-1]]
        assert len(probes) == result.settings["uncounted_probes_per_clip"] == 2 * 2 * 1
        assert torch.equal(torch.stack(probes).sum(0), torch.ones(SHAPE, dtype=torch.long))
        assert probes[0].sum() == 2 * 3 * 4

    def test_larger_changes_must_bring_more(self) -> None:
        """Of two cells of the same effect the one that costs less L2 comes first."""
        clip = GREY.clone()
        clip[:, :, 0, :8, :8] = 0.1  # can be darkened by 0.1 only

        def model(clips: Tensor) -> Tensor:
            dark = (clips[:, :, 0, :8, :16].mean((1, 2)) - clip[0, :, 0, :8, :16].mean((0, 1)) < -0.05).float()
            gain = dark[:, 0] + 1.2 * dark[:, 8]
            return torch.stack([torch.full_like(gain, 0.9), gain], 1)

        result = make(SensitivityOrder, ONE_SIDED, max_queries_after_success=0)(Victim(model), clip)
        assert result.strength[0].flatten().nonzero().flatten().tolist() == [0]

    def test_goes_on_where_all_together_fail(self) -> None:
        """Every cell helps alone, but cells 0 to 9 and the others are in each other's way."""

        def model(clips: Tensor) -> Tensor:
            dark = (cell_means(clips) < -0.1).float()
            first, others = dark[:, :10].sum(1), dark[:, 10:].sum(1)
            gain = first + 0.5 * others - 30 * (first * others > 0)
            return torch.stack([torch.full_like(gain, 9.5), gain], 1)

        result = make(SensitivityOrder, ONE_SIDED)(Victim(model), GREY)
        assert result.success.all()
        assert result.strength[0].flatten().nonzero().flatten().tolist() == list(range(10))

    @pytest.mark.thorough
    @each_direction
    def test_a_clip_alone_or_in_a_batch(self, distortion: Any) -> None:
        model = Effects(effects(), lead=0.4)
        together = make(SensitivityOrder, distortion)(Victim(model), noisy_clips())
        alone = make(SensitivityOrder, distortion)(Victim(model), noisy_clips()[2:3])
        assert same(alone, together[2])
        attacked = ~together.skipped
        assert torch.equal(together.adversarial, (together.adversarial * 255).round() / 255)
        assert torch.equal(together.success, attacked & (Victim(model)(together.adversarial).argmax(1) == 1))

    @pytest.mark.thorough
    def test_is_at_least_as_small_as_the_attack_that_pays(self) -> None:
        for seed in range(5):
            victim = Victim(Effects(effects(seed), lead=0.5))
            paid, free = (
                make(kind, budget=60, max_queries_after_success=0)(victim, GREY)
                for kind in (GreedySensitivity, SensitivityOrder)
            )
            assert free.success.all()
            found = [(r.adversarial - r.clean).norm() if r.success.all() else torch.inf for r in (free, paid)]
            assert found[0] <= found[1]


class TestBall:
    @each_ball_attack
    @pytest.mark.parametrize("targeted", [False, True])
    def test_succeeds_inside_the_ball(self, kind: type[Attack], targeted: bool) -> None:
        model = Slope(direction(), lead=3.0)
        result = make_ball(kind, budget=300)(Victim(model), GREY, Target([2]) if targeted else None)
        assert result.success.all()
        assert (result.adversarial - result.clean).abs().max() <= 12.75 / 255
        assert result.queries.sum() == model.seen
        if targeted:
            assert Victim(model)(result.adversarial).argmax(1).tolist() == [2]

    @pytest.mark.thorough
    @each_ball_attack
    def test_the_ball_holds_at_the_edge_of_the_range(self, kind: type[Attack]) -> None:
        clips = (noisy_clips() > 0.5).float()
        asked: list[Tensor] = []

        def model(clips: Tensor) -> Tensor:
            asked.append(clips)
            gain = (clips * direction()).flatten(1).sum(1)
            return torch.stack([torch.full_like(gain, 1e3), gain], 1)

        attack = make_ball(kind, budget=64)
        result = attack(Victim(model), clips)
        assert not result.success.any()
        for many in asked:
            gap = (many[:, None] - clips).abs().flatten(2).amax(2).amin(1)
            assert (gap <= 12.75 / 255 + 6e-3).all()  # and the reach of a probe, a few sigma
        assert (result.adversarial - clips).abs().max() <= 12.75 / 255

    @pytest.mark.thorough
    @each_ball_attack
    def test_a_clip_alone_or_in_a_batch(self, kind: type[Attack]) -> None:
        def model(clips: Tensor) -> Tensor:
            gain = (clips * direction()).flatten(1).double().sum(1).float()
            return torch.stack([torch.full_like(gain, 200.0), gain], 1)

        clips = noisy_clips()
        together = make_ball(kind)(Victim(model), clips)
        alone = make_ball(kind)(Victim(model), clips[2:3])
        assert same(alone, together[2])
        assert same(together, make_ball(kind)(Victim(model), clips))
        assert not same(together, make_ball(kind, seed=1)(Victim(model), clips))


class TestSimbaDCT:
    @given(
        shape=st.tuples(*[st.integers(2, 6)] * 3),
        one=st.tuples(*[st.integers(0, 5)] * 3),
        other=st.tuples(*[st.integers(0, 5)] * 3),
    )
    @settings(max_examples=40)
    def test_waves_are_orthogonal_and_of_height_one(
        self, shape: tuple[int, int, int], one: tuple[int, int, int], other: tuple[int, int, int]
    ) -> None:
        one, other = (tuple(f % n for f, n in zip(wanted, shape, strict=True)) for wanted in (one, other))
        first, second = wave(shape, one), wave(shape, other)
        assert float(first.abs().max()) == pytest.approx(1)
        if one != other:
            assert abs(float((first * second).sum())) < 1e-4

    def test_a_wave_costs_one_query_or_two(self) -> None:
        asked: list[Tensor] = []
        slope = direction()

        def model(clips: Tensor) -> Tensor:
            asked.extend(clips)
            gain = ((clips - GREY) * slope).flatten(1).sum(1)
            return torch.stack([torch.full_like(gain, 1e4), gain], 1)

        wide = SignNoise(0.4)  # nothing is cut off: 12 waves, 3 x 1 x 2 x 2, of a twelfth of the radius
        make(SimbaDCT, wide, ratio=1 / 16, step=1 / 12, budget=1 + 12)(Victim(model), GREY)
        kept = asked[0]
        since_kept: list[Tensor] = []
        for candidate in asked[1:]:
            if ((candidate - kept) * slope).sum() > 0:
                kept, since_kept = candidate, []
            else:
                since_kept.append(candidate)
                assert len(since_kept) <= 1, "on a linear victim a wave or its negative helps"
        assert ((kept - asked[0]) * slope).sum() > 0

    def test_the_step_is_the_largest_change_of_a_pixel(self) -> None:
        asked: list[Tensor] = []

        def model(clips: Tensor) -> Tensor:
            asked.extend(clips)
            return clips.new_tensor([[1.0, 0.0]]).expand(len(clips), 2)

        make(SimbaDCT, BALL, step=0.5, budget=9)(Victim(model), GREY)
        for up, down in zip(asked[1::2], asked[2::2], strict=True):
            assert (up - GREY[0]).abs().max() * 255 == pytest.approx(6, abs=1e-3)
            torch.testing.assert_close(up - GREY[0], GREY[0] - down, atol=1.1 / 255, rtol=0)
            assert ((up - GREY[0]).abs().amax((1, 2, 3)) > 0).sum() == 1, "one channel"


class TestAstFocus:
    def test_queries_of_an_iteration(self) -> None:
        """60 probes that are not rounded, and a query about the step that is."""
        history = make(AstFocus, BALL, budget=1 + 2 * 61 + 40, window=16)(
            Victim(Slope(direction(), lead=1e3)), GREY
        ).history["margin"][0]
        assert len(history) == 1 + 2 * 61, "no part of an iteration"
        assert history.isfinite().nonzero().flatten().tolist() == [0, 61, 122]

    def test_probes_and_steps_stay_in_the_windows_of_the_chosen_frames(self) -> None:
        clip = torch.full((1, 3, 16, 32, 32), 128 / 255)
        asked: list[Tensor] = []

        def model(clips: Tensor) -> Tensor:
            asked.extend(clips)
            gain = clips.flatten(1).mean(1)
            return torch.stack([torch.full_like(gain, 1e3), gain], 1)

        make(AstFocus, BALL, window=9, samples=4, budget=6)(Victim(model), clip)
        for candidate in asked[1:]:
            touched = (candidate != clip[0]).any(0)
            assert 2 <= touched.flatten(1).any(1).sum() <= 10
            for frame in touched[touched.flatten(1).any(1)]:
                rows, columns = frame.any(1).nonzero().flatten(), frame.any(0).nonzero().flatten()
                assert int(rows.max() - rows.min()) < 9
                assert int(columns.max() - columns.min()) < 9

    @pytest.mark.thorough
    def test_steps_go_down_the_slope(self) -> None:
        model = Slope(direction().sign(), lead=1e3)
        result = make(AstFocus, BALL, window=32, samples=20, budget=1 + 21 * 6)(Victim(model), GREY)
        margin = result.history["margin"][0]
        steps = margin[margin.isfinite()]
        assert (steps.diff() < 0).all()

    @pytest.mark.thorough
    def test_agents_learn_from_the_common_reward(self) -> None:
        """The common reward depends on one choice in the middle frame: the agent comes to make
        it."""
        torch.manual_seed(0)
        seen = torch.zeros(3, 5)
        seen[:, :3] = torch.eye(3)
        agent = Agent(5, 4, team_share=0.6, learning_rate=1e-2, hidden=16)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            actions = agent.act(seen, generator)
            team = 1.0 if actions[1] == 2 else -0.3
            agent.learn(seen, actions, torch.zeros(3), team)
        assert agent(seen)[0].probs[1, 2] > 0.6

    @pytest.mark.thorough
    def test_agents_learn_their_own_rewards(self) -> None:
        torch.manual_seed(0)
        seen = torch.eye(4)
        agent = Agent(4, 2, team_share=0.4, learning_rate=1e-2, hidden=16)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            actions = agent.act(seen, generator)
            agent.learn(seen, actions, (actions == torch.tensor([1, 0, 1, 0])).float(), 0.0)
        assert agent(seen)[0].probs.argmax(1).tolist() == [1, 0, 1, 0]

    def test_own_randomness_leaves_that_of_the_caller_alone(self) -> None:
        torch.manual_seed(5)
        wanted = torch.rand(3)
        torch.manual_seed(5)
        make(AstFocus, BALL, window=9, samples=4, budget=12)(Victim(Slope(direction(), lead=1e3)), GREY)
        assert torch.equal(torch.rand(3), wanted)

    @given(t=st.integers(1, 32), bias=st.floats(-9, 9), seed=st.integers(0, 99))
    @settings(max_examples=40)
    def test_number_of_frames(self, t: int, bias: float, seed: int) -> None:
        agent = Agent(1, 2, 0.4, 1e-3)
        with torch.no_grad():
            agent.actor.bias.copy_(torch.tensor([0.0, bias]))
        motion = torch.rand(t, generator=torch.Generator().manual_seed(seed))
        chosen = choose_frames(agent, torch.zeros(t, 1), motion, torch.Generator().manual_seed(seed))
        assert set(chosen.tolist()) <= {0, 1}
        assert max(1, round(t / 8)) <= chosen.sum() <= max(1, round(t / 8), round(t * 10 / 16))

    @given(h=st.integers(1, 40), w=st.integers(1, 40), side=st.integers(1, 50))
    @settings(max_examples=40)
    def test_windows(self, h: int, w: int, side: int) -> None:
        windows = all_windows(h, w, side)
        assert windows.shape == (49, h, w)
        assert (windows.flatten(1).sum(1) == min(side, h) * min(side, w)).all()
        assert windows[0, 0, 0]
        assert windows[-1, -1, -1]
        assert windows[6, 0, -1]

    def test_rewards(self) -> None:
        probs = torch.tensor([0.5, 0.3, 0.2])
        expected = float(torch.tensor(0.3).exp() - torch.tensor(0.5).exp())
        assert advantage(Misclassify([0]), probs.log()) == pytest.approx(expected)
        expected = float(torch.tensor(0.2).exp() - torch.tensor(0.5).exp())
        assert advantage(Target([2]), probs.log()) == pytest.approx(expected)
        assert discounted(torch.tensor([1.0, 0.0, 2.0]), 0.5).tolist() == [1.5, 1.0, 2.0]

    def test_what_the_agents_see(self) -> None:
        clip = GREY[0].clone()
        clip[:, 1, 8:12, 8:12] = 1.0
        seen = observe(clip)
        assert seen.shape == (3, 3 * 49 + 49)
        assert seen[1, -49:].sum() > 0
        assert torch.equal(seen[0, :-49], seen[2, :-49])
        typical = representativeness(seen)
        assert typical[1] < typical[0]
        windows = all_windows(32, 32, 16)
        assert edges_in(windows, clip)[1, 0] == pytest.approx(1.0)
        assert edges_in(windows, clip)[1, -1] == 0
        assert edges_in(windows, clip)[0].sum() == 0


class Corner(nn.Module):
    """Says 1 where the middle frame's upper left corner is bright, else 0; 2 where the last frame's
    is dark."""

    def forward(self, clips: Tensor) -> Tensor:
        bright = clips[:, :, 1, :4, :4].mean((1, 2, 3)) - 0.6
        dark = 0.2 - clips[:, :, 2, :4, :4].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(bright), 20 * bright, 30 * dark], 1)


class Hard(nn.Module):
    """The same victim, which tells its label only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        scores = self.model(clips)
        return nn.functional.one_hot(scores.argmax(1), scores.shape[1]).float()


BRIGHT = torch.full((1, 3, 3, 32, 32), 230 / 255)
DARK = torch.full((1, 3, 3, 32, 32), 10 / 255)


class TestSTDE:
    def test_finds_the_small_patch_that_matters(self) -> None:
        result = make(STDE, donors=BRIGHT, budget=400)(Victim(Corner()), GREY)
        assert result.success.all()
        touched = (result.adversarial != result.clean).any(1)[0]
        assert touched[1].any()
        assert touched.sum() < 60, "of 3,072 pixels; 16 with a quarter of the brightness would do"

    @pytest.mark.parametrize("after", [0, 7])
    def test_so_many_queries_are_spent_after_the_first_success(self, after: int) -> None:
        result = make(STDE, donors=BRIGHT, budget=100, max_queries_after_success=after)(Victim(Corner()), GREY)
        first = result.history["margin"].lt(0).int().argmax(1) + 1
        assert result.success.all()
        assert torch.equal(result.queries, first + after)

    def test_pixels_are_those_of_the_clip_or_of_the_donor(self) -> None:
        donor = (noisy_clips(1) * 255).round() / 255
        donor[:, :, 1, :6, :6] = 1.0
        asked: list[Tensor] = []
        model = Corner()

        def note(clips: Tensor) -> Tensor:
            asked.extend(clips)
            return model(clips)

        make(STDE, donors=donor)(Victim(note), GREY)
        assert torch.equal(asked[1], donor[0])
        for candidate in asked[1:]:
            patched = (candidate != GREY[0]).any(0)
            assert torch.equal(candidate, torch.where(patched, donor[0], GREY[0]))
            covered = patched.flatten(1).any(1)
            rows = [frame.any(1).nonzero().flatten() for frame in patched[covered]]
            assert len({(int(r.min()), int(r.max())) for r in rows}) == 1, "one rectangle in all its frames"

    @pytest.mark.thorough
    def test_uses_labels_only(self) -> None:
        soft = make(STDE, donors=BRIGHT, budget=150)(Victim(Corner()), GREY)
        hard = make(STDE, donors=BRIGHT, budget=150)(Victim(Hard(Corner())), GREY)
        assert same(soft, hard)

    def test_one_query_a_candidate_of_falling_area(self) -> None:
        asked: list[Tensor] = []
        model = Corner()

        def note(clips: Tensor) -> Tensor:
            asked.extend(clips)
            return model(clips)

        result = make(STDE, donors=BRIGHT, population=5, budget=80)(Victim(note), GREY)
        assert result.queries.tolist() == [len(asked)] == [80]
        areas = torch.stack([(c != GREY[0]).any(0).sum() for c in asked[1:]])
        assert areas[0] == 3 * 32 * 32
        assert (areas[1:] < areas[0]).all()

    @pytest.mark.thorough
    def test_targeted(self) -> None:
        clips = torch.cat([GREY, BRIGHT, DARK])
        result = make(STDE, budget=150)(Victim(Corner()), clips, Target([2, 2, 2]))
        assert result.success.tolist() == [True, True, False]
        assert result.skipped.tolist() == [False, False, True]
        assert Victim(Corner())(result.adversarial).argmax(1).tolist() == [2, 2, 2]

    @pytest.mark.thorough
    def test_donors_of_the_batch_whatever_its_order(self) -> None:
        clips = torch.cat([GREY, BRIGHT, DARK, GREY * 0.9])
        result = make(STDE, budget=80)(Victim(Corner()), clips)
        assert result.success.all()
        order = [2, 0, 3, 1]
        assert same(result[order], make(STDE, budget=80)(Victim(Corner()), clips[order]))

    @pytest.mark.thorough
    def test_given_donors_make_a_clip_independent_of_its_batch(self) -> None:
        clips = torch.cat([GREY, GREY * 0.9])
        donors = torch.cat([BRIGHT, DARK])
        together = make(STDE, donors=donors)(Victim(Corner()), clips)
        assert same(together[1], make(STDE, donors=donors)(Victim(Corner()), clips[1:]))

    def test_donors_may_be_videos(self, tmp_path: Path) -> None:
        write_lossless(tmp_path / "bright.webm", BRIGHT[0], fps=5)
        spec = ClipSpec(frames=3, size=(32, 32), sampling="uniform")
        by_file = make(STDE, donors=[tmp_path / "bright.webm"])(Victim(Corner(), spec=spec), GREY)
        assert same(by_file, make(STDE, donors=BRIGHT)(Victim(Corner(), spec=spec), GREY))

    def test_donors_are_tried_until_one_holds(self) -> None:
        donors = torch.cat([GREY * 0.9, GREY * 0.8, BRIGHT])
        result = make(STDE, donors=donors)(Victim(Corner()), GREY)
        assert result.success.all()
        useless = make(STDE, donors=donors[:2])(Victim(Corner()), GREY)
        assert useless.queries.tolist() == [3]
        assert not useless.success.any()

    def test_no_donor_is_an_error_that_says_what_to_do(self) -> None:
        with pytest.raises(ValueError, match=r"clip 0 needs a donor of another class than 0.*donors=") as error:
            make(STDE)(Victim(Corner()), torch.cat([GREY, GREY]))
        assert "2 clips" in str(error.value)
        with pytest.raises(ValueError, match="donor of class 1"):
            make(STDE)(Victim(Corner()), torch.cat([GREY, DARK]), Target([1, 1]))

    def test_unusable_donors(self) -> None:
        with pytest.raises(ClipError, match="giving STDE its donors"):
            STDE(donors=BRIGHT * 255)
        with pytest.raises(ValueError, match=r"shape of the clips \(3, 3, 32, 32\), got \(3, 3, 16, 32\)"):
            make(STDE, donors=BRIGHT[..., :16, :])(Victim(Corner()), GREY)

    def test_params_tell_donors_apart(self, tmp_path: Path) -> None:
        assert make(STDE).params()["donors"] == "batch"
        given = (BRIGHT, DARK, torch.cat([BRIGHT, DARK]), [tmp_path / "a.webm"], [tmp_path / "b.webm"])
        named = [str(make(STDE, donors=donors).params()["donors"]) for donors in given]
        assert len(set(named)) == len(given)
        assert named[0] == make(STDE, donors=BRIGHT.clone()).params()["donors"]

    def test_a_clip_needs_no_other_where_donors_are_given(self) -> None:
        assert not make(STDE).batch_independent
        assert make(STDE, donors=BRIGHT).batch_independent

    @given(seed=st.integers(0, 999), t=st.integers(1, 6), h=st.integers(1, 20), w=st.integers(1, 20))
    @settings(max_examples=60)
    def test_patches(self, seed: int, t: int, h: int, w: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        patch = random_patch(torch.rand(t, generator=generator) + 1e-6, generator)
        mask = patch.mask(h, w)
        assert torch.equal(mask.flatten(1).any(1), patch.frames)
        assert patch.frames.any()
        smaller = shrink(patch, generator).mask(h, w)
        assert smaller.any()
        assert not (smaller & ~mask).any(), "nothing is added"

    def test_masks_reach_the_edges(self) -> None:
        whole = Patch(torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.ones(2, dtype=torch.bool))
        assert whole.mask(7, 5).all()
        point = Patch(torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([False, True]))
        assert point.mask(7, 5).nonzero().tolist() == [[1, 6, 4]]

    def test_single_frame_clips(self) -> None:
        victim = Victim(lambda clips: torch.stack([clips[:, 0, 0, 0, 0], 1 - clips[:, 0, 0, 0, 0]], 1))
        result = make(STDE, donors=DARK[:, :, :1], budget=40)(victim, BRIGHT[:, :, :1])
        assert result.success.all()
