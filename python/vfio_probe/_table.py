"""Plain tables: columns as wide as they must be."""

from collections.abc import Sequence


def layout(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out rows below a heading."""
    lines = [heading, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def or_dash(value: object) -> str:
    """A cell for what may be missing."""
    return "-" if value is None else str(value)
