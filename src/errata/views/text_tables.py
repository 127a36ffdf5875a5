"""Tables as aligned text: the same on a terminal, in a log and in report.md."""

from collections.abc import Sequence
from unicodedata import east_asian_width

from errata.core.words import printable


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A Markdown table with columns padded to one width; columns in `right` are right-aligned."""
    lines = [[_clean(cell) for cell in line] for line in (header, *rows)]
    widths = [max(3, *(_width(line[i]) for line in lines)) for i in range(len(header))]

    def joined(line: Sequence[str]) -> str:
        cells = [_padded(cell, widths[i], i in right) for i, cell in enumerate(line)]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * (width - 1) + (":" if i in right else "-") for i, width in enumerate(widths)]
    return "\n".join([joined(lines[0]), "| " + " | ".join(rule) + " |", *(joined(line) for line in lines[1:])])


def _clean(cell: str) -> str:
    return printable(cell.replace("|", "\\|").replace("\n", " "))


def _width(text: str) -> int:
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
