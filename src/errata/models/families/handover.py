"""What a model was made into before it was handed over: unwrapped where that is safe, else refused with the way out.

errata reads and writes the plain weights of a plain transformers model, so every one of them is looked at. None of this
is about families: a model that passes may still not match its row (models/families/verify.py).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from errata.errors import ModelError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PLAIN_DTYPES = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
# Objects that hold a model, and where they hold it.
_HOLDERS = {
    "module": "DataParallel and its kin",
    "pretrained_model": "a model with a value head",
    "model": "a pipeline",
}


def handed_over(model: Any, name: str | None) -> tuple["PreTrainedModel", str]:
    """The transformers model behind what a caller gave, and its name. ModelError, UnsupportedModelError."""
    hf = getattr(model, "_orig_mod", model)  # torch.compile(model) shares the weights of the model that it wraps
    parts = ("config", "get_output_embeddings", "get_input_embeddings")
    if not isinstance(hf, nn.Module) or not all(hasattr(hf, part) for part in parts):
        raise ModelError(_no_model(hf))
    name = str(name or getattr(hf.config, "_name_or_path", "") or type(hf).__name__)
    check_parts(hf, name)
    if hf.get_output_embeddings() is None:  # type: ignore[operator]
        raise UnsupportedModelError(
            f"{name} is a {type(hf).__name__}, which has no head that predicts tokens; load it with "
            "transformers.AutoModelForCausalLM."
        )
    return hf, name  # type: ignore[return-value]


def check_parts(hf: nn.Module, name: str) -> None:
    """Raise UnsupportedModelError where a part is not as transformers loads it: a plain module with plain weights."""
    for path, module in hf.named_modules():
        where = f" ({path} is a {type(module).__name__})" if path else ""
        if type(module).__module__.partition(".")[0] == "peft":
            # Their own Linear is called as torch's.
            where = f" ({path} is a {type(module).__module__}.{type(module).__name__})" if path else ""
            raise UnsupportedModelError(
                f"{name} carries PEFT adapters{where}, which are no part of the weights that errata reads and edits. "
                "Merge them into the weights (model.merge_and_unload() of the PeftModel) or load the model without "
                "them, and hand that over."
            )
        if hasattr(module, "_orig_mod"):
            raise UnsupportedModelError(
                f"{name} has parts that torch.compile wrapped{where}; hand over the model as it was "
                "before, and compile it as a whole, which leaves its parts alone."
            )
    check_weights(hf, name)


def check_weights(hf: nn.Module, name: str) -> None:
    """Raise UnsupportedModelError unless every weight is in memory, on one device, as plain floating-point numbers."""
    absent = [path for path, tensor in _tensors(hf) if tensor.device.type == "meta"]
    if absent:
        raise UnsupportedModelError(
            f"{name} is not wholly in memory: {_listed(absent)} on no device, as after offloading (device_map, "
            "cpu_offload, disk_offload), and what is written there is lost. Load it without device_map, or with "
            'device_map="cpu".'
        )
    # A DTensor holds one process's part of a weight.
    devices = sorted({str(getattr(tensor, "device_mesh", tensor.device)) for _, tensor in _tensors(hf)})
    if len(devices) > 1 or any(hasattr(tensor, "device_mesh") for _, tensor in _tensors(hf)):
        raise UnsupportedModelError(
            f"{name} is spread over {', '.join(devices)}; errata runs a model on one device. Load it without "
            'device_map, or with device_map="cpu".'
        )
    packed = [
        f"{path} is {str(weight.dtype).removeprefix('torch.')} in a {type(weight).__name__}"
        for path, weight in hf.named_parameters()
        if not is_plain(weight)
    ]
    if packed:
        raise UnsupportedModelError(packed_message(name, packed[0]))


def packed_message(name: str, found: str = "") -> str:
    """Why quantized weights are refused."""
    return (
        f"{name} has packed, quantized weights{f' ({found})' if found else ''}, which cannot be edited in place. Load "
        "the unquantized checkpoint, or dequantize this one first (GGUF: GgufConfig(dequantize=True); others: "
        "model.dequantize())."
    )


def is_plain(weight: object) -> bool:
    """Whether a weight is an ordinary tensor of floating-point numbers: nothing packed, sharded or quantized."""
    return isinstance(weight, Tensor) and type(weight.data) is Tensor and weight.dtype in _PLAIN_DTYPES


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", rows: int, name: str) -> None:
    """Raise ModelError where a tokenizer's own tokens have no row among the model's `rows` embeddings.

    Tokens that were added to it and never trained may lie beyond (their use is an error, models/run/undisturbed.py).
    """
    if not callable(tokenizer) or not hasattr(tokenizer, "added_tokens_decoder"):
        raise ModelError(
            f"{name} needs its tokenizer, found {tokenizer!r}: give what AutoTokenizer.from_pretrained makes."
        )
    if last_id(tokenizer) < rows:
        return
    added = tokenizer.added_tokens_decoder
    own = max((i for i in tokenizer.get_vocab().values() if i not in added), default=-1)
    used = max(tokenizer("The")["input_ids"], default=-1)
    if max(own, used) >= rows:
        raise ModelError(
            f"The tokenizer knows tokens up to {last_id(tokenizer):,}, {name} has embeddings for {rows:,} only: it is "
            "another model's tokenizer, or got new tokens. Load the model's own, or call "
            "model.resize_token_embeddings(len(tokenizer)) and train the new rows."
        )


def last_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The largest token id that a tokenizer can give."""
    return max(tokenizer.vocab_size - 1, max(tokenizer.added_tokens_decoder, default=-1))


def _tensors(hf: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from hf.named_parameters()
    yield from hf.named_buffers()


def _listed(paths: list[str]) -> str:
    rest = len(paths) - 1
    return f"{paths[0]} and {rest} more weights are" if rest else f"{paths[0]} is"


def way_out(found: Any, call: str) -> str | None:
    """What to hand over instead of an object that only holds a model, as a call; None where it holds none."""
    for attribute, what in _HOLDERS.items():
        if isinstance(getattr(found, attribute, None), nn.Module):
            return f"({what}); hand over the model in it: {call}(it.{attribute}, ...)."
    return None


def _no_model(found: Any) -> str:
    if advice := way_out(found, "errata.wrap"):
        return f"Found a {type(found).__name__} {advice}"
    return (
        f"errata.wrap takes a transformers model and its tokenizer; found a {type(found).__name__}. "
        "A name or a folder is for errata.load."
    )
