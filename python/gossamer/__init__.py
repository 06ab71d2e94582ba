"""A runtime in which compressed PyTorch models are small and fast.

`convert` and `compress` need torch, on the machine where a model is made; what runs it needs numpy alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._core import Error, FormatError, ShapeError, UnsupportedOpError, __version__

if TYPE_CHECKING:
    from . import compress, runtime
    from .converter import convert
    from .report import Report
    from .runtime import Model, load

__all__ = [
    "Error",
    "FormatError",
    "Model",
    "Report",
    "ShapeError",
    "UnsupportedOpError",
    "__version__",
    "compress",
    "convert",
    "load",
    "runtime",
]

# Public name -> (module it lives in, attribute or None for the module itself, whether it needs torch).
_LAZY = {
    "compress": ("gossamer.compress", None, True),
    "convert": ("gossamer.converter", "convert", True),
    "Report": ("gossamer.report", "Report", False),
    "load": ("gossamer.runtime", "load", False),
    "Model": ("gossamer.runtime", "Model", False),
    "runtime": ("gossamer.runtime", None, False),
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that running a model never waits for torch."""
    if name not in _LAZY:
        raise AttributeError(f"module 'gossamer' has no attribute {name!r}")
    module, attribute, needs_torch = _LAZY[name]
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if needs_torch and error.name == "torch":
            raise ImportError(f"gossamer.{name} needs torch: pip install 'gossamer[torch]'", name="torch") from error
        raise
    value = loaded if attribute is None else getattr(loaded, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
