"""Corrupted subjects: noise on the embeddings of a subject's tokens, another subject's, or none at all."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from errata.core.words import counted
from errata.errors import ConfigError, InputError
from errata.models import LanguageModel, token_embeddings
from errata.tracing.config import TraceConfig
from errata.tracing.prompts import Traced, with_subject

# Bounds the memory of many subjects' embeddings.
_TOKENS_AT_ONCE = 4096


def subject_std(lm: LanguageModel, prompts: Sequence[Traced]) -> float:
    """Standard deviation over all numbers of the embeddings of all subjects' tokens (Meng et al. 2022), in float64.

    A token counts as often as it occurs, as in the published code.
    """
    ids = torch.tensor([i for one in prompts for i in one.ids[one.first : one.last + 1]], device=lm.embed_device)
    total = square = 0.0
    count = 0
    for part in ids.split(_TOKENS_AT_ONCE):
        values = token_embeddings(lm, part).double()
        total, square, count = total + float(values.sum()), square + float((values**2).sum()), count + values.numel()
    return math.sqrt(max(0.0, (square - total**2 / count) / max(1, count - 1)))


def corrupted_subject(
    lm: LanguageModel, one: Traced, config: TraceConfig, std: float, others: Sequence[str] = ()
) -> Float[Tensor, "sample token d_embed"]:
    """Embeddings of the subject's tokens in each corrupted run, in float32; the seed alone decides the noise.

    "gaussian", "uniform": `samples` draws of standard deviation noise · std, added.  "zero": one run of zeros.  "swap":
    one run for each of `others` that takes the subject's place token by token, at most `samples`, drawn by the seed.
    Raises InputError where there is no such other subject, ConfigError for another corruption.
    """
    span = torch.tensor(one.ids[one.first : one.last + 1], device=lm.embed_device)
    clean = token_embeddings(lm, span).float()
    if config.corruption == "zero":
        return torch.zeros_like(clean)[None]
    if config.corruption == "swap":
        return _swapped(lm, one, config, others)
    # On the CPU: the same numbers on every device.
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.samples, *clean.shape)
    if config.corruption == "gaussian":
        unit = torch.randn(shape, generator=generator)
    elif config.corruption == "uniform":
        unit = (2 * torch.rand(shape, generator=generator) - 1) * math.sqrt(3)
    else:
        raise ConfigError(f"corruption={config.corruption!r} is unknown.")
    return clean + config.noise * std * unit.to(clean)


def _swapped(
    lm: LanguageModel, one: Traced, config: TraceConfig, others: Sequence[str]
) -> Float[Tensor, "sample token d_embed"]:
    distinct = [other for other in dict.fromkeys(others) if other != one.subject]
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(config.seed)).tolist()
    found: list[tuple[int, ...]] = []
    for i in order:
        span = with_subject(lm, one, distinct[i])
        if span is not None and span not in found:
            found.append(span)
        if len(found) == config.samples:
            break
    if not found:
        tokens = one.last - one.first + 1
        raise InputError(
            f"No other subject can take the place of {one.subject!r} ({counted(tokens, 'token')}) in "
            f"{one.text!r} token by token; of {len(distinct):,} none does. Give one of as many tokens, or choose "
            "another corruption."
        )
    return token_embeddings(lm, torch.tensor(found, device=lm.embed_device)).float()
