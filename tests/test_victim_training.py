"""Training of victims: what is learnt, what is kept as it is, what is saved, and that the file is a
victim wherever one is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from vidmarl import ClipSpec, Victim, accuracy, load_victim
from vidmarl.cli import main
from vidmarl.cli.parts import know_datasets
from vidmarl.data import ClipDataset, ClipFile, ClipSource, Folder
from vidmarl.data.encode import write_mp4
from vidmarl.data.synthetic import CLASSES, Synthetic
from vidmarl.errors import CheckpointError, DataError, SettingsError
from vidmarl.training.checkpoints import LastState
from vidmarl.training.command_line import PlainCommandLine
from vidmarl.training.victim import VictimTraining
from vidmarl.training.victim_data import LabelledClips
from vidmarl.training.victim_fit import fine_tune
from vidmarl.utils.recipes import find_recipe, list_configs
from vidmarl.victims.defended import defended
from vidmarl.victims.saved import classifier, facts_of, network_name, save_victim, with_classes

SPEC = ClipSpec(frames=4, size=(16, 16), sampling="uniform")
NETWORK = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.last = nn.Linear(8, classes)

    def forward(self, clips):
        return self.last(self.norm(self.conv(clips)).relu().mean((2, 3, 4)))
"""


class Net(nn.Module):
    """A small network with a normalisation that keeps statistics."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.last = nn.Linear(8, classes)

    def forward(self, clips: Tensor) -> Tensor:
        scores: Tensor = self.last(self.norm(self.conv(clips)).relu().mean((2, 3, 4)))
        return scores


def victim(**settings: Any) -> Victim:
    """An untrained victim of three classes."""
    torch.manual_seed(0)
    return Victim(Net(), **{"spec": SPEC, "mean": (0.5,) * 3, "std": (0.25,) * 3, "name": "net", **settings})


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark videos, four of each to train on, two to validate on and two to test on."""
    root = tmp_path_factory.mktemp("videos")
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        for label, light in (("bright", 0.8), ("dark", 0.2)):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                clip = (light + 0.1 * torch.randn(3, 8, 24, 24, generator=generator)).clamp(0, 1)
                write_mp4(root / part / label / f"{i}.mp4", clip)
    return root


@pytest.fixture
def clips(videos: Path) -> Callable[..., LabelledClips]:
    """Makes the data of a training."""

    def make(*parts: str, **settings: Any) -> LabelledClips:
        sources = {part: Folder(str(videos / part)) for part in parts}
        return LabelledClips(**sources, batch_size=4, **settings)

    return make


