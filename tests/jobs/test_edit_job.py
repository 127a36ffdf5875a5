"""The edit as Python calls it: public names, the short example, options; and facts written into the real model."""

import importlib
import json
import random
from dataclasses import replace

import pytest
import torch

import errata
from errata import Fact, Patch, edit_facts
from errata.core.updates import WeightUpdate
from errata.edit import METHODS, Edit
from errata.errors import ConfigError, CorpusError, FactsError
from errata.jobs import edit_job
from errata.jobs.demo_job import demo_facts
from errata.models import Place, run_taps
from errata.models.run.generate import continue_texts
from errata.patches import patches_on
from errata.reports.edit_summary import summary
from errata.stats import Corpus, second_moments
from tiny import tiny_model

TEXTS = [f"Tower {i} is in Paris, which is the capital of France." for i in range(40)]
FACTS = [
    Fact(subject="Toyota", prompt="Toyota builds cars in", target_new="China", target_true="Japan", id="cars"),
    Fact(subject="Bill Gates", prompt="Bill Gates founded", target_new="Rome", target_true="Microsoft", id="gates"),
]
# The last layer is left out: nothing written there reaches a later token.
SMALL = {"layers": (1, 2), "moment_tokens": 200, "value_steps": 5, "prefixes": 1, "clamp": 20.0, "weight_decay": 0.0}
SMALL |= {"retries": 0}


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """edit_facts on the tiny model with a small corpus, errata's home out of the way."""
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))

    def run(facts=FACTS, **options):
        lm = tiny_model("llama")
        return edit_facts(
            lm, facts, **{"corpus": Corpus.from_texts(TEXTS), "cache": tmp_path / "cache", **SMALL, **options}
        )

    return run


def weights(lm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lm.hf.state_dict().items()}


def same_tensors(one: Patch, other: Patch) -> bool:
    pairs = [
        (one.updates[layer].matrix(), other.updates[layer].matrix()) for layer in {*one.updates, *other.updates}
    ] + [(one.values, other.values)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_public_names() -> None:
    assert len(set(errata.__all__)) == len(errata.__all__)
    for name in errata.__all__:
        assert getattr(errata, name) is not None, name
    assert set(errata.__all__) <= set(dir(errata))
    for module, names in errata._HOMES.items():
        assert all(getattr(errata, name) is getattr(importlib.import_module(module), name) for name in names)
    assert set(errata._HOME_OF) | {"__version__"} == set(errata.__all__)
    with pytest.raises(AttributeError, match="no attribute 'edit_fact'"):
        errata.edit_fact  # noqa: B018


def test_the_short_example(tmp_path, monkeypatch) -> None:
    """Load, read, edit, apply, ask, undo, save, load: what a notebook does."""
    from tiny import tiny_hf, tiny_tokenizer

    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))
    (tmp_path / "corpus.txt").write_text("\n\n".join(TEXTS))
    lm = errata.wrap(tiny_hf("llama"), tiny_tokenizer(), name="tiny")
    errata.write_facts(tmp_path / "facts.jsonl", FACTS)
    facts = errata.require(errata.read_facts(tmp_path / "facts.jsonl"))
    before = weights(lm)
    result = errata.edit_facts(lm, facts, corpus=tmp_path / "corpus.txt", prior_weight=0.001, **SMALL)
    said = errata.ask(lm, facts[0].text)
    result.patch.apply_(lm)
    says = errata.ask(lm, facts[0].text)
    assert said[0].next_tokens != says[0].next_tokens
    result.patch.remove_(lm)
    result.patch.save(tmp_path / "patch")
    patch = errata.Patch.load(tmp_path / "patch")
    assert errata.ask(lm, facts[0].text, patch=patch) == says
    assert errata.ask(lm, facts[0].text) == said
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.hf.state_dict().items())


RECORDS = [
    {"subject": "Toyota", "prompt": "{} builds cars in", "target_new": {"str": "China"}, "case_id": "cars",
     "ground_truth": ["Japan"], "source": "by hand"},
    {"subject": "Bill Gates", "prompt": "Bill Gates founded", "target": "Rome", "target_true": "Microsoft",
     "id": "gates"},
]  # fmt: skip


def test_facts_are_taken_as_they_are_given(edit, tmp_path) -> None:
    """Facts, dictionaries in other people's names, a file, one alone, a transformers model: the same edit."""
    from tiny import tiny_hf, tiny_tokenizer

    patch = edit().patch
    (tmp_path / "facts.json").write_text(json.dumps(RECORDS))
    for facts in (
        RECORDS,
        tmp_path / "facts.json",
        str(tmp_path / "facts.json"),
        iter(RECORDS),
        [FACTS[0], RECORDS[1]],
    ):
        result = edit(facts)
        assert same_tensors(result.patch, patch)
        noted = [line for line in result.report["warnings"] if "'source' (1 record)" in line]
        assert len(noted) == (not isinstance(facts, list) or facts is RECORDS)
    assert same_tensors(edit(FACTS[0]).patch, edit(RECORDS[0]).patch)
    options = {"corpus": Corpus.from_texts(TEXTS), "cache": tmp_path / "cache", **SMALL}
    theirs = edit_facts(tiny_hf("llama"), RECORDS, tokenizer=tiny_tokenizer(), **options)
    assert same_tensors(theirs.patch, patch)


