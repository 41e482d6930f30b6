"""How robust is a video classifier? Two agents learn where and when to distort a clip until it
fails.

The public names are below; each is imported when it is first used, so that `import vidmarl` costs
nothing and brings in Lightning, TorchRL or plotly only where a name needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vidmarl._version import __version__

if TYPE_CHECKING:
    from vidmarl import attacks, distortions, errors, metrics
    from vidmarl.agents.checkpoint import list_pretrained
    from vidmarl.attacks import (
        Attack,
        AttackResult,
        GreedySensitivity,
        GrowAndReduce,
        RandomCells,
        SquareTubes,
        list_attacks,
    )
    from vidmarl.attacks.rl import RLAttack
    from vidmarl.data.spec import ClipSpec
    from vidmarl.data.video import load_clips
    from vidmarl.distortions import list_distortions
    from vidmarl.perturbations.grid import TubeletGrid
    from vidmarl.pipeline import attack_files
    from vidmarl.queries.goals import Misclassify, Target
    from vidmarl.victims import list_victims, load_victim
    from vidmarl.victims.victim import Victim

_MODULES = ("attacks", "distortions", "errors", "metrics")
_HOMES = {
    "Attack": "attacks",
    "AttackResult": "attacks",
    "ClipSpec": "data.spec",
    "GreedySensitivity": "attacks",
    "GrowAndReduce": "attacks",
    "Misclassify": "queries.goals",
    "RLAttack": "attacks.rl",
    "RandomCells": "attacks",
    "SquareTubes": "attacks",
    "Target": "queries.goals",
    "TubeletGrid": "perturbations.grid",
    "Victim": "victims.victim",
    "attack_files": "pipeline",
    "list_attacks": "attacks",
    "list_distortions": "distortions",
    "list_pretrained": "agents.checkpoint",
    "list_victims": "victims",
    "load_clips": "data.video",
    "load_victim": "victims",
}

__all__ = [
    "Attack",
    "AttackResult",
    "ClipSpec",
    "GreedySensitivity",
    "GrowAndReduce",
    "Misclassify",
    "RLAttack",
    "RandomCells",
    "SquareTubes",
    "Target",
    "TubeletGrid",
    "Victim",
    "__version__",
    "attack_files",
    "attacks",
    "distortions",
    "errors",
    "list_attacks",
    "list_distortions",
    "list_pretrained",
    "list_victims",
    "load_clips",
    "load_victim",
    "metrics",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(f"vidmarl.{name}")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"vidmarl.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'vidmarl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
