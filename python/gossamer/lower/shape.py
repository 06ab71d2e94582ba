"""What moves numbers and computes none: shapes, orders, parts, joins."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers, type_name


@lowers(
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
)
def reshape(at: Lowering, x, *_: Any) -> Token:
    return at.add("reshape", [at.value(x)], shape=at.sizes())


@lowers("aten.permute.default")
def permute(at: Lowering, x, dims) -> Token:
    rank = len(shape_of(x))
    return at.add("permute", [at.value(x)], axes=[d % rank for d in dims])


@lowers("aten.transpose.int")
def transpose(at: Lowering, x, a, b) -> Token:
    axes = list(range(len(shape_of(x))))
    axes[a], axes[b] = axes[b], axes[a]
    return at.add("permute", [at.value(x)], axes=axes)


@lowers("aten.t.default")
def t(at: Lowering, x) -> Token:
    return at.add("permute", [at.value(x)], axes=list(range(len(shape_of(x))))[::-1])


@lowers("aten.expand.default")
def expand(at: Lowering, x, size, implicit) -> Token:
    return at.add("expand", [at.value(x)], shape=at.sizes())


@lowers("aten.repeat.default")
def repeat(at: Lowering, x, repeats) -> Token:
    known = at.sizes(x)
    shape = [*[1] * (len(repeats) - len(known)), *known]
    counts = [at.size(r) for r in repeats]
    # Each dimension becomes a pair: which copy, and where in it.
    y = at.add("reshape", [at.value(x)], shape=[s for size in shape for s in (1, size)])
    y = at.add("expand", [y], shape=[s for pair in zip(counts, shape, strict=True) for s in pair])
    return at.add("reshape", [y], shape=at.sizes())


@lowers("aten.cat.default")
def cat(at: Lowering, tensors, dim) -> Token:
    value = at.node.meta["val"]
    # torch lets empty vectors join anything.
    parts = [n for n in tensors if shape_of(n) != [0]] or tensors[:1]
    return at.add("cat", [at.value(n, value.dtype) for n in parts], axis=dim % value.dim())


def expression(node: fx.Node) -> Any:
    """What a node that computes on sizes stands for: a number, or an expression of them."""
    value = node.meta["val"]
    return value.node.expr if isinstance(value, torch.SymInt) else value


def cut(at: Lowering, token: Token, axis: int, start: Any, stop: Any, step: int = 1) -> Token:
    """Adds a slice; bounds are numbers or expressions, already within the dimension."""
    return at.add("slice", [token], axis=axis, start=at.size(start), stop=at.size(stop), step=step)


@lowers("aten.slice.Tensor")
def slice_(at: Lowering, x, dim, start, end, step) -> Token:
    axis = dim % len(shape_of(x))
    first, _ = _bounds(at, shape_of(x)[axis], start, end)
    # The output's size says where it stops, whatever `end` was.
    count = shape_of(at.node)[axis]
    return cut(at, at.value(x), axis, first, first + (count - 1) * step + 1 if step > 1 else first + count, step)


def _bounds(at: Lowering, size: Any, start: Any, end: Any) -> tuple[Any, Any]:
    """The bounds of a slice as torch reads them: counted from the end where negative, held within the dimension."""

    def place(bound: Any, default: Any) -> Any:
        if bound is None:
            return default
        if not isinstance(bound, int):
            bound = expression(bound)
        if isinstance(bound, int) and isinstance(size, int):
            return min(max(bound + size if bound < 0 else bound, 0), size)
        if isinstance(bound, int) and bound < 0:
            return size + bound
        return size if isinstance(bound, int) and bound > 1 << 60 else bound

    return place(start, 0), place(end, size)


@lowers("aten.select.int")
def select(at: Lowering, x, dim, index) -> Token:
    axis = dim % len(shape_of(x))
    if isinstance(index, int):
        first = index if index >= 0 else shape_of(x)[axis] + index
    elif free_unbacked_symbols(index.meta["val"]):
        raise Unsupported("which slice depends on the values of the inputs: index_select takes a tensor")
    else:
        first = expression(index)
    part = cut(at, at.value(x), axis, first, first + 1)
    return at.add("reshape", [part], shape=at.sizes())


@lowers("aten.split_with_sizes.default")
def split_with_sizes(at: Lowering, x, sizes, dim) -> list[Token | None]:
    return _split(at, x, dim)


@lowers("aten.split.Tensor")
def split(at: Lowering, x, size, dim) -> list[Token | None]:
    return _split(at, x, dim)


@lowers("aten.chunk.default")
def chunk(at: Lowering, x, chunks, dim) -> list[Token | None]:
    return _split(at, x, dim)


def _split(at: Lowering, x, dim: int) -> list[Token | None]:
    axis = dim % len(shape_of(x))
    used = {user.args[1] for user in at.node.users}
    parts: list[Token | None] = []
    start: Any = 0
    for i, value in enumerate(at.node.meta["val"]):
        size = value.shape[axis]
        stop = start + (size.node.expr if isinstance(size, torch.SymInt) else size)
        parts.append(cut(at, at.value(x), axis, start, stop) if i in used else None)
        start = stop
    return parts


@lowers("aten.slice_scatter.default")
def slice_scatter(at: Lowering, x, source, dim, start, end, step) -> Token:
    axis = dim % len(shape_of(x))
    size = shape_of(x)[axis]
    first, last = _bounds(at, size, start, end)
    token, dtype = at.value(x), at.node.meta["val"].dtype
    parts = [at.value(source, dtype)]
    if step != 1:
        return _every(at, x, parts[0], source, axis, first, step)
    if first != 0:
        parts.insert(0, cut(at, token, axis, 0, first))
    if last != size:
        parts.append(cut(at, token, axis, last, size))
    return at.add("cat", parts, axis=axis) if len(parts) > 1 else parts[0]


def _every(at: Lowering, x, put: Token, source, axis: int, first: Any, step: int) -> Token:
    """A value with others put at every n-th place of an axis."""
    count, rank = shape_of(source)[axis], len(shape_of(x))
    if not isinstance(first, int):
        raise Unsupported("an assignment to every n-th element from a place that depends on the inputs' sizes")
    places = at.add("arange", [], start=first, step=step, count=at.size(count))
    places = at.add("reshape", [places], shape=[-1, *[1] * (rank - 1 - axis)])
    places = at.add("expand", [places], shape=at.sizes(source))
    return at.add("scatter", [at.value(x), places, put], axis=axis, join="put")


@lowers("aten.diagonal.default")
def diagonal(at: Lowering, x, offset, a, b) -> Token:
    rank = len(shape_of(x))
    a, b = a % rank, b % rank
    rows, columns = shape_of(x)[a], shape_of(x)[b]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise Unsupported("the diagonal of a plane whose size depends on the inputs")
    rest = [axis for axis in range(rank) if axis not in (a, b)]
    token = at.add("permute", [at.value(x)], axes=[*rest, a, b])
    token = at.add("reshape", [token], shape=[*(at.sizes(x)[axis] for axis in rest), rows * columns])
    first = offset if offset >= 0 else -offset * columns
    count = int(at.sizes()[-1])
    places = at.keep(torch.arange(count) * (columns + 1) + first, f"diagonal of {rows}x{columns}", (first, count))
    return at.add("take", [token, places], axis=rank - 2)


@lowers("aten.unfold.default")
def unfold(at: Lowering, x, dim, size, step) -> Token:
    rank = len(shape_of(x))
    if rank == 0:
        return at.add("reshape", [at.value(x)], shape=[1] * size)
    axis, count = dim % rank, at.sizes()[dim % rank]
    if not isinstance(count, int):
        raise Unsupported("windows of a dimension that depends on the inputs")
    places = (torch.arange(count) * step)[:, None] + torch.arange(size)
    token = at.add("take", [at.value(x), at.keep(places, f"{count} windows of {size}", step)], axis=axis)
    # The places within a window are the last dimension.
    axes = [*range(axis + 1), *range(axis + 2, rank + 1), axis + 1]
    return at.add("permute", [token], axes=axes)


@lowers("aten.select_scatter.default")
def select_scatter(at: Lowering, x, source, dim, index) -> Token:
    axis = dim % len(shape_of(x))
    size = shape_of(x)[axis]
    first = index if index >= 0 else size + index
    sizes = at.sizes(x)
    sizes[axis] = 1
    parts = [at.add("reshape", [at.value(source, at.node.meta["val"].dtype)], shape=sizes)]
    if first != 0:
        parts.insert(0, cut(at, at.value(x), axis, 0, first))
    if first + 1 != size:
        parts.append(cut(at, at.value(x), axis, first + 1, size))
    return at.add("cat", parts, axis=axis) if len(parts) > 1 else parts[0]


@lowers("aten.flip.default")
def flip(at: Lowering, x, dims) -> Token:
    token = at.value(x)
    for dim in dims:
        axis = dim % len(shape_of(x))
        token = at.add("slice", [token], axis=axis, start=None, stop=None, step=-1)
    return token


@lowers("aten.full.default")
def full(at: Lowering, size, value, *_: Any) -> Token:
    number = at.operand(value, at.node.meta["val"].dtype)
    return at.add("expand", [number], shape=at.sizes())


@lowers("aten.full_like.default")
def full_like(at: Lowering, x, value, *_: Any) -> Token:
    return full(at, None, value)


@lowers("aten.arange.start_step")
def arange(at: Lowering, start, end, step, *_: Any) -> Token:
    if not isinstance(step, int) or not isinstance(start, int):
        raise Unsupported("a range that starts or steps by what depends on the inputs, or by a fraction")
    count = at.sizes()[0]
    token = at.add("arange", [], start=start, step=step, count=count)
    dtype = at.node.meta["val"].dtype
    return token if dtype == torch.int64 else at.add("cast", [token], dtype=type_name(dtype))


@lowers("aten.copy.default")
def copy(at: Lowering, x, source, non_blocking) -> Token:
    dtype = at.node.meta["val"].dtype
    type_name(dtype)
    return at.add("expand", [at.value(source, dtype)], shape=at.sizes())
