"""Measurements as the rows of Parquet files, one a prompt, and back again without a bit lost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from errata.evaluate import FactScore, Measurement, PromptScore, TargetScore, measure
from errata.facts import Fact
from errata.models import LanguageModel, token_texts

Row = dict[str, Any]

# The columns of one measurement, and what Parquet keeps them as. A prompt's `first` choice as id and as text.
STATE = {
    "id": "string", "kind": "string", "number": "int32", "prompt": "string",
    "target_new": "string", "tokens_new": "int32", "log_prob_new": "float64", "right_new": "int32",
    "target_true": "string", "tokens_true": "int32", "log_prob_true": "float64", "right_true": "int32",
    "first_id": "int32", "first": "string", "runs_on": "string",
}  # fmt: skip
_SHARED = {"id": "string", "relation": "string", "kind": "string", "number": "int32", "prompt": "string"}
_SHARED |= {"target_new": "string", "target_true": "string", "tokens_new": "int32", "tokens_true": "int32"}
_MEASURED = {"nll_new": "float64", "nll_true": "float64", "right_new": "int32", "right_true": "int32"}
_MEASURED |= {"first": "string", "first_id": "int32", "runs_on": "string", "success": "bool"}


def measured_rows(lm: LanguageModel, facts: Sequence[Fact]) -> tuple[Measurement, list[Row]]:
    """The model as it is, measured on facts: the totals, and a row a prompt."""
    measurement = measure(lm, facts)
    return measurement, state_rows(lm, measurement.facts)


def state_rows(lm: LanguageModel, scores: Sequence[FactScore]) -> list[Row]:
    """One row a prompt in the columns of STATE: the fact's own (kind "prompt"), "paraphrase"s, "neighbour"s."""
    placed = [(score.id, *place) for score in scores for place in _places(score)]
    texts = token_texts(lm.tokenizer, sorted({p.first for *_, p in placed if p.first is not None}))
    return [
        {"id": name, "kind": kind, "number": number, "prompt": prompt.text}
        | _target(prompt.new, "new")
        | _target(prompt.true, "true")
        | {"first_id": prompt.first, "first": None if prompt.first is None else texts[prompt.first]}
        | {"runs_on": prompt.runs_on}
        for name, kind, number, prompt in placed
    ]


def fact_scores(facts: Sequence[Fact], rows: Sequence[Row]) -> list[FactScore]:
    """The scores that `state_rows` made the rows of these facts from."""
    left = iter(rows)
    return [_fact_score(fact, left) for fact in facts]


def result_columns(states: Sequence[str]) -> dict[str, str]:
    """The columns of `result_rows` and their types: what all states share, then each state's, its name in front."""
    return _SHARED | {f"{state}_{name}": kind for state in states for name, kind in _MEASURED.items()}


def result_rows(facts: Sequence[Fact], states: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Rows of several measurements of the same facts, such as {"before": ..., "after": ...}, side by side.

    nll: negative log-probability per token, in nats.  right: tokens that are first choice, of `tokens`.  success: the
    target that should be likelier is; null without a true answer.
    """
    relations = [fact.relation for fact in facts for _ in range(1 + len(fact.paraphrases) + len(fact.neighbours))]
    found = []
    for relation, *rows in zip(relations, *states.values(), strict=True):
        shared = {name: rows[0].get(name, relation) for name in _SHARED}
        measured = {
            f"{state}_{name}": value
            for state, row in zip(states, rows, strict=True)
            for name, value in _measured(row).items()
        }
        found.append(shared | measured)
    return found


def _places(score: FactScore) -> Iterator[tuple[str, int, PromptScore]]:
    kinds = {"prompt": (score.prompt,), "paraphrase": score.paraphrases, "neighbour": score.neighbours}
    for kind, prompts in kinds.items():
        for number, prompt in enumerate(prompts, 1):
            yield kind, number, prompt


def _target(score: TargetScore | None, which: str) -> Row:
    if score is None:
        return {f"{name}_{which}": None for name in ("target", "tokens", "log_prob", "right")}
    named = {"target": score.target, "tokens": score.tokens, "log_prob": score.log_prob, "right": score.right}
    return {f"{name}_{which}": value for name, value in named.items()}


def _measured(row: Row) -> Row:
    new, true = (None if score is None else score.nll for score in (_score(row, "new"), _score(row, "true")))
    success = None
    if new is not None and true is not None:
        success = true < new if row["kind"] == "neighbour" else new < true
    kept = {name: row[name] for name in ("right_new", "right_true", "first", "first_id", "runs_on")}
    return {"nll_new": new, "nll_true": true, **kept, "success": success}


def _score(row: Row, which: str) -> TargetScore | None:
    if row[f"target_{which}"] is None:
        return None
    return TargetScore(**{name: row[f"{name}_{which}"] for name in ("target", "log_prob", "tokens", "right")})


def _fact_score(fact: Fact, rows: Iterator[Row]) -> FactScore:
    def prompts(count: int) -> tuple[PromptScore, ...]:
        return tuple(_prompt_score(next(rows)) for _ in range(count))

    (own,) = prompts(1)
    return FactScore(
        id=fact.id,
        prompt=own,
        paraphrases=prompts(len(fact.paraphrases)),
        neighbours=prompts(len(fact.neighbours)),
    )


def _prompt_score(row: Row) -> PromptScore:
    new = _score(row, "new")
    assert new is not None
    return PromptScore(
        text=row["prompt"], new=new, true=_score(row, "true"), first=row["first_id"], runs_on=row["runs_on"]
    )
