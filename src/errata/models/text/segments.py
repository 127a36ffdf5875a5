"""The parts of a prompt that results are averaged over: subject tokens, what follows them, the last token."""

from collections.abc import Mapping, Sequence

from errata.errors import InputError
from errata.facts.text import find_subject
from errata.models.text.tokens import Encoding

SEGMENTS = (
    "bos", "before", "first subject", "middle subject", "last subject", "first after", "further", "last", "target",
)  # fmt: skip


def segments(
    encoding: Encoding, prompt: str, prompt_length: int, run_length: int, subject: str | None
) -> Mapping[str, tuple[int, ...]]:
    """Token positions of each segment of a prompt, by name, empty where it has none (Katz et al. 2024, section 6).

    The segments may share a token: a subject of one token is its own first and last, and a subject at the end of the
    prompt shares its last token with "last". Of a repeated subject the last occurrence counts; without a subject
    everything but "bos" and "last" is "further". "target": teacher-forced tokens behind the prompt. Raises InputError
    where the subject does not occur.
    """
    bos = tuple(i for i in range(prompt_length) if encoding.offsets[i][0] == encoding.offsets[i][1])
    text = [i for i in range(prompt_length) if i not in bos]
    found: dict[str, tuple[int, ...]] = dict.fromkeys(SEGMENTS, ())
    found |= {"bos": bos, "last": tuple(text[-1:]), "target": tuple(range(prompt_length, run_length))}
    if subject is None:
        return found | {"further": tuple(text[:-1])}
    return found | subject_segments(text, *subject_tokens(encoding, prompt, subject))


def subject_segments(text: Sequence[int], first: int, last: int) -> dict[str, tuple[int, ...]]:
    """The segments that a subject at tokens `first` … `last` cuts the prompt's own tokens `text` into."""
    after = [i for i in text if i > last]
    return {
        "before": tuple(i for i in text if i < first),
        "first subject": (first,),
        "middle subject": tuple(i for i in text if first < i < last),
        "last subject": (last,),
        # The last token is a segment of its own; right behind the subject it is not also the first after it.
        "first after": tuple(after[:1]) if len(after) > 1 else (),
        "further": tuple(after[1:-1]),
    }


def subject_tokens(encoding: Encoding, prompt: str, subject: str) -> tuple[int, int]:
    """First and last token of the subject's last occurrence in the prompt; InputError where there is none."""
    if not isinstance(subject, str):
        raise InputError(f"The subject must be text, found {subject!r}.")
    start = find_subject(prompt, subject) if subject.strip() else -1
    if start < 0:
        raise InputError(
            f"The subject {subject!r} does not occur in the prompt {prompt!r}; copy it as it stands there."
        )
    return encoding.tokens_over(start, start + len(subject))
