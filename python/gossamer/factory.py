"""`package.module:factory`: how a model is named on a command line."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class FactoryError(Exception):
    """There is no such factory, or it does not make a model; the message says which and why."""


def factory(spec: str) -> tuple["torch.nn.Module", tuple[Any, ...]]:
    """Calls the `package.module:factory` that a user named.

    Returns:
        The module, in eval mode, and its example inputs.

    Raises:
        FactoryError: There is no such function, or it does not return `(module, example_inputs)`.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise FactoryError(f"{spec!r}: expected package.module:factory")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
    except ImportError as error:
        raise FactoryError(f"{spec}: {error}") from None
    except Exception as error:
        raise FactoryError(f"{spec}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    make = getattr(found, name, None)
    if not callable(make):
        raise FactoryError(f"{spec}: {module_name} has no function {name!r}")
    try:
        made = make()
    except Exception as error:
        raise FactoryError(f"{spec}: {type(error).__name__}: {error}") from error
    if not (isinstance(made, tuple) and len(made) == 2 and hasattr(made[0], "eval")):
        raise FactoryError(f"{spec}: returned {type(made).__name__}, expected (module, example_inputs)")
    module, example = made
    return module.eval(), example if isinstance(example, tuple) else (example,)
