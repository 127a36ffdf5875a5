"""What each command does once its options are parsed: check everything cheap first, then work, then print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.cli.screen import screen_width
from errata.cli.verdict import end_with, next_step, requirements_of
from errata.errors import ConfigError, FactsError, ModelNotFoundError
from errata.jobs.progress import progress_on

if TYPE_CHECKING:
    from errata.core.progress import ProgressSink
    from errata.edit import PresetFile
    from errata.facts import FactFile
    from errata.facts.readers import Format
    from errata.models import LanguageModel
    from errata.patches import Patch
    from errata.stats import Corpus


def run_edit(
    facts_file: Path,
    out: Path,
    *,
    load: dict[str, Any],
    options: dict[str, Any],
    method: str | None,
    preset: Path | None,
    settings: Sequence[str],
    format: Format,
    limit: int | None,
    overwrite: bool,
    require: Sequence[str],
    verbose: bool,
    quiet: bool,
) -> None:
    """Edit the facts of a file, save patch and report, print a summary. ConfigError for a batch size below 1."""
    from errata.patches import RUN_FILES
    from errata.store.run_folder import check_out

    out = out.expanduser()
    progress = progress_on(quiet=quiet)
    requirements = requirements_of(require, evaluated=options["evaluate"])
    check_out(out, overwrite=overwrite, ours=RUN_FILES)
    found = read_fact_file(facts_file, format=format, limit=limit, skip_bad=options["skip_bad"])
    opened, chosen = chosen_method(method, preset)
    overrides = overrides_of(chosen, settings)
    corpus = check_cheaply(
        overrides, options["corpus"], field=options.pop("field"), method=chosen, load=load, progress=progress
    )
    if options["batch_size"] < 1:
        raise ConfigError(f"--batch-size must be at least 1, found {options['batch_size']}.")
    with command(load, progress) as lm:
        from errata.jobs.edit_job import edit_facts
        from errata.jobs.verdict import judged
        from errata.reports.edit_summary import save_run, summary

        result = edit_facts(
            lm,
            found.without_problems,
            method=chosen,
            preset=opened,
            progress=progress,
            **{**options, "corpus": corpus},
            **overrides,
        )
        result.report["skipped"] = [str(problem) for problem in found.errors] + result.report["skipped"]
        result.report["required"] = judged(requirements, result.before, result.after)
        out = save_run(result, out, overwrite=overwrite)
        typer.echo(summary(result.report, verbose=verbose))
        typer.echo(f"\nPatch and report: {out}\n{next_step(result, out)}")
    end_with(result.report["failed"], result.report["required"])


def chosen_method(method: str | None, preset: Path | None) -> tuple[PresetFile | None, str]:
    """The preset in the file, if one is given, and the method: the one asked for, else the preset's, else MEMIT."""
    from errata.edit import method_of, opened_preset

    opened = opened_preset(preset)
    return opened, method_of(method, opened).name


def one_order(*, at_once: bool, in_batches: int | None, one_by_one: bool) -> int | None:
    """How many facts a batch has: None for all at once. ConfigError where more than one order is asked for."""
    if sum([at_once, in_batches is not None, one_by_one]) > 1:
        raise ConfigError("--at-once, --in-batches and --one-by-one exclude each other; give one of them.")
    if in_batches is not None and in_batches < 1:
        raise ConfigError(f"--in-batches must be at least 1, found {in_batches}.")
    return 1 if one_by_one else in_batches


def run_demo(out: Path, *, model: str, device: str, dtype: str, verbose: bool, quiet: bool) -> None:
    """Run the demo, its files in `out`, and print what it shows."""
    progress = progress_on(quiet=quiet)
    out = out.expanduser()
    with command({"model": model, "device": device, "dtype": dtype, "revision": None}, progress) as lm:
        from errata.jobs.demo_job import run_demo as demo
        from errata.patches import RUN_FILES
        from errata.reports.demo_report import write_demo
        from errata.store.run_folder import check_out

        check_out(out, overwrite=True, ours=RUN_FILES)
        done = demo(lm, progress=progress)
        typer.echo(write_demo(done, out, verbose=verbose))
    end_with(done.result.report["failed"], ())