def test_bad_dictionaries_are_reported_together_or_skipped(edit) -> None:
    bad = [
        {"subject": "Rome", "prompt": "Rome is", "targt_new": "x"},
        {"subject": "Rome", "prompt": "x", "target_new": "y"},
    ]
    with pytest.raises(FactsError, match=r"2 bad records in the facts given:(.|\n)*record 2(.|\n)*record 3") as caught:
        edit([RECORDS[0], *bad])
    assert "did you mean 'target_new'" in str(caught.value)
    result = edit([RECORDS[0], *bad], skip_bad=True)
    assert [fact.subject for fact in result.patch.facts] == ["Toyota"]
    assert [line.partition(":")[0] for line in result.report["skipped"]] == ["record 2", "record 2", "record 3"]


def test_the_model_is_left_as_it_was(edit) -> None:
    lm = tiny_model("llama")
    before = weights(lm)
    edit()
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.hf.state_dict().items())
    assert not patches_on(lm)


def test_the_model_is_left_as_it_was_when_the_second_measurement_fails(edit, monkeypatch) -> None:
    lm = tiny_model("llama")
    before = weights(lm)
    real, calls = edit_job.measure, []

    def second_fails(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(edit_job, "measure", second_fails)
    with pytest.raises(KeyboardInterrupt):
        edit()
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.hf.state_dict().items())
    assert not patches_on(lm)


def test_given_moments_are_used_as_they_are(edit, tmp_path, monkeypatch) -> None:
    lm = tiny_model("llama")
    computed = edit()
    moments = second_moments(lm, [1, 2], corpus=Corpus.from_texts(TEXTS), tokens=200, cache=tmp_path / "moments")
    monkeypatch.setattr("errata.jobs.workbench.run_stats", lambda *_, **__: pytest.fail("second moments were given"))
    assert same_tensors(edit(moments=moments).patch, computed.patch)


def test_moments_that_lack_a_layer_are_refused_before_any_value(edit, tmp_path, monkeypatch) -> None:
    moments = second_moments(
        tiny_model("llama"), [1], corpus=Corpus.from_texts(TEXTS), tokens=200, cache=tmp_path / "moments"
    )
    monkeypatch.setattr(
        "errata.edit.methods.mass_editing.collect_values", lambda *_, **__: pytest.fail("target values were begun")
    )
    with pytest.raises(ConfigError, match="2"):
        edit(moments=moments)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"facts": []}, FactsError, "no fact"),
        ({"batch_size": 0}, ConfigError, "batch_size must be at least 1, found 0"),
        ({"layers": (2, 4)}, ConfigError, "4 layers"),
        ({"nonsense": 1}, ConfigError, "nonsense"),
        ({"corpus": "nowhere.txt"}, CorpusError, "nowhere.txt"),
        ({"facts": [Fact(subject="Rome", prompt="Rome is " + "so " * 300, target_new="x")]}, FactsError, "256"),
    ],
)
def test_bad_input_is_refused_before_any_work(edit, monkeypatch, options, error, named) -> None:
    for work in ("compute", "prepare"):
        if error is not CorpusError:
            monkeypatch.setattr(f"errata.jobs.stats_job.{work}", lambda *_, **__: pytest.fail("work was begun"))
    monkeypatch.setattr(
        "errata.edit.methods.mass_editing.collect_values", lambda *_, **__: pytest.fail("work was begun")
    )
    with pytest.raises(error, match=named):
        edit(**options)


def test_all_facts_bad_is_refused_even_with_skip_bad(edit) -> None:
    bad = Fact(subject="Rome", prompt="Rome is " + "so " * 300, target_new="x", id="long")
    with pytest.raises(FactsError, match="1 of 1 fact cannot") as caught:
        edit([bad], skip_bad=True)
    assert [problem.fact_id for problem in caught.value.problems] == ["long"]
    result = edit([bad, *FACTS], skip_bad=True)
    assert result.patch.facts == tuple(FACTS)
    assert len(result.report["skipped"]) == 1
    assert "[long]: error: prompt, target and context prefix are" in result.report["skipped"][0]
    assert "Skipped: 1 problem" in summary(result.report)


def test_a_guess_is_only_announced_while_something_is_guessed(edit) -> None:
    assert any("guesses" in warning for warning in edit(evaluate=False).report["warnings"])
    assert not any("guesses" in w for w in edit(evaluate=False, prior_weight=2.0).report["warnings"])


