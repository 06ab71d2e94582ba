"""Functions of one variable, element by element."""

from __future__ import annotations

from typing import Any

import torch

from ..ops import RECOGNISED
from ..passes.fuse import activation_of
from . import Lowering, Token, Unsupported, lowers, type_name
from .layers import activation

# torch's name -> the file's, for functions without parameters.
_UNARY = {
    "abs": "abs",
    "ceil": "ceil",
    "cos": "cos",
    "erf": "erf",
    "exp": "exp",
    "expm1": "expm1",
    "floor": "floor",
    "log": "log",
    "log1p": "log1p",
    "log2": "log2",
    "logical_not": "not",
    "neg": "neg",
    "reciprocal": "reciprocal",
    "round": "round",
    "rsqrt": "rsqrt",
    "sign": "sign",
    "sin": "sin",
    "sqrt": "sqrt",
    "square": "square",
    "trunc": "trunc",
}


@lowers(*(str(target) for target in RECOGNISED))
def known(at: Lowering, x, *params) -> Token:
    found = activation_of(at.node)
    if found is None:
        raise Unsupported(f"with parameters {params}, this is none of gossamer's activations")
    name, values = found
    dtype = at.node.meta["val"].dtype
    attrs = activation(name, list(values))
    if not dtype.is_floating_point:
        return _clamped(at, x, name, values, dtype)
    return at.add("map", [at.value(x, dtype)], **attrs)


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


@lowers(*(f"aten.{name}.default" for name in _UNARY))
def unary(at: Lowering, x) -> Token:
    name = at.node.target._schema.name.partition("::")[2]
    dtype = at.node.meta["val"].dtype
    if name == "logical_not":
        return at.add("map", [at.value(x, torch.bool)], fn="not")
    return at.add("map", [at.value(x, dtype)], fn=_UNARY[name])


@lowers("aten.bitwise_not.default")
def bitwise_not(at: Lowering, x) -> Token:
    if x.meta["val"].dtype != torch.bool:
        raise Unsupported("bits of integers")
    return at.add("map", [at.value(x)], fn="not")


@lowers("aten._to_copy.default")
def cast(at: Lowering, x, dtype, *rest: Any) -> Token:
    token = at.value(x)
    if dtype is None or dtype == x.meta["val"].dtype:
        return token
    return at.add("cast", [token], dtype=type_name(dtype))
