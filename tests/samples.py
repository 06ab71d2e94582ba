"""What torch samples itself with, converted many calls at a time: each matches, is refused by name, or is wrong."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import gossamer
from gossamer import converter, passes, runtime
from gossamer.passes.verify import difference, tolerance

# What stands before the double below.
run = passes.run


@dataclass
class Call:
    """A function or module and what it is called with.

    Attributes:
        name: What to call it in a message.
        function: A function of tensors, or a module in eval mode.
        args: Its arguments, tensors in any nesting.
        kwargs: The same, by name.
        weights: Whether all tensors after the first are weights of the model, not inputs of it.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    weights: bool = False

    def inputs(self) -> list[Tensor]:
        """The tensors that a model of this call is run with."""
        found = [leaf.detach() for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        return found[:1] if self.weights else found

    def __call__(self, inputs: Sequence[Tensor], function: Callable[..., Any] | None = None) -> list[Tensor]:
        """The tensors that torch returns for those inputs."""
        left = list(inputs)
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        leaves = [left.pop(0) if isinstance(leaf, Tensor) and left else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        answer = (function or self.function)(*args, **kwargs)
        return [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]

    def exactly(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The same in float64."""
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        args, kwargs = pytree.tree_unflatten([_wide(leaf) for leaf in leaves], spec)
        function = copy.deepcopy(self.function).double() if isinstance(self.function, nn.Module) else self.function
        return Call(self.name, function, args, kwargs, self.weights)([_wide(t) for t in inputs])


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value


class Calls(nn.Module):
    """Several calls as one model."""

    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__()
        self.calls, self.counts = calls, [len(call.inputs()) for call in calls]
        self.inner = nn.ModuleList(c.function for c in calls if isinstance(c.function, nn.Module))
        for i, call in enumerate(calls):
            if call.weights:
                leaves = pytree.tree_leaves((call.args, call.kwargs))
                for j, weight in enumerate([t for t in leaves if isinstance(t, Tensor)][1:]):
                    self.register_buffer(f"weight_{i}_{j}", weight)

    def forward(self, *inputs: Tensor) -> list[list[Tensor]]:
        left, answers = list(inputs), []
        for call, count in zip(self.calls, self.counts, strict=True):
            answers.append(call(left[:count]))
            left = left[count:]
        return answers


def spread(samples: Sequence[Any], most: int) -> list[Any]:
    """Some of many samples, evenly spread; all of them where GOSSAMER_SAMPLES=all."""
    if os.environ.get("GOSSAMER_SAMPLES") == "all" or len(samples) <= most:
        return list(samples)
    return [samples[i * len(samples) // most] for i in range(most)]


def judge(calls: Sequence[Call], folder: Path) -> list[str]:
    """What became of each call: nothing to say where it matches torch, `refused: …` by name, or `wrong: …`.

    All are converted as one model; where that is refused or wrong, halves of them are, to find which.
    """
    path = folder / "calls.goss"
    options = {"dynamic_shapes": ((None,) * n,)} if (n := sum(len(call.inputs()) for call in calls)) else {}
    try:
        with warnings.catch_warnings():
            # torch warns of some of its own samples, such as the variance of one number.
            warnings.simplefilter("ignore")
            problem = _compare(calls, path, **options)
    except gossamer.UnsupportedOpError as error:
        problem = f"refused: {error}"
    except gossamer.Error as error:
        # What torch itself cannot capture is refused, too; an answer that is not torch's is none.
        problem = f"{'refused' if str(error).startswith('torch.export could not') else 'wrong'}: {error}"
    except Exception as error:
        problem = f"wrong: {type(error).__name__}: {error}"
    left = [file.name for file in folder.iterdir()]
    if problem and left:
        problem = f"wrong: {problem} left {', '.join(left)}"
    path.unlink(missing_ok=True)
    if not problem or len(calls) < 2:
        return [problem] * len(calls)
    half = len(calls) // 2
    return judge(calls[:half], folder) + judge(calls[half:], folder)


def _compare(calls: Sequence[Call], path: Path, **options: Any) -> str:
    """Converts the calls as one model, runs it on their inputs and on others, and says where it is not torch's."""
    inputs = [call.inputs() for call in calls]
    flat = tuple(t for one in inputs for t in one)
    programs = []

    def kept(program, **more):
        programs.append(run(program, **more))
        return program

    with mock.patch.object(converter.passes, "run", kept):
        gossamer.convert(Calls(calls).eval(), flat, path, **options)
    model = runtime.load(path)
    for changed in (False, True):
        # The same numbers in other places: what a function takes is thereby still what it is made for.
        shown = [[_reversed(t) if changed else t for t in one] for one in inputs]
        answer = model.run(*(t for one in shown for t in one))
        # A model without inputs answers in numpy.
        left = [torch.as_tensor(a) for a in (answer if isinstance(answer, tuple) else (answer,))]
        output = 0
        for call, one in zip(calls, shown, strict=True):
            with torch.no_grad():
                want = call([t.clone() for t in one])
            for i, b in enumerate(want):
                a = left.pop(0)
                if a.shape != b.shape or a.dtype != b.dtype:
                    return f"wrong: {a.dtype} {list(a.shape)}, in torch {b.dtype} {list(b.shape)}"
                error, bound = difference(a, b), tolerance(programs[0], b, output)
                if error > bound and b.is_floating_point():
                    # A sum that cancels is as far off in torch.
                    with torch.no_grad():
                        bound += 8 * difference(b, call.exactly(one)[i])
                if error > bound:
                    return f"wrong: {error:.3g} from torch, where rounding explains {bound:.3g}"
                output += 1
    return ""


def _reversed(t: Tensor) -> Tensor:
    return t.flatten().flip(0).reshape(t.shape) if t.is_floating_point() else t
