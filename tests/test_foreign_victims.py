"""Models of any make behind a `Victim`: files of other programs, a server, NumPy, other colours and
values; an attack on them is the attack on the network itself."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from vidmarl import AttackResult, ClipSpec, GrowAndReduce, Victim, load_clips
from vidmarl.cli import main
from vidmarl.data.encode import write_lossless
from vidmarl.errors import CheckpointError, SettingsError, VictimError
from vidmarl.queries.budget import QueryBudget
from vidmarl.victims import load_victim
from vidmarl.victims.decisions import decisions_only
from vidmarl.victims.endpoint import Endpoint
from vidmarl.victims.journal import journaled

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
from serve import Answer, Server

CLIPS = torch.rand(3, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Four classes by the mean of each quarter of the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 4, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(30 * torch.randn(4, 12, generator=torch.Generator().manual_seed(3)))

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(nn.functional.avg_pool3d(clips - 0.5, (4, 8, 8)).flatten(1))


def attacked(victim: Victim) -> list[Any]:
    attack = GrowAndReduce("brightness", budget=25, progress=False)
    result = attack(victim, CLIPS)
    assert int(result.queries.sum()) == victim.queries
    return [result.queries.tolist(), result.success.tolist(), result.adversarial, result.history["margin"].nan_to_num()]


def same(one: list[Any], other: list[Any], off_by: float = 0.0) -> None:
    """The same counts and the same clips; margins are `off_by` nats at most."""
    assert one[:2] == other[:2]
    assert torch.equal(one[2], other[2])
    assert (one[3] - other[3]).abs().max() <= off_by


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    found = attacked(Victim(Net()))
    assert any(found[1])
    return found


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("dynamic", [True, False])
def test_an_exported_file_is_attacked_as_the_network_itself(tmp_path: Path, expected: list[Any], dynamic: bool) -> None:
    shapes = ({0: torch.export.Dim("b")},) if dynamic else None
    program = torch.export.export(Net().eval(), (CLIPS if dynamic else CLIPS[:1],), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    victim = load_victim(str(tmp_path / "net.pt2"), device="cpu")
    assert (victim.name, victim.batch_size) == ("net", None if dynamic else 1)
    same(attacked(victim), expected, off_by=0.0 if dynamic else 1e-6)  # batches of one, by other kernels


@pytest.mark.thorough
def test_a_file_of_torchscript_is_attacked_as_the_network_itself(tmp_path: Path, expected: list[Any]) -> None:
    with pytest.warns(FutureWarning):
        torch.jit.trace(Net().eval(), CLIPS).save(tmp_path / "net.torchscript")
    same(attacked(load_victim(str(tmp_path / "net.torchscript"), device="cpu")), expected)


@pytest.mark.thorough
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_file_of_onnx_is_attacked_as_the_network_itself(tmp_path: Path, expected: list[Any], dynamic: bool) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    file = tmp_path / "net.onnx"
    axes = {"clips": {0: "b"}, "logits": {0: "b"}} if dynamic else None
    torch.onnx.export(
        Net().eval(),
        (CLIPS[:1],),
        file,
        dynamo=False,
        input_names=["clips"],
        output_names=["logits"],
        dynamic_axes=axes,
    )
    victim = load_victim({"class_path": str(file), "init_args": {"labels": list("abcd")}})
    assert (victim.name, victim.batch_size, victim.labels) == ("net", None if dynamic else 1, list("abcd"))
    assert len(victim.identity()["network"]) == 64
    same(attacked(victim), expected, off_by=1e-3)  # other kernels round otherwise


@pytest.mark.thorough
def test_a_file_of_onnx_is_attacked_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.onnx.export(Net().eval(), (CLIPS[:1],), tmp_path / "net.onnx", dynamo=False)
    monkeypatch.chdir(tmp_path)
    write_lossless(tmp_path / "clip.webm", CLIPS[0], 5.0)
    spec = ["--spec", '{"frames": 4, "size": 16}']
    how = ["--attack", "grow_and_reduce", "--distortion", "brightness", "--budget", "25", "--no_progress"]
    main(["attack", "clip.webm", "--victim", "net.onnx", *spec, *how, "--out", "results"])
    result = AttackResult.load(tmp_path / "results" / "result")
    module = Victim(Net(), spec=ClipSpec(frames=4, size=(16, 16)))
    wanted = GrowAndReduce("brightness", budget=25, progress=False)(module, load_clips(["clip.webm"], module))
    assert result.settings["victim"] == "net"
    assert result.queries.tolist() == wanted.queries.tolist()
    assert torch.equal(result.adversarial, wanted.adversarial)


def test_without_onnxruntime_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"pip install 'vidmarl\[onnx\]'"):
        load_victim("net.onnx")


@pytest.mark.parametrize("name", ["net.pt2", "net.torchscript", "net.onnx"])
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    if name.endswith("onnx"):
        pytest.importorskip("onnxruntime")
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_victim(str(tmp_path / name))
    (tmp_path / name).write_text("nothing of the kind", "utf-8")
    with pytest.raises(CheckpointError, match="expected a file of"):
        load_victim(str(tmp_path / name))


@pytest.mark.thorough
def test_a_file_for_a_fixed_number_of_clips_says_so(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Net().eval(), (CLIPS,)), tmp_path / "net.pt2")
    with pytest.raises(SettingsError, match="exported for 3 clips at once"):
        load_victim(str(tmp_path / "net.pt2"))


# --- a server ------------------------------------------------------------------------------------


class Unreliable(Answer):
    """Misbehaves as its server's `plan` says, a step for each request; None: it answers."""

    def do_POST(self) -> None:
        server: Any = self.server
        step = server.plan.pop(0) if server.plan else None
        server.paths.append(self.path)
        if step is None:
            return super().do_POST()
        asked = load(self.rfile.read(int(self.headers["Content-Length"])))["clips"]
        turned_away = step in (429, 503) or (isinstance(step, str) and step.startswith("wait"))
        if not turned_away:
            server.victim.queries += len(asked)
            server.failed += len(asked)
        if isinstance(step, int):
            self.send_response(step)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if turned_away:
            self.send_response(429)
            self.send_header("Retry-After", step.removeprefix("wait "))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        scores = torch.zeros(len(asked), 4)
        answers: dict[str, tuple[int, str | bytes]] = {
            "page": (200, "<html><body>Welcome</body></html>"),
            "error page": (500, "<html><h1>Oops</h1><p>It broke</p></html>"),
            "nan": (200, save({"logits": scores.log() * 0})),
            "one too few": (200, save({"logits": scores[1:]})),
            "echo": (403, f"the key {self.headers.get('X-Key')} is wrong"),
        }
        if step in answers:
            return self._say(*answers[step])
        if step == "late":
            time.sleep(0.5)
        elif step in ("short", "drip"):
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            for _ in range(10 if step == "drip" else 1):
                self.wfile.write(b"0123456789")
                time.sleep(0.05 if step == "drip" else 0)
        self.close_connection = True
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Victim(Net())) as running:
        running.RequestHandlerClass = Unreliable  # type: ignore[assignment]
        running.plan, running.paths, running.failed = [], [], 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


