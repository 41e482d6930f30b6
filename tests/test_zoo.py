"""The classic networks that are written here: they are what was published, and take the published
weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

import vidmarl
from vidmarl.data import Folder, data_root
from vidmarl.victims import (
    c3d,
    convlstm,
    i3d,
    lrcn,
    movinet,
    movinet_base,
    names,
    r2plus1d_light,
    tpn,
    tsm,
    tsn,
    ucf50,
)
from vidmarl.victims.movinet_tables import CLIPS, SHAPES

LAYERS = (3, 4, 6, 3)
"""Blocks of the stages of a ResNet-50."""
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "c3d": c3d.C3D,
    "i3d": i3d.I3D,
    "tsn_r50": tsn.TSN,
    "tsm_r50": tsm.TSM,
    "tpn_r50": tpn.TPN,
    "r2plus1d_light": r2plus1d_light.R2Plus1DLight,
    "lrcn_ucf50_5": lambda: lrcn.LRCN(5, 128),
    "lrcn_ucf50_50": lambda: lrcn.LRCN(50, 64),
    "convlstm_ucf50_5": lambda: convlstm.ConvLSTM(**convlstm.SHAPES["convlstm_ucf50_5"]),
    "convlstm_ucf50_31": lambda: convlstm.ConvLSTM(**convlstm.SHAPES["convlstm_ucf50_31"]),
    **{f"movinet_{size}": lambda size=size: movinet.MoViNet(shape=SHAPES[size]) for size in ("a0", "a1", "a2")},
    **{f"movinet_{size}_base": lambda size=size: movinet_base.MoViNetBase(shape=SHAPES[size]) for size in SHAPES},
}
PUBLISHED = {"c3d": 78_409_573, "tsn_r50": 24_327_632, "tsm_r50": 24_327_632, "tpn_r50": 91_498_336 - 19_698_064}
"""Parameters that MMAction2 states; TPN without its auxiliary head, which only training needs."""
CHECKPOINT_MB = {"a0": 12, "a1": 18, "a2": 20, "a3": 29, "a4": 44, "a5": 72}
"""Sizes of the float checkpoints that MoViNet's authors state."""


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# --- what they are -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_card_says_how_many_parameters_there_are(name: str) -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in NETWORKS[name]().parameters())
    assert vidmarl.victim_card(name).parameters == count
    assert PUBLISHED.get(name, count) == count


@pytest.mark.parametrize("size", SHAPES)
def test_a_movinet_is_as_large_as_its_published_checkpoint(size: str) -> None:
    mebibytes = 4 * movinet_base.PARAMETERS[size] / 2**20
    assert mebibytes == pytest.approx(CHECKPOINT_MB[size], rel=0.04)


def test_every_name_is_listed_with_its_native_clips() -> None:
    assert set(NETWORKS) <= set(vidmarl.list_victims())
    for size, (frames, pixels, fps) in CLIPS.items():
        spec = movinet_base.default_spec(f"movinet_{size}_base")
        assert (spec.frames, spec.size, spec.sampling, spec.fps) == (frames, (pixels, pixels), "fps", fps)
    assert tsn.default_spec("tsn_r50").sampling == tsm.default_spec("tsm_r50").sampling == "segments"
    assert ucf50.spec(64).sampling == "steps"


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["tsn_r50", "tsm_r50", "tpn_r50", "movinet_a1", "movinet_a1_base"])
def test_it_answers_clips_of_any_size(name: str) -> None:
    victim = vidmarl.load_victim(name, "random", spec={"frames": 4, "size": 64})
    scores = victim(torch.rand(2, 3, 4, 64, 64))
    assert scores.shape == (2, 600 if "movinet" in name else 400)
    assert scores.isfinite().all()


def test_what_is_made_for_one_shape_says_so() -> None:
    for name, made_for in (("c3d", r"16 frames of \(112, 112\)"), ("lrcn_ucf50_5", r"8 frames of \(128, 128\)")):
        with pytest.raises(ValueError, match=f"{name}.*made for {made_for} px.*Leave out the spec"):
            vidmarl.load_victim(name, "random", spec={"frames": 8, "size": 64})
    with pytest.raises(ValueError, match="made for 20 frames"):
        vidmarl.load_victim("convlstm_ucf50_31", "random", spec={"frames": 8})


# --- what they compute ---------------------------------------------------------------------------


def test_an_eighth_of_the_channels_comes_from_either_neighbour() -> None:
    shifted = tsm.ShiftedConv2d(16, 16, frames=3)
    nn.init.zeros_(shifted.weight)
    shifted.weight.data[:, :, 0, 0] = torch.eye(16)  # what comes in goes out
    x = torch.rand(2, 3, 16, 2, 2)
    with torch.no_grad():
        y = rearrange(shifted(rearrange(x, "b t c h w -> (b t) c h w")), "(b t) c h w -> b t c h w", t=3)
    assert torch.equal(y[:, :, 4:], x[:, :, 4:])
    assert torch.equal(y[:, :2, :2], x[:, 1:, :2])  # from the next frame
    assert torch.equal(y[:, 1:, 2:4], x[:, :2, 2:4])  # from the one before
    assert y[:, 2, :2].abs().sum() == y[:, 0, 2:4].abs().sum() == 0


