"""What forward pass shifting reads in one forward of the facts' prompts, and what it makes of it to write."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from errata.edit.method import EditTask
from errata.edit.methods.shift.shift_config import ShiftConfig
from errata.edit.methods.shift.shift_rates import Writing
from errata.edit.values.first_open import first_open
from errata.edit.values.prompt_rows import rewriting_rows
from errata.models import direction_to_write, pad_right, run_layers
from errata.models.run.packing import packs

_AT_ONCE = 2048  # tokens of a forward


@dataclass(frozen=True)
class PromptReading:
    """What one forward of every bare prompt shows; the prompts end before the token that is to be moved."""

    prompts: list[tuple[int, ...]]
    keys: Float[Tensor, "fact d_mlp"]
    hidden: Float[Tensor, "fact d_head"]
    targets: Int[Tensor, " fact"]


def writing_of(
    task: EditTask, reading: PromptReading, logits: Float[Tensor, "fact token"], chosen: Int[Tensor, " chosen"]
) -> Writing:
    """What the chosen facts write at a rate of 1."""
    config: ShiftConfig = task.config
    (layer,) = config.layers
    keys, targets = reading.keys[chosen].float(), reading.targets[chosen]
    written = task.lm.down(layer)(reading.keys[chosen]).detach()
    head: Tensor = task.lm.lm_head.weight  # type: ignore[union-attr, assignment]
    values = head[targets].float()
    if config.value == "contrastive":
        values = values - logits[chosen].softmax(1) @ head[: logits.shape[1]].float()
    values = direction_to_write(task.lm, layer, written, values.double()).float()
    if config.whitened:
        keys = _whitened(keys, task.second_moments().cholesky(layer).factor)
    return Writing(layer, [reading.prompts[i] for i in chosen.tolist()], targets, keys, values)


@torch.no_grad()
def read_prompts(task: EditTask, layer: int) -> PromptReading:
    """Keys and final states of the bare prompts, cut before the target's first token that the model does not say by
    itself, in packed batches."""
    lm, config = task.lm, task.config
    rows = rewriting_rows(lm, task.facts, ("",))
    begin = first_open(lm, rows)
    prompts = [row.ids[: row.read[n] + 1] for row, n in zip(rows, begin, strict=True)]
    at = [row.edited if config.key == "subject" else len(prompt) - 1 for row, prompt in zip(rows, prompts, strict=True)]
    keys: dict[int, Tensor] = {}
    hidden: dict[int, Tensor] = {}
    with task.progress.stage("forward", len(rows), "facts") as advance:
        for members in packs([len(prompt) for prompt in prompts], most_tokens=_AT_ONCE):
            ids, mask = pad_right([prompts[i] for i in members], device=lm.embed_device)
            run = run_layers(lm, ids, mask, tap_down=[layer])
            assert run.hidden is not None
            for row, i in enumerate(members):
                keys[i] = run.down_inputs[layer][row, at[i]]
                hidden[i] = run.hidden[row, len(prompts[i]) - 1]
            advance(len(members))
    targets = torch.tensor([row.targets[n] for row, n in zip(rows, begin, strict=True)], device=lm.head_device)
    in_order = range(len(rows))
    return PromptReading(
        prompts, torch.stack([keys[i] for i in in_order]), torch.stack([hidden[i] for i in in_order]), targets
    )


def _whitened(keys: Float[Tensor, "fact d_mlp"], factor: Float64[Tensor, "d_mlp d_mlp"]) -> Float[Tensor, "fact d_mlp"]:
    """C⁻¹k · (k·k)/(kᵀC⁻¹k), from C's Cholesky factor: the response of k itself stays what it was. In float64."""
    k = keys.double()
    solved = torch.cholesky_solve(k.T, factor.to(k.device)).T
    return (solved * ((k * k).sum(1) / (k * solved).sum(1))[:, None]).float()
