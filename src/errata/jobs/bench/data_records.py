"""The facts of a benchmark: the records of a data set that the model can be given, from one on."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from errata.checks.editable import editable_facts
from errata.core.words import counted
from errata.errors import FactsError
from errata.facts import Fact, format_problems, read_facts
from errata.facts.relations import read_relations, relation_edits
from errata.jobs.bench.bench_options import BenchOptions
from errata.models import LanguageModel

# Records that contradict another or that the model cannot be given are left out: so many more are looked at.
_SPARE_SHARE, _SPARE = 1.05, 10
_SHOWN = 10


@dataclass(frozen=True)
class Records:
    """Facts in the data set's order, from the first wanted one on.

    types: each relation's type, where the data set has types.  halves: the facts of the two relations of a mixed study.
    """

    facts: tuple[Fact, ...]
    types: dict[str, str] = field(default_factory=dict)
    halves: tuple[tuple[Fact, ...], tuple[Fact, ...]] | None = None


def relation_of(fact: Fact) -> str:
    """The relation's name, or where the data has none, the prompt with the subject left out."""
    return fact.relation or fact.template


def read_records(path: Path, options: BenchOptions) -> Records:
    """The records of a file, without a model; FactsError where it does not hold enough."""
    wanted = options.first + options.needed
    types: dict[str, str] = {}
    if options.dataset == "relations":
        relations = read_relations(path)
        every = sum(len(relation.samples) for relation in relations)
        limit = every if options.mixed else int(wanted * _SPARE_SHARE) + _SPARE
        found = relation_edits(relations, limit=limit, seed=options.seed)
        facts, types = found.facts, found.types
    else:
        limit = None if options.mixed else int(wanted * _SPARE_SHARE) + _SPARE
        facts = read_facts(path, limit=limit).facts
    if len(facts) < wanted:
        raise FactsError(f"{path} holds {len(facts):,} usable facts; --n and --first ask for {wanted:,}.")
    pool = facts[options.first :]
    return Records(pool[: int(options.needed * _SPARE_SHARE) + _SPARE], types, _halves(pool, options))


def usable(
    lm: LanguageModel, facts: Sequence[Fact], count: int, prefixes: Sequence[str], notify: Callable[[str], None]
) -> tuple[Fact, ...]:
    """The first `count` of the facts that the model can be given; FactsError where there are fewer."""
    selection = editable_facts(lm, facts, prefixes, evaluate=True, skip_bad=True, places={})
    kept, skipped = selection.facts, selection.errors
    if skipped:
        more = f"\n... and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        notify(f"Records that are left out: {len(facts) - len(kept)}\n{format_problems(skipped[:_SHOWN])}{more}")
    if len(kept) < count:
        raise FactsError(f"Usable on {lm.name}: {counted(len(kept), 'record')}; asked for: {count:,}.")
    return kept[:count]


def _halves(pool: Sequence[Fact], options: BenchOptions) -> tuple[tuple[Fact, ...], tuple[Fact, ...]] | None:
    if not options.mixed:
        return None
    half = max(options.counts) // 2
    parts = [tuple(fact for fact in pool if relation_of(fact) == name) for name in options.mixed]
    for name, part in zip(options.mixed, parts, strict=True):
        if len(part) < half:
            common = ", ".join(
                f"{text!r} ({n})" for text, n in Counter(relation_of(fact) for fact in pool).most_common(6)
            )
            raise FactsError(
                f"--mixed {name!r}: {counted(len(part), 'record')} of that relation, and {half} needed. Try {common}."
            )
    spare = int(half * _SPARE_SHARE) + _SPARE
    return parts[0][:spare], parts[1][:spare]
