"""Victims by name. Each family of networks is one module here with three functions: `names`,
`default_spec` and `load`, and a fourth, `card`, that says what a name stands for. Other packages
bring theirs as entry points of the group `vidmarl.victims`: a class or a function that makes a
`Victim` or a model.

The public names stand in `__init__.pyi`; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
