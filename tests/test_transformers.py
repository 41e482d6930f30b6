"""Video classifiers of Hugging Face: small ones in local folders, a cache and a hub on this
machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import vidmarl
from vidmarl.benchmark import Benchmark, run_benchmark
from vidmarl.data.encode import write_lossless
from vidmarl.errors import CheckpointError, SettingsError
from vidmarl.testing import check_victim, drawn_clips
from vidmarl.victims import ships
from vidmarl.victims import transformers as family
from vidmarl.victims.cards import find_snapshot

transformers = pytest.importorskip("transformers")

SMALL = {
    "image_size": 32,
    "num_frames": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "id2label": {0: "run", 1: "walk", 2: "wave"},
}
KINDS = {"videomae": ("VideoMAE", {"patch_size": 8}), "timesformer": ("Timesformer", {"patch_size": 8})} | {
    "vivit": ("Vivit", {"tubelet_size": [2, 8, 8]})
}
SIZES = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
REPOSITORY = "MCG-NJU/videomae-base-finetuned-kinetics"
CLIPS = (torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def save(folder: Path, kind: str = "videomae", **settings: Any) -> tuple[nn.Module, Any]:
    """Saves a small model and its processor, as anybody would; returns both."""
    start, more = KINDS[kind]
    torch.manual_seed(1)
    config = getattr(transformers, f"{start}Config")(**SMALL | more | {"initializer_range": 0.3} | settings)
    model = getattr(transformers, f"{start}ForVideoClassification")(config).eval()
    maker = transformers.VivitImageProcessor if kind == "vivit" else transformers.VideoMAEImageProcessor
    processor = maker(**SIZES, image_mean=[0.4, 0.45, 0.5], image_std=[0.2, 0.225, 0.25])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small VideoMAE."""
    save(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.mark.thorough
def test_a_small_one_keeps_the_promises_of_victims(folder: Path) -> None:
    victim = vidmarl.load_victim(str(folder))
    assert victim.spec is not None
    assert victim.spec.frames is not None
    check_victim(victim, drawn_clips(2, victim.spec.frames, *victim.spec.size))


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any weights."""
    for variable in ("VIDMARL_DATA", "VIDMARL_CACHE", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_module_called_by_hand(kind: str, tmp_path: Path) -> None:
    model, processor = save(tmp_path / kind, kind)
    frames = [list((clip * 255).byte().permute(1, 2, 3, 0).numpy()) for clip in CLIPS]
    batch = torch.cat([processor(clip, do_resize=False, return_tensors="pt").pixel_values for clip in frames])
    with torch.no_grad():
        expected = model(pixel_values=batch).logits.log_softmax(1)
    victim = vidmarl.load_victim(str(tmp_path / kind))
    torch.testing.assert_close(victim(CLIPS), expected, atol=1e-4, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.01  # and not whatever the clips are
    assert (victim.name, victim.labels) == (kind, ["run", "walk", "wave"])


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["videomae", "vivit"])
def test_files_are_cut_as_the_processor_cuts_them(kind: str, tmp_path: Path) -> None:
    _, processor = save(tmp_path / kind, kind)
    smooth = nn.functional.interpolate(torch.rand(1, 3, 20, 12, 16), (20, 72, 96), mode="trilinear")[0]
    path = write_lossless(tmp_path / "clip.mkv", smooth)
    victim = vidmarl.load_victim(str(tmp_path / kind))
    assert victim.spec is not None
    stride = {"videomae": 4, "vivit": 2}[kind]
    assert (victim.spec.frames, victim.spec.stride, victim.spec.short_side) == (4, stride, 40)
    video, _ = vidmarl.data.read_video(path)
    start = (20 - 4 * stride) // 2
    frames = list(video[:, start : start + 4 * stride : stride].permute(1, 2, 3, 0).numpy())
    expected = processor(frames, return_tensors="pt").pixel_values[0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (victim.mean, victim.std))
    got = (vidmarl.load_clips(path, victim)[0].transpose(0, 1) - mean) / std
    assert got.shape == expected.shape
    assert (got - expected).abs().mean() < 0.03 * expected.std()


def test_labels_that_say_nothing_are_none(tmp_path: Path) -> None:
    save(tmp_path / "mine", id2label={0: "LABEL_0", 1: "LABEL_1"})
    assert vidmarl.load_victim(str(tmp_path / "mine")).labels is None


def test_a_folder_is_attacked_as_any_other_victim(folder: Path) -> None:
    victim = vidmarl.load_victim({"class_path": str(folder), "init_args": {"batch_size": 1}})
    result = vidmarl.GrowAndReduce("gaussian_noise", budget=6, progress=False)(victim, CLIPS)
    assert result.queries.max() <= 6
    assert victim.queries > 0


@pytest.mark.thorough
def test_a_folder_is_a_victim_of_a_benchmark(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("a", "b"):
        write_lossless(tmp_path / "clips" / f"{name}.mkv", torch.rand(3, 20, 32, 32))
    benchmark = Benchmark(
        victims=[str(folder)],
        attacks={"random_cells": {}},
        data=vidmarl.data.Folder(tmp_path / "clips"),
        distortions=["gaussian_noise"],
        budget=3,
        budgets=[3],
        out=tmp_path / "out",
    )
    run_benchmark(benchmark, progress=False)
    assert set(pd.read_csv(tmp_path / "out" / "rows.csv")["victim"]) == {"mine"}


def test_older_and_newer_names_of_tensors_are_known(tmp_path: Path) -> None:
    model, _ = save(tmp_path / "mine")
    expected = vidmarl.load_victim(str(tmp_path / "mine"))(CLIPS)
    newer = model.state_dict()
    assert newer.keys() != load_file(tmp_path / "mine" / "model.safetensors").keys()  # q_bias, v_bias
    save_file(newer, tmp_path / "mine" / "model.safetensors")
    torch.testing.assert_close(vidmarl.load_victim(str(tmp_path / "mine"))(CLIPS), expected)


def test_weights_in_several_files(tmp_path: Path) -> None:
    model, _ = save(tmp_path / "mine")
    expected = vidmarl.load_victim(str(tmp_path / "mine"))(CLIPS)
    (tmp_path / "mine" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "mine", max_shard_size="10KB")
    assert len(list((tmp_path / "mine").glob("*.safetensors"))) > 1
    torch.testing.assert_close(vidmarl.load_victim(str(tmp_path / "mine"))(CLIPS), expected)


# --- what is refused -----------------------------------------------------------------------------


def only_pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_classifier(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def without_a_layer(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if ".layer.0." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), "utf-8")


def of_other_shape(folder: Path) -> None:
    change(folder, intermediate_size=48)


def of_text(folder: Path) -> None:
    change(folder, model_type="bert")


def with_code(folder: Path) -> None:
    change(folder, model_type="mine", auto_map={"AutoConfig": "code.Config"})
    (folder / "code.py").write_text("raise AssertionError('this was run')", "utf-8")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (only_pickled, r"expected model.safetensors in .*, which has pytorch_model.bin"),
        (without_classifier, "2 are missing .*has not learned to classify: fine-tune it"),
        (without_a_layer, r"\d+ are missing \(such as videomae.encoder"),
        (cut_short, "Reading the weights .*model.safetensors"),
        (of_other_shape, "are not those of its config.json"),
        (of_text, "expected a video classifier .*videomae.* got the model type 'bert'"),
        (with_code, "Code from a repository is never run"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_whole_video_classifier_is_refused(spoil: Callable[[Path], None], said: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=said):
        vidmarl.load_victim(str(folder))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a folder without config\.json"):
        vidmarl.load_victim(str(tmp_path))


def test_without_a_processor_it_is_said_what_is_assumed(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"no preprocessor_config\.json.*0\.5 are assumed"):
        victim = vidmarl.load_victim(str(folder))
    assert (victim.mean, victim.std) == ((0.5,) * 3, (0.5,) * 3)


def test_clips_that_its_position_encoding_is_not_made_for_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"4 frames of \(32, 32\) px, got a spec of 8 frames"):
        vidmarl.load_victim(str(folder), spec={"frames": 8})


@pytest.mark.parametrize("name", ["hf:", "hf:videomae", "hf:../secret", "hf:a/b/c"])
def test_what_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="expected hf:ORG/NAME"):
        vidmarl.load_victim(name)


def test_unknown_settings_are_answered(folder: Path) -> None:
    with pytest.raises(SettingsError, match="no setting 'trust_remote_code'"):
        vidmarl.load_victim({"class_path": str(folder), "init_args": {"trust_remote_code": True}})


# --- by name -------------------------------------------------------------------------------------


def cached(folder: Path, home: Path) -> Path:
    """Puts a folder where the cache of the hub has it."""
    snapshot = home / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)
    return snapshot


@pytest.mark.parametrize("name", ["videomae_base", f"hf:{REPOSITORY}"])
@pytest.mark.parametrize("place", ["cache", "data"])
def test_files_that_are_here_are_used(name: str, place: str, folder: Path, tmp_path: Path) -> None:
    assert vidmarl.victim_card("videomae_base").state == "download"
    if place == "cache":
        assert find_snapshot(REPOSITORY) is None
        cached(folder, tmp_path / "HF_HOME")
    else:
        shutil.copytree(folder, tmp_path / "VIDMARL_DATA" / "weights" / name.removeprefix("hf:"))
    small = {"frames": 4, "size": 32}
    victim = vidmarl.load_victim(name, spec=small)
    assert torch.equal(victim(CLIPS), vidmarl.load_victim(str(folder))(CLIPS))
    assert victim.name == name.removeprefix("hf:")
    if place == "cache":
        assert vidmarl.victim_card("videomae_base").state == "here"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub of Hugging Face as a download needs."""

    folder: Path
    asked: list[str]

    def do_GET(self, body: bool = True) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        if "/api/models/" in self.path:
            there = [path.name for path in self.folder.iterdir()] + ["code.py", "a.bin"]
            model = {"id": REPOSITORY, "sha": "0" * 40, "siblings": [{"rfilename": file} for file in there]}
            tree = [{"type": "file", "path": file, "size": 1, "oid": "0" * 40} for file in there]
            content = json.dumps(tree if "/tree/" in self.path else model).encode()
        elif (self.folder / name).is_file():
            content = (self.folder / name).read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths that a hub with one model is asked for."""
    from huggingface_hub import constants

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    asked: list[str] = []
    handler = type("OneModel", (Hub,), {"folder": folder, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield asked
        server.shutdown()


def test_a_repository_is_downloaded_once_and_without_code(hub: list[str], folder: Path) -> None:
    victim = vidmarl.load_victim(f"hf:{REPOSITORY}")
    assert torch.equal(victim(CLIPS), vidmarl.load_victim(str(folder))(CLIPS))
    got = [path.rpartition("/")[2] for path in hub if "/resolve/" in path]
    assert set(got) == {"config.json", "preprocessor_config.json", "model.safetensors"}
    asked = len(hub)
    vidmarl.load_victim(f"hf:{REPOSITORY}")
    assert len(hub) == asked


def test_without_a_network_one_message_says_which_files_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://no-such-host.invalid")
    with pytest.raises(CheckpointError) as caught:
        vidmarl.load_victim("videomae_base")
    place = tmp_path / "VIDMARL_DATA" / "weights" / "videomae_base"
    for said in (f"huggingface.co/{REPOSITORY}", str(place), "model.safetensors", "weights='random'"):
        assert said in str(caught.value)


def test_what_a_file_names_is_not_downloaded() -> None:
    assert ships("videomae_base")
    assert not ships(f"hf:{REPOSITORY}")


def test_a_state_dict_for_a_known_network(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["classifier.weight"], state["classifier.bias"] = torch.zeros(2, 16), torch.tensor([0.0, 5.0])
    torch.save({"state_dict": state, "class_names": ["a", "b"]}, tmp_path / "mine.pt")
    victim = vidmarl.load_victim(str(folder), tmp_path / "mine.pt")
    assert victim.labels == ["a", "b"]
    assert victim(CLIPS).argmax(1).tolist() == [1, 1]
    random = vidmarl.load_victim(str(folder), "random")
    assert random.name == "mine (random weights)"
    assert random.labels is None


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["timesformer_base", "videomae_base", "vivit_base"])
def test_the_named_ones_have_the_usual_networks(name: str) -> None:
    config = family._named_config(transformers, name)
    with torch.device("meta"):
        network = transformers.AutoModelForVideoClassification.from_config(config)
    assert vidmarl.victim_card(name).parameters == sum(parameter.numel() for parameter in network.parameters())
    spec = family.default_spec(name)
    assert (config.num_frames, config.image_size, config.num_labels) == (spec.frames, spec.size[0], 400)


@pytest.mark.slow
def test_a_named_one_takes_its_own_clips() -> None:
    victim = vidmarl.load_victim("videomae_base", "random")
    assert victim(torch.rand(1, 3, 16, 224, 224)).shape == (1, 400)
