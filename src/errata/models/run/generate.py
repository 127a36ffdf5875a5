"""Continuations: sampled or greedy, in left-padded batches in which no row depends on its neighbours.

Every token of every row is drawn by inverting the distribution at a uniform number that depends on the seed, the row's
index and the step alone, so that batch size and order change a draw only where rounding moves a boundary across it.
"""

from collections.abc import Collection, Sequence
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from errata.errors import ConfigError, InputError, NumericsError
from errata.models.language_model import LanguageModel
from errata.models.run.partial import run_layers
from errata.models.text.tokens import encode
from errata.models.text.vocabulary import check_ids


def sample_ids(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    top_k: int | None,
    seed: int,
    batch_size: int = 16,
    first_index: int = 0,
    stop_at_eos: bool = False,
) -> list[list[int]]:
    """Each prompt followed by `new_tokens` more, drawn at temperature 1 from the `top_k` likeliest (None: from all).

    `top_k=1` is greedy. Prompt i draws its own numbers, from (seed, first_index + i), so a long list may be sampled in
    parts. With `stop_at_eos` a row ends with its first end token. Raises InputError (no token in a prompt, an id not in
    the vocabulary, longer than the context), ConfigError (an option outside its domain), NumericsError (NaN in logits).
    """
    _check_options(new_tokens=new_tokens, top_k=1 if top_k is None else top_k, batch_size=batch_size)
    if seed < 0 or first_index < 0:
        raise ConfigError(f"seed={seed} and first_index={first_index} must not be negative.")
    _check_prompts(lm, prompts, new_tokens)
    rows = [list(prompt) for prompt in prompts]
    stops = end_ids(lm) if stop_at_eos else frozenset()
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        indices = range(first_index + start, first_index + start + len(batch))
        uniforms = torch.stack([_uniforms(seed, index, new_tokens) for index in indices])
        _extend_(lm, batch, uniforms, top_k, stops)
    return rows


def continue_texts(
    lm: LanguageModel,
    texts: Sequence[str],
    *,
    new_tokens: int,
    top_k: int | None = 1,
    seed: int = 0,
    batch_size: int = 16,
) -> list[str]:
    """What the model says after each text: the new text alone, without special tokens, up to the end token.

    Greedy unless `top_k` says otherwise. Errors as in `sample_ids`; a text without a token (an empty one, where the
    tokenizer adds no BOS) is an InputError.
    """
    prompts = prompt_ids(lm, texts)
    rows = sample_ids(
        lm, prompts, new_tokens=new_tokens, top_k=top_k, seed=seed, batch_size=batch_size, stop_at_eos=True
    )
    pairs = zip(prompts, rows, strict=True)
    return [appended_text(lm, prompt, row[len(prompt) :], skip_special=True) for prompt, row in pairs]


@torch.no_grad()
def next_tokens(
    lm: LanguageModel, texts: Sequence[str], *, top: int, batch_size: int = 16
) -> list[list[tuple[str, int, float]]]:
    """The `top` likeliest next tokens of each text, likeliest first: text as it would be appended, id, probability."""
    _check_options(top=top, batch_size=batch_size)
    prompts = prompt_ids(lm, texts)
    _check_prompts(lm, prompts, 0)
    found = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        best = torch.softmax(_last_logits(lm, batch), dim=-1).topk(min(top, lm.d_vocab))
        for prompt, ids, probabilities in zip(batch, best.indices.tolist(), best.values.tolist(), strict=True):
            names = [appended_text(lm, prompt, [i], skip_special=False) for i in ids]
            found.append(list(zip(names, ids, probabilities, strict=True)))
    return found


@torch.no_grad()
def _extend_(
    lm: LanguageModel,
    rows: list[list[int]],
    uniforms: Float64[Tensor, "row step"],
    top_k: int | None,
    stops: Collection[int],
) -> None:
    """Append a token to every row at each step; rows that end leave the batch."""
    ids, mask = _pad_left(rows, lm.embed_device)
    growing = list(range(len(rows)))
    prefix, steps = None, uniforms.shape[1]
    for step in range(steps):
        run = run_layers(lm, ids, mask, prefix=prefix, record=step + 1 < steps)
        assert run.hidden is not None
        chosen = _choose(_checked_logits(lm, run.hidden[:, -1]), top_k, uniforms[growing, step])
        for row, token in zip(growing, chosen, strict=True):
            rows[row].append(token)
        kept = [i for i, token in enumerate(chosen) if token not in stops]
        if not kept or run.key_values is None:
            return
        prefix = run.key_values if len(kept) == len(growing) else run.key_values.rows(torch.tensor(kept))
        growing = [growing[i] for i in kept]
        ids = torch.tensor([[chosen[i]] for i in kept], device=lm.embed_device)
        mask = torch.ones_like(ids)


