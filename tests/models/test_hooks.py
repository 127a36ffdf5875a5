"""Hooks: what they see, what they replace, and that none stays."""

import pytest
import torch
from torch import nn

from errata.models.run.hooks import After, Before, block_output, by_row, hooked
from tiny import tiny_model


class Block(nn.Module):
    def forward(self, hidden_states, scale=2.0):
        return hidden_states * scale, None


def is_bare(module: nn.Module) -> bool:
    return not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("by_keyword", [False, True])
def test_what_enters_and_what_is_given_may_be_replaced(by_keyword):
    block, x, seen = Block(), torch.ones(3), []
    run = (lambda: block(hidden_states=x, scale=3.0)) if by_keyword else (lambda: block(x, 3.0))
    hooks = [
        Before(block, lambda entering: seen.append(entering.clone())),
        Before(block, lambda entering: entering + 1, prepend=True),
        After(block, lambda entering, output: seen.append((entering.clone(), block_output(output).clone()))),
        After(block, lambda _entering, output: (output[0] - 1, None)),
    ]
    with hooked(hooks):
        assert run()[0].tolist() == [5.0] * 3
    assert run()[0].tolist() == [3.0] * 3
    # A prepended hook comes first: the other saw what it gave.
    assert seen[0].tolist() == [2.0] * 3
    assert (seen[1][0].tolist(), seen[1][1].tolist()) == ([2.0] * 3, [6.0] * 3)


def test_none_stays_whatever_happens():
    block = Block()

    def failing(_entering):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), hooked([After(block, lambda *_: None), Before(block, failing)]):
        block(torch.ones(1))
    assert is_bare(block)

    def hooks():
        yield Before(block, failing)
        raise ValueError("no second one")

    with pytest.raises(ValueError, match="no second"), hooked(hooks()):
        pass
    assert is_bare(block)
    with hooked([Before(block, failing)]):
        assert not is_bare(block)
    assert is_bare(block)


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_by_row(family):
    """OPT's MLP has all positions in one axis, other families a batch: by row both are the same."""
    lm, seen = tiny_model(family), []
    with torch.no_grad(), hooked([Before(lm.down(1), lambda entering: seen.append(by_row(entering, 2)))]):
        lm.hf(torch.arange(10).reshape(2, 5))
        lm.hf(torch.arange(5, 10)[None].expand(2, -1))
    assert seen[0].shape == (2, 5, lm.d_mlp)
    assert torch.allclose(seen[0][1], seen[1][0], rtol=1e-5)
