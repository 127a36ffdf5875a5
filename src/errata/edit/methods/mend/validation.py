"""How an editor does on held-out facts, each edited alone: does the edit take, carry over, and leave the rest alone?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from errata.edit.methods.mend.edit_gradients import read_targets, updates_of
from errata.edit.methods.mend.editor import MendEditor
from errata.edit.methods.mend.examples import Batch
from errata.edit.methods.mend.mend_config import MendConfig
from errata.edit.methods.mend.objective import (
    Entered,
    base_and_edited,
    batch_gradients,
    enter,
    token_means,
)
from errata.models import LanguageModel, rows_updated


@dataclass(frozen=True)
class Validation:
    """Means over held-out facts. Shares are of 1.

    loss: training's.  prompt_nll, paraphrase_nll, locality_kl: its parts in nats.  edit_success, paraphrase_success:
    every token of the new target is the first choice after the edit; `before`: so without it (paraphrases).
    drawdown: how much smaller the share of right next tokens of the locality text is than before the edit.  kept:
    positions of that text whose first choice stayed the same.
    """

    facts: int
    loss: float
    prompt_nll: float
    paraphrase_nll: float
    locality_kl: float
    edit_success: float
    paraphrase_success: float
    before: float
    drawdown: float
    kept: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def line(self) -> str:
        """The same for a reader."""
        return (
            f"edit success {100 * self.edit_success:.1f} %, paraphrase success {100 * self.paraphrase_success:.1f} % "
            f"(before {100 * self.before:.1f} %), drawdown {100 * self.drawdown:.1f} points, "
            f"{100 * self.kept:.1f} % of first choices kept; loss {self.loss:.4f} "
            f"(NLL {self.prompt_nll:.3f} and {self.paraphrase_nll:.3f}, KL {self.locality_kl:.4f})"
        )


@torch.no_grad()
def validate(
    lm: LanguageModel, editor: MendEditor, batches: Sequence[Batch], entered: Sequence[Entered], config: MendConfig
) -> Validation:
    """Edit every fact of the batches alone; `entered` are the batches at the first edited layer."""
    rows = [_measure(lm, editor, batch, at) for batch, at in zip(batches, entered, strict=True)]
    means = {name: float(torch.cat([row[name] for row in rows]).mean()) for name in rows[0]}
    nll = (1 - config.prompt_weight) * means["paraphrase_nll"] + config.prompt_weight * means["prompt_nll"]
    loss = config.edit_weight * nll + config.locality_weight * means["locality_kl"]
    return Validation(facts=sum(len(batch.edits) for batch in batches), loss=loss, **means)


def validation_batches(lm: LanguageModel, batches: Sequence[Batch], first: int) -> list[Entered]:
    """The held-out facts at the first edited layer, once for a whole training."""
    return [enter(lm, batch, first) for batch in batches]


def _measure(lm: LanguageModel, editor: MendEditor, batch: Batch, entered: Entered) -> dict[str, torch.Tensor]:
    """Every number for each fact, in float64."""
    updates = updates_of(editor, batch_gradients(lm, batch, entered, editor))
    before = read_targets(lm, entered.paraphrases.run(lm), batch.paraphrases)
    with rows_updated(lm, updates):
        edit = read_targets(lm, entered.edits.run(lm), batch.edits)
        paraphrase = read_targets(lm, entered.paraphrases.run(lm), batch.paraphrases)
    base, edited = base_and_edited(lm, entered.locality, updates)
    numbers = {
        "prompt_nll": edit.nll,
        "paraphrase_nll": paraphrase.nll,
        "locality_kl": token_means((base.exp() * (base - edited)).sum(-1), entered.locality),
        "edit_success": edit.right,
        "paraphrase_success": paraphrase.right,
        "before": before.right,
        "kept": token_means((base.argmax(-1) == edited.argmax(-1)).float(), entered.locality),
        "drawdown": _right_tokens(batch, base) - _right_tokens(batch, edited),
    }
    return {name: values.double().cpu() for name, values in numbers.items()}


def _right_tokens(batch: Batch, log_probs: torch.Tensor) -> torch.Tensor:
    """Each locality text's share of next tokens that are the first choice; 0 for a text of one token."""
    best = iter(log_probs.argmax(-1).tolist())
    shares = []
    for ids in batch.locality:
        said = [next(best) for _ in ids]
        right = [guess == token for guess, token in zip(said, ids[1:], strict=False)]
        shares.append(sum(right) / max(len(right), 1))
    return torch.tensor(shares)
