"""The attacks, learned or not; each is one file of this folder, found by its name.

A new attack is a new file with one subclass of `Attack`, and nothing else. The file is called like
the class, in snake case and without "Attack" at the end: `RandomCells` in `random_cells.py`,
`RLAttack` in `rl.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vidmarl.attacks.base import ATTACKS as ATTACKS
from vidmarl.attacks.base import Attack
from vidmarl.attacks.result import AttackResult

if TYPE_CHECKING:  # at run time these are imported when they are first asked for
    from vidmarl.attacks.ast_focus import AstFocus as AstFocus
    from vidmarl.attacks.geo_trap import GeoTrap as GeoTrap
    from vidmarl.attacks.greedy_sensitivity import GreedySensitivity as GreedySensitivity
    from vidmarl.attacks.grow_and_reduce import GrowAndReduce as GrowAndReduce
    from vidmarl.attacks.motion_sampler import MotionSampler as MotionSampler
    from vidmarl.attacks.random_cells import RandomCells as RandomCells
    from vidmarl.attacks.rl import RLAttack as RLAttack
    from vidmarl.attacks.sensitivity_order import SensitivityOrder as SensitivityOrder
    from vidmarl.attacks.signed_blocks import SignedBlocks as SignedBlocks
    from vidmarl.attacks.simba_dct import SimbaDCT as SimbaDCT
    from vidmarl.attacks.sparse_nes import SparseNES as SparseNES
    from vidmarl.attacks.square_tubes import SquareTubes as SquareTubes
    from vidmarl.attacks.stde import STDE as STDE
    from vidmarl.attacks.vbad import VBAD as VBAD

__all__ = ["Attack", "AttackResult", "as_attack", "list_attacks"]


def list_attacks() -> list[str]:
    """The names of all attacks, sorted, as the command line and `as_attack` take them."""
    return ATTACKS.names()


def as_attack(thing: Attack | type[Attack] | str | Mapping[str, Any], **settings: Any) -> Attack:
    """Makes an attack of whatever names one.

    Args:
        thing: an `Attack` (returned as it is), its class, its name ("random_cells" or
            "RandomCells"), its class path ("my.module.MyAttack"), or `{"class_path": ...,
            "init_args": {...}}` with any of these names.
        **settings: settings of the attack; they win over `init_args`.

    Raises:
        UnknownNameError: there is no attack of that name; the message offers the nearest.
        SettingsError: `thing` is something else, an attack that exists already was to get settings,
            or the attack has no such settings.
    """
    return ATTACKS.make(thing, **settings)


if not TYPE_CHECKING:  # so that a type checker finds a misspelling
    __getattr__, __dir__ = ATTACKS.attributes()
