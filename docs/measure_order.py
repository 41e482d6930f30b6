"""Measures the agents on real clips: order.csv and its like in docs/results/.

    VIDMARL_DATA=... python docs/measure_order.py [--distortion gaussian_blur]
    VIDMARL_DATA=... python docs/measure_order.py --seed 1 | --ablate | --fine [--native]
    VIDMARL_DATA=... python docs/measure_order.py --native [2] [--distortion ...]
    VIDMARL_DATA=... python docs/measure_order.py --unseen [i3d ...]
    VIDMARL_DATA=... python docs/measure_order.py --play 2 | --also lrcn_ucf50_50 [--unseen ...]

The victim is MoViNet-A0 in its cheap setting, 8 frames of 112 px at 5 frames a second; tubelets are
of one frame and 4 px, search cells of 16 px. The agents are trained on the videos of
manifest_various.tsv that are in its training part, by scene, from probes of each. (Three of these
videos are of UCF-101, of other groups than those tested on.) They are tested on three windows, the
first, the middle and the last, of each UCF-101 video whose label has a name in Kinetics-600, those
that the victim gets right. Every attack has equally many queries of each window; smaller budgets
are read off the same attack.

Ratios are geometric means of the size by the agents over that by the other attack, first over the
windows of a group of videos, then over the groups; a failure counts with the full distortion.
UCF-101's videos of a group share people and place. So groups are what the 95 % intervals
(bootstrap) and the p of Wilcoxon's signed-rank test are over; p is not corrected for the number of
tests. How visible the successes are after the last query (JOD, flicker, warping error) is a median
over the first windows of the groups, those that the agents, trained and untrained, and both
controls fool; JOD needs the extra `perceptual`. order_margins.csv is about the windows whose clean
margin is below 1 nat, and about the others. What lies in outputs/measure_order is not measured
again. The seed is that of the training; beyond 0 the agents stand beside their untrained selves
alone. With --ablate they also stand beside teams in which only one of them is untrained; with
--fine beside the controls with cells of 8 px, as conf/benchmark/natural.yaml has them
(order_fine.csv). With --play 2 they play whole orders for two epochs after their probes, with
--also they are trained against other victims in turn, too, and stand beside those of the usual
training (order_trainings.csv). With --compile the victim is compiled first.

With --native the same agents attack the victim at its own input, 16 frames of 176 px, and with
--unseen victims that they were not trained against, the centre of each video; with --native 2 the
first window and the last.

"by cost" is the agents' search with the cheapest tubelets first: a team without learning that
knows, as the agents do, what each tubelet adds to the squared norm.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import pandas as pd
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.utils.data import DataLoader

import vidmarl
from vidmarl import metrics
from vidmarl.agents.checkpoint import fresh, load_agents, save_agents
from vidmarl.agents.features import NAMES
from vidmarl.agents.networks import Agents
from vidmarl.attacks import Attack, as_attack
from vidmarl.data.listed import ListedClips
from vidmarl.data.paths import data_root
from vidmarl.data.spec import ClipSpec
from vidmarl.data.video import as_floats, decode, decode_views
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.training.ppo import TwoAgentPPO
from vidmarl.utils.files import write_atomically
from vidmarl.utils.quiet import quiet

RESULTS = Path(__file__).resolve().parent / "results"
OUT = Path("outputs/measure_order")
SPEC = ClipSpec(frames=8, size=(112, 112), sampling="fps", fps=5, short="hold")
SEVERAL_SPEC = ClipSpec(frames=20, size=(112, 112), sampling="fps", fps=8, short="hold")
"""Enough for all victims of a training against several: each takes what it needs of it."""
GRID, CELL, WINDOWS = TubeletGrid(1, 4, 4), 4, 3
DISTORTIONS: dict[str, Any] = {
    "gaussian_noise": {"class_path": "GaussianNoise", "init_args": {"std": 0.1}},
    "gaussian_blur": "gaussian_blur",
    "dead_pixels": "dead_pixels",
}
APART = ("gaussian_noise", "dead_pixels")
"""The distortions with which neighbours keep apart in the orders (docs/experiments.md)."""
BATCH = 32
BUDGETS = (10, 25, 50, 100)
VISIBLE = ("jod", "flicker", "warping")
ABLATED = ("spatial untrained", "temporal untrained")
CONTROLS = ("grow_and_reduce", "signed_blocks")
FINE: dict[str, dict[str, Any]] = {"grow_and_reduce": {"start": 8}, "signed_blocks": {}}
"""What the controls are set to where their cells have 8 px."""
LEARNT = ("agents", *ABLATED)
USUAL = "usual training"
ROWS = (*LEARNT, USUAL, "untrained", "by cost", *CONTROLS, *(f"{name} 8 px" for name in FINE))
"""All attacks, in the order of the table."""
ELSEWHERE = ("agents", "untrained", "grow_and_reduce", "signed_blocks")
"""The attacks on other victims, and on other clips, than the agents were trained with."""
UNSEEN = ("lrcn_ucf50_50", "convlstm_ucf50_31", "r2plus1d_light", "i3d")
SLOW = ("r2plus1d_light", "i3d")
"""Half a second a query and more: attacked in bf16-mixed, on one video of each third group."""


class Windows(NamedTuple):
    """Clips that a victim gets right.

    Attributes:
        clips: float32[n 3 t h w].
        groups: the group of videos that each is of.
        confidence: float[n], the victim's.
        margin: float[n], of its answer, in nats.
    """

    clips: Tensor
    groups: list[str]
    confidence: Tensor
    margin: Tensor

    def about(self) -> dict[str, Any]:
        """What a table says of them."""
        return {
            "clips": len(self.clips),
            "groups": len(set(self.groups)),
            "confidence": float(self.confidence.median()),
        }


class ByCost(Agents):
    """Ranks tubelets by nothing but what they cost, the cheapest first: what is to be had from the
    search that the agents have, without learning."""

    def rank(self, td: TensorDict) -> Tensor:
        """As `Agents.rank`, of tubelets of one frame: six logits for each standard deviation of a
        clip's costs, however little these differ."""
        cost, cells = td["features"][:, NAMES.index("cost")].exp(), (1, 2, 3)
        deviation, spread = cost - cost.mean(cells, keepdim=True), cost.std(cells, keepdim=True)
        logits = -6 * deviation / spread.clamp_min(1e-6)
        return (logits - logits.logsumexp(cells, keepdim=True))[..., None]