def endpoint(server: Server, **settings: Any) -> Victim:
    return load_victim({"class_path": address(server), "init_args": {"backoff": 0.0, **settings}})


@pytest.mark.thorough
def test_a_server_is_attacked_as_the_network_itself(server: Server, expected: list[Any]) -> None:
    victim = endpoint(server)
    same(attacked(victim), expected, off_by=1e-6)  # it sends log-probabilities, of which others are made here
    assert server.victim.queries == victim.queries
    assert victim.name == f"127.0.0.1:{server.server_port}"


def test_a_server_may_answer_with_decisions_alone(server: Server) -> None:
    net = Victim(Net())
    server.victim = decisions_only(net)
    names = list("abcd")
    victim = endpoint(server, outputs="decisions", labels=names)
    attack = GrowAndReduce("brightness", budget=8, progress=False)
    result, wanted = attack(victim, CLIPS), attack(net, CLIPS)
    assert result.settings["decisions_only"]
    assert torch.equal(result.history["margin"].nan_to_num(), wanted.history["margin"].sign().nan_to_num())
    assert victim.queries == server.victim.queries
    with pytest.raises(VictimError, match="expected"):
        endpoint(server)(CLIPS)  # which takes the answers for scores


@pytest.mark.thorough
@pytest.mark.parametrize("plan", [[503, 429, 503], [500], [502, 504], ["broken"], ["late"], [429, "broken", 500]])
def test_every_attempt_that_reached_the_model_is_a_query(server: Server, plan: list[Any]) -> None:
    server.plan = list(plan)  # type: ignore[attr-defined]
    victim = endpoint(server, timeout=0.2 if "late" in plan else 5.0)
    assert torch.allclose(victim(CLIPS), Victim(Net())(CLIPS))
    reached = len([step for step in plan if step not in (429, 503)])
    assert victim.queries == 3 * (1 + reached) == server.victim.queries


