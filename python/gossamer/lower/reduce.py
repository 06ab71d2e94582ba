"""Sums, means, extrema and the like over some axes."""

from __future__ import annotations

import math

import torch

from ..program import shape_of
from . import Lowering, Token, lowers, type_name
from .activation import truth


def reduced(at: Lowering, x, fn: str, axes, keepdim: bool, **attrs) -> Token:
    """Adds a reduction; no axes means all of them."""
    rank = len(shape_of(x))
    axes = [axes] if isinstance(axes, int) else list(axes or range(rank))
    dtype = at.node.meta["val"]
    dtype = (dtype[0] if isinstance(dtype, (tuple, list)) else dtype).dtype
    token = at.value(x, dtype)
    if rank == 0:
        # One number is a vector of one.
        token, axes, keepdim = at.add("reshape", [token], shape=[1]), [0], False
        rank = 1
    return at.add("reduce", [token], fn=fn, axes=sorted(a % rank for a in axes), keepdim=keepdim, **attrs)


@lowers("aten.mean.dim", "aten.sum.dim_IntList")
def mean(at: Lowering, x, dim, keepdim, dtype) -> Token:
    return reduced(at, x, at.function(), dim, keepdim)


@lowers("aten.mean.default", "aten.sum.default", "aten.prod.default")
def mean_all(at: Lowering, x, dtype) -> Token:
    return reduced(at, x, at.function(), None, False)


@lowers("aten.prod.dim_int")
def prod(at: Lowering, x, dim, keepdim, dtype) -> Token:
    return reduced(at, x, "prod", dim, keepdim)


@lowers("aten.amax.default", "aten.amin.default")
def extremum(at: Lowering, x, dim, keepdim) -> Token:
    return reduced(at, x, at.function()[1:], dim, keepdim)


@lowers("aten.max.default", "aten.min.default")
def extremum_all(at: Lowering, x) -> Token:
    return reduced(at, x, at.function(), None, False)


@lowers("aten.max.dim", "aten.min.dim")
def extremum_dim(at: Lowering, x, dim, keepdim) -> list[Token | None]:
    used = {user.args[1] for user in at.node.users}
    greatest = at.function() == "max"
    return [
        reduced(at, x, at.function(), dim, keepdim) if 0 in used else None,
        arg_extreme(at, x, dim, keepdim, greatest) if 1 in used else None,
    ]


@lowers("aten.argmax.default", "aten.argmin.default")
def argmax(at: Lowering, x, dim, keepdim) -> Token:
    return arg_extreme(at, x, dim, keepdim, at.function() == "argmax")


def arg_extreme(at: Lowering, x, dim: int | None, keepdim: bool, greatest: bool) -> Token:
    """Adds a search for the greatest or least element; without `dim`, among all."""
    dtype = x.meta["val"].dtype
    token = at.value(x, dtype if dtype.is_floating_point else torch.int64)
    rank = len(shape_of(x))
    if dim is not None and rank:
        return at.add("arg_extreme", [token], axis=dim % rank, greatest=greatest, keepdim=keepdim)
    flat = at.add("reshape", [token], shape=[-1])
    place = at.add("arg_extreme", [flat], axis=0, greatest=greatest, keepdim=False)
    sizes = [1] * rank if keepdim else []
    return at.add("reshape", [place], shape=sizes) if sizes else place


@lowers("aten.any.dim", "aten.all.dim", "aten.any.dims", "aten.all.dims")
def any_dim(at: Lowering, x, dim, keepdim) -> Token:
    rank = len(shape_of(x))
    axes = sorted(a % rank for a in ([dim] if isinstance(dim, int) else dim or range(rank))) if rank else []
    token = at.add("truth", [truth(at, x)], all=at.function() == "all", axes=axes, keepdim=keepdim)
    # Of bytes torch answers in bytes.
    dtype = at.node.meta["val"].dtype
    return token if dtype == torch.bool else at.add("cast", [token], dtype=type_name(dtype))


@lowers("aten.any.default", "aten.all.default")
def any_all(at: Lowering, x) -> Token:
    return any_dim(at, x, None, False)


@lowers("aten.var.correction", "aten.std.correction")
def var(at: Lowering, x, dim, correction, keepdim) -> Token:
    fn = at.function()
    return reduced(at, x, fn, dim, keepdim, correction=1 if correction is None else correction)


@lowers("aten.var.default", "aten.std.default")
def var_all(at: Lowering, x, unbiased) -> Token:
    return var(at, x, None, int(unbiased), False)


@lowers("aten.var_mean.default")
def var_mean_all(at: Lowering, x, unbiased) -> list[Token | None]:
    return var_mean(at, x, None, int(unbiased), False)


@lowers("aten.var.dim", "aten.std.dim")
def var_dim(at: Lowering, x, dim, unbiased, keepdim) -> Token:
    return var(at, x, dim, int(unbiased), keepdim)


@lowers("aten.var_mean.correction")
def var_mean(at: Lowering, x, dim, correction, keepdim) -> list[Token | None]:
    used = {user.args[1] for user in at.node.users}
    correction = 1 if correction is None else correction
    return [
        reduced(at, x, "var", dim, keepdim, correction=correction) if 0 in used else None,
        reduced(at, x, "mean", dim, keepdim) if 1 in used else None,
    ]


@lowers("aten.var_mean.dim")
def var_mean_dim(at: Lowering, x, dim, unbiased, keepdim) -> list[Token | None]:
    return var_mean(at, x, dim, int(unbiased), keepdim)


@lowers("aten.linalg_vector_norm.default")
def norm(at: Lowering, x, order, dim, keepdim, dtype) -> Token:
    # JSON has no infinities.
    p = float(order)
    return reduced(at, x, "norm", dim, keepdim, p=p if math.isfinite(p) else f"{p:g}")