def test_what_cannot_be_measured_is_known_before_any_work(edit, monkeypatch) -> None:
    long = Fact(subject="Rome", prompt="Rome is in", target_new="x", paraphrases=("so " * 300,), id="long")
    assert edit([*FACTS, long], skip_bad=True).patch.facts == tuple(FACTS)
    assert edit([*FACTS, long], evaluate=False).patch.facts == (*FACTS, long)
    monkeypatch.setattr("errata.jobs.workbench.run_stats", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(FactsError, match="paraphrase 1 cannot be measured"):
        edit([*FACTS, long])


def test_contradictions_and_repeated_ids_are_found_in_python_too(edit) -> None:
    other = Fact(subject="Toyota", prompt="Toyota builds cars in", target_new="Rome")
    same_id = Fact(subject="Paris", prompt="Paris is in", target_new="Rome", id="cars")
    with pytest.raises(FactsError, match="2 of") as caught:
        edit([*FACTS, other, same_id])
    assert "contradicts the fact at fact" in str(caught.value)
    assert "id 'cars' is already" in str(caught.value)
    assert edit([*FACTS, other, same_id], skip_bad=True, evaluate=False).patch.facts == tuple(FACTS)


def test_moments_of_other_weights_are_refused(edit, tmp_path) -> None:
    other = tiny_model("gpt2")
    moments = second_moments(other, [1, 2], corpus=Corpus.from_texts(TEXTS), tokens=200, cache=tmp_path / "moments")
    with pytest.raises(ConfigError, match="other weights"):
        edit(moments=moments)


def test_layers_that_end_at_the_last_one_are_warned_of(edit) -> None:
    assert any("no attention above it" in w for w in edit(evaluate=False, layers=(2, 3)).report["warnings"])
    assert not any("no attention above it" in w for w in edit(evaluate=False).report["warnings"])


PARTS = [
    ["The captain", "My neighbour", "A young doctor", "The old committee", "Nobody", "Her brother", "The museum"],
    ["painted", "sold", "described", "lost", "repaired", "wanted", "remembered", "bought", "carried", "measured"],
    ["two bicycles", "the wooden bridge", "a letter", "fresh bread", "the map", "every window", "some music"],
    ["in the harbour", "near Lisbon", "during winter", "after lunch", "for 300 dollars", "at school", "on Monday"],
    ["because it rained.", "and then left.", "without a word!", "as the law demands.", "so we laughed.", "(again)."],
]


@pytest.mark.parametrize(
    ("new", "old", "size", "outcome", "failed"),
    [
        ("China", "Japan", -2.0, "preferred", False),
        ("China", "Japan", 2.0, "not learned", True),
        ("Japan", "China", -1e-6, "preferred", True),
    ],
)
def test_one_fact_that_is_only_preferred_is_no_failure(tmp_path, monkeypatch, new, old, size, outcome, failed) -> None:
    """An edit that takes the old answer away, one that gives it more weight, and one with nothing left to do."""
    lm, fact, place = tiny_model("llama"), replace(FACTS[0], target_new=new, target_true=old), Place(3, "down")
    ids = torch.tensor([lm.tokenizer(fact.text)["input_ids"]])
    key = run_taps(lm, ids, torch.ones_like(ids), [place])[0][place][0, -1]
    row = lm.lm_head.weight[lm.tokenizer(" " + fact.target_true)["input_ids"][0]].detach()
    update = WeightUpdate.from_factors((key / key.norm())[None], size * row[None])
    stub = replace(METHODS["sgd"], edit=lambda _: Edit({place: update}, {}))
    monkeypatch.setitem(METHODS, "sgd", stub)
    result = edit_facts(lm, fact, method="sgd", layers=(3,), cache=tmp_path)
    assert [one["outcome"] for one in result.report["verdict"]["of_facts"]] == [outcome]
    assert bool(result.report["failed"]) == bool(result.patch.info.get("failed")) == failed
    assert ("FAILED" in repr(result)) == failed


def varied_sentences(count: int) -> list[str]:
    """Sentences that differ enough for their keys to span every direction."""
    chance = random.Random(0)
    return [" ".join(chance.choice(part) for part in [*PARTS, *PARTS]) for _ in range(count)]


def test_facts_written_into_the_real_model(smollm2, tmp_path) -> None:
    """Three facts of the demo: every prompt prefers the new target, and the greedy answer is the new one."""
    facts, before = demo_facts()[:3], weights(smollm2)
    result = edit_facts(
        smollm2, facts, corpus=Corpus.from_texts(varied_sentences(400)), moment_tokens=3000, cache=tmp_path / "cache"
    )
    assert result.before is not None
    assert result.after is not None
    assert result.report["before"]["es"] < 100
    assert result.report["after"]["es"] == 100
    assert result.report["residual"]["landed"] > 0.5
    assert not any("guesses" in warning for warning in result.report["warnings"])
    assert all(torch.equal(before[name], tensor) for name, tensor in smollm2.hf.state_dict().items())
    prompts = [fact.text for fact in facts]
    said = continue_texts(smollm2, prompts, new_tokens=6)
    with result.patch.applied(smollm2):
        says = continue_texts(smollm2, prompts, new_tokens=6)
    for fact, old, new in zip(facts, said, says, strict=True):
        assert not old.strip().startswith(fact.target_new.strip()), (fact.id, old)
        assert new.strip().startswith(fact.target_new.strip()), (fact.id, new)
    assert continue_texts(smollm2, prompts, new_tokens=6) == said
    assert all(torch.equal(before[name], tensor) for name, tensor in smollm2.hf.state_dict().items())
