"""What became of one fact in one cell, as plain JSON: its numbers for every metric, and a row for each prompt."""

from collections.abc import Sequence
from typing import Any

from errata.evaluate import FactScore, Summary, ZsreSummary
from errata.evaluate.changes import changed_values
from errata.evaluate.metrics import Metric, Tally
from errata.evaluate.scores import fact_values, summary_of, zsre_summary_of
from errata.facts import Fact
from errata.jobs.bench.data_records import relation_of
from errata.jobs.eval_rows import result_rows, state_rows
from errata.models import LanguageModel

Outcome = dict[str, Any]
CHANGES = ("prompts_changed", "paraphrases_changed", "neighbours_changed")


def outcome_of(lm: LanguageModel, fact: Fact, before: FactScore, after: FactScore) -> Outcome:
    """`values` are shares of 1 by metric key, of the edited model; `before` those of the unedited one."""
    return {
        "id": fact.id,
        "relation": relation_of(fact),
        "values": {**fact_values(after), **changed_values(before, after)},
        "before": fact_values(before),
        "rows": [{**row, "relation": relation_of(fact)} for row in _rows(lm, fact, before, after)],
    }


def tally_of(outcomes: Sequence[Outcome], which: str = "values") -> Tally:
    """The numbers of all facts."""
    tally = Tally()
    for outcome in outcomes:
        tally.add(outcome[which])
    return tally


def totals(outcomes: Sequence[Outcome], which: str = "values") -> tuple[Summary, ZsreSummary, dict[str, Metric]]:
    """Metrics of CounterFact, of zsRE, and the shares of changed answers, over facts."""
    tally = tally_of(outcomes, which)
    return summary_of(tally), zsre_summary_of(tally), {key: tally.metric(key) for key in CHANGES}


def _rows(lm: LanguageModel, fact: Fact, before: FactScore, after: FactScore) -> list[dict[str, Any]]:
    return result_rows([fact], {"before": state_rows(lm, [before]), "after": state_rows(lm, [after])})
