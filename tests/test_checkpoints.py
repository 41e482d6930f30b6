"""Checkpoints of training: they hold all that the training was, nothing in them is executed, and
the last one is there whatever happens."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import warnings
from pathlib import Path

import lightning
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from test_training import OneCell, batches, indexed, module, trainer

from vidmarl import cli
from vidmarl.agents.checkpoint import load_agents, pack_agents, save_agents
from vidmarl.attacks.rl import RLAttack
from vidmarl.data.spec import ClipSpec
from vidmarl.errors import CheckpointError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.training import ppo
from vidmarl.training.checkpoints import CheckpointFiles, LastState
from vidmarl.training.ppo import PPO, TwoAgentPPO
from vidmarl.training.probing import Probing
from vidmarl.training.settings import settings_of
from vidmarl.utils.fingerprints import fingerprint
from vidmarl.victims.victim import Victim


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A checkpoint of one epoch."""
    path = tmp_path_factory.mktemp("trained") / "a.ckpt"
    run = trainer(path.parent, 1)
    run.fit(named(), batches())
    run.save_checkpoint(path)
    return path


def named(**kwargs) -> TwoAgentPPO:
    """A module whose victim has a name, and whose settings are all others than the defaults."""
    settings = {
        "victim": "demo",
        "weights": "random",
        "spec": ClipSpec(frames=4, size=(32, 32)),
        "distortion": {"class_path": "GaussianNoise", "init_args": {"std": 0.3}},
        "grid": TubeletGrid(2, 8, 8),
        "search_cell": 2,
        "coherence": "free",
        "width": 8,
        "depth": 1,
        "longest": 2,
        "apart": False,
        "ppo": PPO(epochs=1, minibatch=32, lr=2e-3),
        "probing": Probing(epochs=0, probes=7),
        "eval_budget": 5,
        "seed": 3,
    }
    return TwoAgentPPO(**(settings | kwargs))


@pytest.mark.thorough
def test_a_module_from_a_checkpoint_has_the_settings_of_its_training(trained):
    again, like = TwoAgentPPO.load_from_checkpoint(trained), named()
    assert settings_of(again) == settings_of(like)
    assert fingerprint(again.agents) == fingerprint(load_agents(trained))
    assert again.agents.trained == load_agents(trained).trained
    assert again.agents.trained["training_queries"] > 0
    again = TwoAgentPPO.load_from_checkpoint(trained, distortion="brightness", ppo=PPO(), victim=Victim(OneCell()))
    assert again.distortion.to_record()["class_path"].endswith("Brightness")
    assert (again.ppo, again.victim.name, again.grid) == (PPO(), "OneCell", like.grid)


