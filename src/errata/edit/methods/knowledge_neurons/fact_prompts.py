"""What Knowledge Neurons asks of each fact: its prompts up to the token where the old and the new answer part."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.edit.method import EditTask
from errata.edit.values.first_open import first_open
from errata.edit.values.prompt_rows import rewriting_rows, states_at
from errata.models import encode_targets, pad_right, run_layers, shared_length
from errata.models.run.packing import packs

_AT_ONCE = 2048  # tokens of a forward


@dataclass(frozen=True)
class FactPrompts:
    """The facts' prompts in every context, and by fact the next tokens of the old, the new and the model's answer.

    written: by layer what each MLP writes at the last token of the bare prompts, where a norm follows it.
    """

    prompts: list[list[tuple[int, ...]]]
    old: list[int]
    new: list[int]
    said: list[int]
    written: dict[int, Float[Tensor, "fact d_model"]]


def fact_prompts(task: EditTask) -> FactPrompts:
    """Every fact's question, put at the first token where its new answer and its old one part.

    That is the first token of both, unless they begin alike (with the space before a number, say). Where a fact has no
    true answer, it is the first token of the new one that the model does not say by itself.
    """
    rows = rewriting_rows(task.lm, task.facts, task.prefixes)
    bare = [row for row in rows if row.context == 0]
    begin = first_open(task.lm, bare)
    true = [(i, fact.asked(fact.text, fact.target_true)) for i, fact in enumerate(task.facts) if fact.target_true]
    encoded = encode_targets(task.lm.tokenizer, [asked for _, asked in true])
    answers = {i: target.target_ids for (i, _), (target, _) in zip(true, encoded, strict=True)}
    for i, ids in answers.items():
        begin[i] = min(shared_length(ids, bare[i].targets), len(ids) - 1, len(bare[i].targets) - 1)
    prompts: list[list[tuple[int, ...]]] = [[] for _ in task.facts]
    for row in rows:
        prompts[row.fact].append(row.ids[: row.read[min(begin[row.fact], len(row.read) - 1)] + 1])
    said, written = _own_answers(task, [contexts[0] for contexts in prompts])
    old = [answers[i][begin[i]] if i in answers else own for i, own in enumerate(said)]
    return FactPrompts(prompts, old, [row.targets[n] for row, n in zip(bare, begin, strict=True)], said, written)


@torch.no_grad()
def _own_answers(
    task: EditTask, prompts: Sequence[tuple[int, ...]]
) -> tuple[list[int], dict[int, Float[Tensor, "fact d_model"]]]:
    """What the model says after each prompt; and by layer what its MLP writes there, where a norm follows."""
    lm, said = task.lm, [0] * len(prompts)
    tapped = task.config.layers if lm.family.post_norm else ()
    written = {
        layer: torch.zeros(len(prompts), lm.d_model, dtype=lm.dtype, device=lm.device_of(layer)) for layer in tapped
    }
    with task.progress.stage("forward", len(prompts), "facts") as advance:
        for members in packs([len(prompt) for prompt in prompts], most_tokens=_AT_ONCE):
            ids, mask = pad_right([prompts[i] for i in members], device=lm.embed_device)
            run = run_layers(lm, ids, mask, tap_down=tapped)
            assert run.hidden is not None
            ends = mask.sum(1) - 1
            last = states_at(run.hidden, ends)
            for layer in tapped:
                written[layer][members] = lm.down(layer)(states_at(run.down_inputs[layer], ends))
            for i, token in zip(members, lm.logits(last)[:, : lm.num_tokens].argmax(1).tolist(), strict=True):
                said[i] = token
            advance(len(members))
    return said, written
