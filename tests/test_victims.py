"""Victims by name: they are found, they say what their reference says, and bad weight files are
refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

import vidmarl
from vidmarl.data import data_root, load_clips, read_video
from vidmarl.data.spec import ClipSpec
from vidmarl.errors import CheckpointError, SettingsError, UnknownNameError, VictimError
from vidmarl.utils.devices import usable_device
from vidmarl.victims import movinet, pytorchvideo, torchvision
from vidmarl.victims.padding import pad_same
from vidmarl.victims.victim import Victim

REFERENCE = data_root() / "predictions.json"
needs_data = pytest.mark.skipif(
    not REFERENCE.is_file(), reason="needs predictions.json, clips and weights: VIDMARL_DATA"
)

MOVINET, I3D, LIGHT = "movinet_a0_k600_5fps", "i3d_k400_32x2", "r2plus1d_light_ucf101_10u_letterbox224"


def reference() -> list[dict]:
    return json.loads(REFERENCE.read_text())


def probabilities(victim: Victim, clip: Tensor) -> dict[str, float]:
    return dict(zip(victim.labels or [], victim(clip)[0].exp().tolist(), strict=True))


def error(said: dict[str, float], top3: list[list]) -> float:
    """The largest difference between what was said and what the reference says of its three best
    classes."""
    return max(abs(said[name] - probability) for name, probability in top3)


def top(said: dict[str, float], count: int) -> list[str]:
    return sorted(said, key=said.__getitem__, reverse=True)[:count]


def assert_agrees(said: dict[str, float], top3: list[list], tolerance: float) -> None:
    """Probabilities within the tolerance, and the same ranks wherever the reference is clearer than
    that."""
    assert error(said, top3) < tolerance
    if top3[0][1] - top3[1][1] > 2 * tolerance:
        assert top(said, 1) == [top3[0][0]]
    for name in set(top(said, 3)) - {name for name, _ in top3}:  # only a near-tie with the third
        assert said[name] < top3[2][1] + tolerance


def spec_of_the_reference(victim: Victim, entry: dict) -> ClipSpec | None:
    """The victim's own; but MoViNet's reference took whole videos: every (fps / 5)-th frame from
    the first on."""
    if victim.name != "movinet_a0":
        return victim.spec
    return ClipSpec(frames=None, size=(172, 172), sampling="stride", stride=max(1, round(entry["fps"] / 5)))


def letterboxed(path: Path) -> Tensor:
    """The clip of the light network's reference: 10 frames, first to last, shrunk without rounding
    to 8 bits."""
    video, _ = read_video(path)
    frames = rearrange(video[:, np.linspace(0, video.shape[1] - 1, 10).astype(int)], "c t h w -> t c h w").float() / 255
    longest = max(frames.shape[-2:])
    height, width = (size * 224 // longest for size in frames.shape[-2:])
    frames = F.interpolate(frames, (height, width), mode="bilinear")
    top, left = (224 - height) // 2, (224 - width) // 2
    frames = F.pad(frames, (left, 224 - width - left, top, 224 - height - top))
    return rearrange(frames, "t c h w -> 1 c t h w").clamp(0, 1)


# --- what the named victims say ------------------------------------------------------------------


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "key", "every", "tolerance", "usual"),
    [
        ("movinet_a0", MOVINET, 1, 0.01, 0.001),
        ("i3d", I3D, 20, 0.002, 0.0005),
        ("r2plus1d_light", LIGHT, 16, 0.05, 0.01),
    ],
)
def test_clips_as_loaded_get_the_probabilities_of_the_reference(
    name: str, key: str, every: int, tolerance: float, usual: float
) -> None:
    """The light network's reference saw frames that were not rounded to 8 bits, hence its wide
    tolerance."""
    victim = vidmarl.load_victim(name, spec=ClipSpec(size=(172, 172)) if name == "movinet_a0" else None)
    errors = []
    for entry in reference()[::every]:
        said = probabilities(victim, load_clips(data_root() / entry["file"], spec_of_the_reference(victim, entry)))
        assert_agrees(said, entry[key], tolerance)
        errors.append(error(said, entry[key]))
    assert np.median(errors) < usual


@pytest.mark.thorough
@needs_data
def test_the_light_network_says_what_its_reference_says() -> None:
    victim = vidmarl.load_victim("r2plus1d_light")
    for entry in reference()[6::50]:
        assert_agrees(probabilities(victim, letterboxed(data_root() / entry["file"])), entry[LIGHT], 0.0002)


@pytest.mark.thorough
@needs_data
@pytest.mark.parametrize("name", ["movinet_a0", "r2plus1d_light"])
def test_the_named_victims_are_fit_for_an_attack(name: str) -> None:
    victim = vidmarl.load_victim(name, spec=ClipSpec(frames=8, size=(112, 112), short="hold"))
    files = [data_root() / entry["file"] for entry in reference()[6:200:96]]
    report = victim.check(load_clips(files, victim))
    assert report.ok, report
    assert len(victim.labels or []) == victim.n_classes


@pytest.mark.thorough
@needs_data
def test_a_spec_overrides_the_convention() -> None:
    victim = vidmarl.load_victim("movinet_a0", spec=ClipSpec(frames=8, size=(112, 112)), batch_size=3)
    seen = []
    victim.model.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    victim(torch.rand(4, 3, 8, 112, 112))
    assert seen == [(3, 3, 8, 112, 112), (1, 3, 8, 112, 112)]


@needs_data
def test_movinet_sees_no_later_frame() -> None:
    model = vidmarl.load_victim("movinet_a0").model
    frames = torch.rand(1, 6, 184, 5, 5)
    causal = model.blocks[4].dwt
    with torch.no_grad():
        expected = F.conv1d(
            F.pad(rearrange(frames, "b t c h w -> (b h w) c t"), (4, 0)), causal.weight, causal.bias, groups=184
        )
        expected = rearrange(expected, "(b h w) c t -> b t c h w", h=5, w=5)
        torch.testing.assert_close(causal(frames), expected)
        torch.testing.assert_close(causal(frames[:, :3]), expected[:, :3])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"), [(8, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (7, 5, 1, (2, 2)), (5, 1, 2, (0, 0))]
)
def test_same_padding_is_that_of_tensorflow(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    padded = pad_same(torch.ones(size), (kernel,), (stride,))
    torch.testing.assert_close(padded, F.pad(torch.ones(size), pads))


# --- names ---------------------------------------------------------------------------------------


def test_every_clip_classifier_of_pytorchvideo_is_listed() -> None:
    from pytorchvideo.models import hub

    here = {name for name in vars(hub) if callable(getattr(hub, name))}
    no_clip_classifiers = {name for name in here if name.endswith("_detection")} | {"mvit_base_16"}
    assert here - no_clip_classifiers == set(pytorchvideo.names())


def test_every_video_model_of_torchvision_is_listed() -> None:
    expected = {"mc3_18", "mvit_v1_b", "mvit_v2_s", "r2plus1d_18", "r3d_18", "s3d", "swin3d_b", "swin3d_s", "swin3d_t"}
    assert expected <= set(torchvision.names())


def test_names_are_listed_without_a_clash() -> None:
    names = vidmarl.list_victims()
    assert {"movinet_a0", "i3d", "r2plus1d_light", "x3d_xs", "r3d_18"} <= set(names)
    assert not [name for name in names if "/" in name]
    assert vidmarl.list_victims("*x3d_x*") == ["efficient_x3d_xs", "x3d_xs"]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'movinet_a9'.*did you mean movinet_a"):
        vidmarl.load_victim("movinet_a9")
    with pytest.raises(UnknownNameError, match="torchvision/x3d_xs"):
        vidmarl.load_victim("torchvision/x3d_xs")


# --- what a victim may be made of ----------------------------------------------------------------


def small_victim(classes: int = 3, scale: float = 10.0) -> Victim:
    """As a user would write it in a file of the working folder."""

    def model(clips: Tensor) -> Tensor:
        return scale * clips.mean((2, 3, 4))[:, torch.arange(classes) % 3]

    return Victim(model, name="small", spec=ClipSpec(frames=4, size=(32, 32), stride=2))


class ChannelVictim(Victim):
    """A victim that is a class of its own."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__(torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten()))
        self.n_classes = classes


