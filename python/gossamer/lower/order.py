"""Orders and running totals along an axis."""

from __future__ import annotations

from typing import Any

import torch

from ..program import shape_of
from . import Lowering, Token, lowers, type_name


def _ordered(at: Lowering, x, dim: int, descending: bool, **more: Any) -> list[Token | None]:
    dtype = x.meta["val"].dtype
    rank = len(shape_of(x))
    wide = dtype if dtype.is_floating_point else torch.int64
    token = at.value(x, wide)
    if rank == 0:
        # One number is a vector of one.
        token, rank = at.add("reshape", [token], shape=[1]), 1
    values, places = at.add("sort", [token], axis=dim % rank, descending=descending, **more)
    if wide != dtype:
        values = at.add("cast", [values], dtype=type_name(dtype))
    if not shape_of(x):
        return [at.add("reshape", [token], shape=[]) for token in (values, places)]
    return [values, places]


@lowers("aten.sort.default")
def sort(at: Lowering, x, dim, descending) -> list[Token | None]:
    return _ordered(at, x, dim, descending)


@lowers("aten.sort.stable")
def sort_stable(at: Lowering, x, stable, dim, descending) -> list[Token | None]:
    return _ordered(at, x, dim, descending)


@lowers("aten.topk.default")
def topk(at: Lowering, x, k, dim, largest, sorted_) -> list[Token | None]:
    return _ordered(at, x, dim, largest, k=at.size(k))


@lowers("aten.cumsum.default")
def cumsum(at: Lowering, x, dim, dtype) -> Token:
    return _running(at, x, dim, "sum")


@lowers("aten.cumprod.default")
def cumprod(at: Lowering, x, dim, dtype) -> Token:
    return _running(at, x, dim, "prod")


def _running(at: Lowering, x, dim: int, fn: str) -> Token:
    token = at.value(x, at.node.meta["val"].dtype)
    rank = len(shape_of(x))
    return at.add("scan", [token], fn=fn, axis=dim % rank) if rank else token
