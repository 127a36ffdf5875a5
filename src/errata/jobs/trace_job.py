"""Causal tracing of many facts: those the model knows, one after another, each kept as soon as it is done."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from errata.backends import LOCAL
from errata.checks.selection import prepared_facts
from errata.core.parts import Advance, Backend, Part, complete, results
from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted, visible
from errata.errors import FactsError, InputError
from errata.facts import Fact, FactsLike, taken
from errata.models import LanguageModel, facts_in_chat, fingerprint, takes_model, token_texts
from errata.store import digest, folder_of
from errata.store.json_records import Records
from errata.store.kept import TRACES
from errata.tracing import Trace, TraceConfig, config_of, positions_run, restored_positions, trace_prompt
from errata.tracing.average import AverageTrace, FactTrace, Unknown, fact_trace
from errata.tracing.config import describe
from errata.tracing.corruption import corrupted_subject, subject_std
from errata.tracing.known import own_answers
from errata.tracing.prompts import Traced, answer_of, traced_fact
from errata.tracing.record import trace_from, trace_record

_SHOWN = 5


@takes_model
def trace_facts(
    lm: LanguageModel,
    facts: FactsLike,
    *,
    out: str | Path | None = None,
    skip_bad: bool = False,
    progress: ProgressSink = SILENT,
    backend: Backend = LOCAL,
    **options: Any,
) -> AverageTrace:
    """Trace every fact that the model knows and average over the parts of their prompts (Meng et al. 2022).

    A fact is known where the model's likeliest next token is the first of its answer (target_true, or target_new where
    a record has one answer only); the others are counted and named in `unknown`. The noise is measured in standard
    deviations of the embeddings of all the facts' subjects, known or not, as published. `options`: those of
    TraceConfig. Each fact's trace is kept in `out`/records (default: errata's home) under a digest of all it depends
    on, so that a run that was stopped goes on from there. Raises FactsError with every fact that cannot be traced,
    unless `skip_bad`.
    """
    folder = folder_of(TRACES) if out is None else Path(out) / "records"
    given = taken(facts, skip_bad=skip_bad, notify=progress.note)
    run = TraceRun.of(lm, given.facts, config_of(options), folder, given.places, skip_bad, progress)
    return run.average(progress, backend)


@dataclass(frozen=True)
class TraceRun:
    """A run over facts: what is to be traced, what is set aside, and where each trace is kept.

    known: the facts whose answer the model gives.  unfit: known facts that this corruption cannot be applied to.
    """

    lm: LanguageModel
    config: TraceConfig
    std: float
    others: tuple[str, ...]
    known: tuple[tuple[Fact, Traced], ...]
    unknown: tuple[Unknown, ...]
    unfit: tuple[str, ...]
    skipped: tuple[str, ...]
    skipped_facts: int
    store: Records

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        facts: Sequence[Fact],
        config: TraceConfig,
        folder: Path,
        places: Mapping[str, str],
        skip_bad: bool,
        progress: ProgressSink,
    ) -> "TraceRun":
        """Look at every fact, trace none. Raises FactsError where some cannot be used, or none is known."""
        facts = facts_in_chat(lm, facts)
        pairs, problems = prepared_facts(
            facts, lambda fact: traced_fact(lm, fact),
            action="traced", places=places, skip_bad=skip_bad, notify=progress.note,
        )  # fmt: skip
        own = own_answers(lm, [one for _, one in pairs], batch_tokens=config.batch_tokens)
        texts = token_texts(lm.tokenizer, sorted(set(own)))
        std = subject_std(lm, [one for _, one in pairs])
        others = tuple(dict.fromkeys(fact.subject for fact, _ in pairs))
        known = [(fact, one) for (fact, one), token in zip(pairs, own, strict=True) if token == one.answer]
        unknown = tuple(
            Unknown(fact.id, one.text, answer_of(fact), texts[token])
            for (fact, one), token in zip(pairs, own, strict=True)
            if token != one.answer
        )
        fit, unfit = _fitting(lm, known, config, std, others)
        if not fit:
            raise FactsError(_nothing_known(lm, unknown, unfit))
        skipped = tuple(str(problem) for problem in problems)
        store = Records(folder, "trace-")
        return cls(lm, config, std, others, tuple(fit), unknown, unfit, skipped, len(facts) - len(pairs), store)

    def average(self, progress: ProgressSink, backend: Backend = LOCAL) -> AverageTrace:
        """Trace what is not kept yet, and average."""
        parts = self._parts()
        left = [part.payload.prompt for part in parts if self.store.load(part.key) is None]
        progress.note(self.plan(left))
        complete(
            _record, self.lm, parts, self.store, backend=backend, progress=progress,
            what=f"traces of {counted(len(parts), 'fact')}", unit="positions",
        )  # fmt: skip
        kept = results(parts, self.store)
        averaged = [fact_trace(fact.id, trace_from(one)) for (fact, _), one in zip(self.known, kept, strict=True)]
        return AverageTrace(
            model=self.lm.name,
            config=self.config,
            std=self.std,
            num_layers=self.lm.num_layers,
            facts=tuple(averaged),
            unknown=self.unknown,
            notes=self._notes(averaged),
            info=self._info(),
        )

    def traces(self) -> Iterator[tuple[Fact, Trace]]:
        """Every trace that is kept, one in memory at a time."""
        for (fact, _), part in zip(self.known, self._parts(), strict=True):
            record = self.store.load(part.key)
            if record is not None:
                yield fact, trace_from(record)

    def plan(self, left: Sequence[Traced]) -> str:
        """What the run will do with the facts that are left, in words."""
        kept = len(self.known) - len(left)
        total = len(self.known) + len(self.unknown) + len(self.unfit)
        tokens = sum(len(restored_positions(one, self.config)) for one in left)
        restorations = tokens * self.lm.num_layers * len(self.config.kinds)
        exact = (
            f"{restorations:,} restorations of {', '.join(self.config.kinds)}, each in every corrupted run"
            if self.config.exact
            else f"attribution of {', '.join(self.config.kinds)}, nothing restored"
        )
        severed = "" if self.config.restored == self.config.kinds else ", severed at the last subject token"
        return (
            f"Causal tracing of {self.lm.name}: it knows {len(self.known) + len(self.unfit)} of "
            f"{counted(total, 'fact')}; {exact}"
            f"{severed if self.config.exact else ''}; {describe(self.config, self.std, self.config.samples)}"
            f"{'; kept from an earlier run: ' + counted(kept, 'fact') if kept else ''}."
        )

    def _parts(self) -> list[Part["_Asked"]]:
        """A part for each known fact."""
        model = fingerprint(self.lm, TRACES)
        swapped = list(self.others) if self.config.corruption == "swap" else []
        settings = [asdict(self.config), self.std, swapped]
        parts = []
        for fact, prompt in self.known:
            key = digest(model, fact.text, list(fact.subject_span), answer_of(fact), *settings)
            others = tuple(other for other in self.others if other != fact.subject)
            asked = _Asked(prompt, self.config, self.std, others)
            parts.append(Part(key, asked, positions_run(prompt, self.config)))
        return parts

    def _notes(self, found: Sequence[FactTrace]) -> tuple[str, ...]:
        notes = []
        if self.unfit:
            shown = ", ".join(self.unfit[:_SHOWN])
            notes.append(
                f"Left out though known: {len(self.unfit)}, as no other subject of the run takes the place of theirs "
                f"token by token (first: {shown})."
            )
        raised = [one.id for one in found if one.corrupted >= one.clean]
        if raised:
            notes.append(
                f"With {len(raised)} of {counted(len(found), 'fact')} corruption did not make the answer less "
                f"likely (first: "
                f"{', '.join(raised[:_SHOWN])})."
            )
        ends = [one.id for one in found if not any(name == "last subject" for _, name in one.attributions)]
        if ends:
            notes.append(
                f"With {counted(len(ends), 'fact')} the subject ends the prompt: its last token counts as the last "
                f"token only "
                f"(first: {', '.join(ends[:_SHOWN])})."
            )
        long = sum(one.answer_tokens > 1 for _, one in self.known)
        spaces = token_texts(self.lm.tokenizer, [one.answer for _, one in self.known if one.answer is not None])
        spaced = sum(one.answer is not None and not spaces[one.answer].strip() for _, one in self.known)
        if long:
            notes.append(f"{long} answers have several tokens; their first is what is traced.")
        if spaced:
            notes.append(
                f"{spaced} answers begin with a token that is only the space before them: it is what is traced, and "
                "they count as known where the model goes on with it, whatever follows."
            )
        return tuple(notes)

    def _info(self) -> dict[str, Any]:
        return {
            "model": self.lm.name,
            "weights": self.lm.digest(),
            "dtype": str(self.lm.dtype).removeprefix("torch."),
            "facts_known": len(self.known) + len(self.unfit),
            "facts_unfit": len(self.unfit),
            "facts_skipped": self.skipped_facts,
            "facts_unknown": len(self.unknown),
            "facts_digest": digest([[fact.text, answer_of(fact)] for fact, _ in self.known]),
            "skipped": list(self.skipped),
            "embedding_std": self.std,
            "settings": asdict(self.config),
        }


@dataclass(frozen=True)
class _Asked:
    """A prompt and how it is traced. others: subjects that may take the place of its own."""

    prompt: Traced
    config: TraceConfig
    std: float
    others: tuple[str, ...]


def _record(lm: LanguageModel, asked: _Asked, advance: Advance) -> dict[str, Any]:
    """The trace of one prompt as a record."""
    trace = trace_prompt(lm, asked.prompt, asked.config, std=asked.std, others=asked.others, advance=advance)
    return trace_record(trace)


def _fitting(
    lm: LanguageModel,
    known: Sequence[tuple[Fact, Traced]],
    config: TraceConfig,
    std: float,
    others: Sequence[str],
) -> tuple[list[tuple[Fact, Traced]], tuple[str, ...]]:
    """The facts whose subject can be corrupted, and the ids of those that cannot: only swaps ask for a like one."""
    if config.corruption != "swap":
        return list(known), ()
    fit, unfit = [], []
    for fact, one in known:
        try:
            corrupted_subject(lm, one, config, std, [other for other in others if other != fact.subject])
            fit.append((fact, one))
        except InputError:
            unfit.append(fact.id)
    return fit, tuple(unfit)


def _nothing_known(lm: LanguageModel, unknown: Sequence[Unknown], unfit: Sequence[str]) -> str:
    if unfit:
        return (
            f"{lm.name} knows {len(unfit)} of the facts, but no other subject of the run takes the place of theirs "
            "token by token; give more facts, or choose another corruption."
        )
    shown = "\n".join(
        f"{one.id}: {one.prompt!r} is answered by {visible(one.says)}, not {one.answer!r}" for one in unknown[:_SHOWN]
    )
    return (
        f"{lm.name} knows none of the {counted(len(unknown), 'fact')}, and tracing asks where a known answer comes "
        f"from; give "
        f"facts it knows, or trace one prompt without an answer. It says:\n{shown}"
    )