no_victim = {"name": "not even a model"}
PATH = f"{__name__}.small_victim"


def test_a_class_path_leads_to_the_users_own_victim() -> None:
    clips = torch.rand(2, 3, 4, 32, 32)
    assert vidmarl.load_victim(PATH)(clips).shape == (2, 3)
    five = vidmarl.load_victim({"class_path": PATH, "init_args": {"classes": 5}}, spec={"frames": 8}, batch_size=1)
    assert five(clips).shape == (2, 5)
    assert five.spec == ClipSpec(frames=8, size=(32, 32), stride=2)
    assert five.batch_size == 1
    assert isinstance(vidmarl.load_victim(f"{__name__}.ChannelVictim"), ChannelVictim)


def test_a_description_may_hold_every_option_and_arguments_win_over_it() -> None:
    described = {"name": "x3d_xs", "init_args": {"weights": "random", "spec": {"frames": 2, "size": 64}}}
    spec = vidmarl.load_victim(described).spec
    assert spec is not None
    assert (spec.frames, spec.size, spec.stride) == (2, (64, 64), 12)
    assert vidmarl.load_victim(described, spec=ClipSpec(frames=3)).spec == ClipSpec(frames=3)


def test_a_victim_that_is_made_already_is_returned_as_it_is() -> None:
    victim = small_victim()
    assert vidmarl.load_victim(victim) is victim
    with pytest.raises(SettingsError, match=r"made already, so it cannot get \['spec'\]"):
        vidmarl.load_victim(victim, spec={"frames": 4})


