"""Hooks on a model's modules: the one place that sets them and takes them off again.

A hook sees the tensor that enters its module (the first argument, by whatever name a family passes it) and may give
another in its place, or sees what the module gave and may give something else.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Before:
    """Calls `call(entering)` before `module` runs; what it returns, unless None, enters instead.

    `prepend`: ahead of all hooks that are there, so that they see what enters in truth.
    """

    module: nn.Module
    call: Callable[[Any], Any]
    prepend: bool = False

    def set(self) -> RemovableHandle:
        """Set the hook."""
        return self.module.register_forward_pre_hook(self._hook, with_kwargs=True, prepend=self.prepend)

    def _hook(self, _module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        other = self.call(_entering(arguments, keywords))
        if other is None:
            return None
        if arguments:
            return (other, *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": other}


@dataclass(frozen=True)
class After:
    """Calls `call(entering, output)` once `module` has run; what it returns, unless None, is the output instead."""

    module: nn.Module
    call: Callable[[Any, Any], Any]

    def set(self) -> RemovableHandle:
        """Set the hook."""
        return self.module.register_forward_hook(self._hook, with_kwargs=True)

    def _hook(self, _module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
        return self.call(_entering(arguments, keywords), output)


@contextmanager
def hooked(hooks: Iterable[Before | After]) -> Iterator[None]:
    """Set the hooks, in order, for the length of a `with` block; whatever happens in it, they come off again."""
    with ExitStack() as handles:
        for hook in hooks:
            handles.enter_context(hook.set())
        yield


def by_row(tensor: Float[Tensor, "... d"], batch: int) -> Float[Tensor, "batch pos d"]:
    """What a map read or wrote, by row and position: OPT's MLP sees all positions of a batch in one axis."""
    return tensor.reshape(batch, -1, tensor.shape[-1])


def block_output(output: Any) -> Float[Tensor, "... d_model"]:
    """The hidden states among what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def _entering(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return arguments[0] if arguments else keywords.get("hidden_states")
