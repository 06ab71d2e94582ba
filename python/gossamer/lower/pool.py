"""Pooling, padding and resizing of planes."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers
from .shape import cut, expression


def spread(value: int | list[int], n: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def times(sizes: list[int | str]) -> int | str:
    """The product of sizes, as the file writes sizes."""
    known = math.prod(size for size in sizes if isinstance(size, int))
    named = [f"({size})" for size in sizes if not isinstance(size, int)]
    return "*".join([*named, str(known)]) if named else known


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


@lowers("aten.max_pool2d_with_indices.default", "aten.max_pool1d_with_indices.default")
def max_pool_with_indices(at: Lowering, x, kernel, stride, padding, dilation, ceil_mode) -> list[Token | None]:
    spatial = _spatial(at)
    values = _pool(at, x, "max", spatial, kernel, stride, padding, dilation, ceil_mode)
    if not _picked(at, 1):
        return [values, None]
    kernel = spread(kernel, spatial)
    steps = zip(kernel, *(spread(v, spatial) for v in (stride or kernel, padding, dilation)), strict=True)
    windows = []
    for (k, s, p, d), size, count in zip(steps, _plane(at, x, spatial), map(int, at.sizes()[-spatial:]), strict=True):
        starts = [i * s - p for i in range(count)]
        windows.append([[t for t in range(a, a + k * d, d) if 0 <= t < size] for a in starts])
    return [values, _places(at, x, windows)]


def _picked(at: Lowering, i: int) -> bool:
    """Whether that output of the op at hand is used."""
    return any(user.args[1] == i for user in at.node.users)


def _plane(at: Lowering, x, spatial: int) -> list[int]:
    """The sizes of the plane, which have to be known."""
    sizes = shape_of(x)[-spatial:]
    if not all(isinstance(size, int) for size in sizes):
        raise Unsupported("indices of a plane whose size depends on the inputs")
    return sizes


def _places(at: Lowering, x, windows: list[list[list[int]]]) -> Token:
    """Where in its plane the greatest element of each window is; `windows` has the places of each, for each axis."""
    sizes = shape_of(x)[-len(windows) :]
    cells: list[list[int]] = [[0]]
    for size, axis in zip(sizes, windows, strict=True):
        cells = [[place * size + t for place in cell for t in window] for cell in cells for window in axis]
    # Smaller windows are filled up with their first place: what comes later loses against its like.
    width = max(map(len, cells))
    table = torch.tensor([cell + cell[:1] * (width - len(cell)) for cell in cells]).reshape(len(cells), width)
    name = f"windows of {'x'.join(map(str, sizes))}"
    places = at.keep(table, name, str(windows))
    rows, out = [*at.sizes(x)[: -len(windows)], math.prod(sizes)], at.sizes()
    taken = at.add("take", [at.add("reshape", [at.value(x)], shape=rows), places], axis=len(rows) - 1)
    best = at.add("arg_extreme", [taken], axis=len(rows), greatest=True, keepdim=False)
    first = at.keep(torch.arange(len(cells)) * width, f"first of {len(cells)} windows", width)
    best = at.add("binary", [best, first], fn="add")
    flat = at.add("reshape", [places], shape=[len(cells) * width])
    return at.add("reshape", [at.add("take", [flat, best], axis=0)], shape=out)


@lowers("aten.avg_pool3d.default")
def avg_pool3d(at: Lowering, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor) -> Token:
    """Along the first of three axes alone, as a local response norm has it: a plane whose other axis is the rest."""
    kernel, padding = spread(kernel, 3), spread(padding, 3)
    stride = spread(stride, 3) if stride else kernel
    if [*kernel[1:], *stride[1:], *padding[1:]] != [1, 1, 1, 1, 0, 0] or len(shape_of(x)) != 5:
        raise Unsupported("pooling in three dimensions")
    *outer, depth, height, width = at.sizes(x)
    attrs = {
        "kind": "avg",
        "kernel": [kernel[0], 1],
        "stride": [stride[0], 1],
        "padding": [[padding[0], padding[0]], [0, 0]],
        "dilation": [1, 1],
        "ceil_mode": ceil_mode,
        "count_include_pad": count_include_pad,
        "divisor": divisor,
    }
    plane = at.add("reshape", [at.value(x)], shape=[*outer, depth, times([height, width])])
    return at.add("reshape", [at.add("pool", [plane], **attrs)], shape=at.sizes())


@lowers("aten.avg_pool1d.default")
def avg_pool1d(at: Lowering, x, kernel, stride, padding, ceil_mode, count_include_pad) -> Token:
    return _pool(at, x, "avg", 1, kernel, stride, padding, 1, ceil_mode, count_include_pad=count_include_pad)


@lowers("aten.avg_pool2d.default")
def avg_pool2d(at: Lowering, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor) -> Token:
    more = {"count_include_pad": count_include_pad, "divisor": abs(divisor) if divisor else None}
    token = _pool(at, x, "avg", 2, kernel, stride, padding, 1, ceil_mode, **more)
    return at.add("map", [token], fn="neg") if divisor and divisor < 0 else token


def _spatial(at: Lowering) -> int:
    """The dimensions of the plane, which the op's name says."""
    return int(at.function().partition("pool")[2][0])


@lowers("aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default")
def adaptive_avg_pool(at: Lowering, x, output_size) -> Token:
    return _adaptive(at, x, "avg", output_size)


@lowers("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default")
def adaptive_max_pool(at: Lowering, x, output_size) -> list[Token | None]:
    values = _adaptive(at, x, "max", output_size)
    if not _picked(at, 1):
        return [values, None]
    spatial = _spatial(at)
    windows = []
    for size, count in zip(_plane(at, x, spatial), map(int, at.sizes()[-spatial:]), strict=True):
        windows.append([list(range(i * size // count, -(-(i + 1) * size // count))) for i in range(count)])
    return [values, _places(at, x, windows)]


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
    kept = [[0 if _negative(p) else at.size(p) for p in pair] for pair in pairs]
    # What is cut from one side may be what the other repeats; a plane goes round without it.
    cut_last = mode in ("reflect", "replicate")
    if not cut_last:
        token = _cut(at, token, sizes, pairs)
    if any(p for pair in kept for p in pair):
        inputs = [token]
        if mode == "constant" and value:
            inputs.append(at.operand(value, at.node.meta["val"].dtype))
        token = at.add("pad", inputs, padding=kept, mode=mode)
    if cut_last:
        wide = [size + sum(map(_added, pair)) for size, pair in zip(sizes, pairs, strict=True)]
        token = _cut(at, token, wide, pairs)
    return token


def _cut(at: Lowering, token: Token, sizes: list[Any], pairs: list[list[Any]]) -> Token:
    """A value of those sizes without what negative padding takes off its ends."""
    for axis, pair in enumerate(pairs):
        low, high = (-p if _negative(p) else 0 for p in pair)
        if low or high:
            token = cut(at, token, axis, low, sizes[axis] - high)
    return token


def _added(padding: Any) -> Any:
    if isinstance(padding, int):
        return max(padding, 0)
    return expression(padding)


def _negative(padding: Any) -> bool:
    return isinstance(padding, int) and padding < 0
