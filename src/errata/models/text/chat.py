"""What a chat model reads when a user asks it something: the message inside the model's chat template.

The template decides: it may trim the message, repeat it, put a system message before it. Where message and subject end
up is therefore read off marks that went through it with them, never searched for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from errata.errors import FactsError, InputError, ModelError
from errata.facts import Fact, Neighbour, Problem, format_problems
from errata.facts.text import PLACEHOLDER
from errata.models.language_model import LanguageModel

Span = tuple[int, int]
# Private characters that no tokenizer or template knows; of four that a text does not hold, its marks are made.
_MARKS = [chr(code) for code in range(0xE0F0, 0xE100)]


@dataclass(frozen=True, kw_only=True)
class ChatPrompt:
    """text: what the model reads, up to where its reply begins.  join: what stands between the two ("" or whitespace).

    message, subject: characters of `text` that are the user's message (without the spaces around it), and the subject
    in it. Of a message that the template repeats the last one counts.
    """

    text: str
    join: str
    message: Span
    subject: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFact(Fact):
    """A fact whose texts are what the model reads; a context prefix goes where the user's message begins."""

    message_start: int = 0
    written: Fact | None = None

    @property
    def opening(self) -> int:
        """Where in the text a context prefix goes."""
        return self.message_start

    @property
    def given(self) -> Fact:
        """The fact as its author wrote it."""
        return self.written or self


def has_chat(lm: LanguageModel) -> bool:
    """Whether the model has a chat template."""
    return bool(getattr(lm.tokenizer, "chat_template", None))


def chat_prompt(lm: LanguageModel, text: str, subject: Span | None = None) -> ChatPrompt:
    """A user's message as the model reads it, ready for the reply. `subject`: characters of the message to follow.

    Raises ModelError where the model has no chat template or it fails, InputError where it changes the message.
    """
    beyond = _rendered(lm, [_user(text)])
    marks = [mark for mark in _MARKS if mark not in beyond][:4]
    core = (len(text) - len(text.lstrip()), len(text.rstrip()))
    marked = _rendered(lm, [_user(_with_marks(text, marks, core, subject))])
    spans = _spans(marked, marks)
    if spans is None or "".join(char for char in marked if char not in marks) != beyond:
        raise InputError(_changed(lm, text))
    own = _own_bos(lm, beyond)
    more, join = _reply_start(lm, text, beyond)
    message, found = (None if span is None else (span[0] - own, span[1] - own) for span in spans)
    assert message is not None
    return ChatPrompt(text=beyond[own:] + more, join=join, message=message, subject=found)


def in_chat(lm: LanguageModel, fact: Fact) -> Fact:
    """A fact with `chat` as the plain fact that the model reads, under its own id; another fact as it is."""
    if not fact.chat:
        return fact
    asked = chat_prompt(lm, fact.text, fact.subject_span)
    assert asked.subject is not None

    # The template's words between a message and its reply do not depend on the message: once for all its prompts.
    more = asked.text.removeprefix(_read(lm, fact.text))

    def told(text: str) -> str:
        return _without_placeholder(lm, _read(lm, text) + more)

    (start, end), text = asked.subject, _without_placeholder(lm, asked.text)
    return ChatFact(
        subject=fact.subject,
        prompt=text[:start] + PLACEHOLDER + text[end:],
        target_new=reply(fact.target_new),
        target_true=None if fact.target_true is None else reply(fact.target_true),
        paraphrases=tuple(told(one) for one in fact.paraphrases),
        neighbours=tuple(
            Neighbour(prompt=told(one.prompt), answer=None if one.answer is None else reply(one.answer))
            for one in fact.neighbours
        ),
        id=fact.id,
        relation=fact.relation,
        generation_prompts=tuple(told(one) for one in fact.generation_prompts),
        join=asked.join if fact.join is None else fact.join,
        metadata=fact.metadata,
        message_start=asked.message[0],
        written=fact,
    )


