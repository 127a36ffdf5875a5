"""Restorations and attributions against the plain way: one full run of the unmodified model for each, every family."""

import pytest
import torch

from errata.models.run.interventions import token_embeddings
from errata.tracing import KINDS, SEVERED, TraceConfig, trace
from errata.tracing.corruption import corrupted_subject, subject_std
from errata.tracing.prompts import traced_prompt
from reference import trace as slow
from tiny import VARIANTS, proportioned_model, tiny_model

PROMPT, SUBJECT = "I think that the Eiffel Tower is in the city of", "Eiffel Tower"
OPTIONS = {"samples": 3, "window": 2, "severed": "all", "seed": 7}


def plain_batch(lm, prompt, subject, answer=None, **options):
    """The prepared prompt and the embeddings of its clean and corrupted rows, for the reference."""
    config = TraceConfig(**options)
    one = traced_prompt(lm, prompt, subject, answer)
    rows = corrupted_subject(lm, one, config, subject_std(lm, [one]), ["Great Wall"])
    return one, slow.corrupted_batch(lm, one.ids, one.first, one.last, rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_restoration_equals_a_full_run_of_the_plain_model(variant):
    lm = proportioned_model(variant)
    found = trace(lm, PROMPT, SUBJECT, **OPTIONS)
    one, embedded = plain_batch(lm, PROMPT, SUBJECT, **OPTIONS)
    clean, corrupted = slow.scores(lm, one.ids, embedded, found.answer_id)
    assert found.clean == pytest.approx(clean, abs=4e-6)
    assert found.corrupted == pytest.approx(corrupted, abs=4e-6)
    largest = 0.0
    for kind in (*KINDS, *SEVERED):
        for position in (one.first, one.last + 1, len(one.ids) - 1):
            for layer in (0, 2, 3):
                expected = slow.restored(
                    lm, one.ids, embedded, found.answer_id, kind=kind, layer=layer, position=position, window=2
                )
                assert float(found.restored[kind][layer, position]) == pytest.approx(expected, abs=4e-6), (
                    kind, layer, position,
                )  # fmt: skip
                largest = max(largest, abs(expected - corrupted))
    assert largest > 5e-5  # else nothing would have been compared


@pytest.mark.parametrize("variant", VARIANTS)
def test_attribution_equals_autograd_on_the_plain_model(variant):
    lm = proportioned_model(variant)
    found = trace(lm, PROMPT, SUBJECT, exact=False, **OPTIONS)
    assert found.restored == {}
    one, embedded = plain_batch(lm, PROMPT, SUBJECT, **OPTIONS)
    for kind in KINDS:
        for layer, position in ((0, one.first), (1, one.last), (2, one.last + 1), (3, len(one.ids) - 1)):
            expected = slow.attribution(
                lm, one.ids, embedded, found.answer_id, kind=kind, layer=layer, position=position, window=2
            )
            scale = float(found.attribution[kind].abs().max())
            assert float(found.attribution[kind][layer, position]) == pytest.approx(
                expected, rel=1e-3, abs=1e-4 * scale
            ), (kind, layer, position)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma3_text", "bloom"])
@pytest.mark.parametrize("batch_tokens", [1, 37, 10_000])
def test_the_batch_size_changes_nothing(variant, batch_tokens):
    lm = tiny_model(variant)
    usual = trace(lm, PROMPT, SUBJECT, **OPTIONS)
    other = trace(lm, PROMPT, SUBJECT, batch_tokens=batch_tokens, **OPTIONS)
    for kind in usual.restored:
        torch.testing.assert_close(other.restored[kind], usual.restored[kind], rtol=0, atol=1e-6)
    for kind in usual.attribution:
        torch.testing.assert_close(other.attribution[kind], usual.attribution[kind], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("window", [1, 3, 5, 10])
def test_windows_of_any_width(variant, window):
    lm = tiny_model(variant)
    options = {**OPTIONS, "window": window}
    found = trace(lm, PROMPT, SUBJECT, kinds=["mlp", "attention"], **options)
    one, embedded = plain_batch(lm, PROMPT, SUBJECT, **options)
    for kind in ("mlp", "attention"):
        for layer in range(lm.num_layers):
            expected = slow.restored(
                lm, one.ids, embedded, found.answer_id, kind=kind, layer=layer, position=one.last, window=window
            )
            assert float(found.restored[kind][layer, one.last]) == pytest.approx(expected, abs=1e-6), (kind, layer)


@pytest.mark.parametrize("corruption", ["gaussian", "uniform", "swap", "zero"])
def test_every_corruption_equals_the_plain_way(corruption):
    lm = tiny_model("llama")
    options = {**OPTIONS, "corruption": corruption}
    swap = ["Great Wall", "France", "Bill Gates", "Eiffel Gates", "Tower Eiffel"]
    found = trace(lm, PROMPT, SUBJECT, swap=swap, **options)
    one = traced_prompt(lm, PROMPT, SUBJECT)
    rows = corrupted_subject(lm, one, TraceConfig(**options), found.std, swap)
    embedded = slow.corrupted_batch(lm, one.ids, one.first, one.last, rows)
    assert len(found.samples) == len(rows)
    for position in (one.first, one.last, len(one.ids) - 1):
        expected = slow.restored(
            lm, one.ids, embedded, found.answer_id, kind="hidden", layer=1, position=position, window=2
        )
        assert float(found.restored["hidden"][1, position]) == pytest.approx(expected, abs=1e-6)


def test_a_swapped_subject_is_the_other_prompt_itself():
    """Embeddings are looked up token by token: a run on another subject's is a run of the other prompt."""
    lm = tiny_model("gpt2")
    other = "Tower Eiffel"
    found = trace(lm, PROMPT, SUBJECT, corruption="swap", swap=[other], exact=False)
    ids = torch.tensor([lm.tokenizer(PROMPT.replace(SUBJECT, other))["input_ids"]])
    with torch.no_grad():
        p = lm.hf(ids).logits[0, -1].softmax(0)[found.answer_id]
    assert found.corrupted == pytest.approx(float(p), rel=1e-4)


def test_the_noise_is_what_it_says():
    lm = tiny_model("gemma")
    one = traced_prompt(lm, PROMPT, SUBJECT)
    span = torch.tensor(one.ids[one.first : one.last + 1])
    embedded = token_embeddings(lm, span)
    std = subject_std(lm, [one])
    assert std == pytest.approx(float(embedded.double().std()), rel=1e-9)
    twice = subject_std(lm, [one, one])
    assert twice == pytest.approx(float(torch.cat([embedded, embedded]).double().std()), rel=1e-9)
    for corruption in ("gaussian", "uniform"):
        config = TraceConfig(samples=400, corruption=corruption, noise=2.0)
        noise = corrupted_subject(lm, one, config, std) - embedded
        assert float(noise.std()) == pytest.approx(2.0 * std, rel=0.02)
        assert float(noise.mean().abs()) < 0.02 * std
    assert float(noise.abs().max()) <= 2.0 * std * 3**0.5 * (1 + 1e-5)  # uniform has an end


def test_half_precision_is_close():
    whole, half = (
        trace(tiny_model("llama", dtype=dtype), PROMPT, SUBJECT, "Rome", **OPTIONS)
        for dtype in (torch.float32, torch.bfloat16)
    )
    for kind in KINDS:
        largest = float(whole.effect(kind).abs().max())
        assert float((half.effect(kind) - whole.effect(kind)).abs().max()) < 0.3 * largest


def test_on_the_real_model(smollm2):
    prompt, subject = "The Space Needle is in downtown", "Space Needle"
    options = {"samples": 2, "kinds": ["hidden", "mlp"], "batch_tokens": 512}
    found = trace(smollm2, prompt, subject, **options)
    one, embedded = plain_batch(smollm2, prompt, subject, **{**options, "kinds": ("hidden", "mlp")})
    for kind, layer, position in (("hidden", 3, one.last), ("mlp", 7, one.last), ("mlp severed", 5, one.last)):
        expected = slow.restored(
            smollm2, one.ids, embedded, found.answer_id, kind=kind, layer=layer, position=position, window=10
        )
        assert float(found.restored[kind][layer, position]) == pytest.approx(expected, abs=1e-5)
    expected = slow.attribution(
        smollm2, one.ids, embedded, found.answer_id, kind="mlp", layer=7, position=one.last, window=10
    )
    assert float(found.attribution["mlp"][7, one.last]) == pytest.approx(expected, rel=1e-3, abs=1e-8)
    assert found.total_effect > 0
