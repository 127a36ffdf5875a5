"""Answers whose beginning the model says by itself (the space before a number): methods of one token go on after it."""

from dataclasses import replace

import pytest
import torch
from edit_helpers import FACTS, relative

from errata import edit_facts
from errata.edit.methods.knowledge_neurons.knowledge_neurons import KnowledgeNeuronsConfig
from errata.edit.methods.shift.shift_config import ShiftConfig
from errata.edit.values.first_open import first_open
from errata.edit.values.prompt_rows import rewriting_rows
from errata.models import Place, encode_targets
from reference import knowledge_neurons, shift
from tiny import fresh_model

NUMBERS = [
    replace(FACTS[0], target_new="29", target_true="15", id=""),
    replace(FACTS[1], target_new="3 or 4", target_true=None, id=""),
    replace(FACTS[3], target_new="Rome", id=""),
]


@pytest.fixture
def spaced():
    """A model that says a space after everything; its head has a bias, which settles that."""
    lm = fresh_model("phi")
    ((row, _),) = encode_targets(lm.tokenizer, [(NUMBERS[0].text, "29")])
    assert lm.tokenizer.decode(row.target_ids[0]) == " "
    with torch.no_grad():
        lm.lm_head.bias[row.target_ids[0]] += 10
    return lm


def test_it_is_the_number_of_tokens_that_greedy_decoding_gets_right(spaced):
    rows = rewriting_rows(spaced, NUMBERS, ("",))
    for row, found in zip(rows, first_open(spaced, rows), strict=True):
        right = 0
        while right < len(row.targets) - 1:
            logits = shift.next_logits(spaced, [*row.ids[: row.read[0] + 1], *row.targets[:right]])
            if int(logits.argmax()) != row.targets[right]:
                break
            right += 1
        assert found == right
    assert first_open(spaced, rows)[0] == 1
    assert first_open(spaced, rows)[2] == 0


def test_shift_moves_the_token_after_it(spaced):
    result = edit_facts(spaced, NUMBERS, method="shift", layers=(2,), margin=0.0, value="target", evaluate=False)
    config = ShiftConfig(layers=(2,))
    parts = [torch.outer(*shift.factors(spaced, fact, config)) for fact in NUMBERS]
    assert relative(result.patch.updates[Place(2, "down")].matrix(), config.learning_rate * sum(parts)) < 1e-4
    assert result.report["already_known"] == 0


def test_knowledge_neurons_part_the_answers_after_it(spaced, tmp_path):
    settings = {"layers": (0, 2), "steps": 2, "prefixes": 2, "prefix_tokens": 6}
    result = edit_facts(spaced, NUMBERS, method="kn", evaluate=False, cache=tmp_path, **settings)
    config = KnowledgeNeuronsConfig(**settings)
    expected, neurons = knowledge_neurons.edit(spaced, NUMBERS, config, result.patch.info["prefixes"])
    assert None not in neurons
    assert result.report["already_known"] == 0
    for place, update in result.patch.updates.items():
        assert relative(update.matrix(), expected[place.layer]) < 1e-5