def _choose(logits: Float[Tensor, "row d_vocab"], top_k: int | None, uniforms: Float64[Tensor, " row"]) -> list[int]:
    if top_k == 1:
        return logits.argmax(-1).tolist()
    candidates = None
    if top_k is not None and top_k < logits.shape[-1]:
        # In the order of ids, not of probabilities: two candidates that are nearly equal must not trade places.
        candidates = logits.topk(top_k).indices.sort().values
        logits = logits.gather(-1, candidates)
    # On the CPU: a GPU's cumulative sum is not reproducible, and some accelerators have no float64.
    cumulative = torch.softmax(logits.cpu().double(), dim=-1).cumsum(-1)
    places = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    places = places.clamp_max(cumulative.shape[-1] - 1)
    chosen = places if candidates is None else candidates.cpu().gather(-1, places)
    return chosen[:, 0].tolist()


def _uniforms(seed: int, index: int, count: int) -> Float64[Tensor, " step"]:
    return torch.from_numpy(np.random.default_rng((seed, index)).random(count))


def _last_logits(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "row d_vocab"]:
    hidden = run_layers(lm, *_pad_left(prompts, lm.embed_device)).hidden
    assert hidden is not None
    return _checked_logits(lm, hidden[:, -1])


def _checked_logits(lm: LanguageModel, hidden: Float[Tensor, "row d_head"]) -> Float[Tensor, "row d_vocab"]:
    logits = lm.logits(hidden).float()
    if logits.isnan().any():
        raise NumericsError(
            f"{lm.name} gives NaN instead of next-token logits: its weights are broken (remove the last patch, if one "
            f"is applied), or {lm.dtype} is too narrow for it (load it as float32)."
        )
    return logits


def _pad_left(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def prompt_ids(lm: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts that are to be continued: an end token that the tokenizer appends by itself is cut off."""
    prompts = []
    for encoding in encode(lm.tokenizer, texts):
        covering = [i for i, (start, end) in enumerate(encoding.offsets) if end > start]
        prompts.append(list(encoding.ids[: covering[-1] + 1] if covering else encoding.ids))
    return prompts


def appended_text(lm: LanguageModel, prompt: Sequence[int], new: Sequence[int], *, skip_special: bool) -> str:
    """What `new` adds to the prompt's text; decoded alone it would lose its leading space in some tokenizers."""

    def text(ids: Sequence[int]) -> str:
        decoded = lm.tokenizer.decode(list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
        assert isinstance(decoded, str)
        return decoded

    before, after = text(prompt), text([*prompt, *new])
    return after[len(before) :] if after.startswith(before) else text(new)


def end_ids(lm: LanguageModel) -> frozenset[int]:
    """Every id that ends a text: the tokenizer's, and those of the generation config (chat models have several)."""
    configured = getattr(lm.hf.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(int(i) for i in (*several, lm.tokenizer.eos_token_id) if i is not None)  # type: ignore[arg-type]


def _check_options(**options: int) -> None:
    for name, value in options.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")


def _check_prompts(lm: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"Prompt {number} holds no token; give at least one, such as the BOS token or a word.")
        if len(prompt) + new_tokens > lm.max_tokens:
            raise InputError(
                f"Prompt {number} has {len(prompt):,} tokens, which with {new_tokens:,} new ones is more than the "
                f"{lm.max_tokens:,} of {lm.name}'s context; shorten it or ask for fewer."
            )
    used = set(chain.from_iterable(prompts))
    check_ids(lm, sorted(used))
    if used and (min(used) < 0 or max(used) >= lm.d_vocab):
        raise InputError(f"Token ids {min(used)} to {max(used)} were given; {lm.name} knows 0 to {lm.d_vocab - 1}.")
