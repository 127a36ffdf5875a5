"""Causal tracing of one prompt (Meng et al. 2022): corrupt the subject, restore one state, see what comes back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted, visible
from errata.errors import ConfigError, NumericsError
from errata.models import MERGED, LanguageModel, takes_model, token_texts
from errata.tracing.attribution import attributions
from errata.tracing.config import SEVERED, Kind, TraceConfig
from errata.tracing.corruption import corrupted_subject, subject_std
from errata.tracing.prompts import Traced, traced_prompt
from errata.tracing.restore import cell_of, restored_probabilities
from errata.tracing.result import Trace
from errata.tracing.runs import States, answer_probability, clean_states, corrupted_states


@takes_model
def trace(
    lm: LanguageModel,
    prompt: str,
    subject: str,
    answer: str | None = None,
    *,
    chat: bool = False,
    swap: Sequence[str] = (),
    progress: ProgressSink = SILENT,
    **options: Any,
) -> Trace:
    """What each state of a prompt does for its answer: one restored at a time while the subject is corrupted.

    `answer`: its first token is what is asked for; default: the model's own next token.  `chat`: the prompt is a
    user's message, the answer the beginning of the reply.  `options`: those of
    TraceConfig (kinds, severed, samples, noise, window, corruption, seed, exact, batch_tokens); the noise is measured
    in standard deviations of this subject's own embeddings.  `swap`: other subjects, for corruption="swap".
    `progress` hears of the positions run.  Raises InputError, ConfigError, NumericsError.
    """
    config = config_of(options)
    one = traced_prompt(lm, prompt, subject, answer, chat=chat)
    with progress.stage("trace", positions_run(one, config), "positions") as advance:
        return trace_prompt(lm, one, config, std=subject_std(lm, [one]), others=swap, advance=advance)


def config_of(options: dict[str, Any]) -> TraceConfig:
    """The settings; ConfigError for an unknown name."""
    known = [field.name for field in fields(TraceConfig)]
    if unknown := [name for name in options if name not in known]:
        raise ConfigError(f"Unknown option {unknown[0]!r} of a trace; known: {', '.join(known)}.")
    if "kinds" in options:
        options = {**options, "kinds": tuple(options["kinds"])} if not isinstance(options["kinds"], str) else options
    return TraceConfig(**options)


@torch.no_grad()
def trace_prompt(
    lm: LanguageModel,
    one: Traced,
    config: TraceConfig,
    *,
    std: float,
    others: Sequence[str] = (),
    advance: Callable[[int], None] = lambda amount: None,  # noqa: ARG005
) -> Trace:
    """The trace of a prepared prompt, noise measured in `std`; `advance` hears of `positions_run` bit by bit.

    Raises NumericsError where the answer's probability is not finite.
    """
    subject = corrupted_subject(lm, one, config, std, others)
    clean = clean_states(lm, one)
    corrupted = corrupted_states(lm, one, clean, subject, batch_tokens=config.batch_tokens)
    own = int(lm.logits(clean.hidden)[0, : lm.num_tokens].argmax())
    answer = own if one.answer is None else one.answer
    before, samples = (answer_probability(lm, states.hidden, answer) for states in (clean, corrupted))
    _expect_finite(lm, before, samples)
    base = math.fsum(samples.tolist()) / len(samples)
    restored = _restored(lm, one, clean, corrupted, answer, config, base, advance) if config.exact else {}
    attribution = attributions(lm, one, clean, subject, answer, config)
    if not config.exact:
        advance(len(one.ids))
    texts = token_texts(lm.tokenizer, sorted({*one.ids, own, answer}))
    result = Trace(
        model=lm.name,
        prompt=one.text,
        subject=one.subject,
        subject_tokens=(one.first, one.last),
        answer=texts[answer],
        answer_id=answer,
        own=texts[own],
        own_id=own,
        ids=one.ids,
        tokens=tuple(texts[i] for i in one.ids),
        segments=one.segments(),
        config=config,
        std=std,
        clean=float(before[0]),
        samples=tuple(samples.tolist()),
        restored=restored,
        attribution=attribution,
    )
    return _with_notes(result, one)


def _expect_finite(lm: LanguageModel, before: Tensor, samples: Tensor) -> None:
    if not bool(before.isfinite().all() and samples.isfinite().all()):
        raise NumericsError(
            f"The answer's probability is not finite: {lm.dtype} is too narrow for {lm.name} (load it as float32), or "
            "its weights are broken."
        )


def restored_positions(one: Traced, config: TraceConfig) -> Sequence[int]:
    """The tokens at which states are restored."""
    return range(one.first, len(one.ids)) if config.tokens == "all" else [one.last]


def positions_run(one: Traced, config: TraceConfig) -> int:
    """What a trace takes its time for: each restoration runs its token and all later ones; attribution the prompt."""
    return sum(len(one.ids) - at for at in restored_positions(one, config)) if config.exact else len(one.ids)


def _restored(
    lm: LanguageModel,
    one: Traced,
    clean: States,
    corrupted: States,
    answer: int,
    config: TraceConfig,
    base: float,
    advance: Callable[[int], None],
) -> dict[Kind, Float64[Tensor, "layer pos"]]:
    """Mean restored probabilities of every kind; before the subject the mean corrupted one itself, `base`."""
    shape = (lm.num_layers, len(one.ids))
    by_kind: dict[Kind, Tensor] = {kind: torch.full(shape, base, dtype=torch.float64) for kind in config.restored}
    for kind in SEVERED:
        if kind in by_kind and config.severed == "last subject":
            by_kind[kind][:] = torch.nan
    layers = range(lm.num_layers)
    positions = restored_positions(one, config)
    if config.tokens != "all":
        for cells in by_kind.values():
            cells[:, one.first :] = torch.nan
    for position in positions:
        kinds = [k for k in config.restored if k in config.kinds or config.severed == "all" or position == one.last]
        cells = [cell_of(kind, layer, config.window, lm.num_layers) for kind in kinds for layer in layers]
        values = restored_probabilities(
            lm, clean, corrupted, position, cells, answer, batch_tokens=config.batch_tokens
        ).mean(1)
        for kind, own in zip(kinds, values.split(lm.num_layers), strict=True):
            by_kind[kind][:, position] = own
        advance(len(one.ids) - position)
    return by_kind


def _with_notes(result: Trace, one: Traced) -> Trace:
    """The trace with what a reader must know about it."""
    notes = []
    said = visible(result.answer)
    if one.answer_tokens > 1:
        only = ", only the space before the rest" if not result.answer.strip() else ""
        notes.append(f"The answer has {one.answer_tokens} tokens; its first, {said}{only}, is what is traced.")
    if one.merged:
        notes.append(f"{MERGED[0].upper()}{MERGED[1:]}.")
    if one.last == len(one.ids) - 1:
        notes.append("The subject ends the prompt: its last token is the last token too, which gives the answer.")
    if result.answer_id != result.own_id:
        notes.append(
            f"The model does not give this answer: its own next token is {visible(result.own)}. Traced all the same."
        )
    if result.corrupted >= result.clean:
        notes.append(
            "Corrupting the subject did not make the answer less likely: there is no effect that restoring could "
            "bring back."
        )
    if len(result.samples) < result.config.samples:
        zeros = result.config.corruption == "zero"
        why = "zeros are the same every time" if zeros else "no further subject was given that fits"
        notes.append(f"{counted(len(result.samples), 'corrupted run')}: {why}.")
    return replace(result, notes=tuple(notes))