def trainer(epochs: int = 1, **settings: Any) -> L.Trainer:
    """A quiet Trainer on the CPU."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", max_epochs=epochs, **{**quiet, "enable_checkpointing": False, **settings})


# -- the file


def test_a_file_gives_the_victim_back(tmp_path: Path) -> None:
    spec = {"frames": 8, "size": 32}
    known = with_classes(load_victim("r2plus1d_light", "random", spec=spec, device="cpu"), ["yes", "no"])
    path = save_victim(tmp_path / "victim.pt", known, "r2plus1d_light", {"clips": 8})
    found = load_victim(str(path))
    batch = torch.rand(2, 3, 8, 32, 32)
    assert torch.equal(found(batch), known(batch))
    assert (found.labels, found.spec, found.mean, found.std) == (["yes", "no"], known.spec, known.mean, known.std)
    assert facts_of(path) == {"clips": 8}
    as_weights = load_victim("r2plus1d_light", path, spec=spec, device="cpu")
    assert torch.equal(as_weights(batch), known(batch)), "the file is a weight file of its network as well"
    assert load_victim(str(path), spec={"frames": 9}).spec == known.spec.changed({"frames": 9})  # type: ignore[union-attr]


def test_a_network_of_ones_own_is_named_by_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETWORK, "utf-8")
    own = load_victim({"class_path": "nets.py:Net", "init_args": {"spec": SPEC}}, device="cpu")
    trained = with_classes(own, ["a", "b", "c", "d"])
    path = save_victim("x/victim.pt", trained, "nets.py:Net")
    with pytest.raises(
        CheckpointError, match=r"nothing that a file names is imported. Name it yourself: .*nets.py:Net"
    ):
        load_victim(str(path))
    named = {"class_path": str(path), "init_args": {"network": "nets.py:Net"}}
    batch = torch.rand(2, 3, 4, 16, 16)
    assert torch.equal(load_victim(named)(batch), trained(batch))


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Net().state_dict()}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"does not say of which network.*--victim NAME --weights"):
        load_victim(str(tmp_path / "weights.pt"))
    torch.save(Net(), tmp_path / "pickle.pt")
    with pytest.raises(CheckpointError, match="never unpickled"):
        load_victim(str(tmp_path / "pickle.pt"))
    with pytest.raises(CheckpointError, match="there is no weight file"):
        load_victim(str(tmp_path / "none.pt"))
    path = save_victim(tmp_path / "victim.pt", with_classes(load_victim("demo", "random"), ["a", "b"]), "demo")
    content = torch.load(path, weights_only=True)
    for changed, said in (
        ({"format": 99}, "expected a file of format 1, got 99"),
        ({"class_names": ["a", "b", "c"]}, "of another shape"),
        ({"spec": {"frames": -1}}, "does not fit together"),
        ({"around": {"model": "os.system"}}, "does not fit together"),
        ({"network": "movinet_a0"}, "not of this network"),
        ({"network": "os.system"}, "nothing that a file names is imported"),
    ):
        torch.save(content | changed, path)
        with pytest.raises(CheckpointError, match=said):
            load_victim(str(path))
    with pytest.raises(SettingsError, match=r"ends in \.pt"):
        save_victim(tmp_path / "victim.pth", victim(labels=["a", "b", "c"]), "net")
    with pytest.raises(SettingsError, match="names of its classes are not known"):
        save_victim(tmp_path / "victim.pt", victim(), "net")


def test_an_untrained_victim_is_known_by_the_name_of_its_network() -> None:
    assert network_name(load_victim("r2plus1d_light", "random")) == "r2plus1d_light"
    assert network_name({"class_path": "nets.py:Net", "init_args": {}}) == "nets.py:Net"


# -- the last layer


def test_new_classes_have_a_new_last_layer_and_nothing_else_is_new() -> None:
    old = victim()
    before = {name: value.clone() for name, value in old.model.state_dict().items()}  # type: ignore[attr-defined]
    new = with_classes(old, ["a", "b"])
    after = new.model.state_dict()  # type: ignore[attr-defined]
    assert after["last.weight"].shape == (2, 8)
    assert all(torch.equal(after[name], value) for name, value in before.items() if not name.startswith("last"))
    assert new.labels == ["a", "b"]
    assert (new.mean, new.std, new.spec) == (old.mean, old.std, old.spec)
    assert with_classes(new, ["A", "B"]) is new, "classes that it has already keep what it knows of them"


def test_a_last_layer_may_be_a_convolution() -> None:
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.Conv3d(4, 7, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    new = with_classes(Victim(network), ["a", "b", "c"])
    assert new(torch.rand(2, 3, 4, 8, 8)).shape == (2, 3)
    with pytest.raises(SettingsError, match=r"expected an nn\.Linear or a convolution"):
        classifier(nn.Flatten())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Victim(lambda clips: clips.mean((2, 3, 4))), "expected an nn.Module"),
        (lambda: defended(victim(), by="blur"), "put the defence before it afterwards"),
    ],
)
def test_what_cannot_be_trained_is_refused(wrong: Callable[[], Victim], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        VictimTraining(wrong())


# -- training


def test_it_learns_and_writes_what_came_of_it(clips: Callable[..., LabelledClips], tmp_path: Path) -> None:
    training = VictimTraining(victim(), lr=3e-2, out=str(tmp_path / "bright"))
    path = fine_tune(training, clips("train", "test", repeats=4, views=(2, 1)), trainer(6))
    assert training.tested is not None
    assert training.tested.accuracy.top1 == 1
    assert len(training.tested.labels) == 4, "two views of a video are one answer"
    table = pd.read_csv(path.parent / "test.csv")
    assert table["right"].all()
    assert table["class"].tolist() == ["bright", "bright", "dark", "dark"]
    record = json.loads((path.parent / "results.json").read_text("utf-8"))
    assert record["test"]["top1"] == 1
    assert record["test"]["interval"][0] == pytest.approx(0.51, abs=0.01)
    content = torch.load(path, weights_only=True)
    assert (content["name"], content["class_names"]) == ("bright", ["bright", "dark"])
    assert torch.equal(content["state_dict"]["last.weight"], training.network.state_dict()["last.weight"])


def test_what_is_frozen_stays_as_it_is(clips: Callable[..., LabelledClips], tmp_path: Path) -> None:
    training = VictimTraining(victim(), freeze=["*"], lr=1e-2, out=str(tmp_path))
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    fine_tune(training, clips("train"), trainer(1))
    after = training.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if not name.startswith("last"))
    partly = VictimTraining(victim(), freeze=["conv.*"], lr=1e-2, out=str(tmp_path))
    fine_tune(partly, clips("train"), trainer(1))
    assert torch.equal(partly.network.state_dict()["conv.weight"], before["conv.weight"])
    assert not torch.equal(partly.network.state_dict()["norm.running_mean"], before["norm.running_mean"])
    with pytest.raises(SettingsError, match=r"no parameter before the last layer matches.*conv\.weight"):
        fine_tune(VictimTraining(victim(), freeze=["conv.weigth"], out=str(tmp_path)), clips("train"), trainer(1))


class Wreck(L.Callback):
    """Lets the network forget what it has learnt, from the second epoch on."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch > 0:
            assert isinstance(pl_module, VictimTraining)
            nn.init.zeros_(pl_module.network.last.weight)  # type: ignore[union-attr, arg-type]


