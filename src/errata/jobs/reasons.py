"""Why a fact is not said after an edit, and what to try: the likeliest cause that the numbers show, in plain words."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from errata.core.words import counted, shortened
from errata.edit import MethodConfig
from errata.edit.values.second_try import POOR_NLL
from errata.evaluate import FactScore, PromptScore
from errata.facts import Fact
from errata.facts.text import at_word_boundaries

# Of the wanted change of a fact, this much must be left for it to be the cause; for a rival key to be, less.
_MUCH_LEFT, _SOME_LEFT = 0.5, 0.3


@dataclass(frozen=True)
class Reason:
    """Why, and what to try; each a sentence or two."""

    why: str
    advice: str


def reason_of(
    fact: Fact,
    score: FactScore,
    known: Mapping[str, Any],
    says: str,
    config: MethodConfig,
    near: tuple[Fact, float] | None,
) -> Reason:
    """The likeliest cause. `known`: what the method knows of the fact.  `near`: a fact whose key is nearly the same."""
    return (
        _runs_on(fact, score)
        or _no_value(known, config)
        or _poor_value(score.prompt.new.tokens, known, config)
        or _collides(fact, near, known)
        or _did_not_land(known, config)
        or _missed_by_method(known, config)
        or _later(fact, says)
        or _other_words(score)
        or _weak(score.prompt, config)
    )


def _runs_on(fact: Fact, score: FactScore) -> Reason | None:
    added = score.prompt.runs_on
    if not added:
        return None
    return Reason(
        f"it says the answer and goes on with its last word or number: {fact.target_new.strip() + added!r}.",
        f"an answer that says where it ends: {fact.target_new.strip() + '.'!r}.",
    )


def _no_value(known: Mapping[str, Any], config: MethodConfig) -> Reason | None:
    nll = known.get("nll")
    if nll is None or nll <= POOR_NLL:
        return None
    tried = ", nor one that would do by a larger clamp and more steps" if known.get("second_try") else ""
    clamp, steps = getattr(config, "clamp", 0.0), getattr(config, "value_steps", 0)
    return Reason(
        f"no target value was found{tried}: the answer's tokens get {math.exp(-nll):.0%} each (loss {nll:.2f} nat).",
        "a shorter or more usual answer, a longer name for the subject, or "
        f"--set clamp={2 * clamp:g} --set value_steps={4 * steps}.",
    )


def _poor_value(tokens: int, known: Mapping[str, Any], config: MethodConfig) -> Reason | None:
    """Every token of an answer must be first choice: what is enough for one is not for a date or an address."""
    nll = known.get("nll")
    if nll is None or nll * tokens <= POOR_NLL:
        return None
    return Reason(
        f"its target value is not good enough for an answer of {counted(tokens, 'token')}: the whole of it gets "
        f"{math.exp(-nll * tokens):.0%}.",
        f"--set value_steps={4 * getattr(config, 'value_steps', 0)}, or a shorter answer.",
    )


def _collides(fact: Fact, near: tuple[Fact, float] | None, known: Mapping[str, Any]) -> Reason | None:
    """A rival key is no cause where nearly all of the change landed."""
    if near is None or known.get("left", 1.0) < _SOME_LEFT:
        return None
    other, cosine = near
    keys = "the same" if cosine > 0.9999 else f"nearly the same (cosine {cosine:.2f})"
    if other.subject == fact.subject and cosine <= 0.9999:
        return Reason(
            f"another fact is about the same subject, {shortened(other.text, 80)!r} → "
            f"{shortened(other.target_new, 40)!r}: their keys are {keys}, so that each is read for the other too.",
            "fewer facts about this subject at once.",
        )
    return Reason(
        f"it collides with {named(other)} → {shortened(other.target_new, 40)!r}: their keys are {keys}, and a key does "
        "not see what follows the subject.",
        "put what tells the two apart before the subject or into it, or edit one of them alone.",
    )


def _did_not_land(known: Mapping[str, Any], config: MethodConfig) -> Reason | None:
    left = known.get("left")
    if left is None or left < _MUCH_LEFT:
        return None
    strength = next((name for name in ("prior_weight", "softness", "ridge") if hasattr(config, name)), None)
    weaker = "" if strength is None else f"--set {strength}={getattr(config, strength) / 10:g} (values are kept), or "
    return Reason(
        f"a value was found, but {left:.0%} of the change did not land in the weights.",
        f"{weaker}fewer facts at once.",
    )


def _missed_by_method(known: Mapping[str, Any], config: MethodConfig) -> Reason | None:
    """What a method without target values says of a fact that it did not get right."""
    if "nll" in known:
        return None
    if "reason" in known:
        return Reason(f"{known['reason']}.", "another layer, or --method memit.")
    if "loss" in known:
        more = f"--set epochs={2 * config.epochs} or " if hasattr(config, "epochs") else ""  # type: ignore[attr-defined]
        return Reason(f"training ended at a loss of {known['loss']:.2f} nat for it.", f"{more}--method memit.")
    return None


def _later(fact: Fact, says: str) -> Reason | None:
    places = re.finditer(re.escape(fact.target_new.strip()), says, re.IGNORECASE)
    if not any(says[: one.start()].strip() and at_word_boundaries(says, *one.span()) for one in places):
        return None
    return Reason(
        "it says the answer, but not right after the prompt.",
        "a prompt that ends where the answer begins: with the words that come before it here.",
    )


def _other_words(score: FactScore) -> Reason | None:
    said = sum(one.new.correct for one in score.paraphrases)
    if not said:
        return None
    return Reason(
        f"it is said in other words only: after {said:,} of {counted(len(score.paraphrases), 'paraphrase')}.",
        "this wording of the prompt as a fact of its own.",
    )


def _weak(prompt: PromptScore, config: MethodConfig) -> Reason:
    old = "" if prompt.true is None else f", the old one {prompt.true.probability:.1%}"
    advice = []
    if hasattr(config, "clamp"):
        advice.append(f"--set clamp={1.5 * config.clamp:g}")  # type: ignore[attr-defined]
    if hasattr(config, "passes"):
        advice.append(f"--set passes={config.passes + 1}")  # type: ignore[attr-defined]
    return Reason(
        f"it is too weak: the new answer has {prompt.new.probability:.1%}{old}, and another is first choice.",
        f"{' or '.join(advice) or '--method memit'}.",
    )


def named(fact: Fact) -> str:
    """A fact as a reader knows it: by its subject and prompt."""
    return f"{shortened(fact.subject, 40)}: {shortened(fact.text, 80)!r}"
