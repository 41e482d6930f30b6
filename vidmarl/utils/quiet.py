"""Libraries without their notes, for programs that speak for themselves; progress bars and errors
stay."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def no_tips() -> Iterator[None]:
    """Takes away Lightning's tips on other products, and a deprecation within Lightning itself."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addFilter(_is_no_tip)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec")
            yield
    finally:
        logger.removeFilter(_is_no_tip)


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Takes away Lightning's notes on hardware and on loading by workers too."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with no_tips():
            warnings.filterwarnings("ignore", message=".*does not have many workers")
            warnings.filterwarnings("ignore", message=".*no `val_dataloader`")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Takes away what the import of pytorchvideo says of a library below it: fvcore compiles by
    `torch.jit`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script")
        yield
