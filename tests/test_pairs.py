"""One training against several victims and with several distortions: every pair has its turn, and
nothing else changes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import lightning
import pandas as pd
import pytest
import torch
from test_checkpoints import named
from test_training import PLAY, Logged, OneCell, batches, indexed, module, state, trainer

from vidmarl.agents.checkpoint import load_agents, save_agents
from vidmarl.attacks.result import AttackResult
from vidmarl.attacks.rl import RLAttack
from vidmarl.data.spec import ClipSpec
from vidmarl.distortions import as_distortion
from vidmarl.errors import CheckpointError, SettingsError, UnknownNameError
from vidmarl.training import ppo
from vidmarl.training.pairs import Pair, make_pairs
from vidmarl.training.ppo import TwoAgentPPO
from vidmarl.training.probing import Probing
from vidmarl.training.settings import settings_of
from vidmarl.victims.victim import Victim

PROBING = Probing(epochs=1, probes=6, updates=3, minibatch=4)
DISTORTIONS = ["brightness", {"class_path": "gaussian_noise", "init_args": {"std": 0.3}}]
PAIRS = ["large/brightness", "large/gaussian_noise", "small/brightness", "small/gaussian_noise"]


def victims() -> list[Victim]:
    """Two of different specs."""
    large = Victim(OneCell(), name="large", spec=ClipSpec(frames=4, size=32))
    return [large, Victim(OneCell(), name="small", spec=ClipSpec(frames=6, size=24))]


def several(**kwargs) -> TwoAgentPPO:
    return module(**({"victim": victims(), "distortion": DISTORTIONS} | kwargs))


@pytest.fixture
def sessions(monkeypatch) -> list[tuple[str, str, tuple[int, ...]]]:
    """Who was attacked with what, and the shape of the clips, in the order of the sessions."""
    opened = []

    def session(victim, renderer, **kwargs):
        opened.append((victim.name, type(renderer.distortion).__name__, tuple(renderer.clips.shape)))
        return original(victim, renderer, **kwargs)

    original = ppo.Session
    monkeypatch.setattr(ppo, "Session", session)
    return opened


# -- pairs


def test_every_victim_meets_every_distortion_once() -> None:
    pairs = make_pairs(victims(), [as_distortion(one) for one in DISTORTIONS])
    assert [pair.name for pair in pairs] == PAIRS
    assert [(pair.victim.name, type(pair.distortion).__name__) for pair in pairs] == [
        ("large", "Brightness"),
        ("large", "GaussianNoise"),
        ("small", "Brightness"),
        ("small", "GaussianNoise"),
    ]


@pytest.mark.parametrize(
    ("names", "distortions", "expected"),
    [
        (["a"], ["brightness"], [""]),
        (["a"], ["brightness", "contrast"], ["brightness", "contrast"]),
        (["a", "b"], ["brightness"], ["a", "b"]),
        (
            ["a", "a"],
            ["brightness"] * 2,
            [f"{one}/{two}" for one in ("a", "a_2") for two in ("brightness", "brightness_2")],
        ),
        (["hf:org/a b", "../.."], ["brightness"], ["hf_org_a_b", "_"]),
    ],
)
def test_a_name_says_what_tells_a_pair_from_the_others(names, distortions, expected) -> None:
    pairs = make_pairs([Victim(OneCell(), name=name) for name in names], [as_distortion(one) for one in distortions])
    assert [pair.name for pair in pairs] == expected


def test_clips_are_brought_to_the_frames_and_the_size_of_the_victim() -> None:
    by_frame = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(2, 3, 8, 16, 16) / 255

    def fitted(frames, size, given=by_frame):
        spec = ClipSpec(frames=frames, size=size)
        return Pair("x", Victim(OneCell(), spec=spec), as_distortion("brightness"), spec).fit(given)

    assert fitted(4, 12).shape == (2, 3, 4, 12, 12)
    for given, wanted, taken in ((8, 4, [0, 2, 5, 7]), (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]), (8, 1, [0]), (1, 3, [0] * 3)):
        assert (fitted(wanted, 16, by_frame[:, :, :given])[0, 0, :, 0, 0] * 255).tolist() == pytest.approx(taken)
    assert fitted(None, (8, 24)).shape == (2, 3, 8, 8, 24)
    fine = (torch.arange(16) % 2).float().expand(1, 3, 8, 16, 16)
    shrunk = fitted(8, 8, fine)
    assert shrunk[..., 1:-1].sub(0.5).abs().max() < 0.1, "stripes of a pixel are averaged"
    assert torch.equal((shrunk * 255).round() / 255, shrunk), "8-bit values"
    assert torch.equal(fitted(8, 16, fine), fine)


@pytest.mark.thorough
def test_clips_of_a_single_victim_stay_as_they_are(sessions, tmp_path) -> None:
    team = module(victim=victims()[1:], distortion=DISTORTIONS)
    trainer(tmp_path, 1).fit(team, batches())
    assert sessions == [("small", "Brightness", (8, 3, 4, 32, 32)), ("small", "GaussianNoise", (8, 3, 4, 32, 32))]


# -- in a training


@pytest.mark.thorough
@pytest.mark.parametrize("probing", [PLAY, PROBING], ids=["play", "probing"])
def test_pairs_have_their_turns_by_the_number_of_the_step(tmp_path, sessions, probing) -> None:
    team, log = several(probing=probing), Logged()
    trainer(tmp_path, 3, callbacks=[log]).fit(team, batches(24))  # three steps an epoch, four pairs
    large, small = (8, 3, 4, 32, 32), (8, 3, 6, 24, 24)
    turn = [("large", "Brightness", large), ("large", "GaussianNoise", large)]
    turn += [("small", "Brightness", small), ("small", "GaussianNoise", small)]
    assert sessions == [*turn, *turn, turn[0]]
    assert [row["charts/pair"] for row in log.rows] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    asked = [victim.model.seen for victim in team.victims]
    assert min(asked) > 0
    assert int(team.counts[2]) == sum(asked) == team.agents.trained["training_queries"]


@pytest.mark.thorough
def test_probing_goes_on_with_the_probes_of_every_shape(tmp_path, monkeypatch) -> None:
    seen = []

    def loss(agents, probes, *args):
        seen.append((len(probes), tuple(probes["seen", "features"].shape[2:])))
        return original(agents, probes, *args)

    original = ppo.probing_loss
    monkeypatch.setattr(ppo, "probing_loss", loss)
    team = several(probing=PROBING)
    trainer(tmp_path, 1).fit(team, batches(24))
    large, small = (4, 4, 4), (6, 3, 3)
    assert [shape for count, shape in seen if count == 4] == [large] * 6 + [large, small, large]
    assert [shape for count, shape in seen if count == 8] == [large, large, small]  # before they were learnt from


@pytest.mark.thorough
def test_a_resumed_run_goes_on_with_the_pair_whose_turn_it_is(tmp_path) -> None:
    settings = {"probing": PROBING}
    whole = several(**settings)
    trainer(tmp_path / "whole", 3).fit(whole, batches(24))
    half = trainer(tmp_path / "half", 2, enable_checkpointing=True)
    half.fit(several(**settings), batches(24))
    half.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(123)  # whatever else has happened in between
    rest, log = several(**settings), Logged()
    run = trainer(tmp_path / "rest", 3, callbacks=[log])
    run.fit(rest, batches(24), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert [row["charts/pair"] for row in log.rows] == [2, 3, 0]
    assert torch.equal(state(whole.agents), state(rest.agents))
    assert whole.counts.tolist() == rest.counts.tolist()


@pytest.mark.thorough
def test_a_single_one_in_a_list_is_the_single_one(tmp_path) -> None:
    settings = {"probing": PROBING}
    alone, inside = named(**settings), named(victim=["demo"], distortion=[named().distortion], **settings)
    assert settings_of(alone) == settings_of(inside)
    rows = []
    for name, team in (("alone", alone), ("inside", inside)):
        log = Logged()
        run = trainer(tmp_path / name, 2, callbacks=[log])
        run.fit(team, batches(), indexed())
        rows.append((log.rows, {key: float(value) for key, value in run.callback_metrics.items()}))
    assert torch.equal(state(alone.agents), state(inside.agents))
    assert alone.agents.trained == inside.agents.trained
    assert rows[0] == rows[1]
    assert "charts/pair" not in rows[0][0][0]


# -- evaluation


class Figures(lightning.Callback):
    """Keeps what every validation has found."""

    def __init__(self) -> None:
        self.rows = []

    def on_validation_end(self, trainer, *args) -> None:
        self.rows.append({key: float(value) for key, value in trainer.callback_metrics.items() if "val/" in key})


@pytest.mark.thorough
def test_every_pair_is_validated_and_the_figures_of_all_are_their_mean(tmp_path) -> None:
    team, figures = several(probing=PROBING, eval_budget=4), Figures()
    trainer(tmp_path, 2, callbacks=[figures]).fit(team, batches(), indexed(6))
    for row in figures.rows:
        for name in ("fooling_rate", "queries", "l2", "correlation"):
            each = [row[f"val/{name}/{pair}"] for pair in PAIRS]
            assert row[f"val/{name}"] == pytest.approx(sum(each) / 4)
        assert len(set(row.values())) > 4
        assert len(row) == 4 * 5
    probed = 4 * 6 * (1 + 4 * 6)  # by every pair, once
    attacked = 2 * 4 * 6 * 4
    assert int(team.counts[2]) == sum(victim.model.seen for victim in team.victims) - attacked
    assert int(team.counts[2]) > 2 * 8 * (1 + 6) + probed


def test_predictions_are_saved_for_every_pair(tmp_path) -> None:
    team = several(out=str(tmp_path), eval_budget=4)
    [folders] = trainer(tmp_path).predict(team, indexed(4))
    assert [Path(folder).name for folder in folders] == [f"000000_{pair.replace('/', '_')}" for pair in PAIRS]
    results = [AttackResult.load(folder) for folder in folders]
    assert [tuple(result.clean.shape[2:]) for result in results] == [(4, 32, 32)] * 2 + [(6, 24, 24)] * 2
    assert [result.settings["distortion"] for result in results] == [one.to_record() for one in team.distortions] * 2


# -- what is kept of it


def test_agents_say_all_that_they_were_trained_for(tmp_path) -> None:
    team = several()
    save_agents(tmp_path / "agents.pt", team.agents)
    agents = load_agents(tmp_path / "agents.pt")
    assert agents.trained["victim"] == ["large", "small"]
    assert agents.trained["distortion"] == [distortion.to_record() for distortion in team.distortions]
    assert "Agents(trained for Brightness, GaussianNoise against large, small, " in repr(agents)
    with pytest.raises(SettingsError, match=r"got 2: Brightness, GaussianNoise\. Give one, distortion='Brightness'"):
        RLAttack(tmp_path / "agents.pt")
    chosen = RLAttack(agents, distortion=agents.trained["distortion"][1])
    assert chosen.distortion.std == 0.3
    assert team.attack().distortion is team.distortions[0]


@pytest.mark.thorough
def test_a_module_from_a_checkpoint_has_all_victims_and_distortions(tmp_path) -> None:
    def demos(first=4):
        described = {"class_path": "demo", "init_args": {"weights": "random", "spec": {"frames": first, "size": 32}}}
        small = {"weights": "random", "spec": ClipSpec(frames=6, size=24)}
        return [described, {"class_path": "demo", "init_args": small}]

    own = {"weights": None, "spec": None}
    team = named(victim=demos(), distortion=DISTORTIONS, **own)
    path, run = tmp_path / "a.ckpt", trainer(tmp_path, 1)
    run.fit(team, batches())
    run.save_checkpoint(path)
    again = TwoAgentPPO.load_from_checkpoint(path)
    assert settings_of(again) == settings_of(team)
    assert torch.equal(state(again.agents), state(team.agents))
    assert [pair.name for pair in again.pairs] == [pair.name for pair in team.pairs]
    for other, difference in (
        ({"distortion": ["brightness", "gaussian_noise"]}, "distortion.2.init_args.std: 0.3 and not 0.1"),
        ({"distortion": "brightness"}, r"distortion: \['\S+Brightness', '\S+GaussianNoise'\] and not '\S+Brightness'"),
        ({"victim": demos(5)}, "victim.1.spec.frames: 4 and not 5"),
        ({"victim": demos()[:1]}, r"victim: \['demo', 'demo'\] and not 'demo'"),
        ({"victim": [*demos(), *demos()]}, r"victim: \['demo', 'demo'\] and not \['demo', 'demo', 'demo', 'demo'\]"),
    ):
        module = named(**({"victim": demos(), "distortion": DISTORTIONS} | own | other))
        with pytest.raises(CheckpointError, match=f"a.ckpt: it was trained with {difference}\\. Give"):
            trainer(tmp_path, 2).fit(module, batches(), ckpt_path=path)


@pytest.mark.thorough
def test_own_victims_of_a_checkpoint_are_to_be_given_again(tmp_path) -> None:
    run = trainer(tmp_path, 1)
    run.fit(several(), batches(8))
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"the victim 'large' is not one of vidmarl's own.*victim="):
        TwoAgentPPO.load_from_checkpoint(tmp_path / "a.ckpt")
    again = TwoAgentPPO.load_from_checkpoint(tmp_path / "a.ckpt", victim=victims())
    assert settings_of(again) == settings_of(several())


# -- mistakes


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"victim": []}, SettingsError, "expected a victim or a list of at least one, got an empty list. Name one"),
        ({"distortion": []}, SettingsError, "expected a distortion or a list of at least one, got an empty list"),
        ({"victim": ["i3d", "movinet_a00"]}, UnknownNameError, "did you mean movinet_a0"),
        ({"distortion": ["brightness", "brightnes"]}, UnknownNameError, "did you mean brightness"),
        ({"victim": [Victim(OneCell()), 3]}, SettingsError, "Loading a victim: expected a Victim, its name,.* got 3"),
        ({"distortion": ["brightness", 3]}, SettingsError, "Making a distortion: expected .* got 3"),
        (
            {"victim": ["demo", "i3d"], "weights": "random"},
            SettingsError,
            "in the description of each, got weights for",
        ),
        (
            {"victim": victims(), "weights": "random", "spec": ClipSpec()},
            SettingsError,
            r"Training against 2 victims: .* got weights and spec for all of them\. Describe a victim as"
            r" {'class_path': NAME, 'init_args': {'weights': \.\.\., 'spec': \.\.\.}}",
        ),
    ],
    ids=str,
)
def test_mistakes_in_lists_are_answered_before_anything_is_loaded(settings, error, told, monkeypatch) -> None:
    def load(thing, *args, **how):
        assert not isinstance(thing, str), f"{thing} was loaded"
        return original(thing, *args, **how)

    original = ppo.load_victim
    monkeypatch.setattr(ppo, "load_victim", load)
    with pytest.raises(error, match=told):
        module(**settings)


# -- as a user runs it

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 4)

    def forward(self, clips):
        return 20 * self.head(clips.mean((2, 3, 4)))
"""

