"""The model as errata runs it, whatever its owner did to it since: no dropout, nothing compiled, known ids only."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from errata.models.language_model import LanguageModel
from errata.models.text.vocabulary import check_ids


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
