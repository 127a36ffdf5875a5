"""Continuations the slow way: each token found by a search through the distribution that a plain forward gives."""

from collections.abc import Sequence

import numpy as np
import torch

from errata.models import LanguageModel


@torch.no_grad()
def drawn(lm: LanguageModel, row: Sequence[int], start: int, top_k: int | None, uniforms: Sequence[float]) -> list[int]:
    """What should stand at `start`, `start` + 1, ... of `row`, each given all that stands before it there.

    Token t is the first whose cumulative probability exceeds `uniforms[t]`. A row that equals this is drawn right:
    its first token is, so its second is, and so on.
    """
    logits = lm.hf(torch.tensor([list(row)]), use_cache=False).logits[0].double().numpy()
    return [_draw(logits[start - 1 + t], top_k, uniforms[t]) for t in range(len(row) - start)]


def _draw(logits: np.ndarray, top_k: int | None, uniform: float) -> int:
    weights = np.zeros_like(logits)
    allowed = np.argsort(-logits)[:top_k]
    weights[allowed] = np.exp(logits[allowed] - logits.max())
    threshold, total = uniform * weights.sum(), 0.0
    for token, weight in enumerate(weights):
        total += float(weight)
        if total > threshold:
            return token
    raise AssertionError("the distribution ends before the uniform number")
