"""Prompts ready to be traced: their tokens, where the subject stands, and the token that is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

from errata.errors import InputError
from errata.facts import Fact, PromptTarget
from errata.facts.checks import check_subject, text_reasons
from errata.facts.text import find_subject
from errata.models import Encoding, LanguageModel, chat_prompt, encode, encode_targets, reply, token_reason
from errata.models.text.segments import SEGMENTS, subject_segments


@dataclass(frozen=True)
class Traced:
    """One prompt. Positions are 0-based and count its own tokens; the subject is tokens `first` … `last`.

    answer: the answer's first token, None where the model's own is to be taken.  answer_tokens: how many the whole
    answer has.  merged: the answer changed the prompt's last token, which is therefore left out.  start: where the
    subject begins in `text`.
    """

    text: str
    subject: str
    start: int
    ids: tuple[int, ...]
    encoding: Encoding
    first: int
    last: int
    answer: int | None
    answer_tokens: int
    merged: bool = False

    def segments(self) -> Mapping[str, tuple[int, ...]]:
        """Positions of each segment, by name, empty where there is none.

        A subject of one token is its own first and last. One that ends the prompt has no last token of its own: what
        stands there gives the answer directly, and is in "last" alone.
        """
        bos = tuple(i for i in range(len(self.ids)) if self.encoding.offsets[i][0] == self.encoding.offsets[i][1])
        text = [i for i in range(len(self.ids)) if i not in bos]
        found: dict[str, tuple[int, ...]] = dict.fromkeys(SEGMENTS, ())
        found |= {"bos": bos, "last": tuple(text[-1:])} | subject_segments(text, self.first, self.last)
        if self.last == text[-1]:
            found |= {name: () for name in ("first subject", "last subject") if found[name] == (self.last,)}
        return found


def traced_prompt(
    lm: LanguageModel, prompt: str, subject: str, answer: str | None = None, *, chat: bool = False
) -> Traced:
    """A prompt that holds its subject; of a repeated one the last occurrence counts, as in facts. InputError.

    With `chat` the prompt is a user's message, and the answer begins the reply.
    """
    check_subject(prompt, subject)
    if answer is not None and (reasons := text_reasons("the answer", answer)):
        raise InputError(f"{reasons[0][0].upper()}{reasons[0][1:]}.")
    start = find_subject(prompt, subject)
    if not chat:
        return _traced(lm, prompt, subject, start, None if answer is None else PromptTarget(prompt, answer))
    found = chat_prompt(lm, prompt, (start, start + len(subject)))
    assert found.subject is not None
    asked = None if answer is None else PromptTarget(found.text, reply(answer), found.join)
    return _traced(lm, found.text, subject, found.subject[0], asked)


def traced_fact(lm: LanguageModel, fact: Fact) -> Traced:
    """A fact's prompt with its true answer, or with its only one where it names no true one. InputError."""
    return _traced(lm, fact.text, fact.subject, fact.subject_span[0], fact.asked(fact.text, answer_of(fact)))


def answer_of(fact: Fact) -> str:
    """What the model is expected to say: target_true, or target_new where a record has one answer only."""
    return fact.target_new if fact.target_true is None else fact.target_true


def _traced(lm: LanguageModel, text: str, subject: str, start: int, asked: PromptTarget | None) -> Traced:
    if asked is None:
        (encoding,) = encode(lm.tokenizer, [text])
        length, target, merged = len(encoding.ids), (), False
    else:
        ((row, encoding),) = encode_targets(lm.tokenizer, [asked])
        if reason := token_reason(lm, row.ids, row.target_ids):
            raise InputError(f"{reason[0].upper()}{reason[1:]}.")
        length, target, merged = row.start, row.target_ids, row.merged
    if not 0 < length <= lm.max_tokens:
        raise InputError(f"The prompt is {length:,} tokens long; {lm.name} takes 1 to {lm.max_tokens:,}: {text!r}.")
    first, last = encoding.tokens_over(start, start + len(subject))
    if last >= length:
        raise InputError(
            f"One token holds the subject's end and the answer's beginning in {text!r}; put a word between."
        )
    cut = Encoding(encoding.ids[:length], encoding.offsets[:length])
    return Traced(text, subject, start, cut.ids, cut, first, last, target[0] if target else None, len(target), merged)


def with_subject(lm: LanguageModel, one: Traced, other: str) -> tuple[int, ...] | None:
    """The token ids of another subject in this one's place; None where it takes another number of tokens there, moves
    the tokens around it, or is the same."""
    text = one.text[: one.start] + other + one.text[one.start + len(one.subject) :]
    (encoding,) = encode(lm.tokenizer, [text])
    ids = encoding.ids[: len(one.ids)]
    around = (ids[: one.first], ids[one.last + 1 :]) == (one.ids[: one.first], one.ids[one.last + 1 :])
    span = ids[one.first : one.last + 1]
    return span if len(encoding.ids) == len(one.ids) and around and span != one.ids[one.first : one.last + 1] else None
