"""From text to token ids with known positions, through offset mappings only; and batches of them.

Positions are 0-based and unpadded. A piece of text is never tokenized apart from its context: where a merge
would straddle the cut, the ids would differ from the ids the model sees.
"""

import warnings
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from errata.errors import InputError, ModelError
from errata.facts import PromptTarget

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MERGED = (
    "tokenisation changes the prompt's last token where the answer follows: the answer is taken to begin with what it "
    "becomes, and a model that is given the prompt alone may go on otherwise; end the prompt without a space, or with "
    "a whole word"
)


@dataclass(frozen=True)
class Encoding:
    """Token ids of one text, with the characters (start, end) that each covers; special tokens cover none."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def tokens_over(self, start: int, end: int) -> tuple[int, int]:
        """First and last token position that covers any character of [start, end); InputError where none does."""
        covering = [i for i, (a, b) in enumerate(self.offsets) if a < end and b > start]
        if not covering:
            raise InputError(f"No token covers characters {start}–{end} of a text of {len(self.ids)} tokens.")
        return covering[0], covering[-1]


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[Encoding]:
    """Tokenize whole texts, with the special tokens that the tokenizer adds by itself (BOS where it has one).

    A text that begins with BOS already gets no second one. Raises ModelError for a tokenizer that is not a fast one.
    """
    if not texts:
        return []
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} gives no offset mapping; errata needs a fast tokenizer (tokenizer.json)."
        )
    batch = tokenizer(list(texts), return_offsets_mapping=True, return_attention_mask=False, verbose=False)
    pairs = zip(batch["input_ids"], batch["offset_mapping"], strict=True)
    found = [Encoding(tuple(ids), tuple((int(a), int(b)) for a, b in offsets)) for ids, offsets in pairs]
    return [_with_one_bos(tokenizer, encoding) for encoding in found]


def _with_one_bos(tokenizer: "PreTrainedTokenizerBase", encoding: Encoding) -> Encoding:
    """The encoding without the BOS that the text brings, where the tokenizer has put one before it."""
    bos, (ids, offsets) = tokenizer.bos_token_id, (encoding.ids, encoding.offsets)
    if bos is None or ids[:2] != (bos, bos) or offsets[0][0] < offsets[0][1] or offsets[1][0] == offsets[1][1]:
        return encoding
    # Python says the same warning from the same place once.
    warnings.warn(
        f"A text begins with {tokenizer.bos_token}, which this tokenizer adds by itself; the model reads it once.",
        stacklevel=1,
    )
    return Encoding((ids[0], *ids[2:]), (offsets[0], *offsets[2:]))


@dataclass(frozen=True)
class TargetRow:
    """A prompt followed by a target, as the model reads the two: the target is tokens `start` … len(ids) − 1.

    It begins where the tokens first differ from those of the prompt alone. So a space between the two is the target's,
    also where it is a token of its own, as most tokenizers make it before digits. `merged`: the target changes tokens
    of the prompt itself (at most those of its last word), and begins with what they became.
    """

    ids: tuple[int, ...]
    start: int
    merged: bool = False

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.ids[self.start :]


def encode_targets(
    tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[PromptTarget | tuple[str, str]]
) -> list[tuple[TargetRow, Encoding]]:
    """Encode prompt–target pairs as whole texts and find the target's tokens: the one place that decides where an
    answer begins.

    A tokenizer that appends an end token has it cut off: a target ends where its text ends. Raises InputError where a
    target has no token.
    """
    asked = [pair if isinstance(pair, PromptTarget) else PromptTarget(*pair) for pair in pairs]
    prompts = list(dict.fromkeys(pair.prompt for pair in asked))
    special = frozenset(tokenizer.all_special_ids)
    alone = dict(zip(prompts, (_own_ids(one, special) for one in encode(tokenizer, prompts)), strict=True))
    rows = []
    for pair, encoding in zip(asked, encode(tokenizer, [pair.text for pair in asked]), strict=True):
        ids = _own_ids(encoding, special)
        start = shared_length(alone[pair.prompt], ids)
        begin = len(pair.text) - len(pair.target.lstrip())
        if start == len(ids) or all(end <= begin for _, end in encoding.offsets[start : len(ids)]):
            raise InputError(f"The tokenizer makes no token of the target {pair.target!r} after {pair.prompt!r}.")
        row = TargetRow(ids, start, merged=start < len(alone[pair.prompt]))
        rows.append((row, Encoding(ids, encoding.offsets[: len(ids)])))
    return rows


def _own_ids(encoding: Encoding, special: Set[int]) -> tuple[int, ...]:
    """A text's ids without the special tokens that the tokenizer appends, with those that it puts before."""
    first = next((i for i, (start, end) in enumerate(encoding.offsets) if end > start), len(encoding.ids))
    last = len(encoding.ids)
    # Zero width alone is no sign: some tokenizers trim a lone space to nothing.
    while (
        last > first
        and encoding.offsets[last - 1][0] == encoding.offsets[last - 1][1]
        and (encoding.ids[last - 1] in special)
    ):
        last -= 1
    return encoding.ids[:last]


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens the two have in common."""
    for position, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return position
    return min(len(first), len(second))


def token_texts(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> dict[int, str]:
    """What each token says where it goes on a text, so that a leading space is seen whatever the tokenizer does to it.

    Bytes that are no text of their own show as the tokenizer spells them.
    """
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    start = str(tokenizer.decode(anchor, clean_up_tokenization_spaces=False))
    rows = [[*anchor, i] for i in ids]
    decoded = tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False) if rows else []
    texts = {i: text.removeprefix(start) for i, text in zip(ids, decoded, strict=True)}
    return {
        i: text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(i))
        for i, text in texts.items()
    }


def pad_right(
    rows: Sequence[Sequence[int]], *, device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Ids padded on the right to one length, and the mask of real tokens."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)
