"""What the demo shows: the verdict, what the model said and says to every fact, and marks for its other prompts."""

from collections.abc import Sequence
from pathlib import Path

from errata.core.words import shortened
from errata.evaluate import FactScore, PromptScore
from errata.evaluate.verdict import kept, outcome
from errata.facts import Fact
from errata.jobs.demo_job import Demo
from errata.jobs.edit_verdict import best_example
from errata.reports.edit_summary import save_run, summary
from errata.views.shell import command_line
from errata.views.text_tables import text_table

_MARKS = (
    "New answer, other words: ✓ the model says it, ~ it is only likelier than the old one or runs on, ✗ neither.\n"
    "Neighbour: ✓ its own answer stayed the first choice, ✗ what the model says has changed, – it has not,\n"
    "and never was the right answer."
)
Scored = tuple[Fact, FactScore, FactScore]


def write_demo(demo: Demo, out: Path, *, verbose: bool = False) -> str:
    """Keep the run in `out` (an earlier run there is replaced), and tell what happened.

    `verbose`: with the probabilities of every answer and the table of metrics, which the report holds in any case.
    """
    result, facts = demo.result, demo.facts
    out = save_run(result, out, overwrite=True)
    assert result.before is not None
    assert result.after is not None
    scores = list(zip(facts, result.before.facts, result.after.facts, strict=True))
    example = best_example(facts, result.before, result.after) or facts[0]
    command = command_line("ask", "--patch", str(out), prompts=[example.text])
    parts = [
        summary(result.report, verbose=verbose),
        _says(scores, demo.before, demo.after),
        *([_likelihoods(scores)] if verbose else []),
        f"The patch lies in {out}. The model itself is as it was. Ask both:\n  {command}",
    ]
    return "\n\n".join(parts)


def _says(scores: Sequence[Scored], before: list[str], after: list[str]) -> str:
    """What the model said and says to every fact, and marks for its other prompts."""
    rows = [
        [
            shortened(fact.text, 60), shortened(old, 30), shortened(new, 30), _learned([now.prompt]),
            _learned(now.paraphrases), _stayed(was.neighbours, now.neighbours),
        ]
        for (fact, was, now), old, new in zip(scores, before, after, strict=True)
    ]  # fmt: skip
    return (
        text_table(["prompt", "said before", "says now", "new answer", "other words", "neighbour"], rows)
        + "\n"
        + _MARKS
    )


def _learned(prompts: Sequence[PromptScore]) -> str:
    return " ".join(
        {"said": "✓", "runs on": "~", "preferred": "~", "not learned": "✗"}[outcome(one)] for one in prompts
    )


def _stayed(before: Sequence[PromptScore], after: Sequence[PromptScore]) -> str:
    return " ".join(_mark(was, now) for was, now in zip(before, after, strict=True))


def _mark(was: PromptScore, now: PromptScore) -> str:
    """A neighbour's mark: what a reader takes a ✓ for is that the answer beside it is still given."""
    if not kept(was, now):
        return "✗"
    return "✓" if was.true is not None and was.true.correct else "–"


def _likelihoods(scores: Sequence[Scored]) -> str:
    """p(new) and p(old) in percent, before → after, for the prompt, its paraphrase and its neighbour."""
    rows = []
    for fact, before, after in scores:
        change = f"{fact.target_true} → {fact.target_new}"
        rows.append(_row(fact.subject, "prompt", change, before.prompt, after.prompt, _learned([after.prompt])))
        for b, a in zip(before.paraphrases, after.paraphrases, strict=True):
            rows.append(_row("", "paraphrase", "", b, a, _learned([a])))
        for n, b, a in zip(fact.neighbours, before.neighbours, after.neighbours, strict=True):
            rows.append(_row("", "neighbour", f"{n.answer or fact.target_true} stays", b, a, _mark(b, a)))
    header = ["subject", "asked as", "old → new", "p(new)", "after", "p(old)", "after", ""]
    note = "p in percent, of the whole answer, before and after; the marks are those above."
    return text_table(header, rows, right=(3, 4, 5, 6)) + "\n" + note


def _row(subject: str, kind: str, change: str, before: PromptScore, after: PromptScore, mark: str) -> list[str]:
    assert before.true is not None
    assert after.true is not None
    numbers = [before.new, after.new, before.true, after.true]
    return [subject, kind, change, *(f"{100 * target.probability:.2f}" for target in numbers), mark]
