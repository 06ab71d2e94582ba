"""Whether an answer is torch's: how far two sound evaluations of one program can be apart (docs/numerics.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..program import Program

_UNIT = 2.0**-24
# How far apart two answers of a network that rounds may be, in root mean squares.
_SPREAD = 0.01

# Where a float becomes an integer, two evaluations that differ by a rounding can fall on either side of a step.
_STEPS = {"gossamer::quantize", "gossamer::dynamic_linear_i8"}


def verify(program: Program, after: str = "capture") -> None:
    """Checks that a program is well formed and still answers its example as torch did.

    Raises:
        AssertionError: It does not; a pass is wrong.
    """
    program.graph.lint()
    for node in program.graph.nodes:
        assert not node.users or "val" in node.meta, f"after {after}: {node.name} has no shape"
    problem = disagreement(program, program.module(*program.example), program.expected)
    assert not problem, f"after {after}: {problem}"


def disagreement(program: Program, got: Sequence[Tensor], want: Sequence[Tensor]) -> str:
    """What is wrong with a program's answers to its example, in a phrase; empty where rounding explains all."""
    exact: Sequence[Tensor] | None = None
    nudged: Sequence[Tensor] | None = None
    base: Sequence[Tensor] | None = None
    for i, (name, a, b) in enumerate(zip(program.outputs, got, want, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"output {name} is {a.dtype} {list(a.shape)}, in torch {b.dtype} {list(b.shape)}"
        error, bound = difference(a, b), tolerance(program, b, i)
        if error <= bound:
            continue
        if _rounds(program):
            apart = _size(a.double() - b.double())
            if apart <= _SPREAD * _size(b):
                continue
            # What torch's tools quantized is computed otherwise, so a step may differ here and there. A network that
            # amplifies that does so in torch: as much as it does what of the input rounds to another step.
            if program.rounded:
                nudged = nudged or program.module(*map(_nudged, program.example))
                base = base or program.module(*program.example)
                if apart <= 8 * _size(nudged[i].double() - base[i].double()):
                    continue
        elif b.is_floating_point():
            # An ill-conditioned network amplifies rounding: as much as it does torch's own.
            exact = exact or _Exact(program.module).run(*program.example)
            bound += 8 * difference(b, exact[i])
            if error <= bound:
                continue
        return f"output {name} is {error:.3g} from torch's, where rounding explains {bound:.3g}"
    return ""


def _size(x: Tensor) -> float:
    """The root mean square."""
    return float(x.double().square().mean().sqrt()) if x.numel() else 0.0


def _nudged(x: Tensor) -> Tensor:
    """An input so little larger that one number in some hundred is quantized otherwise."""
    return x * (1 + 2.0**-14) if x.is_floating_point() else x


def difference(got: Tensor, want: Tensor) -> float:
    """The largest absolute difference; equal infinities and two NaNs differ by nothing."""
    if got.numel() == 0:
        return 0.0
    a, b = got.double(), want.double()
    same = (a == b) | (a.isnan() & b.isnan())
    return float(torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf")).max())


def tolerance(program: Program, want: Tensor, output: int | None = None) -> float:
    """How far apart two evaluations of a program in float32 may be expected to be.

    A sum of k products is off by some √k units of rounding, and the errors of a network's layers add up: the sum over
    all of them (where `output` says which output is meant, over those that it depends on), of both evaluations, in
    units of the largest finite output. Integers have to be equal.
    """
    if not want.is_floating_point():
        return 0.0
    nodes = program.graph.nodes if output is None else _sources(program, output)
    units = sum(_length(node) ** 0.5 for node in nodes)
    finite = want[want.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return 8 * _UNIT * max(units, 1.0) * max(scale, torch.finfo(torch.float32).tiny)


def _sources(program: Program, output: int) -> set[fx.Node]:
    """The nodes that an output depends on."""
    results = next(n for n in program.graph.nodes if n.op == "output").args[0]
    found, left = set(), [results[output]]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += node.all_input_nodes
    return found


def _length(node: fx.Node) -> int:
    """The number of terms of each sum that a node takes; one where it takes none."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return 0
    name = node.target._schema.name if isinstance(node.target, torch._ops.OpOverload) else ""
    if name in ("gossamer::conv", "gossamer::linear", "aten::conv1d", "aten::conv2d", "aten::linear"):
        return max(int(node.args[1].meta["val"][0].numel()), 1)
    if name in ("aten::matmul", "aten::bmm", "aten::mm", "aten::addmm", "aten::baddbmm"):
        right = node.args[-1].meta["val"]
        return max(int(right.shape[-2]) if right.dim() > 1 else 1, 1)
    if name in ("aten::conv_transpose1d", "aten::conv_transpose2d"):
        return max(int(node.args[1].meta["val"][:, 0].numel()), 1)
    if name == "aten::scaled_dot_product_attention":
        # A sum over the width for each score, and one over the keys.
        keys = node.args[1].meta["val"]
        return max(int(keys.shape[-1]) + int(keys.shape[-2]), 1)
    if name.startswith(("aten::upsample_", "aten::grid_sampler")):
        return 16  # of a bicubic sample
    return 1


def _rounds(program: Program) -> bool:
    """Whether a program rounds to integers what it computed in floats."""
    calls = [n for n in program.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    return program.rounded or any(n.target._schema.name in _STEPS and n.args[0].op != "placeholder" for n in calls)


class _Exact(fx.Interpreter):
    """Runs a program in float64."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        return super().run(*(_wide(a) for a in args), **kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return _wide(super().get_attr(target, args, kwargs))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = torch.utils._pytree.tree_map(_wide, (args, kwargs))
        return super().call_function(target, args, kwargs)


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value
