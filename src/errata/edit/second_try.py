"""A second try for facts that found no target value: by themselves, with a larger clamp and more steps.

On SmolLM2 (CounterFact, clamp 0.75, 20 steps) about one fact in thirty ends without a value; most of those were merely
still on their way. The first try of every fact is untouched to the last bit, and so is its cached value.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from torch import Tensor

from errata.edit.targets import TargetValues
from errata.edit.value_config import ValueConfig
from errata.facts import Fact

# A value with which the model gives a token of the answer less than half of its probability is none.
POOR_NLL = math.log(2)
_CLAMP, _STEPS = 1.5, 2.5

# What collects the values of some of the facts under a configuration.
Collect = Callable[[Sequence[Fact], ValueConfig], TargetValues]


def with_second_try(facts: Sequence[Fact], config: ValueConfig, collect: Collect) -> TargetValues:
    """The values of all facts; where the first try found none, those of the second if that found one.

    A value that is no better than the first one's is not taken: a larger shift costs neighbours. `second_tries` of what
    is returned numbers the facts that had one.
    """
    first = collect(facts, config)
    poor = [i for i, nll in enumerate(first.nll.tolist()) if nll > POOR_NLL]
    if not config.retry or not poor:
        return first
    second = collect([facts[i] for i in poor], second_config(config))
    found = [(i, at) for at, i in enumerate(poor) if float(second.nll[at]) <= POOR_NLL]
    tensors = {name: _replaced(tensor, second.tensors()[name], found) for name, tensor in first.tensors().items()}
    return TargetValues(**tensors, kept_seconds=first.kept_seconds + second.kept_seconds, second_tries=tuple(poor))


def second_config(config: ValueConfig) -> ValueConfig:
    """What the second try is made with."""
    steps = min(1000, math.ceil(_STEPS * config.value_steps))
    return dataclasses.replace(config, clamp=_CLAMP * config.clamp, value_steps=steps, retry=False)


def _replaced(tensor: Tensor, other: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
    """A copy of `tensor` with row i from `other`'s row `at` for each (i, at)."""
    copy = tensor.clone()
    for i, at in places:
        copy[i] = other[at]
    return copy
