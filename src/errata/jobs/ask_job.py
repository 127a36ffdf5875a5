"""Ask a model: its continuation and likeliest next tokens, before and after a patch."""

from collections.abc import Sequence
from dataclasses import dataclass

from errata.facts.checks import check_prompt
from errata.models import LanguageModel, takes_model
from errata.models.generate import continue_texts, next_tokens
from errata.patches import Patch


@dataclass(frozen=True)
class Answer:
    """What one model says to one prompt; `next_tokens` are (text, probability), likeliest first."""

    prompt: str
    continuation: str
    next_tokens: tuple[tuple[str, float], ...]


@takes_model
def ask(
    lm: LanguageModel, prompts: str | Sequence[str], *, patch: Patch | None = None, new_tokens: int = 20, top: int = 5
) -> list[Answer]:
    """Greedy continuations and next tokens of `prompts`, with `patch` on the model if one is given.

    Prompts are read as they are: no chat template is added. Raises InputError for a prompt that is empty or no text.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    for text in texts:
        check_prompt(text)
    if patch is not None:
        with patch.applied(lm):
            return ask(lm, texts, new_tokens=new_tokens, top=top)
    continuations = continue_texts(lm, texts, new_tokens=new_tokens)
    nexts = next_tokens(lm, texts, top=top)
    return [
        Answer(text, continuation, tuple((token, probability) for token, _, probability in best))
        for text, continuation, best in zip(texts, continuations, nexts, strict=True)
    ]