@pytest.mark.parametrize(
    ("thing", "settings", "message"),
    [
        (3, {}, "expected a Victim, its name, its class path"),
        (f"{__name__}.no_victim", {}, "expected a class or a function"),
        (f"{__name__}.reference", {"weights": "random"}, "there is no setting 'weights'"),
        ({"class_path": PATH, "init_args": {"clases": 4}}, {}, "no setting 'clases'; did you mean classes"),
        ({"class_path": "x3d_xs", "init_args": {"weight": "random"}}, {}, "no setting 'weight'; did you mean weights"),
        ({"class_path": "x3d_xs", "args": {}}, {}, "expected {'class_path'"),
        ("x3d_xs", {"spec": {"frame": 4}}, "no setting 'frame'; did you mean frames"),
    ],
)
def test_what_is_no_victim_is_refused(thing: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        vidmarl.load_victim(thing, **settings)


@pytest.mark.parametrize("path", ["no_such_module.victim", f"{__name__}.small_victi", "a..b", "torch.nn."])
def test_a_path_that_leads_nowhere_is_an_unknown_name(path: str) -> None:
    with pytest.raises(UnknownNameError, match="Looked up the victim"):
        vidmarl.load_victim(path)


@pytest.mark.thorough
def test_a_spec_in_parts_is_known_before_the_network_is_built() -> None:
    spec: dict[str, Any] = {"frames": 4, "size": 64}
    victim = vidmarl.load_victim("mvit_base_16x4", "random", spec=spec)  # its position encoding is made for one size
    assert victim.spec is not None
    assert (victim.spec.frames, victim.spec.size, victim.spec.short_side) == (4, (64, 64), 256)
    assert victim(torch.rand(1, 3, 4, 64, 64)).shape == (1, 400)


@pytest.mark.parametrize("size", [112, [112, 112], (112, 112)])
def test_sizes_are_a_number_or_two(size: Any) -> None:
    assert ClipSpec(size=size) == ClipSpec().changed({"size": size}) == ClipSpec(size=(112, 112))


@pytest.mark.parametrize("size", [[112], (1, 2, 3), 0, (112, 0), (112.5, 112), "112"])
def test_other_sizes_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="ClipSpec: size "):
        ClipSpec(size=size)


@pytest.mark.parametrize("field", ["frames", "short_side", "stride", "fps"])
@pytest.mark.parametrize("value", [0, -1, "8", float("nan")])
def test_a_spec_needs_numbers_above_0(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"ClipSpec: {field} must be a"):
        ClipSpec(**{field: value})


@pytest.mark.parametrize("device", ["cuda:97", "tpu", "gpu", ""])
def test_a_device_that_does_not_work_is_named_beside_those_that_do(device: str) -> None:
    with pytest.raises(ValueError, match=r"device that works here, got '.*There are: cpu"):
        vidmarl.load_victim("demo", "random", device=device)
    with pytest.raises(ValueError, match=r"device that works here"):
        vidmarl.load_victim(PATH, device=device)