def test_the_best_epoch_is_kept_and_training_stops_early(clips: Callable[..., LabelledClips], tmp_path: Path) -> None:
    training = VictimTraining(victim(), lr=3e-2, out=str(tmp_path))
    best = L.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor="val/top1", mode="max")
    early = L.pytorch.callbacks.EarlyStopping(monitor="val/top1", mode="max", patience=1)
    run = trainer(5, callbacks=[Wreck(), early, best], enable_checkpointing=True, num_sanity_val_steps=0)
    fine_tune(training, clips("train", "val", "test", repeats=24), run)
    assert run.current_epoch < 4
    assert best.best_model_score == 1, "one epoch is enough to learn it"
    assert training.tested is not None
    assert training.tested.accuracy.top1 == 1


class Stop(L.Callback):
    """Breaks training off in its second epoch."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise OSError("the power fails")


def test_a_training_that_broke_off_goes_on_as_if_it_had_not(
    clips: Callable[..., LabelledClips], tmp_path: Path
) -> None:
    def train(**how: Any) -> dict[str, Tensor]:
        training = VictimTraining(victim(), lr=1e-2, zoom=0.7, out=str(tmp_path))
        callbacks = [LastState(), *how.pop("callbacks", [])]
        run = trainer(2, callbacks=callbacks, enable_checkpointing=True, default_root_dir=tmp_path)
        fine_tune(training, clips("train"), run, **how)
        return training.network.state_dict()

    whole = train()
    with pytest.raises(OSError, match="the power fails") as broken:
        train(callbacks=[Stop()])
    [note] = [note for note in broken.value.__notes__ if note.startswith("Kept in ")]
    resumed = train(ckpt_path=next(path for path in tmp_path.rglob("last*.ckpt") if str(path) in note))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_half_precision_trains_a_network_of_full_precision(clips: Callable[..., LabelledClips], tmp_path: Path) -> None:
    training = VictimTraining(victim(), out=str(tmp_path))
    run = trainer(1, precision="bf16-mixed")
    fine_tune(training, clips("train"), run)
    assert torch.isfinite(run.callback_metrics["train/loss"])
    assert {value.dtype for value in training.network.parameters()} == {torch.float32}


def test_a_rank_may_be_given_a_view_twice(clips: Callable[..., LabelledClips]) -> None:
    training = VictimTraining(victim())
    training._labels = {"test": torch.tensor([0, 1])}
    training.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    training._trainer = trainer()
    sure, unsure = torch.tensor([[0.9, 0.1, 0.0]]), torch.tensor([[0.3, 0.7, 0.0]])
    training._answers = [(torch.cat([sure, unsure, sure, sure]), torch.tensor([0, 1, 2, 2])), (sure, torch.tensor([0]))]
    tested = training._measure("test", views=2)
    assert tested.positions.tolist() == [0, 1]
    assert torch.allclose(tested.probabilities[0], (sure + unsure)[0] / 2)


def test_zoom_is_one_window_for_all_frames() -> None:
    training = VictimTraining(victim(), zoom=0.5)
    training._trainer = trainer()
    still = torch.rand(2, 3, 1, 16, 16).expand(-1, -1, 4, -1, -1)
    zoomed = training._zoomed(still, 0)
    assert zoomed.shape == still.shape
    assert (zoomed - zoomed[:, :, :1]).abs().max() < 1e-6
    assert not torch.allclose(zoomed, still)
    assert torch.equal(zoomed, training._zoomed(still, 0))
    assert not torch.equal(zoomed, training._zoomed(still, 1))
    assert VictimTraining(victim())._zoomed(still, 0) is still


def test_mirror_images_can_be_left_out(videos: Path) -> None:
    ramp = torch.linspace(0, 1, 24).expand(3, 8, 24, 24).contiguous()
    (videos / "ramp").mkdir(exist_ok=True)
    write_mp4(videos / "ramp" / "ramp.mp4", ramp)
    source = ClipSource([ClipFile(videos / "ramp" / "ramp.mp4", None, "ramp")])
    for mirror, expected in ((False, {True}), (True, {True, False})):
        dataset = ClipDataset(source, SPEC, augment=True, mirror=mirror, repeats=12)
        rising = {
            bool(clip[..., -1].float().mean() > clip[..., 0].float().mean())
            for clip, _ in map(dataset.__getitem__, range(12))
        }
        assert rising == expected


def test_mistakes_are_told_before_training(clips: Callable[..., LabelledClips], videos: Path) -> None:
    def fit(data: LabelledClips, **settings: Any) -> None:
        fine_tune(VictimTraining(victim(), **settings), data, trainer())

    with pytest.raises(DataError, match=r"no clips to train on were given. Set data\.train"):
        fit(clips("test"))
    with pytest.raises(SettingsError, match="All parts need the same classes in the same order"):
        fit(LabelledClips(train=Folder(str(videos / "train")), test=Synthetic(8), batch_size=2))
    files = [*Folder(str(videos / "train")), ClipFile(videos / "test" / "dark" / "0.mp4", None, "unknown")]
    with pytest.raises(DataError, match="1 of the 9 train clips have no class, such as unknown"):
        fit(LabelledClips(train=ClipSource(files, ["bright", "dark"]), batch_size=2))
    for settings, said in (
        ({"zoom": 0.0}, r"zoom must be in \(0, 1\]"),
        ({"warm_up": 2.0}, r"warm_up must be in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=said):
            VictimTraining(victim(), **settings)


def test_classes_that_it_has_are_learnt_on(tmp_path: Path) -> None:
    known = victim(labels=[name.upper() for name in CLASSES])
    known.model = Net(8)
    training = VictimTraining(known, lr=0.0, out=str(tmp_path))
    before = known.model.last.weight.detach().clone()
    data = LabelledClips(train=Synthetic(8, 0, 4, 16), batch_size=4)
    fine_tune(training, data, trainer())
    assert torch.equal(training.network.last.weight, before)  # type: ignore[union-attr, arg-type]


# -- the command line


@pytest.mark.parametrize("network", ["c3d", "i3d", "slowfast_r50", "tsm"])
@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51"])
def test_recipes_compose(network: str, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainCommandLine, "instantiate_classes", lambda self: None)
    know_datasets()
    more = ["frozen", "stop_early"]
    words = [word for name in (dataset, network, *more) for word in ("-c", find_recipe(f"victims/{name}"))]
    found = PlainCommandLine(VictimTraining, LabelledClips, words, run=False, save_config_callback=None).config
    assert (found.model.victim, found.model.freeze, found.model.zoom) == (network, ["*"], 0.75)
    assert (found.data.train.init_args.train, found.data.test.init_args.train) == (True, False)
    assert len(found.trainer.callbacks) == 2


def test_every_recipe_of_victims_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainCommandLine, "instantiate_classes", lambda self: None)
    know_datasets()
    names = [name for name in list_configs() if name.startswith("victims/")]
    assert "victims/movinet_weizmann" in names
    for name in names:
        PlainCommandLine(VictimTraining, LabelledClips, ["-c", find_recipe(name)], run=False, save_config_callback=None)


WORDS = (
    *("--model.victim", "demo", "--model.weights", "random", "--model.spec", '{"frames": 4, "size": [32, 32]}'),
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.logger", "false"),
    *("--data.train", "Synthetic", "--data.train.n", "16", "--data.train.frames", "4", "--data.train.size", "32"),
    *("--data.test", "Synthetic", "--data.test.n", "8", "--data.test.frames", "4", "--data.test.size", "32"),
    *("--data.test.seed", "1", "--data.batch_size", "4", "--trainer.enable_progress_bar", "false"),
)


def fit(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`vidmarl victims fit` on drawn clips."""
    command = [sys.executable, "-m", "vidmarl", "victims", "fit", *WORDS, "--model.out", str(out), *words]
    return subprocess.run(
        [*command, "--trainer.default_root_dir", str(out / "log")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )


@pytest.mark.thorough
def test_the_command_makes_a_victim_for_other_commands(tmp_path: Path) -> None:
    done = fit(tmp_path / "drawn")
    assert done.returncode == 0, done.stderr
    assert "test videos (95 % interval" in done.stdout
    path = tmp_path / "drawn" / "victim.pt"
    assert f"--victim {path}" in done.stdout
    made = load_victim(str(path))
    assert (made.name, made.labels) == ("drawn", list(CLASSES))
    record = json.loads((path.parent / "results.json").read_text("utf-8"))
    assert accuracy(made, Synthetic(8, 1, 4, 32)).top1 == record["test"]["top1"]
    write_mp4(tmp_path / "clip.mp4", Synthetic(1, 2, 4, 32)[0][0] / 255)
    words = ["attack", str(tmp_path / "clip.mp4"), "--victim", str(path), "--attack", "random_cells", "--budget", "5"]
    main([*words, "--out", str(tmp_path / "results"), "--no_progress"])
    assert json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))["settings"]["victim"] == "drawn"


