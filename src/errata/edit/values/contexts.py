"""Context prefixes: short texts that an edit must survive being preceded by."""

from errata.edit.settings.prefix_config import FIXED_PREFIXES, PrefixConfig
from errata.errors import InputError
from errata.models import LanguageModel, encode
from errata.models.run.generate import sample_ids

_STARTS = ("The", "Therefore", "Because", "I", "You")


def context_prefixes(lm: LanguageModel, config: PrefixConfig) -> tuple[str, ...]:
    """The empty prefix, then those that the configuration asks for."""
    if config.prefix_source == "fixed":
        return ("", *FIXED_PREFIXES[: config.prefixes])
    return sample_prefixes(lm, config)


def sample_prefixes(lm: LanguageModel, config: PrefixConfig) -> tuple[str, ...]:
    """The empty prefix, then sampled ones of `config.prefix_lengths` tokens in total, each ending in ". ".

    As in MEMIT's code: continuations of "The", "Therefore", "Because", "I", "You" by top-k sampling. Unlike there,
    seeded, so that a run can be repeated. Raises InputError for a length that leaves nothing to sample.
    """
    lengths = config.prefix_lengths
    starts = [_STARTS[i % len(_STARTS)] for i in range(len(lengths))]
    encodings = encode(lm.tokenizer, starts)
    prefixes = [""]
    for i, encoding in enumerate(encodings):
        ids = _without_appended(encoding.ids, encoding.offsets)
        new = lengths[i] - len([offset for offset in encoding.offsets if offset[1] > offset[0]])
        if new < 1:
            raise InputError(f"A prefix of {lengths[i]} tokens leaves nothing to sample after {starts[i]!r}.")
        # Each prefix on its own, so that its bits do not depend on how many there are.
        (row,) = sample_ids(lm, [ids], new_tokens=new, top_k=config.prefix_top_k, seed=config.seed, first_index=i)
        text = str(lm.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        prefixes.append(" ".join(text.split()) + ". ")
    return tuple(prefixes)


def _without_appended(ids: tuple[int, ...], offsets: tuple[tuple[int, int], ...]) -> list[int]:
    last = max(i for i, (start, end) in enumerate(offsets) if end > start)
    return list(ids[: last + 1])
