"""A preset, settings that somebody measured for models of one shape; and the shapes that methods have presets for."""

from dataclasses import dataclass

from errata.edit.settings.method_config import MethodConfig

# Family, layers, d_model, vocabulary (None: whatever it is): what makes a model the one that was measured.
Shape = tuple[str, int, int, int | None]
SMOLLM2: Shape = ("llama", 30, 576, 49152)
GPT2_MEDIUM: Shape = ("gpt2", 24, 1024, None)
GPT2_LARGE: Shape = ("gpt2", 36, 1280, None)
GPT2_XL: Shape = ("gpt2", 48, 1600, None)
GPT_J: Shape = ("gptj", 28, 4096, None)
GPT_NEOX: Shape = ("gpt_neox", 44, 6144, None)
LLAMA_2: Shape = ("llama", 32, 4096, 32000)
LLAMA_3: Shape = ("llama", 32, 4096, 128256)
LLAMA_32: Shape = ("llama", 28, 3072, 128256)
MISTRAL: Shape = ("mistral", 32, 4096, None)
QWEN2: Shape = ("qwen2", 28, 3584, None)
GEMMA3_270M: Shape = ("gemma3_text", 18, 640, 262144)

# How the embedded model's were measured, on records from 5,000 on: docs/results.md; with a thousand facts
# docs/tuning-smollm2.md.
SINGLE = "measured with 50 single edits"
SINGLE_AND_MANY = f"{SINGLE} and 100 at once"
FEW = "measured with 6 to 8 single edits"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings measured for one model, found by its shape (fine-tunes share it): family, layers, d_model, d_vocab.

    least_facts: from how many facts at once they hold, until another row takes over.
    """

    name: str
    source: str
    family: str
    num_layers: int
    d_model: int
    d_vocab: int | None = None
    least_facts: int = 0
    config: MethodConfig


def preset(name: str, source: str, shape: Shape, config: MethodConfig, *, least_facts: int = 0) -> Preset:
    """A row of a method's presets."""
    family, num_layers, d_model, d_vocab = shape
    return Preset(
        name=name, source=source, family=family, num_layers=num_layers, d_model=d_model, d_vocab=d_vocab,
        least_facts=least_facts, config=config,
    )  # fmt: skip
