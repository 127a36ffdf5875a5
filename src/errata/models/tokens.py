"""From text to token ids with known positions, through offset mappings only; and batches of them.

Positions are 0-based and unpadded. A piece of text is never tokenized apart from its context: where a merge
would straddle the cut, the ids would differ from the ids the model sees.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from errata.errors import InputError, ModelError
from errata.facts import join_target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoding:
    """Token ids of one text, with the characters (start, end) that each covers; special tokens cover none."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def tokens_over(self, start: int, end: int) -> tuple[int, int]:
        """First and last token position that covers any character of [start, end)."""
        covering = [i for i, (a, b) in enumerate(self.offsets) if a < end and b > start]
        if not covering:
            raise InputError(f"No token covers characters {start}–{end} of a text of {len(self.ids)} tokens.")
        return covering[0], covering[-1]


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[Encoding]:
    """Tokenize whole texts, with the special tokens that the tokenizer adds by itself (BOS where it has one).

    A text that begins with BOS already gets no second one.
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
    """A prompt followed by a target: `ids` of both; the target is tokens `start` … len(ids) − 1.

    `answer`: the first token after the prompt. It is `start` but where a space between the two is a token of its own;
    so it does not depend on the target, unless tokens merge across the prompt's end.
    """

    ids: tuple[int, ...]
    start: int
    space: int = 0

    @property
    def answer(self) -> int:
        return self.start - self.space

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.ids[self.start :]


def encode_targets(
    tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[tuple[str, str] | tuple[str, str, str | None]]
) -> list[tuple[TargetRow, Encoding]]:
    """Encode prompt–target pairs as whole texts and find the target's tokens.

    A tokenizer that appends an end token has it cut off: a target ends where its text ends.
    """
    joined = [join_target(*pair) for pair in pairs]  # type: ignore[arg-type]
    rows = []
    encodings = encode(tokenizer, [text for text, _ in joined])
    for (prompt, *_), (text, begin), encoding in zip(pairs, joined, encodings, strict=True):
        start, last = encoding.tokens_over(begin, len(text))
        kept = Encoding(encoding.ids[: last + 1], encoding.offsets[: last + 1])
        rows.append((TargetRow(kept.ids, start, start - _after(kept, prompt, start)), kept))
    return rows


def _after(encoding: Encoding, prompt: str, start: int) -> int:
    """The first position before `start`, or `start`, from which on no token covers more of the prompt than spaces."""
    end = len(prompt.rstrip())
    position = start
    while position and encoding.offsets[position - 1][0] >= end:
        position -= 1
    return position


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
