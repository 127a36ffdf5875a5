"""Every fact's prompts scored on a model as it is, each prompt–target pair once, and the totals.

Equals one whole forward for each prompt and target (tests/reference/evaluation.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from errata.core.progress import SILENT, ProgressSink
from errata.errors import ConfigError, InputError
from errata.evaluate.endings import run_ons
from errata.evaluate.metrics import Metric
from errata.evaluate.row_scores import score_rows
from errata.evaluate.scores import (
    FactScore,
    PromptScore,
    Summary,
    TargetScore,
    ZsreSummary,
    all_metrics,
    summarize,
    summarize_zsre,
)
from errata.facts import Fact, FactsLike, Problem, PromptTarget, format_problems, taken
from errata.models import LanguageModel, TargetRow, encode_targets, facts_in_chat, takes_model, token_reason

# More tokens at once are no faster on a CPU and take more memory: benchmarks/bench_evaluation.py.
BATCH_TOKENS = 2048

_Found = tuple[TargetScore, int]


@dataclass(frozen=True)
class Measurement:
    """What was measured for each fact, in their order, and the totals."""

    facts: tuple[FactScore, ...]
    summary: Summary
    zsre: ZsreSummary

    def metrics(self) -> dict[str, Metric]:
        """Every mean by its key in METRICS, and both Scores."""
        return all_metrics(self.summary, self.zsre)

    def to_json(self) -> dict[str, Any]:
        """The metrics of CounterFact by name, those of zsRE under `zsre`, every prompt under `facts`."""
        facts = [fact.to_json() for fact in self.facts]
        return {**self.summary.to_json(), "zsre": self.zsre.to_json(), "facts": facts}


@dataclass(frozen=True)
class _Prompt:
    """A prompt of a fact: its text, what it is called in a message, and the answer that counts as true."""

    name: str
    text: str
    true: str | None


@takes_model
def measure(
    lm: LanguageModel,
    facts: FactsLike,
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: ProgressSink = SILENT,
) -> Measurement:
    """Score every fact's prompt, paraphrases and neighbours on the model as it is.

    A neighbour without an answer of its own is scored against the fact's target_true, the convention of CounterFact.
    `batch_tokens` bounds memory: rows × width of a batch. Raises InputError, naming the facts, before any compute where
    a prompt with its target is longer than the context or has no token before the target; NumericsError where the
    model gives no finite number; ConfigError for `batch_tokens` below 1.
    """
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens is {batch_tokens}; it must be at least 1.")
    given = facts_in_chat(lm, taken(facts).facts)
    rows = _rows(lm, given)
    by_prompt: dict[str, list[PromptTarget]] = {}
    for pair in rows:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    groups = [[rows[pair] for pair in pairs] for pairs in by_prompt.values()]
    with progress.stage("evaluation", len(rows), "targets") as advance:
        found = score_rows(lm, groups, batch_tokens=batch_tokens, advance=advance)
    scores: dict[PromptTarget, _Found] = {}
    for pairs, results in zip(by_prompt.values(), found, strict=True):
        for pair, result in zip(pairs, results, strict=True):
            tokens = len(rows[pair].target_ids)
            score = TargetScore(target=pair.target, log_prob=result.log_prob, tokens=tokens, right=result.right)
            scores[pair] = score, result.first
    scored = _with_endings(lm, given, [_fact_score(fact, scores) for fact in given], rows)
    return Measurement(scored, summarize(scored), summarize_zsre(scored))


def _with_endings(
    lm: LanguageModel, facts: Sequence[Fact], scores: Sequence[FactScore], rows: Mapping[PromptTarget, TargetRow]
) -> tuple[FactScore, ...]:
    """The scores with what the model adds to the answers that it gives after facts' own prompts."""
    said = [i for i, score in enumerate(scores) if score.prompt.new.correct]
    pairs = [facts[i].asked(facts[i].text, facts[i].target_new) for i in said]
    added = dict(zip(said, run_ons(lm, [rows[pair] for pair in pairs]), strict=True)) if said else {}
    return tuple(
        replace(score, prompt=replace(score.prompt, runs_on=added.get(i, ""))) for i, score in enumerate(scores)
    )


