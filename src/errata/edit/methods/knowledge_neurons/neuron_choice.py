"""Which neurons hold a fact: strong in one context, shared by enough contexts; each finished batch of them kept."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from errata.backends import LOCAL
from errata.core.parts import Advance, Backend, Part, complete, results
from errata.core.progress import SILENT, ProgressSink
from errata.edit.methods.knowledge_neurons.neuron_attribution import Attributions, Question, attributions
from errata.models import LanguageModel, fingerprint
from errata.models.run.packing import packs
from errata.store import digest, folder_of
from errata.store.cache import Cache, Entry, EntryStore
from errata.store.kept import NEURONS

# Prompts of facts are hardly ever longer.
_USUAL_TOKENS = 64

Neuron = tuple[int, int]  # layer, index


@dataclass(frozen=True, kw_only=True)
class Search:
    """How neurons are looked for; the fields of Knowledge Neurons' configuration, by the same names."""

    layers: tuple[int, ...]
    steps: int
    threshold: float
    share: float
    max_neurons: int


@dataclass(frozen=True)
class Held:
    """By fact, the neurons that hold it, with the signs of their activations.

    kept_seconds: what earlier runs spent on those that were found in the cache.
    """

    neurons: tuple[dict[Neuron, int], ...]
    kept_seconds: float = field(default=0.0, compare=False)


def strong_neurons(
    scores: Float64[Tensor, "layer d_mlp"], threshold: float
) -> tuple[Int[Tensor, "strong 2"], Float64[Tensor, " strong"]]:
    """(row, neuron) of the scores above threshold · the largest, and their share of it; none where none is positive."""
    largest = scores.max()
    places = ((scores > threshold * largest) & (largest > 0)).nonzero()
    return places, scores[places[:, 0], places[:, 1]] / largest


def shared_neurons(contexts: Sequence[Mapping[Neuron, float]], *, share: float, most: int) -> dict[Neuron, int]:
    """The neurons found in at least `share` of the contexts, and whether they are above or below zero there (1, −1).

    Each context gives the scores of its strong neurons, with the signs of their activations. Of the shared ones the
    `most` strongest stay, by the sum of their scores' sizes; of equal ones the lower. In the order of layers.
    """
    scores: dict[Neuron, list[float]] = defaultdict(list)
    for context in contexts:
        for neuron, score in context.items():
            scores[neuron].append(score)
    frequent = sorted(neuron for neuron, one in scores.items() if len(one) / len(contexts) >= share)
    strongest = sorted(frequent, key=lambda neuron: -sum(map(abs, scores[neuron])))[:most]
    return {neuron: 1 if sum(scores[neuron]) >= 0 else -1 for neuron in sorted(strongest)}


def collect_neurons(
    lm: LanguageModel,
    questions: Sequence[Sequence[Question]],
    search: Search,
    *,
    batch_size: int = 32,
    cache: Path | None = None,
    progress: ProgressSink = SILENT,
    backend: Backend = LOCAL,
) -> Held:
    """For each fact, asked in its contexts, the neurons that hold it.

    Questions of close lengths share a batch whose keys and values, once for each step, are at most those of
    `batch_size` prompts of 64 tokens. What a batch gave is kept: a run that is started again goes on after the last
    one, with the same bits.
    """
    rows = [(fact, question) for fact, contexts in enumerate(questions) for question in contexts]
    tokens = max(1, batch_size * _USUAL_TOKENS // search.steps)
    batches = packs([len(question.ids) for _, question in rows], most_tokens=tokens)
    asked = [tuple(rows[i][1] for i in batch) for batch in batches]
    parts = [
        Part(key, _Asked(one, search), len(search.layers) * len(one))
        for key, one in zip(_keys(lm, asked, search), asked, strict=True)
    ]
    store = EntryStore(Cache(folder_of(NEURONS, cache), progress.note))
    kept = [entry for part in parts if (entry := store.load(part.key)) is not None]
    complete(_scored, lm, parts, store, backend=backend, progress=progress, what="attribution", unit="prompt layers")
    by_row: dict[int, dict[Neuron, float]] = {}
    for batch, (tensors, _) in zip(batches, results(parts, store), strict=True):
        by_row |= dict(zip(batch, _by_question(tensors, len(batch)), strict=True))
    by_fact: list[list[dict[Neuron, float]]] = [[] for _ in questions]
    for i, (fact, _) in enumerate(rows):
        by_fact[fact].append(by_row[i])
    held = (shared_neurons(contexts, share=search.share, most=search.max_neurons) for contexts in by_fact)
    return Held(tuple(held), sum((float(about.get("seconds", 0.0)) for _, about in kept), 0.0))


@dataclass(frozen=True)
class _Asked:
    """Questions whose neurons are scored together."""

    questions: tuple[Question, ...]
    search: Search


def _scored(lm: LanguageModel, asked: _Asked, advance: Advance) -> Entry:
    """The strong neurons of the questions, with the seconds that it took."""
    began, search = time.monotonic(), asked.search
    attributed = attributions(lm, asked.questions, search.layers, steps=search.steps, advance=advance)
    tensors = _strong(attributed, search)
    return tensors, {"questions": len(asked.questions), "seconds": time.monotonic() - began}


def _keys(lm: LanguageModel, batches: Sequence[Sequence[Question]], search: Search) -> list[str]:
    """For each batch, the digest of everything that the scores of its questions depend on, down to the last bits."""
    model = fingerprint(lm, NEURONS)
    common = digest(model, lm.num_tokens, search.layers, search.steps, search.threshold)
    return [digest(common, [[list(question.ids), question.answer] for question in batch]) for batch in batches]


def _strong(attributed: Attributions, search: Search) -> dict[str, Tensor]:
    """The strong neurons of all questions in flat lists; a score has the sign of its activation."""
    layers = torch.tensor(search.layers)
    strong = [strong_neurons(one, search.threshold) for one in attributed.scores.cpu()]
    places = torch.cat([place for place, _ in strong])
    counts = torch.tensor([len(place) for place, _ in strong])
    questions = torch.arange(len(strong)).repeat_interleave(counts)
    signs = attributed.activations.cpu()[questions, places[:, 0], places[:, 1]].sign()
    return {
        "question": questions,
        "layer": layers[places[:, 0]],
        "neuron": places[:, 1],
        "score": torch.cat([score for _, score in strong]) * signs,
    }


def _by_question(tensors: Mapping[str, Tensor], count: int) -> list[dict[Neuron, float]]:
    by_question: list[dict[Neuron, float]] = [{} for _ in range(count)]
    columns = (tensors[name].tolist() for name in ("question", "layer", "neuron", "score"))
    for question, layer, neuron, score in zip(*columns, strict=True):
        by_question[question][layer, neuron] = score
    return by_question
