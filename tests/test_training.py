"""Training: it learns, it resumes exactly, it runs in half precision and on two processes, and its
files are safe."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

import lightning
import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.utils.data import DataLoader

from vidmarl.agents.checkpoint import fresh, list_agents, load_agents, save_agents
from vidmarl.agents.networks import Agents
from vidmarl.agents.observation import look
from vidmarl.attacks.result import AttackResult
from vidmarl.attacks.rl import RLAttack
from vidmarl.errors import CheckpointError, UnknownNameError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.training.ppo import PPO, TwoAgentPPO
from vidmarl.training.probing import Probing
from vidmarl.utils.fingerprints import fingerprint
from vidmarl.victims.victim import Victim


class OneCell(nn.Module):
    """Looks at the brightness of one tubelet alone: class 0 where it is bright. Counts what it is
    shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, clips):
        self.seen += len(clips)
        score = 30 * (clips[:, :, 1, 8:16, 16:24].mean((1, 2, 3)) - 0.42)
        return torch.stack([score, -score], 1)


def clips(n: int = 16) -> torch.Tensor:
    return 0.4 + 0.2 * torch.rand(n, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


def module(**kwargs) -> TwoAgentPPO:
    settings = {
        "distortion": "brightness",
        "grid": TubeletGrid(1, 8, 8),
        "width": 8,
        "depth": 1,
        "ppo": PPO(epochs=2, minibatch=32, lr=1e-2, target_kl=None),
        "longest": 16,
        "eval_budget": 12,
        "probing": PLAY,
    }
    return TwoAgentPPO(**({"victim": Victim(OneCell())} | settings | kwargs))


def trainer(path, epochs=2, **kwargs) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=path,
        **(quiet | {"enable_checkpointing": False} | kwargs),
    )


def batches(n: int = 16) -> DataLoader:
    return DataLoader(clips(n), batch_size=8)


def state(agents) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agents.parameters()])


class Logged(lightning.Callback):
    """Keeps what is logged after every batch."""

    def __init__(self) -> None:
        self.rows = []

    def on_train_batch_end(self, trainer, *args) -> None:
        self.rows.append({k: float(v) for k, v in trainer.logged_metrics.items()})


PLAY = Probing(epochs=0)
PROBED = Probing(epochs=1, probes=6, updates=3, minibatch=4)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_first_ratio_of_every_step_is_one(tmp_path, precision):
    log = Logged()
    trainer(tmp_path, 1, precision=precision, callbacks=[log]).fit(module(), batches())
    assert len(log.rows) == 2
    for row in log.rows:
        assert row["losses/first_ratio"] == pytest.approx(1, abs=1e-5)
        assert row["losses/ratio"] != pytest.approx(1, abs=1e-5), "after the first update it is not"
    expected = {"approx_kl", "clipfrac", "policy_loss", "fooling_rate", "l2"}
    assert expected <= {key.split("/")[1] for key in log.rows[-1]}
    assert log.rows[-1]["charts/orders"] == 2 * 8 * PPO().orders


