"""Every rule that a single fact must obey, as reasons why it does not."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping

from errata.errors import InputError
from errata.facts.text import PLACEHOLDER, find_subject

REQUIRED = ("subject", "prompt", "target_new")
# Fields that list prompts about the subject, and what a message calls one of them.
_PROMPT_LISTS = {"paraphrases": "paraphrase", "generation_prompts": "generation prompt"}
_MAX_DEPTH = 50
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def kind(value: object) -> str:
    """What a value is called in JSON, or in Python where JSON has none."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return "a number"
    return "text" if isinstance(value, str) else f"a {type(value).__name__}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """A question after an unknown name that resembles a known one, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def quoted(text: str, limit: int = 100) -> str:
    """The text in quotes, safe to print, its end left out where it is long."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


def text_reasons(name: str, value: object) -> list[str]:
    """Why `value` is no text that a tokenizer can take."""
    if not isinstance(value, str):
        return [f"{name} is {kind(value)}; it must be text"]
    if not value.strip():
        return [f"{name} is {'only whitespace' if value else 'empty'}"]
    if found := _UNUSABLE.search(value):
        what = "a NUL character" if found[0] == "\0" else f"half of a surrogate pair (U+{ord(found[0]):04X})"
        return [f"{name} holds {what} at character {found.start()}"]
    return []


def check_prompt(text: object) -> None:
    """Raise InputError where a prompt is no text that a tokenizer can take."""
    if reasons := text_reasons("the prompt", text):
        raise InputError(f"{reasons[0][0].upper()}{reasons[0][1:]}; write the beginning of a text to go on with.")


def check_subject(prompt: object, subject: object) -> None:
    """Raise InputError where a subject is no text that occurs in the prompt."""
    check_prompt(prompt)
    if reasons := text_reasons("the subject", subject):
        raise InputError(f"{reasons[0][0].upper()}{reasons[0][1:]}; name the words of the prompt to corrupt.")
    if find_subject(str(prompt), str(subject)) < 0:
        near = _near_miss(str(subject), str(prompt)).removesuffix(" and the prompt has no '{}'")
        raise InputError(
            f"The subject {subject!r} does not occur in the prompt {prompt!r}{near}; copy it as it stands there."
        )


def fact_reasons(fields: Mapping[str, object]) -> list[str]:
    """Why a fact with these fields cannot be used: every reason, none when it can. Absent fields are not judged."""
    reasons: list[str] = []
    good: dict[str, str] = {}
    for name, value in fields.items():
        if name in REQUIRED or (name in ("target_true", "relation") and value is not None):
            reasons += (found := text_reasons(name, value))
            good |= {} if found else {name: str(value)}
    if fields.get("id", "") != "":
        reasons += _id_reasons(fields["id"])
    if "subject" in good:
        reasons += _subject_reasons(good["subject"], good.get("prompt"))
    if "target_new" in good and good["target_new"].strip() == good.get("target_true", "").strip():
        reasons.append(
            f"target_new and target_true are both {quoted(good['target_new'].strip())}: there is nothing to edit"
        )
    reasons += _form_reasons(fields)
    for name, one in _PROMPT_LISTS.items():
        reasons += _prompt_list_reasons(name, one, fields.get(name, ()), good.get("subject", ""))
    return reasons


def _form_reasons(fields: Mapping[str, object]) -> list[str]:
    """What is wrong with how the prompts are put to the model, and with what else the record says."""
    reasons = []
    join, chat, metadata = fields.get("join"), fields.get("chat", False), fields.get("metadata", {})
    if join is not None and not (isinstance(join, str) and not join.strip()):
        reasons.append(f'join is {quoted(join) if isinstance(join, str) else kind(join)}; it must be "" or whitespace')
    if not isinstance(chat, bool):
        reasons.append(f"chat is {kind(chat)}; it must be true or false")
    if not isinstance(metadata, Mapping):
        reasons.append(f"metadata is {kind(metadata)}; it must be an object")
    elif reason := _not_plain(metadata):
        reasons.append(f"metadata holds {reason}, which cannot be written to a file")
    return reasons


def _not_plain(value: object, depth: int = 0) -> str:
    """What in a value JSON cannot hold, or holds only at the price of the reader's stack; nothing where it is plain."""
    if depth > _MAX_DEPTH:
        return f"more than {_MAX_DEPTH} lists and objects inside each other"
    if value is None or isinstance(value, (str, bool, int, float)):
        return ""
    if isinstance(value, Mapping):
        if odd := next((name for name in value if not isinstance(name, str)), None):
            return f"{type(odd).__name__} as a name"
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((found for one in value if (found := _not_plain(one, depth + 1))), "")
    return f"a value of type {type(value).__name__}"


