"""Ask a model: its continuation and likeliest next tokens, before and after a patch."""

from collections.abc import Sequence
from dataclasses import dataclass

from errata.facts.checks import check_prompt
from errata.models import LanguageModel, chat_prompt, has_chat, takes_model
from errata.models.run.generate import continue_texts, end_ids, next_tokens
from errata.patches import Patch


@dataclass(frozen=True)
class Answer:
    """What one model says to one prompt; `next_tokens` are (text, probability), likeliest first.

    `hint`: what to try where the answer is none, else empty.
    """

    prompt: str
    continuation: str
    next_tokens: tuple[tuple[str, float], ...]
    hint: str = ""


@takes_model
def ask(
    lm: LanguageModel,
    prompts: str | Sequence[str],
    *,
    patch: Patch | None = None,
    chat: bool = False,
    new_tokens: int = 20,
    top: int = 5,
) -> list[Answer]:
    """Greedy continuations and next tokens of `prompts`, with `patch` on the model if one is given.

    With `chat` each prompt is a user's message, put through the model's chat template, and the answer is the reply;
    else prompts are read as they are. Raises InputError for a prompt that is empty or no text, ModelError for a chat
    with a model that has no template.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    for text in texts:
        check_prompt(text)
    if patch is not None:
        with patch.applied(lm):
            return ask(lm, texts, chat=chat, new_tokens=new_tokens, top=top)
    read = [chat_prompt(lm, text).text for text in texts] if chat else texts
    continuations = continue_texts(lm, read, new_tokens=new_tokens)
    nexts = next_tokens(lm, read, top=top)
    hint = "" if chat or not has_chat(lm) else f"{lm.name} is a chat model: try --chat (in Python chat=True)."
    ends = end_ids(lm)
    return [
        Answer(
            text,
            continuation,
            tuple((token, probability) for token, _, probability in best),
            f"The answer to {text!r} ends at once. {hint}" if hint and best[0][1] in ends else "",
        )
        for text, continuation, best in zip(texts, continuations, nexts, strict=True)
    ]