def test_a_gpu_is_called_cuda() -> None:
    with pytest.raises(ValueError, match=r"got 'gpu' \(GPUs are called cuda, cuda:0 and so on\)"):
        vidmarl.load_victim("demo", "random", device="gpu")


def test_the_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert usable_device("auto", "testing") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable_device("auto", "testing") == torch.device("cpu")
    assert vidmarl.load_victim("demo", "random").device == torch.device("cpu")


def test_what_is_in_the_folder_of_the_victims_and_is_none_is_not_listed() -> None:
    assert not {"efficientnet_lite0", "padding", "weights", "check", "victim"} & set(vidmarl.list_victims())


# --- the libraries' models, untrained ------------------------------------------------------------

SMALL = {
    "torchvision/r3d_18": ClipSpec(frames=4, size=(32, 32)),
    "s3d": ClipSpec(frames=14, size=(64, 64)),
    "swin3d_t": ClipSpec(frames=2, size=(32, 32)),
    "pytorchvideo/x3d_xs": ClipSpec(frames=4, size=(64, 64)),
    "slowfast_r50": ClipSpec(frames=8, size=(32, 32)),
    "slow_r50": ClipSpec(frames=4, size=(64, 64)),
    "r2plus1d_r50": ClipSpec(frames=8, size=(32, 32)),
    "mvit_base_16x4": ClipSpec(frames=4, size=(64, 64)),
    "efficient_x3d_xs": ClipSpec(frames=4, size=(64, 64)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SMALL)
def test_the_models_of_the_libraries_take_small_clips(name: str) -> None:
    spec = SMALL[name]
    victim = vidmarl.load_victim(name, "random", spec=spec)
    clips = torch.rand(2, 3, spec.frames or 0, *spec.size)
    answers = victim(clips)
    assert answers.shape == (2, 400)
    torch.testing.assert_close(answers.exp().sum(1), torch.ones(2))
    torch.testing.assert_close(victim(clips), answers)  # and asking changes nothing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r3d_18", "x3d_xs", "efficient_x3d_xs", "swin3d_t"])
def test_the_models_of_the_libraries_take_their_own_clips(name: str) -> None:
    victim = vidmarl.load_victim(name, "random")
    assert victim.spec is not None
    assert victim(torch.rand(1, 3, victim.spec.frames or 0, *victim.spec.size)).shape == (1, 400)


def test_slowfast_gets_its_two_pathways() -> None:
    class Network(torch.nn.Module):
        def forward(self, pathways: list[Tensor]) -> Tensor:
            seen.append([pathway[0, 0, :, 0, 0].tolist() for pathway in pathways])
            pathways[0] = pathways[1] = None  # type: ignore[call-overload]  # as the real one does
            return torch.zeros(1, 2)

    seen: list = []
    model = pytorchvideo.TwoPathways(Network())
    clips = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 3, 8, 2, 2)
    model(clips), model(clips)
    assert seen == [[[0, 7], [0, 1, 2, 3, 4, 5, 6, 7]]] * 2


def test_a_spec_that_a_model_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'mvit_v2_s'.*made for 16 frames of \(224, 224\) px, got a spec of 8 frames"):
        vidmarl.load_victim("mvit_v2_s", "random", spec=ClipSpec(frames=8, size=(112, 112)))


@pytest.mark.thorough
def test_slowfast_says_what_is_wrong_with_the_frames() -> None:
    with pytest.raises(VictimError, match="multiple of 4 frames, got 6"):
        vidmarl.load_victim("slowfast_r50", "random")(torch.rand(1, 3, 6, 32, 32))


