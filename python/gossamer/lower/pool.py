"""Pooling, padding and resizing of planes."""

from __future__ import annotations

from typing import Any

from ..program import shape_of
from . import Lowering, Token, lowers
from .shape import cut


def spread(value: int | list[int], n: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def batched(at: Lowering, x, spatial: int, make: Any) -> Token:
    """Calls `make` with a value that has a batch: torch takes one image without."""
    if len(shape_of(x)) == spatial + 2:
        return make(at.value(x))
    token = at.add("reshape", [at.value(x)], shape=[1, *at.sizes(x)])
    return at.add("reshape", [make(token)], shape=at.sizes())


def _pool(at: Lowering, x, kind: str, spatial: int, kernel, stride, padding, dilation, ceil_mode, **more: Any) -> Token:
    kernel = spread(kernel, spatial)
    attrs = {
        "kind": kind,
        "kernel": kernel,
        "stride": spread(stride, spatial) if stride else kernel,
        "padding": [[p, p] for p in spread(padding, spatial)],
        "dilation": spread(dilation, spatial),
        "ceil_mode": ceil_mode,
        "count_include_pad": more.get("count_include_pad", False),
        "divisor": more.get("divisor"),
    }
    return batched(at, x, spatial, lambda token: at.add("pool", [token], **attrs))


@lowers("aten.max_pool1d.default", "aten.max_pool2d.default")
def max_pool(at: Lowering, x, kernel, stride, padding, dilation, ceil_mode) -> Token:
    return _pool(at, x, "max", _spatial(at), kernel, stride, padding, dilation, ceil_mode)


@lowers("aten.max_pool2d_with_indices.default")
def max_pool_with_indices(at: Lowering, x, kernel, stride, padding, dilation, ceil_mode) -> list[Token | None]:
    return [_pool(at, x, "max", 2, kernel, stride, padding, dilation, ceil_mode), None]


@lowers("aten.avg_pool1d.default")
def avg_pool1d(at: Lowering, x, kernel, stride, padding, ceil_mode, count_include_pad) -> Token:
    return _pool(at, x, "avg", 1, kernel, stride, padding, 1, ceil_mode, count_include_pad=count_include_pad)


@lowers("aten.avg_pool2d.default")
def avg_pool2d(at: Lowering, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor) -> Token:
    more = {"count_include_pad": count_include_pad, "divisor": divisor}
    return _pool(at, x, "avg", 2, kernel, stride, padding, 1, ceil_mode, **more)


def _spatial(at: Lowering) -> int:
    """The dimensions of the plane, which the op's name says."""
    return int(at.function().partition("pool")[2][0])


@lowers("aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default")
def adaptive_avg_pool(at: Lowering, x, output_size) -> Token:
    return _adaptive(at, x, "avg", output_size)


@lowers("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default")
def adaptive_max_pool(at: Lowering, x, output_size) -> list[Token | None]:
    return [_adaptive(at, x, "max", output_size), None]


def _adaptive(at: Lowering, x, kind: str, output_size) -> Token:
    n = _spatial(at)
    if all(size == 1 for size in spread(output_size, n)):
        rank = len(shape_of(x))
        fn = {"avg": "mean", "max": "max"}[kind]
        return at.add("reduce", [at.value(x)], fn=fn, axes=list(range(rank - n, rank)), keepdim=True)
    sizes = [at.size(s) for s in spread(output_size, n)]
    if len(shape_of(x)) == n + 2:
        return at.add("adaptive_pool", [at.value(x)], kind=kind, output_size=sizes)
    token = at.add("reshape", [at.value(x)], shape=[1, *at.sizes(x)])
    y = at.add("adaptive_pool", [token], kind=kind, output_size=sizes)
    return at.add("reshape", [y], shape=[at.sizes(x)[0], *sizes])


@lowers("aten.constant_pad_nd.default")
def constant_pad(at: Lowering, x, pad, value) -> Token:
    return padded(at, x, pad, "constant", value)


@lowers("aten.pad.default")
def pad(at: Lowering, x, pad, mode, value) -> Token:
    return padded(at, x, pad, mode, value)


@lowers(*(f"aten.{kind}_pad{n}d.default" for kind in ("reflection", "replication") for n in (1, 2)))
def edge_pad(at: Lowering, x, pad) -> Token:
    mode = "reflect" if "reflection" in at.function() else "replicate"
    return padded(at, x, pad, mode, None)


def padded(at: Lowering, x, amounts: list[int], mode: str, value: float | None) -> Token:
    """More elements around, of any type."""
    rank = len(shape_of(x))
    # torch lists the last dimension first.
    pairs = [[0, 0]] * (rank - len(amounts) // 2) + [list(amounts[i : i + 2]) for i in range(0, len(amounts), 2)][::-1]
    token, sizes = at.value(x), shape_of(x)
    for axis, pair in enumerate(pairs):
        low, high = (-p if isinstance(p, int) and p < 0 else 0 for p in pair)
        if low or high:
            token = cut(at, token, axis, low, sizes[axis] - high)
    kept = [[at.size(p) if not isinstance(p, int) or p > 0 else 0 for p in pair] for pair in pairs]
    if not any(p for pair in kept for p in pair):
        return token
    inputs = [token]
    if mode == "constant" and value:
        inputs.append(at.operand(value, at.node.meta["val"].dtype))
    return at.add("pad", inputs, padding=kept, mode=mode)
