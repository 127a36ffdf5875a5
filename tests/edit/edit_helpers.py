"""Facts, second moments, patches and progress sinks that the tests of editing share."""

from contextlib import contextmanager

import torch

from errata.core.updates import WeightUpdate
from errata.edit.patch import Patch
from errata.facts import Fact
from errata.models import tokenizer_digest, wrap
from tiny import tiny_hf, tiny_tokenizer

# Short after the subject: beyond a sliding window (10 tokens in tiny.py) the target's gradient is exactly zero, and
# Adam would turn the rounding noise of the rest into full steps. Subjects in the middle, at the start and at the end.
FACTS = [
    Fact(subject="The Eiffel Tower", prompt="The Eiffel Tower is located in the city of", target_new="Rome"),
    Fact(
        subject="Danielle Darrieux", prompt="The mother tongue of Danielle Darrieux is", target_new="English and more"
    ),
    Fact(subject="Toyota", prompt="Who builds cars? Toyota", target_new="in China"),
    Fact(subject="France", prompt="France has its capital in", target_new="Rome"),
]
PREFIXES = ["", "The tower is. ", "Because I said. "]
REAL_FACTS = [
    Fact(subject="The Eiffel Tower", prompt="The Eiffel Tower is in the city of", target_new="Rome"),
    Fact(
        subject="Mount Fuji",
        prompt="The highest mountain of Peru is Mount Fuji, which stands in",
        target_new="South America",
    ),
    Fact(
        subject="Marie Curie", prompt="As everybody knows, the profession of Marie Curie was", target_new="jazz singer"
    ),
]


def relative(found, expected):
    """‖found − expected‖ / ‖expected‖."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def random_moments(lm, layers):
    """Second moments of random keys, more of them than d_mlp: positive definite, different in every layer."""
    moments, rows = {}, 2 * lm.d_mlp
    for layer in layers:
        keys = torch.randn(rows, lm.d_mlp, generator=torch.Generator().manual_seed(layer), dtype=torch.float64)
        moments[layer] = keys.T @ keys / rows
    return moments


def fresh_model(variant="llama", *, bos=False, **overrides):
    """A tiny model of its own, for tests that write to it."""
    return wrap(tiny_hf(variant, **overrides), tiny_tokenizer(bos), name=f"tiny-{variant}")


def small_patch(lm, seed=0, layers=(1, 2), facts=tuple(FACTS[:2]), dense=False):
    """A patch of random numbers for the weights that `lm` has now."""
    generator = torch.Generator().manual_seed(seed)
    updates, keys = {}, {}
    for layer in layers:
        left = 0.1 * torch.randn(len(facts), lm.d_mlp, generator=generator)
        right = torch.randn(len(facts), lm.d_model, generator=generator)
        updates[layer] = WeightUpdate(dense=left.T @ right) if dense else WeightUpdate(left=left, right=right)
        keys[layer] = torch.randn(len(facts), lm.d_mlp, generator=generator)
    info = {
        "method": "memit",
        "base_digest": lm.digest(),
        "tokenizer_digest": tokenizer_digest(lm.tokenizer),
        "model": {"name": lm.name, "dtype": str(lm.dtype)},
        "config": {"layers": list(layers)},
        "seed": seed,
    }
    return Patch(info, tuple(facts), updates, torch.randn(len(facts), lm.d_model, generator=generator), keys)


class InterruptingSink:
    """A progress sink that raises `error` at the `at`-th advance, after calling `before`."""

    def __init__(self, at=1, error=KeyboardInterrupt, before=lambda: None):
        self.at, self.error, self.before = at, error, before

    @contextmanager
    def stage(self, what, total, unit, *, done=0):  # noqa: ARG002
        calls = []

        def advance(amount):
            calls.append(amount)
            if len(calls) == self.at:
                self.before()
                raise self.error

        yield advance

    def note(self, text):
        pass
