"""What is computed, made simpler: an ordered list of functions from program to program, one file each.

How it is computed on a CPU (kernels, buffers, layouts) is not decided here but by whoever loads the file.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from ..program import Program
from .drop_channels import drop_channels
from .drop_identities import drop_identities
from .fold_batch_norm import fold_batch_norm
from .fold_constants import fold_constants
from .fold_padding import fold_padding
from .fuse import fuse
from .name_activations import name_activations
from .name_layers import name_layers
from .verify import verify

Pass = Callable[[Program], Program]

PASSES: list[Pass] = [
    drop_identities,
    fold_constants,
    name_activations,
    name_layers,
    fold_padding,
    fold_batch_norm,
    drop_channels,
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
