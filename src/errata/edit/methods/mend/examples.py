"""What an editor learns from: each fact's edit, a paraphrase that must follow, a text that must not move; in batches.

Batch s of a training depends on the seed and s alone, so that a training can be stopped and go on anywhere. The facts
are shuffled once into batches; the batches come in another order each epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from errata.facts import Fact
from errata.models import LanguageModel, TargetRow, encode, encode_targets

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """One fact as tokens: the prompt with the new target; the paraphrases with it (the prompt where there are none);
    the neighbours, with their answers where these are known."""

    edit: TargetRow
    paraphrases: tuple[TargetRow, ...]
    neighbours: tuple[Ids, ...]


@dataclass(frozen=True)
class Batch:
    """One row of each kind for every fact: what is edited in, what must follow, what must not move."""

    edits: tuple[TargetRow, ...]
    paraphrases: tuple[TargetRow, ...]
    locality: tuple[Ids, ...]


def examples_of(lm: LanguageModel, facts: Sequence[Fact]) -> list[Example]:
    """The facts' texts as the model's tokens, each tokenized as a whole. Raises InputError for an empty target."""
    asked = [(fact, text) for fact in facts for text in (fact.text, *fact.paraphrases)]
    targets = iter(row for row, _ in encode_targets(lm.tokenizer, [f.asked(text, f.target_new) for f, text in asked]))
    kept = iter(_neighbours(lm, facts))
    examples = []
    for fact in facts:
        edit = next(targets)
        paraphrases = tuple(next(targets) for _ in fact.paraphrases)
        examples.append(Example(edit, paraphrases or (edit,), tuple(next(kept) for _ in fact.neighbours)))
    return examples


def _neighbours(lm: LanguageModel, facts: Sequence[Fact]) -> list[Ids]:
    """Every neighbour's tokens; one without an answer counts with the fact's target_true, as in CounterFact."""
    pairs = [(fact, n.prompt, n.answer or fact.target_true) for fact in facts for n in fact.neighbours]
    answered = [fact.asked(prompt, answer) for fact, prompt, answer in pairs if answer is not None]
    bare = [prompt for _, prompt, answer in pairs if answer is None]
    whole = iter([row.ids for row, _ in encode_targets(lm.tokenizer, answered)])
    alone = iter([encoding.ids for encoding in encode(lm.tokenizer, bare)])
    return [next(alone if answer is None else whole) for *_, answer in pairs]


@dataclass(frozen=True)
class Schedule:
    """The batches of a training over `examples`; `texts` stand in for neighbours if `prefer_texts`, or one has none."""

    examples: Sequence[Example]
    texts: Sequence[Ids]
    batch: int
    seed: int
    prefer_texts: bool

    def __call__(self, step: int) -> Batch:
        """The batch of a step (from 0 on)."""
        count = -(-len(self.examples) // self.batch)
        epoch, place = divmod(step, count)
        chosen = _shuffled(count, self.seed, epoch + 1)[place]
        order = _shuffled(len(self.examples), self.seed, 0)
        members = order[chosen * self.batch : (chosen + 1) * self.batch]
        return self.rows(members, epoch)

    def rows(self, members: Sequence[int], turn: int) -> Batch:
        """These facts, each with its `turn`-th paraphrase and unrelated text, round and round."""
        own = [self.examples[i] for i in members]
        return Batch(
            tuple(one.edit for one in own),
            tuple(one.paraphrases[turn % len(one.paraphrases)] for one in own),
            tuple(self._locality(i, turn) for i in members),
        )

    def _locality(self, member: int, turn: int) -> Ids:
        neighbours = self.examples[member].neighbours
        if neighbours and not self.prefer_texts:
            return neighbours[turn % len(neighbours)]
        # Another text each epoch: the number of facts may be a multiple of the number of texts.
        return self.texts[(member + turn * (len(self.examples) + 1)) % len(self.texts)]


def _shuffled(count: int, seed: int, draw: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + draw)
    return torch.randperm(count, generator=generator).tolist()


def split(facts: Sequence[Fact], valid: int, seed: int) -> tuple[list[Fact], list[Fact]]:
    """Facts to train on and `valid` held-out ones, drawn by the seed whatever the order of the file."""
    by_name = sorted(facts, key=lambda fact: fact.id)
    order = _shuffled(len(by_name), seed, 0)
    return [by_name[i] for i in order[valid:]], [by_name[i] for i in order[:valid]]
