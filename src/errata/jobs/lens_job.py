"""Lenses as a user asks for them: of the answer that the model itself gives, and of what was traced."""

from jaxtyping import Float
from torch import Tensor

from errata.core.words import visible
from errata.errors import InputError
from errata.lens import BackwardLens, backward_lens
from errata.models import LanguageModel
from errata.models.run.generate import continue_texts, next_tokens
from errata.tracing import Trace


def own_target(lm: LanguageModel, prompt: str) -> tuple[str, float]:
    """What the model itself says next, as a target, and the probability of its first token.

    InputError where that is no text.
    """
    (((text, _, probability),),) = next_tokens(lm, [prompt], top=1)
    if not text.strip():  # a space that is a token of its own: what follows it belongs to the answer
        text = continue_texts(lm, [prompt], new_tokens=3)[0].rstrip()
    if not text.strip() or text.strip() in lm.tokenizer.all_special_tokens:
        raise InputError(f"What {lm.name} says next is {visible(text)}, which is no answer; say with --target what is.")
    return text, probability


def lens_of_trace(lm: LanguageModel, trace: Trace) -> BackwardLens | None:
    """The Backward Lens of a trace's prompt and answer; None where the prompt has other tokens in it."""

    def answer(logits: Float[Tensor, "pos vocab"]) -> Float[Tensor, ""]:
        return -logits[-1].log_softmax(0)[trace.answer_id]

    # Of the token itself: as a text behind the prompt it may be other tokens.
    lens = backward_lens(lm, trace.prompt, loss=answer, subject=trace.subject)
    return lens if lens.example.ids == trace.ids else None
