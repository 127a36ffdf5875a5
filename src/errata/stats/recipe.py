"""Under which name second moments are kept: a digest of everything that they depend on beyond rounding.

Left out, because they move results by rounding only: the device, the batch size and when the sums were saved.
"""

import json
from typing import TYPE_CHECKING

import torch

from errata.models import LanguageModel
from errata.store import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Raise it when the code changes what is summed: chunks, truncation, paragraphs, sampling.
RECIPE_VERSION = 1

# Fields of a config that say where a model came from or how it is stored, not what it computes.
_INERT_FIELDS = {"transformers_version", "architectures", "dtype", "torch_dtype", "use_cache"}


def stream_digest(lm: LanguageModel, source_recipe: list[object], chunk_tokens: int) -> str:
    """Digest of the stream of keys: weights, configuration, dtype, corpus or samples, chunking, code version."""
    return digest(
        RECIPE_VERSION,
        lm.digest(),
        config_digest(lm),
        str(lm.dtype),
        # TF32 and bf16 products on a GPU are not the same to rounding.
        torch.get_float32_matmul_precision(),
        source_recipe,
        chunk_tokens,
    )


def config_digest(lm: LanguageModel) -> str:
    """Digest of what the weights alone do not tell: activation, rotary base, windows, scales."""
    fields = {name: value for name, value in lm.hf.config.to_dict().items() if not name.startswith("_")}
    kept = {name: value for name, value in fields.items() if name not in _INERT_FIELDS}
    return digest(json.dumps(kept, sort_keys=True, default=str))


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Digest of how a tokenizer splits text and which special tokens it adds; what padding it last did is left out."""
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    if not tokenizer.is_fast:
        options = json.dumps(tokenizer.init_kwargs, sort_keys=True, default=str)
        return digest(type(tokenizer).__name__, dict(tokenizer.get_vocab()), special, options)
    text = tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
    # What stands before is the last call's padding and truncation; parsing megabytes to leave it out takes 0.3 s.
    _, found, lasting = text.partition('"added_tokens":')
    return digest(lasting if found else text, special)
