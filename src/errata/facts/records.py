"""The containers of fact files: the bytes of a JSON Lines or JSON file as parsed records, each with its place.

Every reader yields, in the file's order, a `Record` for what could be parsed and a `Problem` for what could not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from errata.facts.checks import kind, suggestion
from errata.facts.problems import Problem

# Bytes that are no UTF-8 survive decoding as these (PEP 383), so that one bad record does not hide the others.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
WHITESPACE = " \t\r\n"
_SPACES = frozenset(WHITESPACE)
# No JSON value begins with either.
_COMMENT = ("#", "//")


@dataclass(frozen=True, slots=True)
class Record:
    """One parsed record: its value, its 1-based line if there are lines, its 0-based index, its place in words."""

    value: object
    line: int | None
    index: int
    where: str


class RepeatedKeys(dict[str, object]):
    """An object of which some keys were given more than once; the last value stands."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = [name for name in self if names.count(name) > 1]


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else RepeatedKeys(pairs)


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def not_utf8(text: str, line: int, where: str = "") -> Problem | None:
    """The problem with text that holds a byte which is no UTF-8, None where there is none."""
    if not (match := _ESCAPED_BYTE.search(text)):
        return None
    reason = f"not UTF-8: byte 0x{ord(match[0]) - 0xDC00:02x}; save the file as UTF-8"
    return Problem("error", reason, line + text.count("\n", 0, match.start()), where=where)


def jsonl_records(text: str) -> Iterator[Record | Problem]:
    """One JSON value a line; blank lines and comments (# or // in front) count as lines but not as records."""
    if text.lstrip(WHITESPACE).startswith("["):
        yield Problem("error", "a JSON list where one object a line was expected; name the file .json", 1)
        return
    index = 0
    # str.splitlines would also cut at U+2028 and its like, which JSON allows inside text.
    for line, raw in enumerate(text.split("\n"), 1):
        if (stripped := raw.strip(WHITESPACE)) and not stripped.startswith(_COMMENT):
            yield not_utf8(raw, line) or _parse_line(stripped, line, index)
            index += 1


def _parse_line(raw: str, line: int, index: int) -> Record | Problem:
    try:
        return Record(DECODER.decode(raw), line, index, f"line {line}")
    except json.JSONDecodeError as error:
        return Problem("error", f"broken JSON: {error.msg} at column {error.colno}", line)
    except (ValueError, RecursionError) as error:
        return Problem("error", f"JSON that cannot be read: {error}", line)


def json_records(text: str) -> Iterator[Record | Problem]:
    """The items of a JSON list, or of the list under "facts" in a JSON object."""
    cursor = _Cursor(text)
    try:
        yield from _document(cursor)
    except json.JSONDecodeError as error:
        bad_byte = not_utf8(text[error.pos : error.pos + 1], error.lineno)
        reason = bad_byte.reason if bad_byte else f"broken JSON: {error.msg} at column {error.colno}"
        yield Problem("error", f"{reason} (the file was not read beyond this point)", error.lineno)
    except (ValueError, RecursionError) as error:
        reason = f"JSON that cannot be read: {error} (the file was not read beyond this point)"
        yield Problem("error", reason, cursor.line)


@dataclass(slots=True)
class _Cursor:
    """A position in a JSON text. Parsing item by item keeps the lines, and the items before a break."""

    text: str
    position: int = 0
    line: int = 1

    def peek(self) -> str:
        """The next character that is no whitespace, empty at the end."""
        start = self.position
        while self.text[self.position : self.position + 1] in _SPACES:
            self.position += 1
        self.line += self.text.count("\n", start, self.position)
        return self.text[self.position : self.position + 1]

    def take(self, allowed: str) -> str:
        char = self.peek()
        if not char or char not in allowed:
            expected = " or ".join(f"'{one}'" for one in allowed)
            raise json.JSONDecodeError(f"Expecting {expected}", self.text, self.position)
        self.position += 1
        return char

    def name(self) -> str:
        """The name of an object's next member; its value follows."""
        self.take('"')
        self.position -= 1
        name = str(self.value())
        self.take(":")
        return name

    def value(self) -> object:
        self.peek()
        start = self.position
        value, self.position = DECODER.raw_decode(self.text, start)
        self.line += self.text.count("\n", start, self.position)
        return value


def _document(cursor: _Cursor) -> Iterator[Record | Problem]:
    first = cursor.peek()
    if first == "[":
        yield from _items(cursor)
    elif first == "{":
        yield from _facts_object(cursor)
    elif first:
        found = kind(cursor.value())
        yield Problem("error", f'expected a list of records or {{"facts": [...]}}, found {found}', cursor.line)
    if cursor.peek():
        message = "Extra data (one object a line is JSON Lines: name the file .jsonl)"
        raise json.JSONDecodeError(message, cursor.text, cursor.position)


def _items(cursor: _Cursor) -> Iterator[Record | Problem]:
    cursor.take("[")
    if cursor.peek() == "]":
        cursor.take("]")
        return
    index = 0
    while True:
        cursor.peek()
        start, line = cursor.position, cursor.line
        value, where = cursor.value(), f"record {index + 1} (line {line})"
        raw = cursor.text[start : cursor.position]
        yield not_utf8(raw, line, where) or Record(value, line, index, where)
        index += 1
        if cursor.take(",]") == "]":
            return


def _facts_object(cursor: _Cursor) -> Iterator[Record | Problem]:
    line, others, found = cursor.line, list[str](), False
    last = cursor.take("{")
    if cursor.peek() == "}":
        last = cursor.take("}")
    while last != "}":
        name = cursor.name()
        if name == "facts" and cursor.peek() == "[" and not found:
            found = True
            yield from _items(cursor)
        else:
            others.append(name)
            cursor.value()
        last = cursor.take(",}")
    if not found:
        yield Problem("error", _no_list(others), line)
    elif others:
        names = ", ".join(map(repr, others))
        yield Problem("error", f'unknown field beside "facts": {names}', line)


def _no_list(names: Iterable[str]) -> str:
    names = list(names)
    hint = next((text for name in names if (text := suggestion(name, ["facts"]))), "")
    shown = ", ".join(map(repr, names[:4])) + (", ..." if len(names) > 4 else "")
    return f'expected a list of records or {{"facts": [...]}}, found an object with {shown or "nothing"}{hint}'
