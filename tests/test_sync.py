"""The op set is Rust's; lowerings and cases keep up with it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from cases import CASES, converted

import gossamer.lower
from gossamer import _core

LOWER = Path(gossamer.lower.__file__).parent

# Ops that the plan adds by itself, or that a file may have though no torch op lowers to them.
INTERNAL: set[str] = set()


def added() -> set[str]:
    """The ops that lowerings add, by their names in the source."""
    names = set()
    for path in LOWER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add":
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    names.add(first.value)
    return names


def test_every_lowering_adds_an_op_that_exists():
    assert added() <= set(_core.OPS)


def test_every_op_has_a_lowering():
    assert set(_core.OPS) - INTERNAL <= added()


def test_every_op_has_a_case():
    used = set().union(*(converted(name).ops for name in CASES))
    assert set(_core.OPS) - INTERNAL <= used


@pytest.mark.parametrize("target", gossamer.lower.LOWERINGS)
def test_a_lowering_is_of_an_op_that_torch_has(target):
    if target == "getitem":
        return
    namespace, name, overload = target.split(".")
    assert isinstance(getattr(getattr(getattr(torch.ops, namespace), name), overload), torch._ops.OpOverload)
