"""What goes by an array of indices: rows of a table, elements picked or put along an axis."""

from __future__ import annotations

import math

import torch
from torch import fx

from ..program import shape_of
from . import Lowering, Token, Unsupported, gossamer, lowers, type_name
from .pool import times


@lowers("aten.embedding.default")
def embedding(at: Lowering, table, ids, padding_idx, scale_grad_by_freq, sparse) -> Token:
    known = at.program.constant(table)
    places = at.value(ids, torch.int64)
    if known is None:
        return at.add("take", [at.value(table), places], axis=0)
    # As a matrix the file holds it once where a layer multiplies with it, and small where it has zeros or narrow
    # numbers; other tables are plain rows, which are quicker to read.
    narrow = at.weights != "float32" or table.target in at.program.integers
    small = narrow or 2 * int((known == 0).sum()) > known.numel()
    stored = at.matrix(table) if small or _multiplies(at, table) else at.value(table)
    return at.add("embedding", [places, stored], [table])


def _multiplies(at: Lowering, table: fx.Node) -> bool:
    """Whether a linear layer has that table as its weight."""
    place = at.program.constant(table).data_ptr()
    weights = (at.program.constant(layer.args[1]) for layer in at.program.calls(gossamer.linear.default))
    return any(w is not None and w.data_ptr() == place and list(w.shape) == shape_of(table) for w in weights)


@lowers("aten.index_select.default")
def index_select(at: Lowering, x, dim, index) -> Token:
    rank = len(shape_of(x))
    if rank == 0:
        return at.value(x)
    places = at.value(index, torch.int64)
    if not shape_of(index):
        places = at.add("reshape", [places], shape=[1])
    return at.add("take", [at.value(x), places], axis=dim % rank)


@lowers("aten.index.Tensor")
def index(at: Lowering, x, indices) -> Token:
    given = [(axis, i) for axis, i in enumerate(indices) if i is not None]
    kinds = {i.meta["val"].dtype for _, i in given}
    if kinds == {torch.bool} and len(given) == 1 and at.program.constant(given[0][1]) is not None:
        axis, mask = given[0]
        if len(shape_of(mask)) == 1:
            known = at.program.constant(mask)
            places = at.keep(known.nonzero().flatten(), f"{mask.target}.places")
            return at.add("take", [at.value(x), places], axis=axis)
    if torch.bool in kinds or torch.uint8 in kinds:
        raise Unsupported("indexing with a mask: the shape of the result depends on the values")
    if len(given) == 1:
        axis, places = given[0]
        return at.add("take", [at.value(x), at.value(places, torch.int64)], axis=axis, from_end=True)
    return _several(at, x, given)


def _several(at: Lowering, x, given: list[tuple[int, fx.Node]]) -> Token:
    """Several indices, as one into their axes made one."""
    token, _, _, first = _flattened(at, x, [axis for axis, _ in given])
    return at.add("take", [token, _flat(at, x, given)], axis=first)


def _flattened(at: Lowering, x, axes: list[int]) -> tuple[Token, list[int | str], list[int], int]:
    """A value with those axes made one: its shape, which axes of `x` stand where before that, and the one's place.

    torch leaves the dimensions of indices where the axes were if those stand side by side, and else puts them first.
    """
    sizes = at.sizes(x)
    first = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    rest = [axis for axis in range(len(sizes)) if axis not in axes]
    order = [*rest[:first], *axes, *rest[first:]]
    token = at.value(x)
    if order != sorted(order):
        token = at.add("permute", [token], axes=order)
    one = times([sizes[axis] for axis in axes])
    shape = [*(sizes[axis] for axis in rest[:first]), one, *(sizes[axis] for axis in rest[first:])]
    return at.add("reshape", [token], shape=shape), shape, order, first


def _flat(at: Lowering, x, given: list[tuple[int, fx.Node]]) -> Token:
    """Indices into several axes as one into them made one."""
    flat: Token | None = None
    for axis, places in given:
        n = at.sizes(x)[axis]
        if not isinstance(n, int):
            raise Unsupported("indexing several axes, one of which depends on the inputs' sizes")
        # Where an index is negative it counts from the end; one that is out of range stays so for the whole.
        inside = at.add("take", [at.keep(torch.arange(n), f"places of {n}"), at.value(places, torch.int64)],
                        axis=0, from_end=True)  # fmt: skip
        if flat is not None:
            flat = at.add("binary", [flat, at.operand(n, torch.int64)], fn="mul")
            inside = at.add("binary", [flat, inside], fn="add")
        flat = inside
    assert flat is not None, "an index has an axis"
    return flat


@lowers("aten.index_put.default")
def index_put(at: Lowering, x, indices, values, accumulate) -> Token:
    given = [(axis, i) for axis, i in enumerate(indices) if i is not None]
    dtype = x.meta["val"].dtype
    if any(i.meta["val"].dtype in (torch.bool, torch.uint8) for _, i in given):
        return _masked_put(at, x, given, values, accumulate)
    token, shape, order, first = _flattened(at, x, [axis for axis, _ in given])
    # What is put has the shape of the value, with the indices' shape in the place of the axis.
    found = _broadcast(at, [i for _, i in given])
    whole = [*shape[:first], *found, *shape[first + 1 :]]
    made = [*shape[:first], times(found), *shape[first + 1 :]]
    put = at.add("reshape", [at.add("expand", [at.value(values, dtype)], shape=whole)], shape=made)
    flat = at.add("expand", [_flat(at, x, given)], shape=found)
    flat = at.add("reshape", [flat], shape=[-1, *[1] * (len(shape) - first - 1)])
    flat = at.add("expand", [flat], shape=made)
    token = at.add("scatter", [token, flat, put], axis=first, join="add" if accumulate else "put")
    token = at.add("reshape", [token], shape=[at.sizes(x)[axis] for axis in order])
    return at.add("permute", [token], axes=[order.index(axis) for axis in range(len(order))])


