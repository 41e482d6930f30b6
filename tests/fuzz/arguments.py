"""Odd arguments for what users call: of the annotated type, and of others."""

from __future__ import annotations

import dis
import inspect
import math
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vidmarl
import vidmarl.data.synthetic
import vidmarl.testing
from vidmarl.attacks import ATTACKS
from vidmarl.distortions import DISTORTIONS
from vidmarl.errors import VidmarlError

from .kinds import Kind, Wrong

# What is called, with what it needs; a case changes one or two of its arguments, these or others.
TARGETS: dict[str, dict[str, str]] = {
    "vidmarl.ClipSpec": {},
    "vidmarl.TubeletGrid": {},
    "vidmarl.Misclassify": {"classes": "[0, 1]"},
    "vidmarl.Target": {"classes": "[0, 1]"},
    "vidmarl.Victim": {"model": "model"},
    "vidmarl.load_victim": {"thing": "'demo'", "weights": "'random'"},
    "vidmarl.load_clips": {"paths": "video", "victim": "spec"},
    "vidmarl.load_agents": {"thing": "'gaussian_noise'"},
    "vidmarl.RandomCells(budget=4, progress=False)": {"victim": "victim", "clips": "clips"},
    "vidmarl.GrowAndReduce(budget=4, progress=False)": {"victim": "victim", "clips": "clips"},
    "vidmarl.attack_files": {
        "paths": "[video]", "victim": "victim", "attack": "vidmarl.RandomCells(budget=3, progress=False)",
        "out": "folder / 'out'",
    },
    "victim": {"clips": "clips"},
    "victim.check": {"clips": "clips"},
    "result.__getitem__": {"rows": "0"},
    "result.save": {"path": "folder / 'result'"},
    "result.plot": {},
    "result.label": {"index": "0"},
    "vidmarl.AttackResult.load": {"path": "folder / 'no_result'"},
    "vidmarl.distortions.as_distortion": {"thing": "'glare'"},
    "vidmarl.attacks.as_attack": {"thing": "'random_cells'"},
    "vidmarl.testing.check_distortion": {"distortion": "'brightness'"},
    "vidmarl.data.decode": {"path": "video", "spec": "spec"},
    "vidmarl.data.read_video": {"path": "video"},
    "vidmarl.data.write_mp4": {"path": "folder / 'x.mp4'", "clip": "clips[0]"},
    "vidmarl.data.write_lossless": {"path": "folder / 'x.webm'", "clip": "clips[0]"},
    "vidmarl.data.mp4_bytes": {"clip": "clips[0]"},
    "vidmarl.data.side_by_side": {"clean": "clips[0]", "adversarial": "clips[1]"},
    "vidmarl.data.Folder": {"root": "video.parent"},
    "vidmarl.data.UCF101": {"root": "video.parent"},
    "vidmarl.data.HMDB51": {"root": "video.parent", "labels": "names"},
    "vidmarl.data.Kinetics": {"root": "video.parent"},
    "vidmarl.data.Weizmann": {"root": "video.parent"},
    "vidmarl.data.ClipSource": {"files": "vidmarl.data.Folder(video.parent).files"},
    "vidmarl.data.ClipDataset": {"source": "vidmarl.data.Folder(video.parent)", "spec": "spec"},
    "vidmarl.data.ClipData": {"train": "vidmarl.data.Folder(video.parent)", "spec": "spec"},
    "vidmarl.data.synthetic.make_clips": {"n": "2", "seed": "0", "frames": "2", "size": "16"},
    "vidmarl.data.synthetic.make_clip": {"seed": "0", "index": "0", "label": "0", "frames": "2", "size": "16"},
    "vidmarl.data.synthetic.Synthetic": {"n": "2"},
    **{f"vidmarl.distortions.{name}": {} for name in DISTORTIONS.classes()},
    **{f"vidmarl.attacks.{name}": {"budget": "4", "progress": "False"} for name in ATTACKS.classes()},
}  # fmt: skip

