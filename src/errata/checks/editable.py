"""The facts that a model can be edited with: read as it reads them, without contradictions, measurable where asked."""

from collections.abc import Mapping, Sequence

from errata.checks.selection import Selection, placed, selected, without_contradictions
from errata.core.words import shortened
from errata.edit import check_facts
from errata.errors import FactsError
from errata.evaluate import check_measurable
from errata.facts import Fact
from errata.models import LanguageModel, encode, facts_in_chat


def editable_facts(
    lm: LanguageModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    *,
    evaluate: bool,
    skip_bad: bool,
    places: Mapping[str, str],
) -> Selection:
    """The facts as the model reads them (those with `chat` through its template) that it can be edited with.

    `prefixes`: the contexts they will be edited in.  `evaluate`: they will be measured too.  Raises FactsError as
    `selected` does, and where there is no fact.
    """
    if not facts:
        raise FactsError("There is no fact to edit.")
    facts = facts_in_chat(lm, facts)
    contradictions, distinct = without_contradictions(facts, places)
    longest = max(len(encoding.ids) for encoding in encode(lm.tokenizer, prefixes))
    problems = check_facts(lm, distinct, longest_prefix=longest)
    if evaluate:
        bad = {problem.fact_id for problem in problems if problem.severity == "error"}
        problems += check_measurable(lm, [fact for fact in distinct if fact.id not in bad])
    action = f"edited into {lm.name}"
    return selected(distinct, placed(problems, places), action=action, skip_bad=skip_bad, rejected=contradictions)


def warning_texts(selection: Selection) -> list[str]:
    """The warnings with the facts that they are about."""
    names = {fact.id: shortened(fact.text, 80) for fact in selection.facts}
    return [f"{one.where or 'fact'}, {names.get(one.fact_id or '', '')!r}: {one.reason}" for one in selection.warnings]
