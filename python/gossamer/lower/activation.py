"""Functions of one variable, element by element."""

from __future__ import annotations

from typing import Any

import torch

from ..ops import RECOGNISED
from ..passes.fuse import activation_of
from . import Lowering, Token, Unsupported, lowers, type_name
from .layers import activation

# Functions without parameters that torch and the file call the same.
_UNARY = """
    abs acos acosh asin asinh atan atanh ceil cos cosh erf exp exp2 expm1 floor frac log log10 log1p log2 neg reciprocal
    round rsqrt sign sin sinh sqrt square tan trunc
"""


@lowers(*(str(target) for target in RECOGNISED))
def known(at: Lowering, x, *params) -> Token:
    found = activation_of(at.node)
    if found is None:
        raise Unsupported(f"with parameters {params}, this is none of gossamer's activations")
    name, values = found
    dtype = at.node.meta["val"].dtype
    if not dtype.is_floating_point:
        return _clamped(at, x, name, values, dtype)
    return at.add("map", [at.value(x, dtype)], **(activation(name, list(values)) or {}))


def _clamped(at: Lowering, x, name: str, values: tuple[float, ...], dtype: torch.dtype) -> Token:
    """A clamp of integers, as the larger and the smaller of two."""
    bounds = {"relu": (0, None), "relu6": (0, 6), "hardtanh": values}.get(name)
    if bounds is None:
        raise Unsupported(f"{name} of integers")
    token = at.value(x, dtype)
    for fn, bound in zip(("max", "min"), bounds, strict=True):
        if bound is not None and abs(bound) != float("inf"):
            token = at.add("binary", [token, at.operand(int(bound), dtype)], fn=fn)
    return token


@lowers(*(f"aten.{name}.default" for name in _UNARY.split()))
def unary(at: Lowering, x) -> Token:
    # In the type of the result: the root of an integer is a float.
    return at.add("map", [at.value(x, at.node.meta["val"].dtype)], fn=at.function())


@lowers("aten.logical_not.default", "aten.bitwise_not.default")
def negation(at: Lowering, x) -> Token:
    if at.function() == "bitwise_not" and x.meta["val"].dtype != torch.bool:
        return at.add("binary", [at.value(x), at.operand(-1, x.meta["val"].dtype)], fn="xor")
    return at.add("binary", [truth(at, x), at.operand(True, torch.bool)], fn="xor")


def truth(at: Lowering, x) -> Token:
    """Which elements of a value are not zero."""
    dtype = x.meta["val"].dtype
    token = at.value(x)
    return token if dtype == torch.bool else at.add("binary", [token, at.operand(0, dtype)], fn="ne")


@lowers("aten.prelu.default")
def prelu(at: Lowering, x, weight) -> Token:
    token, slope = at.value(x), at.value(weight)
    rank, channels = x.meta["val"].dim(), weight.meta["val"].numel()
    slope = at.add("reshape", [slope], shape=[channels, *[1] * (rank - 2)] if rank > 1 else [channels])
    negative = at.add("binary", [token, at.operand(0.0, torch.float32)], fn="min")
    negative = at.add("binary", [negative, slope], fn="mul")
    return at.add("binary", [at.add("map", [token], fn="relu"), negative], fn="add")


@lowers("aten._to_copy.default")
def cast(at: Lowering, x, dtype, *rest: Any) -> Token:
    token = at.value(x)
    if dtype is None or dtype == x.meta["val"].dtype:
        return token
    return at.add("cast", [token], dtype=type_name(dtype))