def main() -> None:
    """Trains, attacks and writes the tables, one distortion and seed at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--distortion", choices=DISTORTIONS, default="gaussian_noise")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, default=0)
    which.add_argument("--ablate", action="store_true", help="also without what one of the agents has learnt")
    which.add_argument("--fine", action="store_true", help="beside controls with smaller cells alone")
    which.add_argument("--play", type=int, default=0, metavar="EPOCHS", help="play orders after the probes")
    which.add_argument("--also", choices=UNSEEN, help="train against this victim, too")
    parser.add_argument("--compile", action="store_true", help="compile the victim: a quarter faster, other rounding")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--unseen", nargs="*", choices=UNSEEN, help="attack these victims, or all never trained against")
    native = "attack the victim at its own input, so many windows of each video"
    where.add_argument("--native", type=int, nargs="?", const=1, default=0, metavar="WINDOWS", help=native)
    args = parser.parse_args()
    if args.native and (args.play or args.also):
        parser.error("--native: agents of another training are measured without it")
    if args.fine and args.unseen is not None:
        parser.error("--fine: other victims are measured without it")
    if args.ablate and (args.native or args.unseen is not None):
        parser.error("--ablate: other inputs and victims are measured without it")
    if importlib.util.find_spec("pycvvdp") is None:
        raise SystemExit("measure_order.py: JOD needs ColorVideoVDP, pip install 'vidmarl[perceptual]'.")
    OUT.mkdir(parents=True, exist_ok=True)
    victim = load("movinet_a0", args.compile, SPEC)
    attacks = attacks_of(trained(victim, args.distortion, args.seed), args.distortion)
    if args.seed:
        attacks = {name: attacks[name] for name in ("agents", "untrained")}
    elif not args.ablate:
        attacks = {name: attack for name, attack in attacks.items() if name not in ABLATED}
    some = {name: attack for name, attack in attacks.items() if name in ELSEWHERE}
    about = {}
    if args.play or args.also:
        team = trained(victim, args.distortion, args.seed, args.play, args.also)
        some |= {USUAL: some["agents"], "agents": attacks_of(team, args.distortion)["agents"]}
        about = {"training": f"{args.play} epochs of play" if args.play else f"also {args.also}"}
    if args.fine:
        victim = load("movinet_a0", args.compile) if args.native else victim
        some = {"agents": attacks["agents"]} | fine_controls(args.distortion)
        windows = kinetics_clips(victim, args.native or WINDOWS)
        compare("order_fine", victim, {"spec": "native" if args.native else "cheap"}, some, args, windows)
    elif args.unseen is not None:
        for name in args.unseen or UNSEEN:
            other = load(name, args.compile)
            test = kinetics_clips(other, 1, "k400_labels") if name == "i3d" else own_clips(other)
            compare("order_trainings" if about else "order_unseen", other, {"victim": name} | about, some, args, test)
    elif args.native:
        victim = load("movinet_a0", args.compile)
        compare("order_native", victim, {"spec": "native"}, some, args, kinetics_clips(victim, args.native))
    elif about:
        compare("order_trainings", victim, {"victim": victim.name} | about, some, args, kinetics_clips(victim))
    else:
        compare("order", victim, {}, attacks, args, kinetics_clips(victim))


def load(name: str, compiled: bool, spec: ClipSpec | None = None) -> vidmarl.Victim:
    """The victim on the CPU; the scores of a compiled one differ by up to 1e-5."""
    victim = vidmarl.load_victim(name, spec=spec, device="cpu")
    if compiled and isinstance(victim.model, torch.nn.Module):
        victim.model.compile()
    return victim


def precision_of(victim: vidmarl.Victim) -> torch.autocast:
    """As the benchmark's "bf16-mixed", for the victims of which a query takes long."""
    return torch.autocast("cpu", torch.bfloat16, enabled=victim.name in SLOW)


