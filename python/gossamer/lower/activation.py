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
    abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor frac log log10 log1p log2 neg
    reciprocal round rsqrt sign sin sinh sqrt square tan trunc
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


@lowers("aten.isnan.default")
def isnan(at: Lowering, x) -> Token:
    return not_a_number(at, at.value(x))


def not_a_number(at: Lowering, token: Token) -> Token:
    """Which elements are none; of integers, none is."""
    return at.add("binary", [token, token], fn="ne")


@lowers("aten.isinf.default")
def isinf(at: Lowering, x) -> Token:
    size = at.add("map", [at.value(x, torch.float32)], fn="abs")
    return at.add("binary", [size, at.operand(float("inf"), torch.float32)], fn="eq")


@lowers("aten.signbit.default")
def signbit(at: Lowering, x) -> Token:
    return negative(at, at.value(x), x.meta["val"].dtype)


def negative(at: Lowering, token: Token, dtype: torch.dtype) -> Token:
    """Which elements have a minus before them; -0 has."""
    zero = at.operand(0, dtype)
    below = at.add("binary", [token, zero], fn="lt")
    if not dtype.is_floating_point:
        return below
    # One over -0 is -inf.
    turned = at.add("binary", [at.add("map", [token], fn="reciprocal"), zero], fn="lt")
    return at.add("binary", [below, turned], fn="or")


@lowers("aten.round.decimals")
def round_decimals(at: Lowering, x, decimals: int) -> Token:
    token = at.value(x)
    if decimals == 0:
        return at.add("map", [token], fn="round")
    power = at.operand(10.0 ** abs(decimals), torch.float32)
    there, back = ("mul", "div") if decimals > 0 else ("div", "mul")
    token = at.add("map", [at.add("binary", [token, power], fn=there)], fn="round")
    return at.add("binary", [token, power], fn=back)


@lowers("aten.prelu.default")
def prelu(at: Lowering, x, weight) -> Token:
    token, slope = at.value(x), at.value(weight)
    rank, channels = x.meta["val"].dim(), weight.meta["val"].numel()
    # One slope for each channel, which is axis 1; a single one is for all.
    shape = [channels, *[1] * (rank - 2)] if rank > 1 and channels > 1 else [channels] * min(rank, 1)
    slope = at.add("reshape", [slope], shape=shape)
    negative = at.add("binary", [token, at.operand(0.0, torch.float32)], fn="min")
    negative = at.add("binary", [negative, slope], fn="mul")
    return at.add("binary", [at.add("map", [token], fn="relu"), negative], fn="add")


@lowers("aten._to_copy.default")
def cast(at: Lowering, x, dtype, *rest: Any) -> Token:
    token = at.value(x)
    if dtype is None or dtype == x.meta["val"].dtype:
        return token
    return at.add("cast", [token], dtype=type_name(dtype))
