"""What makes a model or a tokenizer the same one: digests of a configuration and of a tokenizer, and all in one.

The digest of the weights is `LanguageModel.digest`.
"""

import json
from typing import TYPE_CHECKING

import torch

from errata.models.language_model import LanguageModel
from errata.store.digest import digest
from errata.store.kept import Kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Fields of a config that say where a model came from or how it is stored, not what it computes.
_INERT_FIELDS = {"transformers_version", "architectures", "dtype", "torch_dtype", "use_cache"}


def fingerprint(lm: LanguageModel, kind: Kind, *, rounding: bool = True) -> str:
    """Digest of all that a kept result depends on beside what was asked of the model; every cache key begins with it.

    That is: the kind's purpose, the version of its code (store/kept.py), and the model's `ingredients`.
    """
    return digest(kind.purpose, kind.version, ingredients(lm, rounding=rounding))


def ingredients(lm: LanguageModel, *, rounding: bool = True) -> dict[str, str]:
    """What a model's numbers depend on, by name: weights (as `lm.digest` knows them), configuration, tokenizer,
    number format and precision of products; with `rounding` also what moves them in their last bits only.
    """
    last_bits = {"device": lm.device.type, "attention": str(getattr(lm.hf.config, "_attn_implementation", None))}
    return {
        "weights": lm.digest(),
        "configuration": config_digest(lm),
        "tokenizer": tokenizer_digest(lm.tokenizer),
        "dtype": str(lm.dtype),
        "products": matmul_precision(),
        **(last_bits if rounding else {}),
    }


def matmul_precision() -> str:
    """How float32 products are computed: TF32 and bf16 products on a GPU are not the same to rounding."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set for a single back end, which the older setting cannot express
        return f"{torch.backends.fp32_precision} {torch.backends.cuda.matmul.fp32_precision}"  # type: ignore[attr-defined]


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
