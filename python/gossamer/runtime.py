"""Loading and running a `.goss` file. Needs numpy alone."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._core import Error, FormatError, ShapeError
from .text import table

if TYPE_CHECKING:
    import torch

__all__ = ["Error", "FormatError", "Model", "Profile", "ShapeError", "Value", "load"]


@dataclass(frozen=True)
class Value:
    """An input or output of a model.

    Attributes:
        name: Its name.
        shape: Its dimensions; a dynamic one is a string, an expression over the inputs' dynamic dimensions.
        dtype: numpy's name of its element type.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


class Model:
    """A network that runs. Made by `load`.

    Any number of threads may call one model at once, and so may a child after a fork. The interpreter's exit waits for
    calls of daemon threads that are under way.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, options: dict[str, Any]) -> None:
        self._source = source if isinstance(source, bytes) else os.fspath(source)
        self._options = options
        self._core = _core.load(self._source, **options)
        self._inputs = tuple(Value(name, tuple(shape), dtype) for name, shape, dtype in self._core.inputs)
        self._dtypes = [np.dtype(value.dtype) for value in self._inputs]

    def run(self, *inputs: np.ndarray | torch.Tensor) -> Any:
        """Runs the network once.

        Args:
            inputs: One array for each of `inputs`, in order, of its dtype; copied first where it is not contiguous.
                Torch tensors on the CPU may be given instead, and torch tensors are then returned.

        Returns:
            One array where the network has one output, else a tuple; they belong to the caller.

        Raises:
            ShapeError: The number of inputs, a dtype, a rank or a fixed dimension differs from `inputs`.
            Error: The run needs more memory than `max_memory`.
        """
        torch = _torch_of(inputs)
        outputs = self._core.run(self._arrays(inputs))
        if torch is not None:
            outputs = [torch.from_numpy(output) for output in outputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def profile(self, *inputs: np.ndarray | torch.Tensor, repeat: int = 20) -> Profile:
        """Runs the network `repeat` times, after one warm-up, and measures every step.

        Args:
            inputs: As for `run`.
            repeat: Runs to average over.

        Returns:
            The mean time of each step.

        Raises:
            ShapeError: As for `run`.
        """
        arrays = self._arrays(inputs)
        self._core.run(arrays)
        return Profile(self._core.profile(arrays, repeat))

    @property
    def inputs(self) -> tuple[Value, ...]:
        """What the network takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What the network gives."""
        return tuple(Value(name, tuple(shape), dtype) for name, shape, dtype in self._core.outputs)

    @property
    def examples(self) -> tuple[tuple[int, ...], ...]:
        """The shapes the network was converted with, one an input."""
        return tuple(tuple(shape) for shape in self._core.examples)

    @property
    def layers(self) -> list[dict[str, Any]]:
        """What runs for inputs of the shapes the network was converted with.

        One dict a step: `name` (torch module path), `op`, `kernel`, `reason` (why that kernel, where there was a
        choice), `shape` of its output, `bytes` of its tensors, and for a weight matrix `weight`, `format`,
        `weight_shape`, `nnz`.
        """
        return self._core.layers

    @property
    def memory(self) -> dict[str, int]:
        """Bytes: `mapped` weights used in place, `private` ones held in memory, and the `arena` of a run."""
        return self._core.memory

    @property
    def isa(self) -> str:
        """The highest tier it uses."""
        return self._core.tier

    @property
    def threads(self) -> int:
        """Threads of a call."""
        return self._core.threads

    def __repr__(self) -> str:
        where = f"{len(self._source)} bytes" if isinstance(self._source, bytes) else repr(self._source)
        takes, gives = (", ".join(map(str, values)) for values in (self.inputs, self.outputs))
        return f"Model({where}: {takes} -> {gives}; {self.isa}, threads={self.threads})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Model, (self._source, self._options))

    def _arrays(self, inputs: tuple[Any, ...]) -> list[np.ndarray]:
        arrays = []
        for position, x in enumerate(inputs):
            array = x.detach().numpy() if _is_tensor(x) else np.asarray(x)
            if position < len(self._dtypes) and array.dtype != self._dtypes[position]:
                value = self._inputs[position]
                raise ShapeError(
                    f"input {value.name!r}: got dtype {array.dtype}, expected {value.dtype}: convert it with "
                    f"x.astype({value.dtype!r}) or, in torch, x.to(torch.{value.dtype})"
                )
            flags = array.flags
            arrays.append(array if flags.c_contiguous and flags.aligned else np.require(array, None, ["C", "A"]))
        return arrays


def _is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _torch_of(inputs: tuple[Any, ...]) -> Any:
    """The torch module, where any input is its tensor."""
    return sys.modules["torch"] if any(map(_is_tensor, inputs)) else None


class Profile:
    """Time per step; `str()` is an aligned table.

    Attributes:
        steps: One dict a step: `name`, `op`, `kernel`, `shape`, `seconds`, `estimate` (seconds that
            one thread was expected to take, where a cost model chose the kernel, or None), `flops`, `bytes` moved.
    """

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        self.steps = steps

    @property
    def seconds(self) -> float:
        """Time of a run inside its steps."""
        return float(sum(step["seconds"] for step in self.steps))

    def to_json(self) -> str:
        """The steps as JSON."""
        return json.dumps({"seconds": self.seconds, "steps": self.steps})

    def __str__(self) -> str:
        rows = [
            {
                "layer": step["name"],
                "op": step["op"],
                "kernel": step["kernel"],
                "shape": "x".join(map(str, step["shape"])),
                "ms": f"{1e3 * step['seconds']:.3f}",
                "share": f"{100 * step['seconds'] / (self.seconds or 1.0):.1f} %",
                "rate": _rate(step),
            }
            for step in self.steps
        ]
        rows.append({"layer": "total", "ms": f"{1e3 * self.seconds:.3f}"})
        return table(rows, right=("ms", "share", "rate"))


def _rate(step: dict[str, Any]) -> str:
    """Arithmetic a second, or, where there is none, bytes moved a second."""
    seconds = step["seconds"] or 1e-12
    if step["flops"]:
        return f"{step['flops'] / seconds / 1e9:.1f} GFLOP/s"
    return f"{step['bytes'] / seconds / 1e9:.1f} GB/s"


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    threads: int | None = None,
    isa: str | None = None,
    mmap: bool = True,
    max_memory: int | None = None,
    winograd: bool = False,
) -> Model:
    """Loads a `.goss` file, validating it in full.

    Args:
        source: A path, or the bytes of a file.
        threads: Threads a call uses; by default the cores this process may use (affinity and cgroup quota).
        isa: The highest tier to use, of `scalar avx2 avxvnni avx512 avx512vnni amx` or `scalar neon dotprod i8mm`;
            by default what the environment variable `GOSSAMER_ISA` says, else the best this processor has.
        mmap: Map the file instead of reading it. A mapped file must not be changed while the model lives.
        max_memory: Bytes a run may use beside the weights in the file: buffers, outputs, and the forms in which kernels
            keep some weights; by default half of what the machine or cgroup has free.
        winograd: Compute dense float32 3 × 3 convolutions of stride 1 by Winograd's method, F(4 × 4, 3 × 3): up to
            twice as fast, with a few times the rounding error of a sum, and four times the memory for their weights.

    Returns:
        The model.

    Raises:
        FormatError: The file is not one, is damaged, or was made by a newer gossamer.
        Error: `isa` names no tier of this processor, or forms of the weights take more than `max_memory`.
        ValueError: `threads` is below 1.
        OSError: The file cannot be read.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads: got {threads}, expected at least 1, or None for the cores this process may use")
    options = {"threads": threads, "isa": isa, "mmap": mmap, "max_memory": max_memory, "winograd": winograd}
    return Model(source, options)