def trained(victim: vidmarl.Victim, distortion: str, seed: int, play: int = 0, also: str | None = None) -> Agents:
    """The agents of a distortion and a seed, after one epoch of probes and so many of play; trained
    against another victim as well, if it is named."""
    path = OUT / f"{distortion}_{seed}{f'_play_{play}' if play else ''}{f'_also_{also}' if also else ''}.pt"
    if path.is_file():
        return load_agents(path)
    module = TwoAgentPPO(
        victim if also is None else [victim, load(also, compiled=False)],
        distortion=DISTORTIONS[distortion],
        grid=GRID,
        search_cell=CELL,
        longest=1,
        apart=distortion in APART,
        seed=seed,
        out=str(OUT),
    )
    with quiet():
        lightning.seed_everything(seed)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1 + play,
            logger=lightning.pytorch.loggers.CSVLogger(OUT, name=path.stem, version=""),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=OUT,
        )
        clips: Any = training_clips(SPEC if also is None else SEVERAL_SPEC)
        begun = time.perf_counter()
        trainer.fit(module, DataLoader(clips, BATCH, shuffle=True, drop_last=True, collate_fn=batch))
    print(f"trained in {(time.perf_counter() - begun) / 60:.1f} minutes", flush=True)
    agents = module.agents.cpu()
    save_agents(path, agents)
    return agents


def batch(clips: list[Tensor]) -> Tensor:
    """float32[b 3 t h w]."""
    return as_floats(torch.stack(clips))


def training_clips(spec: ClipSpec = SPEC) -> Tensor:
    """uint8[n 3 t h w], the centre of each training video."""
    path = OUT / f"training_{spec.frames}.pt"
    if not path.is_file():
        source = ListedClips("manifest_various.tsv", part="train", together="scene")
        torch.save(torch.stack([decode(file.path, spec) for file in source.files]), path)
    clips: Tensor = torch.load(path, weights_only=True)
    return clips


