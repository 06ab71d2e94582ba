"""Tables as plain aligned text: what a board's terminal shows without a library."""

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lines up a header and a line a row, columns of numbers to the right.

    Args:
        rows: Cells by column title, the same columns in each. None is shown as `-`, a float with about three digits.

    Returns:
        The lines; nothing where there are no rows.
    """
    if not rows:
        return ""
    titles = list(rows[0])
    right = [all(isinstance(row[title], int | float | None) for row in rows) for title in titles]
    lines = [titles, *([_cell(row[title]) for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
    return str(value)
