"""The demo, which uses again what it has left, and its victim: built of pytorchvideo's blocks,
trained by Lightning, kept in a file that is safe to load."""

from __future__ import annotations

import functools

import pandas as pd
import pytest
import torch

from vidmarl import load_victim
from vidmarl.data.paths import cache_root
from vidmarl.data.synthetic import CLASSES, make_clips, split_seed
from vidmarl.demo.victim_training import train
from vidmarl.errors import CheckpointError
from vidmarl.victims import demo


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDMARL_CACHE", str(tmp_path / "cache"))


def test_its_blocks_are_pytorchvideos():
    blocks = [demo.make_network(), *demo.make_network().blocks]
    assert {type(block).__module__.split(".")[0] for block in blocks} == {"pytorchvideo"}


@pytest.mark.parametrize(("frames", "size"), [(8, 64), (4, 32), (8, 48)])
def test_it_takes_clips_of_any_size(frames, size):
    logits = demo.make_network().eval()(torch.rand(2, 3, frames, size, size))
    assert logits.shape == (2, len(CLASSES))


def test_its_first_filters_see_motion_and_no_constant_light():
    torch.manual_seed(0)
    filters = demo.make_network().blocks[0].conv.weight
    assert filters.flatten(2).sum(2).abs().max() < 1e-4
    assert ((filters - filters.flip(2)).flatten(1).norm(dim=1) > 0.1).all()  # no filter is blind to time's direction


def test_untrained_it_is_fit_to_be_asked():
    clips, _ = make_clips(4, seed=0)
    victim = load_victim("demo", "random")
    assert victim(clips).shape == (4, len(CLASSES))
    assert victim.labels == list(CLASSES)
    assert (victim.spec.frames, victim.spec.size) == (8, (64, 64))


def test_before_training_the_error_says_what_to_do():
    with pytest.raises(CheckpointError, match="vidmarl demo"):
        load_victim("demo")


def test_the_cache_is_where_the_variable_says(tmp_path):
    assert cache_root() == tmp_path / "cache"
    assert demo.default_path().parent == cache_root()


@pytest.mark.thorough
def test_training_is_reused_only_with_the_same_settings(tmp_path):
    path = tmp_path / "victim.pt"
    options = {"epochs": 1, "clips": 32, "progress": False}
    accuracy = train(path, seed=0, **options)
    written = path.stat().st_mtime_ns
    assert train(path, seed=0, **options) == accuracy
    assert path.stat().st_mtime_ns == written
    train(path, seed=1, **options)
    assert path.stat().st_mtime_ns != written
    assert [file.name for file in tmp_path.iterdir()] == ["victim.pt"]  # nothing half-written is left


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_victim_and_leaves_other_randomness_alone(tmp_path):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for name in ("one.pt", "two.pt"):
        train(tmp_path / name, epochs=1, clips=32, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert one["settings"] == two["settings"]
    assert all(torch.equal(one["state_dict"][key], two["state_dict"][key]) for key in one["state_dict"])


@pytest.mark.thorough
def test_without_a_path_it_is_trained_for_load_victim():
    train(epochs=1, clips=32, progress=False)
    assert load_victim("demo").labels == list(CLASSES)


def test_too_few_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one batch of 32 clips, got 31"):
        train(tmp_path / "victim.pt", clips=31, progress=False)


@pytest.mark.thorough
def test_a_damaged_file_is_trained_anew(tmp_path):
    path = tmp_path / "victim.pt"
    path.write_bytes(b"not a network")
    train(path, epochs=1, clips=32, progress=False)
    assert load_victim("demo", path).labels == list(CLASSES)


@pytest.mark.slow
def test_trained_in_full_it_is_right_on_unseen_clips_and_needs_the_order_of_the_frames(tmp_path):
    accuracy = train(tmp_path / "victim.pt", progress=False)
    assert accuracy > 0.9
    victim = load_victim("demo", tmp_path / "victim.pt")
    clips, labels = make_clips(160, seed=split_seed(1, "val"))
    right = victim(clips).argmax(1) == labels
    assert right.float().mean() > 0.9
    assert victim.check(clips[:8]).ok
    directed = labels < 6  # all but "pulse" and "still", which are the same backwards
    backwards = victim(clips.flip(2)).argmax(1) == labels
    assert backwards[directed].float().mean() < 0.1


@pytest.mark.slow
def test_the_demo_uses_again_what_it_has_left(tmp_path, monkeypatch, capsys):
    from vidmarl.demo import run

    monkeypatch.setattr(run.victim_training, "train", functools.partial(train, epochs=1, clips=32))
    for name, value in {"TRAIN_CLIPS": 32, "TEST_CLIPS": 4, "BUDGETS": [5, 9]}.items():
        monkeypatch.setattr(run, name, value)
    report = run.main(tmp_path / "demo", progress=False)
    first = capsys.readouterr().out
    assert "How the agents learnt" in report.read_text("utf-8")
    assert [line[:3] for line in first.splitlines() if line[:1].isdigit()][:3] == ["1/3", "2/3", "3/3"]
    assert "queries on training clips" in first
    assert load_victim("demo").labels == list(CLASSES)  # it is left where it is found by its name
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.safetensors")}
    assert len(left) == 4 * 6

    assert run.main(tmp_path / "demo", progress=False) == report
    again = capsys.readouterr().out
    assert "Trained before" in again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.safetensors")} == left
    assert again.partition("3/3")[2] == first.partition("3/3")[2]
    rows = pd.read_csv(tmp_path / "demo" / "test" / "rows.csv").query("attack == 'rl'")
    assert len(list((tmp_path / "demo" / "videos").glob("*.mp4"))) == min(4, rows["success"].sum())
    clips, labels = make_clips(4, seed=split_seed(0, "test"))
    right = load_victim("demo", tmp_path / "demo" / "victim.pt")(clips).argmax(1) == labels
    assert (~rows["skipped"]).tolist() == right.tolist()
    assert f"names {int(right.sum())} of the clips correctly" in first
