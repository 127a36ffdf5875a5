"""A batch of target values on its way, kept every few seconds: one that was stopped goes on, to the same bits."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from errata.store.cache import Cache

# Seconds between two: what is lost when a run is stopped. Some megabytes are written each time.
EVERY = 5.0


@dataclass
class Halfway:
    """One batch's entry in a cache, under a digest of all that its values depend on; without a store it keeps nothing.

    done: how many evaluations of the batch's facts were done when it was kept.
    """

    store: Cache | None = None
    key: str = ""
    done: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, store: Cache, key: str) -> "Halfway":
        """The entry of a batch, if an earlier run left one."""
        entry = store.load(key)
        return cls(store, key) if entry is None else cls(store, key, entry[1]["told"], entry[0])

    def take_(self, state: Mapping[str, Tensor]) -> Tensor | None:
        """Bring the tensors of `state` to where they were; gives the facts still on their way, None if all is new."""
        if not self.tensors:
            return None
        for name, tensor in state.items():
            tensor.copy_(self.tensors[name])
        return self.tensors["active"].to(state["updates"].device)

    def keep_if_due(self, state: Mapping[str, Tensor], done: int) -> None:
        """Keep a state, where the last time is long enough ago. Raises StorageError."""
        if self.store is None or time.monotonic() - self.saved < EVERY:
            return
        self.store.save(self.key, {name: tensor.cpu() for name, tensor in state.items()}, {"told": done})
        self.saved = time.monotonic()

    def drop(self) -> None:
        """Forget it: the batch is done."""
        if self.store is not None:
            self.store.path(self.key).unlink(missing_ok=True)
