"""Names of fields: which a record of ours has, which look like a slip of the pen, which stand for one of ours."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from errata.facts.checks import REQUIRED

FIELDS = (
    "id", "subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours", "relation",
    "generation_prompts", "join", "chat", "metadata",
)  # fmt: skip
ALIASES = {"case_id": "id", "neighbors": "neighbours"}

# What other people's files call the required fields, for hints only: none of these is read as one.
_STAND_INS = {
    "subject": ("entity", "concept", "head", "topic", "subj", "title"),
    "prompt": ("question", "query", "input", "instruction", "text", "sentence", "src"),
    "target_new": (
        "completion", "target", "answer", "response", "output", "object", "label", "labels", "new_answer", "new_target",
        "alt", "ans",
    ),
}  # fmt: skip
_WHAT = {
    "subject": "the words of the prompt that the fact is about",
    "prompt": "a text that holds the subject and ends where the answer begins",
    "target_new": "the answer to write",
}


@lru_cache(maxsize=4096)
def typo_of(name: str, known: frozenset[str]) -> str | None:
    """The known name that `name` looks like a misspelling of: other capitals or separators, or a letter amiss."""
    if name in known:
        return None
    folded = _folded(name)
    for one in sorted(known):
        # A short name is one letter from many words, and a longer ending (target_true_id) names something else.
        allowed = 0 if len(_folded(one)) < 5 else 1 if len(_folded(one)) < 11 else 2
        if _distance(folded, _folded(one)) <= allowed:
            return one
    return "target_new" if folded == "target" and "target_new" in known else None


def missing_reason(name: str, present: Collection[str], *, what: str = "field") -> str:
    """That a required name is missing, with the one that seems to stand in for it, if there is one."""
    folded = {_folded(str(one)): str(one) for one in present}
    for stand_in in _STAND_INS.get(name, ()):
        if misnamed := folded.get(_folded(stand_in)):
            return f"missing {what} {name!r}; is it what {misnamed!r} holds? Rename it to {name!r}"
    return f"missing {what} {name!r}"


def hints(present: Collection[str]) -> list[str]:
    """For each required name that is missing: what seems to stand in for it, else what it is."""
    found = []
    for name in REQUIRED:
        if name not in present:
            _, _, hint = missing_reason(name, present).partition("; ")
            found.append(f"{name} is missing: {hint or _WHAT[name]}")
    return found


def _folded(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")


def _distance(one: str, other: str) -> int:
    """Letters inserted, dropped, replaced, or swapped with the next, to make one of the other."""
    if abs(len(one) - len(other)) > 2:
        return 3
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b)))
            if i > 1 and j > 1 and (a, one[i - 2]) == (other[j - 2], b):
                row[j] = min(row[j], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]