def run_stats_command(
    load: dict[str, Any],
    *,
    layers: str | None,
    tokens: int | None,
    corpus: str | None,
    field: str,
    seed: int,
    quiet: bool,
) -> None:
    """Compute second moments, or fetch those that are kept, and print a line for each layer."""
    from errata.edit import parse_layers

    progress = progress_on(quiet=quiet)
    overrides: dict[str, Any] = {} if layers is None else {"layers": parse_layers(layers)}
    opened = check_cheaply(overrides, corpus, field=field, load=load, progress=progress)
    with command(load, progress) as lm:
        from errata.edit import settings_for
        from errata.jobs.stats_job import run_stats

        config = settings_for(lm, **overrides).config
        count = config.moment_tokens if tokens is None else tokens
        moments = run_stats(lm, config.layers, tokens=count, corpus=opened, seed=seed, progress=progress)
        for layer in moments.layers:
            trace = float(moments[layer].diagonal().sum())
            typer.echo(f"layer {layer:3d}  d_mlp {lm.d_mlp:,}  mean ‖k‖² {trace:.4g}  over {moments.tokens:,} tokens")
        typer.echo(f"source {moments.source}  digest {moments.digest[:12]}")


def run_ask(
    prompts: Sequence[str],
    *,
    patch_folder: Path | None,
    model: str | None,
    chat: bool,
    tokens: int,
    top: int,
    full: bool,
    device: str,
    dtype: str | None,
    revision: str | None,
) -> None:
    """Print the model's answers, without and with the patch. Raises ConfigError for tokens or top below 1."""
    if tokens < 1 or top < 1:
        raise ConfigError(f"--tokens and --top must be at least 1, found {tokens} and {top}.")
    from errata.facts.checks import check_prompt

    load = {"model": model, "device": device, "dtype": dtype, "revision": revision}
    for prompt in prompts:
        check_prompt(prompt)
    with with_patch(patch_folder, load) as (lm, patch):
        from errata.jobs.ask_job import ask
        from errata.reports.answer_text import answers

        before = ask(lm, prompts, chat=chat, new_tokens=tokens, top=top)
        after = ask(lm, prompts, patch=patch, chat=chat, new_tokens=tokens, top=top) if patch else None
        typer.echo(answers(before, after, None if patch is None else patch.id, width=screen_width(), full=full))
        for hint in dict.fromkeys(answer.hint for answer in before if answer.hint):
            typer.echo(f"errata: {hint}", err=True)


@contextmanager
def with_patch(
    folder: Path | None, load: dict[str, Any], progress: ProgressSink | None = None, *, warn: bool = True
) -> Iterator[tuple[LanguageModel, Patch | None]]:
    """The model and, if a folder is given, the patch (not applied), whose model and dtype are then the defaults.

    warn: say on stderr where the edit behind the patch failed.
    """
    patch = None
    if folder is not None:
        from errata.patches import Patch

        patch = Patch.load(folder)
        made_on = patch.info["model"]
        if load["model"] is None:
            load = {**load, "model": made_on["name"], "revision": load["revision"] or made_on["revision"]}
        load = {**load, "dtype": load["dtype"] or made_on["dtype"]}
    defaults = {**load, "model": load["model"] or "smollm2", "dtype": load["dtype"] or "float32"}
    with _model_of(patch), command(defaults, progress or progress_on(quiet=True)) as lm:
        if patch is not None and warn and patch.warning:
            patch.check(lm)  # a patch that does not belong here is one error, without the warning
            typer.echo(f"errata: {patch.warning}", err=True)
        yield lm, patch


