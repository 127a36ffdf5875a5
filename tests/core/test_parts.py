"""Parts: what is kept is not done again, an interruption loses what was on its way only, any order folds the same."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.backends import LOCAL
from errata.core.parts import Backend, Part, PartStore, complete, results
from errata.errors import CorruptFileError
from errata.store.json_records import Records


class Memory:
    """A store that keeps in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    def load(self, key: str) -> int | None:
        return self.kept.get(key)

    def save(self, key: str, result: int) -> None:
        self.kept[key] = result


class Shuffled:
    """A back end whose parts finish in another order than they were given in, as on many machines."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def map(self, work, state, parts, advance) -> Iterator[tuple[int, int]]:
        for number in sorted(range(len(parts)), key=lambda i: self.order[i % len(self.order)]):
            result = work(state, parts[number].payload, lambda _: None)
            advance(parts[number].size - parts[number].begun)
            yield number, result


class Stages:
    """Progress that remembers the total and how much of it is done."""

    def __init__(self) -> None:
        self.stages: list[list[int]] = []

    def stage(self, _what, total, _unit, *, done=0):
        self.stages.append([total, done])
        return nullcontext(self.advance)

    def advance(self, amount: int) -> None:
        self.stages[-1][1] += amount

    def note(self, text: str) -> None: ...


def squared(state: list[int], payload: int, advance) -> int:
    state.append(payload)
    advance(payload)
    return payload**2


def parts_of(numbers: list[int]) -> list[Part[int]]:
    return [Part(f"{i} {number}", number, number) for i, number in enumerate(numbers)]


def test_the_protocols_are_what_they_say():
    assert isinstance(LOCAL, Backend)
    assert isinstance(Memory(), PartStore)


@given(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(0, 99), min_size=1, max_size=6))
def test_any_order_of_work_folds_the_same(numbers, order):
    parts, progress = parts_of(numbers), Stages()
    for backend in (LOCAL, Shuffled(order)):
        store = Memory()
        complete(squared, [], parts, store, backend=backend, what="squares", unit="ones", progress=progress)
        assert list(results(parts, store)) == [number**2 for number in numbers]
        assert progress.stages[-1] == [sum(numbers), sum(numbers)]


def test_what_is_kept_is_not_done_again(tmp_path):
    parts, store = parts_of([1, 2, 3]), Records(tmp_path, "square-")
    done: list[int] = []

    def stopped(state: list[int], payload: int, advance) -> int:
        if payload == 3:
            raise KeyboardInterrupt
        return squared(state, payload, advance)

    with pytest.raises(KeyboardInterrupt):
        complete(stopped, done, parts, store, backend=LOCAL, what="squares", unit="ones")
    progress = Stages()
    complete(squared, done, parts, store, backend=LOCAL, what="squares", unit="ones", progress=progress, finished=10)
    assert done == [1, 2, 3]
    assert list(results(parts, store)) == [1, 4, 9]
    assert progress.stages == [[16, 16]]


def test_a_part_that_is_gone_is_said(tmp_path):
    parts, store = parts_of([1, 2]), Records(tmp_path)
    complete(squared, [], parts, store, backend=LOCAL, what="squares", unit="ones")
    store.path(parts[1].key).write_text("{}")
    with pytest.raises(CorruptFileError, match="run it again"):
        list(results(parts, store))
