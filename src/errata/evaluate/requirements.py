"""What an edit has to reach for its maker to be content: `said=90`, `ns_drop=3`; and whether it did."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from errata.errors import ConfigError
from errata.evaluate.metrics import METRICS, Metric
from errata.evaluate.verdict import VERDICT_NAMES

_DROP = "_drop"
# What people write for =, where a name says by itself which way its bound goes.
_COMPARED = re.compile(r"([\w-]+)\s*(?:[<>]=?|=[<>=]|[≤≥:])\s*(.*)")
_SHORT = {"kl": "kl_drift"}
_NO_SHARES = frozenset(info.key for info in METRICS if info.unit != "%")
# Groups of METRICS that every edit measures before and after, where facts have what they take.
EDIT_GROUPS = ("counterfact", "zsre")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A bound on one number: at least `bound`, or at most (`at_most`). A drop is the value before minus that after."""

    name: str
    bound: float
    at_most: bool

    def judged(self, before: Mapping[str, Metric], after: Mapping[str, Metric]) -> Judgement:
        """The bound beside what was measured, by name in METRICS and in `Verdict.metrics`."""
        found = _found(self.name, before, after)
        met = found is not None and (found <= self.bound if self.at_most else found >= self.bound)
        return Judgement(name=self.name, bound=self.bound, at_most=self.at_most, found=found, met=met)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A requirement and what was found; `found` is None where nothing was measured, and then it is not met."""

    name: str
    bound: float
    at_most: bool
    found: float | None
    met: bool

    @property
    def text(self) -> str:
        """In a sentence, for a reader."""
        wanted = f"{self.name} of {'at most' if self.at_most else 'at least'} {self.bound:g}"
        found = "nothing to measure it on was given" if self.found is None else f"it is {self.found:.4g}"
        return f"{'Met' if self.met else 'NOT MET'}: {wanted} was required; {found}."

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with the sentence."""
        return {**asdict(self), "text": self.text}


def requirement_names(groups: Collection[str]) -> dict[str, bool]:
    """Every name that can be required of the metrics of these groups, with whether its bound is an upper one."""
    infos = [info for info in METRICS if info.group in groups and info.higher_is_better is not None]
    higher = [info.key for info in infos if info.higher_is_better]
    lower = [info.key for info in infos if not info.higher_is_better]
    return dict.fromkeys([*VERDICT_NAMES, *higher], False) | dict.fromkeys([*(h + _DROP for h in higher), *lower], True)


def parse_requirements(texts: Sequence[str], groups: Collection[str] = EDIT_GROUPS) -> tuple[Requirement, ...]:
    """`name=number` texts as requirements on the metrics of these groups; ConfigError with every reason at once."""
    known = requirement_names(groups)
    reasons, found = [], []
    for text in texts:
        try:
            found.append(_parsed(text, known))
        except ConfigError as error:
            reasons.append(str(error))
    names = [one.name for one in found]
    reasons += [f"{name} is required twice." for name in dict.fromkeys(names) if names.count(name) > 1]
    if reasons:
        raise ConfigError("--require: " + " ".join(reasons))
    return tuple(found)


def _parsed(text: str, known: Mapping[str, bool]) -> Requirement:
    if compared := _COMPARED.fullmatch(text.strip()):
        name, number = compared.groups()
        raise ConfigError(f"{text!r}: write {name}={number or 'NUMBER'}; its name says which way the bound goes.")
    name, equals, raw = (part.strip() for part in text.partition("="))
    name = name.replace("-", "_").lower()
    name = _SHORT.get(name, name)
    if not equals or not raw:
        raise ConfigError(f"{text!r} is not name=number (for example said=90 or ns_drop=3).")
    if name not in known:
        raise ConfigError(_unknown(name, known))
    try:
        bound = float(raw.removesuffix("%"))
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ConfigError(f"{name}={raw!r} is not a number.")
    if not known[name] and name not in _NO_SHARES and not 1 < bound <= 100:
        hint = f" (for {bound:.0%}: {name}={100 * bound:g})" if 0 < bound <= 1 else ""
        raise ConfigError(f"{name}={raw}: write a percentage, more than 1 and at most 100{hint}.")
    return Requirement(name=name, bound=bound, at_most=known[name])


def _unknown(name: str, known: Mapping[str, bool]) -> str:
    near = get_close_matches(name, known, n=1)
    if near:
        return f"Unknown name {name!r}; did you mean {near[0]!r}?"
    if name in requirement_names({info.group for info in METRICS}):
        return f"{name!r} is not measured here (errata eval measures drift, and generations with --generate)."
    lower = ", ".join(known_name for known_name, at_most in known.items() if not at_most)
    upper = ", ".join(known_name for known_name, at_most in known.items() if at_most and not known_name.endswith(_DROP))
    more = f"; at most: {upper}" if upper else ""
    return f"Unknown name {name!r}. At least: {lower}{more}; at most: any of them but the first three with {_DROP}."


def _found(name: str, before: Mapping[str, Metric], after: Mapping[str, Metric]) -> float | None:
    if not name.endswith(_DROP):
        return after[name].value if name in after else None
    key = name.removesuffix(_DROP)
    old, new = (state[key].value if key in state else None for state in (before, after))
    return None if old is None or new is None else old - new
