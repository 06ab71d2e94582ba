"""What is computed, made simpler: an ordered list of functions from program to program, one file each.

How it is computed on a CPU (kernels, buffers, layouts) is not decided here but by whoever loads the file.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from ..program import Program
from .drop_identities import drop_identities
from .fold_batch_norm import fold_batch_norm
from .fold_constants import fold_constants
from .fold_padding import fold_padding
from .fuse import fuse
from .name_activations import name_activations
from .name_layers import name_layers

Pass = Callable[[Program], Program]

PASSES: list[Pass] = [
    drop_identities,
    fold_constants,
    name_activations,
    name_layers,
    fold_padding,
    fold_batch_norm,
    fuse,
]


def run(program: Program, check: bool = False) -> Program:
    """Runs every pass.

    Args:
        program: As captured; it is rewritten in place.
        check: Also run the program on its example after each pass and compare it with what torch answered.

    Returns:
        The program, in which each convolution and each product with a constant matrix is a `gossamer` layer.
    """
    for step in PASSES:
        program = step(program)
        program.graph.eliminate_dead_code(_stays)
        program.module.recompile()
        if check:
            verify(program, step.__name__)
    program.module.delete_all_unused_submodules()
    return program


def _stays(node: fx.Node) -> bool:
    """Whether a node has to stay though nothing reads it: of what is left, only inputs and outputs do."""
    return node.op in ("placeholder", "output")


def verify(program: Program, after: str = "capture") -> None:
    """Checks that a program is well formed and still answers its example as torch did.

    Raises:
        AssertionError: It does not; a pass is wrong.
    """
    program.graph.lint()
    for node in program.graph.nodes:
        assert node.op == "output" or "val" in node.meta, f"after {after}: {node.name} has no shape"
    got = program.module(*program.example)
    for name, a, b in zip(program.outputs, got, program.expected, strict=True):
        assert a.shape == b.shape, f"after {after}: {name} is {list(a.shape)}, torch has {list(b.shape)}"
        assert a.dtype == b.dtype, f"after {after}: {name} is {a.dtype}, torch has {b.dtype}"
        error, bound = difference(a, b), tolerance(program, b)
        assert error <= bound, f"after {after}: {name} differs by {error:.3g}, more than {bound:.3g}"


def difference(got: Tensor, want: Tensor) -> float:
    """The largest absolute difference; equal infinities and two NaNs differ by nothing."""
    if got.numel() == 0:
        return 0.0
    a, b = got.double(), want.double()
    same = (a == b) | (a.isnan() & b.isnan())
    return float(torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf")).max())


def tolerance(program: Program, want: Tensor) -> float:
    """How far a sound float32 evaluation of the program may be from torch's: the formula of docs/numerics.md.

    Every step rounds once; a layer that sums k products adds an error that grows as the square root of k. The sum
    over all steps, in units of the largest finite output, is what two orders of evaluation can differ by. Integers
    have to be equal.
    """
    if not want.dtype.is_floating_point:
        return 0.0
    steps = sum(_length(node) ** 0.5 for node in program.graph.nodes)
    finite = want[want.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return 4 * torch.finfo(torch.float32).eps * max(steps, 1.0) * max(scale, torch.finfo(torch.float32).tiny)


def _length(node: fx.Node) -> int:
    """The number of terms of each sum that a node takes; one where it takes none."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return 0
    target = node.target
    name = target._schema.name if isinstance(target, torch._ops.OpOverload) else ""
    if name in ("gossamer::conv", "gossamer::linear", "aten::conv1d", "aten::conv2d", "aten::linear"):
        return max(int(node.args[1].meta["val"][0].numel()), 1)
    if name in ("aten::matmul", "aten::bmm", "aten::mm", "aten::addmm"):
        depth = node.args[-1].meta["val"].shape[-2] if node.args[-1].meta["val"].dim() > 1 else 1
        return max(int(depth), 1)
    return 1
