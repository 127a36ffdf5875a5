"""A model's state measured on many facts, in chunks that are kept: a stopped run goes on from the last of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from errata.core.parts import Advance, Backend, Part, complete, results
from errata.core.progress import ProgressSink
from errata.evaluate import FactScore
from errata.evaluate.generation import GenerationConfig, generate, generation_prompts
from errata.facts import Fact
from errata.jobs.eval_rows import STATE, Row, fact_scores, measured_rows
from errata.models import LanguageModel, fingerprint
from errata.store import digest
from errata.store.kept import EVALUATIONS
from errata.store.tables import Parts, TableStore

# Some seconds of a small model's work on a CPU: what a stopped run loses at most.
CHUNK = 128
TEXTS = {"id": "string", "number": "int32", "prompt": "string", "text": "string"}


@dataclass(frozen=True)
class Chunk:
    """Facts that are measured together; `prompts` generation prompts came before them."""

    facts: tuple[Fact, ...]
    prompts: int

    @cached_property
    def digest(self) -> str:
        return digest(list(self.facts))


def chunks_of(facts: Sequence[Fact], size: int = CHUNK) -> list[Chunk]:
    """The facts in chunks; which ones depends on their order alone."""
    cut = [tuple(facts[at : at + size]) for at in range(0, len(facts), size)]
    counts = [sum(len(generation_prompts(fact)) for fact in part) for part in cut]
    return [Chunk(part, before) for part, before in zip(cut, accumulate(counts, initial=0), strict=False)]


def model_digest(lm: LanguageModel) -> str:
    """All that a measured number depends on beside the facts."""
    return fingerprint(lm, EVALUATIONS)


@dataclass(frozen=True)
class State:
    """One state of the model, "before" or "after": its name, and the key of all that is kept of it."""

    name: str
    key: str
    tables: Parts

    def measure(self, lm: LanguageModel, chunks: Sequence[Chunk], progress: ProgressSink, backend: Backend) -> None:
        """Measure the chunks that are not kept yet on the model as it is, which must be in this state."""
        complete(
            _measured, lm, self._prompt_parts(chunks), self._prompts, backend=backend, progress=progress,
            what=f"evaluation {self.name}", unit="facts",
        )  # fmt: skip

    def write(
        self,
        lm: LanguageModel,
        chunks: Sequence[Chunk],
        config: GenerationConfig,
        progress: ProgressSink,
        backend: Backend,
    ) -> None:
        """Generate the texts of the chunks that are not kept yet."""
        complete(
            _written, lm, self._text_parts(chunks, config), self._texts, backend=backend, progress=progress,
            what=f"generation {self.name}", unit="facts",
        )  # fmt: skip

    def rows(self, chunk: Chunk) -> list[Row]:
        """The measured rows of a chunk."""
        return next(results(self._prompt_parts([chunk]), self._prompts))

    def scores(self, chunk: Chunk) -> list[FactScore]:
        """The scores of a chunk."""
        return fact_scores(chunk.facts, self.rows(chunk))

    def texts(self, chunk: Chunk, config: GenerationConfig) -> list[tuple[str, ...]]:
        """The texts of each fact of a chunk."""
        left = iter(next(results(self._text_parts([chunk], config), self._texts)))
        return [tuple(next(left)["text"] for _ in generation_prompts(fact)) for fact in chunk.facts]

    @property
    def _prompts(self) -> TableStore:
        return TableStore(self.tables, STATE)

    @property
    def _texts(self) -> TableStore:
        return TableStore(self.tables, TEXTS)

    def _prompt_parts(self, chunks: Sequence[Chunk]) -> list[Part[Chunk]]:
        return [Part(digest(self.key, "prompts", chunk.digest), chunk, len(chunk.facts)) for chunk in chunks]

    def _text_parts(
        self, chunks: Sequence[Chunk], config: GenerationConfig
    ) -> list[Part[tuple[Chunk, GenerationConfig]]]:
        # The batch moves last bits at most, as it does in every measurement.
        settings = [config.tokens, config.top_k, config.seed]
        return [
            Part(digest(self.key, "texts", [*settings, chunk.prompts], chunk.digest), (chunk, config), len(chunk.facts))
            for chunk in chunks
        ]


def _measured(lm: LanguageModel, chunk: Chunk, advance: Advance) -> list[Row]:
    rows = measured_rows(lm, chunk.facts)[1]
    advance(len(chunk.facts))
    return rows


def _written(lm: LanguageModel, asked: tuple[Chunk, GenerationConfig], advance: Advance) -> list[Row]:
    chunk, config = asked
    rows = _text_rows(chunk.facts, generate(lm, chunk.facts, config, first_index=chunk.prompts))
    advance(len(chunk.facts))
    return rows


def text_columns(states: Sequence[str]) -> dict[str, str]:
    """The columns of `text_rows` and their types."""
    shared = {"id": "string", "relation": "string", "number": "int32", "prompt": "string"}
    return shared | {f"{state}_text": "string" for state in states}


def text_rows(facts: Sequence[Fact], states: dict[str, list[tuple[str, ...]]]) -> Iterator[dict[str, Any]]:
    """One row a generation prompt, the texts of all states side by side."""
    for i, fact in enumerate(facts):
        for number, prompt in enumerate(generation_prompts(fact)):
            shared = {"id": fact.id, "relation": fact.relation, "number": number + 1, "prompt": prompt}
            yield shared | {f"{state}_text": texts[i][number] for state, texts in states.items()}


def _text_rows(facts: Sequence[Fact], texts: Sequence[Sequence[str]]) -> list[Row]:
    return [
        {"id": fact.id, "number": number, "prompt": prompt, "text": text}
        for fact, found in zip(facts, texts, strict=True)
        for number, (prompt, text) in enumerate(zip(generation_prompts(fact), found, strict=True), 1)
    ]
