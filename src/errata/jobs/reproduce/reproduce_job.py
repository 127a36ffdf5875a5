"""Every experiment of the Backward Lens paper on one model, measured in one resumable run."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from errata.backends import LOCAL
from errata.checks.selection import prepared_facts
from errata.core.parts import Backend, Part, Work, complete, results
from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted
from errata.errors import ConfigError, CorpusError, InputError
from errata.evaluate.perplexity import perplexity
from errata.facts import Fact, FactsLike, taken
from errata.jobs.held_out import corpus_rows
from errata.jobs.reproduce.experiments import (
    Flips,
    Gradients,
    Mechanism,
    Row,
    flip_rows,
    gradient_rows,
    mechanism_rows,
)
from errata.lens import MODES, BackwardLens, backward_lens
from errata.lens.losses import prepare
from errata.models import LanguageModel, facts_in_chat, fingerprint, takes_model
from errata.models.run.generate import sample_ids
from errata.models.text.segments import segments
from errata.stats import open_corpus
from errata.stats.samples import start_token
from errata.store import digest
from errata.store.json_records import Records
from errata.store.kept import EXPERIMENTS
from errata.store.run_folder import check_records_folder

# Prompts whose gradients are taken together.
_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """n: prompts.  mode: of the lens.  flip_prompts, flip_layers: for how many prompts, and at how many evenly spread
    layers, the smallest flipping learning rate is searched.  mechanism_prompts, neuron_prompts: likewise.  text_tokens:
    of held-out text for perplexity.  lr: of the step whose effects are predicted.
    """

    n: int = 100
    mode: str = "paper"
    flip_prompts: int = 10
    flip_layers: int = 10
    mechanism_prompts: int = 5
    neuron_prompts: int = 10
    text_tokens: int = 500
    lr: float = 0.01

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode={self.mode!r}: choose {', '.join(MODES)}.")
        for name in ("n", "flip_layers", "text_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        for name in ("flip_prompts", "mechanism_prompts", "neuron_prompts"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, found {getattr(self, name)}.")
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"lr must be positive, found {self.lr}.")


@dataclass(frozen=True)
class Reproduction:
    """What the summary, tables and figures of a reproduction are made of.

    lens: of the first prompt.  measured: each prompt's numbers.  flips, steps: of learning rates and of single steps,
    a row for each prompt and layer.  about: what the run was.
    """

    out: Path
    lens: BackwardLens
    measured: list[dict[str, Any]]
    flips: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    about: dict[str, Any]


@takes_model
def reproduce(
    lm: LanguageModel,
    facts: FactsLike,
    out: Path,
    *,
    options: ReproduceOptions,
    corpus: str | None = None,
    field: str = "text",
    skip_bad: bool = False,
    progress: ProgressSink = SILENT,
    backend: Backend = LOCAL,
) -> Reproduction:
    """Run what is missing in `out`; `reports.reproduce` makes tables, figures and a summary of it.

    Numbers are kept as soon as they are known, those of gradients by eight prompts, under a digest of model, prompts
    and options: a run that was stopped goes on from there, to the same bits. Raises FactsError with every record that
    cannot be looked at, unless `skip_bad`.
    """
    given = taken(facts, skip_bad=skip_bad, notify=progress.note)
    pairs, _ = prepared_facts(
        facts_in_chat(lm, given.facts[: options.n]), lambda fact: _check(lm, fact),
        action="looked at", places=given.places, skip_bad=skip_bad, notify=progress.note,
    )  # fmt: skip
    chosen = [fact for fact, _ in pairs]
    texts = _held_out(lm, corpus, field, options.text_tokens)
    run = _Run(lm, out, options, progress, backend)
    progress.note(
        f"Backward Lens on {lm.name}: {counted(len(chosen), 'prompt')}; learning rates for "
        f"{min(options.flip_prompts, len(chosen))} of them at {counted(len(run.flip_layers), 'layer')}; results in "
        f"{out}."
    )
    measured = run.gradients(chosen)
    flips = run.flips(chosen[: options.flip_prompts], texts)
    steps = run.mechanisms(chosen[: options.mechanism_prompts])
    lens = backward_lens(lm, chosen[0].text, chosen[0].target_new, subject=chosen[0].subject, mode=options.mode)
    return Reproduction(out, lens, measured, flips, steps, run.about(chosen, texts, corpus))


def _check(lm: LanguageModel, fact: Fact) -> None:
    """InputError where the model cannot be given its prompt, target and subject."""
    example = prepare(lm, fact.text, fact.target_new)
    segments(example.encoding, example.prompt, example.prompt_length, len(example.ids), fact.subject)


def _spread(count: int, wanted: int) -> tuple[int, ...]:
    """`wanted` of `count` layers, evenly, with both ends."""
    if wanted >= count:
        return tuple(range(count))
    return tuple(sorted({round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)}))


def _held_out(lm: LanguageModel, corpus: str | None, field: str, tokens: int) -> list[list[int]]:
    """Token rows to measure perplexity on: the corpus's first documents, else the model's own samples."""
    if corpus is None:
        rows = max(1, tokens // 128)
        return sample_ids(lm, [[start_token(lm)]] * rows, new_tokens=128, top_k=None, seed=0)
    found = corpus_rows(lm, open_corpus(corpus, field=field), tokens)
    if not any(len(row) > 1 for row in found):
        raise CorpusError(f"{corpus} holds no text of two tokens to measure perplexity on; name another --corpus.")
    return found


class _Run:
    """The parts of a run, each part's result a small JSON file in `out`/records."""

    def __init__(
        self, lm: LanguageModel, out: Path, options: ReproduceOptions, progress: ProgressSink, backend: Backend
    ) -> None:
        self.lm, self.out, self.options, self.progress, self.backend = lm, out, options, progress, backend
        self.shared = fingerprint(lm, EXPERIMENTS)
        depth = lm.num_layers
        self.neuron_layers = tuple(sorted({round(depth * share) for share in (0.25, 0.5, 0.75)} - {depth}))
        self.flip_layers = _spread(depth, options.flip_layers)

    def about(self, facts: Sequence[Fact], texts: Sequence[Sequence[int]], corpus: str | None) -> dict[str, Any]:
        """What the run was, for run.json and the summary."""
        return {
            "model": self.lm.name,
            "weights": self.lm.digest(),
            "prompts": len(facts),
            "facts_digest": digest([[fact.text, fact.target_new] for fact in facts]),
            "perplexity_text": "the model's own samples" if corpus is None else Path(corpus).name,
            "perplexity_text_digest": digest(texts),
            "options": asdict(self.options),
            "flip_layers": list(self.flip_layers),
            "neuron_layers": list(self.neuron_layers),
        }

    def gradients(self, facts: Sequence[Fact]) -> list[dict[str, Any]]:
        """Ranks, norms, readings and neurons of every prompt's gradient."""
        parts = []
        for at in range(0, len(facts), _BATCH):
            batch = tuple(facts[at : at + _BATCH])
            layers = tuple(self._neuron_layers(at + i) for i in range(len(batch)))
            key = self._key("lens", batch, self.options.mode, [list(one) for one in layers])
            parts.append(Part(key, Gradients(batch, self.options.mode, layers), len(batch)))
        return [row for rows in self._rows("lens", gradient_rows, parts, "gradients", "prompts") for row in rows]

    def flips(self, facts: Sequence[Fact], texts: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """The smallest learning rates that flip each prompt's answer, and what they do to perplexity."""
        keys = [self._key("flip", [fact], list(self.flip_layers), digest(texts)) for fact in facts]
        is_kept = all(self._store("flip").load(key) is not None for key in keys)
        unedited = math.nan if is_kept else perplexity(self.lm, texts)
        parts = [
            Part(key, Flips(fact, self.flip_layers, texts, unedited), len(self.flip_layers))
            for key, fact in zip(keys, facts, strict=True)
        ]
        return _numbered(self._rows("flip", flip_rows, parts, "learning rates", "layers of prompts"))

    def mechanisms(self, facts: Sequence[Fact]) -> list[dict[str, Any]]:
        """What a step imprints and shifts, for each prompt."""
        layers, lr = _spread(self.lm.num_layers, 4), self.options.lr
        parts = [Part(self._key("step", [fact], lr, list(layers)), Mechanism(fact, layers, lr)) for fact in facts]
        return _numbered(self._rows("step", mechanism_rows, parts, "imprint and shift", "prompts"))

    def _rows(
        self, kind: str, work: Work[LanguageModel, Any, list[Row]], parts: Sequence[Part[Any]], what: str, unit: str
    ) -> list[list[Row]]:
        store = self._store(kind)
        complete(work, self.lm, parts, store, backend=self.backend, progress=self.progress, what=what, unit=unit)
        return list(results(parts, store))

    def _neuron_layers(self, number: int) -> tuple[int, ...]:
        return self.neuron_layers if number < self.options.neuron_prompts else ()

    def _store(self, kind: str) -> Records:
        return Records(self.out / "records", f"{kind}-")

    def _key(self, kind: str, facts: Sequence[Fact], *more: Any) -> str:
        return digest(self.shared, kind, [[fact.text, fact.target_new, fact.subject] for fact in facts], *more)


def _numbered(by_prompt: Sequence[Sequence[Row]]) -> list[Row]:
    """All rows, each with the number of its prompt in this run, not in the run that measured it."""
    return [{"prompt": number, **row} for number, rows in enumerate(by_prompt) for row in rows]


def check_reproduce(out: Path, paper: str) -> None:
    """InputError before any work where the paper is unknown or the folder cannot hold the results."""
    if paper != "backward-lens":
        raise InputError(f"{paper!r} is no paper that errata reproduces; known: backward-lens.")
    check_records_folder(out)
