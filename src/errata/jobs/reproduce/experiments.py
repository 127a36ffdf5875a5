"""The paper's experiments on single prompts, each pure work on a model: what is asked, and the rows that it gives."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from errata.core.parts import Advance
from errata.evaluate.perplexity import perplexity
from errata.facts import Fact
from errata.lens import BackwardLens, backward_lens, backward_lenses
from errata.lens.flipping import RULES, smallest_rate, update_direction
from errata.lens.measures import measure_lens, mechanism
from errata.models import LanguageModel, Place, add_to_weight_, matrices, weights_restored

Row = dict[str, Any]


@dataclass(frozen=True)
class Gradients:
    """Prompts whose gradients are taken together. neuron_layers: of each, the layers that are read neuron by neuron."""

    facts: tuple[Fact, ...]
    mode: str
    neuron_layers: tuple[tuple[int, ...], ...]


def gradient_rows(lm: LanguageModel, asked: Gradients, advance: Advance) -> list[Row]:
    """Ranks, norms, readings and neurons: a row for each prompt."""
    rows = []
    lenses = backward_lenses(
        lm,
        [fact.text for fact in asked.facts],
        [fact.target_new for fact in asked.facts],
        subjects=[fact.subject for fact in asked.facts],
        mode=asked.mode,
        matrices=matrices(lm.family),
        batch_size=len(asked.facts),
    )
    for lens, layers in zip(lenses, asked.neuron_layers, strict=True):
        rows.append(measure_lens(lens, neuron_layers=layers))
        advance(1)
    return rows


@dataclass(frozen=True)
class Flips:
    """Where the smallest rate that flips a prompt's answer is searched, and the text whose perplexity it is to leave.

    unedited: its perplexity without the step.
    """

    fact: Fact
    layers: tuple[int, ...]
    texts: Sequence[Sequence[int]]
    unedited: float


def flip_rows(lm: LanguageModel, asked: Flips, advance: Advance) -> list[Row]:
    """A row for each layer and rule of updating; none where the answer is the target already."""
    lens = backward_lens(lm, asked.fact.text, asked.fact.target_new)
    rows = []
    for layer in asked.layers:
        for rule in RULES if lens.target != lens.answer else ():
            flip = smallest_rate(lens, layer, rule)
            after = None if flip.rate is None else _perplexity_after(lens, layer, rule, flip.rate, asked.texts)
            rows.append({**asdict(flip), "perplexity": after, "unedited_perplexity": asked.unedited})
        advance(1)
    return rows


def _perplexity_after(lens: BackwardLens, layer: int, rule: str, rate: float, texts: Sequence[Sequence[int]]) -> float:
    update, place = update_direction(lens, layer, rule), Place(layer, "down")
    with weights_restored(lens.lm, [place]):
        add_to_weight_(lens.lm, place, update.scaled(rate))
        return perplexity(lens.lm, texts)


@dataclass(frozen=True)
class Mechanism:
    """A step at a rate whose imprint and shift are predicted and measured at some layers."""

    fact: Fact
    layers: tuple[int, ...]
    lr: float


def mechanism_rows(lm: LanguageModel, asked: Mechanism, advance: Advance) -> list[Row]:
    """A row for each layer."""
    lens = backward_lens(lm, asked.fact.text, asked.fact.target_new)
    rows = [mechanism(lens, layer, asked.lr) for layer in asked.layers]
    advance(1)
    return rows
