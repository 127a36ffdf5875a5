"""One standard view of any supported decoder: blocks, MLP projections in one orientation, head, digest."""

from collections.abc import Sized
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata.core.words import counted
from errata.models.families.handover import check_parts, last_id
from errata.models.families.rows import Family
from errata.store.digest import tensor_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(eq=False, repr=False)
class LanguageModel:
    """A loaded causal language model with its tokenizer and family row.

    `hf` stays an unmodified transformers model: call `generate` on it, save it, give it to any other tool.
    Layers are counted from 0. Made by `errata.load`, or by `wrap` from a model that is already in memory.
    """

    hf: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    family: Family
    name: str
    revision: str | None = None
    block_returns_tuple: bool = False
    # What is on the model: patches/stack.py keeps it here, and nothing below looks into it.
    patches: Sized = ()
    _digest: tuple[tuple[Any, ...], str] | None = None

    def __repr__(self) -> str:
        patches = f", with {counted(len(self.patches), 'patch', 'patches')} on it" if self.patches else ""
        config = self.hf.config  # not our row, which may be wrong while a new family is tried
        size = f"{counted(config.num_hidden_layers, 'layer')} of width {config.hidden_size:,}"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"LanguageModel {self.name}: {type(self.hf).__name__}, {size}, {dtype} on {self.device}{patches}"

    @cached_property
    def backbone(self) -> nn.Module:
        return self.hf.get_submodule(self.family.backbone)

    @cached_property
    def modules(self) -> list[nn.Module]:
        """Every module, as of the last `digest(fresh=True)`; walking the tree takes a millisecond."""
        return list(self.hf.modules())

    @property
    def layers(self) -> nn.ModuleList:
        return self.backbone.get_submodule(self.family.layers)  # type: ignore[return-value]

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        return self.hf.device

    def device_of(self, layer: int) -> torch.device:
        """Where a layer's weights are: a model may be spread over devices, and what a layer reads goes there."""
        return self.down(layer).weight.device  # type: ignore[union-attr, return-value]

    @property
    def embed_device(self) -> torch.device:
        """Where token ids go."""
        return self.embed_tokens.weight.device  # type: ignore[union-attr, return-value]

    @property
    def head_device(self) -> torch.device:
        """Where logits are made."""
        return self.lm_head.weight.device  # type: ignore[union-attr, return-value]

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def d_model(self) -> int:
        return self.down_weight(0).shape[1]

    @property
    def d_mlp(self) -> int:
        return self.down_weight(0).shape[0]

    @property
    def d_vocab(self) -> int:
        return self.lm_head.weight.shape[0]  # type: ignore[union-attr, return-value]

    @property
    def num_tokens(self) -> int:
        """How many tokens there are: rows of the head beyond the tokenizer only pad it and stand for nothing."""
        return min(self.d_vocab, len(self.tokenizer))

    @property
    def num_embeddings(self) -> int:
        return self.embed_tokens.weight.shape[0]  # type: ignore[union-attr, return-value]

    @property
    def tokens_beyond(self) -> bool:
        """Whether the tokenizer has added tokens that the model has no embedding for."""
        return last_id(self.tokenizer) >= self.num_embeddings

    @property
    def lm_head(self) -> nn.Module:
        return self.hf.get_output_embeddings()  # type: ignore[return-value]

    @property
    def embed_tokens(self) -> nn.Module:
        return self.backbone.get_submodule(self.family.embed_tokens)

    @cached_property
    def residual_scale(self) -> float:
        """What the MLP's output is multiplied by before it joins the residual stream (1 in nearly every family)."""
        attr = self.family.residual_scale_attr
        return float(getattr(self.hf.config, attr)) if attr else 1.0

    @property
    def max_tokens(self) -> int:
        """The longest input in tokens, or a very large number where the model has no limit."""
        config = self.hf.config
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 30)

    @property
    def start_token(self) -> int | None:
        """The token that starts a text: BOS, or EOS for models that separate texts by it; None without either."""
        tokenizer, config = self.tokenizer, self.hf.config
        candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, config.bos_token_id, config.eos_token_id)
        return next((one for one in candidates if isinstance(one, int) and 0 <= one < self.num_embeddings), None)

    def down(self, layer: int) -> nn.Module:
        """The MLP's output projection: its input is the memory's key, its output the memory's value."""
        return self.layers[layer].get_submodule(self.family.down)

    def down_weight(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        """The down projection's weight as d_mlp × d_model, sharing storage with the model's parameter."""
        weight: Tensor = self.down(layer).weight.detach()  # type: ignore[union-attr, operator]
        return weight if self.family.in_first else weight.T

    def contribution(
        self, layer: int, written: Float[Tensor, "*rows d_model"], *, attention: bool
    ) -> Float[Tensor, "*rows d_model"]:
        """What joins the residual stream of what attention or the MLP wrote: after a post-norm and a multiplier."""
        path = self.family.attention_post_norm if attention else self.family.mlp_post_norm
        normed = self.layers[layer].get_submodule(path)(written) if path else written
        return normed * self.residual_scale

    def logits(self, hidden: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_vocab"]:
        """Next-token logits from the backbone's output (after the final norm), as in the model's own forward."""
        return self.scaled_logits(self.lm_head(hidden.to(self.head_device)))

    def scaled_logits(self, logits: Float[Tensor, "*rows d_vocab"]) -> Float[Tensor, "*rows d_vocab"]:
        """What the family does to the head's output: scale, divisor, soft-cap. It keeps the order of tokens."""
        config, row = self.hf.config, self.family
        if row.logit_scale_attr:
            logits = logits * getattr(config, row.logit_scale_attr)
        if row.logit_divisor_attr:
            logits = logits / getattr(config, row.logit_divisor_attr)
        softcap = getattr(config, row.logit_softcap_attr, None) if row.logit_softcap_attr else None
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    def digest(self, *, fresh: bool = False) -> str:
        """SHA-256 of every weight (name, dtype, shape, bytes), remembered until torch counts a write to a weight.

        A write through `weight.data`, as when PEFT merges an adapter, is not counted: `fresh` looks at every weight
        again, as is done before an edit, and before a patch goes on or comes off; UnsupportedModelError where they
        are no longer plain weights (an adapter was attached).
        """
        if fresh:
            self.__dict__.pop("modules", None)
            check_parts(self.hf, self.name)
        state = {
            name: tensor for name, tensor in self.hf.state_dict().items() if not name.endswith("rotary_emb.inv_freq")
        }
        stamp = tuple(
            (name, str(t.dtype), tuple(t.shape), t.stride(), t.data_ptr(), t._version) for name, t in state.items()
        )
        if fresh or self._digest is None or self._digest[0] != stamp:
            self._digest = (stamp, tensor_digest(_without_ties(state)))
        return self._digest[1]


def _without_ties(state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Each storage once, under its first name: whether a head is tied must not depend on how the model was saved."""
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    unique = []
    for name in sorted(state):
        key = (state[name].data_ptr(), tuple(state[name].shape), state[name].stride())
        if key not in seen:
            seen.add(key)
            unique.append((name, state[name]))
    return unique
