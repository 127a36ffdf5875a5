"""Ranges of layers from causal tracing: where subjects' states need their MLPs (Meng et al. 2023, section 4)."""

from collections.abc import Sequence
from pathlib import Path

from errata.core.progress import ProgressSink
from errata.core.words import counted
from errata.errors import InputError
from errata.facts import Fact
from errata.jobs.trace_job import trace_facts
from errata.models import LanguageModel
from errata.tracing import LayerRange, config_of, propose_layers
from errata.tracing.known import own_answers
from errata.tracing.prompts import Traced, traced_fact

# Ranges that share a last layer share their target values: of each the best one is proposed.
_LASTS = 3
# Half the published number: ranges are compared, not reported.
_SAMPLES = 5


def traced_ranges(
    lm: LanguageModel, facts: Sequence[Fact], folder: Path, *, most: int, seed: int, progress: ProgressSink
) -> list[LayerRange]:
    """The best range for each of a few last layers, from the first `most` facts that the model knows; best first.

    None where it knows none of them, or their subjects end their prompts. Traces are kept in `folder`.
    """
    answered = _answered(lm, facts)[:most]
    if not answered:
        progress.note(f"{lm.name} knows none of the {counted(len(facts), 'fact')}, so tracing cannot propose layers.")
        return []
    average = trace_facts(
        lm, answered, out=folder, progress=progress,
        kinds=("hidden",), tokens="last subject", severed="last subject", samples=_SAMPLES, seed=seed,
    )  # fmt: skip
    try:
        ranges = propose_layers(average)
    except InputError:
        progress.note("The known facts' subjects end their prompts, so tracing cannot propose layers.")
        return []
    best: dict[int, LayerRange] = {}
    for one in ranges:
        best.setdefault(one.last, one)
    return list(best.values())[:_LASTS]


def _answered(lm: LanguageModel, facts: Sequence[Fact]) -> list[Fact]:
    """The facts whose own answer the model gives."""
    pairs: list[tuple[Fact, Traced]] = []
    for fact in facts:
        try:
            pairs.append((fact, traced_fact(lm, fact)))
        except InputError:  # this one cannot be traced; others can
            continue
    answers = own_answers(lm, [one for _, one in pairs], batch_tokens=config_of({}).batch_tokens)
    return [fact for (fact, one), token in zip(pairs, answers, strict=True) if token == one.answer]
