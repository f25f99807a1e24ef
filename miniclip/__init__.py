"""MiniCLIP: a lab bench for small-scale contrastive image-text learning.

    from miniclip import SAM, MiniCLIP

Both are loaded when they are first used: importing the package alone imports nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniclip.optim import SAM
    from miniclip.pretrained import MiniCLIP

__version__ = "0.1.0"

__all__ = ["SAM", "MiniCLIP", "__version__"]

_HOMES = {"MiniCLIP": "miniclip.pretrained", "SAM": "miniclip.optim"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
