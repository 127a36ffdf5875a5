"""Where a model departs from a target: what methods that move a single token begin with."""

from collections.abc import Sequence

import torch

from errata.edit.values.prompt_rows import PromptRow
from errata.models import LanguageModel, pad_right, run_layers
from errata.models.run.packing import packs

_AT_ONCE = 2048  # tokens of a forward


@torch.no_grad()
def first_open(lm: LanguageModel, rows: Sequence[PromptRow]) -> list[int]:
    """For each row the number of its target's tokens that the model says by itself, one after another, at most all but
    the last.

    An answer may begin with what the model says anyway (the space before a number is a token of its own with many
    tokenizers); what has to be moved is the token after that. Targets of one token need no forward.
    """
    several = [i for i, row in enumerate(rows) if len(row.targets) > 1]
    said_count = [0] * len(rows)
    for members in packs([len(rows[i].ids) for i in several], most_tokens=_AT_ONCE):
        chosen = [several[n] for n in members]
        ids, mask = pad_right([rows[i].ids for i in chosen], device=lm.embed_device)
        hidden = run_layers(lm, ids, mask).hidden
        assert hidden is not None
        reads = torch.tensor([(n, at) for n, i in enumerate(chosen) for at in rows[i].read], device=lm.head_device).T
        said = iter(lm.logits(hidden[reads[0], reads[1]])[:, : lm.num_tokens].argmax(1).tolist())
        for i in chosen:
            right = [next(said) == token for token in rows[i].targets]
            said_count[i] = next((n for n, same in enumerate(right[:-1]) if not same), len(right) - 1)
    return said_count
