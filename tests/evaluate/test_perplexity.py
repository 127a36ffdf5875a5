"""Perplexity against one whole forward a row."""

import math

import pytest
import torch

from errata.errors import InputError
from errata.evaluate import text_states as module
from errata.evaluate.drift import Drift
from errata.evaluate.perplexity import perplexity
from tiny import VARIANTS, fresh_model, tiny_model, tiny_tokenizer

TEXTS = ["The tower is tall.", "Danielle Darrieux speaks French; her mother tongue is French.", "a", "", "Toyota"]


def slow(lm, rows):
    total = count = 0
    for row in rows:
        if len(row) > 1:
            with torch.no_grad():
                log_p = lm.hf(input_ids=torch.tensor([row])).logits[0].double().log_softmax(-1)
            total -= sum(float(log_p[i, row[i + 1]]) for i in range(len(row) - 1))
            count += len(row) - 1
    return math.exp(total / count)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma3_text", "bloom"])
def test_it_is_that_of_one_row_at_a_time(variant, monkeypatch):
    assert variant in VARIANTS
    lm, rows = tiny_model(variant), [tiny_tokenizer()(text)["input_ids"] for text in TEXTS]
    expected = slow(lm, rows)
    assert perplexity(lm, rows) == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(module, "_BATCH_TOKENS", 8)
    assert perplexity(lm, rows[::-1]) == pytest.approx(expected, rel=1e-4)


def test_rows_beyond_the_context_are_cut():
    lm = tiny_model("gpt2")
    row = [5 + i % 200 for i in range(400)]
    assert perplexity(lm, [row]) == pytest.approx(perplexity(lm, [row[:256]]))


def test_it_is_drift_s_own_and_its_logits_are_bounded(monkeypatch):
    lm = fresh_model("llama")
    rows = [tiny_tokenizer()(text)["input_ids"] for text in TEXTS]
    assert perplexity(lm, rows) == pytest.approx(Drift(lm, rows).measure().perplexity.value, rel=1e-14)
    heads, expected = [], slow(lm, rows)
    lm.lm_head.register_forward_hook(lambda _module, _arguments, output: heads.append(output.shape[0]))
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 3 * lm.d_vocab + 1)
    assert perplexity(lm, rows) == pytest.approx(expected, rel=1e-5)
    assert max(heads) == 3


def test_broken_weights_have_no_perplexity():
    lm = fresh_model("llama")
    with torch.no_grad():
        lm.down_weight(1)[:] = torch.inf
    assert math.isnan(perplexity(lm, [[3, 4, 5]]))


@pytest.mark.parametrize("rows", [[], [[]], [[3]]])
def test_nothing_to_predict(rows):
    with pytest.raises(InputError, match="at least two tokens"):
        perplexity(tiny_model("llama"), rows)