OTHER = {
    "distortion": ("brightness", "distortion.class_path: 'vidmarl.distortions.gaussian_noise.GaussianNoise' and not"),
    "grid": (TubeletGrid(2, 8, 4), "grid.width: 8 and not 4"),
    "search_cell": (1, "search_cell: 2 and not 1"),
    "coherence": ("flow", "coherence: 'free' and not 'flow'"),
    "width": (16, "width: 8 and not 16"),
    "longest": (1, "longest: 2 and not 1"),
    "apart": (True, "apart: False and not True"),
    "spec": (ClipSpec(frames=8, size=(32, 32)), "victim.spec.frames: 4 and not 8"),
    "victim": ("r2plus1d_18", "victim.name: 'demo' and not 'r2plus1d_18 (random weights)'"),
}
OTHER_TRAINING = {
    "ppo": (PPO(epochs=1, minibatch=32), "ppo.lr: 0.002 and not 0.001"),
    "probing": (Probing(epochs=0), "probing.probes: 7 and not 40"),
    "seed": (0, "seed: 3 and not 0"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["fit", "validate", "predict"])
def test_a_checkpoint_of_another_training_is_refused_and_the_differences_named(tmp_path, trained, what):
    data = batches() if what == "fit" else indexed(2)

    def go(**other):
        getattr(trainer(tmp_path, 1), what)(named(**other), data, ckpt_path=trained, weights_only=True)

    go(eval_budget=4, out=str(tmp_path))
    for name, (value, difference) in (OTHER | OTHER_TRAINING).items():
        if what == "fit" or name in OTHER:
            with pytest.raises(CheckpointError, match=rf"a\.ckpt: it was trained with .*{re.escape(difference)}"):
                go(**{name: value})
        else:
            go(**{name: value})


@pytest.mark.thorough
def test_a_victim_with_other_weights_is_another_one(tmp_path, trained):
    victim = named().victim
    with torch.no_grad():
        next(victim.model.parameters()).add_(1)
    with pytest.raises(CheckpointError, match=r"trained with victim\.sha256: "):
        trainer(tmp_path, 1).validate(named(victim=victim), indexed(2), ckpt_path=trained)


# -- what a file names is neither imported nor called

EVIL = "import pathlib\npathlib.Path({mark!r}).touch()\n\nclass Evil:\n    pass\n\ndef evil(*_):\n    pass\n"
NAMED_IN_FILES = [
    "evil.Evil",
    {"class_path": "evil.Evil", "init_args": {}},
    {"class_path": "evil.evil"},
    {"class_path": "vidmarl.distortions.base.FunctionDistortion", "init_args": {"function": "evil.evil"}},
    {"class_path": "vidmarl.distortions.FunctionDistortion", "init_args": {"function": "evil.evil"}},
    {"class_path": "FunctionDistortion", "init_args": {"function": "evil.evil"}},
    {"class_path": "GaussianNoise", "init_args": {"std": {"class_path": "evil.Evil"}}},
    {"class_path": "vidmarl.distortions.evil.Evil"},
    {"class_path": "vidmarl.distortions..evil"},
    ["evil.Evil"],
]


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Path:
    """Where the module `evil` in the working folder leaves a mark when it is imported."""
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(EVIL.format(mark=str(mark)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back what commands change
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    return mark


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMED_IN_FILES, ids=str)
def test_a_distortion_that_a_file_names_is_not_imported(mark, name, trained):
    agents = load_agents(trained)
    agents.trained["distortion"] = name
    save_agents("agents.pt", agents)
    poison(trained, "train.ckpt", distortion=name)
    loads = (
        lambda: RLAttack("agents.pt"),
        lambda: RLAttack(load_agents("agents.pt")),
        lambda: RLAttack(Path("train.ckpt")),
        lambda: TwoAgentPPO.load_from_checkpoint("train.ckpt"),
        lambda: trainer(".", 2).fit(named(), batches(), ckpt_path="train.ckpt"),
        lambda: trainer(".").validate(named(), indexed(2), ckpt_path="train.ckpt"),
    )
    for load in loads:
        with pytest.raises(CheckpointError):
            load()
    with pytest.raises(CheckpointError, match=r"cannot be made|not one of vidmarl's own.* distortion="):
        RLAttack("agents.pt")
    assert RLAttack("agents.pt", distortion="brightness").agents.trained["distortion"] == name
    assert "evil" not in sys.modules
    assert not mark.exists()
    __import__("evil")
    assert mark.exists(), "the trap works"
    del sys.modules["evil"]


def poison(source, target, **settings):
    """A training checkpoint of which every setting that could be looked up is another."""
    content = torch.load(source, weights_only=True)
    agents = load_agents(source)
    agents.trained |= settings
    content |= {"vidmarl": pack_agents(agents), "vidmarl_settings": content["vidmarl_settings"] | settings}
    path = {"class_path": "evil.Evil"}
    content["hyper_parameters"] = {"_instantiator": "evil.evil", "distortion": path}
    content["hparams_name"] = "evil.Evil"
    torch.save(content, target)


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["evil.Evil", "evil.evil"])
def test_a_victim_that_a_file_names_is_not_imported(mark, trained, victim):
    poison(trained, "train.ckpt", named={"victim": victim, "weights": None})
    with pytest.raises(CheckpointError, match=r"not one of vidmarl's own.*victim="):
        TwoAgentPPO.load_from_checkpoint("train.ckpt")
    for odd in ({"named": 1}, {"ppo": {"evil": 1}}, {"grid": [1]}, {"probing": None}, {"victim": {}}, {"width": "x"}):
        poison(trained, "train.ckpt", **odd)
        with pytest.raises(CheckpointError, match=r"train\.ckpt"):
            TwoAgentPPO.load_from_checkpoint("train.ckpt")
    assert not mark.exists()


@pytest.mark.thorough
@pytest.mark.parametrize("command", ["attack", "test", "export", "fit", "validate", "predict"])
def test_a_distortion_that_a_file_names_is_not_imported_by_a_command(mark, trained, command, make_video, capsys):
    make_video("clip.mp4", frames=8)
    poison(trained, "train.ckpt", distortion={"class_path": "evil.Evil"})
    victim = "victim: demo\n  weights: random\n  spec: {frames: 4, size: 32}\n"
    folder = "{class_path: vidmarl.data.folder.Folder, init_args: {root: .}}"
    data = f"train: {folder}, batch_size: 1" if command == "fit" else f"test: {folder}, val: {folder}"
    Path("a.yaml").write_text(f"model:\n  {victim}data: {{{data}}}\ntrainer: {{logger: false}}\n")
    words = {
        "attack": "clip.mp4 --victim demo --weights random --out out --agents train.ckpt",
        "export": "train.ckpt agents.pt",
    }.get(command, "-c a.yaml --ckpt_path train.ckpt")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = 0
        cli.main([command, *words.split()])
    except SystemExit as stop:
        code = stop.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capsys.readouterr()
    assert code == (0 if command == "export" else 2), said.err  # which copies what the agents say, and follows nothing
    assert "Traceback" not in said.err
    assert "evil.Evil" in said.err or command == "export"
    assert not mark.exists()


# -- files of checkpoints


@pytest.mark.thorough
def test_a_trainer_writes_checkpoints_whole_unless_it_was_given_another_way(tmp_path):
    class Own(TorchCheckpointIO):
        pass

    for own, expected in ((None, CheckpointFiles), (Own(), Own)):
        run = trainer(tmp_path, 1, plugins=own, limit_train_batches=1)
        run.fit(module(), batches(8))
        assert type(run.strategy.checkpoint_io) is expected


@pytest.mark.thorough
def test_the_last_checkpoint_is_the_last_state_and_not_the_last_that_was_the_best(tmp_path):
    best = ModelCheckpoint(tmp_path / "kept", "best", monitor="charts/orders", mode="min", save_last=True)
    team = module()
    trainer(tmp_path, 3, enable_checkpointing=True, callbacks=[best, LastState()]).fit(team, batches(8))
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["best.ckpt", "last.ckpt"]
    kept = {name: load_agents(tmp_path / "kept" / f"{name}.ckpt") for name in ("best", "last")}
    assert [kept[name].trained["training_orders"] for name in ("best", "last")] == [8 * 4, 3 * 8 * 4]
    assert fingerprint(kept["last"]) == fingerprint(team.agents)


@pytest.mark.thorough
def test_the_last_checkpoint_of_an_earlier_training_stays(tmp_path):
    for _ in range(2):
        trainer(tmp_path, 1, enable_checkpointing=True, callbacks=[LastState()]).fit(module(), batches(8))
    [folder] = {path.parent for path in tmp_path.rglob("*.ckpt")}
    assert sorted(path.name for path in folder.iterdir()) == ["last-v1.ckpt", "last.ckpt"]
    again = trainer(tmp_path, 2, enable_checkpointing=True, callbacks=[LastState()])
    again.fit(module(), batches(8), ckpt_path=folder / "last.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == ["last-v1.ckpt", "last.ckpt"]
    assert load_agents(folder / "last.ckpt").trained["training_orders"] == 2 * 8 * 4


class Breaks(lightning.Callback):
    """Does something at the start of an epoch."""

    def __init__(self, epoch, do) -> None:
        self.epoch, self.do = epoch, do

    def on_train_epoch_start(self, trainer, *_) -> None:
        if trainer.current_epoch == self.epoch:
            self.do()


@pytest.mark.thorough
def test_a_training_that_breaks_off_says_where_its_last_state_is(tmp_path):
    def stop():
        sys.exit(143)

    for epoch in (0, 1):
        callbacks = [LastState(), Breaks(epoch, stop)]
        with pytest.raises(SystemExit) as stopped:
            trainer(tmp_path, 2, enable_checkpointing=True, callbacks=callbacks).fit(module(), batches(8))
        [*last] = tmp_path.rglob("last.ckpt")
        notes = getattr(stopped.value, "__notes__", [])
        assert len(notes) == len(last) == epoch  # of the first epoch nothing is kept
    assert notes[0].startswith(f"Kept in {last[0]}: ")


@pytest.mark.thorough
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    callbacks = [LastState(), Breaks(1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1])))]
    run = trainer(tmp_path, 2, enable_checkpointing=True, callbacks=callbacks)
    try:
        with pytest.raises(OSError, match=r"File too large: .*last\.ckpt") as full:
            run.fit(module(), batches(8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    [last] = tmp_path.rglob("*.ckpt")
    assert load_agents(last).trained["training_orders"] == 8 * 4
    assert os.listdir(last.parent) == ["last.ckpt"]
    assert full.value.__notes__[0].startswith(f"Kept in {last}: ")


@pytest.mark.thorough
def test_checkpoints_that_are_none_are_refused_in_one_line(tmp_path, trained):
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.6"}, tmp_path / "foreign.ckpt")
    save_agents(tmp_path / "agents.pt", load_agents(trained))
    for name, why in (
        ("text.ckpt", "it is damaged, or no file"),
        ("foreign.ckpt", "it holds no vidmarl agents"),
        ("agents.pt", "it holds agents, but no vidmarl_settings to go on with"),
    ):
        for load in (
            lambda path: TwoAgentPPO.load_from_checkpoint(path),
            lambda path: trainer(tmp_path).fit(named(), batches(8), ckpt_path=path),
            lambda path: trainer(tmp_path).validate(named(), indexed(2), ckpt_path=path),
            lambda path: trainer(tmp_path).predict(named(), indexed(2), ckpt_path=path, weights_only=False),
        ):
            with pytest.raises(CheckpointError, match=why) as caught:
                load(tmp_path / name)
            assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        trainer(tmp_path).fit(named(), batches(8), ckpt_path=tmp_path / "nothing.ckpt")


def test_a_named_victim_is_loaded_onto_the_cpu(monkeypatch):
    """Of two processes on two GPUs, each would otherwise load it onto the first."""
    asked = []
    monkeypatch.setattr(ppo, "load_victim", lambda *args, **how: asked.append(how) or Victim(OneCell()))
    module(victim="demo")
    assert asked[0]["device"] == "cpu"