@pytest.mark.parametrize(
    ("plan", "words", "queries"),
    [([500] * 3, "not answer any of 3 attempts", 9), ([503] * 3, "of 3 attempts.*503", 0), ([404], "404", 3)],
)
def test_a_server_that_does_not_answer_is_given_up(server: Server, plan: list[Any], words: str, queries: int) -> None:
    server.plan = list(plan)  # type: ignore[attr-defined]
    victim = endpoint(server, retries=2)
    with pytest.raises(VictimError, match=words):
        victim(CLIPS)
    assert victim.queries == queries


def test_nobody_there_is_no_query() -> None:
    victim = load_victim({"class_path": "http://127.0.0.1:9/x", "init_args": {"retries": 1, "backoff": 0.0}})
    with pytest.raises(VictimError, match="ConnectionRefusedError"):
        victim(CLIPS)
    assert victim.queries == 0


@pytest.mark.parametrize(
    ("plan", "answered"),
    [
        ([None, 500], True),
        ([None, "broken", 503, 500], True),
        ([None, *[500] * 30], False),
        ([500, 500, *[None] * 5, 500, 429, 500], True),
    ],
)
def test_failed_attempts_are_queries_of_the_clips_and_stay_in_their_budget(
    server: Server, plan: list[Any], answered: bool
) -> None:
    server.plan = list(plan)  # type: ignore[attr-defined]
    victim = endpoint(server, retries=40)
    attack = GrowAndReduce("brightness", budget=12, progress=False)
    seen: list[int] = []
    result = attack(victim, CLIPS, on_query=lambda progress: seen.append(int(progress.queries.max())))
    assert int(result.queries.sum()) == victim.queries == server.victim.queries
    assert int(result.queries.max()) <= 12
    assert max(seen) <= 12
    assert result.complete
    margins = result.history["margin"]
    known = [~row[:asked].isnan() for row, asked in zip(margins, result.queries.tolist(), strict=True)]
    assert all(bool(row[0]) for row in known)  # the clean prediction
    assert any(bool(row[1:].any()) for row in known) == answered
    assert sum(int((~row).sum()) for row in known) == server.failed > 0  # type: ignore[attr-defined]


def test_a_clip_that_has_nothing_left_takes_part_in_no_further_attempt(server: Server) -> None:
    server.plan = [500, 500]  # type: ignore[attr-defined]
    victim = endpoint(server, retries=5)
    budget = QueryBudget(victim, 3, 4)
    budget.count = torch.tensor([3, 2, 0])
    said = budget.query(CLIPS, torch.arange(3))
    assert said.isnan().any(1).tolist() == [True, True, False]
    assert budget.count.tolist() == [4, 4, 3]
    assert budget.at.tolist() == [4, 4, 3]
    assert victim.queries == 3 + 2 + 1


def test_a_clip_that_stands_twice_in_a_batch_pays_for_both(server: Server) -> None:
    server.plan = [500]  # type: ignore[attr-defined]
    victim = endpoint(server, retries=5)
    budget = QueryBudget(victim, 2, 4)
    budget.count = torch.tensor([1, 0])
    said = budget.query(CLIPS, torch.tensor([0, 0, 1]))
    assert said.isnan().any(1).tolist() == [False, True, False]  # the third of its queries left was for one of them
    assert budget.count.tolist() == [4, 2]
    assert budget.at.tolist() == [3, 4, 2]


