"""Patches: edits kept as small files that go on a model and come off again bit for bit."""

from errata.patches.patch import RUN_FILES, Patch, provenance

__all__ = ["RUN_FILES", "Patch", "provenance"]
