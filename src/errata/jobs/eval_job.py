"""The evaluation job: a model without and with a patch, measured on facts, on text and in what it writes."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.backends import LOCAL
from errata.checks.selection import placed, selected, tell_skipped
from errata.core.parts import Backend
from errata.core.progress import SILENT, ProgressSink
from errata.errors import ConfigError, FactsError
from errata.evaluate import Changes, Metric, Tally, check_measurable
from errata.evaluate.changes import changed_values, changes_of
from errata.evaluate.drift import Drift, DriftScore
from errata.evaluate.generation import GenerationConfig, check_generation, generation_entropy
from errata.evaluate.references import References
from errata.evaluate.scores import fact_values, summary_of, zsre_summary_of
from errata.evaluate.verdict import Verdict
from errata.facts import Fact, FactsLike, Problem, taken
from errata.jobs.eval_states import Chunk, State, chunks_of, model_digest
from errata.jobs.evaluation import Evaluation, StateSummary
from errata.jobs.held_out import HeldOut, held_out
from errata.jobs.memory import peak_memory_mib
from errata.models import LanguageModel, facts_in_chat, takes_model
from errata.patches import Patch, provenance
from errata.stats import Corpus
from errata.store import atomic_write_text, digest, folder_of
from errata.store.kept import EVALUATIONS
from errata.store.tables import Parts

# Facts whose prompts are tokenized at a time when they are checked.
_CHECKED_AT_ONCE = 1000


@takes_model
def evaluate_patch(
    lm: LanguageModel,
    patch: Patch,
    facts: FactsLike | None = None,
    *,
    generation: GenerationConfig | None = None,
    references: References | None = None,
    corpus: Corpus | str | Path | None = None,
    text_tokens: int = 2000,
    seed: int = 0,
    skip_bad: bool = False,
    cache: str | Path | None = None,
    progress: ProgressSink = SILENT,
    backend: Backend = LOCAL,
) -> Evaluation:
    """Measure `lm` without and with `patch` on `facts` (default: the patch's own) and on held-out text.

    The patch must not be on the model, which is left as it was. `generation`: also generate texts, for GE and, with
    `references`, RS. Drift is measured on `text_tokens` tokens (0: not at all) of `corpus`, else of the model's own
    samples under `seed`. Finished chunks are kept in `cache` (default: errata's home), and memory does not grow with
    the number of prompts. Raises FactsError with every fact that cannot be measured (unless `skip_bad`),
    PatchMismatchError, ConfigError, CorpusError, StorageError, NumericsError.
    """
    started = time.monotonic()
    _check_options(text_tokens, seed, generation, references)
    patch.check(lm)
    text = held_out(lm, corpus=corpus, tokens=text_tokens, seed=seed) if text_tokens else None
    warnings = _warnings(patch, text)
    for warning in warnings:
        progress.note(warning)
    given = taken(patch.facts if facts is None else facts, skip_bad=skip_bad, notify=progress.note)
    kept, skipped = _measurable(lm, given.facts, generation, given.places, skip_bad, progress)
    tables = Parts(folder_of(EVALUATIONS, cache), progress.note)
    run = _Run(lm, patch, tuple(chunks_of(kept)), tables, generation, progress, backend)
    drift = run.measure(text)
    # A corpus is read from its beginning: no seed has a part in it.
    about_text = {
        "held_out": None if text is None else text.name,
        "warnings": warnings,
        "held_out_seed": seed if text is not None and corpus is None else None,
    }
    info = run.about([*given.errors, *skipped]) | about_text | _options(generation, references)
    before, after, changed, verdict = run.totals(references)
    info |= {"seconds": round(time.monotonic() - started, 2), "peak_memory_mib": peak_memory_mib(lm.device)}
    return Evaluation(before, after, changed, drift, info, run.states, run.chunks, generation, verdict)


def _check_options(
    text_tokens: int, seed: int, generation: GenerationConfig | None, references: References | None
) -> None:
    if text_tokens < 0 or text_tokens == 1 or seed < 0:
        raise ConfigError(f"text_tokens={text_tokens} must be 0 or at least 2, and seed={seed} not negative.")
    if references is not None and generation is None:
        raise ConfigError("Reference texts were given, but nothing is generated to compare with them (--generate).")


def _options(generation: GenerationConfig | None, references: References | None) -> dict[str, Any]:
    """What was generated and compared, for the report."""
    written = None if generation is None else {n: getattr(generation, n) for n in ("tokens", "top_k", "seed")}
    compared = None if references is None else {"name": references.name, "digest": references.digest}
    return {"generation": written, "references": compared}


def _warnings(patch: Patch, text: HeldOut | None) -> list[str]:
    """What is to be known of the measurement before it is made."""
    failed = [patch.warning] if patch.warning else []
    moments = patch.info.get("second_moments")
    if text is None or not moments or moments["source"] != text.name:
        return failed
    return [
        *failed,
        f"The held-out text, {text.name}, has the name of the text behind the patch's second moments, which the edit "
        "was told to leave alone: its drift says little about other text. Name another --corpus.",
    ]


class _Run:
    """The parts of an evaluation, each kept as soon as it is done."""

    def __init__(
        self,
        lm: LanguageModel,
        patch: Patch,
        chunks: tuple[Chunk, ...],
        parts: Parts,
        generation: GenerationConfig | None,
        progress: ProgressSink,
        backend: Backend,
    ) -> None:
        self.lm, self.patch, self.chunks, self.generation, self.progress = lm, patch, chunks, generation, progress
        self.backend = backend
        self.parts, self.base = parts, model_digest(lm)
        # By the patch's id, not by the edited weights: what is kept is found without putting the patch on.
        self.edited = digest(self.base, patch.id)
        self.states = (State("before", self.base, parts), State("after", self.edited, parts))

    def measure(self, text: HeldOut | None) -> DriftScore | None:
        """Both states on every chunk, and drift; what is kept is not done again."""
        kept = None if text is None else self._kept_drift(text)
        before, after = self.states
        self._measure(before)
        drift = None
        if text is not None and kept is None:
            with self.progress.stage("held-out text before", 1, "texts") as advance:
                drift = Drift(self.lm, text.rows())
                advance(1)
        with self.patch.applied(self.lm):
            self._measure(after)
            if text is not None and drift is not None:
                with self.progress.stage("held-out text after", 1, "texts") as advance:
                    kept = self._keep_drift(text, drift.measure())
                    advance(1)
        return kept

    def about(self, skipped: Sequence[Problem]) -> dict[str, Any]:
        """Which facts were measured of which patch, for the report."""
        return {
            "patch": self.patch.id,
            "method": self.patch.info["method"],
            **provenance(self.lm),
            "facts": sum(len(chunk.facts) for chunk in self.chunks),
            "facts_digest": digest([chunk.digest for chunk in self.chunks]),
            "skipped": [str(problem) for problem in skipped],
        }

    def _measure(self, state: State) -> None:
        state.measure(self.lm, self.chunks, self.progress, self.backend)
        if self.generation is not None:
            state.write(self.lm, self.chunks, self.generation, self.progress, self.backend)

    def totals(self, references: References | None) -> tuple[StateSummary, StateSummary, Changes, Verdict]:
        """Totals from what is kept, a chunk at a time."""
        tallies, changed, verdict = (Tally(), Tally()), Tally(), Verdict()
        for chunk in self.chunks:
            scores = [state.scores(chunk) for state in self.states]
            for tally, fact_scores in zip(tallies, scores, strict=True):
                for score in fact_scores:
                    tally.add(fact_values(score))
            for one, other in zip(*scores, strict=True):
                changed.add(changed_values(one, other))
                verdict = verdict.with_fact(one, other)
            if self.generation is not None:
                for tally, state in zip(tallies, self.states, strict=True):
                    add_texts(tally, chunk.facts, state.texts(chunk, self.generation), references)
        before, after = (_state_summary(tally, self.generation, references) for tally in tallies)
        return before, after, changes_of(changed), verdict

    def _drift_path(self, text: HeldOut) -> Path:
        key = digest(self.edited, "drift", list(text.recipe))
        return self.parts.folder / key[:2] / f"{key}.json"

    def _kept_drift(self, text: HeldOut) -> DriftScore | None:
        try:
            record = json.loads(self._drift_path(text).read_text(encoding="utf-8"))
            if record["digest"] != digest(record["drift"]):
                return None
            drift = record["drift"]
            metrics = {name: Metric(*values) for name, values in drift["metrics"].items()}
            return DriftScore(positions=drift["positions"], documents=drift["documents"], **metrics)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep_drift(self, text: HeldOut, score: DriftScore) -> DriftScore:
        named = {"perplexity_before": score.perplexity_before, **score.metrics()}
        metrics = {name: [metric.value, metric.interval, metric.count] for name, metric in named.items()}
        record = {"metrics": metrics, "positions": score.positions, "documents": score.documents}
        atomic_write_text(self._drift_path(text), json.dumps({"digest": digest(record), "drift": record}))
        return score


def add_texts(
    tally: Tally, facts: Sequence[Fact], texts: Sequence[tuple[str, ...]], references: References | None
) -> None:
    """GE of each fact's texts, and RS where there are reference texts for it."""
    for fact, written in zip(facts, texts, strict=True):
        tally.add({"ge": generation_entropy(written)})
        if references is not None and (score := references.score(fact, written)) is not None:
            tally.add({"rs": score})


def _state_summary(tally: Tally, generation: GenerationConfig | None, references: References | None) -> StateSummary:
    keys = [] if generation is None else ["ge"] if references is None else ["ge", "rs"]
    return StateSummary(summary_of(tally), zsre_summary_of(tally), {key: tally.metric(key) for key in keys})


def _measurable(
    lm: LanguageModel,
    facts: Sequence[Fact],
    generation: GenerationConfig | None,
    places: Mapping[str, str],
    skip_bad: bool,
    progress: ProgressSink,
) -> tuple[tuple[Fact, ...], list[Problem]]:
    """The facts whose prompts this model can be given, and the others' problems; FactsError unless `skip_bad`."""
    if not facts:
        raise FactsError("There is no fact to measure: the patch holds none of its own, and none were given (--facts).")
    facts = facts_in_chat(lm, facts)
    problems: list[Problem] = []
    for at in range(0, len(facts), _CHECKED_AT_ONCE):
        part = facts[at : at + _CHECKED_AT_ONCE]
        problems += check_measurable(lm, part)
        problems += [] if generation is None else check_generation(lm, part, generation)
    action = f"measured on {lm.name}"
    selection = selected(facts, placed(problems, places), action=action, skip_bad=skip_bad)
    tell_skipped(len(facts) - len(selection.facts), len(facts), selection.errors, progress.note)
    return selection.facts, selection.errors
