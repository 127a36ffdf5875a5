"""The verdict on an edit: what became of every fact, and for those that are not said what they say and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from errata.core.progress import ProgressSink
from errata.edit import Edit, MethodConfig
from errata.edit.values.second_try import POOR_NLL
from errata.evaluate import FactScore, Measurement
from errata.evaluate.requirements import Requirement
from errata.evaluate.verdict import outcome, verdict_of
from errata.facts import Fact
from errata.jobs.reasons import reason_of
from errata.models import LanguageModel
from errata.models.run.generate import continue_texts, prompt_ids

# Tokens of what is generated for a fact that is not said: enough to see what comes instead.
_TOKENS = 12
# Cosine of two facts' keys from which on what one writes is read with the other. Of a hundred CounterFact prompts on
# SmolLM2 (layer 8) the nearest other key has 0.34 in the median and 0.83 at most; two firms that share the last word of
# their two-word names have 0.98, one firm in two prompts that name it at the end 0.96.
_SAME_KEY = 0.95
_ROWS_AT_ONCE = 256


def unsaid_texts(
    lm: LanguageModel, facts: Sequence[Fact], after: Measurement, progress: ProgressSink
) -> dict[str, str]:
    """What the model as it is goes on with, greedily, after the prompt of each fact that it does not say; by id."""
    scores = zip(facts, after.facts, strict=True)
    unsaid = [(fact, score.prompt.new.tokens) for fact, score in scores if outcome(score.prompt) != "said"]
    texts: dict[str, str] = {}
    if not unsaid:
        return texts
    with progress.stage("what it says instead", len(unsaid), "facts") as advance:
        for at in range(0, len(unsaid), 16):
            batch = unsaid[at : at + 16]
            prompts = [fact.text for fact, _ in batch]
            room = lm.max_tokens - max(map(len, prompt_ids(lm, prompts)))
            wanted = max(_TOKENS, *(tokens for _, tokens in batch))
            says = continue_texts(lm, prompts, new_tokens=max(1, min(wanted, room)))
            texts |= {fact.id: text for (fact, _), text in zip(batch, says, strict=True)}
            advance(len(batch))
    return texts


def verdict_report(
    facts: Sequence[Fact],
    edit: Edit,
    before: Measurement,
    after: Measurement,
    says: Mapping[str, str],
    config: MethodConfig,
) -> dict[str, Any]:
    """The verdict as plain JSON: the counts, second tries, and under `of_facts` what became of each."""
    known, near = _known(edit, facts), _near(edit, facts, after)
    each = zip(facts, after.facts, known, near, strict=True)
    tokens = [score.prompt.new.tokens for score in after.facts]
    tried = [one["nll"] * count for one, count in zip(known, tokens, strict=True) if one.get("second_try")]
    return {
        **verdict_of(before.facts, after.facts).to_json(),
        "second_tries": len(tried),
        "second_tries_found": sum(nll <= POOR_NLL for nll in tried),
        "of_facts": [_of_fact(fact, score, one, says, config, other) for fact, score, one, other in each],
    }


def judged(
    requirements: Sequence[Requirement], before: Measurement | None, after: Measurement | None
) -> list[dict[str, Any]]:
    """Each requirement with what was found, as plain JSON."""
    if before is None or after is None:
        return []
    found = {**after.metrics(), **verdict_of(before.facts, after.facts).metrics()}
    return [one.judged(before.metrics(), found).to_json() for one in requirements]


def best_example(facts: Sequence[Fact], before: Measurement, after: Measurement) -> Fact | None:
    """A fact to show: of those that are said, one that was not before, then the surest; None where none is said."""
    said = [
        (not old.prompt.new.correct, new.prompt.new.probability, -i)
        for i, (old, new) in enumerate(zip(before.facts, after.facts, strict=True))
        if outcome(new.prompt) == "said"
    ]
    return facts[-max(said)[2]] if said else None


def _of_fact(
    fact: Fact,
    score: FactScore,
    known: Mapping[str, Any],
    says: Mapping[str, str],
    config: MethodConfig,
    near: tuple[Fact, float] | None,
) -> dict[str, Any]:
    """What became of one fact, as plain JSON; what it says, where it is not the answer, with the reason."""
    found = outcome(score.prompt)
    text = fact.target_new if found == "said" else says.get(fact.id, "")
    reason = None if found == "said" else reason_of(fact, score, known, text, config, near)
    return {
        "id": fact.id,
        "subject": fact.subject,
        "prompt": fact.text,
        "target_new": fact.target_new,
        "outcome": found,
        "says": text,
        "why": None if reason is None else reason.why,
        "try": None if reason is None else reason.advice,
        **{name: known[name] for name in ("nll", "left", "second_try") if name in known},
    }


def _known(edit: Edit, facts: Sequence[Fact]) -> list[Mapping[str, Any]]:
    """What the method knows of each fact: `per_fact`, and what it says of those that did not converge."""
    missed = {one["id"]: one for one in edit.not_converged}
    per_fact = edit.per_fact or [{} for _ in facts]
    return [{**missed.get(fact.id, {}), **one} for fact, one in zip(facts, per_fact, strict=True)]


def _near(edit: Edit, facts: Sequence[Fact], after: Measurement) -> list[tuple[Fact, float] | None]:
    """For each fact that is not said: the fact of another answer with the nearest key, where that is near enough."""
    nearest_facts: list[tuple[Fact, float] | None] = [None] * len(facts)
    unsaid = [i for i, score in enumerate(after.facts) if outcome(score.prompt) != "said"]
    if not edit.keys or not unsaid or len(facts) == 1:
        return nearest_facts
    keys = torch.nn.functional.normalize(edit.keys[max(edit.keys)].float(), dim=1)
    answers = {target: i for i, target in enumerate(dict.fromkeys(fact.target_new.strip() for fact in facts))}
    same = torch.tensor([answers[fact.target_new.strip()] for fact in facts], device=keys.device)
    for at in range(0, len(unsaid), _ROWS_AT_ONCE):
        rows = torch.tensor(unsaid[at : at + _ROWS_AT_ONCE], device=keys.device)
        cosines, nearest = _nearest(keys, rows, same)
        for i, cosine, other in zip(rows.tolist(), cosines.tolist(), nearest.tolist(), strict=True):
            nearest_facts[i] = (facts[other], cosine) if cosine >= _SAME_KEY else None
    return nearest_facts


def _nearest(keys: Float[Tensor, "fact d_mlp"], rows: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    cosines = keys[rows] @ keys.T
    # A fact with the same answer is no rival, whatever its key; so neither is the fact itself.
    return cosines.masked_fill(same[rows][:, None] == same[None], -1.0).max(1)
