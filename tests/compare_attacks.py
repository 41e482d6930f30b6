"""Shows that a refactoring leaves the results of the attacks bit-identical.

`run` lets every attack that does not learn in advance loose on small clips, with fixed seeds, and
writes a checksum of each tensor of its result to a folder. It uses the `vidmarl` that Python
imports, so run it once with the old code and once with the new code, on the same machine and with
the same PyTorch, and let `compare` look for differences:

    PYTHONPATH=old/checkout python tests/compare_attacks.py run /tmp/old
    PYTHONPATH=new/checkout python tests/compare_attacks.py run /tmp/new
    python tests/compare_attacks.py compare /tmp/old /tmp/new

This is no test: it needs two versions of the code. Settings whose names have changed are passed
under whichever name the attack takes, see `NAMES`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import inspect
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vidmarl
from vidmarl import ClipSpec, Misclassify, Target, TubeletGrid, Victim, attacks

NAMES = {
    "search_cell": ("search_cell", "zoom"),
    "max_queries_after_success": ("max_queries_after_success", "after"),
}
"""Settings that have had several names, the present one first."""

LEARNED = {"rl"}
"""Attacks that need trained agents, which are not run here."""

BALL = ("vbad", "sparse_nes", "ast_focus", "geo_trap", "motion_sampler", "simba_dct")
"""Attacks on pixels in an Linf ball."""

TENSORS = (
    "clean",
    "classes",
    "prediction",
    "success",
    "skipped",
    "queries",
    "adversarial",
    "strength",
)
"""The tensors of a result that are compared, beside its history."""

FINE, COARSE, RAGGED = TubeletGrid(1, 4, 4), TubeletGrid(2, 8, 8), TubeletGrid(3, 5, 5)
"""On clips of 8 frames of 32 px: 512 tubelets, 64, and 147 of which the last ones are smaller."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One attack on all clips of a victim.

    Attributes:
        attack: its name.
        distortion: the name of the distortion, which has its default arguments.
        variant: what sets the case apart from others of the same attack and distortion.
        victim: who is attacked, see `VICTIMS`.
        goal: away from the clean prediction ("untargeted"), to the class after it ("targeted"), or
            away from given labels, the first of which is wrong, so that its clip is skipped
            ("labels").
        quick: whether a quick run has it too.
        settings: of the attack, under their present names.
    """

    attack: str
    distortion: str
    variant: str = ""
    victim: str = "small"
    goal: Literal["untargeted", "targeted", "labels"] = "untargeted"
    quick: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name that no other case has."""
        parts = (self.attack, self.distortion, self.victim, self.variant)
        return ".".join(part for part in parts if part)


def all_cases(real: bool) -> list[Case]:
    """The cases of a full run: those of all attacks that there are, in a fixed order.

    Args:
        real: whether to add those of a real network on real clips.
    """
    cases = []
    for name in attacks.list_attacks():
        if name in BALL:
            cases += _ball_cases(name)
        elif name not in LEARNED:
            cases += _strength_cases(name)
    cases += _more_cases()
    return cases + _real_cases() if real else cases


def _strength_cases(name: str) -> list[Case]:
    """An attack on the strength map, with distortions of two directions and of one."""
    noise = {"budget": 60, "grid": FINE, "search_cell": 2}
    pixels = {"budget": 60, "grid": COARSE}
    blur = {"budget": 60, "grid": RAGGED, "search_cell": 3, "seed": 3}
    limited = {**noise, "max_queries_after_success": 8}
    own = {"donors": _donors()} if name == "stde" else {}
    return [
        Case(name, "gaussian_noise", quick=True, settings=noise | own),
        Case(name, "dead_pixels", settings=pixels | own),
        Case(name, "gaussian_blur", settings=blur | own),
        Case(name, "gaussian_noise", "limited", settings=limited | own),
    ]


def _ball_cases(name: str) -> list[Case]:
    """An attack on pixels, with few probes an iteration so that it gets to several iterations."""
    own: dict[str, Any] = {}
    if name in ("vbad", "sparse_nes", "ast_focus"):
        own["samples"] = 12
    if name == "ast_focus":
        own["window"] = 16
    settings = {"budget": 150, "grid": COARSE, **own}
    return [
        Case(name, "sign_noise", quick=True, settings=settings),
        Case(name, "sign_bands", "target", goal="targeted", settings=settings | {"seed": 5}),
    ]


