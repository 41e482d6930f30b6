"""Probing: its probes are counted queries, and the team learns from them where and when
to distort."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from vidmarl.agents.features import CHANNELS, SMALLEST_COST
from vidmarl.agents.networks import Agents, AgentsConfig
from vidmarl.agents.observation import STATE, look
from vidmarl.agents.tubelets import WIDTHS, lengths
from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.session import Session
from vidmarl.training import probing
from vidmarl.training.probing import SMALLEST_MARGIN, Probing, probing_loss
from vidmarl.victims.victim import Victim

T, SIDE = 4, 4
FRAME, CELL = 3, 15
"""The one tubelet that matters: in the last frame, on the bottom right."""


class OneTubelet(nn.Module):
    """Looks at the brightness of one tubelet alone; counts what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, clips: Tensor) -> Tensor:
        self.seen += len(clips)
        score = 20 * clips[:, :, FRAME, 24:, 24:].mean((1, 2, 3)) - 4
        return torch.stack([score, -score], 1)


def darken(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    return clips * (1 - 0.8 * strength)


def session(n: int = 12, budget: int = 65, distortion=darken, search_cell: int = 1) -> Session:
    colours = 0.4 + 0.4 * torch.rand(n, 3, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    clips = colours.expand(-1, -1, T, 8 * SIDE, 8 * SIDE)
    renderer = Renderer(clips, as_distortion(distortion), TubeletGrid(1, 8, 8), search_cell=search_cell)
    return Session(Victim(OneTubelet()), renderer, budget=budget)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def agents(seed: int = 0) -> Agents:
    torch.manual_seed(seed)
    return Agents(AgentsConfig(CHANNELS, len(STATE), width=16, depth=1, longest=WIDTHS[-1]))


def probe(books: Session, count: int, source: torch.Generator, longest: int = WIDTHS[-1]) -> TensorDict:
    """Probes of tubelets that last as long as those of `agents`, and the maps asked about."""
    asked: list[Tensor] = []
    books.query = lambda strength, rows: asked.append(strength) or Session.query(books, strength, rows)
    probes = probing.probe(books, count, source, longest=longest)
    del books.query
    return probes.set("maps", torch.stack(asked, 1))


def learn(probes: TensorDict, updates: int) -> tuple[Agents, list[float]]:
    team, losses = agents(), []
    optimizer = torch.optim.Adam(team.parameters(), lr=1e-2)
    for _ in range(updates):
        loss, _ = probing_loss(team, probes, Probing())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return team, losses


def it(probes: TensorDict) -> Tensor:
    """Which probes touch the one tubelet that matters."""
    return probes["maps"][:, :, FRAME].flatten(2)[..., CELL] != 0


def differing(probes: TensorDict, **entries: Tensor) -> TensorDict:
    """The same probes, had something else come of them."""
    return probes.copy().update(entries)


# --- probing


@pytest.mark.parametrize("search_cell", [1, 2])
def test_probes_are_counted_queries_of_one_tubelet_each(search_cell: int) -> None:
    books = session(n=3, search_cell=search_cell)
    model, shape = books.victim.model, books.renderer.coarse_shape
    before = model.seen
    probes = probe(books, 10, generator())
    assert model.seen - before == 3 * 10
    assert books.queries.tolist() == [1 + 10] * 3
    assert probes["tubelets"].shape == probes["drops"].shape == probes["costs"].shape == (3, 10)
    fits = lengths(T, WIDTHS[-1])
    assert all(len({index // fits for index in row}) == 10 for row in probes["tubelets"].tolist())
    for i, strength in enumerate(probes["maps"].unbind(1)):
        for row, cells in enumerate(strength.flatten(2).unbind()):
            cell, width = divmod(int(probes["tubelets"][row, i]), fits)
            frame, place = divmod(cell, shape[1] * shape[2])
            width = WIDTHS[width]
            lasts = [0 <= t - frame + width // 2 < width for t in range(T)]
            assert cells[:, place].ne(0).tolist() == lasts
            assert int(cells.count_nonzero()) == sum(lasts)


@pytest.mark.thorough
def test_drops_are_those_of_the_margin_over_the_clean_margin() -> None:
    books = session(n=4)
    probes = probe(books, T * SIDE**2, generator())
    cells = probes["tubelets"] // lengths(T, WIDTHS[-1])
    assert all(len(set(row)) == T * SIDE**2 for row in cells.tolist())  # asked about every cell once
    matters = it(probes)
    assert matters.any(1).all()
    assert probes["drops"][~matters].abs().max() < 1e-5
    assert torch.allclose(probes["costs"], probes["maps"].flatten(2).count_nonzero(2) + SMALLEST_COST, rtol=0.05)
    bright = books.renderer.clips[:, :, FRAME, 24:, 24:].mean((1, 2, 3))
    strength = torch.zeros(4, *books.renderer.coarse_shape)
    strength[:, FRAME, CELL // SIDE, CELL % SIDE] = 1
    dark = books.renderer.render(strength)[:, :, FRAME, 24:, 24:].mean((1, 2, 3))
    expected = (20 * (bright - dark) / (20 * bright - 4))[:, None].expand_as(probes["drops"])
    assert torch.allclose(probes["drops"][matters], expected[matters], atol=1e-4)


@pytest.mark.parametrize(("margin", "over"), [(2.0, 2.0), (1e-3, SMALLEST_MARGIN), (-1.0, SMALLEST_MARGIN)])
def test_drops_are_shares_of_the_clean_margin_unless_that_is_tiny(monkeypatch, margin: float, over: float) -> None:
    usual = probe(session(n=2), 9, generator())
    clean = usual["seen", "known", "clean_margin"][:, None]
    left = clean - clean * usual["drops"]

    def other(*args) -> TensorDict:
        td = look(*args)
        td["known", "clean_margin"] = torch.tensor([margin, 4.0])
        return td

    monkeypatch.setattr(probing, "look", other)
    drops = probe(session(n=2), 9, generator())["drops"]
    expected = (torch.tensor([[margin], [4.0]]) - left) / torch.tensor([[over], [4.0]])
    assert torch.allclose(drops, expected, rtol=1e-4, atol=1e-4)


def test_directions_are_both_where_the_distortion_has_two() -> None:
    one, two = (probe(session(n=4, distortion=name), 20, generator())["maps"] for name in (darken, "brightness"))
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert set(two.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert 0.2 < two[two != 0].eq(1).float().mean() < 0.8
    inside = two[..., 1:, :, :] * two[..., :-1, :, :]
    assert (inside < 0).any()
    assert not (inside > 0).any()  # what lasts turns from frame to frame


def test_more_probes_than_cells_are_as_many_as_there_are_cells() -> None:
    assert probe(session(n=2, budget=100, search_cell=4), 50, generator())["tubelets"].shape == (2, T)


def test_clips_that_are_skipped_are_not_probed() -> None:
    books = session(n=4)
    books.finished[1] = True
    assert len(probe(books, 5, generator())) == 3
    assert books.queries.tolist() == [6, 1, 6, 6]


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_probes_last_no_longer_than_tubelets_may(longest: int) -> None:
    probes = probe(session(n=2), 40, generator(), longest=longest)
    lasting = probes["maps"].flatten(2).count_nonzero(2)
    assert set(lasting.flatten().tolist()) == {1, *WIDTHS[: lengths(T, longest)]}
    single = torch.tensor(WIDTHS)[probes["tubelets"] % lengths(T, longest)] == 1
    assert lasting[single].eq(1).all()


# --- what is made of them


@pytest.mark.thorough
def test_the_loss_trains_both_agents_and_leaves_the_probes_alone() -> None:
    probes = probe(session(), 30, generator())
    before = probes.clone()
    team = agents()
    loss, correlation = probing_loss(team, probes, Probing())
    loss.backward()
    assert correlation.detach().abs() <= 1
    for head in (team.temporal.module.frames, team.temporal.module.widths, team.spatial.module.cells):
        assert head.weight.grad.abs().sum() > 0
    for key in before.keys(include_nested=True, leaves_only=True):
        assert torch.equal(before[key], probes[key]), key


@pytest.mark.thorough
def test_a_team_that_chooses_among_equals_by_chance_makes_no_error() -> None:
    """Log-probabilities know no level, so what counts is how the drops of a clip differ for what
    they cost."""
    probes = probe(session(), 30, generator())
    flat = differing(probes, drops=0.3 * probes["costs"])
    loss, _ = probing_loss(agents(), flat, Probing())
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)  # an untrained team is uniform, and so is the target


@pytest.mark.thorough
def test_a_team_that_says_what_probes_are_worth_makes_no_error(monkeypatch) -> None:
    """Up to a level for each clip, logits are `beta` times the drop for each unit of cost, over the
    root mean square of these; what is taken back is worth nothing."""
    probes, team, beta = probe(session(), 30, generator()), agents(), Probing().beta
    probes = differing(probes, drops=torch.randn(probes["drops"].shape, generator=generator()))
    worth = probes["drops"].clamp_min(0) / probes["costs"]
    logits = beta * worth / worth.square().mean(1, keepdim=True).sqrt() + torch.arange(len(worth))[:, None]
    every = torch.zeros(len(worth), T * SIDE**2 * lengths(T, WIDTHS[-1])).scatter(1, probes["tubelets"], logits)
    monkeypatch.setattr(team, "rank", lambda td: every)
    loss, correlation = probing_loss(team, probes, Probing())
    assert float(loss) == pytest.approx(0, abs=1e-9)
    assert float(correlation) == pytest.approx(1)
    every += beta / 3 * (every != 0) * torch.randn(every.shape, generator=generator())
    assert float(probing_loss(team, probes, Probing())[0]) > 0.01


def test_what_is_taken_back_is_worth_nothing_however_much_it_harms() -> None:
    probes = probe(session(), 30, generator())
    drops = torch.where(torch.rand(probes["drops"].shape, generator=generator()) < 0.5, -1.0, 0.2)
    harmful, useless = (differing(probes, drops=drops.clamp_min(low)) for low in (-torch.inf, 0.0))
    one, other = (probing_loss(agents(), p, Probing())[0].detach() for p in (harmful, useless))
    assert torch.equal(one, other)
    assert other > 0


@pytest.fixture(scope="module")
def learnt() -> tuple[Agents, list[float]]:
    return learn(probe(session(n=24), 40, generator()), 80)


@pytest.mark.thorough
def test_the_team_learns_which_tubelet_matters(learnt) -> None:
    team, losses = learnt
    assert sum(losses[-10:]) < sum(losses[:10])
    with torch.no_grad():
        td = team.temporal(team.spatial(look(session(n=6), torch.arange(6))))
    assert td["temporal", "frame_logits"].argmax(-1).eq(FRAME).all()
    assert td["spatial", "cell_logits"][:, FRAME].flatten(1).argmax(-1).eq(CELL).all()


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_team() -> None:
    def once(seed: int) -> Tensor:
        team, _ = learn(probe(session(n=4), 20, generator(seed)), 3)
        return torch.cat([p.detach().flatten() for p in team.parameters()])

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
