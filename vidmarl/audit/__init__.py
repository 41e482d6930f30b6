"""The whole picture of a victim: how often it is right about clean clips, about corrupted ones and
under attack, and where and when it is sensitive.

`vidmarl.audit(victim, data)` is the function of this name, whether or not the package has been
imported before: modules of the package are imported as `from vidmarl.audit.corruptions import ...`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from vidmarl.audit.result import AuditResult
from vidmarl.audit.run import audit

__all__ = ["AuditResult", "audit"]


class _Callable(ModuleType):
    """A package that can be called as the function of its name."""

    __call__ = staticmethod(audit)


sys.modules[__name__].__class__ = _Callable
