"""The main job: facts in, a patch and a before/after report out."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from errata.core.progress import SILENT, ProgressSink
from errata.edit import (
    MemitConfig,
    MemitSolution,
    Settings,
    TargetValues,
    check_facts,
    collect_values,
    sample_prefixes,
    settings_for,
    solve,
)
from errata.errors import ConfigError, FactsError
from errata.evaluate import Measurement, check_measurable, measure
from errata.facts import Accepted, Fact, Problem, format_problems
from errata.jobs.diagnosis import diagnose
from errata.jobs.memory import peak_memory_mib
from errata.jobs.stats_job import run_stats
from errata.models import LanguageModel, Place, encode
from errata.patches import Patch, provenance
from errata.stats import Corpus, SecondMoments


@dataclass(frozen=True)
class EditResult:
    """What an edit gave: the patch, not applied to the model, the report (plain JSON), and the measurements in it."""

    patch: Patch
    report: dict[str, Any]
    before: Measurement | None = None
    after: Measurement | None = None


def edit_facts(
    lm: LanguageModel,
    facts: Sequence[Fact],
    *,
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
    """Edit all `facts` into `lm` at once with MEMIT and measure the model before and after.

    The model is left as it was; `result.patch.apply_(lm)` edits it. Settings come from the model's preset, or are
    scaled guesses with a warning; `overrides` replace single fields of `MemitConfig`. Second moments are `moments`
    where given, else computed over `corpus`, else over the model's own samples. `cache`: folder for second moments and
    target values (default: errata's home). `places`: where each fact stands, by id, for messages. Raises FactsError
    with every unusable fact, ConfigError, CorpusError, StorageError, NumericsError.
    """
    clock = _Clock()
    cache = None if cache is None else Path(cache)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, found {batch_size}.")
    work = _checked_work(
        lm, facts, overrides, moments, evaluate=evaluate, skip_bad=skip_bad, places=places or {}, notify=progress.note
    )
    facts, config, prefixes = work.facts, work.settings.config, work.prefixes
    progress.note(_announcement(lm, facts, work.settings))
    with clock("second_moments"):
        moments = moments or run_stats(
            lm, config.layers, tokens=config.moment_tokens, corpus=corpus, field=field, seed=config.seed,
            cache=_sub(cache, "moments"), progress=progress,
        )  # fmt: skip
    with clock("evaluation_before"):
        before = measure(lm, facts, progress=progress) if evaluate else None
    with clock("target_values"):
        values = collect_values(
            lm, facts, config, prefixes,
            batch_size=batch_size, cache=_sub(cache, "values"), progress=progress, notify=progress.note,
        )  # fmt: skip
    with clock("solve"):
        solution = solve(lm, facts, values.value, moments.layers, config, prefixes, progress)
    patch = _patch(lm, facts, work.settings, prefixes, moments, values, solution)
    with clock("evaluation_after"), patch.applied(lm) if evaluate else nullcontext():
        after = measure(lm, facts, progress=progress) if evaluate else None
    warnings = _settings_warnings(lm, work.settings) + diagnose(values, solution, config) + work.warnings
    report = _report(patch, values, solution, before, after, warnings) | {
        "skipped": [str(problem) for problem in work.skipped],
        "batch_size": batch_size,
        "seconds": clock.report(),
        "peak_memory_mib": peak_memory_mib(lm.device),
    }
    patch.info["metrics"].update({name: report[name] for name in ("before", "after") if report[name]})  # type: ignore[union-attr]
    return EditResult(patch, report, before, after)


@dataclass(frozen=True)
class _Work:
    """What is to be done, with everything about it checked that can be before any long work."""

    settings: Settings
    prefixes: tuple[str, ...]
    facts: tuple[Fact, ...]
    skipped: list[Problem]
    warnings: list[str]


def _checked_work(
    lm: LanguageModel,
    facts: Sequence[Fact],
    overrides: Mapping[str, Any],
    moments: SecondMoments | None,
    *,
    evaluate: bool,
    skip_bad: bool,
    places: Mapping[str, str],
    notify: Callable[[str], None],
) -> _Work:
    given = tuple(facts)
    if not all(isinstance(fact, Fact) for fact in given):
        raise FactsError("facts must be errata.Fact objects; read_facts(path).facts gives those of a file.")
    settings = settings_for(lm, len(given), **overrides)
    lm.digest(fresh=True)  # something else may have written to the weights since
    if moments is not None:
        _expect_moments(lm, moments, settings.config)
    prefixes = sample_prefixes(lm, settings.config)
    kept, skipped, warnings = checked_facts(lm, given, prefixes, evaluate=evaluate, skip_bad=skip_bad, places=places)
    if skipped:
        notify(f"{len(given) - len(kept):,} of {len(given):,} facts are skipped:\n{format_problems(skipped)}")
    return _Work(settings, prefixes, kept, skipped, warnings)


def _expect_moments(lm: LanguageModel, moments: SecondMoments, config: MemitConfig) -> None:
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
    """The facts this model can be given, the errors of the others, and warnings; FactsError unless `skip_bad`."""
    if not facts:
        raise FactsError("There is no fact to edit.")
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
            f"{left_out} of {len(facts)} facts cannot be edited into {lm.name}; correct them"
            f"{' or go on without them (--skip-bad)' if kept else ''}:\n{format_problems(errors)}",
            errors,
        )
    warnings = [f"{p.where or 'fact'} [{p.fact_id}]: {p.reason}" for p in problems if p.severity == "warning"]
    return kept, errors, warnings


def _settings_warnings(lm: LanguageModel, settings: Settings) -> list[str]:
    warnings = []
    if settings.is_guess:
        warnings.append(
            f"Nobody has measured settings for a model like {lm.name}: layers and prior_weight are guesses. "
            "Compare the report's residuals and Score for a few values before you rely on them."
        )
    if settings.config.layers[-1] == lm.num_layers - 1:
        warnings.append(
            f"layers ends at {lm.name}'s last layer, {lm.num_layers - 1}: no attention above it carries what is "
            "written at a subject to where the answer is read. Prompts that go on after the subject will not change; "
            "end lower."
        )
    return warnings


def _announcement(lm: LanguageModel, facts: Sequence[Fact], settings: Settings) -> str:
    c = settings.config
    passes = "one pass" if c.passes == 1 else f"{c.passes} passes"
    return (
        f"MEMIT: {len(facts):,} facts into {lm.name}, layers {', '.join(map(str, c.layers))}, λ = {c.prior_weight:g}, "
        f"{c.value_steps} steps, {passes} ({settings.source}). To do: second moments, target values, one solve a layer "
        "and pass."
    )


def _patch(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settings: Settings,
    prefixes: Sequence[str],
    moments: SecondMoments,
    values: TargetValues,
    solution: MemitSolution,
) -> Patch:
    info = {
        "method": "memit",
        **provenance(lm),
        "config": _plain(asdict(settings.config)),
        "config_source": settings.source,
        "prefixes": list(prefixes),
        "second_moments": {"digest": moments.digest, "tokens": moments.tokens, "source": moments.source},
        "metrics": _edit_metrics(values, solution),
    }
    updates = {Place(layer.layer, "down"): layer.update for layer in solution.layers}
    keys = {layer.layer: layer.keys for layer in solution.layers}
    return Patch(info, tuple(facts), updates, values.value.cpu(), keys)


def _edit_metrics(values: TargetValues, solution: MemitSolution) -> dict[str, Any]:
    start, end = float(solution.start_residual.mean()), float(solution.end_residual.mean())
    return {
        "residual": {"start": start, "end": end, "landed": 1 - end / start if start else 1.0},
        "layers": [
            {"layer": e.layer, "residual_before": e.residual, "relative_norm": e.relative_norm, "form": e.form,
            "jitter": e.jitter} for e in solution.layers
        ],
        "target_values": {
            "mean_nll_before": float(values.first_nll.mean()),
            "mean_nll": float(values.nll.mean()),
            "mean_kl": float(values.kl.mean()),
            "mean_updates": float(values.updates.float().mean()),
            "converged": int(values.converged.sum()),
        },
    }  # fmt: skip


def _report(
    patch: Patch,
    values: TargetValues,
    solution: MemitSolution,
    before: Measurement | None,
    after: Measurement | None,
    warnings: list[str],
) -> dict[str, Any]:
    missed = [
        {"id": fact.id, "loss": float(loss), "nll": float(nll), "residual": float(end)}
        for fact, loss, nll, end, done in zip(
            patch.facts, values.loss, values.nll, solution.end_residual, values.converged.tolist(), strict=True
        )
        if not done
    ]
    return {
        "facts": len(patch.facts),
        "patch": patch.id,
        **{
            name: patch.info[name]
            for name in (
                "method",
                "model",
                "base_digest",
                "tokenizer_digest",
                "config",
                "config_source",
                "second_moments",
                "versions",
            )
        },
        **_edit_metrics(values, solution),
        "not_converged": missed,
        "before": None if before is None else before.to_json(),
        "after": None if after is None else after.to_json(),
        "warnings": warnings,
    }


class _Clock:
    """Seconds spent in each named stage, and in all since it was made."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 2)

    def report(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.monotonic() - self.started, 2)}


def _sub(cache: Path | None, name: str) -> Path | None:
    return None if cache is None else cache / name


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
