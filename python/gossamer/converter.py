"""A torch model to a file that gossamer runs."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from . import passes, runtime
from ._core import Builder, Error
from .capture import capture
from .lower import Lowering
from .passes.round_weights import round_weights
from .passes.verify import difference, disagreement
from .program import Program
from .report import Report, Row

WEIGHTS = ("float32", "float16", "int8")


def convert(
    module: nn.Module | ExportedProgram,
    example_inputs: Sequence[Any],
    path: str | os.PathLike[str],
    *,
    weights: str = "float32",
    dynamic_shapes: Any = None,
) -> Report:
    """Converts a model to a file that gossamer runs.

    What was compressed is found and kept so: zeros (masks of `torch.nn.utils.prune` too), integers, pairs of factors,
    shared parameters. The file is written beside `path`, loaded, and compared with torch on the example before it takes
    that name; where anything is refused, nothing is written. The module is not changed.

    Args:
        module: Taken as it computes in eval mode; on the CPU, in float32.
        example_inputs: A tuple of what the model is called with; typical values, since the answers are compared.
        path: The file to write, `.goss` by custom.
        weights: How to store weights that are not integers already: `float32` (the numbers torch had), `float16` (a
            weight with values it cannot hold stays float32, and the report says so) or `int8` (symmetric, one scale
            for each output; activations stay float32).
        dynamic_shapes: As `torch.export.export` takes it. By default axis 0 of every input may change from run to run,
            where the model allows it; where it does not, the report says so.

    Returns:
        What became of each layer, and how far the file's answer is from torch's.

    Raises:
        UnsupportedOpError: Operations of the model cannot be converted; all are named, with module path and line.
        Error: The model cannot be captured, or the file's answer is not torch's.
        ValueError: `weights` is none of the three.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r}: expected one of {', '.join(WEIGHTS)}")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is no directory: {target.name} cannot be written there")
    with _progress() as step:
        step("capture")
        program = capture(module, example_inputs, dynamic_shapes)
        before = _bytes(program)
        step("simplify")
        passes.run(program)
        with torch.no_grad():
            round_weights(program, weights)
            want = program.expected if weights == "float32" else program.module(*program.example)
        step("lower", len(program.graph.nodes))
        lowering = Lowering(program, Builder(), weights)
        lowering.run(lambda: step())
        step("write and check")
        # In the same directory, so that the last step is one rename; the name is never guessed twice.
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            lowering.builder.save(temporary)
            report = _check(program, lowering, want, temporary, before)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return report


def _check(program: Program, lowering: Lowering, want: Sequence[Tensor], path: Path, before: int) -> Report:
    """Loads the file, compares its answer with torch's on the example, and reports.

    Raises:
        Error: They differ by more than rounding explains.
    """
    model = runtime.load(path)
    answer = model.run(*(t.contiguous() for t in program.example))
    # A model without inputs answers in numpy.
    answers = [torch.as_tensor(a) for a in (answer if isinstance(answer, tuple) else (answer,))]
    problem = disagreement(program, answers, want)
    if problem:
        raise Error(
            f"{problem}; nothing was written. Is the model deterministic, and are the example's values typical?"
            " If so, this is a bug in gossamer"
        )
    largest = max(map(difference, answers, program.expected), default=0.0)
    facts = {layer["name"]: layer for layer in model.layers}
    rows = _rows(program, lowering, facts)
    size = max((float(t.abs().max()) for t in program.expected if t.is_floating_point() and t.numel()), default=0.0)
    return Report(rows, before, path.stat().st_size, largest, size, model.isa, list(program.notes))


def _bytes(program: Program) -> int:
    """Bytes of the tensors a program reads, each counted once however many layers share it."""
    tensors = [program.constant(n) for n in program.graph.nodes if n.op == "get_attr"]
    return sum(
        {t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in tensors if t is not None}.values()
    )


def _rows(program: Program, lowering: Lowering, facts: dict[str, dict[str, Any]]) -> list[Row]:
    """What torch had of each layer, and what the file has."""
    rows: list[Row] = []
    owners: dict[int, str] = {}
    for layer in lowering.layers:
        fact = facts[layer.name]
        nodes = [(t, n) for n in layer.weights if (t := program.constant(n)) is not None]
        tensors = [t for t, _ in nodes]
        # Elements in torch, before channels were taken out.
        whole = {id(t): int(n.meta.get("whole", t.numel())) for t, n in nodes}
        fresh = [t for t in tensors if t.untyped_storage().data_ptr() not in owners]
        matrices = [t for t in tensors if t.dim() > 1] or tensors
        shared = [owners[p] for t in matrices if (p := t.untyped_storage().data_ptr()) in owners]
        count = sum(whole[id(t)] for t in matrices)
        zeros = count - sum(int((t != 0).sum()) for t in matrices)
        rows.append(
            Row(
                layer.path,
                layer.op,
                fact.get("format", "plain"),
                zeros / max(count, 1),
                sum(whole[id(t)] * t.element_size() for t in fresh),
                sum(t.numel() * 4 for t in fresh) if shared else fact["bytes"],
                fact["kernel"],
                f"shares the weight of {shared[0]}" if shared else fact["reason"],
            )
        )
        owners.update({t.untyped_storage().data_ptr(): layer.path for t in fresh})
    return rows


@contextmanager
def _progress() -> Iterator[Callable[..., None]]:
    """Shows how far a conversion is, where somebody is looking and rich is installed.

    Yields:
        A function that starts a stage by name, with its number of steps, or, without a name, counts a step.
    """
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def step(stage: str | None = None, steps: int | None = None) -> None:
            if stage is None:
                bar.advance(task)
            else:
                bar.reset(task, description=stage, total=steps)

        yield step
