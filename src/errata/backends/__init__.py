"""Back ends: where the parts of long work are done. `LOCAL`, this process, is what everything uses unless told."""

from errata.backends.local import LOCAL, Local

__all__ = ["LOCAL", "Local"]