def _more_cases() -> list[Case]:
    """What it takes only one attack or two to show."""
    fine = {"budget": 60, "grid": FINE, "search_cell": 2}
    coarse = {"budget": 60, "grid": COARSE}
    ball = {"budget": 150, "grid": COARSE}
    at_once = {"max_queries_after_success": 0}
    noise = functools.partial(Case, distortion="gaussian_noise")
    sign = functools.partial(Case, distortion="sign_noise")
    return [
        noise("grow_and_reduce", variant="flow", settings={**fine, "coherence": "flow"}),
        noise("signed_blocks", variant="free", settings={**fine, "coherence": "free"}),
        noise("grow_and_reduce", variant="many_queries", settings={**fine, "budget": 250}),
        noise("signed_blocks", variant="target", goal="targeted", settings=fine),
        noise("square_tubes", variant="target", goal="targeted", settings=fine),
        noise("greedy_sensitivity", variant="target", goal="targeted", settings=coarse),
        noise("random_cells", variant="labels", goal="labels", settings=fine),
        noise("random_cells", variant="first_success", settings=coarse | at_once),
        Case("square_tubes", "dead_pixels", "first_success", settings=coarse | at_once),
        noise("signed_blocks", variant="two_at_once", settings={**fine, "clips_at_once": 2}),
        sign("signed_blocks", settings=fine),
        noise("stde", variant="donors_of_the_batch", settings=coarse),
        noise("stde", variant="target", goal="targeted", settings={**coarse, "donors": _donors()}),
        sign("vbad", variant="default_samples", settings=ball),
        sign("simba_dct", variant="two_at_once", settings={**ball, "clips_at_once": 2}),
        sign("sparse_nes", variant="representative", settings={**ball, "frames": "representative"}),
        sign("sparse_nes", variant="random", settings={**ball, "frames": "random"}),
        sign("sparse_nes", variant="labels", goal="labels", settings=ball),
    ]


def _real_cases() -> list[Case]:
    """A few attacks on MoViNet-A0."""
    tubelets = {"budget": 60, "grid": TubeletGrid(1, 4, 4), "search_cell": 4}
    pixels = {"budget": 60}
    few = {**pixels, "samples": 12}
    real = functools.partial(Case, victim="movinet_a0")
    return [
        real("grow_and_reduce", "gaussian_noise", settings=tubelets),
        real("grow_and_reduce", "gaussian_blur", settings=tubelets),
        real("signed_blocks", "gaussian_noise", settings=tubelets),
        real("signed_blocks", "dead_pixels", settings=tubelets),
        real("square_tubes", "gaussian_noise", settings=tubelets),
        real("simba_dct", "sign_noise", settings=pixels),
        real("simba_dct", "sign_noise", "target", goal="targeted", settings=pixels),
        real("vbad", "sign_noise", settings=few),
        real("ast_focus", "sign_noise", settings=few),
    ]