SEVERAL = """
model:
  victim:
    - {class_path: demo, init_args: {weights: random, spec: {frames: 4, size: 32}}}
    - {class_path: "mine.py:Net", init_args: {spec: {frames: 6, size: 24}}}
  weights: null
  spec: null
  distortion: [{class_path: gaussian_noise, init_args: {std: 0.3}}, gaussian_blur]
  eval_budget: 6
trainer: {accelerator: cpu, max_epochs: 2, enable_progress_bar: false, default_root_dir: out}
"""


def vidmarl(*words: str, cwd: Path, expect: int = 0) -> str:
    """What a command says."""
    settings = {"capture_output": True, "text": True, "timeout": 600, "check": False}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "vidmarl", *words], cwd=cwd, env=environment, **settings)
    assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_several_victims_and_distortions_from_the_command_line(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(NET)
    (tmp_path / "pairs.yaml").write_text(SEVERAL)
    last = "outputs/synthetic/version_0/checkpoints/last.ckpt"
    own = ("-c", "synthetic", "-c", "pairs.yaml")
    vidmarl("fit", *own, "--data.train.init_args.n", "24", cwd=tmp_path)
    log = pd.read_csv(tmp_path / "outputs" / "synthetic" / "version_0" / "metrics.csv")
    assert log["charts/pair"].dropna().tolist() == [0, 1, 2, 3, 0, 1]
    pairs = [f"{victim}/{name}" for victim in ("demo", "Net") for name in ("gaussian_noise", "gaussian_blur")]
    assert {f"val/l2/{pair}" for pair in pairs} < set(log)
    assert "val/l2/Net/gaussian_blur" in vidmarl("validate", *own, "--ckpt_path", last, cwd=tmp_path)
    vidmarl("predict", *own, "--ckpt_path", last, cwd=tmp_path)
    assert len(list((tmp_path / "out" / "predict").iterdir())) == len(pairs)
    vidmarl("test", *own, "--ckpt_path", last, "--budget", "6", "--budgets", "[6]", "--max_clips", "2", cwd=tmp_path)
    summary = pd.read_csv(tmp_path / "out" / "test" / "summary.csv")
    tested = set(zip(summary["victim"], summary["distortion"], strict=True))
    assert {f"{victim}/{distortion}" for victim, distortion in tested} == set(pairs)
    more = ("--trainer.max_epochs", "3", "--data.train.init_args.n", "24")
    vidmarl("fit", *own, "--ckpt_path", last, *more, cwd=tmp_path)
    *_, newest = sorted((tmp_path / "outputs" / "synthetic").iterdir())
    resumed = pd.read_csv(newest / "metrics.csv")
    assert resumed["charts/pair"].dropna().tolist() == [2, 3, 0]
    vidmarl("export", last, "agents.pt", cwd=tmp_path)
    clip = ("attack", str(Path(ppo.__file__).parents[1] / "data" / "sample.mp4"), "--victim", "demo", "--weights")
    words = (*clip, "random", "--agents", "agents.pt", "--budget", "4", "--out", "attacked", "--no-progress")
    assert "expected one distortion, got 2" in vidmarl(*words, cwd=tmp_path, expect=2)
    vidmarl(*words, "--distortion", "gaussian_blur", cwd=tmp_path)


@pytest.mark.slow
def test_lists_are_words_of_the_command_line_too(tmp_path) -> None:
    words = ("fit", "-c", "synthetic", "--model.distortion", "[gaussian_noise, gausian_blur]")
    assert "did you mean gaussian_blur" in vidmarl(*words, cwd=tmp_path, expect=2)
    words = ("fit", "-c", "synthetic", "--model.victim", "[demo, i3d]")
    assert "Training against 2 victims: expected" in vidmarl(*words, cwd=tmp_path, expect=2)


DDP = """
    import sys, torch, lightning
    sys.path.insert(0, {tests!r})
    from torch.utils.data import DataLoader
    import test_pairs as p
    import test_training as t

    if __name__ == "__main__":
        class Say(lightning.Callback):
            def on_train_batch_end(self, trainer, module, *rest):
                say("PAIR", trainer.global_rank, int(trainer.logged_metrics["charts/pair"]))
            def on_train_end(self, trainer, module):
                spent = torch.tensor(sum(victim.model.seen for victim in module.victims))
                say("PARAMS", trainer.global_rank, float(p.state(module.agents).double().square().sum()),
                    *module.counts.tolist(), int(trainer.strategy.reduce(spent, reduce_op="sum")))

        def say(*words):
            sys.stdout.write(" ".join(map(str, words)) + "\\n")  # in one piece: two processes write to one pipe
            sys.stdout.flush()

        team = p.several(out={out!r}, probing=p.PROBING)
        run = p.trainer({out!r}, 3, strategy="ddp", devices=2, precision="bf16-mixed", callbacks=[Say()])
        run.fit(team, DataLoader(t.clips(24), batch_size=4))
"""


@pytest.mark.slow
def test_two_processes_in_half_precision_play_the_same_pair_and_agree(tmp_path) -> None:
    script = tmp_path / "ddp.py"
    script.write_text(textwrap.dedent(DDP.format(tests=str(Path(__file__).parent), out=str(tmp_path))))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    for rank in "01":
        turn = [int(line[2]) for line in lines if line[:2] == ["PAIR", rank]]
        assert turn == list(itertools.islice(itertools.cycle(range(4)), 9))
    one, other = ([*line[2:]] for line in lines if line[:1] == ["PARAMS"])
    assert one == other
    assert one[1] == "9"
    assert one[3] == one[4], "queries are counted over all victims and ranks"
