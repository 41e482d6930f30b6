"""What a kind of case is."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from pathlib import Path

from vidmarl.errors import VidmarlError


class Wrong(Exception):
    """Nothing was raised, and what came is not what it has to be."""


class Kind(ABC):
    """One kind of case. What a case holds follows from its random numbers alone."""

    @abstractmethod
    def make(self, originals: Path) -> None:
        """Writes what the cases are made of, once, to an empty folder."""

    @abstractmethod
    def draw(self, rng: random.Random, originals: Path, case: Path) -> str:
        """Writes one case to an empty folder, and says what it is."""

    @abstractmethod
    def check(self, rng: random.Random, originals: Path, case: Path) -> None:
        """Loads a case.

        Raises:
            Wrong: other content than was saved.
            Exception: what vidmarl raises, which `is_clear` judges.
        """

    def is_clear(self, error: Exception, case: Path) -> bool:
        """Whether an error is one of vidmarl's that names the file."""
        return isinstance(error, VidmarlError) and str(case) in str(error)
