"""What is computed, made simpler: an ordered list of functions from program to program, one file each.

How it is computed on a CPU (kernels, buffers, layouts) is not decided here but by whoever loads the file.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from ..program import Program
from .compute_steps import compute_steps
from .drop_channels import drop_channels
from .drop_identities import drop_identities
from .fold_batch_norm import fold_batch_norm
from .fold_constants import fold_constants
from .fold_padding import fold_padding
from .fold_scales import fold_scales
from .fuse import fuse
from .move_steps import move_steps
from .name_activations import name_activations
from .name_dynamic import name_dynamic
from .name_layers import name_layers
from .name_products import name_products
from .name_steps import name_steps
from .verify import verify

Pass = Callable[[Program], Program]

PASSES: list[Pass] = [
    drop_identities,
    fold_constants,
    name_steps,
    name_activations,
    name_products,
    name_layers,
    name_dynamic,
    fold_padding,
    fold_batch_norm,
    fold_scales,
    drop_channels,
    fuse,
    move_steps,
    compute_steps,
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
