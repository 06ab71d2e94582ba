"""Attention, as the products and the softmax that it is."""

from __future__ import annotations

import torch

from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers


@lowers("aten.scaled_dot_product_attention.default")
def attention(at: Lowering, q, k, v, mask, dropout_p, is_causal, scale, enable_gqa) -> Token:
    if dropout_p:
        raise Unsupported("attention with dropout: pass dropout_p=0.0 where the module is not training")
    keys, values = at.value(k), at.value(v)
    if enable_gqa:
        keys, values = _shared(at, q, k, keys), _shared(at, q, v, values)
    rank = len(shape_of(k))
    width = shape_of(q)[-1]
    factor = scale if scale is not None else float(width) ** -0.5
    scaled = at.add("binary", [at.value(q), at.operand(factor, torch.float32)], fn="mul")
    axes = [*range(rank - 2), rank - 1, rank - 2]
    scores = at.add("matmul", [scaled, at.add("permute", [keys], axes=axes)])
    allowed = None
    if is_causal:
        allowed = _triangle(at, at.sizes(q)[-2], at.sizes(k)[-2])
    elif mask is not None and mask.meta["val"].dtype == torch.bool:
        allowed = at.value(mask)
    elif mask is not None:
        scores = at.add("binary", [scores, at.value(mask, torch.float32)], fn="add")
    if allowed is not None:
        scores = at.add("where", [allowed, scores, at.operand(float("-inf"), torch.float32)])
    weights = at.add("softmax", [scores], axis=rank - 1, log=False)
    if allowed is not None and not is_causal:
        # What may look at nothing sees nothing: torch's softmax of such a row is zero.
        weights = at.add("where", [allowed, weights, at.operand(0.0, torch.float32)])
    return at.add("matmul", [weights, values])


def _shared(at: Lowering, q, x, token: Token) -> Token:
    """Each head of `x` repeated for the heads of `q` that share it."""
    wanted, had = shape_of(q)[-3], shape_of(x)[-3]
    if not isinstance(wanted, int) or not isinstance(had, int):
        raise Unsupported("a number of heads that depends on the inputs")
    *batch, _, length, width = at.sizes(x)
    token = at.add("reshape", [token], shape=[*batch, had, 1, length, width])
    token = at.add("expand", [token], shape=[*batch, had, wanted // had, length, width])
    return at.add("reshape", [token], shape=[*batch, wanted, length, width])


def _triangle(at: Lowering, rows: int | str, columns: int | str) -> Token:
    """Which keys come no later than each query."""
    if isinstance(rows, int) and isinstance(columns, int):
        allowed = torch.ones(rows, columns, dtype=torch.bool).tril()
        return at.keep(allowed, f"causal mask {rows}x{columns}")
    queries = at.add("arange", [], start=0, step=1, count=rows)
    queries = at.add("reshape", [queries], shape=[rows, 1])
    return at.add("binary", [queries, at.add("arange", [], start=0, step=1, count=columns)], fn="ge")