@pytest.mark.thorough
def test_tsn_averages_its_frames_and_tsm_does_not() -> None:
    clips = torch.rand(1, 3, 4, 48, 48)
    average, shift = tsn.TSN(classes=5).eval(), tsm.TSM(classes=5, frames=4).eval()
    with torch.no_grad():
        same(average(clips), torch.stack([average.net(clips[:, :, i]) for i in range(4)]).mean(0))
        same(average(clips), average(clips.flip(2)))
        assert not torch.allclose(shift(clips), shift(clips.flip(2)), atol=1e-6)
    with pytest.raises(ValueError, match=r"made for clips of 4 frames, got 2.*spec=\{'frames': 2\}"):
        shift(clips[:, :, :2])


def test_the_lstm_is_pytorchs() -> None:
    mine, reference = lrcn.KerasLSTM(5, 3), nn.LSTM(5, 3, batch_first=True)
    nn.init.normal_(mine.bias)
    reference.load_state_dict(
        {
            "weight_ih_l0": mine.weight_ih,
            "weight_hh_l0": mine.weight_hh,
            "bias_ih_l0": mine.bias,
            "bias_hh_l0": torch.zeros(12),
        }
    )
    x = torch.rand(2, 7, 5)
    with torch.no_grad():
        same(mine(x), reference(x)[0][:, -1])


def test_a_convlstm_of_one_pixel_is_an_lstm() -> None:
    cell, reference = convlstm.Cell(2, 3, hard=False), nn.LSTM(2 * 9, 3, batch_first=True)
    nn.init.normal_(cell.bias)
    reference.load_state_dict(
        {
            "weight_ih_l0": cell.input.weight.flatten(1),
            "weight_hh_l0": cell.hidden.weight[:, :, 1, 1],
            "bias_ih_l0": cell.bias,
            "bias_hh_l0": torch.zeros(12),
        }
    )
    x = torch.rand(2, 5, 2, 3, 3)
    with torch.no_grad():
        same(cell(x).flatten(2), reference(x.flatten(2))[0])


def test_the_hard_sigmoid_is_keras_2s() -> None:
    x = torch.tensor([-9.0, -2.5, -1.0, 0.0, 1.0, 2.5, 9.0])
    same(convlstm.hard_sigmoid(x), torch.tensor([0.0, 0.0, 0.3, 0.5, 0.7, 1.0, 1.0]))


