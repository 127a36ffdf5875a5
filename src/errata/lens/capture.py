"""From prompts to lenses: one forward and one backward for each batch."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from errata.core.outer import OuterSum
from errata.core.words import counted
from errata.errors import InputError
from errata.facts.checks import check_subject
from errata.lens.backward_lens import BackwardLens
from errata.lens.losses import Example, Score, prepare
from errata.lens.modes import Reader
from errata.models import (
    MERGED,
    Backward,
    LanguageModel,
    Place,
    mlp_matrices,
    pad_right,
    projection,
    run_backward,
    takes_model,
)
from errata.models.run.backward import widened
from errata.models.text.segments import segments


@takes_model
def backward_lens(
    lm: LanguageModel,
    prompt: str,
    target: str | None = None,
    *,
    loss: str | Score = "first",
    mode: str = "paper",
    subject: str | None = None,
    matrices: str | Sequence[str] | None = None,
    attention: bool = False,
    against: str | None = None,
    reference: str | None = None,
    chat: bool = False,
) -> BackwardLens:
    """The gradient of `loss` for one prompt, in factors, with its readings in the vocabulary.

    `loss`: "first", "target", "all", "logit-difference" (with `against`), "kl" (with `reference`), or a function of the
    logits [pos, vocab]; lens/losses.py says what each is.  `matrices`: which to tap (default: the MLP's and attention's
    output; "q", "k", "v" on request).  `subject` marks the segments.  `chat`: the prompt
    is a user's message, the target the beginning of the reply.  Raises InputError, ModelError, NumericsError.
    """
    (lens,) = backward_lenses(
        lm, [prompt], [target], loss=loss, mode=mode, subjects=[subject], matrices=matrices, attention=attention,
        against=against, reference=reference, chat=chat,
    )  # fmt: skip
    return lens


@takes_model
def backward_lenses(
    lm: LanguageModel,
    prompts: Sequence[str],
    targets: Sequence[str | None],
    *,
    loss: str | Score = "first",
    mode: str = "paper",
    subjects: Sequence[str | None] | None = None,
    matrices: str | Sequence[str] | None = None,
    attention: bool = False,
    against: str | None = None,
    reference: str | None = None,
    chat: bool = False,
    batch_size: int = 8,
) -> Iterator[BackwardLens]:
    """A lens for each prompt, `batch_size` of them run together; each is what it would be alone.

    All prompts are checked before the first is run. Raises InputError for one that cannot be run, for lists of unequal
    lengths, and for `batch_size` below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, found {batch_size}.")
    subjects = [None] * len(prompts) if subjects is None else subjects
    if not len(prompts) == len(targets) == len(subjects):
        raise InputError(
            f"{counted(len(prompts), 'prompt')}, {len(targets)} targets and {len(subjects)} subjects do not match."
        )
    Reader(lm, mode)
    default = (*mlp_matrices(lm.family), "o")
    chosen = default if matrices is None else (matrices,) if isinstance(matrices, str) else tuple(matrices)
    places = [projection(lm, layer, name).place for name in {*chosen, "down", "o"} for layer in range(lm.num_layers)]
    examples = [
        prepare(lm, prompt, target, loss, against=against, reference=reference, chat=chat)
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    for prompt, example, subject in zip(prompts, examples, subjects, strict=True):
        if chat and subject is not None:
            check_subject(prompt, subject)
        segments(example.encoding, example.searched, example.prompt_length, len(example.ids), subject)
    return _run(lm, examples, subjects, places, mode, attention, batch_size)


def _run(
    lm: LanguageModel,
    examples: Sequence[Example],
    subjects: Sequence[str | None],
    places: Sequence[Place],
    mode: str,
    attention: bool,
    batch_size: int,
) -> Iterator[BackwardLens]:
    for at in range(0, len(examples), batch_size):
        batch = examples[at : at + batch_size]
        ids, mask = pad_right([one.ids for one in batch], device=lm.embed_device)

        def losses(hidden: Float[Tensor, "batch pos d_head"], batch=batch) -> Float[Tensor, " batch"]:
            scores = []
            for row, one in enumerate(batch):
                logits = widened(lm.logits(hidden[row, list(one.read)]))
                scores.append(_scalar(one.score(logits), one.loss_name))
            return torch.stack(scores)

        run = run_backward(lm, ids, mask, places, losses, attention=attention)
        for row, example in enumerate(batch):
            yield _lens(lm, run, row, example, subjects[at + row], mode)


def _scalar(value: object, name: str) -> Float[Tensor, ""]:
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"The loss function {name} must give one number as a tensor; it gave {given}.")
    if not value.requires_grad:
        raise InputError(f"What the loss function {name} gives does not depend on the logits it was given.")
    return value.reshape(())


@torch.no_grad()
def _lens(lm: LanguageModel, run: Backward, row: int, example: Example, subject: str | None, mode: str) -> BackwardLens:
    n = len(example.ids)
    factors = {place: OuterSum(widened(run.inputs[place][row, :n]), run.vjps[place][row, :n]) for place in run.vjps}
    layers = range(lm.num_layers)
    last = example.prompt_length - 1

    def joined(layer: int, matrix: str, *, attention: bool) -> Float[Tensor, "pos d_model"]:
        return lm.contribution(layer, run.outputs[Place(layer, matrix)][row, :n], attention=attention)

    return BackwardLens(
        lm=lm,
        example=example,
        mode=mode,
        subject=subject,
        loss=float(run.losses[row]),
        answer=int(lm.logits(run.hidden[row, last])[: lm.num_tokens].argmax()),
        factors=factors,
        states=torch.stack([widened(state[row, :n]) for state in run.states]),
        state_vjps=torch.stack([vjp[row, :n] for vjp in run.state_vjps]),
        mlp_out=torch.stack([widened(joined(i, "down", attention=False)) for i in layers]),
        attention_out=torch.stack([widened(joined(i, "o", attention=True)) for i in layers]),
        attention={layer: maps[row, :, :n, :n] for layer, maps in run.attention.items()},
        attention_vjps={layer: maps[row, :, :n, :n] for layer, maps in run.attention_vjps.items()},
        notes=tuple(_notes(lm, run.loss_scale, example, factors)),
    )


def _notes(lm: LanguageModel, loss_scale: float, example: Example, factors: Mapping[Place, OuterSum]) -> list[str]:
    """What a reader of the lens must know about it."""
    notes = []
    if loss_scale != 1:
        notes.append(f"Gradients were taken in {lm.dtype} under a loss scale of {loss_scale:g}, then unscaled.")
    if example.merged:
        notes.append(f"{MERGED[0].upper()}{MERGED[1:]}.")
    if example.loss_name == "first" and not str(lm.tokenizer.decode(list(example.target_ids[:1]))).strip():
        notes.append("The target's first token is only the space before it, and what is read; loss='target' reads all.")
    if lm.family.post_norm:
        notes.append(
            "x and δ of down and o are of the matrices themselves, before the norm behind them; what the MLPs and "
            "attention add to the stream is after it."
        )
    silent = [i for i in range(lm.num_layers) if not bool(factors[Place(i, "down")].vjps.any())]
    if silent:
        shown = ", ".join(map(str, silent))
        notes.append(
            f"No gradient reaches the MLP of layer {shown}: it is exactly zero, or below what {lm.dtype} holds."
        )
    return notes
