"""Functions of two values that broadcast together, comparisons and choices."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from . import Lowering, Token, Unsupported, lowers, type_name
from .activation import negative, not_a_number, truth


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
    "clamp_min.Tensor": "max",
    "clamp_max.Tensor": "min",
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


@lowers("aten.fmax.default", "aten.fmin.default")
def number_first(at: Lowering, a, b) -> Token:
    dtype = at.node.meta["val"].dtype
    x, y = at.operand(a, dtype), at.operand(b, dtype)
    token = at.add("binary", [x, y], fn=at.function()[1:])
    if not dtype.is_floating_point:
        return token
    token = at.add("where", [not_a_number(at, y), x, token])
    return at.add("where", [not_a_number(at, x), y, token])


@lowers("aten.clamp.Tensor")
def clamp(at: Lowering, x, lo, hi) -> Token:
    dtype = at.node.meta["val"].dtype
    token = at.value(x, dtype)
    for fn, bound in (("max", lo), ("min", hi)):
        if bound is not None:
            token = at.add("binary", [token, at.value(bound, dtype)], fn=fn)
    return token


@lowers("aten.copysign.Tensor", "aten.copysign.Scalar")
def copysign(at: Lowering, a, b) -> Token:
    dtype = at.node.meta["val"].dtype
    size = at.add("map", [at.value(a, dtype)], fn="abs")
    minus = negative(at, at.operand(b, dtype), dtype)
    return at.add("where", [minus, at.add("map", [size], fn="neg"), size])


@lowers("aten.ldexp.Tensor")
def ldexp(at: Lowering, a, b) -> Token:
    dtype = at.node.meta["val"].dtype
    power = at.add("map", [at.value(b, dtype)], fn="exp2")
    return at.add("binary", [at.value(a, dtype), power], fn="mul")


@lowers("aten.hypot.default")
def hypot(at: Lowering, a, b) -> Token:
    dtype = at.node.meta["val"].dtype
    x, y = (at.add("map", [at.value(v, dtype)], fn="abs") for v in (a, b))
    # The longer side times a root that cannot overflow.
    long, short = (at.add("binary", [x, y], fn=fn) for fn in ("max", "min"))
    square = at.add("map", [at.add("binary", [short, long], fn="div")], fn="square")
    root = at.add("map", [at.add("binary", [square, at.operand(1, dtype)], fn="add")], fn="sqrt")
    # Where that quotient is none, both are zero or infinite.
    plain = at.add("binary", [short, at.operand(0, dtype)], fn="eq")
    endless = at.add("binary", [long, at.operand(float("inf"), dtype)], fn="eq")
    plain = at.add("binary", [plain, endless], fn="or")
    return at.add("where", [plain, long, at.add("binary", [long, root], fn="mul")])


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
