"""How robust is a video classifier? Two agents learn where and when to distort a clip until it
fails.

The public names stand in `__init__.pyi`. Each is imported when it is first used, so that `import
vidmarl` costs nothing and brings in Lightning, TorchRL or plotly only where a name needs them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
