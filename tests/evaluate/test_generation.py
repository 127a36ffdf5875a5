"""Generations of 100 tokens in all, seeded and independent of the batch; entropy against counts made one by one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import ConfigError, InputError
from errata.evaluate.generation import (
    GenerationConfig,
    check_generation,
    generate,
    generation_entropy,
    generation_prompts,
    words,
)
from errata.facts import Fact
from errata.models.run.generate import sample_ids
from reference import evaluation as reference
from tiny import VARIANTS, tiny_model

FACTS = [
    Fact(
        subject="France",
        prompt="The capital of {} is",
        target_new="Rome",
        generation_prompts=("In {}, one finds", "{}", "You know that the people of {} say that they are"),
    ),
    Fact(subject="Toyota", prompt="{} builds cars in", target_new="Italy"),
    Fact(subject="埃菲尔铁塔", prompt="{}位于", target_new="罗马", generation_prompts=("埃菲尔铁塔是",)),
]


def slow(lm, config, facts=FACTS):
    """Each prompt alone, exactly as many tokens as are missing."""
    found, index = [], 0
    for fact in facts:
        texts = []
        for prompt in generation_prompts(fact):
            ids = lm.tokenizer(prompt)["input_ids"]
            (row,) = sample_ids(
                lm, [ids], new_tokens=config.tokens - len(ids), top_k=config.top_k, seed=config.seed, first_index=index
            )
            assert len(row) == config.tokens
            texts.append(lm.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            index += 1
        found.append(tuple(texts))
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_one_prompt_at_a_time(variant):
    lm = tiny_model(variant)
    config = GenerationConfig(tokens=40, batch_size=4)
    assert generate(lm, FACTS, config) == slow(lm, config)


def test_seed_batch_and_parts():
    lm = tiny_model("llama", bos=True)
    config = GenerationConfig(tokens=30, batch_size=2)
    whole = generate(lm, FACTS, config)
    assert [len(texts) for texts in whole] == [3, 1, 1]
    assert whole[1][0].startswith("Toyota builds cars in")
    assert generate(lm, FACTS, GenerationConfig(tokens=30, batch_size=1)) == whole
    assert generate(lm, FACTS[1:], config, first_index=3) == whole[1:]
    assert generate(lm, FACTS, GenerationConfig(tokens=30, seed=1)) != whole
    assert generate(lm, [], config) == []


def test_a_context_too_short_for_batches():
    lm = tiny_model("gpt2")
    config = GenerationConfig(tokens=200)
    assert generate(lm, FACTS[1:], config) == slow(lm, config, FACTS[1:])
    (text,) = generate(lm, FACTS[1:2], GenerationConfig(tokens=5000))[0]
    assert len(text) > 256 / 2  # as many as there are positions


def test_a_prompt_that_leaves_nothing_to_write_is_named():
    lm = tiny_model("llama")
    long = Fact(subject="Rome", prompt="Rome is " + "very " * 60 + "in", target_new="Peru", id="long")
    (problem,) = check_generation(lm, [*FACTS, long], GenerationConfig(tokens=40))
    assert (problem.fact_id, problem.severity) == ("long", "error")
    assert "it must have 1 to 39" in problem.reason
    assert check_generation(lm, FACTS, GenerationConfig()) == []
    far = Fact(subject="Rome", prompt="Rome is " + "very " * 300 + "in", target_new="Peru")
    with pytest.raises(InputError, match="256 of tiny-llama's context"):
        generate(lm, [far], GenerationConfig())


@pytest.mark.parametrize(("name", "value"), [("tokens", 1), ("top_k", 0), ("seed", -1), ("batch_size", 0)])
def test_options_outside_their_domain(name, value):
    with pytest.raises(ConfigError, match=name):
        GenerationConfig(**{name: value})


def test_words():
    assert words("It's 3,000.5 km, well-known; U.S. (so)!") == [
        "It's", "3,000.5", "km", ",", "well-known", ";", "U", ".", "S", ".", "(", "so", ")", "!",
    ]  # fmt: skip
    assert words("埃菲尔 Tower在") == ["埃", "菲", "尔", "Tower", "在"]
    assert words(" \n") == []


def test_entropy_by_hand():
    # "a b a b a": pairs ab ×2, ba ×2: 1 bit; triples aba ×2, bab ×1: log2(3) − 2/3.
    assert generation_entropy(["a b a b a"]) == pytest.approx((2 / 3 + 4 / 3 * (math.log2(3) - 2 / 3)) / 2)
    assert generation_entropy(["one", ""]) == 0
    assert generation_entropy(["a b a b a", "a"]) == pytest.approx(generation_entropy(["a b a b a"]) / 2)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12), min_size=1, max_size=3))
def test_entropy_equals_counts_one_by_one(texts):
    expected = [(2 / 3 * reference.entropy(t, 2) + 4 / 3 * reference.entropy(t, 3)) / 2 for t in texts]
    assert generation_entropy([" ".join(text) for text in texts]) == pytest.approx(sum(expected) / len(texts))


def test_repetition_lowers_entropy():
    assert generation_entropy(["the sea the sea the sea the sea"]) < generation_entropy(["we went to see the old sea"])


def test_on_the_real_model(smollm2):
    config = GenerationConfig(tokens=24)
    texts = generate(smollm2, FACTS[:2], config)
    assert texts == slow(smollm2, config, FACTS[:2])
    assert all(2 < generation_entropy(found) < 6 for found in texts)
