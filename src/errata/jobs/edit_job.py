"""The main job: facts in, a patch and a before/after report out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted, shortened
from errata.edit import (
    Edit,
    EditTask,
    Method,
    MethodConfig,
    PresetFile,
    Settings,
    check_facts,
    context_prefixes,
    few_said,
    method_of,
    opened_preset,
    settings_for,
)
from errata.errors import ConfigError, FactsError
from errata.evaluate import Measurement, check_measurable, measure
from errata.evaluate.verdict import outcome
from errata.facts import Accepted, Fact, FactsLike, Problem, format_problems, taken
from errata.jobs.batches import checked_edit, edit_in_batches, right_after
from errata.jobs.clock import Clock
from errata.jobs.memory import peak_memory_mib
from errata.jobs.stats_job import run_stats
from errata.jobs.verdict import unsaid_texts, verdict_report
from errata.models import LanguageModel, encode, facts_in_chat, takes_model
from errata.patches import Patch, provenance
from errata.stats import Corpus, SecondMoments


@dataclass(frozen=True, repr=False)
class EditResult:
    """What an edit gave: the patch, not applied to the model, the report (plain JSON), and the measurements in it.

    Printed, it tells what became of the facts: a sentence, and a card for each that is not said.
    """

    patch: Patch
    report: dict[str, Any]
    before: Measurement | None = None
    after: Measurement | None = None

    @property
    def verdict(self) -> str:
        """How many facts are said, and how many neighbours kept their answer, as a sentence."""
        from errata.reports.verdict_text import verdict_sentence

        return verdict_sentence(self.report)

    def __repr__(self) -> str:
        from errata.reports.verdict_text import headline

        return headline(self.report)


@takes_model
def edit_facts(
    lm: LanguageModel,
    facts: FactsLike,
    *,
    method: str | None = None,
    preset: PresetFile | str | Path | None = None,
    in_batches: int | None = None,
    corpus: Corpus | str | Path | None = None,
    field: str = "text",
    moments: SecondMoments | None = None,
    evaluate: bool = True,
    skip_bad: bool = False,
    batch_size: int = 32,
    cache: str | Path | None = None,
    places: Mapping[str, str] | None = None,
    progress: ProgressSink = SILENT,
    **overrides: Any,
) -> EditResult:
    """Edit `facts` into `lm` with `method` (default: the preset's, else MEMIT) and measure the model before and after.

    `facts`: a list of `Fact` or of dictionaries in any shape that `read_facts` knows, one of these, or a file's path.
    `lm` may be a transformers model, with `tokenizer=` beside it.

    All at once; or `in_batches` of so many facts in their order, each batch on the model as edited by those before (1:
    one after another), measured right after each batch too. The model is left as it was; `result.patch.apply_(lm)`
    edits it. Settings come from `preset` (a preset file), else from the model's preset, or are guesses with a warning;
    `overrides` replace single fields of the method's configuration. Second moments, where the method uses them, are
    `moments` if given, else computed over `corpus` ("self": the model's own samples), else over errata's text. `cache`:
    folder for second moments and target values (default: errata's home). `places`: where each fact stands, by id, for
    messages. Raises FactsError with every unusable fact, ConfigError, CorpusError, StorageError, NumericsError.
    """
    clock = Clock()
    preset = opened_preset(preset)
    cache = None if cache is None else Path(cache)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, found {batch_size}.")
    if in_batches is not None and in_batches < 1:
        raise ConfigError(f"in_batches must be at least 1, found {in_batches}.")
    given = taken(facts, places=places, skip_bad=skip_bad, notify=progress.note)
    work = _checked_work(
        lm, given.facts, method_of(method, preset), preset, overrides, moments, in_batches,
        evaluate=evaluate, skip_bad=skip_bad, places=given.places, notify=progress.note,
    )  # fmt: skip
    facts, config = work.facts, work.settings.config
    progress.note(
        f"{work.method.title}: {counted(len(facts), 'fact')} into {lm.name}{_order(in_batches)}, "
        f"{work.method.plan(config)} ({work.settings.source})"
    )
    if work.method.uses_moments(config) and moments is None:
        with clock("second_moments"):
            moments = run_stats(
                lm, config.layers, tokens=config.moment_tokens, corpus=corpus, field=field, seed=config.seed,
                cache=_sub(cache, "moments"), progress=progress,
            )  # fmt: skip
    with clock("evaluation_before"):
        before = measure(lm, facts, progress=progress) if evaluate else None
    task = EditTask(lm, facts, config, work.prefixes, moments, batch_size, cache, progress, clock)
    if in_batches is None:
        edit = checked_edit(work.method, task)
    else:
        edit = edit_in_batches(task, work.method, in_batches, lambda batch: right_after(lm, batch) if evaluate else {})
    patch = _patch(lm, work, edit, moments, in_batches)
    with clock("evaluation_after"), patch.applied(lm) if evaluate else nullcontext():
        after = measure(lm, facts, progress=progress) if evaluate else None
        says = unsaid_texts(lm, facts, after, progress) if after else {}
    edit = replace(edit, failed=edit.failed or _few_said(edit, len(facts), before, after))
    if edit.failed:
        patch = replace(patch, info={**patch.info, "failed": edit.failed})
    warnings = [*_settings_warnings(lm, work), *edit.warnings, *map(str, given.warnings), *work.warnings]
    report = _report(patch, edit, before, after, warnings) | {
        "verdict": verdict_report(facts, edit, before, after, says, config) if before and after else None,
        "skipped": [str(problem) for problem in (*given.errors, *work.skipped)],
        "in_batches": in_batches,
        "batch_size": batch_size,
        "seconds": clock.report(),
        "peak_memory_mib": peak_memory_mib(lm.device),
    }
    patch.info["metrics"].update({name: report[name] for name in ("before", "after") if report[name]})  # type: ignore[union-attr]
    return EditResult(patch, report, before, after)


@dataclass(frozen=True)
class _Work:
    """What is to be done, with everything about it checked that can be before any long work.

    facts: as the model reads them; a patch remembers them as they were given.
    """

    method: Method
    settings: Settings
    prefixes: tuple[str, ...]
    facts: tuple[Fact, ...]
    skipped: list[Problem]
    warnings: list[str]


def _checked_work(
    lm: LanguageModel,
    facts: Sequence[Fact],
    method: Method,
    preset: PresetFile | None,
    overrides: Mapping[str, Any],
    moments: SecondMoments | None,
    in_batches: int | None,
    *,
    evaluate: bool,
    skip_bad: bool,
    places: Mapping[str, str],
    notify: Callable[[str], None],
) -> _Work:
    given = tuple(facts)
    at_once = min(in_batches or len(given), len(given))
    settings = settings_for(lm, at_once, method=method.name, preset=preset, **overrides)
    lm.digest(fresh=True)  # something else may have written to the weights since
    if moments is not None:
        _expect_moments(lm, moments, settings.config)
    prefixes = context_prefixes(lm, settings.config) if method.uses_prefixes else ("",)
    kept, skipped, warnings = checked_facts(lm, given, prefixes, evaluate=evaluate, skip_bad=skip_bad, places=places)
    if skipped:
        notify(f"{len(given) - len(kept):,} of {len(given):,} facts are skipped:\n{format_problems(skipped)}")
    return _Work(method, settings, prefixes, kept, skipped, warnings)


def _expect_moments(lm: LanguageModel, moments: SecondMoments, config: MethodConfig) -> None:
    if moments.model_digest != lm.digest():
        raise ConfigError(
            f"The second moments given are those of other weights than {lm.name}'s; compute them on the model as it is."
        )
    for layer in config.layers:
        moments[layer]  # ConfigError where a layer has none


def checked_facts(
    lm: LanguageModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    *,
    evaluate: bool,
    skip_bad: bool,
    places: Mapping[str, str],
) -> tuple[tuple[Fact, ...], list[Problem], list[str]]:
    """The facts this model can be given, as it reads them (those with `chat` through its template), the errors of the
    others, and warnings; FactsError unless `skip_bad`."""
    if not facts:
        raise FactsError("There is no fact to edit.")
    facts = facts_in_chat(lm, facts)
    company = Accepted()
    errors: list[Problem] = []
    distinct: list[Fact] = []
    for number, fact in enumerate(facts, 1):
        place = places.get(fact.id, f"fact {number}")
        found = [p for p in company.judge(fact, where=place) if p.severity == "error"]
        errors += found
        distinct += [] if found else [fact]
    longest = max(len(encoding.ids) for encoding in encode(lm.tokenizer, prefixes))
    problems = check_facts(lm, distinct, longest_prefix=longest)
    if evaluate:
        known = {p.fact_id for p in problems if p.severity == "error"}
        problems += check_measurable(lm, [fact for fact in distinct if fact.id not in known])
    problems = [replace(p, where=places.get(p.fact_id or "", "")) for p in problems]
    errors += [p for p in problems if p.severity == "error"]
    bad = {p.fact_id for p in problems if p.severity == "error"}
    kept = tuple(fact for fact in distinct if fact.id not in bad)
    left_out = len(facts) - len(kept)
    if errors and (not skip_bad or not kept):
        raise FactsError(
            f"{left_out:,} of {counted(len(facts), 'fact')} cannot be edited into {lm.name}; correct them"
            f"{' or go on without them (--skip-bad)' if kept else ''}:\n{format_problems(errors)}",
            errors,
        )
    names = {fact.id: shortened(fact.text, 80) for fact in distinct}
    warnings = [
        f"{p.where or 'fact'}, {names.get(p.fact_id or '', '')!r}: {p.reason}"
        for p in problems
        if p.severity == "warning"
    ]
    return kept, errors, warnings


def _settings_warnings(lm: LanguageModel, work: _Work) -> list[str]:
    settings = work.settings
    warnings = list(settings.warnings)
    if settings.is_guess:
        guessed = " and ".join(sorted(work.method.certain))
        warnings.append(
            f"Nobody has measured settings for a model like {lm.name}: {guessed} are guesses. "
            "Compare the report's Score for a few values before you rely on them."
        )
    return warnings


def _order(in_batches: int | None) -> str:
    if in_batches is None:
        return " at once"
    return " one after another" if in_batches == 1 else f" in batches of {in_batches:,}"


def _few_said(edit: Edit, facts: int, before: Measurement | None, after: Measurement | None) -> str | None:
    """`few_said`, where what was preferred without the edit is not its doing."""
    scores = zip(before.facts, after.facts, strict=True) if before and after else []
    pairs = [(outcome(one.prompt), outcome(other.prompt)) for one, other in scores]
    return few_said(edit.metrics["guard"]["said"], facts, pairs.count(("not learned", "preferred")))


def _patch(lm: LanguageModel, work: _Work, edit: Edit, moments: SecondMoments | None, in_batches: int | None) -> Patch:
    info: dict[str, Any] = {
        "method": work.method.name,
        **provenance(lm),
        "config": work.settings.config.recorded(),
        "config_source": work.settings.source,
        "in_batches": in_batches,
        "prefixes": list(work.prefixes),
        "metrics": dict(edit.metrics),
    }
    if moments is not None and work.method.uses_moments(work.settings.config):
        info["second_moments"] = {"digest": moments.digest, "tokens": moments.tokens, "source": moments.source}
    return Patch(info, tuple(fact.given for fact in work.facts), edit.updates, edit.values, edit.keys)


_FROM_INFO = ("method", "model", "base_digest", "tokenizer_digest", "config", "config_source", "versions")


def _report(
    patch: Patch, edit: Edit, before: Measurement | None, after: Measurement | None, warnings: list[str]
) -> dict[str, Any]:
    return {
        "facts": len(patch.facts),
        "failed": edit.failed,
        "patch": patch.id,
        **{name: patch.info[name] for name in _FROM_INFO},
        "second_moments": patch.info.get("second_moments"),
        **edit.metrics,
        "summary": list(edit.summary),
        "not_converged": list(edit.not_converged),
        "before": None if before is None else before.to_json(),
        "after": None if after is None else after.to_json(),
        "warnings": warnings,
    }


def _sub(cache: Path | None, name: str) -> Path | None:
    return None if cache is None else cache / name
