"""Gradient descent on matrices of one block, for the length of an edit: what fine-tuning baselines share.

Below the trained block nothing changes, so what enters it is computed once; every step runs only the block and those
above, packed by length, and reads logits only where a target is scored.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from errata.core.progress import ProgressSink
from errata.core.steps import Adam
from errata.core.updates import WeightUpdate
from errata.core.words import counted
from errata.edit.settings.training_config import FineTuningConfig
from errata.edit.training.checkpoint import Checkpoint
from errata.edit.training.target_losses import summed_nll
from errata.edit.values.prompt_rows import PromptRow
from errata.errors import NumericsError
from errata.models import LanguageModel, Place, Tuned, relative_norm, run_layers, states_entering, tuned
from errata.models.run.packing import packs

_AT_ONCE = 2048  # tokens of a forward


@dataclass(frozen=True)
class Training:
    """updates: what was learned.  epoch_losses: mean over the facts as each epoch met them (nats a target token).

    losses: each fact's loss with the updates on.  relative_norms: ‖ΔW‖/‖W‖ (Frobenius).  steps: updates that were made.
    """

    updates: dict[Place, WeightUpdate]
    epoch_losses: list[float]
    losses: Float[Tensor, " fact"]
    relative_norms: dict[Place, float]
    steps: int


def train(
    lm: LanguageModel,
    rows: Sequence[PromptRow],
    places: Sequence[Place],
    config: FineTuningConfig,
    checkpoint: Checkpoint,
    progress: ProgressSink,
) -> Training:
    """Adam on the matrices `places` of one layer, epoch by epoch; the model is left exactly as it was.

    The loss of a step is the mean over its facts of the mean NLL over a fact's target tokens. A training that was
    stopped goes on after the last epoch that `checkpoint` kept. Raises NumericsError where a loss or a gradient is not
    finite, StorageError.
    """
    with progress.stage("states", len(rows), "facts") as advance:
        states = states_entering(lm, [row.ids for row in rows], places[0].layer, most_tokens=_AT_ONCE, advance=advance)
    total, epochs = config.epochs * len(rows), config.epochs
    with tuned(lm, places) as weights:
        work = _Work(lm, places[0].layer, rows, states, weights, config)
        done = work.resume(checkpoint)
        what = f"fine-tuning, at most {counted(epochs, 'epoch')}"
        with progress.stage(what, total, "facts", done=done * len(rows)) as advance:
            for _ in range(done, epochs):
                if work.epoch(advance) < config.stop_loss:
                    break
                checkpoint.save_if_due(work.adam, work.epoch_losses)
        losses = work.final_losses()
        checkpoint.drop()
        updates = weights.weight_updates()
        norms = {place: relative_norm(update, weights.originals[place]) for place, update in updates.items()}
        return Training(updates, work.epoch_losses, losses, norms, work.adam.steps)


@dataclass
class _Work:
    lm: LanguageModel
    layer: int
    rows: Sequence[PromptRow]
    states: Sequence[Float[Tensor, "_ d_model"]]
    weights: Tuned
    config: FineTuningConfig
    epoch_losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.adam = Adam(list(self.weights.updates.values()), self.config.learning_rate)
        self.order = torch.Generator().manual_seed(self.config.seed)

    def resume(self, checkpoint: Checkpoint) -> int:
        """Take what was trained before; the number of epochs that it took."""
        self.epoch_losses = checkpoint.load_(self.adam)
        for _ in self.epoch_losses:
            torch.randperm(len(self.rows), generator=self.order)
        self.weights.write_()
        return len(self.epoch_losses)

    def epoch(self, advance: Callable[[int], None]) -> float:
        """A step for every group of facts, in a new order; the mean of the losses that were met."""
        size = self.config.facts_a_step or len(self.rows)
        shuffled = torch.randperm(len(self.rows), generator=self.order).tolist()
        met = 0.0
        for at in range(0, len(shuffled), size):
            members = sorted(shuffled[at : at + size])
            met += self.step_(members) * len(members)
            advance(len(members))
        self.epoch_losses.append(met / len(self.rows))
        return self.epoch_losses[-1]

    def step_(self, members: Sequence[int]) -> float:
        """One update for these facts, unless their loss is below stop_loss already; the loss before it."""
        packed = self._packed(members)
        gradients: dict[Place, Tensor] = {}
        loss = 0.0
        for part in packed:
            with torch.enable_grad():
                share = self._losses(part).sum() / len(members)
            loss += self._finite(float(share.detach()))
            if len(packed) == 1 and loss < self.config.stop_loss:
                return loss
            for place, gradient in self.weights.gradients(share).items():
                gradients[place] = gradient.float() if place not in gradients else gradients[place] + gradient
        if loss >= self.config.stop_loss:
            self._update_(gradients)
        return loss

    @torch.no_grad()
    def final_losses(self) -> Float[Tensor, " fact"]:
        """Each fact's loss as the weights are now."""
        losses = torch.zeros(len(self.rows))
        for part in self._packed(range(len(self.rows))):
            losses[torch.tensor(part)] = self._losses(part).float().cpu()
        self._finite(float(losses.sum()))
        return losses

    def _packed(self, members: Sequence[int]) -> list[list[int]]:
        lengths = [len(self.rows[i].ids) for i in members]
        return [[members[n] for n in part] for part in packs(lengths, most_tokens=_AT_ONCE)]

    def _losses(self, members: Sequence[int]) -> Float[Tensor, " row"]:
        """Mean NLL over the target tokens of each of these facts."""
        rows = [self.rows[i] for i in members]
        hidden = torch.nn.utils.rnn.pad_sequence([self.states[i] for i in members], batch_first=True)
        lengths = torch.tensor([len(row.ids) for row in rows], device=hidden.device)
        mask = (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]).long()
        out = run_layers(self.lm, hidden, mask, first=self.layer).hidden
        assert out is not None
        nll = summed_nll(self.lm, out, rows)
        return nll / torch.tensor([len(row.targets) for row in rows], device=nll.device)

    def _update_(self, gradients: dict[Place, Tensor]) -> None:
        weights, decay, linf = self.weights, self.config.weight_decay, self.config.linf
        if decay:
            for place, update in weights.updates.items():
                gradients[place] = gradients[place] + decay * (weights.originals[place].float() + update)
        self.adam.step_([gradients[place] for place in weights.updates])
        if linf:
            for update in weights.updates.values():
                update.clamp_(-linf, linf)
        weights.write_()

    def _finite(self, loss: float) -> float:
        if math.isfinite(loss):
            return loss
        raise NumericsError(
            f"The loss of fine-tuning is not finite after {counted(self.adam.steps, 'update')} at learning_rate="
            f"{self.config.learning_rate:g} ({self.lm.dtype}): lower the rate, or load the model as float32."
        )