def facts_in_chat(lm: LanguageModel, facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """All facts as the model reads them. ModelError without a chat template, FactsError for what it cannot hold."""
    problems, found = [], []
    for fact in facts:
        try:
            found.append(in_chat(lm, fact))
        except ModelError:
            raise
        except InputError as error:
            problems.append(Problem("error", str(error), fact_id=fact.id))
    if problems:
        raise FactsError(
            f"{len(problems)} of {len(facts)} facts cannot be put as a chat:\n{format_problems(problems)}", problems
        )
    return tuple(found)


def as_chat(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """The same facts, each to be asked as a chat."""
    return tuple(replace(fact, chat=True) for fact in facts)


def reply(answer: str) -> str:
    """An answer as a reply begins: lists of facts often write the space that would follow a prompt."""
    return answer.lstrip(" ")


def _read(lm: LanguageModel, text: str) -> str:
    """The message in the template, without the BOS that the tokenizer adds; InputError where it was changed."""
    rendered = _rendered(lm, [_user(text)])
    if text.strip() not in rendered:
        raise InputError(_changed(lm, text))
    return rendered[_own_bos(lm, rendered) :]


def _changed(lm: LanguageModel, text: str) -> str:
    return f"The chat template of {lm.name} does not give the message {text!r} on as it is."


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _rendered(lm: LanguageModel, messages: Sequence[dict[str, str]]) -> str:
    """The conversation as text, up to the reply unless it ends with one."""
    if not has_chat(lm):
        raise ModelError(
            f"{lm.name} has no chat template: it is no chat model, or its tokenizer came without it. Ask without chat, "
            "or set tokenizer.chat_template."
        )
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": messages[-1]["role"] == "user"}
    try:
        # Models that think first by default would put their thoughts where the answer is to begin.
        return str(lm.tokenizer.apply_chat_template(list(messages), enable_thinking=False, **options))
    except Exception as error:  # templates raise what they like
        raise ModelError(f"The chat template of {lm.name} cannot be used: {error}") from error


def _with_marks(text: str, marks: Sequence[str], core: Span, subject: Span | None) -> str:
    """The text with a mark at each end of its core, and at each end of the subject."""
    places = [(core[0], marks[0]), (core[1], marks[1])]
    if subject is not None:
        places[1:1] = [(subject[0], marks[2]), (subject[1], marks[3])]
    for at, mark in reversed(places):
        text = text[:at] + mark + text[at:]
    return text


def _spans(marked: str, marks: Sequence[str]) -> tuple[Span, Span | None] | None:
    """Where the last message and the last subject stand in the text without marks; None where a mark was lost."""
    at = [marked.rfind(mark) for mark in marks]
    if min(at[:2]) < 0 or (at[2] < 0) != (at[3] < 0):
        return None
    plain = [place - sum(marked[:place].count(mark) for mark in marks) for place in at]
    return (plain[0], plain[1]), None if at[2] < 0 else (plain[2], plain[3])


def _own_bos(lm: LanguageModel, text: str) -> int:
    """How many characters at the text's start are the BOS that the tokenizer puts there by itself."""
    bos, tokenizer = str(lm.tokenizer.bos_token or ""), lm.tokenizer
    if not bos or not text.startswith(bos):
        return 0
    wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
    return len(bos) if tokenizer(text[len(bos) :])["input_ids"][: len(wanted)] == wanted else 0


def _reply_start(lm: LanguageModel, text: str, asked: str) -> tuple[str, str]:
    """What the template itself writes between the user's turn and a reply: text that is missing, and whitespace."""
    mark = next(mark for mark in _MARKS if mark not in asked)
    try:
        whole = _rendered(lm, [_user(text), {"role": "assistant", "content": mark}])
    except ModelError:  # a template for single questions
        return "", ""
    if not whole.startswith(asked) or mark not in whole:
        return "", ""
    between = whole[len(asked) : whole.index(mark)]
    missing = between.rstrip()
    return (between, "") if missing else ("", between)


def _without_placeholder(lm: LanguageModel, text: str) -> str:
    if PLACEHOLDER in text:
        raise InputError(f"The chat template of {lm.name} writes {PLACEHOLDER!r}, which marks a subject's place here.")
    return text
