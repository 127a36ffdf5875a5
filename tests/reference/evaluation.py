"""Evaluation the slow way: one whole forward for each prompt and target, all logits, metrics by their definitions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from errata.facts import Fact, join_target
from errata.models import LanguageModel


class Scored(NamedTuple):
    """x (mean NLL in nats), total log-probability, for each target token whether the argmax is right, and the argmax
    after the last token that holds a part of the prompt (but for spaces) and none of the target."""

    x: float
    log_prob: float
    right: list[bool]
    first: int


@torch.no_grad()
def score(lm: LanguageModel, prompt: str, target: str) -> Scored:
    text, begin = join_target(prompt, target)
    encoded = lm.tokenizer(text, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    positions = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if b > begin and a < len(text) and b > a]
    logits = lm.hf(torch.tensor([ids], device=lm.device), use_cache=False).logits[0].double()
    log_probs = torch.log_softmax(logits, dim=-1)
    found = [float(log_probs[i - 1, ids[i]]) for i in positions]
    right = [int(logits[i - 1].argmax()) == ids[i] for i in positions]
    length = len(prompt.rstrip())
    before = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if i < positions[0] and (a < length or a == b)]
    first = int(logits[before[-1]].argmax())
    return Scored(-float(np.mean(found)), float(np.sum(found)), right, first)


def metrics(lm: LanguageModel, facts: Sequence[Fact]) -> dict[str, float]:
    """ES, PS, NS, EM, PM, NM, Score and zsRE's three, in percent, for facts that have all that is needed."""
    names = ("es", "em", "ps", "pm", "ns", "nm", "efficacy", "paraphrase", "specificity")
    rows: dict[str, list[float]] = {name: [] for name in names}
    for fact in facts:
        new, true = score(lm, fact.text, fact.target_new), score(lm, fact.text, fact.target_true or "")
        rows["es"].append(true.x > new.x)
        rows["em"].append(np.exp(-new.x) - np.exp(-true.x))
        rows["efficacy"].append(float(np.mean(new.right)))
        pairs = [(score(lm, p, fact.target_new), score(lm, p, fact.target_true or "")) for p in fact.paraphrases]
        rows["ps"].append(float(np.mean([true.x > new.x for new, true in pairs])))
        rows["pm"].append(float(np.mean([np.exp(-new.x) - np.exp(-true.x) for new, true in pairs])))
        rows["paraphrase"].append(float(np.mean([np.mean(new.right) for new, _ in pairs])))
        pairs = [(score(lm, n.prompt, fact.target_new), score(lm, n.prompt, n.answer or "")) for n in fact.neighbours]
        rows["ns"].append(float(np.mean([true.x < new.x for new, true in pairs])))
        rows["nm"].append(float(np.mean([np.exp(-true.x) - np.exp(-new.x) for new, true in pairs])))
        rows["specificity"].append(float(np.mean([np.mean(true.right) for _, true in pairs])))
    found = {name: 100 * float(np.mean(values)) for name, values in rows.items()}
    return found | {"score": 3 / sum(1 / found[name] if found[name] else np.inf for name in ("es", "ps", "ns"))}
