"""Patches: edits kept as small files that go on a model and come off again bit for bit."""

from errata.patches.patch import RUN_FILES, Patch
from errata.patches.provenance import Provenance, provenance
from errata.patches.stack import patches_on

__all__ = ["RUN_FILES", "Patch", "Provenance", "patches_on", "provenance"]
