"""The procedural clips: the same for the same seed, and different from class to class in motion
only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from einops import reduce
from hypothesis import given, settings
from hypothesis import strategies as st

from vidmarl.data.synthetic import CLASSES, SPLITS, Synthetic, make_clip, make_clips, split_seed, transform
from vidmarl.perturbations.renderer import to_8bit

CLIPS = 640


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    return make_clips(CLIPS, seed=11)


def held_out_accuracy(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Of a ridge regression onto the classes, fitted on half of the rows and tested on the other
    half."""
    features = torch.cat([(features - features.mean(0)) / features.std(0), torch.ones(len(features), 1)], 1).double()
    half = len(features) // 2
    fit, test = features[:half], features[half:]
    onto = torch.nn.functional.one_hot(labels[:half], len(CLASSES)).double()
    weights = torch.linalg.solve(fit.T @ fit + 10 * torch.eye(fit.shape[1]).double(), fit.T @ onto)
    return float(((test @ weights).argmax(1) == labels[half:]).double().mean())


def flow(clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean motion to the right and downwards, by the least squares of Lucas and Kanade over the
    whole clip."""
    light = clips.float().mean(-4)
    x = (light.roll(-1, -1) - light.roll(1, -1))[..., 1:-1, :, :].flatten(-3)
    y = (light.roll(-1, -2) - light.roll(1, -2))[..., 1:-1, :, :].flatten(-3)
    t = (light[..., 2:, :, :] - light[..., :-2, :, :]).flatten(-3)
    return -(x * t).sum(-1) / x.square().sum(-1), -(y * t).sum(-1) / y.square().sum(-1)


@pytest.mark.thorough
def test_shapes_dtypes_and_range(drawn):
    clips, labels = drawn
    assert clips.shape == (CLIPS, 3, 8, 64, 64)
    assert clips.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(to_8bit(clips), clips)
    assert clips.flatten(1).std(1).min() > 0.02  # nothing is blank


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(2, 12), st.sampled_from([24, 32, 49, 64]))
@settings(max_examples=15)
def test_any_size_and_seed(seed, index, frames, size):
    clip = make_clip(seed, index, index % len(CLASSES), frames, size)
    assert clip.shape == (3, frames, size, size)
    assert clip.dtype == torch.uint8


def test_classes_are_balanced(drawn):
    assert torch.bincount(drawn[1]).tolist() == [CLIPS // len(CLASSES)] * len(CLASSES)


def test_the_same_seed_and_index_give_the_same_clip(drawn):
    clips, labels = make_clips(9, seed=11)
    assert torch.equal(clips, drawn[0][:9])
    assert torch.equal(labels, drawn[1][:9])
    clip, label = Synthetic(CLIPS, seed=11)[8]
    assert torch.equal(clip / 255, clips[8])
    assert label == labels[8]


def test_the_number_of_threads_changes_nothing_and_is_left_alone():
    threads = torch.get_num_threads()
    alone = make_clip(0, 0, 0)
    try:
        torch.set_num_threads(2)
        assert torch.equal(make_clip(0, 0, 0), alone)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.thorough
def test_seeds_and_indices_give_different_clips():
    clips = torch.cat([make_clips(16, seed)[0] for seed in (0, 1, 2)]).flatten(1)
    assert torch.pdist(clips).min() > 1


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from(SPLITS)), min_size=2, max_size=2, unique=True))
def test_no_two_splits_share_a_seed(splits):
    one, other = (split_seed(*split) for split in splits)
    assert one != other


def test_an_index_beyond_the_set_is_refused():
    with pytest.raises(IndexError, match="clips 0 to 3"):
        Synthetic(4)[4]


def test_the_first_frame_is_the_same_whatever_the_class():
    for index in range(4):
        first = [make_clip(3, index, label)[:, 0] for label in range(len(CLASSES))]
        assert all(torch.equal(first[0], frame) for frame in first[1:])


def test_later_frames_differ_from_class_to_class():
    last = torch.stack([make_clip(3, 0, label)[:, -1] for label in range(len(CLASSES))]).float().flatten(1)
    assert torch.pdist(last).min() > 100


@pytest.mark.parametrize("frame", [0, 3, 7])
def test_a_single_frame_does_not_tell_the_class(drawn, frame):
    clips, labels = drawn
    still = clips[:, :, frame]
    colours = reduce(still, "b c (h p) (w q) -> b (c h w)", "mean", p=16, q=16)
    edges = reduce((still - still.roll(1, -1)).abs(), "b c (h p) (w q) -> b (h w)", "mean", p=16, q=16)
    features = torch.cat([colours, edges], 1)
    chance, spread = 1 / len(CLASSES), (7 / 64 / (CLIPS / 2)) ** 0.5
    assert held_out_accuracy(features, labels) < chance + 4 * spread


@pytest.mark.thorough
def test_the_motion_tells_the_class(drawn):
    clips, labels = drawn
    right, down = flow(clips)
    moving = labels < 4
    features = torch.stack([right, down, right.abs(), down.abs()], 1)[moving]
    assert held_out_accuracy(features, labels[moving]) > 0.7


@pytest.mark.thorough
def test_the_directions_are_what_they_are_called(drawn):
    clips, labels = drawn
    right, down = flow(clips)
    towards = {"right": right, "left": -right, "down": down, "up": -down}
    for name, speed in towards.items():
        assert (speed[labels == CLASSES.index(name)] > 0).float().mean() > 0.9


def test_played_backwards_right_is_left(drawn):
    clips, labels = drawn
    right, _ = flow(clips[labels == CLASSES.index("right")])
    backwards, _ = flow(clips[labels == CLASSES.index("right")].flip(2))
    assert (right.sign() == -backwards.sign()).all()


@pytest.mark.thorough
def test_symmetries_keep_the_label_true(drawn):
    clips, labels = drawn
    rng = np.random.default_rng(0)
    moved, names = [], []
    for clip, label in zip(clips[labels < 4], labels[labels < 4].tolist(), strict=True):
        clip, label = transform(clip, label, rng)
        moved.append(clip)
        names.append(label)
    right, down = flow(torch.stack(moved))
    towards = torch.stack([right, -right, -down, down], 1)
    assert set(names) == {0, 1, 2, 3}
    assert (towards.gather(1, torch.tensor(names)[:, None]) > 0).float().mean() > 0.9


def test_symmetries_swap_the_turns_and_leave_the_rest():
    clip = make_clip(0, 0, 0)
    rng = np.random.default_rng(0)
    reached = {name: {CLASSES[transform(clip, label, rng)[1]] for _ in range(40)} for label, name in enumerate(CLASSES)}
    assert reached["clockwise"] == reached["anticlockwise"] == {"clockwise", "anticlockwise"}
    assert reached["pulse"] == {"pulse"}
    assert reached["still"] == {"still"}
