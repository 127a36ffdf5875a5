"""Facts: what they are, how files of them are read and written, and what can be wrong with them."""

from __future__ import annotations

from errata.facts.conflicts import Accepted
from errata.facts.fact import Fact, Neighbour, facts_digest
from errata.facts.fact_file import FactFile, require
from errata.facts.in_memory import FactsLike, facts_of, taken
from errata.facts.problems import Problem, format_problems
from errata.facts.readers import read_facts
from errata.facts.text import PromptTarget, join_target
from errata.facts.writers import write_facts

__all__ = [
    "Accepted",
    "Fact",
    "FactFile",
    "FactsLike",
    "Neighbour",
    "Problem",
    "PromptTarget",
    "facts_digest",
    "facts_of",
    "format_problems",
    "join_target",
    "read_facts",
    "require",
    "taken",
    "write_facts",
]
