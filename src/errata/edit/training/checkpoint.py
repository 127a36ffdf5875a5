"""What training has reached, kept between runs, so that one that was stopped goes on to the same bits."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from errata.core.steps import Adam
from errata.edit.settings.training_config import FineTuningConfig
from errata.edit.values.prompt_rows import PromptRow
from errata.models import LanguageModel, fingerprint
from errata.store import digest, folder_of
from errata.store.cache import Cache
from errata.store.kept import TRAININGS

# Seconds between two: three times the trained matrices are written, which short runs need not wait for.
EVERY = 30.0


@dataclass
class Checkpoint:
    """One training's entry in a cache: the weights' updates, Adam's moments and steps, the losses of the epochs."""

    store: Cache
    key: str
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls, lm: LanguageModel, rows: Sequence[PromptRow], config: FineTuningConfig, cache: Path | None
    ) -> "Checkpoint":
        """The entry of this training on the model as it is, under a digest of all that it depends on."""
        read = [[list(row.ids), list(row.read), list(row.targets)] for row in rows]
        key = digest(fingerprint(lm, TRAININGS), read, config)
        return cls(Cache(folder_of(TRAININGS, cache)), key)

    def load_(self, adam: Adam) -> list[float]:
        """Take Adam and the updates it trains to where they were; the losses of the epochs that were done."""
        entry = self.store.load(self.key)
        if entry is None:
            return []
        tensors, metadata = entry
        for name, held in _state(adam).items():
            held.copy_(tensors[name])
        adam.steps = metadata["steps"]
        return list(metadata["epoch_losses"])

    def save_if_due(self, adam: Adam, epoch_losses: Sequence[float]) -> None:
        """Keep the state after an epoch, where the last time is long ago. Raises StorageError."""
        if time.monotonic() - self.saved < EVERY:
            return
        self.store.save(self.key, _state(adam), {"steps": adam.steps, "epoch_losses": list(epoch_losses)})
        self.saved = time.monotonic()

    def drop(self) -> None:
        """Forget it: the training is done."""
        self.store.path(self.key).unlink(missing_ok=True)


def _state(adam: Adam) -> dict[str, Tensor]:
    groups = {"update": adam.values, "mean": adam.means, "square": adam.squares}
    return {f"{name}.{i}": tensor for name, group in groups.items() for i, tensor in enumerate(group)}