@pytest.mark.thorough
@pytest.mark.parametrize("probing", [PLAY, PROBED], ids=["play", "probing"])
def test_in_half_precision_every_update_starts_from_the_one_before(tmp_path, monkeypatch, probing):
    """What autocast keeps of the weights does not outlive them."""
    compared, descend = [], TwoAgentPPO._descend

    def check(team, *args):
        descend(team, *args)
        with torch.no_grad():
            seen = look(team._session(team.pairs[0], clips(2), 1, 0), torch.arange(2))
            before = team.agents.rank(seen)
            torch.clear_autocast_cache()
            compared.append(torch.equal(before, team.agents.rank(seen)))

    monkeypatch.setattr(TwoAgentPPO, "_descend", check)
    trainer(tmp_path, 1, precision="bf16-mixed").fit(module(probing=probing), batches(8))
    assert len(compared) == (3 if probing.epochs else 2)
    assert all(compared)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_logged_queries_are_those_that_reached_the_model(tmp_path, precision):
    team = module()
    trainer(tmp_path, 2, precision=precision).fit(team, batches())
    assert int(team.counts[2]) == team.victim.model.seen == team.victim.queries
    assert team.agents.trained["training_queries"] == team.victim.queries
    assert team.agents.trained["training_orders"] == 2 * 2 * 8 * PPO().orders


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_probing_comes_before_play_and_its_queries_count(tmp_path, precision):
    log = Logged()
    team = module(probing=PROBED)
    run = trainer(tmp_path, 2, callbacks=[log], precision=precision)
    run.fit(team, batches())
    warm, play = log.rows[:2], log.rows[2:]
    for row in warm:
        assert {"probing/loss", "probing/correlation", "probing/correlation_before"} <= row.keys()
        assert row["charts/orders"] == 0
    assert warm[1]["charts/queries"] == 2 * 8 * (1 + 6)  # the clean prediction and the probes of each clip
    assert all(row["losses/first_ratio"] == pytest.approx(1, abs=1e-5) for row in play)
    assert play[-1]["charts/orders"] == 2 * 8 * PPO().orders
    assert int(team.counts[2]) == team.victim.model.seen
    assert team._replay == {}, "the probes are forgotten"
    assert all(group["lr"] == team.ppo.lr for group in team.optimizers().param_groups)
    steps = {int(moments["step"]) for moments in run.optimizers[0].state.values()}
    assert steps == {4}, "play does not begin with the moments of probing: two batches, two passes over each"


@pytest.mark.thorough
def test_passes_end_where_the_agents_have_strayed(tmp_path):
    passes = []
    for target in (None, 1e-9):
        run = trainer(tmp_path, 1)
        play = PPO(epochs=5, minibatch=32, lr=1e-2, target_kl=target)
        run.fit(module(ppo=play, apart=False), batches(8))
        passes.append({int(moments["step"]) for moments in run.optimizers[0].state.values()})
    assert passes == [{5}, {2}]  # in the first pass nothing has changed yet


@pytest.mark.parametrize(
    ("settings", "name", "value", "least"),
    [
        (PPO, "orders", 1, 2),  # a single order has no baseline
        (PPO, "epochs", 0, 1),
        (PPO, "minibatch", 0, 1),
        (PPO, "lr", 0.0, 1e-15),
        (PPO, "clip", -0.2, 1e-15),
        (PPO, "max_grad_norm", 0.0, 1e-15),
        (Probing, "epochs", -1, 0),
        (Probing, "probes", 0, 1),
        (Probing, "updates", 0, 1),
        (Probing, "minibatch", 0, 1),
        (Probing, "lr", -1e-3, 1e-15),
        (Probing, "beta", 0.0, 1e-15),
    ],
)
def test_settings_that_learn_nothing_are_refused(settings, name, value, least):
    with pytest.raises(ValueError, match=f"{settings.__name__}: {name} must be at least {least}, got {value}"):
        settings(**{name: value})


# -- the probes that probing goes by


def probed(numbers, cells=3):
    """Probes of clips, told apart by a number; `cells` makes their shape."""
    tubelets = torch.tensor(numbers)[:, None].expand(-1, 2).clone()
    seen = TensorDict({"features": torch.zeros(len(numbers), 5, 1, 1, cells)}, batch_size=[len(numbers)])
    return TensorDict({"tubelets": tubelets, "seen": seen}, batch_size=[len(numbers)])


def test_probes_are_drawn_from_all_clips_of_a_shape_and_from_no_others():
    team = module(probing=Probing(minibatch=200))
    for some in (probed([1, 2]), probed([7, 8, 9], cells=4), probed([3])):
        team._remember(some)
    assert [len(known) for known in team._replay.values()] == [3, 3]
    for known, expected, cells in zip(team._replay.values(), ({1, 2, 3}, {7, 8, 9}), (3, 4), strict=True):
        known.set_rng(torch.Generator().manual_seed(0))
        drawn = known.sample()
        assert set(drawn["tubelets"].flatten().tolist()) == expected
        assert drawn["seen", "features"].shape == (200, 5, 1, 1, cells)
        known.set_rng(torch.Generator().manual_seed(0))
        assert torch.equal(known.sample()["tubelets"], drawn["tubelets"]), "the seed says which"


