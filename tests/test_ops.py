"""Every op, converted and run, against torch."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, converted
from torch.utils import _pytree as pytree

from gossamer import runtime
from gossamer.capture import capture
from gossamer.passes import difference, run, tolerance, verify
from gossamer.passes.round_weights import round_weights


@pytest.mark.parametrize("name", CASES)
def test_op(name):
    case, made = CASES[name], converted(name)
    model = runtime.load(made.path)
    program = capture(made.module, case.inputs(case.batches[0]))
    verify(program)
    run(program, check=True)
    with torch.no_grad():
        round_weights(program, case.options.get("weights", "float32"))
        for batch in case.batches:
            inputs = case.inputs(batch)
            want = program.module(*inputs)
            got = model.run(*inputs)
            got = got if isinstance(got, tuple) else (got,)
            assert len(got) == len(want)
            for a, b in zip(got, want, strict=True):
                assert a.shape == b.shape
                assert a.dtype == b.dtype
                assert difference(a, b) <= tolerance(program, b)
            if not case.options:
                torch_answer = [t for t in pytree.tree_leaves(made.module(*inputs)) if t is not None]
                for a, b in zip(got, torch_answer, strict=True):
                    assert difference(a, b) <= tolerance(program, b)
