"""What is on a model: the stack of patches, read through `patches_on`."""

import torch

from errata.core.updates import WeightUpdate
from errata.models import LanguageModel, Place, weight_of
from errata.patches import Patch, patches_on, provenance
from tiny import fresh_model


def dense_patch(lm: LanguageModel, seed: int) -> Patch:
    place = Place(1, "down")
    update = torch.randn(weight_of(lm, place).shape, generator=torch.Generator().manual_seed(seed))
    return Patch({"method": "test", **provenance(lm), "config": {}}, (), {place: WeightUpdate(dense=update)})


def test_a_model_without_patches_has_an_empty_stack():
    stack = patches_on(fresh_model("llama"))
    assert not stack
    assert (stack.patches, dict(stack.originals), stack.base_digest, stack.digest, stack.ids) == ((), {}, "", "", "")


def test_the_stack_knows_order_digests_and_original_bits():
    lm = fresh_model("llama")
    base, first, second = lm.digest(), dense_patch(lm, 0), dense_patch(lm, 1)
    before = {place: weight_of(lm, place).clone() for place in first.updates}
    first.apply_(lm)
    second.apply_(lm)
    stack = patches_on(lm)
    assert stack.patches == (first, second)
    assert (stack.base_digest, stack.digest, stack.ids) == (base, lm.digest(), f"{first.id}, {second.id}")
    assert stack.find(second) is second
    assert all(torch.equal(stack.originals[place], weight) for place, weight in before.items())
    first.remove_(lm)
    assert patches_on(lm).patches == (second,)
    second.remove_(lm)
    assert not patches_on(lm)
    assert lm.digest() == base
