"""Every experiment of the Backward Lens paper on one model, measured in one resumable run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted
from errata.errors import ConfigError, CorpusError, InputError
from errata.evaluate.perplexity import perplexity
from errata.facts import Fact, FactsLike, taken
from errata.jobs.held_out import corpus_rows
from errata.jobs.usable import usable_facts
from errata.lens import MODES, BackwardLens, backward_lens, backward_lenses
from errata.lens.flipping import RULES, smallest_rate, update_direction
from errata.lens.losses import prepare
from errata.lens.measures import measure_lens, mechanism
from errata.models import (
    LanguageModel,
    Place,
    add_to_weight_,
    facts_in_chat,
    fingerprint,
    matrices,
    takes_model,
    weights_restored,
)
from errata.models.run.generate import sample_ids
from errata.models.text.segments import segments
from errata.stats import open_corpus
from errata.stats.samples import start_token
from errata.store import digest
from errata.store.records import read_record, write_record
from errata.store.run_folder import check_records_folder

CODE_VERSION = 3
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
    places: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    progress: ProgressSink = SILENT,
) -> Reproduction:
    """Run what is missing in `out`; `reports.reproduce` makes tables, figures and a summary of it.

    Each prompt's numbers are kept as soon as they are known, under a digest of model, prompt and options: a run that
    was stopped goes on from there. Raises FactsError with every record that cannot be looked at, unless `skip_bad`.
    """
    given = taken(facts, places=places, skip_bad=skip_bad, notify=progress.note)
    pairs, _ = usable_facts(
        facts_in_chat(lm, given.facts[: options.n]), lambda fact: _check(lm, fact),
        done="looked at", places=given.places, skip_bad=skip_bad, notify=progress.note,
    )  # fmt: skip
    chosen = [fact for fact, _ in pairs]
    texts = _held_out(lm, corpus, field, options.text_tokens)
    run = _Run(lm, out, options, digest(texts), digest([[f.text, f.target_new] for f in chosen]))
    progress.note(
        f"Backward Lens on {lm.name}: {counted(len(chosen), 'prompt')}; learning rates for "
        f"{min(options.flip_prompts, len(chosen))} of them at {counted(len(run.flip_layers), 'layer')}; results in "
        f"{out}."
    )
    measured = run.measure(chosen, progress)
    flips = run.flips(chosen[: options.flip_prompts], texts, progress)
    steps = run.mechanisms(chosen[: options.mechanism_prompts], progress)
    lens = backward_lens(lm, chosen[0].text, chosen[0].target_new, subject=chosen[0].subject, mode=options.mode)
    return Reproduction(out, lens, measured, flips, steps, run.about(len(chosen), corpus))


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
    """The parts of a run, each prompt's result a small JSON file in `out`/records."""

    def __init__(
        self, lm: LanguageModel, out: Path, options: ReproduceOptions, text_digest: str, facts_digest: str
    ) -> None:
        self.lm, self.out, self.options = lm, out, options
        self.shared = fingerprint(lm, "reproduce", CODE_VERSION)
        self.text_digest, self.facts_digest = text_digest, facts_digest
        depth = lm.num_layers
        self.neuron_layers = tuple(sorted({round(depth * share) for share in (0.25, 0.5, 0.75)} - {depth}))
        self.flip_layers = _spread(depth, options.flip_layers)

    def about(self, prompts: int, corpus: str | None) -> dict[str, Any]:
        """What the run was, for run.json and the summary."""
        return {
            "model": self.lm.name,
            "weights": self.lm.digest(),
            "prompts": prompts,
            "facts_digest": self.facts_digest,
            "perplexity_text": "the model's own samples" if corpus is None else Path(corpus).name,
            "perplexity_text_digest": self.text_digest,
            "options": asdict(self.options),
            "flip_layers": list(self.flip_layers),
            "neuron_layers": list(self.neuron_layers),
        }

    def measure(self, facts: Sequence[Fact], progress: ProgressSink) -> list[dict[str, Any]]:
        paths = [self._path("lens", fact, i < self.options.neuron_prompts) for i, fact in enumerate(facts)]
        found = [read_record(path) for path in paths]
        missing = [i for i, record in enumerate(found) if record is None]
        with progress.stage("gradients", len(facts), "prompts", done=len(facts) - len(missing)) as advance:
            lenses = backward_lenses(
                self.lm,
                [facts[i].text for i in missing],
                [facts[i].target_new for i in missing],
                subjects=[facts[i].subject for i in missing],
                mode=self.options.mode,
                matrices=matrices(self.lm.family),
                batch_size=_BATCH,
            )
            for i, lens in zip(missing, lenses, strict=True):
                layers = self.neuron_layers if i < self.options.neuron_prompts else ()
                found[i] = write_record(paths[i], measure_lens(lens, neuron_layers=layers))
                advance(1)
        return [record for record in found if record is not None]

    def flips(
        self, facts: Sequence[Fact], texts: Sequence[Sequence[int]], progress: ProgressSink
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        unedited: float | None = None
        total = len(facts) * len(self.flip_layers)
        with progress.stage("learning rates", total, "layers of prompts") as advance:
            for number, fact in enumerate(facts):
                path = self._path("flip", fact, list(self.flip_layers), self.text_digest)
                kept = read_record(path)
                if kept is None:
                    unedited = perplexity(self.lm, texts) if unedited is None else unedited
                    kept = {"rows": self._flip(fact, texts, unedited)}
                    write_record(path, kept)
                # The number is this run's, not that of the run that measured it.
                found += [{"prompt": number, **row} for row in kept["rows"]]
                advance(len(self.flip_layers))
        return found

    def _flip(self, fact: Fact, texts: Sequence[Sequence[int]], unedited: float) -> list[dict[str, Any]]:
        lens = backward_lens(self.lm, fact.text, fact.target_new)
        if lens.target == lens.answer:  # nothing to flip
            return []
        rows = []
        for layer in self.flip_layers:
            for rule in RULES:
                flip = smallest_rate(lens, layer, rule)
                after = None if flip.rate is None else self._perplexity_after(lens, layer, rule, flip.rate, texts)
                rows.append({**asdict(flip), "perplexity": after, "unedited_perplexity": unedited})
        return rows

    def _perplexity_after(
        self, lens: BackwardLens, layer: int, rule: str, rate: float, texts: Sequence[Sequence[int]]
    ) -> float:
        update, place = update_direction(lens, layer, rule), Place(layer, "down")
        with weights_restored(self.lm, [place]):
            add_to_weight_(self.lm, place, update.scaled(rate))
            return perplexity(self.lm, texts)

    def mechanisms(self, facts: Sequence[Fact], progress: ProgressSink) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        layers = _spread(self.lm.num_layers, 4)
        with progress.stage("imprint and shift", len(facts), "prompts") as advance:
            for number, fact in enumerate(facts):
                path = self._path("step", fact, self.options.lr, list(layers))
                kept = read_record(path)
                if kept is None:
                    lens = backward_lens(self.lm, fact.text, fact.target_new)
                    kept = {"rows": [mechanism(lens, layer, self.options.lr) for layer in layers]}
                    write_record(path, kept)
                found += [{"prompt": number, **row} for row in kept["rows"]]
                advance(1)
        return found

    def _path(self, kind: str, fact: Fact, *more: Any) -> Path:
        key = digest(self.shared, kind, fact.text, fact.target_new, fact.subject, *more)
        return self.out / "records" / f"{kind}-{key[:24]}.json"


def check_reproduce(out: Path, paper: str) -> None:
    """InputError before any work where the paper is unknown or the folder cannot hold the results."""
    if paper != "backward-lens":
        raise InputError(f"{paper!r} is no paper that errata reproduces; known: backward-lens.")
    check_records_folder(out)
