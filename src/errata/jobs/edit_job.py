"""The main job: facts in, a patch and a before/after report out."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from errata.checks.editable import editable_facts, warning_texts
from errata.checks.selection import tell_skipped
from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted
from errata.edit import (
    Edit,
    Method,
    MethodConfig,
    PresetFile,
    Settings,
    few_said,
    method_of,
    opened_preset,
    settings_for,
)
from errata.errors import ConfigError
from errata.evaluate import Measurement, measure
from errata.evaluate.verdict import outcome
from errata.facts import Fact, FactFile, FactsLike, taken
from errata.jobs.batches import right_after
from errata.jobs.clock import Clock
from errata.jobs.edit_verdict import unsaid_texts, verdict_report
from errata.jobs.memory import peak_memory_mib
from errata.jobs.workbench import Workbench
from errata.models import LanguageModel, takes_model
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
    moments: SecondMoments | None = None,
    evaluate: bool = True,
    skip_bad: bool = False,
    batch_size: int = 32,
    cache: str | Path | None = None,
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
    `moments` if given, else computed over `corpus` ("self": the model's own samples), else over errata's text. (a path,
    or what `stats.open_corpus` opened); `cache` is the folder for these and target values (default: errata's home).
    Raises FactsError with every unusable fact, ConfigError, CorpusError, StorageError, NumericsError.
    """
    clock = Clock()
    bench = Workbench(lm, corpus, None if cache is None else Path(cache), batch_size, progress=progress)
    order = _Order(in_batches, evaluate, skip_bad)
    _check_numbers(batch_size, in_batches)
    given = taken(facts, skip_bad=skip_bad, notify=progress.note)
    work = _checked_work(bench, given, order, method, opened_preset(preset), overrides, moments)
    run = _Run(bench, work, order, clock)
    progress.note(
        f"{work.method.title}: {counted(len(work.facts), 'fact')} into {lm.name}{order.words}, "
        f"{work.method.plan(run.config)} ({work.settings.source})"
    )
    return run.carried_out(moments)


def _check_numbers(batch_size: int, in_batches: int | None) -> None:
    for name, number in (("batch_size", batch_size), ("in_batches", in_batches)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} must be at least 1, found {number}.")


@dataclass(frozen=True)
class _Order:
    """How the facts are gone through: all at once, or so many together; measured or not; bad ones left out or not."""

    in_batches: int | None
    evaluate: bool
    skip_bad: bool

    @property
    def words(self) -> str:
        if self.in_batches is None:
            return " at once"
        return " one after another" if self.in_batches == 1 else f" in batches of {self.in_batches:,}"


@dataclass(frozen=True)
class _Work:
    """What is to be done, with everything about it checked that can be before any long work.

    facts: as the model reads them; a patch remembers them as they were given.  skipped, warnings: of the facts.
    """

    method: Method
    settings: Settings
    facts: tuple[Fact, ...]
    skipped: list[str]
    warnings: list[str]


def _checked_work(
    bench: Workbench,
    given: FactFile,
    order: _Order,
    method: str | None,
    preset: PresetFile | None,
    overrides: Mapping[str, Any],
    moments: SecondMoments | None,
) -> _Work:
    lm, chosen = bench.lm, method_of(method, preset)
    at_once = min(order.in_batches or len(given.facts), len(given.facts))
    settings = settings_for(lm, at_once, method=chosen.name, preset=preset, **overrides)
    lm.digest(fresh=True)  # something else may have written to the weights since
    if moments is not None:
        _expect_moments(lm, moments, settings.config)
    selection = editable_facts(
        lm, given.facts, bench.prefixes(chosen, settings.config),
        evaluate=order.evaluate, skip_bad=order.skip_bad, places=given.places,
    )  # fmt: skip
    tell_skipped(len(given.facts) - len(selection.facts), len(given.facts), selection.errors, bench.progress.note)
    warnings = [*map(str, given.warnings), *warning_texts(selection)]
    return _Work(chosen, settings, selection.facts, [str(one) for one in (*given.errors, *selection.errors)], warnings)


