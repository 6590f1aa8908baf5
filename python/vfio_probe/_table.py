"""Plain text tables. Each column is as wide as its widest cell."""

from collections.abc import Sequence


def layout(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns the rows below a heading, as one text."""
    lines = [heading, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def or_dash(value: object) -> str:
    """Returns the text of a value, or "-" for None."""
    return "-" if value is None else str(value)
