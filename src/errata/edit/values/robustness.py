"""Robustness of target values: what is left of a fact when its value is reached only in part.

A layer loop never lands the whole of a value shift, and what a prompt in other words gives is further off still. A low
loss at the value itself does not tell whether an edit will hold, for the value may lie in a narrow valley (on SmolLM2
those of the upper layers do). So the loss is read a little way back, at start + reach · (value − start). Equals full
forwards (tests/reference/memit.py).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from errata.edit.values.value_problem import Evaluator, Site, prepare
from errata.facts import Fact
from errata.models import LanguageModel

# A good layer loop lands more, a strong prior (large λ) much less.
REACH = 0.8


def short_losses(
    evaluator: Evaluator, shift: Float[Tensor, "fact site d_model"], *, reach: float = REACH
) -> Float[Tensor, " fact"]:
    """Each fact's NLL (nats; mean over contexts of mean over target tokens) where `reach` of its shift is there.

    Of two shifts only the last counts, that of the MLP: what attention's does is never written.
    """
    every = torch.arange(len(shift), device=shift.device)
    evaluator.keep(every)
    reached = torch.zeros_like(shift)
    reached[:, -1] = reach * shift[:, -1]
    nll, _, _ = evaluator(reached, every, 0.0, with_gradient=False)
    return nll


def robustness(
    lm: LanguageModel,
    facts: Sequence[Fact],
    values: Float[Tensor, "fact d_model"],
    layer: int,
    prefixes: Sequence[str],
    *,
    reach: float = REACH,
    site: Site = "block",
) -> Float[Tensor, " fact"]:
    """Each fact's NLL where layer `layer` gives start + reach · (value − start) at the subject, in every context.

    `values` are target values at that layer and site, `prefixes` those they were made with. One batch: memory grows
    with the facts.
    """
    problem = prepare(lm, facts, layer, prefixes, site)
    shift = torch.zeros_like(problem.start)
    shift[:, -1] = values.to(shift) - problem.start[:, -1]
    return short_losses(Evaluator(problem, len(facts)), shift, reach=reach)