@contextmanager
def _model_of(patch: Patch | None) -> Iterator[None]:
    """Say whose model it is that cannot be found."""
    try:
        yield
    except ModelNotFoundError as error:
        if patch is None:
            raise
        made_on = patch.info["model"]["name"]
        raise ModelNotFoundError(
            f"The patch was made on {made_on!r}; say with --model where that model is now. {error}"
        ) from error


@contextmanager
def command(load: dict[str, Any], progress: ProgressSink) -> Iterator[LanguageModel]:
    """The model a command works on, in a process of our own (so its allocator may be tuned)."""
    from errata.core.allocator import keep_freed_memory
    from errata.models import load as load_model
    from errata.models.families.embedded import quiet_transformers

    keep_freed_memory()
    _warn_of_slow(load)
    with quiet_transformers():
        lm = load_model(
            load["model"], device=load["device"], dtype=load["dtype"], revision=load["revision"], notify=progress.note
        )
    yield lm


def _warn_of_slow(load: dict[str, Any]) -> None:
    if load["dtype"] == "float16" and load["device"].partition(":")[0] == "cpu":
        typer.echo(
            "errata: float16 is many times slower than float32 on a CPU, which computes few things in it; "
            "--dtype float32 is what you want there, or bfloat16 where memory is short.",
            err=True,
        )


def check_cheaply(
    overrides: dict[str, Any],
    corpus: str | None,
    *,
    field: str,
    method: str = "memit",
    load: dict[str, Any] | None = None,
    progress: ProgressSink | None = None,
) -> Corpus | None:
    """What can be judged without the model's weights, before minutes are spent on loading them; the opened corpus.

    `load` names the model, where layers are asked for that it must have.
    """
    from errata.edit import find_method
    from errata.stats import open_corpus
    from errata.store import home

    find_method(method).config_type(**{"layers": (0,), **overrides})
    home()
    notify = None if progress is None else progress.note
    opened = None if corpus is None else open_corpus(corpus, field=field, notify=notify)
    if load is not None and "layers" in overrides:
        check_layers([overrides["layers"]], load)
    return opened


def check_layers(asked: Sequence[tuple[int, ...]], load: dict[str, Any]) -> None:
    """ConfigError where the model has fewer layers than are asked for, from its configuration alone."""
    from errata.edit import MethodConfig
    from errata.models import config_at_hand
    from errata.models.families.embedded import quiet_transformers

    if not asked:
        return
    with quiet_transformers():
        found = config_at_hand(load["model"], revision=load["revision"])
    for layers in asked:
        MethodConfig(layers=layers).check_layers(found.get_text_config().num_hidden_layers, load["model"])


def read_fact_file(
    path: Path, *, format: Format, limit: int | None, skip_bad: bool, limit_option: str = "--limit", edited: bool = True
) -> FactFile:
    """The facts of a file; FactsError with all that is wrong, or for a limit below 1.

    `edited`: warnings about editing them are of use.
    """
    from errata.facts import format_problems, read_facts, require

    if limit is not None and limit < 1:
        raise FactsError(f"{limit_option} must be at least 1, found {limit}.")
    found = read_facts(path.expanduser(), format=format, limit=limit)
    facts = require(found, skip_bad=skip_bad)
    if problems := found.problems if edited else (*found.errors, *found.notes):
        typer.echo(f"errata: {path}:\n{format_problems(problems)}", err=True)
        if found.errors:
            typer.echo(
                f"errata: skipped: {found.bad_records:,}. The model looks at the other {len(facts):,} next.", err=True
            )
    return found


def overrides_of(method: str, settings: Sequence[str]) -> dict[str, Any]:
    """The fields of `--set NAME=VALUE` by name; ConfigError for one that is unknown, bad or given twice."""
    from errata.edit import find_method, parse_override

    overrides: dict[str, Any] = {}
    for text in settings:
        name, value = parse_override(find_method(method).config_type, text)
        if name in overrides:
            raise ConfigError(f"{name} is set twice (--set {name}=...); give it once.")
        overrides[name] = value
    return overrides
