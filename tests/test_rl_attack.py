"""The attack by the agents keeps the same books as every other attack."""

from __future__ import annotations

import pytest
import torch
from test_training import OneCell, clips

from vidmarl.agents import Agents, AgentsConfig
from vidmarl.attacks.rl import RLAttack
from vidmarl.env import MAPS, STATE
from vidmarl.features import CHANNELS
from vidmarl.goals import Misclassify, Target
from vidmarl.jobs import make_attack
from vidmarl.pretrained import find_agents, list_pretrained
from vidmarl.tubelets import TubeletGrid
from vidmarl.victim import Victim


def attack(budget: int = 25, **kwargs) -> RLAttack:
    torch.manual_seed(0)
    agents = Agents(AgentsConfig(CHANNELS, MAPS, STATE, width=8, depth=1))
    with torch.no_grad():
        for parameter in agents.parameters():  # not flat, as trained agents are not
            parameter += 0.1 * torch.randn_like(parameter)
    settings = {"distortion": "brightness", "grid": TubeletGrid(1, 8, 8), "progress": False}
    return RLAttack(agents, budget=budget, **(settings | kwargs))


@pytest.mark.parametrize("budget", [1, 2, 25])
def test_queries_are_the_clips_that_reached_the_model(budget):
    victim = Victim(OneCell())
    result = attack(budget)(victim, clips(6))
    assert int(result.queries.sum()) == victim.model.seen
    assert (result.queries <= budget).all()
    assert not result.success.any() or budget > 1


def test_a_success_holds_for_the_clip_as_returned():
    victim = Victim(OneCell())
    result = attack()(victim, clips(6))
    assert result.success.any()
    said = victim(result.adversarial).argmax(1)
    assert torch.equal(said != result.prediction, result.success)
    assert torch.equal((result.adversarial * 255).round() / 255, result.adversarial)


def test_a_clip_alone_gives_what_it_gives_in_a_batch():
    together, alone = attack()(Victim(OneCell()), clips(5)), attack()(Victim(OneCell()), clips(5)[3:4])
    assert torch.equal(together.adversarial[3:4], alone.adversarial)
    assert torch.equal(together.queries[3:4], alone.queries)


def test_clips_already_wrong_are_skipped_for_one_query():
    victim = Victim(OneCell())
    wrong = 1 - victim(clips(3)).argmax(1)
    before = victim.model.seen
    result = attack()(victim, clips(3), Misclassify(wrong))
    assert result.skipped.all()
    assert not result.success.any()
    assert victim.model.seen - before == 3
    assert torch.equal(result.adversarial, result.clean)


def test_a_target_is_reached():
    victim = Victim(OneCell())
    target = 1 - victim(clips(4)).argmax(1)
    result = attack(60)(victim, clips(4), Target(target))
    assert result.success.any()
    assert torch.equal(victim(result.adversarial).argmax(1)[result.success], target[result.success])


def test_without_the_clean_up_it_stops_when_the_agents_find_no_more():
    """The agents' own removals go on after the first success, the shared clean-up is left out."""
    own, cleaned = (attack(60, reduce=reduce)(Victim(OneCell()), clips(4)) for reduce in (False, True))
    wins = own.history["margin"] < 0
    assert own.success.any()
    assert (own.queries <= cleaned.queries).all()
    for row in own.success.nonzero().flatten().tolist():
        spent = int(own.queries[row])
        assert torch.equal(own.history["margin"][row, :spent], cleaned.history["margin"][row, :spent])
        size = (own.adversarial - own.clean)[row].norm()
        assert float(size) == pytest.approx(float(own.history["l2"][row][wins[row]].min()), abs=1e-4)
        first = int(wins[row].int().argmax())
        assert (own.history["l2"][row, first:spent] <= own.history["l2"][row, first]).all()


@pytest.mark.parametrize("zoom", [2, 3])
def test_agents_of_large_cells_work_on_a_fine_grid(zoom):
    victim = Victim(OneCell())
    result = attack(60, zoom=zoom, reduce=False)(victim, clips(4))
    assert int(result.queries.sum()) == victim.model.seen
    assert result.success.any()
    assert result.strength.shape == (4, 4, 4, 4)
    blocks = result.strength[:, :, :zoom, :zoom].flatten(2)
    assert blocks.eq(blocks[..., :1]).all()


def test_a_team_with_one_agent_afresh_is_another_attack():
    whole, half = attack(20), attack(20, untrained=["temporal"])
    assert half.describe()["untrained"] == ["temporal"]
    one, other = (a(Victim(OneCell()), clips(4)).history["margin"] for a in (whole, half))
    assert one.shape != other.shape or not torch.equal(one.nan_to_num(), other.nan_to_num())
    with pytest.raises(ValueError, match="temporal"):
        attack(untrained=["critic"])


def test_without_patience_the_agents_take_nothing_away():
    """The attack ends at the first success; what is left is the shared clean-up's."""
    result = attack(60, patience=0, reduce=False)(Victim(OneCell()), clips(4))
    first = (result.history["margin"] < 0).int().argmax(1) + 1
    assert result.success.any()
    assert torch.equal(result.queries[result.success], first[result.success])


@pytest.mark.parametrize("name", list_pretrained())
def test_shipped_agents_work_out_of_the_box_on_any_victim(name):
    shipped = RLAttack.from_pretrained(name, budget=20, progress=False)
    assert shipped.describe()["distortion"]["class_path"].rpartition(".")[0].endswith(name)
    assert find_agents(name).stat().st_size < 1_000_000
    result = shipped(Victim(OneCell()), clips(2))
    assert (result.queries <= 20).all()


def test_shipped_agents_are_taken_for_their_distortion():
    assert {"dead_pixels", "gaussian_blur", "gaussian_noise"} <= set(list_pretrained())
    made = make_attack("rl", distortion="dead_pixels", budget=5)
    assert isinstance(made, RLAttack)
    wanted = RLAttack.from_pretrained("dead_pixels").agents.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in made.agents.state_dict().items())
    with pytest.raises(ValueError, match="none ship with vidmarl for the distortion 'glare'"):
        make_attack("rl", distortion="glare")
