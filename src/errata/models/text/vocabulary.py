"""Which token ids a model can be given, and which of them an answer may hold."""

from collections.abc import Sequence

from errata.errors import InputError
from errata.models.language_model import LanguageModel

_SHOWN = 3


def token_reason(lm: LanguageModel, ids: Sequence[int], target_ids: Sequence[int]) -> str:
    """Why a prompt with its target cannot be used with this model; empty where it can.

    The one check of edits, evaluation, tracing and the lens: all tokens have an embedding, the target is plain text.
    """
    return beyond_reason(lm, ids) or _special_reason(lm, target_ids)


def check_ids(lm: LanguageModel, ids: Sequence[int]) -> None:
    """Raise InputError where a token has no row in the embedding."""
    if reason := beyond_reason(lm, ids):
        raise InputError(f"{reason[0].upper()}{reason[1:]}.")


def beyond_reason(lm: LanguageModel, ids: Sequence[int]) -> str:
    """Which of these tokens the model has no embedding for, and what to do; empty where it has all."""
    if not lm.tokens_beyond:
        return ""
    beyond = sorted({i for i in ids if lm.num_embeddings <= i < len(lm.tokenizer)})
    if not beyond:
        return ""
    return (
        f"the text holds {_names(lm, beyond)}, which {lm.name} has no embedding for: its tokenizer got new tokens, the "
        f"model has {lm.num_embeddings:,} rows; call model.resize_token_embeddings(len(tokenizer)) and train the new "
        "ones"
    )


def _special_reason(lm: LanguageModel, target_ids: Sequence[int]) -> str:
    special = sorted(set(lm.tokenizer.all_special_ids) & set(target_ids))
    if special == [lm.tokenizer.unk_token_id]:
        return (
            f"the target holds what the tokenizer does not know, and reads as the special token {_names(lm, special)}; "
            "write it otherwise"
        )
    return f"the target holds the special token {_names(lm, special)}; a target is plain text" if special else ""


def _names(lm: LanguageModel, ids: Sequence[int]) -> str:
    return ", ".join(repr(token) for token in lm.tokenizer.convert_ids_to_tokens(list(ids[:_SHOWN])))
