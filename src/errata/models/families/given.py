"""The model that a caller hands to a function of ours: one of ours, or a transformers model with its tokenizer."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

from errata.models.families.handover import way_out
from errata.models.families.load import wrap
from errata.models.language_model import LanguageModel

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_model(function: _Function) -> _Function:
    """Let the first argument, `lm`, be a transformers model too, with `tokenizer=` beside it: it is wrapped.

    While the function runs, the model is what `wrap` makes of it, in eval mode and with frozen weights; then both are
    as they were, since nobody asked for it to be kept. Anything else than a model raises TypeError.
    """

    @functools.wraps(function)
    def taking(*args: Any, tokenizer: Any = None, **kwargs: Any) -> Any:
        if not args and "lm" not in kwargs:
            return function(**kwargs)
        model, *others = args or (kwargs.pop("lm"),)
        if not isinstance(model, nn.Module):
            return function(given_model(model, function.__name__, tokenizer), *others, **kwargs)
        with _as_it_was(model):
            found = function(given_model(model, function.__name__, tokenizer), *others, **kwargs)
        return _one_by_one(model, found) if isinstance(found, Iterator) else found

    return taking  # type: ignore[return-value]


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Every module's mode and every weight's `requires_grad` again at the end."""
    modes = [(module, module.training) for module in model.modules()]
    asked = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, requires_grad in asked:
            weight.requires_grad = requires_grad


def _one_by_one(model: nn.Module, found: Iterator[Any]) -> Iterator[Any]:
    """The items of a function that makes them when they are asked for: the model is frozen only meanwhile."""
    while True:
        with _as_it_was(model):
            model.eval().requires_grad_(False)
            try:
                one = next(found)
            except StopIteration:
                return
        yield one


def given_model(model: Any, asked_by: str, tokenizer: Any = None) -> LanguageModel:
    """The model as one of ours. TypeError, naming the function `asked_by`, where it is none and cannot be made one."""
    if isinstance(model, LanguageModel):
        if tokenizer is not None:
            raise TypeError(f"{asked_by} was given a tokenizer, but {model.name} has one already; leave it out.")
        return model
    if not (hasattr(model, "config") and hasattr(model, "forward")):
        what = f"the text {model!r}: errata.load({model!r}) loads it" if isinstance(model, str) else _kind(model)
        advice = way_out(model, asked_by)
        raise TypeError(
            f"{asked_by} takes a model from errata.load or errata.wrap(model, tokenizer), not {what}"
            + (f" {advice}" if advice else ".")
        )
    if tokenizer is None:
        raise TypeError(
            f"{asked_by} takes a model from errata.load or errata.wrap, not {_kind(model)} alone, which has no "
            "tokenizer: make it errata.wrap(model, tokenizer) once, or add tokenizer=tokenizer to this call."
        )
    return wrap(model, tokenizer)


def expect_wrapped(model: Any, asked_by: str) -> None:
    """TypeError where a model is none of ours, for what is kept on the model itself: what patches are on it."""
    if not isinstance(model, LanguageModel):
        raise TypeError(
            f"{asked_by} takes a model from errata.load or errata.wrap, which keeps the original bits, not "
            f"{_kind(model)}: lm = errata.wrap(model, tokenizer), then {asked_by}(lm)."
        )


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
