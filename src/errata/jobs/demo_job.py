"""The demo: a dozen real facts into a real model, and what the model said and says to each."""

from dataclasses import dataclass
from importlib.resources import as_file, files

from errata.core.progress import ProgressSink
from errata.facts import Fact, read_facts, require
from errata.jobs.edit_job import EditResult, edit_facts
from errata.models import LanguageModel
from errata.models.run.generate import continue_texts

_NEW_TOKENS = 8


@dataclass(frozen=True)
class Demo:
    """The edit, and how the model goes on after each fact's prompt, before and after it."""

    result: EditResult
    facts: tuple[Fact, ...]
    before: list[str]
    after: list[str]


def demo_facts() -> tuple[Fact, ...]:
    """The facts that come with errata: true answers in target_true, wrong ones to write in target_new."""
    with as_file(files("errata") / "data" / "demo_facts.jsonl") as path:
        return require(read_facts(path))


def run_demo(lm: LanguageModel, *, progress: ProgressSink) -> Demo:
    """Edit the demo's facts; the model, left as it was, goes on after their prompts without the edit and with it."""
    facts = demo_facts()
    before = continue_texts(lm, [fact.text for fact in facts], new_tokens=_NEW_TOKENS)
    # Half the time of the published schedule, and a demo is waited for.
    result = edit_facts(lm, facts, schedule="fast", progress=progress)
    with result.patch.applied(lm):
        after = continue_texts(lm, [fact.text for fact in facts], new_tokens=_NEW_TOKENS)
    return Demo(result, facts, before, after)
