"""Log-probabilities of targets, many prompts at a time.

What the targets of one prompt share is run once: their longest common token prefix, as left-padded rows. Where a target
goes on beyond it, the rest is run against the prefix's keys and values. Logits exist only at positions that predict a
target's token.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import NumericsError
from errata.models import KeyValues, LanguageModel, TargetRow, pad_right, run_layers, shared_length
from errata.models.run.packing import batches_in_order

# Elements of a block of logits: 64 MiB in float32, whatever the batch and the vocabulary.
_LOGITS_AT_ONCE = 1 << 24


@dataclass(slots=True)
class RowScore:
    """Total log-probability of a row's target in nats, how many of its tokens are the model's first choice, and the
    model's first choice right after the prompt.
    """

    log_prob: float = 0.0
    right: int = 0
    first: int = -1


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that have their first `shared` input tokens in common; a row's last token is no input."""

    rows: tuple[TargetRow, ...]
    scores: tuple[RowScore, ...]
    shared: int

    @property
    def has_rest(self) -> bool:
        return any(len(row.ids) - 1 > self.shared for row in self.rows)


@dataclass(frozen=True, slots=True)
class _Reads:
    """Tokens to look up: for each place (row of the batch, column), which token ids, and whose scores they add to.

    An id of −1 asks for no token, only for the model's first choice.
    """

    wanted: dict[tuple[int, int], list[tuple[int, RowScore]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, row: TargetRow, score: RowScore, batch_row: int, reach: range, shift: int) -> None:
        """The target's tokens that are predicted at columns in `reach`, column c being the position c + shift."""
        for column in range(max(row.start - 1 - shift, reach.start), reach.stop):
            self.wanted[batch_row, column].append((row.ids[column + shift + 1], score))
        if (after_prompt := row.start - 1 - shift) in reach:
            self.wanted[batch_row, after_prompt].append((-1, score))


@torch.no_grad()
def score_rows(
    lm: LanguageModel,
    prompts: Sequence[Sequence[TargetRow]],
    *,
    batch_tokens: int,
    advance: Callable[[int], None],
) -> list[list[RowScore]]:
    """Scores of each prompt's rows, in the order given. A batch has at most `batch_tokens` tokens, or one row.

    `advance` receives the number of rows of each batch. Raises NumericsError where the model gives no finite number.
    """
    scores = [[RowScore() for _ in rows] for rows in prompts]
    groups = [group for rows, found in zip(prompts, scores, strict=True) for group in _groups(rows, found)]
    # Those that need keys and values kept stay together; equal lengths need no padding.
    groups.sort(key=lambda group: (group.has_rest, group.shared))
    for batch in batches_in_order(groups, lambda group: group.shared, batch_tokens):
        _score_batch(lm, batch, batch_tokens)
        advance(sum(len(group.rows) for group in batch))
    return scores


def _groups(rows: Sequence[TargetRow], scores: Sequence[RowScore]) -> Iterator[_Group]:
    first, *others = (row.ids[:-1] for row in rows)
    shared = min((shared_length(first, other) for other in others), default=len(first))
    if shared:
        yield _Group(tuple(rows), tuple(scores), shared)
        return
    for row, score in zip(rows, scores, strict=True):
        yield _Group((row,), (score,), len(row.ids) - 1)


def _score_batch(lm: LanguageModel, groups: Sequence[_Group], batch_tokens: int) -> None:
    width = max(group.shared for group in groups)
    padded = [[0] * (width - group.shared) + list(group.rows[0].ids[: group.shared]) for group in groups]
    mask = [[0] * (width - group.shared) + [1] * group.shared for group in groups]
    run = run_layers(
        lm,
        torch.tensor(padded, device=lm.embed_device),
        torch.tensor(mask, device=lm.embed_device),
        record=any(group.has_rest for group in groups),
    )
    reads = _Reads()
    rests: list[tuple[int, int, TargetRow, RowScore]] = []
    for i, group in enumerate(groups):
        shift = group.shared - width
        for row, score in zip(group.rows, group.scores, strict=True):
            reads.add(row, score, i, range(-shift, width), shift)
            if len(row.ids) - 1 > group.shared:
                rests.append((i, group.shared, row, score))
    assert run.hidden is not None
    _look_up(lm, run.hidden, reads)
    if run.key_values is not None:
        _score_rests(lm, run.key_values, rests, batch_tokens)


def _score_rests(
    lm: LanguageModel,
    prefixes: KeyValues,
    rests: list[tuple[int, int, TargetRow, RowScore]],
    batch_tokens: int,
) -> None:
    """What follows the shared prefix, where anything does."""
    width = prefixes.mask.shape[1]
    rests.sort(key=lambda rest: len(rest[2].ids) - rest[1])
    for batch in batches_in_order(rests, lambda rest: width + len(rest[2].ids) - 1 - rest[1], batch_tokens):
        index = torch.tensor([i for i, *_ in batch], device=prefixes.mask.device)
        prefix = prefixes.rows(index, max(shared for _, shared, *_ in batch))
        ids, mask = pad_right([row.ids[shared:-1] for _, shared, row, _ in batch], device=lm.embed_device)
        hidden = run_layers(lm, ids, mask, prefix=prefix).hidden
        assert hidden is not None
        reads = _Reads()
        for i, (_, shared, row, score) in enumerate(batch):
            reads.add(row, score, i, range(len(row.ids) - 1 - shared), shared)
        _look_up(lm, hidden, reads)


def _look_up(lm: LanguageModel, hidden: Float[Tensor, "batch pos d_head"], reads: _Reads) -> None:
    """Add what is read to the scores; a place that several targets need is put through the head once."""
    places = list(reads.wanted)
    block = max(1, _LOGITS_AT_ONCE // lm.d_vocab)
    for at in range(0, len(places), block):
        chosen = places[at : at + block]
        rows, columns = torch.tensor(chosen, device=hidden.device).T
        logits = lm.logits(hidden[rows, columns]).float()
        entries = [(i, *read) for i, place in enumerate(chosen) for read in reads.wanted[place]]
        slots, tokens = torch.tensor([entry[:2] for entry in entries], device=logits.device).T
        best = logits.argmax(-1)[slots].tolist()
        log_probs = torch.log_softmax(logits, dim=-1)[slots, tokens.clamp_min(0)]
        if not log_probs.isfinite().all():
            raise NumericsError(
                f"{lm.name} gives probabilities that are not finite: its weights are broken (remove the last patch, if "
                f"one is applied), or {lm.dtype} is too narrow for it (load it as float32)."
            )
        for (_, token, score), log_prob, choice in zip(entries, log_probs.tolist(), best, strict=True):
            if token < 0:
                score.first = choice
            else:
                score.log_prob += log_prob
                score.right += choice == token
