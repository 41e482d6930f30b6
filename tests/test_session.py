"""The books of a session: what is counted, what is kept, and for whom."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vidmarl import Misclassify, Target, TubeletGrid, Victim
from vidmarl.distortions.base import FunctionDistortion
from vidmarl.errors import BudgetError
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.session import Session, _l2

DARKER = FunctionDistortion(lambda clips, strength, noise: clips * (1 - 0.5 * strength))
GRID = TubeletGrid(1, 8, 8)


def brightness(clips: Tensor) -> Tensor:
    """Class 0 while the clip's mean is above 0.41, class 1 below; never class 2."""
    mean = clips.flatten(1).mean(1)
    return torch.stack([10 * (mean - 0.41), -10 * (mean - 0.41), torch.full_like(mean, -9)], 1)


@pytest.fixture
def clips() -> Tensor:
    levels = torch.tensor([0.5, 0.6, 0.7, 0.8])
    return levels.view(4, 1, 1, 1, 1).expand(4, 3, 2, 16, 16).clone()


def open_session(clips: Tensor, **kwargs: object) -> Session:
    return Session(Victim(brightness), Renderer(clips, DARKER, GRID), **{"budget": 10} | kwargs)  # type: ignore[arg-type]


def everywhere(session: Session, value: float, rows: list[int]) -> tuple[Tensor, Tensor]:
    return torch.full((len(rows), *session.renderer.shape), value), torch.tensor(rows)


def test_opening_costs_the_clean_prediction(clips: Tensor) -> None:
    session = open_session(clips)
    assert session.queries.tolist() == [1, 1, 1, 1]
    assert session.victim.queries == 4
    assert session.goal.classes.tolist() == [0, 0, 0, 0]
    assert not session.fooled.any()
    assert not session.skipped.any()
    assert session.rows.tolist() == [0, 1, 2, 3]
    assert torch.equal(session.best, session.renderer.clips)


def test_what_the_victim_says_of_the_best_is_that_of_its_own_query(clips: Tensor) -> None:
    """Not of the last one: here the smallest success is followed by a failure, and by a larger
    success."""
    session = open_session(clips[:2])
    assert session.best_prediction.tolist() == [0, 0]
    for value in (0.9, 0.1, 1.0):
        session.query(*everywhere(session, value, [0]))
    assert session.best_prediction.tolist() == session.victim.model(session.best).argmax(1).tolist() == [1, 0]


def test_only_the_rows_asked_pay(clips: Tensor) -> None:
    session = open_session(clips)
    response = session.query(*everywhere(session, 0.5, [3, 1]))
    assert session.queries.tolist() == [1, 2, 1, 2]
    assert response.margin.shape == response.success.shape == response.l2.shape == (2,)
    l2 = (session.renderer.render(*everywhere(session, 0.5, [3, 1])) - clips[[3, 1]]).flatten(1).norm(dim=1)
    torch.testing.assert_close(response.l2, l2, atol=0.2, rtol=0.01)


def test_cells_are_asked_and_booked_as_their_tubelets(clips: Tensor) -> None:
    coarse = Session(Victim(brightness), Renderer(clips, DARKER, GRID, search_cell=2), budget=10)
    fine = open_session(clips)
    cells, rows = torch.rand(2, *coarse.renderer.coarse_shape), torch.tensor([3, 1])
    one, other = coarse.query(cells, rows), fine.query(coarse.renderer.upsample(cells), rows)
    assert coarse.renderer.coarse_shape != coarse.renderer.shape
    assert torch.equal(one.margin, other.margin)
    assert torch.equal(one.l2, other.l2)
    assert torch.equal(coarse.best, fine.best)
    assert torch.equal(coarse.best_strength, fine.best_strength)


def test_what_is_kept(clips: Tensor) -> None:
    """Nearer margins until the first success, then only smaller successes."""
    session = open_session(clips[:1])
    kept = []
    for value in (0.1, 0.05, 0.9, 1.0, 0.5, 0.2, 0.6):
        session.query(*everywhere(session, value, [0]))
        kept.append(round(float(session.best_strength.mean()), 3))
    assert kept == [0.1, 0.1, 0.9, 0.9, 0.5, 0.5, 0.5]
    assert session.fooled.all()
    assert torch.equal(session.best, session.renderer.render(session.best_strength))
    assert session.best_margin < 0