VALUES = {
    "int": ["0", "-1", "1", "2", "7", "10**10", "2**63", "-(10**30)", "True", "np.int64(1)", "torch.tensor(1)"],
    "float": ["0.0", "-1.0", "0.5", "1.0", "2.5", "nan", "inf", "-inf", "1e300", "5e-324", "np.float32(0.5)"],
    "str": ["''", "'x'", "'\\0'", "'gaussian_noise'", "'random_cells'", "'b t c h w'", "'no.such.thing'", "'static'"],
    "bool": ["True", "False", "0", "'yes'"],
    "None": ["None"],
    "Tensor": [
        "clips[0]", "clips", "clips * 255", "clips.double()", "clips.half()", "clips.clone().requires_grad_()",
        "clips.to('meta')", "clips[:, :, :0]", "clips[:0]", "clips * nan", "torch.zeros(0)", "torch.tensor(1.0)",
        "(clips * 255).byte()", "clips.transpose(1, 2)", "clips.numpy()", "clips.to_sparse()", "clips + 0j",
        "torch.tensor([0, 1])", "torch.tensor([True, False])",
    ],
    "Path": ["folder / 'missing.mp4'", "folder", "str(video)", "video", "''", "'\\0'", "os.fsencode(video)"],
    "Sequence": ["[]", "()", "[1]", "[0.5] * 3", "['a']", "range(3)", "{1, 2}", "iter([1])", "[None]", "[nan] * 3"],
    "Mapping": ["{}", "{'a': 1}", "{1: 2}", "{'class_path': 'glare'}", "{'class_path': 'glare', 'init_args': 3}"],
    "Callable": ["len", "lambda *_: None", "lambda *given: given[0]", "lambda clips: clips.mean((2, 3, 4))", "int"],
    "device": ["'cpu'", "'auto'", "'cuda:9'", "'nope'", "torch.device('cpu')", "0"],
    "Victim": ["victim", "model"],
    "Spec": ["spec", "vidmarl.ClipSpec(frames=None)", "{'frames': 2}", "{'framse': 2}"],
    "Grid": ["vidmarl.TubeletGrid()", "8", "[1, 8, 8]", "(1, 2)", "{'frames': 2}"],
    "Goal": ["vidmarl.Target([0, 1])", "vidmarl.Misclassify([0])", "vidmarl.Target([99, 0])", "'cat'"],
}  # fmt: skip
WORDS = {  # in annotations
    "int": "int", "Integral": "int", "float": "float", "str": "str", "bool": "bool", "None": "None", "Tensor": "Tensor",
    "PathLike": "Path", "Path": "Path", "Sequence": "Sequence", "list": "Sequence", "Iterable": "Sequence",
    "tuple": "Sequence", "Mapping": "Mapping", "dict": "Mapping", "Callable": "Callable", "device": "device",
    "Victim": "Victim", "HasSpec": "Victim", "ClipSpec": "Spec", "GridLike": "Grid", "Goal": "Goal",
}  # fmt: skip
ANY = [value for values in VALUES.values() for value in values]


class Arguments(Kind):
    """One call, as an expression."""

    def make(self, originals: Path) -> None:
        vidmarl.data.write_lossless(originals / "clip.webm", _clips()[0])
        (originals / "names.txt").write_text("walk\nrun\n")

    def draw(self, rng: random.Random, originals: Path, case: Path) -> str:
        target = rng.choice(list(TARGETS))
        parameters = _parameters(eval(target, _names(originals, case)))
        parameters.pop("on_query", None)  # what the user's own function raises is the user's
        given = dict(TARGETS[target])
        for name in rng.sample(list(parameters), min(len(parameters), rng.choice((1, 1, 1, 2)))):
            words = re.findall(r"\w+", inspect.formatannotation(parameters[name].annotation))
            fitting = [value for word in words if word in WORDS for value in VALUES[WORDS[word]]]
            given[name] = rng.choice(fitting if fitting and rng.random() < 0.7 else ANY)
        expression = f"{target}({', '.join(f'{name}={value}' for name, value in given.items())})"
        if target.startswith("vidmarl.attacks.") and target != "vidmarl.attacks.as_attack":
            expression += "(victim, clips)"
        (case / "expression.txt").write_text(expression)
        return expression

    def check(self, rng: random.Random, originals: Path, case: Path) -> None:
        expression = (case / "expression.txt").read_text()
        eval(expression, _names(originals, case))
        if re.search(r"=-?(nan|inf)\b", expression):
            raise Wrong("it takes a number that is none in silence")

    def is_clear(self, error: Exception, case: Path) -> bool:
        """One of vidmarl's own, or one that a line of vidmarl raises on purpose."""
        if isinstance(error, VidmarlError):
            return True
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        assert trace is not None
        if "can't allocate memory" in str(error) or "array is too big" in str(error):  # what was asked for, by a number
            return True
        if isinstance(error, OSError) and error.filename:  # the system's, which names the file
            return True
        code = trace.tb_frame.f_code
        raised = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
        expected = isinstance(error, ValueError | TypeError | OSError | IndexError)
        expected = expected or (isinstance(error, AssertionError) and code.co_filename == vidmarl.testing.__file__)
        return raised and expected and str(Path(vidmarl.__file__).parent) in code.co_filename


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    called = target if isinstance(target, type) or inspect.isroutine(target) else type(target).__call__
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(called)
    return {name: p for name, p in signature.parameters.items() if p.kind in kinds and name not in ("self", "progress")}


def _clips() -> torch.Tensor:
    return vidmarl.data.synthetic.make_clips(2, 0, frames=2, size=16)[0]


def _names(originals: Path, case: Path) -> dict[str, Any]:
    """What an expression may name."""
    clips = _clips()
    spec = vidmarl.ClipSpec(frames=2, size=(16, 16))
    asked = 0

    def model(clips: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += 1
        if asked > 100:
            raise TimeoutError("a budget that no attack uses up")
        return 20 * clips.mean((2, 3, 4))

    victim = vidmarl.Victim(model, spec=spec, labels=["red", "green", "blue"])
    names = {"clips": clips, "spec": spec, "model": model, "victim": victim, "video": originals / "clip.webm"}
    names |= {"names": originals / "names.txt", "folder": case, "nan": math.nan, "inf": math.inf}
    names |= {"vidmarl": vidmarl, "torch": torch, "np": np, "os": os}
    return names | {"result": vidmarl.RandomCells(budget=3, progress=False)(victim, clips)}
