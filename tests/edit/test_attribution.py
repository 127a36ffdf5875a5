"""Integrated gradients against one full forward and backward a step, on every family; completeness; edge cases."""

import pytest
import torch
from edit_helpers import FACTS, relative

from errata.edit.methods.knowledge_neurons.neuron_attribution import Question, attributions
from errata.errors import NumericsError
from errata.models import inputs_replaced, outputs_moved, run_layers
from errata.models.weights.projections import Place
from reference import knowledge_neurons as reference
from tiny import LAYERS, VARIANTS, fresh_model, proportioned_model, tiny_model

PROMPTS = [fact.text for fact in FACTS] + ["a", "Paris"]


def questions_of(lm):
    ids = [tuple(reference.prompt_ids(lm, prompt)) for prompt in PROMPTS]
    return [Question(row, 20 + 31 * i) for i, row in enumerate(ids)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_full_forwards_with_a_replaced_activation(variant):
    """Prompts of unequal lengths together, one of a single token; the first, a middle and the last layer."""
    lm = proportioned_model(variant)
    questions, layers = questions_of(lm), (0, 2, LAYERS - 1)
    found = attributions(lm, questions, layers, steps=3).scores
    for i, question in enumerate(questions):
        for j, layer in enumerate(layers):
            expected = reference.attribution(lm, question.ids, layer, question.answer, 3)
            assert relative(found[i, j], expected) < 2e-4


def test_the_prompts_include_one_of_one_token():
    assert min(len(question.ids) for question in questions_of(tiny_model("llama"))) == 1


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma2", "opt"])
def test_one_prompt_of_one_token_alone(variant):
    lm = tiny_model(variant)
    (found,) = attributions(lm, [Question((7,), 40)], (1,), steps=4).scores
    assert relative(found[0], reference.attribution(lm, [7], 1, 40, 4)) < 2e-4


@pytest.mark.parametrize("variant", ["llama", "gpt2", "falcon", "gpt_neox", "granite", "bloom"])
def test_the_sum_approaches_the_change_of_the_probability(variant):
    """Completeness (Sundararajan et al. 2017): Σ attribution → p(a) − p(0), with an error of about 1/steps.

    Not behind a post-norm, which undoes the scale: there nearly all of the change lies before the first step.
    """
    lm = tiny_model(variant)
    questions, layer = questions_of(lm)[:3], 1
    errors = []
    for steps in (4, 32, 256):
        sums = attributions(lm, questions, (layer,), steps=steps).scores[:, 0].sum(1)
        wanted = []
        for question in questions:
            with torch.no_grad():
                p, full = reference.probability(lm, question.ids, layer, question.answer, None)
                zero, _ = reference.probability(lm, question.ids, layer, question.answer, torch.zeros_like(full))
            wanted.append(float(p - zero))
        errors.append(float((sums - torch.tensor(wanted, dtype=torch.float64)).abs().max() / max(map(abs, wanted))))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_strong_neurons_stay(dtype):
    lm = fresh_model("llama")
    questions = questions_of(lm)[:2]
    exact = attributions(lm, questions, range(LAYERS), steps=8).scores
    lm.hf.to(dtype)
    found = attributions(lm, questions, range(LAYERS), steps=8).scores
    assert relative(found, exact) < 0.15


def test_the_model_is_left_without_hooks_and_gradients():
    lm = fresh_model("llama")  # transformers itself leaves hooks on a model that was asked for its hidden states
    digest = lm.digest()
    attributions(lm, questions_of(lm)[:1], (0,), steps=2)
    assert lm.digest() == digest
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in lm.hf.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in lm.hf.parameters())


def test_broken_weights_are_an_error():
    lm = fresh_model("llama")
    with torch.no_grad():
        lm.down(2).weight[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="not finite"):
        attributions(lm, questions_of(lm)[:1], (0, 1), steps=2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_replacing_what_down_reads_and_moving_what_it_writes_are_one(variant):
    """down(x + d) = down(x) + d·W, at every position, in every family."""
    lm = tiny_model(variant)
    ids = torch.tensor([[5, 9, 30], [7, 7, 8]])
    mask = torch.ones_like(ids)
    run = run_layers(lm, ids, mask, tap_down=[1])
    move = torch.randn(run.down_inputs[1].shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), inputs_replaced(lm, Place(1, "down"), run.down_inputs[1] + move):
        by_input = run_layers(lm, ids, mask).hidden
    with torch.no_grad(), outputs_moved(lm, Place(1, "down"), move @ lm.down_weight(1)):
        by_output = run_layers(lm, ids, mask).hidden
    assert relative(by_output, by_input) < 1e-5
    assert relative(by_input, run.hidden) > 1e-2
