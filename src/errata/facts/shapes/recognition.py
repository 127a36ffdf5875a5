"""Which shape records have: each by its own names, and those that do not say by what most of the others are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from errata.facts.names import hints
from errata.facts.shapes.data_sets import COUNTERFACT, KNOWN, TRACING, ZSRE
from errata.facts.shapes.draft import Shape
from errata.facts.shapes.flat import FLAT
from errata.facts.shapes.peers import MQUAKE, UNKE, WIKI_BIO, WIKIBIGEDIT
from errata.facts.shapes.ripple import RIPPLE

# The first that fits is taken, so those with names of their own come first.
SHAPES = (MQUAKE, COUNTERFACT, RIPPLE, ZSRE, KNOWN, WIKIBIGEDIT, TRACING, WIKI_BIO, UNKE, FLAT)
# Names for --format. EasyEdit's and its kin are ours in other words, and mix with them.
BY_NAME = {shape.name: shape for shape in SHAPES if shape is not WIKI_BIO}
BY_NAME |= dict.fromkeys(("easyedit", "knowedit", "rome", "fastedit"), FLAT)

_EXAMPLE = {"subject": "Eiffel Tower", "prompt": "The Eiffel Tower is in the city of", "target_new": "Rome"}


def recognize(record: Mapping[str, Any]) -> Shape | None:
    """The shape whose names a record has, None where there is none."""
    return next((shape for shape in SHAPES if shape.fits(record)), None)


def commonest(records: Iterable[Mapping[str, Any]]) -> Shape | None:
    """The shape that most records have, the earlier one of two; None where none has any."""
    counts = Counter(shape.name for record in records if (shape := recognize(record)))
    commonest = counts.most_common(1)
    return next((shape for shape in SHAPES if commonest and shape.name == commonest[0][0]), None)


def unknown_shape(records: Sequence[Mapping[str, Any]]) -> str:
    """What to say of records that have no shape: what was found, what seems to be meant, what is known, an example."""
    names = [str(name) for name in records[0]]
    shown = ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
    known = "\n".join(f"  {shape.name}: {shape.about}" for shape in reversed(SHAPES))
    return (
        f"no record has a shape that errata knows; the first has the fields {shown or '(none)'}. For a fact: "
        f"{'; '.join(hints(names))}.\nKnown shapes:\n{known}\nFor example: {json.dumps(_EXAMPLE)}"
    )
