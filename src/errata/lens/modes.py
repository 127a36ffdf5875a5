"""How a d_model vector is read in the vocabulary: the final norm in five ways, then the unembedding, in float32."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from errata.core.ranking import extremes
from errata.errors import InputError
from errata.models import LanguageModel

MODES = ("paper", "normalised", "eps-free", "linear", "raw")
# Far above any ε: at this root mean square the norm's ε changes no bit of float32.
_LARGE = 1e4
# Logits held at once, in numbers.
_LOGITS = 1 << 22


@dataclass(frozen=True)
class Reader:
    """LL(v) of Katz et al. (2024): logits of `v` through the final norm and the unembedding.

    mode "paper": ln_final with its ε, as published; below ‖v‖ ≈ √(d·ε) it slides towards LL(0).  "normalised": v is
    scaled to unit length first (the paper's appendix H).  "eps-free": ln_final without its ε, so that only the
    direction of v counts.  "linear": the gain folded in, no normalisation, no bias.  "raw": v·D alone.
    """

    lm: LanguageModel
    mode: str = "paper"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode={self.mode!r} is no mode of the lens; choose {', '.join(MODES)}.")

    @property
    def has_bias(self) -> bool:
        """Whether bottom-k(v) may differ from top-k(−v) in this mode: a norm or a head with a bias."""
        head_bias = getattr(self.lm.lm_head, "bias", None)
        return self._as_the_model and (head_bias is not None or bool(self._at_zero.abs().any()))

    @cached_property
    def _norm(self) -> nn.Module:
        return copy.deepcopy(self.lm.backbone.get_submodule(self.lm.family.ln_final)).float()

    @cached_property
    def _at_zero(self) -> Float[Tensor, " d_model"]:
        return self._norm(torch.zeros(1, self.lm.d_model, device=self.lm.head_device))[0]

    @cached_property
    def _centres(self) -> bool:
        """Whether the norm takes the mean off (LayerNorm), seen from what it makes of equal numbers."""
        ones = torch.full((1, self.lm.d_model), _LARGE, device=self.lm.head_device)
        return bool(torch.allclose(self._norm(ones)[0], self._at_zero, atol=1e-3))

    @torch.no_grad()
    def head_input(self, vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """What the unembedding is given for each vector; a zero vector stays what its mode makes of zero."""
        v = vectors.float()
        if self.mode == "raw":
            return v
        if self.mode == "paper":
            return self._norm(v)
        if self.mode == "normalised":
            return self._norm(nn.functional.normalize(v, dim=1, eps=1e-30))
        centred = v - v.mean(1, keepdim=True) if self._centres else v
        size = centred.square().mean(1, keepdim=True).sqrt()
        normed = self._norm(v * (_LARGE / size.clamp_min(1e-30)))
        return normed if self.mode == "eps-free" else (normed - self._at_zero) * size

    @torch.no_grad()
    def scores(self, vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """What orders the tokens: the head's product in float32, before a family's scale and soft-cap.

        Those keep the order of numbers, not of floats: a soft-cap far exceeded makes ties of what lies apart.
        """
        entering = self.head_input(vectors)
        head = self.lm.lm_head
        weight: Tensor = head.weight[: self.lm.num_tokens]  # type: ignore[union-attr, index]
        bias = getattr(head, "bias", None)
        product = _float32_product(entering, weight)
        return product if bias is None or not self._as_the_model else product + bias[: self.lm.num_tokens].float()

    def shown(self, scores: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """Scores as the logits that they are in this mode."""
        return self.lm.scaled_logits(scores) if self._as_the_model else scores

    def logits(self, vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Logits of a few vectors in float32; `blocks` is for many."""
        return self.shown(self.scores(vectors))

    def blocks(self, vectors: Float[Tensor, "row d_model"]) -> Iterator[tuple[slice, Float[Tensor, "row vocab"]]]:
        """Scores of many vectors, some rows at a time: rows × vocabulary is never held whole."""
        size = max(1, _LOGITS // self.lm.num_tokens)
        for at in range(0, len(vectors), size):
            rows = slice(at, min(at + size, len(vectors)))
            yield rows, self.scores(vectors[rows])

    def extreme_ids(
        self, vectors: Float[Tensor, "row d_model"], k: int
    ) -> tuple[Int[Tensor, "row k"], Int[Tensor, "row k"]]:
        """The `k` most and the `k` least probable tokens of each vector, from the extreme inwards."""
        k = min(k, self.lm.num_tokens)
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for _, scores in self.blocks(vectors):
            for side, largest in zip(sides, (True, False), strict=True):
                side.append(extremes(scores, k, largest=largest)[1].cpu())
        empty = torch.zeros(0, k, dtype=torch.long)
        return torch.cat([empty, *sides[0]]), torch.cat([empty, *sides[1]])

    @property
    def _as_the_model(self) -> bool:
        """Whether head biases, scales and soft-caps apply: not in the modes that are linear in v."""
        return self.mode not in ("linear", "raw")


def _float32_product(rows: Float[Tensor, "row d_model"], weight: Tensor) -> Float[Tensor, "row vocab"]:
    if weight.dtype == torch.float32:
        return rows @ weight.T
    # A half-precision product would round to ties; the float32 copy of the whole head may not fit.
    size = max(1, _LOGITS // weight.shape[1])
    return torch.cat([rows @ part.float().T for part in weight.split(size)], dim=1)


def is_null(vectors: Float[Tensor, "row d_model"]) -> Bool[Tensor, " row"]:
    """Vectors that are zero to the last bit: every token ties on them, so they are not read."""
    return ~vectors.bool().any(1)