@pytest.mark.slow
def test_two_processes_train_one_victim(tmp_path: Path) -> None:
    done = fit(tmp_path / "two", "--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: ") == 1
    made = load_victim(str(tmp_path / "two" / "victim.pt"))
    table = pd.read_csv(tmp_path / "two" / "test.csv")
    assert table["clip"].tolist() == [f"clip-{i:05d}" for i in range(8)], "each test clip once"
    assert accuracy(made, Synthetic(8, 1, 4, 32)).top1 == table["right"].mean()


def test_misspellings_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["victims", "fut"], "did you mean fit?"),
        (["victims", "fit", "--model.victm", "demo"], "did you mean --model.victim"),
        (["victims", "fit", "--model.victim", "dmo"], "did you mean demo"),
        (["victims", "fit", "--model.victim", "demo", "--model.weights", "random"], "Set data.train"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    main(["victims", "--help"])
    assert "vidmarl victims fit -c" in capsys.readouterr().out


@pytest.mark.slow
def test_movinet_learns_weizmann(data_root: Path, tmp_path: Path) -> None:
    """A few steps on real clips lead away from chance; docs/measure_weizmann.py does the rest."""
    left_out = ["--data.train.init_args.exclude_persons", '["eli"]', "--data.test.init_args.persons", '["eli"]']
    quick = ["--trainer.max_epochs", "1", "--data.repeats", "1", "--data.views", "[1, 1]", "--trainer.logger", "false"]
    easy = ["--data.train.init_args.max_clips", "40", "--model.spec.size", "[64, 80]", "--model.lr", "2e-3"]
    words = ["victims", "fit", "-c", "victims/movinet_weizmann", *left_out, *quick, *easy, "--model.out", str(tmp_path)]
    main([*words, "--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path / "log")])
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["test"]["videos"] == 10