def test_without_a_clean_prediction_within_the_budget_nothing_is_attacked(server: Server) -> None:
    server.plan = [None, 500, 500]  # type: ignore[attr-defined]
    victim = endpoint(server, retries=5)
    victim(CLIPS)  # knows the classes
    with pytest.raises(VictimError, match="no clean prediction of 3 clips within their budget of 2 queries"):
        GrowAndReduce("brightness", budget=2, progress=False)(victim, CLIPS)


@pytest.mark.thorough
def test_an_attack_that_was_interrupted_knows_what_failed_attempts_have_cost(server: Server, tmp_path: Path) -> None:
    attack = GrowAndReduce("brightness", budget=12, progress=False)

    def attacked_again(plan: list[Any]) -> AttackResult:
        server.plan = plan  # type: ignore[attr-defined]
        victim = endpoint(server, retries=40)
        with journaled(victim, tmp_path / "journal"):
            return attack(victim, CLIPS)

    first = attacked_again([None, 500, None, None, "broken"])
    before = server.victim.queries
    again = attacked_again([])
    assert server.victim.queries == before
    assert again.queries.tolist() == first.queries.tolist()
    assert torch.equal(again.adversarial, first.adversarial)
    for key, values in first.history.items():
        assert torch.equal(values.nan_to_num(-1), again.history[key].nan_to_num(-1))


@pytest.mark.thorough
def test_a_key_comes_from_the_environment_and_goes_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    header = {"X-Key": "$THE_KEY_OF_A_TEST"}
    with pytest.raises(SettingsError, match="'X-Key' names a variable of the environment that is not set"):
        endpoint(server, headers=header)
    monkeypatch.setenv("THE_KEY_OF_A_TEST", "open sesame")
    server.key = "open sesame"
    with pytest.raises(VictimError, match="401"):
        endpoint(server)(CLIPS)
    victim = endpoint(server, headers=header)
    monkeypatch.setattr(sys, "argv", ["vidmarl", "attack", "--header", "open sesame"])
    result = GrowAndReduce("brightness", budget=4, progress=False)(victim, CLIPS)
    result.save(tmp_path / "result")
    kept = b"".join(path.read_bytes() for path in (tmp_path / "result").rglob("*") if path.is_file())
    assert b"sesame" not in kept
    assert "sesame" not in f"{victim} {victim.identity()} {victim.model} {result.settings} {result.provenance}"
    server.plan = ["echo", 307]  # type: ignore[attr-defined]
    with pytest.raises(VictimError, match=r"403 Forbidden: the key .* is wrong") as caught:
        victim(CLIPS)
    assert "sesame" not in str(caught.value)
    with pytest.raises(VictimError, match="307"):
        victim(CLIPS)


