"""What a model writes about a subject, and whether it still writes freely: generations and their n-gram entropy (GE).

As in the evaluation of ROME and MEMIT: each prompt is continued by top-k 5 sampling to 100 tokens in total, the text
measured holds the prompt, and a fact with several prompts counts once, by its mean. Unlike there, sampling is seeded:
text i depends on (seed, i) alone, so that a model before and after an edit draws with the same random numbers.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from errata.errors import ConfigError
from errata.facts import Fact, Problem
from errata.facts.text import UNSPACED_BLOCKS
from errata.models import LanguageModel
from errata.models.run.generate import prompt_ids, sample_ids

# Words with their inner apostrophes and hyphens, numbers with their separators, every other sign by itself: near to the
# Penn Treebank tokens of the published numbers, which nltk makes (that splits "don't" in two). In scripts written
# without spaces every character is a word: entropies compare within one script.
_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED_BLOCKS)
_LETTERS = f"(?:(?![{_UNSPACED}])\\w)+"
_WORD = re.compile(f"{_LETTERS}(?:(?:[’'\\-]|[.,](?=\\d)){_LETTERS})*|[^\\w\\s]|\\w")
_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """tokens: in total, the prompt's included.  top_k: choose among so many.  seed: of all draws."""

    tokens: int = 100
    top_k: int = 5
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.tokens < 2:
            raise ConfigError(f"tokens must be at least 2 (the prompt's are included), found {self.tokens}.")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, found {self.seed}.")


def generation_prompts(fact: Fact) -> tuple[str, ...]:
    """The prompts a fact's texts begin with: its own generation prompts, else its prompt (flattened data has none)."""
    return fact.generation_prompts or (fact.text,)


def check_generation(lm: LanguageModel, facts: Sequence[Fact], config: GenerationConfig) -> list[Problem]:
    """What `generate` would refuse, one problem for each prompt; no model is run."""
    total = min(config.tokens, lm.max_tokens)
    problems = []
    for fact in facts:
        for number, ids in enumerate(prompt_ids(lm, generation_prompts(fact)), 1):
            if not 0 < len(ids) < total:
                reason = f"generation prompt {number} has {len(ids):,} tokens; it must have 1 to {total - 1:,}"
                problems.append(Problem("error", reason, fact_id=fact.id))
    return problems


def generate(
    lm: LanguageModel, facts: Sequence[Fact], config: GenerationConfig, *, first_index: int = 0
) -> list[tuple[str, ...]]:
    """The texts of each fact, prompt included, in the order of `generation_prompts`.

    `first_index`: how many prompts came before, where a long list is done in parts. Texts run on through end tokens, as
    in the published evaluation. Raises InputError where a prompt leaves nothing to write.
    """
    prompts = [prompt for fact in facts for prompt in generation_prompts(fact)]
    ids = prompt_ids(lm, prompts)
    total = min(config.tokens, lm.max_tokens)
    # Every row of a batch gets as many tokens as the shortest prompt needs, which a short context may not hold.
    size = config.batch_size if 2 * total <= lm.max_tokens else 1
    texts: list[str] = []
    for start in range(0, len(prompts), size):
        batch = ids[start : start + size]
        rows = sample_ids(
            lm, batch, new_tokens=max(1, total - min(map(len, batch))),
            top_k=config.top_k, seed=config.seed, first_index=first_index + start, batch_size=size,
        )  # fmt: skip
        texts += [_decoded(lm, row[: max(total, len(prompt) + 1)]) for prompt, row in zip(batch, rows, strict=True)]
    left = iter(texts)
    return [tuple(next(left) for _ in generation_prompts(fact)) for fact in facts]


def generation_entropy(texts: Sequence[str]) -> float:
    """GE / 100 in bits: the mean over texts of (⅔H₂ + 4/3·H₃)/2, H_n the entropy of a text's n-grams of words."""
    return statistics.fmean(_text_entropy(text) for text in texts)


def words(text: str) -> list[str]:
    """The words of a text as GE counts them."""
    return _WORD.findall(text)


def _text_entropy(text: str) -> float:
    found = words(text)
    return statistics.fmean(weight * _entropy(found, n) for n, weight in _WEIGHTS.items())


def _entropy(tokens: Sequence[str], n: int) -> float:
    """Of the n-grams in bits; zero where there is none."""
    counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    total = counts.total()
    return math.fsum(-count / total * math.log2(count / total) for count in counts.values())


def _decoded(lm: LanguageModel, row: Sequence[int]) -> str:
    text = lm.tokenizer.decode(list(row), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