@pytest.mark.thorough
def test_validation_probes_held_out_clips_once_and_the_correlation_grows(tmp_path):
    class Held(lightning.Callback):
        def __init__(self) -> None:
            self.rows = []

        def on_validation_end(self, trainer, *args) -> None:
            self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})

    held, loader = Held(), DataLoader(list(zip(clips(8), range(8), strict=True)), batch_size=4)
    team = module(probing=Probing(epochs=3, probes=12, updates=20, minibatch=8), eval_budget=2)
    settings = {"callbacks": [held], "num_sanity_val_steps": 0, "limit_val_batches": None}
    trainer(tmp_path, 3, **settings).fit(team, batches(), loader)
    found = [row["val/correlation"] for row in held.rows]
    assert len(found) == 3
    assert found[-1] > found[0]
    probed = 8 * (1 + 48)  # four times as many probes a held-out clip, once
    attacked = 3 * 8 * 2
    assert int(team.counts[2]) == 3 * 16 * (1 + 12) + probed == team.victim.model.seen - attacked
    assert team.agents.trained["training_queries"] == int(team.counts[2])
    seen = team.victim.model.seen
    trainer(tmp_path, 3).validate(team, loader)
    assert team.victim.model.seen == seen + 8 * 2, "without a fit nothing is probed"


def test_another_fit_goes_by_probes_of_its_own(tmp_path):
    team = module(probing=PROBED)
    for n in (8, 16):
        trainer(tmp_path, 1).fit(team, batches(n))
        assert [len(known) for known in team._replay.values()] == [n]


@pytest.mark.thorough
def test_probing_changes_both_agents_and_follows_from_the_seed(tmp_path):
    settings = {"probing": Probing(epochs=1, probes=40, updates=3, minibatch=4)}
    one, two, other = module(**settings), module(**settings), module(seed=1, **settings)
    before = {key: value.clone() for key, value in one.agents.state_dict().items()}
    for name, team in (("one", one), ("two", two), ("other", other)):
        torch.manual_seed(sum(name.encode()))  # whatever has happened before
        trainer(tmp_path / name, 1).fit(team, batches())
    assert torch.equal(state(one.agents), state(two.agents))
    assert not torch.equal(state(one.agents), state(other.agents))
    changed = {
        key.split(".")[0] for key, value in one.agents.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"temporal", "spatial"}