def test_a_success_as_small_with_fewer_tubelets_is_kept(clips: Tensor) -> None:
    clips[0, :, :, :8, :8] = 0  # the distortion cannot make this tubelet any darker
    clips[0, :, :, 8:] = 0.6
    session = open_session(clips[:1])
    strength, rows = everywhere(session, 1.0, [0])
    assert session.query(strength, rows).success.all()
    fewer = strength.clone()
    fewer[:, :, 0, 0] = 0
    assert session.query(fewer, rows).success.all()
    assert torch.equal(session.best_strength, fewer)


def test_a_row_asked_twice_in_a_batch_pays_twice_and_is_booked_in_order(clips: Tensor) -> None:
    session = open_session(clips)
    values = torch.tensor([0.9, 0.1, 0.5, 0.7]).view(4, 1, 1, 1)
    rows = torch.tensor([0, 1, 0, 0])
    response = session.query(values.expand(4, *session.renderer.shape), rows)
    assert session.queries.tolist() == [4, 2, 1, 1]
    torch.testing.assert_close(session.history["margin"][0, 1:4], response.margin[[0, 2, 3]])
    torch.testing.assert_close(session.history["l2"][1, 1], response.l2[1])
    assert float(session.best_strength[0].mean()) == 0.5
    assert session.history["l2"][:, 4:].isnan().all()


def test_no_query_beyond_the_budget(clips: Tensor) -> None:
    session = open_session(clips, budget=2)
    session.query(*everywhere(session, 0.1, [0, 1]))
    assert session.rows.tolist() == [2, 3]
    asked = session.victim.queries
    with pytest.raises(BudgetError, match=r"\[1\]"):
        session.query(*everywhere(session, 0.1, [1, 2]))
    with pytest.raises(BudgetError):
        session.query(*everywhere(session, 0.1, [3, 3]))
    assert session.victim.queries == asked
    assert session.queries.tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize("budget", [0, -1])
