"""What every command does before its own work: judge what is asked, open the model, put a patch beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.errors import InputError, ModelNotFoundError
from errata.jobs.terminal_progress import progress_on

if TYPE_CHECKING:
    from errata.core.progress import ProgressSink
    from errata.models import LanguageModel
    from errata.patches import Patch
    from errata.stats import Corpus


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """--model, --device, --dtype and --revision. No model or dtype: the patch's, or smollm2 in float32."""

    model: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """The model's name, path or hub id."""
        return "smollm2" if self.model is None else self.model

    def with_patch(self, patch: Patch) -> ModelChoice:
        """The same with what is not chosen taken from the model that a patch was made on."""
        made_on = patch.info["model"]
        dtype = self.dtype or made_on["dtype"]
        if self.model is not None:
            return replace(self, dtype=dtype)
        return replace(self, model=made_on["name"], dtype=dtype, revision=self.revision or made_on["revision"])


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """--corpus, or --text, and --field: a text and the field of its records."""

    corpus: str | None
    field: str

    def opened(self, progress: ProgressSink) -> Corpus | None:
        """The text, opened once for all that reads it; CorpusError where it cannot be read."""
        from errata.stats import open_corpus

        return None if self.corpus is None else open_corpus(self.corpus, field=self.field, notify=progress.note)


def open_model(choice: ModelChoice, progress: ProgressSink) -> LanguageModel:
    """The model a command works on, in a process of our own (so its allocator may be tuned)."""
    from errata.core.allocator import keep_freed_memory
    from errata.models import load
    from errata.models.families.embedded import quiet_transformers

    dtype = "float32" if choice.dtype is None else choice.dtype
    keep_freed_memory()
    if dtype == "float16" and choice.device.partition(":")[0] == "cpu":
        typer.echo(
            "errata: float16 is many times slower than float32 on a CPU, which computes few things in it; "
            "--dtype float32 is what you want there, or bfloat16 where memory is short.",
            err=True,
        )
    with quiet_transformers():
        return load(choice.name, device=choice.device, dtype=dtype, revision=choice.revision, notify=progress.note)


def open_patched(
    folder: Path | None, choice: ModelChoice, progress: ProgressSink | None = None, *, warn: bool = True
) -> tuple[LanguageModel, Patch | None]:
    """The model and, if a folder is given, the patch (not applied), whose model and dtype are then the defaults.

    warn: say on stderr where the edit behind the patch failed. Raises ModelNotFoundError that names the patch's model.
    """
    progress = progress or progress_on(quiet=True)
    if folder is None:
        return open_model(_filled(choice), progress), None
    from errata.patches import Patch

    patch = Patch.load(folder)
    try:
        lm = open_model(_filled(choice.with_patch(patch)), progress)
    except ModelNotFoundError as error:
        made_on = patch.info["model"]["name"]
        raise ModelNotFoundError(
            f"The patch was made on {made_on!r}; say with --model where that model is now. {error}"
        ) from error
    if warn and patch.warning:
        patch.check(lm)  # a patch that does not belong here is one error, without the warning
        typer.echo(f"errata: {patch.warning}", err=True)
    return lm, patch


def _filled(choice: ModelChoice) -> ModelChoice:
    """The same with an empty --model or --dtype as if it were not given: a patch's commands read them so."""
    return replace(choice, model=choice.model or None, dtype=choice.dtype or None)


def expanded(path: Path, option: str) -> Path:
    """The path with a leading ~ replaced; InputError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{option} {path}: {error}") from error


def output_paths(**paths: Path | None) -> dict[str, Path]:
    """The files that are asked for, by their kind, which is their option's name; InputError as for `expanded`."""
    return {kind: expanded(path, f"--{kind}") for kind, path in paths.items() if path is not None}


def check_settings(
    overrides: dict[str, Any],
    text: TextSource,
    progress: ProgressSink,
    *,
    method: str = "memit",
    choice: ModelChoice | None = None,
) -> Corpus | None:
    """What can be judged without the model's weights, before minutes are spent on loading them; the opened text.

    `choice` names the model, where layers are asked for that it must have.
    """
    from errata.edit import find_method
    from errata.store import home

    find_method(method).config_type(**{"layers": (0,), **overrides})
    home()
    corpus = text.opened(progress)
    if choice is not None and "layers" in overrides:
        check_layers([overrides["layers"]], choice)
    return corpus


def check_layers(asked: Sequence[tuple[int, ...]], choice: ModelChoice) -> None:
    """ConfigError where the model has fewer layers than are asked for, from its configuration alone."""
    from errata.edit import MethodConfig
    from errata.models import config_at_hand
    from errata.models.families.embedded import quiet_transformers

    if not asked:
        return
    with quiet_transformers():
        config = config_at_hand(choice.name, revision=choice.revision)
    for layers in asked:
        MethodConfig(layers=layers).check_layers(config.get_text_config().num_hidden_layers, choice.name)
