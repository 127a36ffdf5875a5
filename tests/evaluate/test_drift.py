"""Drift against full logits of both models, on every family; bounded blocks; nothing changed is exactly zero."""

import math
from statistics import fmean, stdev

import pytest
import torch

from errata.errors import InputError, NumericsError
from errata.evaluate import text_states as module
from errata.evaluate.drift import Drift
from errata.evaluate.perplexity import perplexity
from reference import evaluation as reference
from tiny import VARIANTS, fresh_model, tiny_tokenizer

TEXTS = [
    "The tower is tall.",
    "Danielle Darrieux speaks French; her mother tongue is French.",
    "a",
    "",
    "Toyota builds cars in Japan. 埃菲尔铁塔位于巴黎。",
    "The tower is here.",
]
ROWS = [tiny_tokenizer()(text)["input_ids"] for text in TEXTS]


def disturb(lm, size=0.05):
    with torch.no_grad():
        noise = torch.randn(lm.d_mlp, lm.d_model, generator=torch.Generator().manual_seed(1))
        lm.down_weight(1).add_(size * noise.to(lm.dtype))


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_full_logits(variant):
    lm = fresh_model(variant)
    rows = [row for row in ROWS if len(row) > 1]
    drift, before = Drift(lm, ROWS), reference.all_logits(lm, rows)
    disturb(lm)
    documents = reference.drift(rows, before, reference.all_logits(lm, rows))
    found, flat = drift.measure(), [position for document in documents for position in document]
    assert (found.positions, found.documents) == (len(flat), len(rows))
    assert found.perplexity_before.value == pytest.approx(math.exp(fmean(p.before for p in flat)), rel=1e-4)
    assert found.perplexity.value == pytest.approx(math.exp(fmean(p.after for p in flat)), rel=1e-4)
    assert found.kl_drift.value == pytest.approx(fmean(p.kl for p in flat), rel=1e-3, abs=1e-6)
    assert found.tokens_changed.value == pytest.approx(100 * fmean(p.changed for p in flat))
    assert found.kl_drift.value > 1e-5


def test_nothing_changed_is_exactly_zero():
    lm = fresh_model("llama")
    found = Drift(lm, ROWS).measure()
    assert (found.kl_drift.value, found.tokens_changed.value) == (0, 0)
    assert found.perplexity == found.perplexity_before
    assert found.perplexity.value == pytest.approx(perplexity(lm, ROWS), rel=1e-5)


def test_any_number_of_times_and_in_any_batches(monkeypatch):
    lm = fresh_model("gpt2")
    drift = Drift(lm, ROWS)
    original = drift.measure()
    disturb(lm, 0.1)
    far = drift.measure()
    assert drift.measure() == far
    disturb(lm, -0.1)
    assert drift.measure().kl_drift.value < 1e-9 < original.kl_drift.value + far.kl_drift.value
    heads = []
    lm.lm_head.register_forward_hook(lambda _module, _arguments, output: heads.append(output.shape[0]))
    monkeypatch.setattr(module, "_BATCH_TOKENS", 30)
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 3 * lm.d_vocab + 1)
    small = Drift(lm, ROWS)
    disturb(lm, 0.1)
    found = small.measure()
    assert found.kl_drift.value == pytest.approx(far.kl_drift.value, rel=1e-3)
    assert found.kl_drift.interval == pytest.approx(far.kl_drift.interval, rel=1e-3)
    assert max(heads) == 3


def test_the_interval_is_over_documents():
    lm = fresh_model("llama")
    rows = [ROWS[1][:8], ROWS[1][2:10], ROWS[4][:8], ROWS[4][4:12]]  # of one length: the plain interval of their means
    drift, before = Drift(lm, rows), reference.all_logits(lm, rows)
    disturb(lm, 0.1)
    documents = reference.drift(rows, before, reference.all_logits(lm, rows))
    means = [fmean(position.kl for position in document) for document in documents]
    found = drift.measure()
    assert found.kl_drift.interval == pytest.approx(1.96 * stdev(means) / 2, rel=1e-3)
    nll = [fmean(position.after for position in document) for document in documents]
    assert found.perplexity.interval == pytest.approx(found.perplexity.value * 1.96 * stdev(nll) / 2, rel=1e-3)
    alone = Drift(lm, rows[:1]).measure()
    assert (alone.kl_drift.interval, alone.documents) == (None, 1)
    stored = found.to_json()
    assert stored["kl_drift"] == found.kl_drift.value
    assert stored["interval_95"]["kl_drift"] == found.kl_drift.interval
    assert set(found.metrics()) == {"perplexity", "kl_drift", "tokens_changed"}


def test_rows_beyond_the_context_are_cut():
    lm = fresh_model("gpt2")
    row = [5 + i % 200 for i in range(400)]
    assert Drift(lm, [row]).measure() == Drift(lm, [row[:256]]).measure()


@pytest.mark.parametrize("rows", [[], [[]], [[3]]])
def test_nothing_to_predict(rows):
    with pytest.raises(InputError, match="at least two tokens"):
        Drift(fresh_model("llama"), rows)


def test_broken_weights_are_an_error():
    lm = fresh_model("llama")
    drift = Drift(lm, ROWS)
    with torch.no_grad():
        lm.down_weight(1)[:] = torch.inf
    with pytest.raises(NumericsError, match="not finite on held-out text"):
        drift.measure()


def test_lower_precision():
    lm = fresh_model("llama", dtype=torch.bfloat16)
    drift = Drift(lm, ROWS)
    assert drift.measure().kl_drift.value == 0
    disturb(lm, 0.1)
    assert drift.measure().kl_drift.value > 1e-4


def test_on_the_real_model(smollm2):
    rows = [smollm2.tokenizer(text)["input_ids"] for text in TEXTS]
    rows = [row for row in rows if len(row) > 1][:2]
    drift, before = Drift(smollm2, rows), reference.all_logits(smollm2, rows)
    original = smollm2.down_weight(8).clone()
    try:
        smollm2.down_weight(8).mul_(0.9)
        found, after = drift.measure(), reference.all_logits(smollm2, rows)
    finally:
        smollm2.down_weight(8).copy_(original)
    kl = [
        torch.nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True).sum(-1)[:-1]
        for p, q in zip(before, after, strict=True)
    ]
    assert found.kl_drift.value == pytest.approx(float(torch.cat(kl).mean()), rel=1e-3)
    assert drift.measure().kl_drift.value == 0
