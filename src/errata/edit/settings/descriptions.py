"""What each field of a method means.

A field is explained in the docstring of the configuration that has it ("name: meaning."), and nowhere else.
"""

import dataclasses
import inspect
import re

from errata.edit.settings.method_config import MethodConfig


def field_meanings(config_type: type[MethodConfig]) -> dict[str, str]:
    """Each field's meaning, in the order of the fields, from the docstrings of the configuration and its bases.

    The nearest class wins. A field that no docstring explains has none.
    """
    names = [field.name for field in dataclasses.fields(config_type)]
    meanings: dict[str, str] = {}
    for cls in reversed(config_type.__mro__):
        meanings |= _meanings(inspect.cleandoc(cls.__dict__.get("__doc__") or ""), names)
    return {name: meanings[name] for name in names if name in meanings}


def _meanings(doc: str, names: list[str]) -> dict[str, str]:
    """What a docstring says of fields: "name: meaning" up to the next field or the paragraph's end."""
    one = "|".join(names)
    begins = re.compile(rf"(?<![\w.])`?((?:{one})(?:, (?:{one}))*)`?: ")
    meanings: dict[str, str] = {}
    for paragraph in doc.split("\n\n"):
        text = " ".join(paragraph.split())
        marks = list(begins.finditer(text))
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        for mark, end in zip(marks, ends, strict=False):  # without a mark there is one end too many
            meanings |= dict.fromkeys(mark[1].split(", "), text[mark.end() : end].strip())
    return meanings
