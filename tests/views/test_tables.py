"""Tables as text: aligned, valid Markdown whatever the cells hold."""

from unicodedata import east_asian_width

from hypothesis import given
from hypothesis import strategies as st

from errata.views.text_tables import text_table


def test_columns_are_aligned() -> None:
    table = text_table(["name", "n"], [["a", "1"], ["longer", "1,000"]], right=(1,))
    assert table.splitlines() == [
        "| name   |     n |",
        "| ------ | ----: |",
        "| a      |     1 |",
        "| longer | 1,000 |",
    ]


def test_wide_characters_take_two_columns() -> None:
    lines = text_table(["city"], [["東京"], ["Oslo"]]).splitlines()
    assert lines[2:] == ["| 東京 |", "| Oslo |"]


def test_no_rows_is_a_header_alone() -> None:
    assert text_table(["a", "b"], []).splitlines() == ["| a   | b   |", "| --- | --- |"]


def test_cells_cannot_break_the_table() -> None:
    lines = text_table(["a"], [["x|y\nz"]]).splitlines()
    assert len(lines) == 3
    assert lines[2] == r"| x\|y z |"


CELLS = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_every_line_is_as_wide_as_the_first(rows: list[tuple[str, str]]) -> None:
    lines = text_table(["one", "two"], rows, right=(1,)).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({sum(2 if east_asian_width(char) in "WF" else 1 for char in line) for line in lines}) == 1
