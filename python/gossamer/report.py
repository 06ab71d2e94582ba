"""What became of a model: layer by layer, and in all."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from .text import size_text, table


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
        rows = [
            {
                "layer": row.path,
                "op": row.op,
                "format": row.format,
                "zeros": f"{row.sparsity:.0%}",
                "before": size_text(row.bytes_before),
                "after": size_text(row.bytes_after),
                "kernel": row.kernel,
                "why": row.reason,
            }
            for row in self.rows
        ]
        rows.append({"layer": "all", "before": size_text(self.bytes_before), "after": size_text(self.bytes_after)})
        ratio = self.bytes_before / max(self.bytes_after, 1)
        lines = [
            table(rows, right=("zeros", "before", "after")),
            "",
            f"{size_text(self.bytes_before)} in torch, {size_text(self.bytes_after)} in the file:"
            f" {ratio:.2f} times smaller.",
            f"Largest difference from torch on the example: {self.difference:.3g}, where values reach {self.size:.3g}.",
            f"Kernels are those of {self.isa}.",
        ]
        lines += [f"Note: {note}." for note in self.notes]
        return "\n".join(lines)
