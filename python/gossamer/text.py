"""Tables as plain aligned text: what a board's terminal shows without a library."""

from collections.abc import Collection, Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]], right: Collection[str] = ()) -> str:
    """Lines up a header and a line a row.

    Args:
        rows: Cells by column title; the first row has all titles, a cell that a later one lacks is left empty. None is
            shown as `-`, a float with about three digits.
        right: Columns to align to the right, beside those of numbers.

    Returns:
        The lines; nothing where there are no rows.
    """
    if not rows:
        return ""
    titles = list(rows[0])
    numbers = [t in right or all(isinstance(row.get(t), int | float | None) for row in rows) for t in titles]
    lines = [titles, *([_cell(row.get(title, "")) for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
    return str(value)


def size_text(count: int) -> str:
    """A number of bytes for people: `528 B`, `1.5 kB`, `13.4 MB`, of 1000 each."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000 or unit == "GB":
            break
    return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
