"""Tells griffe, which reads the package for the site, what a type checker is told by
`dataclass_transform`: subclasses of `Settings` are dataclasses without a decorator."""

from __future__ import annotations

from typing import Any

import griffe


class Settings(griffe.Extension):
    """Gives attacks the decorator that griffe knows dataclasses by."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        if cls.path.startswith("vidmarl.attacks.") and any(
            str(base).endswith(("Attack", "Settings")) for base in cls.bases
        ):
            function = griffe.ExprName("dataclasses.dataclass")
            call = griffe.ExprCall(function, [griffe.ExprKeyword("kw_only", "True")])
            cls.decorators.append(griffe.Decorator(call, lineno=None, endlineno=None))
