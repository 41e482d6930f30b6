"""How a result has come about: what one has to know to get it again."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from vidmarl._version import __version__
from vidmarl.utils.fingerprints import fingerprint
from vidmarl.victims.victim import Victim


def provenance(victim: Victim, networks: Mapping[str, nn.Module], device: torch.device) -> dict[str, Any]:
    """Where results of an attack that begins now come from, beside its settings, as plain data.

    Args:
        victim: who is attacked.
        networks: of the attack, by the name of the setting.
        device: where the clips are.
    """
    try:
        asked = victim.identity()
    except Exception:  # a state that cannot be written: no reason to refuse the attack
        asked = {"name": victim.name, "network": None}
    return {
        "vidmarl": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": _name(victim.device or device),
        "threads": torch.get_num_threads(),
        "command": [getattr(victim.model, "without_secrets", str)(word) for word in sys.argv],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "victim": asked,
        "networks": {name: fingerprint(network) for name, network in networks.items()},
    }


def _name(device: torch.device) -> str:
    """What a device is, as far as rounding may depend on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})" if device.type == "cpu" else device.type
