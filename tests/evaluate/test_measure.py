"""Batched evaluation equals one whole forward for each prompt and target, whatever the batch, on every family."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from errata.errors import ConfigError, InputError, NumericsError
from errata.evaluate import METRICS, Metric, measure, row_scores
from errata.facts import Fact, Neighbour, read_facts
from errata.models import TargetRow, encode_targets, wrap
from reference import evaluation as reference
from tiny import VARIANTS, tiny_hf, tiny_model, tiny_tokenizer


def fact(subject, prompt, new, true, paraphrases, neighbours):
    return Fact(
        subject=subject,
        prompt=prompt,
        target_new=new,
        target_true=true,
        paraphrases=tuple(paraphrases),
        neighbours=tuple(Neighbour(prompt=text, answer=answer) for text, answer in neighbours),
    )


# Targets of one and of many tokens, with and without a common beginning, one the beginning of the other; equal prompts
# in several facts; a script without spaces, whose tokens merge across the end of the prompt.
FACTS = [
    fact("France", "The capital of {} is", "Rome", "Paris", ["{}'s capital is"], [("The capital of Italy is", "Rome")]),
    fact(
        "Eiffel Tower",
        "The {} is located in the city of",
        "New York City",
        "New Orleans",
        ["You will find the {} in", "The {}, tall as it is, stands in"],
        [("The Great Wall is in", "China"), ("The capital of Italy is", "Rome"), ("Toyota builds cars in", "Japan")],
    ),
    fact(
        "Danielle Darrieux",
        "The mother tongue of {} is",
        "English and French",
        "English",
        ["{} speaks"],
        [("I am", "so")],
    ),
    fact("埃菲尔铁塔", "{}位于", "罗马", "巴黎", ["{}在"], [("埃菲尔铁塔位于", "法国巴黎")]),
    fact("Bill Gates", "Microsoft was founded by {} and", "Toyota, in Japan", "I", ["{} and"], [("Bill", "Gates")]),
]


def close(found, expected):
    # The absolute term is what float32 logits of size 10 can give for a target that is nearly certain.
    return found == pytest.approx(expected, rel=1e-4, abs=2e-6)


def prompts(lm, facts, **options):
    return [entry for f in measure(lm, facts, **options).facts for entry in (f.prompt, *f.paraphrases, *f.neighbours)]


def assert_equals_reference(lm, facts, **options):
    for entry in prompts(lm, facts, **options):
        for found in (entry.new, entry.true):
            expected = reference.score(lm, entry.text, found.target)
            assert close(found.nll, expected.x)
            assert close(found.log_prob, expected.log_prob)
            assert (found.right, found.tokens) == (sum(expected.right), len(expected.right))
        assert entry.first == reference.score(lm, entry.text, entry.new.target).first


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_whole_forwards(variant):
    assert_equals_reference(tiny_model(variant), FACTS)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bloom", "gemma3_text"])
@pytest.mark.parametrize("bos", [False, True])
def test_batch_and_order_change_nothing(variant, bos):
    lm = tiny_model(variant, bos=bos)
    assert_equals_reference(lm, FACTS, batch_tokens=1)
    whole = prompts(lm, FACTS)
    for batch_tokens in (1, 40):
        for found, expected in zip(prompts(lm, FACTS, batch_tokens=batch_tokens), whole, strict=True):
            assert (found.text, found.new.target) == (expected.text, expected.new.target)
            assert close(found.new.nll, expected.new.nll)
            assert close(found.true.nll, expected.true.nll)
    turned = measure(lm, FACTS[::-1]).facts[::-1]
    assert [f.id for f in turned] == [f.id for f in FACTS]
    for found, expected in zip(turned, measure(lm, FACTS).facts, strict=True):
        assert close(found.prompt.new.nll, expected.prompt.new.nll)
        assert close(found.neighbours[0].true.nll, expected.neighbours[0].true.nll)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bloom"])
def test_targets_of_one_prompt_agree_on_its_first_choice(variant):
    """Also where one of them goes on behind what they share, and whichever of them is asked."""
    lm = tiny_model(variant)
    prompt = "The Eiffel Tower is located in the city of"
    targets = ["New York City", "New Orleans", "Rome", "Paris", "English and French"]
    rows = [row for row, _ in encode_targets(lm.tokenizer, [(prompt, target) for target in targets])]
    assert len({row.ids[: row.start] for row in rows}) == 1
    assert any(lm.tokenizer.decode(row.target_ids[0]) == " " for row in rows), "one begins with a space alone"
    for chosen in (rows, rows[:2], rows[:1], rows[::-1]):
        (found,) = row_scores.score_rows(lm, [chosen], batch_tokens=100, advance=lambda _: None)
        assert {result.first for result in found} == {reference.score(lm, prompt, "Rome").first}


def test_metrics_by_key():
    found = measure(tiny_model("gpt2"), FACTS)
    metrics = found.metrics()
    assert metrics["es"] == found.summary.es
    assert metrics["zsre_specificity"] == found.zsre.specificity
    assert metrics["score"] == Metric(found.summary.score, None, 5)
    assert set(metrics) == {info.key for info in METRICS if info.group in ("counterfact", "zsre")}


def test_metrics_equal_their_definitions():
    lm = tiny_model("gpt2")
    found, expected = measure(lm, FACTS).to_json(), reference.metrics(lm, FACTS)
    zsre = ("efficacy", "paraphrase", "specificity")
    for name, value in expected.items():
        assert (found["zsre"] if name in zsre else found)[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_what_a_fact_lacks():
    lm = tiny_model("llama")
    bare = [replace(FACTS[0], target_true=None, paraphrases=(), neighbours=(Neighbour(prompt="Toyota is in"),))]
    found = measure(lm, bare)
    assert found.facts[0].prompt.true is None
    assert found.facts[0].neighbours[0].true is None
    assert found.summary.ns.count == found.summary.es.count == found.summary.ps.count == 0
    # An answer that is not given is the fact's own, as in CounterFact.
    own = replace(FACTS[0], neighbours=(Neighbour(prompt="Toyota is in"),))
    assert measure(lm, [own]).facts[0].neighbours[0].true.target == "Paris"
    assert measure(lm, []).to_json()["score"] is None


def test_json_holds_everything():
    found = json.loads(json.dumps(measure(tiny_model("llama"), FACTS).to_json(), allow_nan=False))
    assert {"es", "ps", "ns", "em", "pm", "nm", "score", "accuracy", "interval_95", "counts", "zsre"} < set(found)
    assert [entry["id"] for entry in found["facts"]] == [f.id for f in FACTS]
    assert len(found["facts"][1]["neighbours"]) == 3


def test_each_prompt_runs_once_and_single_tokens_need_no_second_pass(monkeypatch):
    """Counts positions put through the model and through the head."""
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="own")
    run, positions, heads = row_scores.run_layers, [], []

    def counted(lm, inputs, mask, **options):
        positions.append(int(mask.sum()))
        return run(lm, inputs, mask, **options)

    monkeypatch.setattr(row_scores, "run_layers", counted)
    lm.lm_head.register_forward_hook(lambda _module, arguments, _output: heads.append(arguments[0].shape[0]))
    one = Fact(subject="France", prompt="The capital of {} is", target_new="Rome", target_true="Paris")
    rows = [row for row, _ in encode_targets(lm.tokenizer, [(one.text, "Rome"), (one.text, "Paris")])]
    assert [len(row.target_ids) for row in rows] == [1, 1]
    again = Fact(subject="capital", prompt="The {} of France is", target_new="Rome", target_true="Paris")
    measure(lm, [one, again])
    assert (positions, heads) == ([rows[0].start], [1])

    positions.clear(), heads.clear()
    longer = replace(one, target_new="Rome and Italy")
    ((row, _),) = encode_targets(lm.tokenizer, [(longer.text, "Rome and Italy")])
    measure(lm, [longer])
    assert (positions, heads) == ([row.start, len(row.target_ids) - 1], [1, len(row.target_ids) - 1])


@pytest.mark.parametrize("batch_tokens", [1, 30, 200])
def test_batches_stay_within_their_tokens(monkeypatch, batch_tokens):
    run, areas = row_scores.run_layers, []

    def seen(lm, inputs, mask, *, prefix=None, **options):
        width = inputs.shape[1] + (prefix.mask.shape[1] if prefix else 0)
        areas.append((inputs.shape[0], inputs.shape[0] * width))
        return run(lm, inputs, mask, prefix=prefix, **options)

    monkeypatch.setattr(row_scores, "run_layers", seen)
    measure(tiny_model("llama"), FACTS * 2, batch_tokens=batch_tokens)
    assert all(area <= batch_tokens or rows == 1 for rows, area in areas)
    assert batch_tokens == 1 or max(rows for rows, _ in areas) > 1


def test_logits_come_in_blocks(monkeypatch):
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="own")
    whole = prompts(lm, FACTS)
    heads = []
    lm.lm_head.register_forward_hook(lambda _module, _arguments, output: heads.append(output.shape[0]))
    monkeypatch.setattr(row_scores, "_LOGITS_AT_ONCE", 3 * lm.d_vocab + 1)
    blocks = prompts(lm, FACTS)
    assert max(heads) == 3
    assert all(close(a.new.nll, b.new.nll) and a.new.right == b.new.right for a, b in zip(whole, blocks, strict=True))


def test_rows_of_one_prompt_without_a_common_token():
    """A merge across the end of a short prompt can change its first token."""
    lm = tiny_model("gpt2")
    rows = [TargetRow((5, 6, 7), 1), TargetRow((8, 6), 1), TargetRow((8, 9, 10, 11), 2)]
    ((*found,),) = row_scores.score_rows(lm, [rows], batch_tokens=100, advance=lambda _: None)
    for row, result in zip(rows, found, strict=True):
        logits = torch.log_softmax(lm.hf(torch.tensor([row.ids])).logits[0].double(), -1)
        expected = sum(float(logits[i - 1, row.ids[i]]) for i in range(row.start, len(row.ids)))
        assert close(result.log_prob, expected)


def test_lower_precision_reads_its_logits_in_float32():
    lm = tiny_model("llama", dtype=torch.bfloat16)
    for entry in prompts(lm, FACTS, batch_tokens=1):
        expected = reference.score(lm, entry.text, entry.new.target)
        assert entry.new.nll == pytest.approx(expected.x, rel=2e-2)


def test_a_target_that_is_nearly_certain_keeps_its_digits():
    """log p ≈ −1e-5 must not drown in the rounding of logits of size 20."""
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="own")
    with torch.no_grad():
        lm.lm_head.weight.mul_(30)
    row = next(iter(encode_targets(lm.tokenizer, [("The tower is", "tall")])))[0]
    logits = lm.hf(torch.tensor([row.ids])).logits[0, row.start - 1].double()
    likely = int(logits.argmax())
    ((found,),) = row_scores.score_rows(
        lm, [[TargetRow((*row.ids[: row.start], likely), row.start)]], batch_tokens=64, advance=lambda _: None
    )
    expected = float(torch.log_softmax(logits, -1)[likely])
    assert -0.5 < expected < -1e-12
    assert found.log_prob == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert found.right == 1


@contextmanager
def _limit(lm, tokens):
    before = lm.hf.config.max_position_embeddings
    lm.hf.config.max_position_embeddings = tokens
    try:
        yield
    finally:
        lm.hf.config.max_position_embeddings = before


def test_bad_facts_are_named_before_any_compute(monkeypatch):
    lm = tiny_model("llama")
    monkeypatch.setattr(row_scores, "run_layers", lambda *_, **__: pytest.fail("computed"))
    long = replace(FACTS[0], paraphrases=("France " * 400,), id="long")
    with pytest.raises(
        InputError,
        match=r"\[long\]: error: paraphrase 1 cannot be measured: with its target \d+ tokens long; .* at most 256",
    ):
        measure(lm, [FACTS[1], long])
    with _limit(lm, 12), pytest.raises(InputError, match="correct them or leave them out") as raised:
        measure(lm, FACTS * 8)
    assert str(raised.value).count("\n") == 21
    assert "more" in str(raised.value).splitlines()[-1]
    with pytest.raises(ConfigError, match="batch_tokens is 0"):
        measure(lm, FACTS, batch_tokens=0)


def test_a_target_without_tokens_or_without_a_token_before_it():
    class Dropping:
        """A tokenizer that knows no hangul, and merges a short prompt with what follows."""

        is_fast, bos_token_id, unk_token_id = True, None, None
        vocab_size, added_tokens_decoder, all_special_ids = 10, {}, ()

        def __call__(self, texts, **_):
            ids, offsets = [], []
            for text in texts:
                spans = [(0, 4), *((i, i + 1) for i in range(4, len(text)))] if text[0] == "x" else []
                spans = spans or [(i, i + 1) for i in range(len(text))]
                spans = [(a, b) for a, b in spans if not any("가" <= char <= "힣" for char in text[a:b])]
                ids.append([sum(map(ord, text[a:b])) for a, b in spans])
                offsets.append(spans)
            return {"input_ids": ids, "offset_mapping": offsets}

    lm = replace(tiny_model("llama"), tokenizer=Dropping())
    with pytest.raises(InputError) as raised:
        measure(
            lm,
            [
                Fact(subject="x", prompt="x", target_new="ab", id="short"),
                Fact(subject="Seoul", prompt="Seoul is", target_new="서울", id="dropped"),
                Fact(subject="Rome", prompt="Rome is", target_new="old", id="good"),
            ],
        )
    assert "[short]: error: prompt cannot be measured: no token comes before the target 'ab'" in str(raised.value)
    assert "[dropped]: error: prompt cannot be measured: the tokenizer makes no token of the target '서울'" in str(
        raised.value
    )
    assert "good" not in str(raised.value)


def test_broken_weights_are_an_error():
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="broken")
    with torch.no_grad():
        lm.down_weight(1)[:] = torch.inf
    with pytest.raises(NumericsError, match="broken gives probabilities that are not finite"):
        measure(lm, FACTS)


def test_progress_counts_every_target():
    class Sink:
        total, done = 0, 0

        @contextmanager
        def stage(self, what, total, unit, *, done=0):
            assert (what, unit, done) == ("evaluation", "targets", 0)
            self.total = total
            yield self.advance

        def advance(self, amount):
            self.done += amount

        def note(self, text): ...

    sink = Sink()
    measure(tiny_model("llama"), FACTS, batch_tokens=40, progress=sink)
    pairs = {(e.text, t.target) for e in prompts(tiny_model("llama"), FACTS) for t in (e.new, e.true)}
    assert sink.done == sink.total == len(pairs)


def test_on_the_real_model(smollm2):
    """Facts written here; runs wherever the embedded model is installed."""
    assert_equals_reference(smollm2, FACTS)
    # It knows these: the metrics must say so.
    neighbours = [("The capital of Italy is", "Rome")]
    known = fact("France", "The capital of {} is", "Rome", "Paris", ["The capital city of {} is"], neighbours)
    assert measure(smollm2, [known]).summary.es.value == 0
    swapped = replace(known, target_new="Paris", target_true="Rome")
    found = measure(smollm2, [swapped])
    assert found.summary.es.value == found.summary.ps.value == found.summary.ns.value == found.summary.score == 100
    assert found.facts[0].prompt.new.probability > 0.5


def test_counterfact_on_the_real_model(smollm2, data_dir):
    facts = read_facts(data_dir / "counterfact.json", limit=20).facts
    assert len(facts) == 20
    assert_equals_reference(smollm2, facts)


def test_the_unedited_model_s_counterfact_metrics(smollm2, data_dir):
    """Against another program's count (prompt and target joined and tokenized apart): 15, 17 and 33 of 48 records."""
    found = measure(smollm2, read_facts(data_dir / "counterfact.json", limit=48).facts).summary
    assert [metric.count for metric in (found.es, found.ps, found.ns)] == [48, 48, 48]
    shares = [found.es.value, found.ps.value, found.ns.value]
    assert shares == pytest.approx(
        [100 * n / 48 for n in (15, 17, 33)], abs=100 / 48
    )  # one near tie may fall otherwise