def _expect_moments(lm: LanguageModel, moments: SecondMoments, config: MethodConfig) -> None:
    if moments.model_digest != lm.digest():
        raise ConfigError(
            f"The second moments given are those of other weights than {lm.name}'s; compute them on the model as it is."
        )
    for layer in config.layers:
        moments[layer]  # ConfigError where a layer has none


@dataclass(frozen=True)
class _Run:
    """Checked work on its workbench."""

    bench: Workbench
    work: _Work
    order: _Order
    clock: Clock

    @property
    def config(self) -> Any:
        return self.work.settings.config

    def carried_out(self, moments: SecondMoments | None) -> EditResult:
        """Edit, and measure before and after."""
        lm, work, evaluate = self.bench.lm, self.work, self.order.evaluate
        if moments is None and work.method.uses_moments(self.config):
            with self.clock("second_moments"):
                moments = self.bench.moments(work.method, self.config)
        with self.clock("evaluation_before"):
            before = measure(lm, work.facts, progress=self.bench.progress) if evaluate else None
        edit = self._edit(moments)
        patch = _patch(lm, work, self.bench.prefixes(work.method, self.config), edit, moments, self.order.in_batches)
        with self.clock("evaluation_after"), patch.applied(lm) if evaluate else nullcontext():
            after = measure(lm, work.facts, progress=self.bench.progress) if evaluate else None
            says = unsaid_texts(lm, work.facts, after, self.bench.progress) if after else {}
        edit = replace(edit, failed=edit.failed or _few_said(edit, len(work.facts), before, after))
        if edit.failed:
            patch = replace(patch, info={**patch.info, "failed": edit.failed})
        verdict = verdict_report(work.facts, edit, before, after, says, self.config) if before and after else None
        report = _report(patch, edit, before, after, [*_settings_warnings(lm, work), *edit.warnings, *work.warnings])
        report |= {"verdict": verdict, **self._about()}
        kept = {name: report[name] for name in ("before", "after") if report[name]}
        patch.info["metrics"].update(kept)  # type: ignore[union-attr]
        return EditResult(patch, report, before, after)

    def _edit(self, moments: SecondMoments | None) -> Edit:
        task = self.bench.task(self.work.facts, self.work.method, self.config, moments, stage=self.clock)
        return self.bench.edit(
            self.work.method, task, in_batches=self.order.in_batches,
            after_batch=lambda batch: right_after(self.bench.lm, batch) if self.order.evaluate else {},
        )  # fmt: skip

    def _about(self) -> dict[str, Any]:
        """What the run was, for the report."""
        return {
            "skipped": self.work.skipped,
            "in_batches": self.order.in_batches,
            "batch_size": self.bench.batch_size,
            "seconds": self.clock.report(),
            "peak_memory_mib": peak_memory_mib(self.bench.lm.device),
        }


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


def _few_said(edit: Edit, facts: int, before: Measurement | None, after: Measurement | None) -> str | None:
    """`few_said`, where what was preferred without the edit is not its doing."""
    scores = zip(before.facts, after.facts, strict=True) if before and after else []
    pairs = [(outcome(one.prompt), outcome(other.prompt)) for one, other in scores]
    return few_said(edit.metrics["guard"]["said"], facts, pairs.count(("not learned", "preferred")))


def _patch(
    lm: LanguageModel,
    work: _Work,
    prefixes: Sequence[str],
    edit: Edit,
    moments: SecondMoments | None,
    in_batches: int | None,
) -> Patch:
    info: dict[str, Any] = {
        "method": work.method.name,
        **provenance(lm),
        "config": work.settings.config.recorded(),
        "config_source": work.settings.source,
        "in_batches": in_batches,
        "prefixes": list(prefixes),
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
