"""The demo: a dozen facts into a real model, one of them a correction, and a row each that shows what happened."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from errata.core.progress import SILENT, ProgressSink
from errata.evaluate import FactScore, PromptScore
from errata.facts import Fact, read_facts, require
from errata.jobs.edit_job import EditResult, edit_facts
from errata.jobs.results import check_out, save_run
from errata.jobs.summary import summary
from errata.models import LanguageModel
from errata.models.generate import continue_texts
from errata.views.tables import shortened, text_table

_NEW_TOKENS = 6
_NOTE = (
    "p: the probability of the whole new answer in percent (neighbour: of its own), before → after. ✓: it is what the "
    "model says."
)


def demo_facts() -> tuple[Fact, ...]:
    """The facts that come with errata: what the model says until now in target_true, what to write in target_new."""
    with as_file(files("errata") / "data" / "demo_facts.jsonl") as path:
        return require(read_facts(path))


def run_demo(lm: LanguageModel, out: Path, *, progress: ProgressSink) -> str:
    """Edit the demo's facts, keep the run in `out` (an earlier run there is replaced), and tell what happened."""
    check_out(out, overwrite=True)
    facts = demo_facts()
    progress.note(f"Editing {len(facts)} facts into {lm.name}: half a minute on a quiet machine.")
    before = continue_texts(lm, [fact.text for fact in facts], new_tokens=_NEW_TOKENS)
    result = edit_facts(lm, facts, progress=_Brief(progress))
    with result.patch.applied(lm):
        after = continue_texts(lm, [fact.text for fact in facts], new_tokens=_NEW_TOKENS)
    out = save_run(result, out, overwrite=True)
    return "\n\n".join(
        [
            _table(facts, before, after, result),
            summary(result),
            f"The patch lies in {out}. The model itself is as it was:\n  errata ask {facts[0].text!r} --patch {out}",
        ]
    )


class _Brief:
    """Progress of the two long stages alone: the rest would push the table off the screen."""

    def __init__(self, progress: ProgressSink) -> None:
        self._progress = progress

    @contextmanager
    def stage(self, what: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
        shown = self._progress if what in ("second moments", "target values") else SILENT
        with shown.stage(what, total, unit, done=done) as advance:
            yield advance

    def note(self, text: str) -> None:
        del text


def _table(facts: tuple[Fact, ...], before: list[str], after: list[str], result: EditResult) -> str:
    """A row a fact: what the model said and says, and the probabilities for prompt, paraphrase and neighbour."""
    assert result.before is not None
    assert result.after is not None
    scores = zip(result.before.facts, result.after.facts, strict=True)
    rows = [
        [shortened(fact.text, 52), shortened(old, 20), shortened(new, 20), *_cells(fact, *pair)]
        for fact, old, new, pair in zip(facts, before, after, scores, strict=True)
    ]
    header = ["prompt", "said before", "says now", "p", "paraphrase", "neighbour"]
    return text_table(header, rows) + "\n" + _NOTE


def _cells(fact: Fact, before: FactScore, after: FactScore) -> list[str]:
    (neighbour,), (own,), (kept,) = fact.neighbours, before.neighbours, after.neighbours
    (paraphrase,), (asked,) = before.paraphrases, after.paraphrases
    return [
        _cell(before.prompt, after.prompt),
        _cell(paraphrase, asked),
        f"{neighbour.answer}: {_cell(own, kept, old=True)}",
    ]


def _cell(before: PromptScore, after: PromptScore, *, old: bool = False) -> str:
    """Probabilities of the new answer (or the old one), and whether every token of it is the first choice now."""
    one, other = (before.true, after.true) if old else (before.new, after.new)
    assert one is not None
    assert other is not None
    return f"{100 * one.probability:.0f} → {100 * other.probability:.0f} {'✓' if other.correct else '✗'}"
