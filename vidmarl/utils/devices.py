"""Which device a model runs on."""

from __future__ import annotations

import torch


def usable_device(device: torch.device | str, doing: str) -> torch.device:
    """The device of that name, if it works here.

    Args:
        device: such as "cpu" or "cuda:1"; "auto" is a GPU where there is one, else the CPU.
        doing: opens the message of an error.

    Raises:
        ValueError: there is no such device, or it does not work.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except Exception as error:  # of many types: no such device, no driver, a build of torch without it, no memory
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        why = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
        if "device string" in why:  # torch lists every device of every build of it
            why = "GPUs are called cuda, cuda:0 and so on" if str(device).startswith(("gpu", "cuda")) else "unknown"
        raise ValueError(
            f"{doing}: expected a device that works here, got {str(device)!r} ({why}). There are: {', '.join(there)};"
            " 'auto' is a GPU where there is one."
        ) from error
    return found
