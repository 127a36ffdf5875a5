"""The demo: a dozen real facts into a real model, and every number that shows what happened."""

from importlib.resources import as_file, files
from pathlib import Path

from errata.core.progress import ProgressSink
from errata.evaluate import PromptScore
from errata.facts import Fact, read_facts, require
from errata.jobs.edit_job import EditResult, edit_facts
from errata.jobs.results import check_out, save_run
from errata.jobs.summary import summary
from errata.models import LanguageModel
from errata.models.generate import continue_texts
from errata.views.tables import shortened, text_table

_NEW_TOKENS = 8


def demo_facts() -> tuple[Fact, ...]:
    """The facts that come with errata: true answers in target_true, wrong ones to write in target_new."""
    with as_file(files("errata") / "data" / "demo_facts.jsonl") as path:
        return require(read_facts(path))


def run_demo(lm: LanguageModel, out: Path, *, progress: ProgressSink) -> str:
    """Edit the demo's facts, keep the run in `out` (an earlier run there is replaced), and tell what happened."""
    check_out(out, overwrite=True)
    facts = demo_facts()
    before = continue_texts(lm, [fact.text for fact in facts], new_tokens=_NEW_TOKENS)
    result = edit_facts(lm, facts, progress=progress)
    with result.patch.applied(lm):
        after = continue_texts(lm, [fact.text for fact in facts], new_tokens=_NEW_TOKENS)
    out = save_run(result, out, overwrite=True)
    return "\n\n".join(
        [
            _likelihoods(facts, result),
            _says(facts, before, after),
            summary(result),
            f"The patch lies in {out}. The model itself is as it was:\n  errata ask {facts[0].text!r} --patch {out}",
        ]
    )


def _likelihoods(facts: tuple[Fact, ...], result: EditResult) -> str:
    """p(new) and p(old) in percent, before → after, for the prompt, its paraphrase and its neighbour."""
    assert result.before is not None
    assert result.after is not None
    rows = []
    for fact, before, after in zip(facts, result.before.facts, result.after.facts, strict=True):
        rows.append(
            _row(fact.subject, "prompt", f"{fact.target_true} → {fact.target_new}", before.prompt, after.prompt)
        )
        for b, a in zip(before.paraphrases, after.paraphrases, strict=True):
            rows.append(_row("", "paraphrase", "", b, a))
        for n, b, a in zip(fact.neighbours, before.neighbours, after.neighbours, strict=True):
            rows.append(_row("", "neighbour", f"{n.answer or fact.target_true} stays", b, a))
    header = ["subject", "asked as", "old → new", "p(new)", "after", "p(old)", "after", ""]
    note = "p in percent, of the whole answer, before and after. ✓: what should win wins after the edit."
    return text_table(header, rows, right=(3, 4, 5, 6)) + "\n" + note


def _row(subject: str, kind: str, change: str, before: PromptScore, after: PromptScore) -> list[str]:
    assert before.true is not None
    assert after.true is not None
    wins = after.true.nll < after.new.nll if kind == "neighbour" else after.new.nll < after.true.nll
    numbers = [before.new, after.new, before.true, after.true]
    return [subject, kind, change, *(f"{100 * target.probability:.2f}" for target in numbers), "✓" if wins else "✗"]


def _says(facts: tuple[Fact, ...], before: list[str], after: list[str]) -> str:
    rows = [
        [shortened(fact.text, 60), shortened(old, 36), shortened(new, 36)]
        for fact, old, new in zip(facts, before, after, strict=True)
    ]
    return text_table(["prompt", "said before", "says now"], rows)
