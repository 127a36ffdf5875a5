"""Load a model by name or path, or wrap one that is in memory, as a verified LanguageModel."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from errata.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from errata.models.families.embedded import EMBEDDED_MODELS, embedded_model
from errata.models.families.handover import check_tokenizer, handed_over, packed_message
from errata.models.families.hub import hub_source
from errata.models.families.rows import FAMILIES
from errata.models.families.verify import verify
from errata.models.language_model import LanguageModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_EXPERT_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def load(
    name_or_path: str | os.PathLike[str] = "smollm2",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> LanguageModel:
    """Load a causal language model for reading and editing.

    `name_or_path`: "smollm2" (the embedded default), a local folder, or a hub id, with safetensors weights. `dtype`: a
    torch dtype or its name. Raises ModelNotFoundError, UnsupportedModelError, or ModelError; `notify` receives a line
    of text before anything slow (converting the embedded model, the first time only).
    """
    name, resolved_dtype, resolved_device = str(name_or_path), _dtype(dtype), _device(device)
    path, where = _found(name, revision, notify)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **where)
        check_config(config, name)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **where)
        hf = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=resolved_dtype, use_safetensors=True, trust_remote_code=False, **where
        )
    except ModelError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, ImportError, hub errors ...
        raise _load_error(name, path, error) from error
    return wrap(hf.to(resolved_device), tokenizer, name=name, revision=revision)  # type: ignore[arg-type]


def wrap(
    hf: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    name: str | None = None,
    revision: str | None = None,
) -> LanguageModel:
    """Wrap a transformers model that is in memory already; it is verified, put in eval mode and its weights frozen.

    Of a model that was compiled as a whole the one behind it is taken. Raises UnsupportedModelError for what cannot be
    edited in place (adapters, packed or offloaded weights), ModelError for a tokenizer of another model.
    """
    hf, name = handed_over(hf, name)
    check_architecture(hf.config, name)
    check_tokenizer(tokenizer, hf.get_input_embeddings().weight.shape[0], name)  # type: ignore[union-attr, arg-type]
    hf.eval().requires_grad_(False)
    lm = LanguageModel(hf, tokenizer, FAMILIES[hf.config.model_type], name, revision)
    verify(lm)
    return lm


def check_config(config: "PretrainedConfig", name: str) -> None:
    """Raise UnsupportedModelError for a model that errata cannot edit, from its config alone."""
    check_architecture(config, name)
    # Of a model in memory the weights themselves are looked at: a dequantized one may keep this field.
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(packed_message(name))


def check_architecture(config: "PretrainedConfig", name: str) -> None:
    """Raise UnsupportedModelError for a kind of model that has no single down projection a layer, or no row."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is an encoder-decoder ({config.model_type}); errata edits decoders only.")
    if any((getattr(config, attr, None) or 0) > 1 for attr in _EXPERT_FIELDS):
        raise UnsupportedModelError(
            f"{name} is a mixture of experts ({config.model_type}): its layers have no single down projection. "
            "Use a dense model of the same family."
        )
    if config.model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedModelError(
            f"No family row for model_type={config.model_type!r} ({name}); known: {known}. "
            "Add one in models/families/rows.py."
        )


def config_at_hand(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None, notify: Callable[[str], None] = lambda _: None
) -> "PretrainedConfig":
    """The configuration of a model alone, for what can be checked before weights are loaded. Raises what load does."""
    name = str(name_or_path)
    path, where = _found(name, revision, notify)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **where)
    except Exception as error:
        raise _load_error(name, path, error) from error
    check_config(config, name)
    return config


def _found(name: str, revision: str | None, notify: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The folder or hub id of a model, and what transformers needs beside it."""
    path = str(embedded_model(name, notify=notify)) if name in EMBEDDED_MODELS else _local_or_hub(name)
    if not Path(path).is_dir():
        source = hub_source(path, revision, EMBEDDED_MODELS)
        return source, {"revision": revision} if revision and source == path else {}
    if revision:
        raise ModelError(f"revision={revision!r} is of a hub model; {name!r} is a folder. Leave it out.")
    return path, {}


def _local_or_hub(name: str) -> str:
    path = Path(name).expanduser()
    if name and path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"{name} is a PEFT adapter, not a model. Merge it into its base "
                "(PeftModel.from_pretrained(base, folder).merge_and_unload()), save that, and load it."
            )
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"{name} is a folder without config.json; point to a saved transformers model.")
        if not any(path.glob("*.safetensors")):
            raise ModelNotFoundError(
                f"{name} holds no .safetensors weights. errata never unpickles; save with model.save_pretrained(...)."
            )
        return str(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise ModelNotFoundError(
            f"No model folder at {name!r}. Known names: {', '.join(EMBEDDED_MODELS)}, a local folder, or a hub id."
        )
    return name


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ModelError(f"dtype={dtype!r} is not a floating-point torch dtype; use float32, bfloat16 or float16.")
    return found


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, dtype=torch.float64, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:  # TypeError: no float64, which every solve needs
        raise ModelError(
            f"device={str(device)!r} is not usable here ({str(error).splitlines()[0]}); try 'cpu'."
        ) from error
    return found


def _load_error(name: str, path: str, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if path == name and "/" not in name and not Path(name).exists():
        known = ", ".join(EMBEDDED_MODELS)
        return ModelNotFoundError(
            f"No model {name!r}: not an embedded name ({known}), a folder, nor a reachable hub id. {reason}"
        )
    if not Path(path).is_dir():
        return ModelNotFoundError(f"Cannot load {name!r} from the hub: {reason}")
    return ModelError(f"Cannot load the model in {name!r}: {reason}")
