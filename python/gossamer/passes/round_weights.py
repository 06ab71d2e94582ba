"""Rounds the weights of layers to what a file of smaller numbers holds, so that torch computes with the same ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ..program import Program

gossamer = torch.ops.gossamer


def round_weights(program: Program, weights: str) -> Program:
    """Rounds to `float16`, or to `int8` times a scale for each output; `float32` leaves all as it is.

    A weight that has a value beyond float16 stays as it is, and a note says so. So does one that holds integers
    already. Depthwise weights are a few numbers, which stay float32. Tables of words are weights too.
    """
    if weights == "float32":
        return program
    made: dict[tuple, tuple[Tensor, Tensor | None]] = {}
    table = torch.ops.aten.embedding.default
    for layer in program.calls(gossamer.conv.default, gossamer.linear.default, table):
        at = 0 if layer.target is table else 1
        node = layer.args[at]
        value = program.constant(node)
        if value is None:
            continue  # A table that is computed.
        depthwise = layer.target is gossamer.conv.default and layer.args[7] > 1 and value.shape[1] == 1
        if node.target in program.integers or depthwise:
            continue
        key = (value.untyped_storage().data_ptr(), value.storage_offset(), tuple(value.shape), value.stride())
        if key not in made:
            rounded = _to_float16(value) if weights == "float16" else _to_int8(value)
            if rounded is None:
                program.notes.append(f"{node.target} stays float32: it has values that float16 cannot hold")
            made[key] = (value, None) if rounded is None else rounded
        rounded_value, integers = made[key]
        if rounded_value is value:
            continue
        kept = program.add_constant(node.target, rounded_value, before=layer)
        kept.meta.update({k: v for k, v in node.meta.items() if k != "val"})
        if integers is not None:
            program.integers[kept.target] = integers
        layer.update_arg(at, kept)
    program.graph.eliminate_dead_code()
    program.module.recompile()
    return program


def _to_float16(value: Tensor) -> tuple[Tensor, Tensor | None] | None:
    rounded = value.half().float()
    return (rounded, None) if rounded.isfinite().all() else None


def _to_int8(value: Tensor) -> tuple[Tensor, Tensor | None]:
    """The nearest integers in [-127, 127] times a scale for each row: the scale is the row's largest value over 127."""
    rows = value.flatten(1)
    largest = rows.abs().amax(1, keepdim=True) if rows.numel() else rows.new_zeros((rows.shape[0], 1))
    # A row whose scale would not be a normal number is as good as zero.
    scale = torch.where(largest / 127 >= torch.finfo(torch.float32).tiny, largest / 127, 1.0)
    q = (rows / scale).round().clamp(-127, 127).to(torch.int8)
    return (q.float() * scale).reshape(value.shape), q.reshape(value.shape)
