"""What the gradient is of: the losses a lens can be asked for, each as a prompt ready to run and a score of its logits.

A loss reads the logits at some positions of one prompt and gives one number in nats (or whatever a caller's own
function gives). Positions are 0-based, unpadded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import InputError
from errata.facts import PromptTarget
from errata.facts.checks import check_prompt, text_reasons
from errata.models import (
    Encoding,
    LanguageModel,
    TargetRow,
    chat_prompt,
    encode,
    encode_targets,
    pad_right,
    reply,
    run_layers,
    token_reason,
)

LOSSES = ("first", "target", "all", "logit-difference", "kl")
Score = Callable[[Float[Tensor, "pos vocab"]], Float[Tensor, ""]]


@dataclass(frozen=True)
class Example:
    """One prompt ready to run: `ids` go in, `score` sees the logits at positions `read` and gives the loss.

    prompt_length counts the prompt's own tokens; target_ids may go on behind them (teacher forcing). encoding is of
    `text`, the prompt with its target. merged: the target changes the prompt's last token, and begins with it.
    """

    text: str
    prompt: str
    ids: tuple[int, ...]
    encoding: Encoding
    prompt_length: int
    target_ids: tuple[int, ...]
    read: tuple[int, ...]
    score: Score
    loss_name: str
    merged: bool = False
    message_end: int | None = None

    @property
    def searched(self) -> str:
        """The part of the prompt that a subject is looked for in: what follows a chat's message is the template's."""
        return self.prompt[: self.message_end]


def prepare(
    lm: LanguageModel,
    prompt: str,
    target: str | None,
    loss: str | Score = "first",
    *,
    against: str | None = None,
    reference: str | None = None,
    chat: bool = False,
) -> Example:
    """The example of `prompt` under `loss`. Raises InputError for anything that cannot be run or scored.

    "first": NLL of the target's first token at the last prompt position (the paper's).  "target": NLL of all target
    tokens, teacher-forced, summed.  "all": NLL of every token of the text but the first, summed; a target is part of
    the text.  "logit-difference": logit of `against`'s first token (default: the model's own answer) − that of the
    target.  "kl": KL(p of the `reference` prompt ‖ p) at the last position.  A function: of all logits [pos, vocab].
    With `chat` the prompts are a user's messages, and target and `against` begin the reply.
    """
    check_prompt(prompt)
    if isinstance(loss, str) and loss not in LOSSES:
        raise InputError(f"loss={loss!r} is no loss; choose {', '.join(LOSSES)}, or give a function of the logits.")
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", "function")
    join, message_end = None, None
    if chat:
        asked = chat_prompt(lm, prompt)
        prompt, join, message_end = asked.text, asked.join, asked.message[1]
        reference = None if reference is None else chat_prompt(lm, reference).text
        target, against = (reply(one) if isinstance(one, str) else one for one in (target, against))
    text, encoding, row = _tokens(lm, prompt, target, join)
    length, target_ids = row.start, row.target_ids
    if target is None and loss in ("first", "target", "logit-difference"):
        raise InputError(f"loss={name!r} needs a target: the text that the model should give after the prompt.")
    run = _ids_run(lm, text, encoding.ids, row, loss)
    if not isinstance(loss, str):
        read, score = tuple(range(len(run))), loss
    elif loss == "all":
        read, score = tuple(range(len(run) - 1)), _nll(encoding.ids[1:])
    elif loss == "kl":
        read, score = (length - 1,), _kl(lm, reference)
    elif loss == "logit-difference":
        read, score = (length - 1,), _difference(lm, prompt, run, target_ids[0], against, join)
    else:
        wanted = target_ids if loss == "target" else target_ids[:1]
        read, score = tuple(range(length - 1, length - 1 + len(wanted))), _nll(wanted)
    return Example(
        text, prompt, run, encoding, length, target_ids, read, score, name, merged=row.merged, message_end=message_end
    )


def _ids_run(lm: LanguageModel, text: str, ids: tuple[int, ...], row: TargetRow, loss: str | Score) -> tuple[int, ...]:
    """The tokens that go in: no more of the text than the loss reads the logits of."""
    if loss == "all" and len(ids) < 2:
        raise InputError(f"loss='all' needs at least two tokens; {text!r} is {len(ids)}.")
    forced = bool(row.target_ids) and (loss == "target" or not isinstance(loss, str))
    run = ids if loss == "all" else ids[:-1] if forced else ids[: row.start]
    if len(run) > lm.max_tokens:
        raise InputError(f"The prompt is {len(run):,} tokens long; {lm.name} takes at most {lm.max_tokens:,}.")
    return run


def _tokens(
    lm: LanguageModel, prompt: str, target: str | None, join: str | None = None
) -> tuple[str, Encoding, TargetRow]:
    """The text, its tokens, and where the target begins in them: at their end where there is none."""
    if target is None:
        (encoding,) = encode(lm.tokenizer, [prompt])
        if not encoding.ids:
            raise InputError("The prompt has no token; write the beginning of a text to go on with.")
        return prompt, encoding, TargetRow(encoding.ids, len(encoding.ids))
    if not isinstance(target, str) or not target.strip():
        raise InputError("The target is empty; write the text that the model should give after the prompt.")
    if reasons := text_reasons("the target", target):
        raise InputError(f"{reasons[0][0].upper()}{reasons[0][1:]}.")
    asked = PromptTarget(prompt, target, join)
    ((row, encoding),) = encode_targets(lm.tokenizer, [asked])
    if reason := token_reason(lm, row.ids, row.target_ids):
        raise InputError(f"{reason[0].upper()}{reason[1:]}.")
    if row.start < 1:
        raise InputError("One token holds the whole prompt and the start of the target; put a word between them.")
    return asked.text, encoding, row


def first_token(lm: LanguageModel, prompt: str, text: str, join: str | None = None) -> int:
    """The first token of `text` where it follows the prompt, joined as a target is."""
    return _tokens(lm, prompt, text, join)[2].target_ids[0]


def _nll(targets: tuple[int, ...]) -> Score:
    def score(logits: Float[Tensor, "pos vocab"]) -> Float[Tensor, ""]:
        wanted = torch.tensor(targets, device=logits.device)
        return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")

    return score


def _kl(lm: LanguageModel, reference: str | None) -> Score:
    if reference is None:
        raise InputError("loss='kl' needs reference=...: the prompt whose next-token distribution is the aim.")
    aim = next_logits(lm, prompt_ids(lm, reference)).log_softmax(0)

    def score(logits: Float[Tensor, "pos vocab"]) -> Float[Tensor, ""]:
        return torch.nn.functional.kl_div(logits[0].log_softmax(0), aim, reduction="sum", log_target=True)

    return score


def _difference(
    lm: LanguageModel, prompt: str, ids: tuple[int, ...], target: int, against: str | None, join: str | None
) -> Score:
    if against is None:
        other, said = int(next_logits(lm, ids)[: lm.num_tokens].argmax()), "the model's own answer"
    else:
        other, said = first_token(lm, prompt, against, join), f"against={against!r}"
    if other == target:
        raise InputError(f"{said} starts with the target's own first token; name another text with against=...")

    def score(logits: Float[Tensor, "pos vocab"]) -> Float[Tensor, ""]:
        return logits[0, other] - logits[0, target]

    return score


def prompt_ids(lm: LanguageModel, prompt: str) -> tuple[int, ...]:
    """Token ids of a prompt that can be run; InputError where it cannot."""
    check_prompt(prompt)
    (encoding,) = encode(lm.tokenizer, [prompt])
    if not 0 < len(encoding.ids) <= lm.max_tokens:
        raise InputError(f"The prompt is {len(encoding.ids):,} tokens long; {lm.name} takes 1 to {lm.max_tokens:,}.")
    return encoding.ids


@torch.no_grad()
def next_logits(lm: LanguageModel, ids: tuple[int, ...]) -> Float[Tensor, " vocab"]:
    """Logits of the token after `ids`, in float32."""
    row, mask = pad_right([ids], device=lm.embed_device)
    hidden = run_layers(lm, row, mask).hidden
    assert hidden is not None
    return lm.logits(hidden[0, -1]).float()