def inside_word(text: str, span: tuple[int, int]) -> str | None:
    """The longer word that `span` is only a part of, for Latin letters; other scripts attach particles."""
    start, end = span
    low, high = start, end
    while low and _joins(text[low - 1], text[start]):
        low -= 1
    while high < len(text) and _joins(text[high], text[end - 1]):
        high += 1
    return None if (low, high) == span else text[low:high]


def _joins(char: str, edge: str) -> bool:
    if unicodedata.combining(char):
        return True
    return all(c.isalpha() and unicodedata.name(c, "").startswith("LATIN") for c in (char, edge))


def fact_warnings(target_new: str, subject: str, text: str, paraphrases: Iterable[str]) -> list[str]:
    """What deserves a look in a fact that can be used."""
    # Where the whole prompt stands for the subject, no paraphrase can mention it.
    warnings = [
        f"paraphrase {number} does not mention the subject"
        for number, paraphrase in enumerate(paraphrases, 1)
        if subject not in paraphrase and subject != text.strip()
    ]
    if target_new != target_new.rstrip():
        warnings.append("target_new ends in whitespace, which the model will learn as part of the answer")
    return warnings


def neighbour_reasons(prompt: object, answer: object) -> list[str]:
    """Why a neighbour cannot be used: every reason, none when it can."""
    reasons = text_reasons("prompt", prompt)
    if not reasons and PLACEHOLDER in str(prompt):
        reasons.append("prompt holds '{}'; write the other subject out")
    return reasons + (text_reasons("answer", answer) if answer is not None else [])


def _id_reasons(value: object) -> list[str]:
    reasons = text_reasons("id", value)
    if not reasons and not str(value).isprintable():
        reasons.append("id holds a character that cannot be printed")
    return reasons


def _subject_reasons(subject: str, prompt: str | None) -> list[str]:
    if subject != subject.strip():
        return ["subject begins or ends in whitespace"]
    if PLACEHOLDER in subject:
        return ["subject holds '{}', which marks the subject's place in a prompt"]
    if prompt is None:
        return []
    places = prompt.count(PLACEHOLDER)
    if places > 1:
        return [f"prompt holds '{{}}' {places} times; the subject has one place"]
    if places or find_subject(prompt, subject) >= 0:
        return []
    return [f"subject {quoted(subject)} is not in the prompt {quoted(prompt)}" + _near_miss(subject, prompt)]


def _near_miss(subject: str, prompt: str) -> str:
    nfc_subject, nfc_prompt = (unicodedata.normalize("NFC", text) for text in (subject, prompt))
    if nfc_subject in nfc_prompt:
        return ": they look alike but are encoded differently (normalise both, for instance to NFC)"
    if nfc_subject.casefold() in nfc_prompt.casefold():
        return ": it is there in other capitals"
    if " ".join(subject.split()) in " ".join(prompt.split()):
        return ": it is there with other whitespace"
    return " and the prompt has no '{}'"


def _prompt_list_reasons(field: str, one: str, prompts: object, subject: str) -> list[str]:
    if not isinstance(prompts, (list, tuple)):
        return [f"{field} is {kind(prompts)}; it must be a list of texts"]
    reasons = []
    for number, prompt in enumerate(prompts, 1):
        name = f"{one} {number}"
        reasons += (found := text_reasons(name, prompt))
        if not found and PLACEHOLDER in str(prompt).replace(PLACEHOLDER, subject, 1):
            reasons.append(f"{name} holds '{{}}' more than once; the subject has one place")
    return reasons