@pytest.mark.thorough
def test_conventions_of_the_libraries() -> None:
    spec, normalisation = torchvision.conventions("swin3d_t")
    assert (spec.frames, spec.fps, spec.short_side, spec.size) == (32, 15.0, 256, (224, 224))
    assert normalisation["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert torchvision.conventions("r2plus1d_18")[0].size == (112, 112)
    victim = vidmarl.load_victim("x3d_m", "random")
    assert victim.spec is not None
    assert (victim.spec.frames, victim.spec.stride, victim.spec.size) == (16, 5, (256, 256))
    assert (victim.mean, victim.std, victim.outputs) == ((0.45,) * 3, (0.225,) * 3, "probabilities")
    assert vidmarl.load_victim("slow_r50", "random").outputs == "logits"


def test_random_weights_are_always_the_same_and_leave_the_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = vidmarl.load_victim("x3d_xs", "random")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = vidmarl.load_victim("x3d_xs", "random")
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.labels is None
    assert first.name == "x3d_xs (random weights)"


# --- weight files --------------------------------------------------------------------------------


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    (folder / "weights").mkdir(parents=True)
    monkeypatch.setenv("VIDMARL_DATA", str(folder))
    return folder


def test_without_its_weights_a_victim_says_how_to_get_them(no_data: Path) -> None:
    with pytest.raises(CheckpointError, match=r"movinet_a0_stream_k600_fp32.pt.*VIDMARL_DATA.*weights='random'"):
        vidmarl.load_victim("movinet_a0")
    with pytest.raises(CheckpointError, match=r"there is no weight file '.*nowhere.pt'"):
        vidmarl.load_victim("movinet_a0", no_data / "nowhere.pt")
    with pytest.raises(CheckpointError, match="it is a folder"):
        vidmarl.load_victim("movinet_a0", no_data)


@pytest.mark.thorough
def test_a_library_model_finds_its_weights_by_name(no_data: Path) -> None:
    wanted = {key: value + 1 if value.is_floating_point() else value for key, value in untrained("x3d_xs").items()}
    torch.save({"model_state": wanted}, no_data / "weights" / "x3d_xs.pyth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        victim = vidmarl.load_victim("x3d_xs")
    got = victim.model.state_dict()
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)


def untrained(name: str) -> dict[str, Tensor]:
    return vidmarl.load_victim(name, "random").model.state_dict()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_number_of_classes_is_that_of_the_file(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"mine{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(movinet.MoViNet(classes=7).state_dict(), path)
    victim = vidmarl.load_victim("movinet_a0", path)
    assert victim(torch.rand(1, 3, 2, 32, 32)).shape == (1, 7)
    assert victim.labels is None


def test_class_names_in_the_file_are_the_labels(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({"state_dict": movinet.MoViNet(classes=2).state_dict(), "class_names": ["run", "walk"]}, path)
    assert vidmarl.load_victim("movinet_a0", path).labels == ["run", "walk"]


@pytest.mark.thorough
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(movinet.MoViNet(classes=3).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"'i3d': expected .* missing .*; .* not of this network"):
        vidmarl.load_victim("i3d", path)
    torch.save({**movinet.MoViNet(classes=3).state_dict(), "stem.weight": torch.zeros(8, 3, 5, 5)}, path)
    with pytest.raises(CheckpointError, match=r"1 of another shape \(such as stem.weight \(8, 3, 5, 5\) instead of"):
        vidmarl.load_victim("movinet_a0", path)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


@pytest.mark.parametrize("content", ["empty", "text", "cut", "objects", "tensor", "no tensors"])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.pt"
    if content == "empty":
        path.touch()
    elif content == "text":
        path.write_text("weights? no.\n" * 100)
    elif content == "cut":
        torch.save(movinet.MoViNet(classes=3).state_dict(), path)
        path.write_bytes(path.read_bytes()[:-5000])
    else:
        held = {"objects": {"state_dict": Evil()}, "tensor": torch.ones(3), "no tensors": {"epoch": 3}}[content]
        torch.save(held, path)
    with pytest.raises(CheckpointError, match=r"Reading the weights '.*mine.pt': expected"):
        vidmarl.load_victim("movinet_a0", path)


@needs_data
def test_a_known_file_with_one_wrong_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / movinet.WEIGHTS.name
    shutil.copyfile(data_root() / "weights" / movinet.WEIGHTS.name, path)
    with path.open("r+b") as stream:
        stream.seek(5_000_000)
        byte = stream.read(1)[0]
        stream.seek(5_000_000)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(CheckpointError, match="expected sha256 3dbb1cfb"):
        vidmarl.load_victim("movinet_a0", path)
