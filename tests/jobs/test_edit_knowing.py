"""Guessed settings write facts into models of every family that know other ones, and leave those alone."""

import pytest
import torch

from errata import edit_facts
from knowing import corpus, edits, knowing_model, rephrased, said, true_pairs
from reference import memit as reference
from tiny import LAYERS, VARIANTS

FACTS = edits(8)
WISHES = [(fact.text, fact.target_new) for fact in FACTS]
OTHERS = true_pairs(without=frozenset(fact.subject for fact in FACTS))
TOO_LARGE = 3.0


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """What the models were trained on, for the second moments."""
    path = tmp_path_factory.mktemp("world") / "texts.txt"
    path.write_text("\n\n".join(corpus(200, seed=3)))
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_models_know_their_world(variant):
    """Else nothing that follows would mean anything."""
    hf = knowing_model(variant).hf
    assert said(hf, true_pairs()) == 1
    assert said(hf, rephrased(true_pairs())) == 1
    assert said(hf, WISHES) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_are_looked_up_at_the_subject(variant):
    """With another person's state at the name, the model says where that person lives."""
    lm, layer, right = knowing_model(variant), LAYERS - 2, 0
    people = edits(8)
    for one, other in zip(people, people[1:] + people[:1], strict=True):
        ids, subject = reference.find(lm.tokenizer, one.text, *one.subject_span)
        shift = reference.residual_state(lm, other, layer) - reference.residual_state(lm, one, layer)
        moved = reference.Shifted(lm, layer, torch.tensor([subject[-1]]), shift)
        with torch.no_grad():
            said_now = int(lm.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        moved.handle.remove()
        right += said_now == lm.tokenizer(" " + str(other.target_true))["input_ids"][0]
    assert right == 8


def expect_written(variant, method, text, tmp_path):
    """Eight facts by guessed settings: at least 90 % said, the others' answers kept, weights in proportion."""
    lm = knowing_model(variant)
    before = said(lm.hf, OTHERS)
    result = edit_facts(lm, FACTS, method=method, corpus=text, moment_tokens=20_000, cache=tmp_path, evaluate=False)
    with result.patch.applied(lm):
        new, others = said(lm.hf, WISHES), said(lm.hf, OTHERS)
    norms = {layer["layer"]: layer["relative_norm"] for layer in result.report["layers"]}
    found = f"{variant}, {method}: {new:.0%} said, others {before:.0%} → {others:.0%}, ‖ΔW‖/‖W‖ {norms}"
    assert new >= 0.9, found
    # A seventh of the others are about the same eight people.
    assert others >= before - 0.25, found
    assert max(norms.values()) < TOO_LARGE, found


@pytest.mark.parametrize("variant", VARIANTS)
def test_memit_s_guess_writes_eight_facts(variant, text, tmp_path):
    expect_written(variant, "memit", text, tmp_path)


# AlphaEdit's guess does not reach OLMo 2's toy, ROME's not all of OPT's, OLMo 2's and Qwen 3's, EMMET's one layer not
# all behind a norm (docs/log.md); PMET asks for attention at the subject, which is silent here.
@pytest.mark.parametrize(
    ("variant", "method"),
    [
        *[(variant, "rome") for variant in ("llama", "mistral", "gpt2", "granite", "gptj", "gemma2")],
        *[(variant, "alphaedit") for variant in ("llama", "mistral", "gpt2", "granite", "gptj", "gemma2")],
        *[(variant, "emmet") for variant in ("llama", "mistral", "gpt2", "granite", "gptj")],
    ],
)
def test_its_kin_s_guesses_write_eight_facts(variant, method, text, tmp_path):
    expect_written(variant, method, text, tmp_path)
