"""Attribution patching: what restorations would do to first order, all of them from one backward of the corrupted runs.

(clean − corrupted state) · ∂p(answer)/∂state on the corrupted run, a mean over the samples (Nanda 2023; Syed et al.
2023). A window's MLPs or attentions give the sum of their layers' products.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.models import LanguageModel, Place, embeddings_replaced, run_backward, widened
from errata.models.run.backward import Backward
from errata.tracing.config import Kind, TraceConfig, window_of
from errata.tracing.prompts import Traced
from errata.tracing.runs import WRITERS, States, corrupted_embeddings


def attributions(
    lm: LanguageModel,
    one: Traced,
    clean: States,
    subject: Float[Tensor, "sample token d_embed"],
    answer: int,
    config: TraceConfig,
) -> dict[Kind, Float64[Tensor, "layer pos"]]:
    """The first-order effect of every restoration of the kinds asked for; 0 before the subject."""
    totals: dict[Kind, Tensor] = {
        kind: torch.zeros(lm.num_layers, len(one.ids), dtype=torch.float64) for kind in config.kinds
    }
    for rows in subject.split(max(1, config.batch_tokens // len(one.ids))):
        run = _backward(lm, one, rows, answer)
        for kind, products in _products(lm, run, clean, config).items():
            totals[kind][:, one.first :] += products
    return {kind: total / len(subject) for kind, total in totals.items()}


def _backward(lm: LanguageModel, one: Traced, subject: Float[Tensor, "sample token d_embed"], answer: int) -> Backward:
    before = lm.embed_tokens(torch.tensor(one.ids[: one.first], dtype=torch.long, device=lm.embed_device))
    after = corrupted_embeddings(lm, one.ids[one.first :], subject)
    embeddings = torch.cat([before.expand(len(subject), -1, -1), after], dim=1)
    ids = torch.tensor(one.ids, device=lm.embed_device).expand(len(subject), -1)
    places = [Place(i, matrix) for matrix in WRITERS.values() for i in range(lm.num_layers)]

    def probability(hidden: Float[Tensor, "batch pos d_head"]) -> Float[Tensor, " batch"]:
        return widened(lm.logits(hidden[:, -1])).softmax(1)[:, answer]

    with embeddings_replaced(lm, embeddings.detach()):
        return run_backward(lm, ids, torch.ones_like(ids), places, probability)


def _products(
    lm: LanguageModel, run: Backward, clean: States, config: TraceConfig
) -> dict[Kind, Float64[Tensor, "layer pos"]]:
    """Sums over the rows; positions from the subject's first token on."""
    found: dict[Kind, Tensor] = {}
    if "hidden" in config.kinds:
        # A layer's output is what enters the next one.
        pairs = zip(clean.entering[1:], run.states[1:], run.state_vjps[1:], strict=True)
        found["hidden"] = torch.stack([_product(clean.start, *pair) for pair in pairs])
    for kind in ("mlp", "attention"):
        if kind in config.kinds:
            places = [Place(i, WRITERS[kind]) for i in range(lm.num_layers)]
            single = torch.stack(
                [_product(clean.start, clean.written[kind][p.layer], run.outputs[p], run.vjps[p]) for p in places]
            )
            windows = [window_of(i, config.window, lm.num_layers) for i in range(lm.num_layers)]
            found[kind] = torch.stack([single[w.start : w.stop].sum(0) for w in windows])
    return found


def _product(
    start: int,
    clean: Float[Tensor, "1 tail d_model"],
    corrupted: Float[Tensor, "row pos d_model"],
    vjp: Float[Tensor, "row pos d_model"],
) -> Float64[Tensor, " tail"]:
    difference = clean.double() - corrupted[:, start:].double()
    return (difference * vjp[:, start:].double()).sum(2).sum(0).cpu()
