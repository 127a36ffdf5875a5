"""Patches: edits kept as small files that go on a model and come off again bit for bit."""

from errata.patches.patch import Patch, foreign_file, provenance

__all__ = ["Patch", "foreign_file", "provenance"]
