"""Lets a convolution do the padding with zeros before it, uneven or not."""

from __future__ import annotations

import torch
from torch import fx

from ..program import Program, arguments

aten = torch.ops.aten


def fold_padding(program: Program) -> Program:
    """Moves zero padding of spatial dimensions into the convolutions that alone read it."""
    for conv in program.calls(torch.ops.gossamer.conv.default):
        pad = conv.args[0]
        if not isinstance(pad, fx.Node) or pad.target not in (aten.constant_pad_nd.default, aten.pad.default):
            continue
        if pad.target is aten.pad.default:
            x, amounts, mode, value = arguments(pad)
        else:
            (x, amounts, value), mode = arguments(pad), "constant"
        padding = list(conv.args[5])
        # torch lists the last dimension first.
        extra = [tuple(amounts[i : i + 2]) for i in range(0, len(amounts), 2)][::-1]
        spatial = len(padding) // 2
        if mode != "constant" or value not in (0, None) or len(extra) > spatial:
            continue
        if not all(isinstance(p, int) and p >= 0 for pair in extra for p in pair):
            continue
        extra = [(0, 0)] * (spatial - len(extra)) + extra
        padding = [p + e for p, e in zip(padding, [e for pair in extra for e in pair], strict=True)]
        conv.update_arg(0, x)
        conv.update_arg(5, padding)
    return program
