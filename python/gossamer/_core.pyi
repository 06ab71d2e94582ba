"""The typed face of the extension: what a graph is made with, and what runs it."""

import os
from collections.abc import Sequence
from typing import Any, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "OPS",
    "Builder",
    "Error",
    "FormatError",
    "Model",
    "ShapeError",
    "UnsupportedOpError",
    "__version__",
    "cpu",
    "load",
]

__version__: str
# The names of the operators, in the order of the core's list.
OPS: list[str]

class Error(Exception):
    """Something gossamer was asked to do cannot be done."""

class FormatError(Error):
    """A .goss file is not one, is damaged, or needs a newer gossamer."""

class UnsupportedOpError(Error):
    """A module uses operators that gossamer does not have; the message lists all of them."""

class ShapeError(Error, ValueError):
    """An array's rank, size or dtype is not what the model takes."""

@type_check_only
class Cpu(TypedDict):
    """What `cpu` tells.

    Attributes:
        tiers: Those of this processor, lowest first.
        chosen: The one that is used unless `load` is told otherwise.
        threads: Those a call uses unless `load` is told otherwise.
        families: Each kernel family, and the tier of its best kernel within `chosen`.
    """

    tiers: list[str]
    chosen: str
    threads: int
    families: dict[str, str]

def cpu() -> Cpu:
    """What this processor has, and what gossamer makes of it.

    Raises:
        Error: `GOSSAMER_ISA` names no tier of this processor.
    """

def load(
    source: str | os.PathLike[str] | bytes,
    *,
    threads: int | None = None,
    isa: str | None = None,
    mmap: bool = True,
    max_memory: int | None = None,
    winograd: bool = False,
    dense: bool = False,
) -> Model:
    """Loads a file; see `gossamer.runtime.load`.

    Args:
        source: A path, or the bytes of a file.
        threads: Threads of a call.
        isa: The highest tier to use.
        mmap: Map the file instead of reading it.
        max_memory: Bytes a run may use beside the weights in the file.
        winograd: Compute 3 x 3 convolutions by Winograd's method.
        dense: Expand every weight, as a runtime would that knows nothing of compression; to compare with.

    Raises:
        FormatError: The file is not sound.
        Error: `isa` names no tier of this processor, or an operator cannot run.
        OSError: The file cannot be read.
    """

@final
class Model:
    """A network that runs."""

    @property
    def inputs(self) -> list[tuple[str, list[int | str], str]]:
        """Name, dimensions (a dynamic one is a string) and dtype of each."""

    @property
    def outputs(self) -> list[tuple[str, list[int | str], str]]:
        """Name, dimensions (a dynamic one is an expression) and dtype of each."""

    @property
    def examples(self) -> list[list[int]]:
        """The shapes of the inputs that the network was converted with."""

    @property
    def layers(self) -> list[dict[str, Any]]:
        """One dict a step of the plan for those shapes."""

    @property
    def memory(self) -> dict[str, int]:
        """Bytes `mapped` from the file, held in `private`, and in the `arena`."""

    @property
    def tier(self) -> str:
        """The highest tier it uses."""

    @property
    def threads(self) -> int:
        """Threads of a call."""

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Runs once; arrays must be contiguous and of the inputs' dtypes.

        Raises:
            ShapeError: An array is not what the model takes.
            Error: The run needs more than `max_memory`.
        """

    def profile(self, inputs: Sequence[NDArray[Any]], repeat: int) -> list[dict[str, Any]]:
        """Runs `repeat` times; one dict a step, with its mean time in seconds.

        Raises:
            ShapeError: As for `run`.
        """

    def arena_bytes(self, shapes: Sequence[Sequence[int]]) -> int:
        """Bytes a run at these input shapes needs in its arena.

        Raises:
            ShapeError: The shapes are not what the model takes.
        """

@final
class Builder:
    """A graph made node by node. Tokens (`"v0"`, `"t1"`) stand for values and tensors."""

    def __new__(cls) -> Builder: ...
    def input(self, name: str, dtype: str, shape: Sequence[int | str], example: Sequence[int]) -> str:
        """An input; a dynamic dimension is a symbol, and `example` says what it was.

        Returns:
            Its token.

        Raises:
            Error: The dtype is unknown, or shape and example do not fit.
        """

    def tensor(self, name: str, array: NDArray[Any]) -> str:
        """A constant as torch lays it out.

        Returns:
            Its token.
        """

    def matrix(self, name: str, array: NDArray[np.float32], *, groups: int = 1, storage: str = "float32") -> str:
        """A weight matrix `(m, k)`, stored dense or sparse, whichever is smaller.

        Args:
            name: Its name in torch.
            array: float32, contiguous; columns in torch's order.
            groups: Groups of rows, each with its own `k` inputs.
            storage: `float32`, `float16` (kept float32 where it cannot hold a value) or `int8`.

        Returns:
            Its token.

        Raises:
            Error: It is no float32 matrix, or `storage` is unknown.
        """

    def matrix_int8(
        self, name: str, array: NDArray[np.int8], *, groups: int = 1, scales: Sequence[float] | None = None
    ) -> str:
        """A weight matrix of integers; with `scales`, one a row, they stand for reals.

        Returns:
            Its token.

        Raises:
            Error: It is no int8 matrix, or scales are not one a row.
        """

    def low_rank(self, name: str, u: str, v: str) -> str:
        """The product `u · v` of two matrices, kept as factors.

        Returns:
            Its token.

        Raises:
            Error: They are not matrices, or do not fit.
        """

    def add(
        self, op: str, inputs: Sequence[str | None], attrs: dict[str, Any] | None = None, *, name: str = ""
    ) -> str | list[str]:
        """A node; attributes, arity and shapes are checked at once.

        Returns:
            The token of its output, or a list where it has several.

        Raises:
            Error: There is no such op, or it does not take this.
        """

    def shape(self, token: str) -> list[int]:
        """A value's shape for the example."""

    def dtype(self, token: str) -> str:
        """A value's dtype."""

    def output(self, name: str, value: str, shape: Sequence[int | str] | None = None) -> None:
        """Makes a value an output.

        Args:
            name: Its name.
            value: Its token.
            shape: Its dimensions, expressions over the inputs' symbols where they are dynamic.
        """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Checks the graph and writes the file; the builder is then used up.

        Raises:
            Error: The graph is not sound.
            OSError: The file cannot be written.
        """

    def to_bytes(self) -> bytes:
        """As `save`, but returns the file's bytes."""