def kinetics_clips(victim: vidmarl.Victim, windows: int = WINDOWS, labels: str = "k600_labels") -> Windows:
    """The windows of UCF-101 videos that the victim gets right, see `right`."""
    entries = [e for e in json.loads((data_root() / "predictions.json").read_text()) if labels in e]
    return right(victim, [(e["file"], e[labels]) for e in entries if "ucf101" in e["file"]], windows)


def own_clips(victim: vidmarl.Victim) -> Windows:
    """The same for a victim with classes of UCF-101: it sees each video once."""
    files = sorted((data_root() / "clips/ucf101").glob("*/*.avi"))
    known = [file for file in files if file.parent.name in (victim.labels or [])]
    return right(victim, [(str(file.relative_to(data_root())), [file.parent.name]) for file in known], 1)


def right(victim: vidmarl.Victim, videos: list[tuple[str, list[str]]], windows: int) -> Windows:
    """The windows of some videos that the victim says one of the right labels of."""
    assert victim.spec is not None
    if victim.name in SLOW:
        videos = sorted(videos[i] for i in first_of_each([group_of(file) for file, _ in videos]))[::3]
    clips, groups, answers = [], [], []
    for file, labels in videos:
        classes = {victim.class_index(label) for label in labels}
        for view in as_floats(decode_views(data_root() / file, victim.spec, (windows, 1))):
            with precision_of(victim):
                answer = victim(view[None])[0].float().log_softmax(-1)
            if int(answer.argmax()) in classes:
                clips.append(view)
                groups.append(group_of(file))
                answers.append(answer.topk(2).values)
    best, second = torch.stack(answers).unbind(1)
    return Windows(torch.stack(clips), groups, best.exp(), best - second)


def group_of(file: str) -> str:
    """v_Punch_g01 of v_Punch_g01_c03.avi."""
    return file.rsplit("_", 1)[0]


def first_of_each(groups: list[str]) -> list[int]:
    """Where each group stands first."""
    return [groups.index(group) for group in dict.fromkeys(groups)]


def attacks_of(agents: Agents, distortion: str) -> dict[str, Attack]:
    """The agents, with both or one of them untrained, and the controls; the noise and what they
    draw are the same whatever the seed of the training was."""
    common = common_settings(distortion)
    teams = {
        "agents": agents,
        "spatial untrained": fresh(agents, only=["spatial"]),
        "temporal untrained": fresh(agents, only=["temporal"]),
        "untrained": fresh(agents),
        "by cost": ByCost(agents.config),
    }
    made: dict[str, Attack] = {name: vidmarl.RLAttack(team, **common) for name, team in teams.items()}
    return made | {name: as_attack(name, **common) for name in CONTROLS}


def fine_controls(distortion: str) -> dict[str, Attack]:
    """The controls with cells of 8 px."""
    common = common_settings(distortion) | {"search_cell": 2}
    return {f"{name} 8 px": as_attack(name, **(common | own)) for name, own in FINE.items()}


def common_settings(distortion: str) -> dict[str, Any]:
    """What all attacks are set to."""
    of_all = {"grid": GRID, "search_cell": CELL, "budget": max(BUDGETS), "progress": False}
    return of_all | {"distortion": DISTORTIONS[distortion]}


