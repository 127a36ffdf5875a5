"""What a reader is told of a method: what it writes, and what each of its fields means.

A field is explained in the docstring of the configuration that has it ("name: meaning."), and nowhere else.
"""

import dataclasses
import inspect
import re

from errata.edit.settings.method_config import MethodConfig

# What each method writes, in a sentence, and where it was published.
DESCRIPTIONS = {
    "memit": (
        "The MLP output matrices of a range of layers: all facts in one least-squares solve a layer, each layer taking "
        "its share of the change, against second moments of ordinary text.",
        "Meng et al. 2023, Mass-Editing Memory in a Transformer, arXiv:2210.07229",
    ),
    "alphaedit": (
        "As MEMIT, but only inside the null space of the text's keys, so that what they give stays as it is.",
        "Fang et al. 2025, AlphaEdit: Null-Space Constrained Knowledge Editing, arXiv:2410.02355",
    ),
    "emmet": (
        "As MEMIT, with the facts as equality constraints that hold exactly, or nearly so, instead of a least-squares "
        "compromise.",
        "Gupta et al. 2024, A Unified Framework for Model Editing, arXiv:2403.14236",
    ),
    "pmet": (
        "As MEMIT, from target values of the MLP alone: what attention would have to change is optimised beside them "
        "and left out.",
        "Li et al. 2024, PMET: Precise Model Editing in a Transformer, arXiv:2308.08742",
    ),
    "rome": (
        "One MLP output matrix: a rank-one update a fact that gives its key the new value.",
        "Meng et al. 2022, Locating and Editing Factual Associations in GPT, arXiv:2202.05262",
    ),
    "r-rome": (
        "As ROME, with the same averaged key in both places where the published code mixes two; it does not blow up.",
        "Gupta et al. 2024, Rebuilding ROME, arXiv:2403.07175",
    ),
    "kn": (
        "The columns of the few MLP neurons that hold the old answer, found by integrated gradients: the old answer's "
        "embedding is taken away and the new one's added.",
        "Dai et al. 2022, Knowledge Neurons in Pretrained Transformers, arXiv:2104.08696",
    ),
    "shift": (
        "One MLP output matrix: the target's embedding at the prompt's key, without any gradient.",
        "Katz et al. 2024, Backward Lens, arXiv:2402.12865",
    ),
    "mend": (
        "The fine-tuning gradient of the last layers, its factors changed by a trained editor (errata train mend).",
        "Mitchell et al. 2022, Fast Model Editing at Scale, arXiv:2110.11309",
    ),
    "sgd": (
        "One step of gradient descent on the chosen layers, all facts together.",
        "Katz et al. 2024, Backward Lens, arXiv:2402.12865",
    ),
    "adam": (
        "One step of Adam on the chosen layers, which moves nearly every weight by the learning rate.",
        "Kingma and Ba 2015, Adam: A Method for Stochastic Optimization, arXiv:1412.6980",
    ),
    "ft": (
        "One layer, fine-tuned on the facts until they are said; a baseline.",
        "the baseline of Meng et al. 2022, arXiv:2202.05262",
    ),
    "ft-l": (
        "As ft, and no weight moves further than a bound.",
        "Zhu et al. 2020, Modifying Memories in Transformer Models, arXiv:2012.00363",
    ),
    "ft-w": (
        "A whole block, fine-tuned with weight decay; a baseline.",
        "the baseline of Meng et al. 2023, arXiv:2210.07229",
    ),
}


def field_meanings(config_type: type[MethodConfig]) -> dict[str, str]:
    """Each field's meaning, in the order of the fields, from the docstrings of the configuration and its bases.

    The nearest class wins. A field that no docstring explains has none.
    """
    names = [field.name for field in dataclasses.fields(config_type)]
    found: dict[str, str] = {}
    for cls in reversed(config_type.__mro__):
        found |= _meanings(inspect.cleandoc(cls.__dict__.get("__doc__") or ""), names)
    return {name: found[name] for name in names if name in found}


def _meanings(doc: str, names: list[str]) -> dict[str, str]:
    """What a docstring says of fields: "name: meaning" up to the next field or the paragraph's end."""
    one = "|".join(names)
    begins = re.compile(rf"(?<![\w.])`?((?:{one})(?:, (?:{one}))*)`?: ")
    found: dict[str, str] = {}
    for paragraph in doc.split("\n\n"):
        text = " ".join(paragraph.split())
        marks = list(begins.finditer(text))
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        for mark, end in zip(marks, ends, strict=False):  # without a mark there is one end too many
            found |= dict.fromkeys(mark[1].split(", "), text[mark.end() : end].strip())
    return found