@pytest.mark.parametrize(("kernel", "stride"), [((1, 3), 2), ((3, 3), 1), ((5, 3), 2), ((1, 5), 2)])
def test_a_convolution_of_frames_is_a_3d_convolution(kernel: tuple[int, int], stride: int) -> None:
    mine = movinet_base.FrameConv(6, 6, kernel, stride, groups=6)
    x = torch.rand(2, 6, 7, 9, 9)
    time, space = kernel
    padding = (space // 2,) * 4 + (time // 2,) * 2
    with torch.no_grad():
        found = rearrange(mine(rearrange(x, "b c t h w -> (b t) c h w"), 2), "(b t) c h w -> b c t h w", b=2)
        same(found, F.conv3d(F.pad(x, padding), mine.weight, stride=(1, stride, stride), groups=6))


def test_a_movinet_of_the_paper_looks_at_each_clip_alone() -> None:
    model = movinet_base.MoViNetBase(classes=4).eval()
    clips = torch.rand(3, 3, 5, 32, 32)
    with torch.no_grad():
        same(model(clips), torch.cat([model(clip[None]) for clip in clips]))


# --- the names of published weights --------------------------------------------------------------


def unit(place: str, conv: str, norm: str) -> list[str]:
    """A convolution and its batch norm."""
    leaves = ("weight", "bias", "running_mean", "running_var")
    return [f"{place}{conv}.weight", *(f"{place}{norm}.{leaf}" for leaf in leaves)]


def backbone() -> list[str]:
    """A ResNet-50 as MMAction2 names it."""
    found = unit("backbone.conv1", ".conv", ".bn")
    for stage, blocks in enumerate(LAYERS, start=1):
        for block in range(blocks):
            parts = ["conv1", "conv2", "conv3", *(["downsample"] if block == 0 else [])]
            found += [key for part in parts for key in unit(f"backbone.layer{stage}.{block}.{part}", ".conv", ".bn")]
    return found


def neck() -> list[str]:
    """TPN's pyramid as MMAction2 names it, its auxiliary head too."""
    found = unit("neck.spatial_modulation.spatial_modulation.0.0", ".conv", ".bn")
    found += [f"neck.temporal_modulation_ops.{i}.conv.conv.weight" for i in range(2)]
    found += ["neck.downsample_ops.0.conv.conv.weight", *unit("neck.pyramid_fusion", ".conv", ".bn")]
    for fusion in ("neck.level_fusion_1", "neck.level_fusion_2"):
        found += unit(f"{fusion}.fusion_conv", ".conv", ".bn")
        found += [key for i in range(2) for key in unit(f"{fusion}.downsamples.{i}.conv", ".conv", ".bn")]
    return [*found, *unit("neck.aux_head.conv", ".conv", ".bn"), "neck.aux_head.fc.weight", "neck.aux_head.fc.bias"]


def c3d_of_mmaction() -> list[str]:
    convolutions = [f"backbone.conv{name}.conv" for name in ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")]
    layers = [*convolutions, "backbone.fc6", "backbone.fc7", "cls_head.fc_cls"]
    return [f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")]


def c3d_of_caffe() -> list[str]:
    layers = [*(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)), *(f"classifier.{i}" for i in (0, 3, 6))]
    return [f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")]


def movinet_of_pytorch(size: str, inner: str = ".conv_1") -> list[str]:
    """A MoViNet-Base as its PyTorch release names it."""

    def conv(place: str) -> list[str]:
        return unit(f"{place}{inner}", ".conv3d", ".norm")

    def dense(place: str) -> list[str]:
        return [f"{place}{inner and inner + '.conv3d'}.{leaf}" for leaf in ("weight", "bias")]

    found = [*conv("conv1"), *conv("conv7"), *dense("classifier.0"), *dense("classifier.3")]
    for i, stage in enumerate(SHAPES[size].stages):
        for j, layout in enumerate(stage):
            place = f"blocks.b{i}_l{j}"
            found += [f"{place}.alpha", *conv(f"{place}.expand"), *conv(f"{place}.deep"), *conv(f"{place}.project")]
            found += [*dense(f"{place}.se.fc1"), *dense(f"{place}.se.fc2")]
            if layout.stride > 1:
                found += conv(f"{place}.res.1")
            elif layout.inner != layout.outer:
                found += conv(f"{place}.res.0")
    return found


HEAD = ["cls_head.fc_cls.weight", "cls_head.fc_cls.bias"]


@pytest.mark.parametrize(
    ("network", "published", "renamed"),
    [
        (tsn.TSN, [*backbone(), *HEAD], tsn.renamed),
        (tpn.TPN, [*backbone(), *neck(), *HEAD], names.renamer(tpn.RULES)),
        (c3d.C3D, c3d_of_mmaction(), names.renamer(c3d.RULES)),
        (c3d.C3D, c3d_of_caffe(), names.renamer(c3d.RULES)),
        *((NETWORKS[f"movinet_{s}_base"], movinet_of_pytorch(s), names.renamer(movinet_base.RULES)) for s in SHAPES),
        (movinet_base.MoViNetBase, movinet_of_pytorch("a0", inner=""), names.renamer(movinet_base.RULES)),
    ],
)
def test_published_names_become_those_of_the_network(
    network: Callable[[], nn.Module], published: list[str], renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    with torch.device("meta"):
        own = {key for key in network().state_dict() if not key.endswith("num_batches_tracked")}
    found = renamed({key: torch.zeros(()) for key in published})
    assert set(found) == own
    kept = renamed(found)
    assert set(kept) == own  # names that are right already stay


# --- what they say of real clips -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lrcn_ucf50_5", "lrcn_ucf50_50", "convlstm_ucf50_5", "convlstm_ucf50_31"])
def test_a_victim_of_ucf50_is_right_about_clips_of_its_classes(name: str) -> None:
    clips = data_root() / "clips" / "ucf101"
    if not clips.is_dir() or not (data_root() / "weights" / f"{name}.pt").is_file():
        pytest.skip("needs clips and weights: VIDMARL_DATA")
    victim = vidmarl.load_victim(name)
    labels = victim.labels or []
    source = Folder(clips, classes=[label for label in labels if (clips / label).is_dir()], max_clips=10)
    batch, classes = vidmarl.load_clips(source.paths, victim), [source.classes[file.label] for file in source]
    assert vidmarl.accuracy(victim, (batch, classes)).top1 >= 0.7
    mixed_up = vidmarl.Victim(victim.model, labels=labels)  # as if it wanted RGB
    assert vidmarl.accuracy(mixed_up, (batch, classes)).top1 < vidmarl.accuracy(victim, (batch, classes)).top1


@pytest.mark.slow
def test_c3d_knows_the_classes_of_ucf101(tmp_path: Path) -> None:
    model = c3d.C3D()
    state = {key: value.half() for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "c3d.pth")
    victim = vidmarl.load_victim("c3d", tmp_path / "c3d.pth")
    assert victim.labels is not None
    assert (victim.labels[0], victim.labels[100], len(victim.labels)) == ("ApplyEyeMakeup", "YoYo", 101)
    index = data_root() / "splits" / "ucf101_classInd.txt"
    if index.is_file():
        assert victim.labels == [line.split()[1] for line in index.read_text().splitlines() if line.strip()]
