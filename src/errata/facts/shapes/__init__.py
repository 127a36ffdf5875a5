"""The shapes that records of facts come in, each turned into our `Fact`."""

from __future__ import annotations

from errata.facts.shapes.build import Built, build
from errata.facts.shapes.draft import Shape
from errata.facts.shapes.flat import FLAT
from errata.facts.shapes.recognition import BY_NAME, SHAPES, commonest, recognize, unknown_shape

__all__ = ["BY_NAME", "FLAT", "SHAPES", "Built", "Shape", "build", "commonest", "recognize", "unknown_shape"]
