"""Errors of the Python side in the words of the command line."""

from __future__ import annotations

import re

SPEC_FIELDS = ("frames", "size", "short_side", "fit", "sampling", "fps", "stride", "antialias", "short")
ATTACK_OPTIONS = ("budget", "seed", "coherence")


def as_options(message: str) -> str:
    """An error's message with the settings of Python in the words of the command line:
    `overwrite=True` becomes `--overwrite`, and `RandomCells: budget must` `--budget must`."""

    def flag(name: str) -> str:
        return f"--{'spec.' if name in SPEC_FIELDS else ''}{name}"

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        return flag(name) if value in ("True", "...") else f"{flag(name)} {value[1:-1]}"

    settings = "|".join((*SPEC_FIELDS, "overwrite", "skip_bad", "weights", "device", "agents"))
    message = re.sub(rf"(?<!\w)(?<!\w\()({settings})=(True|\.\.\.|'[^']*'|\"[^\"]*\")", option, message)
    message = re.sub(r"^ClipSpec: (\w+)(?= (?:must|is) )", lambda found: flag(found[1]), message)
    for owner, prefix in (("Benchmark", ""), ("TwoAgentPPO", "model."), ("ClipData", "data.")):
        message = re.sub(rf"^{owner}: (\w+)(?= must )", rf"--{prefix}\1", message)
    message = re.sub(rf"^\w+: ({'|'.join(ATTACK_OPTIONS)})(?= must )", r"--\1", message)
    return message.replace("Making ClipSpec:", "--spec:")
