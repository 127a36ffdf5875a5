"""A fact to be edited: a subject, a prompt that ends where the answer begins, and the answer wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from errata.errors import FactsError
from errata.facts.checks import fact_reasons, neighbour_reasons
from errata.facts.problems import Problem
from errata.facts.text import PLACEHOLDER, PromptTarget, find_subject
from errata.store.digest import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A prompt about another subject, whose answer must not move. Raises FactsError listing every reason."""

    prompt: str
    answer: str | None = None

    def __post_init__(self) -> None:
        _refuse("neighbour", neighbour_reasons(self.prompt, self.answer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One association to write into a model.

    `prompt` holds the subject, or `{}` in its place; `{}` wins where both occur. Without it the subject's place is its
    last occurrence at word boundaries, else its last occurrence. Other braces are literal. `generation_prompts` are
    beginnings of texts about the subject, whose continuations are measured. `{}` in them and in paraphrases is filled
    with the subject on construction. An empty `id` becomes the first 12 hexadecimal digits of a SHA-256 of subject,
    text and target_new, and of join and chat where they are set. `join` is what stands between a prompt and its answer
    ("" for nothing); None leaves it to `join_target`. With `chat` every prompt of the fact is a user's message and the
    answer begins the model's reply. `metadata` is what a file says beyond that, kept and written back. Raises
    FactsError listing every reason why the fact cannot be used.
    """

    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    id: str = ""
    relation: str | None = None
    generation_prompts: tuple[str, ...] = ()
    join: str | None = None
    chat: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        reasons = fact_reasons({field.name: getattr(self, field.name) for field in fields(self)})
        if not all(isinstance(neighbour, Neighbour) for neighbour in self.neighbours):
            reasons.append("neighbours must be Neighbour objects")
        _refuse("fact", reasons)
        for name in ("paraphrases", "generation_prompts"):
            filled = tuple(text.replace(PLACEHOLDER, self.subject) for text in getattr(self, name))
            object.__setattr__(self, name, filled)
        object.__setattr__(self, "neighbours", tuple(self.neighbours))
        object.__setattr__(self, "id", self.id or self._digest())

    @property
    def text(self) -> str:
        """The prompt as the model sees it, subject filled in."""
        return self.prompt.replace(PLACEHOLDER, self.subject)

    def asked(self, prompt: str, answer: str) -> PromptTarget:
        """One of the fact's prompts with an answer, joined as the fact wants it."""
        return PromptTarget(prompt, answer, self.join)

    @property
    def wanted(self) -> PromptTarget:
        """The prompt with the new target."""
        return self.asked(self.text, self.target_new)

    @property
    def opening(self) -> int:
        """Where in the text a context prefix goes."""
        return 0

    @property
    def given(self) -> Fact:
        """The fact as its author wrote it."""
        return self

    def after(self, prefix: str) -> str:
        """The text with a context prefix at its opening, before the subject."""
        return self.text[: self.opening] + prefix + self.text[self.opening :]

    @property
    def template(self) -> str:
        """The text with `{}` in the subject's place."""
        start, end = self.subject_span
        return self.text[:start] + PLACEHOLDER + self.text[end:]

    @property
    def subject_span(self) -> tuple[int, int]:
        """Characters of `text` that are the subject: 0-based start, end excluded."""
        start = self.prompt.find(PLACEHOLDER)
        if start < 0:
            start = find_subject(self.prompt, self.subject)
        return start, start + len(self.subject)

    def _digest(self) -> str:
        # NUL cannot occur in the parts, so no two different facts run together. What a plain fact does not have is left
        # out, so that its id is what it was before there was such a field.
        parts = [self.subject, self.text, self.target_new]
        if self.join is not None or self.chat:
            parts += ["" if self.join is None else f"join {self.join}", "chat" if self.chat else ""]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _refuse(name: str, reasons: list[str]) -> None:
    if reasons:
        problems = [Problem("error", reason) for reason in reasons]
        raise FactsError(f"This {name} cannot be used: " + "; ".join(reasons) + ".", problems)


def facts_digest(facts: Sequence[Fact]) -> str:
    """Of everything in the facts that is edited or measured: all but their metadata."""
    measured = ({name: value for name, value in asdict(fact).items() if name != "metadata"} for fact in facts)
    return digest(list(measured))
