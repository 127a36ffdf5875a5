"""Documents streamed from a data set on the Hugging Face hub, pinned to the revision that was found."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from errata.errors import CorpusError
from errata.stats.corpus_files import check_text
from errata.store import digest

HUB_PREFIX = "dataset:"
_FORM = re.compile(
    r"dataset:(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<config>[^:@]+))?(?::(?P<split>[\w.-]+)(?::(?P<field>.+))?)?"
)
_WAY_OUT = "Or download its text and give the JSON Lines or Parquet files."


def open_hub_dataset(spec: str, default_field: str) -> tuple[str, str, Callable[[], Iterator[str]]]:
    """Name, digest and document stream of "dataset:NAME[@CONFIG][:SPLIT[:FIELD]]" (split "train" by default).

    The digest is that of the revision's commit, which names the content. Raises CorpusError where the `datasets`
    package is missing or the data set cannot be reached.
    """
    found = _FORM.fullmatch(spec)
    if not found:
        raise CorpusError(f"Cannot read {spec!r}; the form is dataset:NAME[@CONFIG][:SPLIT[:FIELD]].")
    name, config = found["name"], found["config"]
    split, field = found["split"] or "train", found["field"] or default_field
    if Path(name).exists():  # `datasets` would silently prefer it to the hub's
        raise CorpusError(
            f"{name!r} is a file or folder here; to use it as the corpus, give the path without {HUB_PREFIX!r}."
        )
    _require_datasets(spec)
    commit = _commit(spec, name)

    def read() -> Iterator[str]:
        for number, row in enumerate(_rows(spec, name, config, split, commit)):
            text = _text(row, field, f"{spec}, row {number}")
            if text.strip():
                yield text

    return f"{spec} at {commit[:12]} (field {field})", digest("hub", name, config, split, field, commit), read


def _require_datasets(spec: str) -> None:
    """Version 4 is the first that cannot run code of a data set's own."""
    try:
        version = importlib.metadata.version("datasets")
    except importlib.metadata.PackageNotFoundError as error:
        raise CorpusError(f"{spec!r} needs the package `datasets` (pip install 'datasets>=4'). {_WAY_OUT}") from error
    if int(version.split(".")[0]) < 4:
        raise CorpusError(f"{spec!r} needs datasets 4 or later; {version} is installed. {_WAY_OUT}")


def _commit(spec: str, name: str) -> str:
    hub = importlib.import_module("huggingface_hub")
    try:
        commit = hub.HfApi().dataset_info(name).sha
    except Exception as error:  # offline, not found, gated, rate limit: each an exception of its own
        raise _unreachable(spec, error) from error
    if not commit:
        raise CorpusError(f"The hub names no revision of {spec!r}, so its content cannot be pinned. {_WAY_OUT}")
    return commit


def _rows(spec: str, name: str, config: str | None, split: str, commit: str) -> Iterator[dict[str, Any]]:
    datasets = importlib.import_module("datasets")
    try:
        yield from datasets.load_dataset(name, config, split=split, revision=commit, streaming=True)
    except Exception as error:
        raise _unreachable(spec, error) from error


def _text(row: dict[str, Any], field: str, where: str) -> str:
    text = row.get(field)
    if field not in row or not isinstance(text, str | None):
        fields = ", ".join(map(repr, list(row)[:10])) or "none"
        raise CorpusError(
            f"{where}: no text in the field {field!r}; the fields are {fields}. Name the one with the text."
        )
    check_text(text or "", where)
    return text or ""


def _unreachable(spec: str, error: Exception) -> CorpusError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CorpusError(f"Cannot stream {spec!r} from the hub: {reason}. {_WAY_OUT}")