def test_a_session_needs_a_budget(clips: Tensor, budget: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        open_session(clips, budget=budget)


def test_finish(clips: Tensor) -> None:
    session = open_session(clips)
    session.finish(torch.tensor([1, 3]))
    assert session.rows.tolist() == [0, 2]


def test_finish_after_success_counts_the_queries_since_the_first_one(clips: Tensor) -> None:
    session = open_session(clips)
    for value in (0.4, 0.1, 1.0, 0.1):  # the darkest clip is fooled first, all are in the end
        session.query(*everywhere(session, value, [0, 1, 2, 3]))
    assert session.first_success.tolist() == [2, 4, 4, 4]
    session.finish_after_success(4)
    assert session.finished.tolist() == [False] * 4
    session.finish_after_success(2)
    assert session.finished.tolist() == [True, False, False, False]
    session.finish_after_success(1)
    assert session.finished.all()
    fresh = open_session(clips)
    fresh.finish_after_success(0)
    assert not fresh.finished.any(), "nothing has succeeded"


def test_goals_given(clips: Tensor) -> None:
    session = open_session(clips, goal=Misclassify([0, 1, 0, 2]))
    assert session.skipped.tolist() == [False, True, False, True]
    session = open_session(clips, goal=Target([0, 1, 1, 2]))
    assert session.skipped.tolist() == [True, False, False, False]
    assert session.query(*everywhere(session, 1.0, [1, 2, 3])).success.tolist() == [True, True, False]


def test_own_candidates_are_rounded_and_get_a_strength(clips: Tensor) -> None:
    session = open_session(clips[:2])
    candidates = session.renderer.clips.clone()
    candidates[0, :, 0, :8, :8] -= 0.1004
    candidates[1] += 0.9  # beyond white
    session.query_clips(candidates, torch.tensor([0, 1]))
    steps = session.history["l2"][:, 1] * 255
    assert steps[0] == pytest.approx(26 * (3 * 64) ** 0.5, rel=1e-5)
    assert session.best_strength[0].count_nonzero() == 1
    assert float(session.best_strength[0].amax()) == pytest.approx(1.0)
    session.query_clips(torch.zeros_like(candidates), torch.tensor([0, 1]))
    assert session.fooled.all()
    assert session.best.amax() == 0


def test_randomness_belongs_to_the_clip(clips: Tensor) -> None:
    together, alone = open_session(clips), open_session(clips[2:3])
    rows = torch.tensor([1, 2])
    first, second = together.rand(rows, 5), together.rand(rows, 5)
    assert torch.equal(first[1], alone.rand(torch.tensor([0]), 5)[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first, open_session(clips, seed=1).rand(rows, 5))


def test_randomness_is_not_that_of_the_noise(clips: Tensor) -> None:
    session = open_session(clips[:1])
    same = torch.rand(64, generator=torch.Generator().manual_seed(session.renderer.seeds[0]))
    assert not torch.equal(session.rand(torch.tensor([0]), 64)[0], same)


def test_l2_does_not_depend_on_the_batch(clips: Tensor) -> None:
    noisy = torch.rand(7, 3, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    together = open_session(noisy)
    response = together.query(*everywhere(together, 0.7, list(range(7))))
    for i in range(7):
        alone = open_session(noisy[i : i + 1])
        assert alone.query(*everywhere(alone, 0.7, [0])).l2 == response.l2[i]


def test_full_l2_costs_nothing(clips: Tensor) -> None:
    session = open_session(clips)
    size = session.full_l2
    assert session.queries.tolist() == [1, 1, 1, 1]
    assert torch.equal(size, session.query(*everywhere(session, 1.0, [0, 1, 2, 3])).l2)


# probe_clips


def test_probes_are_asked_as_they_are(clips: Tensor) -> None:
    seen: list[Tensor] = []

    def model(clips: Tensor) -> Tensor:
        seen.append(clips.clone())
        return brightness(clips)

    session = Session(Victim(model), Renderer(clips, DARKER, GRID), budget=10)
    candidates = session.renderer.clips[[1, 1]] + torch.tensor([1e-4, 0.9]).view(2, 1, 1, 1, 1)
    response = session.probe_clips(candidates, torch.tensor([1, 1]))
    assert torch.equal(seen[-1], candidates.clamp(0, 1)), "clamped, not rounded"
    assert response.margin.shape == response.success.shape == (2,)
    assert not torch.equal(response.margin[0], session.history["margin"][1, 0])


def test_a_probe_is_counted_and_is_no_success(clips: Tensor) -> None:
    session = open_session(clips)
    rows = torch.tensor([2, 0, 2])
    response = session.probe_clips(torch.zeros_like(session.renderer.clips[rows]), rows)
    assert session.queries.tolist() == [2, 1, 3, 1]
    assert session.victim.queries == 4 + 3
    assert response.success.all(), "the goal holds for the probe"
    assert not session.fooled.any()
    assert torch.equal(session.best, session.renderer.clips)
    assert session.history["margin"][:, 1:].isnan().all()
    assert session.history["l2"][:, 1:].isnan().all()
    asked = session.history["score"].isfinite().sum(1)
    assert asked.tolist() == [2, 1, 3, 1]
    torch.testing.assert_close(session.history["score"][2, 1:3], response.log_probs[[0, 2], 0])


def test_probes_keep_to_the_budget(clips: Tensor) -> None:
    session = open_session(clips, budget=3)
    twice = torch.tensor([1, 1])
    session.probe_clips(session.renderer.clips[twice], twice)
    with pytest.raises(BudgetError, match=r"\[1\]"):
        session.probe_clips(session.renderer.clips[[1]], torch.tensor([1]))
    assert session.queries.tolist() == [1, 3, 1, 1]


def test_a_query_after_probes_is_booked_behind_them(clips: Tensor) -> None:
    session = open_session(clips[:1])
    session.probe_clips(session.renderer.clips[[0, 0]], torch.tensor([0, 0]))
    response = session.query_clips(torch.zeros_like(session.renderer.clips), torch.tensor([0]))
    assert session.history["margin"][0].isnan().tolist() == [False, True, True, False] + [True] * 6
    torch.testing.assert_close(session.history["margin"][0, 3], response.margin[0])
    assert session.fooled.all()


class WithoutFloat64(TorchFunctionMode):
    """Refuses double precision, as Apple's MPS does, of what has not been brought to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.refused, self.brought = 0, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.brought += function is Tensor.cpu
        if function is Tensor.double and not self.brought:
            self.refused += 1
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return function(*args, **kwargs or {})


def test_norms_are_the_same_on_a_device_without_double_precision(clips: Tensor) -> None:
    delta = clips - 0.3 * torch.rand(clips.shape)
    wanted = _l2(delta)
    torch.testing.assert_close(wanted, delta.flatten(1).norm(dim=1))
    with WithoutFloat64() as device:
        norms = _l2(delta)
    assert (device.refused, device.brought) == (1, 1)
    assert torch.equal(norms, wanted)
    assert norms.dtype == torch.float32
