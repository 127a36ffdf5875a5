"""Facts, second moments and progress sinks that the tests of editing share."""

from contextlib import contextmanager

import torch

from errata.facts import Fact
from errata.stats import SecondMoments
from tiny import fresh_model

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


def as_second_moments(moments):
    """Matrices by layer as the object that methods are given."""
    return SecondMoments(dict(moments), 500, 500, 1, "random", "x", "y")


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


def uneven_model(variant):
    """A tiny model whose MLPs' post-norms have gains as uneven as Gemma's: 0, negative, one 70 times the usual."""
    lm = fresh_model(variant)
    offset = 0.0 if variant == "olmo2" else 1.0
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in lm.layers:
            norm = layer.get_submodule(lm.family.mlp_post_norm)
            gain = 8 * torch.exp(torch.randn(lm.d_model, generator=generator))
            gain[0], gain[1], gain[2] = 0.0, -3.0, 600.0
            norm.weight.copy_(gain - offset)
    return lm
