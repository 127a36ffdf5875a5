"""The clean run and the corrupted ones, with every state that a restoration takes from them: each is run once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from errata.models import (
    KeyValues,
    LanguageModel,
    Place,
    embeddings_replaced,
    outputs_kept,
    run_layers,
    token_embeddings,
    widened,
)
from errata.tracing.prompts import Traced

# Rows of logits at a time: a vocabulary is wide.
_ROWS = 256
WRITERS = {"mlp": "down", "attention": "o"}


@dataclass(frozen=True)
class States:
    """What some runs of one prompt hold from the subject's first token on (`start`).

    entering: the residual stream entering each layer, and last the one that leaves the top.  written: what each layer's
    MLP and attention wrote, by name.  key_values: those of all positions, the ones before the subject included.
    hidden: the backbone's output at the last position.
    """

    start: int
    entering: tuple[Float[Tensor, "row pos d_model"], ...]
    written: dict[str, tuple[Float[Tensor, "row pos d_model"], ...]]
    key_values: KeyValues
    hidden: Float[Tensor, "row d_head"]


@torch.no_grad()
def clean_states(lm: LanguageModel, one: Traced) -> States:
    """The prompt as it is, one row."""
    before = _run(lm, one.ids[: one.first], None, None) if one.first else None
    return _run(lm, one.ids[one.first :], before.key_values if before else None, None, start=one.first)


@torch.no_grad()
def corrupted_states(
    lm: LanguageModel,
    one: Traced,
    clean: States,
    subject: Float[Tensor, "sample token d_embed"],
    *,
    batch_tokens: int,
) -> States:
    """The prompt with the subject's embeddings replaced, a row for each sample."""
    ids = one.ids[one.first :]
    prefix = _columns(clean.key_values, one.first)
    parts = []
    for rows in subject.split(max(1, batch_tokens // len(ids))):
        shared = None if prefix is None else prefix.rows(prefix.mask.new_zeros(len(rows)))
        parts.append(_run(lm, ids, shared, corrupted_embeddings(lm, ids, rows), start=one.first))
    return _joined(parts)


def corrupted_embeddings(
    lm: LanguageModel, ids: Sequence[int], subject: Float[Tensor, "sample token d_embed"]
) -> Float[Tensor, "sample pos d_embed"]:
    """What `embed_tokens` gives for ids that begin with the subject, the subject's embeddings replaced."""
    embedded = lm.embed_tokens(torch.tensor(ids, device=lm.embed_device))
    rest = embedded[subject.shape[1] :].expand(len(subject), -1, -1)
    return torch.cat([subject.to(embedded), rest], dim=1)


def _run(
    lm: LanguageModel,
    ids: Sequence[int],
    prefix: KeyValues | None,
    embeddings: Float[Tensor, "sample pos d_embed"] | None,
    *,
    start: int = 0,
) -> States:
    samples = 1 if embeddings is None else len(embeddings)
    rows = torch.tensor(ids, device=lm.embed_device).expand(samples, -1)
    layers = range(lm.num_layers)
    places = [Place(i, matrix) for matrix in WRITERS.values() for i in layers]
    embedded = token_embeddings(lm, rows) if embeddings is None else embeddings
    with outputs_kept(lm, places, samples) as kept, embeddings_replaced(lm, embedded):
        run = run_layers(
            lm, rows, torch.ones_like(rows), prefix=prefix, record=True, stop=lm.num_layers, tap_inputs=layers
        )
    assert run.hidden is not None
    assert run.key_values is not None
    return States(
        start=start,
        entering=(*(run.layer_inputs[i] for i in layers), run.hidden),
        written={name: tuple(kept[Place(i, matrix)] for i in layers) for name, matrix in WRITERS.items()},
        key_values=run.key_values,
        hidden=final_hidden(lm, run.hidden[:, -1]),
    )


def final_hidden(lm: LanguageModel, top: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_head"]:
    """The backbone's output for states that leave the top layer."""
    ones = torch.ones(len(top), 1, dtype=torch.long, device=top.device)
    hidden = run_layers(lm, top[:, None], ones, first=lm.num_layers).hidden
    assert hidden is not None
    return hidden[:, 0]


def answer_probability(lm: LanguageModel, hidden: Float[Tensor, "row d_head"], answer: int) -> Float64[Tensor, " row"]:
    """The probability of one token in each row: a softmax over the whole vocabulary, on the CPU."""
    found = []
    for rows in hidden.split(_ROWS):
        logits = widened(lm.logits(rows))
        found.append((logits[:, answer] - logits.logsumexp(1)).double().exp().cpu())
    return torch.cat(found)


def prefix_of(states: States, position: int, rows: Int[Tensor, " row"], layer: int) -> KeyValues | None:
    """Keys and values before `position`, of one layer, for chosen runs."""
    if not position:
        return None
    keys, values = states.key_values.layers[layer]
    chosen = {layer: (keys[rows, :, :position], values[rows, :, :position])}
    return KeyValues(chosen, torch.ones(len(rows), position, dtype=torch.long, device=rows.device))


def _columns(key_values: KeyValues, count: int) -> KeyValues | None:
    """The first `count` columns."""
    if not count:
        return None
    layers = {i: (keys[:, :, :count], values[:, :, :count]) for i, (keys, values) in key_values.layers.items()}
    return KeyValues(layers, key_values.mask[:, :count])


def _joined(parts: Sequence[States]) -> States:
    if len(parts) == 1:
        return parts[0]
    key_values = KeyValues(
        {
            i: tuple(torch.cat([part.key_values.layers[i][side] for part in parts]) for side in (0, 1))  # type: ignore[misc]
            for i in parts[0].key_values.layers
        },
        torch.cat([part.key_values.mask for part in parts]),
    )
    return States(
        parts[0].start,
        tuple(torch.cat(states) for states in zip(*(part.entering for part in parts), strict=True)),
        {
            name: tuple(torch.cat(layers) for layers in zip(*(part.written[name] for part in parts), strict=True))
            for name in WRITERS
        },
        key_values,
        torch.cat([part.hidden for part in parts]),
    )
