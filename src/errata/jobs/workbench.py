"""A loaded model with what all work on it shares: context prefixes, second moments, text that edits should leave alone.

Settings → edit → measure: every job that edits a model does it here, and so will a worker on another machine.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errata.backends import LOCAL
from errata.core.parts import Backend
from errata.core.progress import SILENT, ProgressSink
from errata.edit import Edit, EditTask, Method, context_prefixes
from errata.evaluate.drift import Drift
from errata.facts import Fact
from errata.jobs.batches import AfterBatch, checked_edit, edit_in_batches
from errata.jobs.held_out import HeldOut
from errata.jobs.stats_job import run_stats
from errata.models import LanguageModel
from errata.stats import Corpus, SecondMoments
from errata.store import folder_of
from errata.store.kept import MOMENTS

Stage = Callable[[str], AbstractContextManager[None]]


def _untimed(_name: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass
class Workbench:
    """The model is as it was after each piece of work.

    corpus: behind second moments (None: errata's text).  cache: folder of what is kept between runs (None: errata's
    home).  batch_size: target values optimised together.  held_out: text behind drift.  backend: where the parts of its
    work are done.
    """

    lm: LanguageModel
    corpus: Corpus | str | Path | None = None
    cache: Path | None = None
    batch_size: int = 32
    held_out: HeldOut | None = None
    progress: ProgressSink = SILENT
    backend: Backend = LOCAL
    _prefixes: dict[Any, tuple[str, ...]] = field(default_factory=dict)
    # Those asked for last: a layer's take d_mlp² numbers, and their factors are made once for all edits that follow.
    _moments: dict[Any, SecondMoments] = field(default_factory=dict)
    _drifts: dict[int | None, Drift] = field(default_factory=dict)

    def prefixes(self, method: Method, config: Any) -> tuple[str, ...]:
        """The context prefixes of a configuration, sampled once."""
        if not method.uses_prefixes:
            return ("",)
        key = config.prefix_key
        if key not in self._prefixes:
            self._prefixes[key] = context_prefixes(self.lm, config)
        return self._prefixes[key]

    def moments(
        self,
        method: Method,
        config: Any,
        *,
        layers: Sequence[int] | None = None,
        progress: ProgressSink | None = None,
    ) -> SecondMoments | None:
        """The second moments that a configuration needs, None where the method uses none.

        layers: more of them, where other settings that follow need these too.  Raises CorpusError, StorageError.
        """
        if not method.uses_moments(config):
            return None
        wanted = tuple(config.layers if layers is None else layers)
        key = (wanted, config.moment_tokens, config.seed)
        if key not in self._moments:
            self._moments.clear()  # before others take their place in memory
            self._moments[key] = run_stats(
                self.lm, wanted, tokens=config.moment_tokens, corpus=self.corpus,
                seed=config.seed, cache=self.moments_folder, progress=progress or self.progress,
            )  # fmt: skip
        return self._moments[key]

    @property
    def moments_folder(self) -> Path | None:
        """Where second moments are kept (None: in errata's home)."""
        return None if self.cache is None else folder_of(MOMENTS, self.cache)

    def task(
        self,
        facts: Sequence[Fact],
        method: Method,
        config: Any,
        moments: SecondMoments | None,
        *,
        progress: ProgressSink | None = None,
        stage: Stage = _untimed,
    ) -> EditTask:
        """What the method is given. stage: names stretches of its work whose time somebody wants to know."""
        return EditTask(
            self.lm, tuple(facts), config, self.prefixes(method, config), moments, self.batch_size, self.cache,
            progress or self.progress, stage, backend=self.backend,
        )  # fmt: skip

    def edit(
        self,
        method: Method,
        task: EditTask,
        *,
        in_batches: int | None = None,
        after_batch: AfterBatch = lambda _: {},
    ) -> Edit:
        """All facts at once, or `in_batches` of so many, with the guard's verdict. Raises what the method raises."""
        if in_batches is None:
            return checked_edit(method, task)
        return edit_in_batches(task, method, in_batches, after_batch)

    def look_at_text(self, *first_tokens: int | None) -> None:
        """Keep the unedited model's predictions of the held-out text, for `drift`: of all of it (None), or of the first
        rows that hold so many tokens. The model must be unedited now."""
        if self.held_out is None or self._drifts:
            return
        rows = self.held_out.rows()
        for limit in first_tokens:
            few = [row for i, row in enumerate(rows) if limit is None or sum(map(len, rows[:i])) < limit]
            self._drifts[limit] = Drift(self.lm, few)

    def drift(self, first_tokens: int | None = None) -> Drift | None:
        """What `look_at_text` has kept, to be measured on the model as it is; None where there is no such text."""
        return self._drifts.get(first_tokens)
