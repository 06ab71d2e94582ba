"""Prints `docs/operators.md`: what of torch can be converted, from the lists that convert it.

python -m gossamer.lower > docs/operators.md
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterable

from .. import _core
from ..passes.drop_identities import SAME
from ..passes.name_layers import REWRITES
from . import LOWERINGS

_HEAD = """# Operators

What `gossamer.convert` takes, as `python -m gossamer.lower` prints it. An operator stands here by torch's name for it,
all of its overloads together. `torch.export` first writes a module in these names: `nn.Conv2d` is `aten.conv2d`,
`x @ y` is `aten.matmul`, a comparison with a number `aten.gt`. What has no line of its own is taken apart by torch into
what has one, where torch can do that. Anything else is refused: all of it at once, with module path and source line.

| torch operators | |
|---|---|
"""

_TAIL = """
`gossamer.` operators are those of the modules that `gossamer.compress` makes.

## In a file

The operators of a file, `gossamer._core.OPS`; [the format](format.md) says how a node names one:

{ops}
"""


def table() -> str:
    """The page."""
    groups: dict[str, set[str]] = defaultdict(set)
    for target, lowering in LOWERINGS.items():
        groups[str(importlib.import_module(lowering.__module__).__doc__)].add(_name(target))
    groups[str(importlib.import_module("gossamer.lower.layers").__doc__)] |= _names(REWRITES)
    groups["What returns its operand when a model is not trained, and is dropped."] |= _names(map(str, SAME))
    rows = sorted((doc.partition("\n")[0].rstrip("."), sorted(names)) for doc, names in groups.items())
    lines = [f"| {', '.join(f'`{name}`' for name in names)} | {doc} |" for doc, names in rows]
    ops = ", ".join(f"`{op}`" for op in sorted(_core.OPS))
    return _HEAD + "\n".join(lines) + "\n" + _TAIL.format(ops=ops)


def _names(targets: Iterable[str]) -> set[str]:
    return {_name(target) for target in targets}


def _name(target: str) -> str:
    """The operator of an overload; what is none, as the parts of a tuple, has a name without a dot."""
    return target.rpartition(".")[0] or target


if __name__ == "__main__":
    print(table(), end="")
