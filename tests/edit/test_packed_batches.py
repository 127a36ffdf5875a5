"""How rows are packed: at the least cost, every row once."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.edit.values.packed_batches import Suffix, packed_batches
from errata.edit.values.prompt_rows import PromptRow
from errata.models.run.packing import packs, split_lengths


def _cost(counts, ranges, overhead):
    total = 0
    for low, high in ranges:
        lengths = [length for length in counts if low <= length <= high]
        total += sum(counts[length] for length in lengths) * max(lengths) + overhead
    return total


def _every_split(lengths):
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        ranges, begin = [], 0
        for i, cut in enumerate([*cuts, True]):
            if cut:
                ranges.append((lengths[begin], lengths[i]))
                begin = i + 1
        yield ranges


@given(st.dictionaries(st.integers(1, 40), st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 200))
@settings(max_examples=150, deadline=None)
def test_no_other_split_costs_less(counts, overhead):
    found = split_lengths(counts, overhead)
    covered = [length for low, high in found for length in sorted(counts) if low <= length <= high]
    assert covered == sorted(counts)
    best = min(_cost(counts, ranges, overhead) for ranges in _every_split(sorted(counts)))
    assert _cost(counts, found, overhead) == best


def test_extremes():
    assert split_lengths({3: 1}) == [(3, 3)]
    assert split_lengths({1: 5, 2: 5, 90: 5}, overhead=0) == [(1, 1), (2, 2), (90, 90)]
    assert split_lengths({1: 5, 2: 5, 90: 5}, overhead=10**6) == [(1, 90)]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 100))
@settings(max_examples=100, deadline=None)
def test_packs_hold_every_row_once_and_no_more_than_the_most(lengths, most):
    found = packs(lengths, most_tokens=most)
    assert sorted(i for pack in found for i in pack) == list(range(len(lengths)))
    for pack in found:
        assert len(pack) == 1 or len(pack) * max(lengths[i] for i in pack) <= most


def _suffix(fact, context, length, targets):
    read = tuple(range(4 + length - len(targets), 4 + length)) if targets else ()
    return Suffix(
        PromptRow(fact, context, tuple(range(4 + length)), 4, read, targets), 0, torch.full((length, 8), float(fact))
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30), st.integers(1, 3)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_every_row_is_in_one_pass_and_a_fact_s_weights_sum_to_one(rows):
    suffixes = [
        _suffix(fact, c, length, tuple(range(10, 10 + min(count, length))))
        for c, (fact, length, count) in enumerate(rows)
    ]
    facts = sorted({fact for fact, _, _ in rows})
    suffixes += [_suffix(fact, 99, 1, ()) for fact in facts]
    passes = packed_batches(suffixes, None, 4, torch.device("cpu"))
    assert sum(len(one.hidden) for one in passes) == len(suffixes)
    assert sum(int(one.mask.sum()) for one in passes) == sum(len(s.hidden) for s in suffixes)
    weights = sum(one.target_membership.sum(1) for one in passes)
    assert torch.allclose(weights, torch.tensor([float(fact in facts) for fact in range(4)]), atol=1e-5)
    assert sorted(fact for one in passes for fact in one.essence_facts.tolist()) == facts
    for one in passes:
        assert bool((one.hidden[:, 0, 0] == one.facts).all()), "each row's first position is its own edited token"
        assert bool((one.mask[one.read_rows, one.read_columns] == 1).all())
        assert len(one.read_rows) == one.num_targets + len(one.essence_facts)
        assert torch.equal(one.membership.sum(0), torch.ones(len(one.hidden)))
