"""`vidmarl export CHECKPOINT FILE`: see `vidmarl.agents.checkpoint.save_agents`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from vidmarl.cli.parts import make_parser, say_end


def run(words: list[str]) -> None:
    """`vidmarl export CHECKPOINT FILE`: see `vidmarl.agents.checkpoint.save_agents`."""
    parser = make_parser("export", "Cuts the trained agents out of a checkpoint of `vidmarl fit`, as a small file.")
    parser.add_argument("ckpt", metavar="CHECKPOINT", help="a checkpoint of `vidmarl fit`")
    parser.add_argument("out", metavar="FILE", help="the file to write, such as agents.pt")
    args = parser.parse_args(words[1:])

    from vidmarl.agents.checkpoint import load_agents, save_agents

    agents = load_agents(args.ckpt)
    Path(args.out).absolute().parent.mkdir(parents=True, exist_ok=True)
    save_agents(args.out, agents)
    queries = agents.trained.get("training_queries", 0)
    print(f"{args.out}: {os.path.getsize(args.out):,} bytes; trained with {queries:,} queries")
    say_end([args.out], f"vidmarl attack CLIP --victim NAME --agents {shlex.quote(args.out)} --out results")
