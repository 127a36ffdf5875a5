"""MEND's training loss: NLL of the new target after the edit, and KL(base ‖ edited) on unrelated text, weighted.

Only the edited layers and those above depend on the editor: what is below runs once for a batch (`Entered`), and the
edited model from there on, with the updates as hooks; no weight of the model is touched, and none asks for gradients.
Equal to weights that really are replaced: tests/reference/mend.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.edit.methods.mend.edit_gradients import Entering, Gradients, entering, gradients, read_targets, updates_of
from errata.edit.methods.mend.editor import MendEditor
from errata.edit.methods.mend.examples import Batch
from errata.edit.methods.mend.mend_config import MendConfig
from errata.models import LanguageModel, Place, RowFactors, rows_updated


@dataclass(frozen=True)
class Entered:
    """A batch's rows at the first edited layer: what no editor can change."""

    edits: Entering
    paraphrases: Entering
    locality: Entering

    @property
    def nbytes(self) -> int:
        return sum(part.inputs.nbytes + part.mask.nbytes for part in (self.edits, self.paraphrases, self.locality))


@dataclass(frozen=True)
class Losses:
    """Per fact, in nats: NLL after the edit, of the paraphrase's target and of the prompt's in the configuration's
    proportion, and KL(base ‖ edited), a mean over tokens."""

    edit: Float[Tensor, " fact"]
    locality: Float[Tensor, " fact"]

    def total(self, config: MendConfig) -> Float[Tensor, ""]:
        """What training lowers, a mean over facts."""
        return config.edit_weight * self.edit.mean() + config.locality_weight * self.locality.mean()


def enter(lm: LanguageModel, batch: Batch, first: int) -> Entered:
    """Run the layers below the first edited one. A target's last token predicts nothing and is left out."""
    edits, paraphrases = ([row.ids[:-1] for row in rows] for rows in (batch.edits, batch.paraphrases))
    return Entered(*entering(lm, [edits, paraphrases, batch.locality], first))


def batch_gradients(lm: LanguageModel, batch: Batch, entered: Entered, editor: MendEditor) -> Gradients:
    """What the editor reads of a batch."""
    return gradients(lm, batch.edits, entered.edits, editor.places)


def editor_losses(
    lm: LanguageModel, editor: MendEditor, batch: Batch, entered: Entered, read: Gradients, config: MendConfig
) -> Losses:
    """The losses of a batch, differentiable in the editor's parameters; `facts_at_once` facts are edited together."""
    updates = updates_of(editor, read, together=config.facts_at_once)
    asked = [
        (1 - config.prompt_weight, entered.paraphrases, batch.paraphrases),
        (config.prompt_weight, entered.edits, batch.edits),
    ]
    with rows_updated(lm, updates):
        terms = [weight * read_targets(lm, at.run(lm), rows).nll for weight, at, rows in asked if weight]
    return Losses(torch.stack(terms).sum(0), locality_kl(lm, entered.locality, updates))


def locality_kl(lm: LanguageModel, rows: Entering, updates: Mapping[Place, RowFactors]) -> Float[Tensor, " batch"]:
    """KL(base ‖ edited) of the next token in nats: each row's mean over its tokens."""
    base, edited = base_and_edited(lm, rows, updates)
    kl = (base.exp() * (base - edited)).sum(-1)
    return token_means(kl, rows)


def base_and_edited(
    lm: LanguageModel, rows: Entering, updates: Mapping[Place, RowFactors]
) -> tuple[Float[Tensor, "token d_vocab"], Float[Tensor, "token d_vocab"]]:
    """Log-probabilities of the next token at every real position, without the updates and with them."""
    real = rows.mask.bool()
    with torch.no_grad():
        base = lm.logits(rows.run(lm)[real]).float().log_softmax(-1)
    with rows_updated(lm, updates):
        hidden = rows.run(lm)
    return base, lm.logits(hidden[real]).float().log_softmax(-1)


def token_means(values: Float[Tensor, " token"], rows: Entering) -> Float[Tensor, " batch"]:
    """Means over each row's real positions."""
    owner = rows.mask.nonzero()[:, 0]
    sums = values.new_zeros(len(rows.mask)).index_add(0, owner, values)
    return sums / rows.mask.sum(1)
