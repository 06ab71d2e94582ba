"""What became of a model: layer by layer, and in all."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        path: The torch module it was, as in `named_modules()`.
        op: The op of the file.
        format: How its weight is stored.
        sparsity: The share of zeros in its weight.
        bytes_before: Of its tensors in torch, those that an earlier layer shares not counted.
        bytes_after: Of its tensors in the file, likewise.
        kernel: What runs it on this CPU.
        reason: Why.
    """

    path: str
    op: str
    format: str
    sparsity: float
    bytes_before: int
    bytes_after: int
    kernel: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What `convert` did. `str()` is a table.

    Attributes:
        rows: One a layer that has weights, in the order of the graph.
        bytes_before: Of all tensors in torch, each counted once.
        bytes_after: Of the file.
        difference: The largest absolute difference from torch on the example.
        size: The largest absolute value that torch answered, to compare the difference with.
        isa: The tier of instructions for which kernels were chosen.
        notes: What else the caller should know.
    """

    rows: list[Row]
    bytes_before: int
    bytes_after: int
    difference: float
    size: float
    isa: str
    notes: list[str]

    def to_json(self) -> str:
        """The report as JSON: an object of its attributes."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def __str__(self) -> str:
        table = [("layer", "op", "format", "zeros", "before", "after", "kernel", "why")]
        for row in self.rows:
            sizes = (size_text(row.bytes_before), size_text(row.bytes_after))
            table.append((row.path, row.op, row.format, f"{row.sparsity:.0%}", *sizes, row.kernel, row.reason))
        table.append(("all", "", "", "", size_text(self.bytes_before), size_text(self.bytes_after), "", ""))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(_aligned(cell, w, i) for i, (cell, w) in enumerate(zip(r, widths, strict=True))) for r in table
        ]
        ratio = self.bytes_before / max(self.bytes_after, 1)
        lines += [
            "",
            f"{size_text(self.bytes_before)} in torch, {size_text(self.bytes_after)} in the file:"
            f" {ratio:.2f} times smaller.",
            f"Largest difference from torch on the example: {self.difference:.3g}, where values reach {self.size:.3g}.",
            f"Kernels are those of {self.isa}.",
        ]
        lines += [f"Note: {note}." for note in self.notes]
        return "\n".join(line.rstrip() for line in lines)


_NUMBERS = range(3, 6)


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in _NUMBERS else cell.ljust(width)


def size_text(size: int) -> str:
    """A number of bytes for people: `528 B`, `1.5 KiB`, `13.4 MiB`."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or unit == "GiB":
            break
    return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
