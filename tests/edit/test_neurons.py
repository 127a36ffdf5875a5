"""Which neurons are kept: the rules against plain loops, and batches that are kept and taken up again."""

import pytest
import torch
from edit_helpers import FACTS, InterruptingSink
from hypothesis import given
from hypothesis import strategies as st

from errata.edit.methods.knowledge_neurons import neuron_choice as module
from errata.edit.methods.knowledge_neurons.neuron_attribution import Question
from errata.edit.methods.knowledge_neurons.neuron_choice import Search, collect_neurons, shared_neurons, strong_neurons
from reference import knowledge_neurons as reference
from tiny import fresh_model, tiny_model

SEARCH = Search(layers=(0, 2), steps=3, threshold=0.2, share=0.5, max_neurons=20)
PREFIXES = ["", "I. ", "The tower is tall, you know. "]


def questions_of(lm):
    return [
        [Question(tuple(reference.prompt_ids(lm, prefix + fact.text)), 50 + i) for prefix in PREFIXES]
        for i, fact in enumerate(FACTS)
    ]


some_scores = st.sampled_from([-2.0, -0.5, 0.0, 0.1, 0.2, 0.5, 1.0, 3.0])
scores_of_any_sign = st.lists(st.lists(some_scores, min_size=4, max_size=4), min_size=1, max_size=3)


@given(scores_of_any_sign, st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_strong_neurons_are_those_above_the_threshold(rows, threshold):
    scores = torch.tensor(rows, dtype=torch.float64)
    places, shares = strong_neurons(scores, threshold)
    largest = max(map(max, rows))
    expected = {
        (i, j): value / largest
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
        if largest > 0 and value > threshold * largest
    }
    assert {tuple(place): share for place, share in zip(places.tolist(), shares.tolist(), strict=True)} == expected
    assert not expected or max(expected.values()) == 1.0


contexts_of_neurons = st.lists(
    st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 3)), st.sampled_from([-1.0, -0.5, 0.25, 0.5, 1.0])),
    min_size=1,
    max_size=6,
)


@given(contexts_of_neurons, st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0]), st.integers(1, 6))
def test_shared_neurons_are_in_enough_contexts_and_the_strongest(contexts, share, most):
    kept = shared_neurons(contexts, share=share, most=most)
    total = {n: sum(abs(c.get(n, 0.0)) for c in contexts) for c in contexts for n in c}
    enough = {n for n in total if sum(n in c for c in contexts) / len(contexts) >= share}
    assert list(kept) == sorted(kept)
    signed = {n: sum(c.get(n, 0.0) for c in contexts) for n in kept}
    assert all(sign * signed[n] > 0 or (sign, signed[n]) == (1, 0) for n, sign in kept.items())
    assert set(kept) <= enough
    assert len(kept) == min(most, len(enough))
    assert all(total[out] <= total[one] for one in kept for out in enough - set(kept))
    # A smaller share or a larger bound never loses a neuron, unless the bound cuts stronger ones in front of it.
    assert set(kept) <= set(shared_neurons(contexts, share=share, most=most + 1))
    everything = shared_neurons(contexts, share=share, most=99)
    assert set(everything) <= set(shared_neurons(contexts, share=share / 2, most=99))


def test_ties_go_to_the_lower_layer_and_neuron():
    kept = shared_neurons([{(2, 0): 1.0, (1, 5): -1.0, (1, 4): 1.0}], share=1.0, most=2)
    assert list(kept.items()) == [((1, 4), 1), ((1, 5), -1)]


def test_batches_change_nothing(tmp_path):
    lm = tiny_model("llama")
    found = [
        collect_neurons(lm, questions_of(lm), SEARCH, batch_size=size, cache=tmp_path / str(size)) for size in (1, 32)
    ]
    assert found[0] == found[1]
    assert any(found[0].neurons)


def test_a_run_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    lm = tiny_model("llama")
    expected = collect_neurons(lm, questions_of(lm), SEARCH, batch_size=1, cache=tmp_path / "whole")
    files = len(list((tmp_path / "whole").rglob("*.safetensors")))
    with pytest.raises(KeyboardInterrupt):
        collect_neurons(
            lm, questions_of(lm), SEARCH, batch_size=1, cache=tmp_path / "cut", progress=InterruptingSink(at=8)
        )
    kept = len(list((tmp_path / "cut").rglob("*.safetensors")))
    assert 0 < kept < files
    calls = []
    real = module.attributions
    monkeypatch.setattr(module, "attributions", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert collect_neurons(lm, questions_of(lm), SEARCH, batch_size=1, cache=tmp_path / "cut") == expected
    assert len(calls) == files - kept
    again = collect_neurons(lm, questions_of(lm), SEARCH, batch_size=1, cache=tmp_path / "cut")
    assert again == expected
    assert len(calls) == files - kept
    assert again.kept_seconds > 0 == expected.kept_seconds


def test_what_is_kept_depends_on_everything_that_it_should(tmp_path):
    lm = fresh_model("llama")
    asked = questions_of(lm)[:1]

    def files_after(search, questions=asked):
        collect_neurons(lm, questions, search, cache=tmp_path)
        return len(list(tmp_path.rglob("*.safetensors")))

    one = files_after(SEARCH)
    changes = [{"layers": (0, 1)}, {"steps": 4}, {"threshold": 0.3}]
    counts = [files_after(Search(**{**vars(SEARCH), **change})) for change in changes]
    assert counts == sorted({one, *counts})[1:]
    # What only chooses among the kept ones is no reason to attribute again.
    assert files_after(Search(**{**vars(SEARCH), "share": 1.0, "max_neurons": 1})) == counts[-1]
    other = files_after(SEARCH, [[Question(q.ids, q.answer + 1) for q in asked[0]]])
    with torch.no_grad():
        lm.down(1).weight[0, 0] += 1
    assert counts[-1] < other < files_after(SEARCH)
