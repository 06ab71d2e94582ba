"""Attention, as the products and the softmax that it is."""

from __future__ import annotations

import torch

from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers


@lowers("aten.scaled_dot_product_attention.default")
def attention(at: Lowering, q, k, v, mask, dropout_p, is_causal, scale, enable_gqa) -> Token:
    if dropout_p:
        raise Unsupported("attention with dropout: pass dropout_p=0.0 where the module is not training")
    if enable_gqa:
        raise Unsupported("attention with fewer key heads than query heads (enable_gqa)")
    rank = len(shape_of(k))
    width = shape_of(q)[-1]
    factor = scale if scale is not None else float(width) ** -0.5
    scaled = at.add("binary", [at.value(q), at.operand(factor, torch.float32)], fn="mul")
    axes = [*range(rank - 2), rank - 1, rank - 2]
    scores = at.add("matmul", [scaled, at.add("permute", [at.value(k)], axes=axes)])
    if is_causal:
        rows, columns = shape_of(q)[-2], shape_of(k)[-2]
        if not isinstance(rows, int) or not isinstance(columns, int):
            raise Unsupported("causal attention over a length that depends on the inputs")
        allowed = torch.ones(rows, columns, dtype=torch.bool).tril()
        scores = _masked(at, at.keep(allowed, f"causal mask {rows}x{columns}"), scores)
    elif mask is not None and mask.meta["val"].dtype == torch.bool:
        scores = _masked(at, at.value(mask), scores)
    elif mask is not None:
        scores = at.add("binary", [scores, at.value(mask, torch.float32)], fn="add")
    weights = at.add("softmax", [scores], axis=rank - 1, log=False)
    return at.add("matmul", [weights, at.value(v)])


def _masked(at: Lowering, allowed: Token, scores: Token) -> Token:
    return at.add("where", [allowed, scores, at.operand(float("-inf"), torch.float32)])
