"""Second moments as a job: what will be done and how long it takes, then the work, then what came out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted
from errata.jobs.terminal_progress import duration
from errata.stats import (
    Corpus,
    MomentRequest,
    SecondMoments,
    compute,
    default_corpus,
    open_corpus,
    prepare,
    seconds_per_token,
)

if TYPE_CHECKING:
    from errata.models import LanguageModel

# A trial to estimate less work than this would take longer than the work.
_WORTH_A_TRIAL = 5_000


def run_stats(
    lm: "LanguageModel",
    layers: Sequence[int],
    *,
    tokens: int,
    corpus: Corpus | str | Path | Sequence[str | Path] | None = None,
    field: str = "text",
    seed: int = 0,
    max_length: int = 512,
    batch_tokens: int = 4096,
    flush_seconds: float = 30.0,
    cache: Path | None = None,
    progress: ProgressSink = SILENT,
) -> SecondMoments:
    """Second moments of `layers` over `tokens` tokens, announced beforehand and reported through `progress`.

    `corpus`: an open one, or what `open_corpus` takes (with `field`), or None for what suits the model (`seed`: of its
    own samples).
    Options and errors as in `stats.second_moments`.
    """
    if corpus is not None and not isinstance(corpus, Corpus):
        corpus = open_corpus(corpus, field=field, notify=progress.note)
    given, corpus = corpus is not None, default_corpus(lm) if corpus is None else corpus
    request = prepare(
        lm, layers, corpus=corpus, tokens=tokens, seed=seed, max_length=max_length, cache=cache, notify=progress.note
    )
    for line in announcement(request, corpus, given=given):
        progress.note(line)
    moments = compute(request, batch_tokens=batch_tokens, flush_seconds=flush_seconds, progress=progress)
    progress.note(
        f"Second moments over {counted(moments.tokens, 'token')} of {counted(moments.documents, 'document')} are ready."
    )
    return moments


def announcement(request: MomentRequest, corpus: Corpus, *, given: bool) -> list[str]:
    """What a request will do, in lines: layers, tokens, documents, what is done already, time and place."""
    lm, layers = request.lm, ", ".join(map(str, request.layers))
    lines = [
        f"Second moments of {lm.name}, layers {layers} (d_mlp {lm.d_mlp:,}): {counted(request.tokens, 'token')} of "
        f"{request.source.name}, {_documents(corpus)}."
    ]
    if not given:
        lines.append(f"No corpus was given: {corpus.name} will do.")
    tokens, kept = request.available_tokens, request.kept_tokens()
    left = tokens - min(kept.values())
    if left == 0:
        return [*lines, "All of it was computed before and is kept."]
    if any(kept.values()):
        done = ", ".join(f"layer {layer}: {count:,}" for layer, count in kept.items() if count)
        lines.append(f"Tokens done before: {done}.")
    if left >= _WORTH_A_TRIAL:
        seconds = seconds_per_token(request)
        lines.append(f"About {duration(left * seconds)} on {lm.device}, {1 / seconds:,.0f} tokens a second.")
    return [*lines, f"Kept in {request.store.cache.folder}."]


def _documents(corpus: Corpus) -> str:
    if corpus.sampled:
        return "sampled as needed"
    documents = counted(corpus.checked, "document")
    return documents if corpus.complete else f"more than {documents}"