class SmallNetwork(nn.Module):
    """A 3-D convolutional network of 6 classes with random weights, sure of what it says.

    Args:
        clips: float[b 3 t h w] on which the scores are centred, so that several classes occur.
        scale: standard deviation of the scores there.
        seed: of the weights.
    """

    def __init__(self, clips: Tensor, scale: float = 4.0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weights(*shape: int) -> nn.Parameter:
            fan_in = torch.Size(shape[1:]).numel()
            values = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
            return nn.Parameter(values, requires_grad=False)

        self.first = weights(8, 3, 3, 5, 5)
        self.second = weights(16, 8, 3, 3, 3)
        self.last = weights(6, 16 * 2 * 2 * 2)
        self.mean, self.factor = torch.zeros(6), 1.0
        scores = torch.cat([self(clip[None]) for clip in clips])
        self.mean, self.factor = scores.mean(0), scale / float(scores.std())

    def forward(self, clips: Tensor) -> Tensor:
        """Scores, float[b 6]."""
        hidden = F.conv3d(clips - 0.5, self.first, stride=(1, 2, 2), padding=(1, 2, 2)).relu()
        hidden = F.conv3d(hidden, self.second, stride=2, padding=1).relu()
        return self.factor * (F.adaptive_avg_pool3d(hidden, 2).flatten(1) @ self.last.T - self.mean)


def synthetic_clips(count: int, seed: int) -> Tensor:
    """Blurry coloured backgrounds that drift, with a square that moves across them and some grain.

    Returns:
        float32[count 3 8 32 32] in [0, 1], 8-bit values.
    """
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for _ in range(count):
        colours = torch.rand(1, 3, 5, 5, generator=generator)
        background = F.interpolate(colours, (32, 32), mode="bilinear", align_corners=True)[0]
        square = torch.rand(3, 1, 1, generator=generator)
        y, x, dy, dx = torch.randint(-3, 4, (4,), generator=generator).tolist()
        frames = []
        for t in range(8):
            frame = background.roll((t * dx, t * dy), (1, 2))
            top, left = 10 + y + t * dy // 2, 10 + x + t * dx // 2
            frame[:, max(top, 0) : max(top + 8, 0), max(left, 0) : max(left + 8, 0)] = square
            frames.append(frame)
        clip = torch.stack(frames, 1)
        clips.append(clip + 0.02 * torch.randn(clip.shape, generator=generator))
    return (torch.stack(clips).clamp(0, 1) * 255).round() / 255


def _donors() -> Tensor:
    """Clips that patches can be cut from."""
    return synthetic_clips(6, seed=1)


def small() -> tuple[Victim, Tensor]:
    """The small network, and five clips."""
    clips = synthetic_clips(5, seed=0)
    return Victim(SmallNetwork(clips), name="small", batch_size=1), clips


def movinet_a0() -> tuple[Victim, Tensor]:
    """MoViNet-A0 on small clips, and the first video of each of four classes of UCF-101."""
    from vidmarl.data import data_root

    spec = ClipSpec(frames=8, size=(112, 112), sampling="fps", fps=5.0, short="hold")
    victim = vidmarl.load_victim("movinet_a0", spec=spec, batch_size=1)
    folder = data_root() / "clips" / "ucf101"
    by_class = [sorted(videos.glob("*.avi")) for videos in sorted(folder.iterdir())]
    return victim, vidmarl.load_clips([videos[0] for videos in by_class if videos][:4], victim)


VICTIMS = {"small": small, "movinet_a0": movinet_a0}
"""Victims and their clips.

They look at one clip at a time, so that no score depends on which candidates are asked together.
"""


def make_attack(case: Case) -> attacks.Attack:
    """The attack of a case, with each setting under the name that the attack knows it by.

    Raises:
        TypeError: it has no such setting.
    """
    kind = type(attacks.as_attack(case.attack))
    known: set[str] = set()
    for base in kind.__mro__[:-1]:  # a subclass may pass on what it does not name itself
        known |= inspect.signature(base).parameters.keys()
    settings = {}
    for name, value in case.settings.items():
        names = [other for other in NAMES.get(name, (name,)) if other in known]
        if not names:
            raise TypeError(f"{kind.__name__} has no setting {name!r}.")
        settings[names[0]] = value
    return attacks.as_attack(case.attack, distortion=case.distortion, progress=False, **settings)


def make_goal(case: Case, prediction: Tensor, classes: int) -> Misclassify | Target | None:
    """The goal of a case.

    Args:
        case: the case.
        prediction: int64[b], of the victim on its clean clips.
        classes: that the victim knows.
    """
    other = (prediction + 1) % classes
    if case.goal == "targeted":
        return Target(other)
    if case.goal == "labels":
        return Misclassify(torch.cat([other[:1], prediction[1:]]))
    return None


def checksum(tensor: Tensor) -> str:
    """A checksum of a tensor's type, shape and values.

    Whatever bits stand for NaN and for zero, two tensors of the same values have the same checksum.
    """
    if tensor.is_floating_point():
        tensor = torch.where(tensor.isnan(), torch.nan, tensor) + 0.0  # -0.0 + 0.0 is 0.0
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def outcome(result: attacks.AttackResult) -> dict[str, Any]:
    """Checksums of the tensors of a result, and a few figures for people."""
    tensors = {name: getattr(result, name) for name in TENSORS}
    tensors |= {f"history.{key}": result.history[key] for key in ("score", "margin", "l2")}
    fooled = result.success & ~result.skipped
    l2 = (result.adversarial - result.clean).flatten(1).double().norm(dim=1)
    figures = zip(l2.tolist(), fooled.tolist(), strict=True)
    return {
        "fooled": int(fooled.sum()),
        "skipped": int(result.skipped.sum()),
        "queries": result.queries.tolist(),
        "l2": [round(norm, 4) if success else None for norm, success in figures],
        "checksums": {name: checksum(tensor.cpu()) for name, tensor in tensors.items()},
    }


def run(out: Path, quick: bool, real: bool) -> int:
    """Runs the cases and writes a file for each.

    Args:
        out: a folder that is new or empty.
        quick: whether to run each attack on the small victim only once.
        real: whether to attack a real network on real clips too.

    Returns:
        The exit status: 1 where a case has raised an error, which is then in its file.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise SystemExit(f"{out} is not empty: give a new folder.")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    print(f"vidmarl: {Path(vidmarl.__file__).parent}, torch {torch.__version__}")
    victims: dict[str, tuple[Victim, Tensor, Tensor]] = {}
    failed = 0
    for case in all_cases(real):
        if quick and not case.quick and case.victim == "small":
            continue
        if case.victim not in victims:
            victim, clips = VICTIMS[case.victim]()
            victims[case.victim] = victim, clips, victim(clips)
        victim, clips, scores = victims[case.victim]
        torch.manual_seed(0)  # an attack that draws from the common generator is to be seen as well
        start = time.perf_counter()
        try:
            goal = make_goal(case, scores.argmax(1), scores.shape[1])
            record = outcome(make_attack(case)(victim, clips, goal))
        except Exception as error:
            failed += 1
            record = {"error": f"{type(error).__name__}: {error}"}
        (out / f"{case.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
        print(f"{case.name}: {in_words(record)} ({time.perf_counter() - start:.1f} s)", flush=True)
    return int(failed > 0)


def in_words(record: dict[str, Any]) -> str:
    """The outcome of a case in a few words."""
    if "error" in record:
        return record["error"]
    norms = [norm for norm in record["l2"] if norm is not None]
    line = f"{record['fooled']} fooled"
    if record["skipped"]:
        line += f", {record['skipped']} skipped"
    line += f", {sum(record['queries'])} queries"
    return f"{line}, mean L2 {sum(norms) / len(norms):.4f}" if norms else line


def compare(first: Path, second: Path) -> int:
    """Prints for each case whether two runs have the same results.

    Returns:
        The exit status: 0 where all are the same.
    """
    runs = []
    for folder in (first, second):
        files = sorted(folder.glob("*.json"))
        runs.append({file.stem: json.loads(file.read_text(encoding="utf8")) for file in files})
    names = sorted(runs[0].keys() | runs[1].keys())
    identical = 0
    for name in names:
        difference = _difference(runs[0].get(name), runs[1].get(name))
        identical += not difference
        print(f"{name}: {difference or 'identical'}")
    print(f"{identical} of {len(names)} identical")
    return 0 if names and identical == len(names) else 1


def _difference(first: dict[str, Any] | None, second: dict[str, Any] | None) -> str:
    """How the results of a case differ; empty where they are the same."""
    if first is None or second is None:
        return f"missing in the {'first' if first is None else 'second'} folder"
    before, after = first.get("checksums"), second.get("checksums")
    if before is None or after is None:
        return f"an error ({in_words(first)} -> {in_words(second)})"
    differing = [name for name in before | after if before.get(name) != after.get(name)]
    if not differing:
        return ""
    return f"differs in {', '.join(differing)} ({in_words(first)} -> {in_words(second)})"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    assert __doc__ is not None
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run the attacks and write checksums of their results")
    runner.add_argument("out", type=Path, help="the folder to write to, new or empty")
    runner.add_argument("--quick", action="store_true", help="each attack once, for a first look")
    runner.add_argument(
        "--real",
        action="store_true",
        help="MoViNet-A0 on UCF-101 too; its weights and the clips are in VIDMARL_DATA",
    )
    comparer = commands.add_parser("compare", help="compare the folders of two runs")
    comparer.add_argument("first", type=Path, help="the folder of one run")
    comparer.add_argument("second", type=Path, help="the folder of the other")
    chosen = parser.parse_args(arguments)
    if chosen.command == "run":
        return run(chosen.out, chosen.quick, chosen.real)
    return compare(chosen.first, chosen.second)


if __name__ == "__main__":
    sys.exit(main())