def compare(
    table: str,
    victim: vidmarl.Victim,
    about: dict[str, str],
    attacks: dict[str, Attack],
    args: argparse.Namespace,
    test: Windows,
) -> None:
    """Attacks the windows in every way, and writes the rows of this distortion and seed."""
    told = test.about()
    print(f"{victim.name}: {told}")
    first = first_of_each(test.groups)
    sizes: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, attack in attacks.items():
        trained = [str(args.seed)] if name in (*LEARNT, USUAL) else []
        where = [value for key, value in about.items() if name == "agents" or key != "training"]
        kept = [args.distortion, *trained, victim.name, *where, "agents" if name == USUAL else name]
        kept += [f"{args.native}_windows"] if args.native > 1 else []
        path = OUT / f"{'_'.join(dict.fromkeys(kept)).replace(' ', '_')}.sizes.pt"
        if not path.is_file():
            with precision_of(victim):
                result = attack(victim, test.clips)
            seen = (
                visible(result, first)
                if name in (*ELSEWHERE, USUAL) and args.seed == 0
                else torch.full((len(first), len(VISIBLE)), torch.nan)
            )
            torch.save((metrics.best_l2_at(result, BUDGETS), metrics.success_at(result, BUDGETS), seen), path)
        sizes[name] = torch.load(path, weights_only=True)
        print(name, [f"{float(at.median()):.2f}" for at in sizes[name][0].T], flush=True)
    head = about | {"distortion": args.distortion, "seed": args.seed} | told
    head |= {"training queries": attacks["agents"].agents.trained["training_queries"]}  # type: ignore[attr-defined]
    keys = [*about, "distortion", "seed"]
    write(table, keys, [head | row for name in sizes for row in rows_of(name, sizes, test.groups)])
    if args.seed == 0 and table == "order":
        rows: list[dict[str, Any]] = []
        for part, inside in (("below 1 nat", test.margin < 1), ("1 nat and more", test.margin >= 1)):
            groups = [group for group, kept in zip(test.groups, inside.tolist(), strict=True) if kept]
            some = {name: (own[inside], fooled[inside], seen) for name, (own, fooled, seen) in sizes.items()}
            head = {"margin": part, "distortion": args.distortion, "clips": len(groups), "groups": len(set(groups))}
            rows += [head | row for name in sizes for row in rows_of(name, some, groups)]
        write("order_margins", ["distortion", "margin"], [without(row, VISIBLE) for row in rows])


def write(table: str, keys: list[str], rows: list[dict[str, Any]]) -> None:
    """Puts rows into a table, in place of those that are about the same."""
    path = RESULTS / f"{table}.csv"
    known = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    told = pd.concat([known, pd.DataFrame(rows)]).drop_duplicates([*keys, "attack", "budget"], keep="last")
    place = {attack: i for i, attack in enumerate(ROWS)}
    told = told.sort_values([*keys, "attack"], key=lambda of: of.replace(place), kind="stable")
    write_atomically(path, told.to_csv(index=False, float_format="%.4g"))


def without(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """A row without some columns."""
    return {name: value for name, value in row.items() if name not in names}


def visible(result: vidmarl.AttackResult, rows: list[int]) -> Tensor:
    """How visible the successes of some windows are, float[n 3]; NaN where there is none."""
    measured = metrics.perturbation_metrics(result.clean[rows], result.adversarial[rows], slow=True)
    return torch.stack([measured[name] for name in VISIBLE], 1).masked_fill(~result.success[rows, None], torch.nan)


def rows_of(name: str, sizes: dict[str, tuple[Tensor, Tensor, Tensor]], groups: list[str]) -> Iterator[dict[str, Any]]:
    """The row of an attack for each budget."""
    own, fooled, seen = sizes[name]
    shown = torch.stack([sizes[other][2] for other in sizes if other in ELSEWHERE])
    seen = seen.masked_fill(shown.isnan().any(0), torch.nan)  # windows that all of them fool
    for i, budget in enumerate(BUDGETS):
        row = {"attack": name, "budget": budget, "fooled": float(fooled[:, i].float().mean())}
        row |= {"median L2": float(own[:, i].median()), "mean L2": float(np.exp(by_group(own[:, i], groups).mean()))}
        if name != "agents":
            ratios = by_group(sizes["agents"][0][:, i] / own[:, i], groups)
            row |= geometric_mean(ratios)
        if budget == max(BUDGETS):
            row |= dict(zip(VISIBLE, seen.nanmedian(0).values.tolist(), strict=True))
        yield row


def geometric_mean(ratios: np.ndarray) -> dict[str, float]:
    """Of ratios, given by their logarithms: with its 95 % interval, and the p of them all."""
    low, high = metrics.bootstrap(ratios, np.mean, resamples=10_000)
    found = {"ratio": ratios.mean(), "ratio low": low, "ratio high": high}
    return {key: float(np.exp(value)) for key, value in found.items()} | {"p": metrics.wilcoxon(ratios)}


def by_group(values: Tensor, groups: list[str]) -> np.ndarray:
    """The mean logarithm of each group."""
    mean: np.ndarray = pd.Series(values.log().tolist()).groupby(groups).mean().to_numpy()
    return mean


if __name__ == "__main__":
    main()
