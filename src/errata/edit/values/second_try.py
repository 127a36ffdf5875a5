"""A second try for facts that found no target value: by themselves, with a larger clamp and more steps.

A preset was measured with its clamp, and one more try is enough. A guess starts with a clamp that spares neighbours and
has a third try.

On SmolLM2 (CounterFact, clamp 0.75, 20 steps) about one fact in thirty ends without a value; most of those were merely
still on their way. The first try of every fact is untouched to the last bit, and so is its cached value.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from torch import Tensor

from errata.edit.settings.value_config import ValueConfig
from errata.edit.values.targets import TargetValues
from errata.facts import Fact

# NLL of half the probability: of a token of the answer, or of the whole of it.
POOR_NLL = math.log(2)
_CLAMP, _STEPS = 1.5, 2.5

# What collects the values of some of the facts under a configuration.
Collect = Callable[[Sequence[Fact], ValueConfig], TargetValues]


def with_second_try(
    facts: Sequence[Fact], tokens: Sequence[int], config: ValueConfig, collect: Collect
) -> TargetValues:
    """The values of all facts; where the first try found none that is good enough, a later one that is better.

    tokens: of each fact's answer. A value with which the model gives the whole answer less than half of its probability
    is not good enough; one with which it gives less to a token is no value, and is not taken over the first one: a
    larger shift costs neighbours. `second_tries` of what is returned numbers the facts that had more than one.
    """
    values = collect(facts, config)
    again = poor = _poor(values, tokens, range(len(facts)))
    for nth in range(1, config.retries + 1):
        if not again:
            break
        later = collect([facts[i] for i in again], later_config(config, nth))
        good = [(i, at) for at, i in enumerate(again) if later.nll[at] <= min(POOR_NLL, float(values.nll[i]))]
        tensors = {name: _replaced(tensor, later.tensors()[name], good) for name, tensor in values.tensors().items()}
        seconds = values.kept_seconds + later.kept_seconds
        values = TargetValues(**tensors, kept_seconds=seconds, second_tries=tuple(poor))
        again = _poor(values, tokens, again)
    return values


def _poor(values: TargetValues, tokens: Sequence[int], facts: Sequence[int]) -> list[int]:
    return [i for i in facts if tokens[i] * float(values.nll[i]) > POOR_NLL]


def later_config(config: ValueConfig, nth: int) -> ValueConfig:
    """What the nth try after the first is made with."""
    steps = min(1000, math.ceil(_STEPS * config.value_steps))
    return dataclasses.replace(config, clamp=_CLAMP**nth * config.clamp, value_steps=steps, retries=0)


def _replaced(tensor: Tensor, other: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
    """A copy of `tensor` with row i from `other`'s row `at` for each (i, at)."""
    copy = tensor.clone()
    for i, at in places:
        copy[i] = other[at]
    return copy
