"""`errata tune`: what will be tried, the search, and the preset, with everything kept on the way."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from errata.checks.editable import editable_facts
from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted
from errata.edit import PresetFile, find_method, settings_for, write_preset
from errata.edit.preset_file import shape_of
from errata.errors import ConfigError, ModelError
from errata.facts import Fact, FactsLike, facts_digest, format_problems, taken
from errata.jobs.eval_states import model_digest
from errata.jobs.held_out import HeldOut, held_out
from errata.jobs.stats_job import run_stats
from errata.jobs.tune.candidates import Candidates, candidates
from errata.jobs.tune.proposals import traced_ranges
from errata.jobs.tune.search import Chosen, Search
from errata.jobs.tune.trials import objective_name, told
from errata.jobs.tune.tune_folder import TuneFolder, check_tune_folder
from errata.jobs.tune.tune_options import TuneOptions
from errata.jobs.tune.worker import ModelWorker
from errata.jobs.workbench import Workbench
from errata.models import LanguageModel, takes_model
from errata.stats import Corpus, open_corpus, prepare, seconds_per_token
from errata.store import digest, home, lock
from errata.tracing import LayerRange

# Records that the model cannot be given are left out: so many more are looked at.
_SPARE_SHARE, _SPARE = 1.1, 10
_SHOWN = 10
# Of the budget, what second moments may take: the rest has to be worth something.
_MOMENT_SHARE = 0.5


@dataclass(frozen=True)
class TuneResult:
    """The folder, the preset, the trials behind it, and what the run was (`about`)."""

    out: Path
    preset: PresetFile
    chosen: Chosen
    search: Search
    about: dict[str, Any]


@takes_model
def tune(
    lm: LanguageModel,
    facts: FactsLike,
    out: str | Path,
    *,
    options: TuneOptions,
    proposals: Sequence[Sequence[int]] = (),
    corpus: Corpus | str | Path | None = None,
    cache: str | Path | None = None,
    progress: ProgressSink = SILENT,
    clock: Callable[[], float] = time.monotonic,
) -> TuneResult:
    """Find settings of `options.method` for `lm` by small edits of `facts`, and write them to `out`/preset.json.

    `proposals`: ranges of layers to try beside those that causal tracing of `options.traced` known facts proposes.
    `corpus`: for second moments (default: what suits the model). `cache`: folder for second moments and target
    values (default: errata's home). The model is left as it was. What is finished is kept in `out`, so the same call
    goes on where it was stopped, with the same choice. Raises FactsError, ConfigError (a budget that is too small, too,
    as soon as the first costs are measured), InputError, CorpusError, StorageError, NumericsError.
    """
    out, cache = Path(out).expanduser(), None if cache is None else Path(cache)
    check_tune_folder(out)
    with lock(home() / "locks" / f"{digest(str(out.resolve()))[:32]}.lock", what=f"tuning into {out}", timeout=0.0):
        given = taken(facts, notify=progress.note).facts
        return _Run(lm, out, options, cache, progress, clock).tune(given, proposals, corpus)


@dataclass
class _Run:
    """What one call needs throughout."""

    lm: LanguageModel
    out: Path
    options: TuneOptions
    cache: Path | None
    progress: ProgressSink
    clock: Callable[[], float]

    def tune(
        self, facts: Sequence[Fact], proposals: Sequence[Sequence[int]], corpus: Corpus | str | Path | None
    ) -> TuneResult:
        options, lm = self.options, self.lm
        opened = None if corpus is None else open_corpus(corpus, notify=self.progress.note)
        lm.digest(fresh=True)
        bench = Workbench(
            lm, opened, cache=self.cache, batch_size=options.batch_size, held_out=self._text(), progress=self.progress
        )
        worker = ModelWorker(bench, find_method(options.method), clock=self.clock)
        editable = self._editable(worker, drawn(facts, options), proposals)
        count, held = options.counts(len(editable))
        began = self.clock()
        traced = self._traced(editable[:count])
        traced_seconds = self.clock() - began
        proposals = [*proposals, *(one.layers for one in traced)]
        choices = candidates(lm, options, count, proposals)
        worker.together = {last: tuple(sorted({i for one in own for i in one})) for last, own in choices.ranges.items()}
        folder = self._folder(opened, proposals, editable[: count + held])
        tuned, held_facts = editable[:count], editable[count : count + held]
        search = Search(worker, folder, choices, tuned, held_facts, 60 * options.minutes, self.progress)
        self._announce(choices, count, held, len(editable))
        setup = folder.keep(
            "setup", [folder.asked], lambda: {"seconds": traced_seconds + self._moments(worker, opened, choices)}
        )
        search.spent += setup["seconds"]
        result = search.run()
        about = {
            "method": options.method, "model": lm.name, "source": choices.source, "seed": options.seed,
            "base": "guess" if choices.is_guess else "preset", "facts": len(editable), "digest": lm.digest(),
            "tuning": folder.request, "notes": _notes(tuned), "traced": _told(traced),
        }  # fmt: skip
        preset = self._preset(result, count, folder.request)
        write_preset(self.out / "preset.json", preset)
        return TuneResult(self.out, preset, result, search, about)

    def _editable(
        self, worker: ModelWorker, chosen: Sequence[Fact], proposals: Sequence[Sequence[int]]
    ) -> tuple[Fact, ...]:
        """Those of the facts drawn that the model can be given. Layers that it does not have are found before."""
        usual = settings_for(self.lm, method=self.options.method, **self.options.fields).config
        for layers in (*self.options.layers, *proposals):
            usual.replace(layers=tuple(layers)).check_layers(self.lm.num_layers, self.lm.name)
        prefixes = worker.bench.prefixes(worker.method, usual)
        selection = editable_facts(self.lm, chosen, prefixes, evaluate=True, skip_bad=len(chosen) > 1, places={})
        if selection.errors:
            left_out = len(chosen) - len(selection.facts)
            self.progress.note(f"Facts that are left out: {left_out}\n{format_problems(selection.errors[:_SHOWN])}")
        return selection.facts

    def _folder(self, corpus: Corpus | None, proposals: Sequence[Sequence[int]], facts: Sequence[Fact]) -> TuneFolder:
        """Where the tuning is kept, under all that its figures depend on and all that was asked."""
        options = self.options
        text = None if corpus is None else corpus.digest
        shared = digest(model_digest(self.lm), text, options.batch_size, options.text_tokens, options.seed)
        return TuneFolder(
            self.out, shared, digest(asdict(options), [list(one) for one in proposals], facts_digest(facts))
        )

    def _traced(self, facts: Sequence[Fact]) -> list[LayerRange]:
        """What causal tracing of the facts to be tuned on proposes."""
        options = self.options
        if not options.traced or find_method(options.method).config_type.one_layer:
            return []
        ranges = traced_ranges(
            self.lm, facts, self.out / "traces", most=options.traced, seed=options.seed, progress=self.progress
        )
        if ranges:
            self.progress.note(f"Tracing proposes layers {_told(ranges)}.")
        return ranges

    def _text(self) -> HeldOut | None:
        """Held-out text for the drift: other samples of the model than those behind second moments."""
        if not self.options.text_tokens:
            return None
        with suppress(ModelError):  # no token to start samples from: ties go by the size of the update
            return held_out(self.lm, corpus=None, tokens=self.options.text_tokens, seed=self.options.seed)
        return None

    def _announce(self, choices: Candidates, count: int, held: int, available: int) -> None:
        lasts = ", ".join(str(config.layers[-1]) for config in choices.groups)
        self.progress.note(
            f"Tuning {self.options.method} for {self.lm.name} on {counted(count, 'fact')}, {held} more held out, of "
            f"{available:,} "
            f"looked at, in {self.options.minutes:g} minutes. Last layers: {lasts}. It begins with: {choices.source}."
        )

    def _moments(self, worker: ModelWorker, corpus: Corpus | None, choices: Candidates) -> float:
        """Compute the second moments of every layer in one pass; the seconds it took."""
        config = choices.base
        if not worker.method.uses_moments(config):
            return 0.0
        began = self.clock()
        folder = worker.bench.moments_folder
        request = prepare(
            self.lm,
            choices.layers,
            corpus=corpus,
            tokens=config.moment_tokens,
            seed=config.seed,
            cache=folder,
        )
        left = request.available_tokens - min(request.kept_tokens().values())
        seconds = left * seconds_per_token(request) if left >= config.moment_tokens // 2 else 0.0
        if seconds > _MOMENT_SHARE * 60 * self.options.minutes:
            raise ConfigError(
                f"--budget {self.options.minutes:g} minutes are too few: the second moments of {len(choices.layers)} "
                f"layers over {config.moment_tokens:,} tokens take about {seconds / 60:.1f} minutes. Give at least "
                f"{seconds / 60 / _MOMENT_SHARE:.0f}, or fewer tokens (--set moment_tokens=...)."
            )
        run_stats(
            self.lm, choices.layers, tokens=config.moment_tokens, corpus=corpus, seed=config.seed, cache=folder,
            progress=self.progress,
        )  # fmt: skip
        return self.clock() - began

    def _preset(self, result: Chosen, count: int, tuning: str) -> PresetFile:
        family, num_layers, d_model, d_vocab = shape_of(self.lm)
        source = (
            f"errata tune with {counted(count, 'fact')}: {objective_name(result.held.found)} {told(result.held)} on "
            f"{result.count} held-out facts, {told(result.base)} with what it began with"
        )
        return PresetFile(
            method=self.options.method, name=self.lm.name, family=family, num_layers=num_layers, d_model=d_model,
            d_vocab=d_vocab, facts=count, config=result.trial.config, source=source, tuning=tuning,
        )  # fmt: skip


def drawn(facts: Sequence[Fact], options: TuneOptions) -> tuple[Fact, ...]:
    """The records that may be used, in an order drawn by the seed: no more than are looked at. FactsError where few."""
    pool = list(facts[options.first :])
    if options.count is not None or not pool:
        options.counts(len(pool))
    random.Random(options.seed).shuffle(pool)
    needed = 2 * options.count if options.count is not None else 2 * 100
    return tuple(pool[: int(needed * _SPARE_SHARE) + _SPARE])


def _told(ranges: Sequence[LayerRange]) -> str:
    """Proposed ranges with what the subject's state loses without its MLPs there, in points of probability."""
    return ", ".join(f"{one.first}–{one.last} ({100 * one.gap:.1f} ± {100 * one.interval:.1f})" for one in ranges)


def _notes(facts: Sequence[Fact]) -> list[str]:
    """What the facts cannot tell."""
    lacking: Mapping[str, int] = {
        "true answers (nothing to compare the new ones with: accuracy is what was maximised)": sum(
            fact.target_true is None for fact in facts
        ),
        "paraphrases (PS)": sum(not fact.paraphrases for fact in facts),
        "neighbours (NS)": sum(not fact.neighbours for fact in facts),
    }
    return [f"Without {what}: {number} of {counted(len(facts), 'fact')}." for what, number in lacking.items() if number]
