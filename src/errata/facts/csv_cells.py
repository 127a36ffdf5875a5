"""What the text of a cell says in a column that holds more than text."""

from __future__ import annotations

import ast
import json
from typing import Any

from errata.facts.records import DECODER
from errata.facts.shapes import SHAPES

_LISTS = ("paraphrases", "neighbours", "neighbors", "generation_prompts")
# Plain text in every shape, although it may begin with a bracket ("{} is in").
_TEXTS = {
    "id", "case_id", "subject", "prompt", "relation", "relation_id", "src", "alt", "update", "ans", "question",
    "answer", "template", "attribute", "concept", "text", "labels", "loc", "loc_ans",
}  # fmt: skip
_STRUCTURED = {name for shape in SHAPES for name in shape.names} - _TEXTS
_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


def parsed(name: str, cell: str) -> Any:
    """The value of a cell in the column `name`. Raises ValueError that says what is wrong with it."""
    if name in _LISTS:
        return _json(name, cell, "a JSON list") if cell.lstrip().startswith("[") else [cell]
    if name == "chat":
        if (truth := _TRUTHS.get(cell.strip().casefold())) is None:
            raise ValueError(f"chat is {cell!r}; write true or false")
        return truth
    if name == "join":
        return _json(name, cell, "JSON text") if cell.lstrip().startswith('"') else cell
    if name == "metadata":
        return _json(name, cell, "a JSON object") if cell.lstrip().startswith("{") else cell
    if name in _STRUCTURED and cell.lstrip().startswith(("[", "{")) and not cell.lstrip().startswith("{}"):
        return _structure(name, cell)
    return cell


def _structure(name: str, cell: str) -> Any:
    """A list or an object as JSON, or as Python prints it, which is what pandas writes."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"{name} begins like a list or an object but is broken; write it as JSON") from None


def _json(name: str, cell: str, what: str) -> Any:
    try:
        return DECODER.decode(cell.lstrip())
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} begins like {what} but is broken: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from None
