"""Every op, converted and run, against torch."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, converted
from torch.utils import _pytree as pytree

from gossamer import runtime
from gossamer.passes.verify import difference, tolerance


@pytest.mark.parametrize("name", CASES)
def test_op(name):
    case, made = CASES[name], converted(name)
    model = runtime.load(made.path)
    for batch in case.batches:
        inputs = case.inputs(batch)
        got = model.run(*inputs)
        got = got if isinstance(got, tuple) else (got,)
        with torch.no_grad():
            # Rounded weights are what the caller asked for: the program has them, the module does not.
            rounded = made.program.module(*inputs)
            exact = [t for t in pytree.tree_leaves(made.module(*inputs)) if t is not None]
        for a, b in zip(got, rounded if case.options else exact, strict=True):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            assert difference(a, b) <= (0 if case.exact else tolerance(made.program, b))
