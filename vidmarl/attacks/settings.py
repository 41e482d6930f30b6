"""The settings of attacks."""

from __future__ import annotations

import dataclasses
from numbers import Real
from typing import Any, dataclass_transform, get_type_hints

import numpy as np

from vidmarl.registry import explain_settings
from vidmarl.utils.kinds import check_kind, check_positive

MOST = 2**53
"""The largest number of a setting: floats count exactly as far as this."""


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
class Settings:
    """Makes every subclass a dataclass whose settings are keyword-only, without a decorator.

    A plain `budget = 50` in a subclass is another default of a setting that its base has.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        inherited: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
        for field in inherited:
            if field.name in vars(cls) and field.name not in cls.__annotations__:
                cls.__annotations__[field.name] = field.type
                setattr(cls, field.name, dataclasses.field(default=vars(cls)[field.name], kw_only=field.kw_only))
        explain_settings(dataclasses.dataclass(kw_only=True, eq=False)(cls))

    def check_kinds(self) -> None:
        """Checks every setting by its annotation (see `vidmarl.utils.kinds`); numbers of NumPy
        become plain ones.

        Raises:
            SettingsError: a setting is not what its annotation says.
            ValueError: a number is too large to be meant.
        """
        try:
            hints = get_type_hints(type(self))
        except NameError:  # an annotation of a user's own has a name that only type checkers see
            return
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            what, value = f"{type(self).__name__}: {field.name}", getattr(self, field.name)
            check_kind(value, hints[field.name], what)
            if isinstance(value, Real) and abs(value) > MOST:  # type: ignore[operator]
                raise ValueError(f"{what} must be at most 2**53, got {value!r}.")
            if isinstance(value, np.generic):
                setattr(self, field.name, value.item())

    def check_positive(self, *names: str) -> None:
        """Raises a ValueError unless the settings of these names are above 0, and by enough to
        divide by."""
        check_positive(type(self).__name__, **{name: getattr(self, name) for name in names})