@pytest.mark.parametrize(
    ("url", "headers", "words"),
    [
        ("http://127.0.0.1:9", {"X-Key": "open sesame"}, "'X-Key' holds a key that is written out"),
        ("http://127.0.0.1:9", {"Authorization": "Bearer sesame"}, "'Authorization' holds a key that is written out"),
        ("http://127.0.0.1:9?api_key=sesame", {}, "the address holds a key that is written out"),
        ("http://me:sesame@127.0.0.1:9", {}, "a name or a password in the address"),
    ],
)
def test_a_key_that_is_written_out_is_refused(url: str, headers: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        Endpoint(url, headers=headers)
    assert "sesame" not in str(caught.value)


def test_a_key_in_the_address_is_named_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY_OF_A_TEST", "sesame")
    victim = load_victim(address(server) + "?key=$THE_KEY_OF_A_TEST")
    assert victim(CLIPS).shape == (3, 4)
    assert server.paths[-1] == "/?key=sesame"  # type: ignore[attr-defined]
    assert "sesame" not in f"{victim} {victim.identity()} {victim.model}"


def test_a_server_says_when_to_come_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("vidmarl.victims.endpoint.time.sleep", slept.append)
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.plan = ["wait 7", f"wait {soon}", "wait soon", "wait 9999", None]  # type: ignore[attr-defined]
    victim = endpoint(server, backoff=0.25)
    assert victim(CLIPS).shape == (3, 4)
    assert victim.queries == 3  # none of the others has reached the model
    assert slept == [7, pytest.approx(29, abs=2), 1, 60]


def test_a_rate_is_kept(server: Server) -> None:
    model = Endpoint(address(server), per_second=20.0)
    start = time.monotonic()
    for _ in range(3):
        model(CLIPS[:1])
    assert time.monotonic() - start >= 0.1


def test_what_is_no_clip_is_refused_by_the_server(server: Server) -> None:
    with pytest.raises(ConnectionError, match=r"refuses the request: 400.*expected clips in \[0, 1\]"):
        Endpoint(address(server))(CLIPS + 3)


def test_an_answer_that_is_none_is_an_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def nonsense(self: BaseHTTPRequestHandler) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"\xff" * 100)

    monkeypatch.setattr(Unreliable, "do_POST", nonsense)
    victim = endpoint(server)
    with pytest.raises(VictimError, match="100 bytes that are no file of safetensors"):
        victim(CLIPS)
    assert victim.queries == 3


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("page", r"no file of safetensors .* they begin '<html>.*Is that the address of the model\?"),
        ("nan", "NaN or infinite scores for 3 of 3 clips"),
        ("one too few", r"returned scores of shape \(2, 4\) for 3 clips"),
        ("error page", "500 Internal Server Error: Oops It broke"),
        ("short", "the answer ended 90 bytes too early"),
        ("drip", r"TimeoutError: the answer was not there after 0\.2 s"),
    ],
)
def test_a_server_that_answers_nonsense_is_quoted(server: Server, step: str, words: str) -> None:
    server.plan = [step]  # type: ignore[attr-defined]
    victim = endpoint(server, retries=0, timeout=0.2)
    with pytest.raises(VictimError, match=words):
        victim(CLIPS)
    assert victim.queries == 3


# --- what a model wants --------------------------------------------------------------------------


def test_a_model_gets_the_values_the_colours_and_the_arrays_that_it_wants(expected: list[Any]) -> None:
    net = Net().eval()

    def bytes_as_opencv_has_them(frames: np.ndarray) -> np.ndarray:
        assert isinstance(frames, np.ndarray)
        assert (frames.dtype, frames.shape[1:]) == (np.uint8, (4, 16, 16, 3))
        clips = torch.from_numpy(frames[..., ::-1].copy()).permute(0, 4, 1, 2, 3)
        return net(clips / 255).numpy()

    how: dict[str, Any] = {"layout": "b t h w c", "channels": "bgr", "input": "uint8", "numpy": True}
    same(attacked(Victim(bytes_as_opencv_has_them, **how)), expected)


def test_mean_and_std_stay_those_of_red_green_and_blue() -> None:
    seen = []
    Victim(lambda clips: seen.append(clips) or clips.mean((2, 3, 4)), channels="bgr", mean=[0.1, 0.2, 0.3])(CLIPS)
    wanted = (CLIPS - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1)).flip(1)
    assert torch.allclose(torch.cat(seen), wanted)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores: (scores.numpy(), None),
        lambda scores: {"logits": scores.numpy(), "features": np.zeros((len(scores), 9))},
        lambda scores: type("Output", (), {"logits": scores})(),
    ],
)
def test_scores_are_found_in_arrays_dicts_and_objects(wrap: Any) -> None:
    net = Net().eval()
    assert torch.allclose(Victim(lambda clips: wrap(net(clips)))(CLIPS), Victim(net)(CLIPS))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"input": "int8"}, "input must be 'float' or 'uint8'"),
        ({"channels": "gbr"}, "channels must be 'rgb' or 'bgr'"),
        ({"input": "uint8", "mean": [0.5] * 3}, "leave out mean and std"),
    ],
)
def test_what_goes_not_together_is_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Victim(Net(), **settings)


def test_unusual_input_is_part_of_the_identity() -> None:
    usual = Victim(Net()).identity()
    assert "channels" not in usual  # what was measured before is still what is wanted
    assert Victim(Net(), channels="bgr").identity() == usual | {"channels": "bgr"}
