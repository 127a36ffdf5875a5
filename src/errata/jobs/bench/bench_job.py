"""`errata bench`: every method at every number of edits, kept as it goes; tables and figures of all that is kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from errata.backends import LOCAL
from errata.core.parts import Advance, Part, complete, results
from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted
from errata.edit import Settings, find_method, settings_for
from errata.errors import ConfigError
from errata.evaluate.generation import GenerationConfig, generate
from errata.evaluate.metrics import Metric, Tally
from errata.evaluate.references import References
from errata.facts import Fact, facts_digest
from errata.jobs.bench.bench_folder import Folder, check_folder, is_edit
from errata.jobs.bench.bench_options import BenchOptions
from errata.jobs.bench.cells import UNEDITED, Bench, Cell, CellResult
from errata.jobs.bench.data_records import Records, read_records, usable
from errata.jobs.bench.features import FEATURES, features
from errata.jobs.bench.study import FAILURES, failed, predict, rows_of
from errata.jobs.eval_job import add_texts
from errata.jobs.eval_states import model_digest
from errata.jobs.held_out import HeldOut, held_out
from errata.jobs.workbench import Workbench
from errata.models import LanguageModel
from errata.stats import Corpus, default_corpus, open_corpus
from errata.store import digest

# Of the held-out text, what the drift of each single edit is measured on: there are many of them.
SINGLE_TOKENS = 100
# Texts are written for so many facts of a cell at most.
GENERATED_FACTS = 100


@dataclass(frozen=True)
class BenchResult:
    """What a benchmark's tables, figures and summary are made of.

    about: what a reader must know to run it again.  cells: what each gave, in the order they stand in the tables.
    types: of relations, by relation.  predictions: what predicts failures, a row for each cell and kind of failure.
    """

    out: Path
    options: BenchOptions
    about: dict[str, Any]
    cells: tuple[tuple[Cell, CellResult], ...]
    types: Mapping[str, str]
    predictions: list[dict[str, Any]]


def run_bench(
    lm: LanguageModel,
    data: str | Path,
    out: str | Path,
    *,
    options: BenchOptions,
    corpus: Corpus | str | Path | None = None,
    text: Corpus | str | Path | None = None,
    references: References | None = None,
    cache: str | Path | None = None,
    progress: ProgressSink = SILENT,
) -> BenchResult:
    """Run every cell that `out` does not hold already; `reports.bench` makes tables, figures and summary of them all.

    `data`: the data set's file.  `corpus`: for second moments.  `text`: held-out text for perplexity and drift
    (default: the model's own samples, other ones than the second moments').  `cache`: folder for second moments and
    target values (default: errata's home).  `references`: texts for RS; GE and RS are of at most 100 facts of a cell.

    A cell whose method diverges is marked and the rest go on. The model is left as it was. Raises FactsError,
    ConfigError, CorpusError, InputError before any long work, StorageError.
    """
    out, cache = Path(out).expanduser(), None if cache is None else Path(cache)
    check_folder(out)
    if text is not None and not options.text_tokens:
        raise ConfigError("--text is what drift is measured on, and --text-tokens 0 asks for no drift.")
    records = read_records(Path(data).expanduser(), options)
    opened = None if corpus is None else open_corpus(corpus, notify=progress.note)
    lm.digest(fresh=True)
    held = None
    if options.text_tokens:
        held = held_out(lm, corpus=text, tokens=options.text_tokens, seed=options.seed)
    work = Workbench(lm, opened, cache=cache, batch_size=options.batch_size, held_out=held, progress=progress)
    generation = GenerationConfig(seed=options.seed) if options.generate else None
    bench = Bench(work, options, _Extras(work, generation, references))
    _expect_other_text(opened, held)
    records = _checked(bench, records)
    texts = None if references is None else references.digest
    folder = Folder(out, _shared(lm, held, opened), digest(options.in_batches, options.generate, options.seed, texts))
    plan = [(cell, bench.settings(cell) if is_edit(cell) else None) for cell in _cells(options, records)]
    results = _run(bench, folder, plan)
    done = [(cell, result) for (cell, _), result in zip(plan, results, strict=True)]
    predictions = _study(bench, folder, done) if options.study else []
    about = _about(lm, data, options, plan, results)
    return BenchResult(out, options, about, tuple(done), records.types, predictions)


def _expect_other_text(corpus: Corpus | None, text: HeldOut | None) -> None:
    if corpus is not None and text is not None and corpus.digest in text.recipe:
        raise ConfigError(
            f"{corpus.name} is given for the second moments and as held-out text: methods that use the moments are "
            "told to leave that very text alone. Name another --text."
        )


class _Extras:
    """Perplexity and drift of the model as it is, against the unedited one; of single edits on the first rows only."""

    def __init__(self, work: Workbench, generation: GenerationConfig | None, references: References | None) -> None:
        self._work, self._generation, self._references = work, generation, references

    def prepare(self) -> None:
        """Look at the unedited model; not before it is known that there is work."""
        self._work.look_at_text(None, SINGLE_TOKENS)

    def __call__(self, facts: Sequence[Fact], *, singly: bool) -> Mapping[str, Metric]:
        drift = self._work.drift(SINGLE_TOKENS if singly else None)
        metrics = {} if drift is None else drift.measure().metrics()
        return metrics if singly or self._generation is None else {**metrics, **self._written(facts, self._generation)}

    def _written(self, facts: Sequence[Fact], generation: GenerationConfig) -> Mapping[str, Metric]:
        chosen = facts[:GENERATED_FACTS]
        tally = Tally()
        add_texts(tally, chosen, generate(self._work.lm, chosen, generation), self._references)
        return {key: tally.metric(key) for key in (["ge"] if self._references is None else ["ge", "rs"])}


def _checked(bench: Bench, records: Records) -> Records:
    """The records that can be used with every method's prefixes."""
    options, prefixes = bench.options, {"": None}
    for name in options.methods:
        method = find_method(name)
        config = bench.settings(Cell("scaling", "", name, records.facts[:1])).config
        prefixes |= dict.fromkeys(bench.work.prefixes(method, config))
    every = tuple(prefixes)
    facts = usable(bench.lm, records.facts, options.needed, every, bench.progress.note)
    halves = records.halves
    if halves is not None:
        half = max(options.counts) // 2
        first, second = (usable(bench.lm, part, half, every, bench.progress.note) for part in halves)
        halves = (first, second)
    return Records(facts, records.types, halves)


def _cells(options: BenchOptions, records: Records) -> list[Cell]:
    cells = []
    for method in (UNEDITED, *options.methods):
        for count in options.counts:
            singly = count == 1
            facts = records.facts[: options.singles if singly else count]
            label = f"{len(facts)} single edits" if singly else f"{count:,} edits"
            cells.append(Cell("scaling", label, method, facts, singly))
    if records.halves is not None:
        cells += _mixed(options, records.halves)
    return cells


def _mixed(options: BenchOptions, halves: tuple[tuple[Fact, ...], tuple[Fact, ...]]) -> list[Cell]:
    """Equal halves of two relations together, and each half by itself."""
    cells = []
    for method in (UNEDITED, *options.methods):
        for count in options.counts:
            one, other = (half[: count // 2] for half in halves)
            if one:
                parts = {"first": one, "second": other, "both": (*one, *other)}
                cells += [
                    Cell("mixed", f"{count:,}: {name}", method, facts, count=2 * len(one))
                    for name, facts in parts.items()
                ]
    return cells


def _run(bench: Bench, folder: Folder, plan: Sequence[tuple[Cell, Settings | None]]) -> list[CellResult]:
    parts = [Part(folder.key(cell, settings), (cell, settings)) for cell, settings in plan]
    missing = [part.payload[0] for part in parts if folder.load(part.key) is None]
    bench.progress.note(
        f"Benchmark on {bench.lm.name}: {counted(len(plan), 'cell')}, {len(plan) - len(missing)} of them done "
        f"before, in "
        f"{folder.out}."
    )
    if missing:
        bench.measure_unedited([fact for cell in missing for fact in cell.facts])
        bench.extras.prepare()

    def work(bench: Bench, asked: tuple[Cell, Settings | None], advance: Advance) -> CellResult:
        cell, settings = asked
        bench.progress.note(f"{cell.name} ({settings.source if settings else 'no edit'})")
        result = bench.run(cell, (partial(folder.single_key, cell, settings), folder.singles))
        if result.mark:
            bench.progress.note(f"{cell.name}: {result.mark}")
        advance(1)
        return result

    # Cells share the scores of the unedited model and the second moments, so they stay in this process.
    complete(work, bench, parts, folder, backend=LOCAL, progress=bench.progress, what="cells", unit="cells")
    return list(results(parts, folder))


def _study(bench: Bench, folder: Folder, done: Sequence[tuple[Cell, CellResult]]) -> list[dict[str, Any]]:
    """What predicts failures, a row for each method, number of edits and kind of failure."""
    rows = []
    for cell, result in done:
        if cell.study != "scaling" or not is_edit(cell):
            continue
        table = _features(bench, folder, cell)
        for kind in FAILURES:
            failures = [(outcome["id"], failed(outcome, kind)) for outcome in result.outcomes]
            decided = [(name, bool(state)) for name, state in failures if state is not None]
            values = np.array([table[name] for name, _ in decided], dtype=float).reshape(len(decided), len(FEATURES))
            states = [state for _, state in decided]
            prediction = predict(list(FEATURES), values, states, failure=kind, seed=bench.options.seed)
            rows.append(rows_of(prediction, cell.method, cell.label))
    return rows


def _features(bench: Bench, folder: Folder, cell: Cell) -> dict[str, list[float | None]]:
    """Features of a cell's facts on the unedited model, at the layer where MEMIT would edit it; kept with the cells."""
    config = settings_for(bench.lm, method="memit").config
    layer = config.layers[-1]

    def work() -> dict[str, list[float | None]]:
        moments = bench.work.moments(find_method("memit"), config.replace(layers=(layer,)))
        assert moments is not None
        bench.measure_unedited(cell.facts)
        values = features(
            bench.lm, cell.facts, bench.before, layer, moments, together=not cell.singly, progress=bench.progress
        )
        plain = [[None if math.isnan(value) else value for value in row] for row in values.tolist()]
        return dict(zip((fact.id for fact in cell.facts), plain, strict=True))

    return folder.remember("features", [layer, config.moment_tokens, cell.singly, facts_digest(cell.facts)], work)


def _shared(lm: LanguageModel, text: HeldOut | None, corpus: Corpus | None) -> str:
    """What every figure depends on beside method and facts."""
    recipes = [None if text is None else list(text.recipe), (default_corpus(lm) if corpus is None else corpus).digest]
    return digest(model_digest(lm), recipes)


def _about(
    lm: LanguageModel,
    data: str | Path,
    options: BenchOptions,
    plan: Sequence[tuple[Cell, Settings | None]],
    results: Sequence[CellResult],
) -> dict[str, Any]:
    """What a reader must know to run it again."""
    settings = {
        cell.name: {"source": used.source, "is_guess": used.is_guess, "config": asdict(used.config)}
        for cell, used in plan
        if used is not None and cell.study == "scaling"
    }
    return {
        "model": {"name": lm.name, "revision": lm.revision, "digest": lm.digest()[:12], "dtype": str(lm.dtype)},
        "data": Path(data).name,
        "facts": facts_digest([fact for cell, _ in plan for fact in cell.facts])[:12],
        "options": asdict(options),
        "settings": settings,
        "marks": {cell.name: result.mark for (cell, _), result in zip(plan, results, strict=True) if result.mark},
        "versions": {name: version(name) for name in ("errata", "torch", "transformers")},
    }
