"""Functions of two values that broadcast together, comparisons and choices."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from . import Lowering, Token, Unsupported, lowers, type_name
from .activation import truth


def _common(*values: fx.Node | float | int | bool) -> torch.dtype:
    """The type in which torch computes with those operands."""
    # Only rank and type count, and torch asks a tensor for them.
    vals = [v.meta["val"] if isinstance(v, fx.Node) else v for v in values]
    vals = [torch.empty([1] * v.dim(), dtype=v.dtype) if isinstance(v, Tensor) else v for v in vals]
    return torch.result_type(*vals)


def binary(at: Lowering, fn: str, a, b, dtype: torch.dtype | None = None) -> Token:
    """Adds a function of two operands, both cast to `dtype` (by default the type torch computes them in)."""
    dtype = dtype or _common(a, b)
    type_name(dtype)
    return at.add("binary", [at.operand(a, dtype), at.operand(b, dtype)], fn=fn)


@lowers("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar")
def add(at: Lowering, a, b, alpha) -> Token:
    fn = at.function()
    dtype = at.node.meta["val"].dtype
    second = at.operand(b, dtype)
    if alpha != 1:
        second = at.add("binary", [second, at.operand(alpha, dtype)], fn="mul")
    return at.add("binary", [at.operand(a, dtype), second], fn=fn)


@lowers("aten.rsub.Scalar", "aten.rsub.Tensor")
def rsub(at: Lowering, a, b, alpha) -> Token:
    if alpha != 1:
        raise Unsupported("a reversed subtraction that scales")
    return binary(at, "sub", b, a, at.node.meta["val"].dtype)


_PLAIN = {
    "mul.Tensor": "mul",
    "mul.Scalar": "mul",
    "div.Tensor": "div",
    "div.Scalar": "div",
    "maximum.default": "max",
    "minimum.default": "min",
    "remainder.Tensor": "mod",
    "remainder.Scalar": "mod",
    "fmod.Tensor": "fmod",
    "fmod.Scalar": "fmod",
    "floor_divide.default": "floor_div",
    "atan2.default": "atan2",
}


@lowers(*(f"aten.{name}" for name in _PLAIN))
def plain(at: Lowering, a, b) -> Token:
    # In the type of the result: a division of integers is one of floats.
    return binary(at, _PLAIN[str(at.node.target).partition(".")[2]], a, b, at.node.meta["val"].dtype)


@lowers("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div(at: Lowering, a, b, rounding_mode) -> Token:
    if rounding_mode == "trunc":
        dtype = at.node.meta["val"].dtype
        if not dtype.is_floating_point:
            raise Unsupported("a division of integers that rounds towards zero: use rounding_mode='floor'")
        return at.add("map", [binary(at, "div", a, b, dtype)], fn="trunc")
    return binary(at, "div" if rounding_mode is None else "floor_div", a, b, at.node.meta["val"].dtype)


_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


@lowers(*(f"aten.{name}.{kind}" for name in _COMPARISONS for kind in ("Tensor", "Scalar")))
def compare(at: Lowering, a, b) -> Token:
    return binary(at, at.function(), a, b)


@lowers("aten.logical_and.default", "aten.logical_or.default", "aten.logical_xor.default")
def logic(at: Lowering, a, b) -> Token:
    return at.add("binary", [truth(at, a), truth(at, b)], fn=at.function().removeprefix("logical_"))


@lowers(*(f"aten.bitwise_{name}.{kind}" for name in ("and", "or", "xor") for kind in ("Tensor", "Scalar")))
def bitwise(at: Lowering, a, b) -> Token:
    return binary(at, at.function().removeprefix("bitwise_"), a, b, at.node.meta["val"].dtype)


@lowers("aten.pow.Tensor_Scalar")
def power(at: Lowering, x, exponent) -> Token:
    dtype = at.node.meta["val"].dtype
    if dtype.is_floating_point:
        return at.add("map", [at.value(x, dtype)], fn="pow", exponent=float(exponent))
    return binary(at, "pow", x, exponent, dtype)


@lowers("aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def powers(at: Lowering, a, b) -> Token:
    return binary(at, "pow", a, b, at.node.meta["val"].dtype)


@lowers("aten.where.self")
def where(at: Lowering, condition, a, b) -> Token:
    dtype = at.node.meta["val"].dtype
    return at.add("where", [at.value(condition, torch.bool), at.operand(a, dtype), at.operand(b, dtype)])
