"""Evaluation the slow way: one whole forward for each prompt and target, all logits, metrics by their definitions."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from errata.facts import Fact, join_target
from errata.models import LanguageModel
from reference.answers import answer_tokens


class Scored(NamedTuple):
    """x (mean NLL in nats), total log-probability, for each target token whether the argmax is right, and the argmax
    where the target begins."""

    x: float
    log_prob: float
    right: list[bool]
    first: int


@torch.no_grad()
def score(lm: LanguageModel, prompt: str, target: str) -> Scored:
    ids, start = answer_tokens(lm.tokenizer, prompt, join_target(prompt, target))
    positions = range(start, len(ids))
    logits = lm.hf(torch.tensor([ids], device=lm.device), use_cache=False).logits[0].double()
    log_probs = torch.log_softmax(logits, dim=-1)
    found = [float(log_probs[i - 1, ids[i]]) for i in positions]
    right = [int(logits[i - 1].argmax()) == ids[i] for i in positions]
    return Scored(-float(np.mean(found)), float(np.sum(found)), right, int(logits[start - 1].argmax()))


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


class Drifted(NamedTuple):
    """Of one position: NLL of the text's next token before and after, KL(before ‖ after), another first choice."""

    before: float
    after: float
    kl: float
    changed: bool


@torch.no_grad()
def all_logits(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Every logit of every row, one whole forward a row."""
    return [lm.hf(torch.tensor([list(row)], device=lm.device), use_cache=False).logits[0].double() for row in rows]


def drift(
    rows: Sequence[Sequence[int]], before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]
) -> list[list[Drifted]]:
    """Each position but the last of each row, from all logits of both models."""
    documents = []
    for row, one, other in zip(rows, before, after, strict=True):
        found = []
        for i in range(len(row) - 1):
            p, q = torch.log_softmax(one[i], -1), torch.log_softmax(other[i], -1)
            kl = float(sum(p[v].exp() * (p[v] - q[v]) for v in range(len(p))))
            choices = int(one[i].argmax()), int(other[i].argmax())
            found.append(Drifted(-float(p[row[i + 1]]), -float(q[row[i + 1]]), kl, choices[0] != choices[1]))
        documents.append(found)
    return documents


def entropy(tokens: Sequence[str], n: int) -> float:
    """Of n-grams in bits, from counts made one by one."""
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for start in range(len(tokens) - n + 1):
        counts[tuple(tokens[start : start + n])] += 1
    shares = [count / sum(counts.values()) for count in counts.values()]
    return -sum(share * math.log(share) / math.log(2) for share in shares)


def tfidf_cosine(documents: Sequence[str], one: str, other: str) -> float:
    """Cosine of two texts' raw counts times idf = 1 + ln((1 + D)/(1 + d)), words of two letters and more."""
    sets = [set(_terms(document)) for document in documents]
    vocabulary = sorted(set().union(*sets))
    idf = {word: 1 + math.log((1 + len(sets)) / (1 + sum(word in found for found in sets))) for word in vocabulary}
    a, b = ([_terms(text).count(word) * idf[word] for word in vocabulary] for text in (one, other))
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


def _terms(text: str) -> list[str]:
    return re.findall(r"\b\w\w+\b", text.lower())