def _broadcast(at: Lowering, nodes: list[fx.Node]) -> list[int | str]:
    """The shape that values of those shapes have together."""
    shapes = [at.sizes(node) for node in nodes]
    rank = max(map(len, shapes))
    padded = [[*[1] * (rank - len(shape)), *shape] for shape in shapes]
    return [next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True)]


def _masked_put(at: Lowering, x, given: list[tuple[int, fx.Node]], values, accumulate: bool) -> Token:
    """One number put where a mask says so."""
    (axis, mask), *more = given
    if more or math.prod(values.meta["val"].shape) != 1:
        raise Unsupported("putting values where a mask says so: where each goes depends on the values of the mask")
    rank, width = len(shape_of(x)), len(shape_of(mask))
    chosen = at.add("reshape", [at.value(mask, torch.bool)], shape=[*at.sizes(mask), *[1] * (rank - axis - width)])
    dtype = x.meta["val"].dtype
    number = at.add("reshape", [at.value(values, dtype)], shape=[])
    token = at.value(x)
    if accumulate:
        number = at.add("binary", [token, number], fn="add")
    return at.add("where", [chosen, number, token])


@lowers("aten.gather.default")
def gather(at: Lowering, x, dim, index, sparse_grad) -> Token:
    token, places, axis = _lined_up(at, x, dim, index)
    return at.add("reshape", [at.add("gather", [token, places], axis=axis)], shape=at.sizes())


def _lined_up(at: Lowering, x, dim: int, index) -> tuple[Token, Token, int]:
    """A value, indices of the same rank, and the axis; torch takes one number for a vector of one."""
    rank = len(shape_of(x))
    token, places = at.value(x), at.value(index, torch.int64)
    if rank == 0:
        token = at.add("reshape", [token], shape=[1])
    if len(shape_of(index)) != max(rank, 1):
        shape = [-1] if rank < 2 else [0] * rank  # only indices without elements may have another rank
        places = at.add("reshape", [places], shape=shape)
    return token, places, dim % max(rank, 1)


# What torch calls joining an element with what is there, and what the file does.
_JOINS = {"add": "add", "sum": "add", "mean": "add", "multiply": "mul", "prod": "mul", "amax": "max", "amin": "min"}


@lowers("aten.scatter.src", "aten.scatter_add.default", "aten.scatter.reduce")
def scatter(at: Lowering, x, dim, index, source, reduce="put") -> Token:
    join = "add" if at.function() == "scatter_add" else _JOINS.get(reduce, "put")
    return _scattered(at, x, dim, index, at.value(source), join)


@lowers("aten.scatter.value", "aten.scatter.value_reduce")
def scatter_value(at: Lowering, x, dim, index, value, reduce="put") -> Token:
    source = _everywhere(at, value, x.meta["val"].dtype, index)
    return _scattered(at, x, dim, index, source, _JOINS.get(reduce, "put"))


@lowers("aten.scatter_reduce.two")
def scatter_reduce(at: Lowering, x, dim, index, source, reduce, include_self) -> Token:
    dtype, join = x.meta["val"].dtype, _JOINS[reduce]
    if not dtype.is_floating_point and dtype != torch.int64:
        raise Unsupported(f"{type_name(dtype)} numbers that are joined: float32 and int64 are")
    start = at.value(x)
    if not include_self:
        # What is there is first put away for what changes nothing.
        ends = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        low, high = (-float("inf"), float("inf")) if dtype.is_floating_point else (ends.min, ends.max)
        nothing = {"add": 0, "mul": 1, "max": low, "min": high}[join]
        start = _scattered(at, x, dim, index, _everywhere(at, nothing, dtype, index), "put")
    total = _scattered(at, x, dim, index, at.value(source), join, start)
    if reduce != "mean":
        return total
    ones = _everywhere(at, 1, torch.int64, index)
    counts = at.add("expand", [at.operand(int(include_self), torch.int64)], shape=at.sizes())
    counts = _scattered(at, x, dim, index, ones, "add", counts)
    counts = at.add("binary", [counts, at.operand(1, torch.int64)], fn="max")
    if dtype.is_floating_point:
        return at.add("binary", [total, at.add("cast", [counts], dtype="float32")], fn="div")
    return at.add("binary", [total, counts], fn="floor_div")


def _everywhere(at: Lowering, number: float, dtype: torch.dtype, like: fx.Node) -> Token:
    return at.add("expand", [at.operand(number, dtype)], shape=at.sizes(like))


def _scattered(at: Lowering, x, dim: int, index, source: Token, join: str, start: Token | None = None) -> Token:
    if 0 in shape_of(index):
        return at.value(x) if start is None else start
    token, places, axis = _lined_up(at, x, dim, index)
    start = token if start is None else start
    if not shape_of(x):
        start = at.add("reshape", [start], shape=[1])
        source = at.add("reshape", [source], shape=[-1])
    elif not shape_of(index):
        source = at.add("reshape", [source], shape=[1])
    return at.add("reshape", [at.add("scatter", [start, places, source], axis=axis, join=join)], shape=at.sizes())