@pytest.mark.slow
def test_training_finds_the_cell_that_matters(tmp_path):
    """After training, the agents need fewer queries than before it, on clips that they have not
    seen."""
    team = module(ppo=PPO(epochs=4, minibatch=64, lr=1e-2, target_kl=None))
    unseen = 0.4 + 0.2 * torch.rand(32, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    before = team.attack(12)(team.victim, unseen)
    trainer(tmp_path, 25).fit(team, batches(32))
    after = team.attack(12)(team.victim, unseen)

    def first(result):
        wins = result.history["margin"] < 0
        return torch.where(wins.any(1), wins.int().argmax(1), 12).float().mean()

    assert after.success.float().mean() >= before.success.float().mean()
    assert first(after) < 0.7 * first(before)


@pytest.mark.thorough
@pytest.mark.parametrize("distortion", ["brightness", "gaussian_noise"])
@pytest.mark.parametrize("probing_epochs", [0, 1])
def test_a_resumed_run_goes_on_exactly(tmp_path, probing_epochs, distortion):
    """Also where the distortion is random: a step draws it from its own seed."""
    settings = {"probing": dataclasses.replace(PROBED, epochs=probing_epochs), "distortion": distortion}
    whole = module(**settings)
    trainer(tmp_path / "whole", 3).fit(whole, batches())
    half = module(**settings)
    run = trainer(tmp_path / "half", 1, enable_checkpointing=True)
    run.fit(half, batches())
    run.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(123)  # whatever else has happened in between
    rest = module(**settings)
    trainer(tmp_path / "rest", 3).fit(rest, batches(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert torch.equal(state(whole.agents), state(rest.agents))
    assert torch.equal(whole.counts, rest.counts)


@pytest.mark.thorough
def test_checkpoints_hold_plain_data_and_make_an_attack(tmp_path):
    team = module(search_cell=2)
    run = trainer(tmp_path, 1)
    run.fit(team, batches())
    run.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    attack = RLAttack(tmp_path / "a.ckpt", budget=9, progress=False)
    assert torch.equal(state(attack.agents), state(team.agents))
    assert (attack.grid, attack.search_cell, attack.coherence) == (team.grid, 2, "static")
    assert attack.distortion.to_record() == team.distortion.to_record()
    assert attack.agents.trained == team.agents.trained
    assert attack.agents.trained["training_queries"] == team.victim.queries
    result = attack(team.victim, clips(4))
    assert (result.queries <= 9).all()


@pytest.mark.thorough
def test_a_module_from_a_checkpoint_knows_what_its_training_has_cost(tmp_path):
    team = module()
    run = trainer(tmp_path, 1)
    run.fit(team, batches())
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = module()
    assert again.agents.trained["training_queries"] == 0
    trainer(tmp_path, 1).validate(again, indexed(), ckpt_path=tmp_path / "a.ckpt", verbose=False, weights_only=True)
    assert again.agents.trained == team.agents.trained


def test_files_of_agents_round_trip_and_are_small(tmp_path):
    agents = module().agents
    agents.trained["note"] = "here"
    save_agents(tmp_path / "agents.ckpt", agents)
    again = load_agents(tmp_path / "agents.ckpt")
    assert torch.equal(state(agents), state(again))
    assert again.trained == agents.trained
    assert load_agents(again) is again
    assert fingerprint(again) == fingerprint(agents) != fingerprint(fresh(agents, seed=1))
    assert (tmp_path / "agents.ckpt").stat().st_size < 1e6
    assert [p.name for p in tmp_path.iterdir()] == ["agents.ckpt"]


@pytest.mark.thorough
@pytest.mark.parametrize("only", [["spatial"], ["temporal"], ["spatial", "temporal"]])
def test_a_fresh_team_keeps_what_it_was_not_asked_to_forget(only):
    agents = load_agents("gaussian_noise")
    kept, new = agents.state_dict(), fresh(agents, 1, only)
    changed = {key.split(".")[0] for key, value in new.state_dict().items() if not torch.equal(value, kept[key])}
    assert changed == {*only}
    assert torch.equal(state(new), state(fresh(agents, 1, only)))
    assert torch.equal(state(agents), state(load_agents("gaussian_noise"))), "the team itself stays"
    spent = {} if len(only) == 1 else {"training_orders": 0, "training_queries": 0}
    assert new.trained == agents.trained | spent
    for nobody in ([], ["judge"], ["spatial", "judge"]):
        with pytest.raises(ValueError, match=r"expected some of \('spatial', 'temporal'\), got "):
            fresh(agents, only=nobody)


def test_shipped_agents_say_what_they_were_trained_for():
    assert {"dead_pixels", "gaussian_blur", "gaussian_noise"} <= set(list_agents())
    for name in list_agents():
        trained = load_agents(name).trained
        assert {"victim", "grid", "search_cell", "coherence", "training_orders", "training_queries"} <= trained.keys()
        assert trained["distortion"]["class_path"].rpartition(".")[0].endswith(name)
    with pytest.raises(UnknownNameError, match="did you mean gaussian_blur"):
        load_agents("gausian_blur")


@pytest.mark.thorough
def test_unusable_checkpoints_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_agents(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.ckpt, but it is damaged"):
        load_agents(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="no vidmarl agents"):
        load_agents(tmp_path / "other.ckpt")
    save_agents(tmp_path / "a.ckpt", module().agents)
    packed = torch.load(tmp_path / "a.ckpt", weights_only=True)
    for version in (6, 99):
        torch.save(packed | {"version": version}, tmp_path / "other_version.ckpt")
        with pytest.raises(CheckpointError, match=f"version {version}.*Train again"):
            load_agents(tmp_path / "other_version.ckpt")
    trained, config, weights = packed["trained"], packed["config"], packed["state_dict"]
    flipped = {name: -value if name.startswith("spatial") else value for name, value in weights.items()}
    for other, why in (
        ({"config": config | {"width": 9}}, "size mismatch"),
        ({"config": config | {"width": 10**12}}, "width must be a whole number from 1 to 4096"),
        ({"config": config | {"depth": 10**6}}, "depth must be a whole number from 1 to 64"),
        ({"config": 1}, "mapping"),
        ({"trained": trained | {"training_queries": 13}}, "its checksum is another"),
        ({"trained": None}, "its checksum is another"),
        ({"state_dict": flipped}, "its checksum is another"),
        ({"state_dict": dict.fromkeys(weights, "text")}, "."),
        ({"sha256": "0" * 64}, "its checksum is another"),
    ):
        torch.save(packed | other, tmp_path / "odd.ckpt")
        with pytest.raises(CheckpointError, match=rf"odd.ckpt: its content does not fit together \((?s:.*){why}"):
            load_agents(tmp_path / "odd.ckpt")
    for odd in ({"grid": "x"}, {"search_cell": "x"}, {"search_cell": 2.0}):
        save_agents(tmp_path / "odd.ckpt", Agents(module().agents.config, trained | odd))
        with pytest.raises(CheckpointError, match="fit together"):
            load_agents(tmp_path / "odd.ckpt")


def test_loading_agents_draws_nothing_from_the_generator_of_the_caller():
    before = torch.get_rng_state()
    load_agents("gaussian_noise")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.thorough
def test_predictions_are_saved_attacks(tmp_path):
    team = module(out=str(tmp_path))
    (folder, _) = trainer(tmp_path).predict(team, indexed(6))
    result = AttackResult.load(folder)
    assert len(result.queries) == 4
    assert (result.queries <= team.eval_budget).all()


def indexed(n=6):
    """Batches of clips with their indices, as for an evaluation."""
    return DataLoader(list(enumerate(clips(n))), batch_size=4, collate_fn=index_last)


def index_last(items):
    return torch.stack([clip for _, clip in items]), torch.tensor([i for i, _ in items])


DDP = """
    import sys, torch, lightning
    sys.path.insert(0, {tests!r})
    from torch.utils.data import DataLoader
    import test_training as t

    def say(*words):
        sys.stdout.write(" ".join(map(str, words)) + "\\n")  # in one piece: two processes write to one pipe
        sys.stdout.flush()

    if __name__ == "__main__":
        class Seen(lightning.Callback):
            def on_train_batch_start(self, trainer, module, batch, index):
                rows = [int((t.clips() == clip).flatten(1).all(1).nonzero()) for clip in batch]
                say("CLIPS", trainer.global_rank, *rows)
            def on_train_end(self, trainer, module):
                say("PARAMS", trainer.global_rank, float(t.state(module.agents).double().square().sum()),
                    *module.counts.tolist())
        team = t.module(out={out!r}, probing=t.PROBED)
        run = t.trainer({out!r}, 2, strategy="ddp", devices=2, callbacks=[Seen()])
        run.fit(team, DataLoader(t.clips(), batch_size=4))
"""


@pytest.mark.slow
def test_two_processes_share_the_clips_and_agree_on_the_parameters(tmp_path):
    """In an epoch of probing, then in one of play."""
    script = tmp_path / "ddp.py"
    script.write_text(textwrap.dedent(DDP.format(tests=str(Path(__file__).parent), out=str(tmp_path))))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    shares = {rank: [] for rank in "01"}
    for _, rank, *rows in (line for line in lines if line[:1] == ["CLIPS"]):
        shares[rank] += rows
    for epoch in (slice(8), slice(8, 16)):
        assert len({*shares["0"][epoch], *shares["1"][epoch]}) == 16
    params = [line[2:] for line in lines if line[:1] == ["PARAMS"]]
    assert len(params) == 2
    assert params[0] == params[1]
