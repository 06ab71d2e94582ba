"""What goes by an array of indices: rows of a table, elements picked or put along an axis."""

from __future__ import annotations

import torch
from torch import fx

from ..program import shape_of
from . import Lowering, Token, Unsupported, gossamer, lowers


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
    """Several indices that stand side by side, as one into their axes made one."""
    first, last = given[0][0], given[-1][0]
    if [axis for axis, _ in given] != list(range(first, last + 1)):
        raise Unsupported("indexing with tensors on axes that are apart")
    sizes = at.sizes(x)
    flat: Token | None = None
    for axis, places in given:
        n = sizes[axis]
        if not isinstance(n, int):
            raise Unsupported("indexing several axes, one of which depends on the inputs' sizes")
        # Where an index is negative it counts from the end; one that is out of range stays so for the whole.
        inside = at.add("take", [at.keep(torch.arange(n), f"places of {n}"), at.value(places, torch.int64)],
                        axis=0, from_end=True)  # fmt: skip
        if flat is None:
            flat = inside
            continue
        flat = at.add("binary", [flat, at.operand(n, torch.int64)], fn="mul")
        flat = at.add("binary", [flat, inside], fn="add")
    merged = at.add("reshape", [at.value(x)], shape=[*sizes[:first], -1, *sizes[last + 1 :]])
    return at.add("take", [merged, flat], axis=first)


@lowers("aten.gather.default")
def gather(at: Lowering, x, dim, index, sparse_grad) -> Token:
    rank = len(shape_of(x))
    if rank == 0 or len(shape_of(index)) != rank:
        raise Unsupported("gathering from or with a single number")
    return at.add("gather", [at.value(x), at.value(index, torch.int64)], axis=dim % rank)


@lowers("aten.scatter.src", "aten.scatter_add.default")
def scatter(at: Lowering, x, dim, index, source) -> Token:
    return _scattered(at, x, dim, index, at.value(source), "add" if at.function() == "scatter_add" else "put")


@lowers("aten.scatter.value")
def scatter_value(at: Lowering, x, dim, index, value) -> Token:
    number = at.operand(value, x.meta["val"].dtype)
    source = at.add("expand", [number], shape=at.sizes(index))
    return _scattered(at, x, dim, index, source, "put")


def _scattered(at: Lowering, x, dim: int, index, source: Token, join: str) -> Token:
    rank = len(shape_of(x))
    if rank == 0 or len(shape_of(index)) != rank:
        raise Unsupported("scattering to or with a single number")
    inputs = [at.value(x), at.value(index, torch.int64), source]
    return at.add("scatter", inputs, axis=dim % rank, join=join)
