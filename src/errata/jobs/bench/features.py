"""What can be measured of a fact before it is edited: the candidates for saying which edits will fail."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from errata.core.progress import SILENT, ProgressSink
from errata.edit import bare_keys
from errata.evaluate import FactScore
from errata.facts import Fact
from errata.models import LanguageModel, Place, encode, encode_targets, pad_right, run_backward
from errata.stats import SecondMoments

FEATURES = {
    "target_rank": "log₁₀ of the rank of the target's first token after the prompt",
    "target_nll": "NLL of the target after the prompt, nats a token",
    "vjp_norm": "norm of the VJP of that token's NLL at the edited MLP's output, at the subject",
    "key_norm": "kᵀC⁻¹k, the key's squared norm where the corpus's keys are white",
    "subject_tokens": "tokens of the subject",
    "object_prior": "NLL of the target after other subjects' prompts (neighbours), nats a token",
    "key_similarity": "largest cosine with another fact's key in C⁻¹",
}
_BATCH = 16


def features(
    lm: LanguageModel,
    facts: Sequence[Fact],
    before: Mapping[str, FactScore],
    layer: int,
    moments: SecondMoments,
    *,
    together: bool,
    progress: ProgressSink = SILENT,
) -> Float64[Tensor, "fact feature"]:
    """The features of `FEATURES`, in its order, on the unedited model; NaN where a fact lacks what one needs.

    `before`: the unedited model's scores by fact id.  `layer`: whose MLP is edited; `moments` hold its keys'.
    `together`: whether the facts are edited together; else there is no other key to be similar to.
    """
    keys = bare_keys(lm, facts, layer).double().cpu()
    whitened = torch.cholesky_solve(keys.T, moments.cholesky(layer).factor.cpu()).T
    gram = keys @ whitened.T
    norms = gram.diagonal().clamp_min(1e-30)
    cosines = gram / (norms[:, None] * norms[None]).sqrt()
    cosines.fill_diagonal_(-1)
    alone = torch.full((len(facts),), float("nan"), dtype=torch.float64)
    similar = cosines.amax(1) if together and len(facts) > 1 else alone
    ranks, vjps = _ranks_and_vjps(lm, facts, layer, progress)
    subjects = [len(encoding.ids) for encoding in encode(lm.tokenizer, [fact.subject for fact in facts])]
    scores = [before[fact.id] for fact in facts]
    columns = {
        "target_rank": ranks.log10(),
        "target_nll": [score.prompt.new.nll for score in scores],
        "vjp_norm": vjps,
        "key_norm": norms,
        "subject_tokens": subjects,
        "object_prior": [_prior(score) for score in scores],
        "key_similarity": similar,
    }
    assert list(columns) == list(FEATURES)
    return torch.stack([torch.as_tensor(column, dtype=torch.float64) for column in columns.values()], dim=1)


def _prior(score: FactScore) -> float:
    values = [neighbour.new.nll for neighbour in score.neighbours]
    return sum(values) / len(values) if values else float("nan")


def _ranks_and_vjps(
    lm: LanguageModel, facts: Sequence[Fact], layer: int, progress: ProgressSink
) -> tuple[Float64[Tensor, " fact"], Float64[Tensor, " fact"]]:
    """Rank (1 is the model's own answer) of each target's first token, and the norm of its VJP at the subject."""
    rows = encode_targets(lm.tokenizer, [fact.wanted for fact in facts])
    place = Place(layer, "down")
    ranks: list[Tensor] = []
    norms: list[Tensor] = []
    with progress.stage("features", len(facts), "facts") as advance:
        for at in range(0, len(facts), _BATCH):
            chosen = rows[at : at + _BATCH]
            ids, mask = pad_right([row.ids[: row.start] for row, _ in chosen], device=lm.embed_device)
            last = [row.start - 1 for row, _ in chosen]
            targets = torch.tensor([row.target_ids[0] for row, _ in chosen], device=lm.head_device)
            spans = [fact.subject_span for fact in facts[at : at + _BATCH]]
            subject = [encoding.tokens_over(*span)[1] for (_, encoding), span in zip(chosen, spans, strict=True)]
            each = list(range(len(chosen)))

            def nll(hidden: Tensor, each=each, last=last, targets=targets) -> Tensor:
                logits = lm.logits(hidden[each, last]).float()
                return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

            run = run_backward(lm, ids, mask, [place], nll)
            logits = lm.logits(run.hidden[each, last])[:, : lm.num_tokens]
            ranks.append(1 + (logits > logits.gather(1, targets[:, None])).sum(1).cpu())
            norms.append(run.vjps[place][each, subject].double().norm(dim=1).cpu())
            advance(len(chosen))
    return torch.cat(ranks).double(), torch.cat(norms)
