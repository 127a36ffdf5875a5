"""The model as errata runs it, whatever its owner did to it since: no dropout, nothing compiled, known ids only."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from errata.errors import InputError
from errata.models.language_model import LanguageModel


@contextmanager
def undisturbed(lm: LanguageModel, ids: Tensor | None = None) -> Iterator[None]:
    """Everything that runs the model runs it in here: eval mode, and every module's own mode again at the end.

    In train mode dropout would make each run another one. Code that was compiled before hooks were set does not see
    them, so what torch compiled is run as it is written. `ids` are those about to be embedded; InputError for one that
    the embedding has no row for, which only a tokenizer with more tokens than rows can give.
    """
    if ids is not None and lm.tokens_beyond:
        check_ids(lm, ids.flatten().tolist())
    training = [module for module in lm.modules if module.training]
    try:
        for module in training:
            module.training = False
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module in training:
            module.training = True


def check_ids(lm: LanguageModel, ids: list[int]) -> None:
    """Raise InputError where an id has no row in the embedding."""
    if reason := beyond_reason(lm, ids):
        raise InputError(f"{reason[0].upper()}{reason[1:]}.")


def beyond_reason(lm: LanguageModel, ids: list[int]) -> str:
    """Which of these ids the model has no embedding for, and what to do; empty where it has all."""
    beyond = sorted({i for i in ids if i >= lm.num_embeddings})
    if not beyond:
        return ""
    names = ", ".join(repr(token) for token in lm.tokenizer.convert_ids_to_tokens(beyond[:3]))
    return (
        f"the text holds {names}, which {lm.name} has no embedding for: its tokenizer got new tokens, the model has "
        f"{lm.num_embeddings:,} rows; call model.resize_token_embeddings(len(tokenizer)) and train the new rows"
    )