def check_measurable(lm: LanguageModel, facts: Sequence[Fact]) -> list[Problem]:
    """What `measure` would refuse, one problem for each prompt; no model is run."""
    return _encoded(lm, facts_in_chat(lm, facts))[1]


def _prompts(fact: Fact) -> Iterator[_Prompt]:
    yield _Prompt("prompt", fact.text, fact.target_true)
    for number, paraphrase in enumerate(fact.paraphrases, 1):
        yield _Prompt(f"paraphrase {number}", paraphrase, fact.target_true)
    for number, neighbour in enumerate(fact.neighbours, 1):
        true = fact.target_true if neighbour.answer is None else neighbour.answer
        yield _Prompt(f"neighbour {number}", neighbour.prompt, true)


def _pairs(fact: Fact) -> Iterator[tuple[_Prompt, PromptTarget]]:
    for prompt in _prompts(fact):
        yield prompt, fact.asked(prompt.text, fact.target_new)
        if prompt.true is not None:
            yield prompt, fact.asked(prompt.text, prompt.true)


def _fact_score(fact: Fact, scores: Mapping[PromptTarget, _Found]) -> FactScore:
    every = [_prompt_score(prompt, fact, scores) for prompt in _prompts(fact)]
    split = 1 + len(fact.paraphrases)
    return FactScore(id=fact.id, prompt=every[0], paraphrases=tuple(every[1:split]), neighbours=tuple(every[split:]))


def _prompt_score(prompt: _Prompt, fact: Fact, scores: Mapping[PromptTarget, _Found]) -> PromptScore:
    # Every target of a prompt knows the same first choice; only where tokens merge across the prompt's end do targets
    # stand after different tokens, and there the new one's place counts.
    new, first = scores[fact.asked(prompt.text, fact.target_new)]
    true = None if prompt.true is None else scores[fact.asked(prompt.text, prompt.true)][0]
    return PromptScore(text=prompt.text, new=new, true=true, first=first)


def _rows(lm: LanguageModel, facts: Sequence[Fact]) -> dict[PromptTarget, TargetRow]:
    """Every pair encoded, once. Raises InputError naming every fact that cannot be measured."""
    rows, problems = _encoded(lm, facts)
    if problems:
        raise InputError("Facts that cannot be measured; correct them or leave them out:\n" + format_problems(problems))
    return rows


def _encoded(lm: LanguageModel, facts: Sequence[Fact]) -> tuple[dict[PromptTarget, TargetRow], list[Problem]]:
    pairs = list(dict.fromkeys(pair for fact in facts for _, pair in _pairs(fact)))
    try:
        rows = dict(zip(pairs, (row for row, _ in encode_targets(lm.tokenizer, pairs)), strict=True))
    except InputError:
        rows = {}  # some pair has no target token: the search below names it
    problems = [
        Problem("error", f"{prompt.name} cannot be measured: {reason}", fact_id=fact.id)
        for fact in facts
        for prompt, pair in _pairs(fact)
        if (reason := _reason(lm, pair, rows.get(pair)))
    ]
    return rows, problems


def _reason(lm: LanguageModel, pair: PromptTarget, row: TargetRow | None) -> str:
    """Why a pair cannot be scored; empty where it can."""
    if row is None:
        try:
            ((row, _),) = encode_targets(lm.tokenizer, [pair])
        except InputError:
            return f"the tokenizer makes no token of the target {pair.target!r}"
    if not row.start:
        return f"no token comes before the target {pair.target!r}; a longer prompt is needed"
    if len(row.ids) > lm.max_tokens:
        return f"with its target {len(row.ids):,} tokens long; {lm.name} reads at most {lm.max_tokens:,}"
    return token_reason(lm, row.ids, row.target_ids)
