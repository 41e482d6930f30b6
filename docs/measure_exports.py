"""Attacks one network in every form that it can be had in: docs/results/exports.csv.

    vidmarl demo
    pip install "vidmarl[onnx]"
    python docs/measure_exports.py

The demo's victim is written as a file of TorchScript, of torch.export and of ONNX, and served over
HTTP by `examples/serve.py`. Each of them is attacked by the same attacks with the same seed, and
what comes of it is compared with the attack on the network itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import vidmarl
from vidmarl import AttackResult, Victim
from vidmarl.attacks import as_attack
from vidmarl.data.synthetic import make_clips, split_seed
from vidmarl.demo.run import DISTORTION, GRID
from vidmarl.utils.files import write_atomically

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
from serve import Server

ATTACKS = ("rl", "grow_and_reduce", "simba_dct")
OWN_DISTORTION = {"simba_dct": "sign_noise"}
BUDGET = 30
OUT = Path(__file__).parent / "results" / "exports.csv"


def forms(victim: Victim, folder: Path, example: torch.Tensor) -> Iterator[tuple[str, Victim]]:
    """The same network in every form."""
    yield "nn.Module", victim
    # as a file it says nothing of what it takes, so that is said again
    how = {"mean": list(victim.mean or ()), "std": list(victim.std or ()), "labels": victim.labels}
    how |= {"spec": {"frames": 8, "size": 64, "sampling": "uniform"}, "device": "cpu"}
    network: Any = victim.model.cpu()  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, example).save(folder / "net.torchscript")
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("b")},))
        torch.export.save(program, folder / "net.pt2")
        torch.onnx.export(
            network,
            (example[:1],),
            folder / "net.onnx",
            dynamo=False,
            input_names=["clips"],
            output_names=["logits"],
            dynamic_axes={"clips": {0: "b"}, "logits": {0: "b"}},
        )
    for name, file in (("TorchScript", "net.torchscript"), ("torch.export", "net.pt2"), ("ONNX", "net.onnx")):
        yield name, vidmarl.load_victim({"class_path": str(folder / file), "init_args": how})
    with Server(("127.0.0.1", 0), vidmarl.load_victim("demo", device="cpu")) as server:  # which normalises
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address, plain = f"http://127.0.0.1:{server.server_port}", how | {"mean": None, "std": None}
        yield "HTTP", vidmarl.load_victim({"class_path": address, "init_args": plain})
        server.shutdown()
        thread.join()


def compared(result: AttackResult, wanted: AttackResult) -> dict[str, Any]:
    """How far an attack went the same way as another."""
    one, other = (of.history["margin"].nan_to_num(0.0) for of in (result, wanted))
    columns = min(one.shape[1], other.shape[1])
    same = [torch.equal(a, b) for a, b in zip(result.adversarial, wanted.adversarial, strict=True)]
    return {
        "fooled": int(result.success.sum()),
        "queries": int(result.queries.sum()),
        "same count for": int((result.queries == wanted.queries).sum()),
        "same clip for": sum(same),
        "largest difference (nats)": float((one[:, :columns] - other[:, :columns]).abs().max()),
    }


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", default="outputs/demo/agents.pt", help="those of `vidmarl demo`")
    parser.add_argument("--clips", type=int, default=4)
    args = parser.parse_args()
    clips, _ = make_clips(args.clips, split_seed(0, "test"))
    rows, wanted = [], {}
    with tempfile.TemporaryDirectory() as folder:
        victim = vidmarl.load_victim("demo", device="cpu")
        for form, asked in forms(victim, Path(folder), clips[:2]):
            for name in ATTACKS:
                own = {"agents": args.agents} if name == "rl" else {}
                own["distortion"] = OWN_DISTORTION.get(name, DISTORTION)
                asked.queries = 0
                result = as_attack(name, grid=GRID, budget=BUDGET, progress=False, **own)(asked, clips)
                wanted.setdefault(name, result)
                assert asked.queries == int(result.queries.sum())
                rows.append({"form": form, "attack": name, "clips": len(clips)} | compared(result, wanted[name]))
                print(rows[-1], flush=True)
    write_atomically(OUT, pd.DataFrame(rows).to_csv(index=False, float_format="%.2g"))


if __name__ == "__main__":
    main()
