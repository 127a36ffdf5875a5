"""Drift on held-out text: what an edit does to everything else, told by every next-token distribution.

The unedited model's final hidden states are kept, not its logits: the head is never edited, so its distributions can be
made again, a block of positions at a time. Every number counts the positions that predict a token of the text, that is
all but each document's last. Equals full logits of both models (tests/reference/evaluation.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from errata.errors import NumericsError
from errata.evaluate.metrics import Metric
from errata.evaluate.text_states import blocks, hidden_states, log_probs, next_tokens, usable_rows
from errata.models import LanguageModel


@dataclass(frozen=True, kw_only=True)
class DriftScore:
    """Perplexity before and after, KL(before ‖ after) in nats, share of changed first choices in percent.

    Means over `positions`, with intervals over `documents`: positions of one text are not independent. That of a
    perplexity is its mean NLL's, times the perplexity (first order).
    """

    perplexity_before: Metric
    perplexity: Metric
    kl_drift: Metric
    tokens_changed: Metric
    positions: int
    documents: int

    def metrics(self) -> dict[str, Metric]:
        """What is said of the edited model, by key in METRICS."""
        return {"perplexity": self.perplexity, "kl_drift": self.kl_drift, "tokens_changed": self.tokens_changed}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        named = {"perplexity_before": self.perplexity_before, **self.metrics()}
        return {
            **{name: metric.value for name, metric in named.items()},
            "interval_95": {name: metric.interval for name, metric in named.items()},
            "positions": self.positions,
            "documents": self.documents,
        }


class Drift:
    """Made on the unedited model; `measure` asks the model as it is then, any number of times.

    `rows`: token ids of documents; what goes beyond the context is cut off. Holds a hidden state a position in memory.
    Raises InputError where there is nothing to predict, NumericsError where the model gives no finite number.
    """

    def __init__(self, lm: LanguageModel, rows: Sequence[Sequence[int]]) -> None:
        self.lm = lm
        self.rows = usable_rows(lm, rows, what="Drift")
        self._before = [hidden.cpu() for _, hidden in hidden_states(lm, self.rows)]

    def measure(self) -> DriftScore:
        """How far the model, as it is now, is from what it was."""
        sums = torch.zeros(len(self.rows), 4, dtype=torch.float64)
        document = 0
        for before, (batch, after) in zip(self._before, hidden_states(self.lm, self.rows), strict=True):
            lengths = torch.tensor([len(row) - 1 for row in batch])
            owners = torch.repeat_interleave(torch.arange(len(batch)), lengths) + document
            sums.index_add_(0, owners, self._compared(before, after, next_tokens(batch)))
            document += len(batch)
        return self._score(sums)

    @torch.no_grad()
    def _compared(
        self, before: Float[Tensor, "row d_head"], after: Float[Tensor, "row d_head"], targets: Int[Tensor, " row"]
    ) -> Float64[Tensor, "row 4"]:
        """Of each position: NLL before and after, KL, and whether the first choice changed."""
        device, found = self.lm.head_device, []
        for cut in blocks(self.lm, len(targets)):
            # Not batched with the others' rows: a product of the same shape gives the same bits, and no drift is 0.
            p, q = (self._log_probs(hidden[cut].to(device)) for hidden in (before, after))
            chosen = targets[cut].to(device)[:, None]
            nll = [-one.gather(1, chosen)[:, 0] for one in (p, q)]
            changed = (p.argmax(1) != q.argmax(1)).double()
            kl = (p.exp() * (p - q)).sum(1)
            found.append(torch.stack([*nll, kl, changed], dim=1).cpu())
        return torch.cat(found)

    def _log_probs(self, hidden: Float[Tensor, "row d_head"]) -> Float64[Tensor, "row d_vocab"]:
        found = log_probs(self.lm, hidden)
        if not found.isfinite().all():
            raise NumericsError(
                f"{self.lm.name} gives probabilities that are not finite on held-out text: its weights are broken "
                f"(remove the last patch, if one is applied), or {self.lm.dtype} is too narrow for it."
            )
        return found

    def _score(self, sums: Float64[Tensor, "document 4"]) -> DriftScore:
        counts = torch.tensor([float(len(row) - 1) for row in self.rows], dtype=torch.float64)
        nll_before, nll_after, kl, changed = (_mean(sums[:, i], counts) for i in range(4))
        return DriftScore(
            perplexity_before=_perplexity(nll_before),
            perplexity=_perplexity(nll_after),
            kl_drift=kl,
            tokens_changed=_percent(changed),
            positions=int(counts.sum()),
            documents=len(self.rows),
        )


def _mean(sums: Float64[Tensor, " document"], counts: Float64[Tensor, " document"]) -> Metric:
    """Mean over positions, Σs/Σn, with the interval of a ratio over documents: 1.96·√(D/(D−1)·Σ(s − mn)²)/Σn.

    With documents of one length that is 1.96·s/√D of their means.
    """
    total, documents = float(counts.sum()), len(counts)
    mean = float(sums.sum()) / total
    if documents < 2:
        return Metric(mean, None, documents)
    spread = float((sums - mean * counts).square().sum()) * documents / (documents - 1)
    return Metric(mean, 1.96 * math.sqrt(spread) / total, documents)


def _perplexity(nll: Metric) -> Metric:
    assert nll.value is not None
    try:
        value = math.exp(nll.value)
    except OverflowError as error:
        raise NumericsError(
            f"The text's mean NLL is {nll.value:.3g} nats: its perplexity is no finite number."
        ) from error
    return Metric(value, None if nll.interval is None else value * nll.interval, nll.count)


def _percent(share: Metric) -> Metric:
    assert share.value is not None
    return Metric(100 * share.value, None if share.interval is None else 100 * share.interval, share.count)
