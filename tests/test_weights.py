"""Published weights: downloaded when they are asked for, checked, remembered, and looked for where
other libraries keep them. The addresses are those of a server on this machine."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import vidmarl
from vidmarl.errors import CheckpointError
from vidmarl.utils import download as downloads
from vidmarl.victims import pytorchvideo, torchvision
from vidmarl.victims.cards import WeightFile, download_folder, find_weights
from vidmarl.victims.weights import build


class Server(http.server.ThreadingHTTPServer):
    """A server of files.

    Attributes:
        files: contents by path.
        cuts: lengths after which the next answers break off.
        asked: the paths of all requests.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.asked: list[str] = []

    def put(self, name: str, content: bytes) -> str:
        """Serves a file; returns its address."""
        self.files[f"/{name}"] = content
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", '"one"')
        self.end_headers()
        end = self.server.cuts.pop() if self.server.cuts else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "BACK_OFF", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any weights."""
    for variable in ("VIDMARL_DATA", "VIDMARL_CACHE", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


def small(classes: int = 3) -> nn.Module:
    return nn.Linear(4, classes)


def content(path: Path, network: nn.Module | None = None) -> bytes:
    torch.save({"model_state": (network or small()).state_dict()}, path)
    return path.read_bytes()


def test_published_weights_are_downloaded_once(server: Server, tmp_path: Path) -> None:
    network = small(5)
    own = WeightFile("small.pyth", url=server.put("small.pyth", content(tmp_path / "x", network)))
    for _ in range(2):
        made, found = build("small", small, None, own)
        assert found is not None
        assert torch.equal(made.weight, network.weight)
    assert server.asked == ["/small.pyth"]
    assert find_weights("small", own) == download_folder() / "small.pyth"


def test_a_download_that_breaks_off_goes_on(server: Server, tmp_path: Path) -> None:
    held = content(tmp_path / "x")
    own = WeightFile("small.pyth", url=server.put("small.pyth", held))
    server.cuts = [len(held) // 2]
    build("small", small, None, own)
    assert len(server.asked) == 2
    assert (download_folder() / "small.pyth").read_bytes() == held


def test_what_changes_after_the_first_download_is_refused(server: Server, tmp_path: Path) -> None:
    own = WeightFile("small.pyth", url=server.put("small.pyth", content(tmp_path / "x")))
    build("small", small, None, own)
    path = download_folder() / "small.pyth"
    note = path.with_name("small.pyth.sha256").read_text("utf-8")
    assert re.fullmatch(r"[0-9a-f]{64}  small\.pyth\n", note)  # as `sha256sum --check` reads it
    path.write_bytes(content(tmp_path / "other", small(4)))
    with pytest.raises(CheckpointError, match=f"expected sha256 {note[:64]}"):
        build("small", small, None, own)


def test_the_first_digits_of_a_checksum_are_checked(server: Server, tmp_path: Path) -> None:
    url = server.put("small.pth", content(tmp_path / "x"))
    digits = downloads.file_sha256(tmp_path / "x")[:8]
    build("small", small, None, WeightFile("small.pth", digits, url))
    server.put("small.pth", content(tmp_path / "x", small(2)))
    wrong = WeightFile("another.pth", digits, url)
    with pytest.raises(CheckpointError, match=rf"its weights are not here.*expected sha256 {digits}"):
        build("small", small, None, wrong)
    assert find_weights("another", wrong) is None


def test_what_is_no_weight_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    own = WeightFile("small.pyth", url=server.put("small.pyth", b"<html>Please log in.</html>"))
    with pytest.raises(CheckpointError, match="expected a state dict"):
        build("small", small, None, own)
    assert not list(download_folder().iterdir())
    server.put("small.pyth", content(tmp_path / "x"))
    assert build("small", small, None, own)[1] is not None


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


def test_nothing_in_a_download_is_executed(server: Server, tmp_path: Path) -> None:
    torch.save({"model_state": Evil()}, tmp_path / "x")
    own = WeightFile("small.pyth", url=server.put("small.pyth", (tmp_path / "x").read_bytes()))
    with pytest.raises(CheckpointError, match="never unpickled"):
        build("small", small, None, own)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/zoo/small.pyth", "http://no-such-host.invalid/small.pyth"])
def test_without_a_network_one_message_says_which_file_to_put_where(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "BACK_OFF", 0.001)
    with pytest.raises(CheckpointError) as caught:
        build("small", small, None, WeightFile("small.pyth", "0123abcd", url))
    message = str(caught.value)
    place = download_folder() / "small.pyth"
    for said in ("Loading the victim 'small'", url, str(place), "0123abcd", "weights='random'"):
        assert said in message
    torch.save(small().state_dict(), place)  # as the message says
    with pytest.raises(CheckpointError, match="expected sha256 0123abcd"):
        build("small", small, None, WeightFile("small.pyth", "0123abcd", url))


def test_own_weights_in_the_data_folder_win(server: Server, tmp_path: Path) -> None:
    own = WeightFile("SMALL_8x8.pyth", url=server.put("small.pyth", content(tmp_path / "x")))
    build("small", small, None, own)
    mine = tmp_path / "VIDMARL_DATA" / "weights" / "small.pt"
    mine.parent.mkdir(parents=True)
    torch.save({"state_dict": small(2).state_dict(), "class_names": ["run", "walk"]}, mine)
    made, found = build("small", small, None, own)
    assert found is not None
    assert (found.path, found.class_names, len(made.bias)) == (mine, ["run", "walk"], 2)


@pytest.mark.parametrize("how", ["variable", "set_dir"])
def test_what_other_libraries_have_downloaded_is_found(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "torch"
    if how == "variable":
        monkeypatch.setenv("TORCH_HOME", str(home))
    else:
        torch.hub.set_dir(home / "hub")  # undone with the fixture
    kept = home / "hub" / "checkpoints" / "small.pyth"
    kept.parent.mkdir(parents=True)
    torch.save(small(7).state_dict(), kept)
    made, _ = build("small", small, None, WeightFile("small.pyth", url="http://127.0.0.1:9/small.pyth"))
    assert len(made.bias) == 7


def test_random_weights_ask_nobody(server: Server) -> None:
    build("small", small, "random", WeightFile("small.pyth", url=server.put("small.pyth", b"")))
    assert not server.asked


# --- the published files of the libraries --------------------------------------------------------


@pytest.mark.thorough
def test_a_victim_by_name_downloads_its_weights(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = vidmarl.load_victim("x3d_xs", "random").model
    torch.nn.init.constant_(network.blocks[-1].proj.bias, 0.25)
    url = server.put("X3D_XS.pyth", content(tmp_path / "x", network))
    monkeypatch.setattr(pytorchvideo, "ZOO", url.rpartition("/")[0])
    assert vidmarl.victim_card("x3d_xs").state == "download"
    victim = vidmarl.load_victim("x3d_xs", spec={"frames": 4, "size": 64})
    assert (victim.name, victim.label(0)) == ("x3d_xs", "abseiling")  # names of classes without a data folder
    assert victim.model.blocks[-1].proj.bias.eq(0.25).all()
    assert victim(torch.rand(1, 3, 4, 64, 64)).shape == (1, 400)
    assert vidmarl.victim_card("x3d_xs").state == "here"
    assert server.asked == ["/X3D_XS.pyth"]


@pytest.mark.thorough
def test_the_addresses_are_those_of_the_libraries() -> None:
    from importlib import import_module

    published = set()
    for file in ("csn", "efficient_x3d_mobile_cpu", "r2plus1d", "resnet", "slowfast", "vision_transformers", "x3d"):
        hub = import_module(f"pytorchvideo.models.hub.{file}")
        published |= set(vars(hub).get("checkpoint_paths", vars(hub).get("_checkpoint_paths")).items())
    ours = {(name, pytorchvideo.weight_file(name).url) for name in pytorchvideo.names()}
    assert ours <= published
    assert {name for name, _ in published - ours} == {"slow_r50_detection", "slowfast_r50_detection", "mvit_base_16"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mvit_v1_b", "r3d_18", "s3d", "swin3d_b"])
def test_the_files_of_torchvision_have_the_digits_of_their_checksum(name: str) -> None:
    own = torchvision.weight_file(name)
    assert own.url is not None
    assert own.url.startswith("https://download.pytorch.org/models/")
    assert re.fullmatch(rf"{name}\w*-{own.sha256}\.pth", own.name)
    assert len(own.sha256 or "") == 8


@pytest.mark.slow
def test_the_cards_of_pytorchvideo_count_its_parameters() -> None:
    from pytorchvideo.models import hub

    for name in pytorchvideo.names():
        if not name.startswith("mvit"):  # they cannot be made without memory
            with torch.device("meta"):
                network = getattr(hub, name)(pretrained=False)
            assert vidmarl.victim_card(name).parameters == sum(p.numel() for p in network.parameters()), name
