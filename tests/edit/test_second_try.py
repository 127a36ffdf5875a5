"""The second try of facts that found no target value: the others keep their bits, and a find is a find."""

import pytest
import torch
from edit_helpers import FACTS, PREFIXES

from errata.edit.methods.memit import MemitConfig
from errata.edit.values.collect import collect_values, value_keys
from errata.edit.values.second_try import POOR_NLL, later_config, with_second_try
from errata.edit.values.targets import TargetValues
from tiny import tiny_model

ONE_TOKEN = [1] * len(FACTS)
CONFIG = MemitConfig(layers=(1, 2), value_steps=20, learning_rate=0.5, clamp=4.0, weight_decay=0.0)


def made(nll: list[float], mark: float) -> TargetValues:
    rows = len(nll)
    fields = {name: torch.full((rows,), mark) for name in ("shift_norm", "start_norm", "first_nll", "short_nll", "kl")}
    counts = {name: torch.full((rows,), int(mark)) for name in ("updates", "converged")}
    value, loss = torch.full((rows, 2), mark), torch.full((rows,), mark)
    return TargetValues(**fields, **counts, value=value, loss=loss, nll=torch.tensor(nll), kept_seconds=mark)


class Tries:
    """What `collect` gives, try after try, and what it was asked."""

    def __init__(self, *given: TargetValues) -> None:
        self.given, self.asked = list(given), []

    def __call__(self, facts, config) -> TargetValues:
        self.asked.append((list(facts), config))
        return self.given.pop(0)


def test_only_the_facts_without_a_value_are_tried_again() -> None:
    tries = Tries(made([0.1, 2.0, 0.6, 3.0], 1.0), made([0.2, 2.5], 5.0))
    found = with_second_try(FACTS, ONE_TOKEN, CONFIG, tries)
    assert [facts for facts, _ in tries.asked] == [FACTS, [FACTS[1], FACTS[3]]]
    assert tries.asked[1][1] == CONFIG.replace(clamp=6.0, value_steps=50, retries=0)
    # The second found a value for fact 1; fact 3 has none in either try, and keeps the smaller first shift.
    assert found.value[:, 0].tolist() == [1.0, 5.0, 1.0, 1.0]
    assert found.nll.tolist() == pytest.approx([0.1, 0.2, 0.6, 3.0])
    assert (found.second_tries, found.kept_seconds) == ((1, 3), 6.0)


def test_a_long_answer_needs_more_of_each_token() -> None:
    """0.4 nat a token is 67 % of the probability for one and 9 % for six; a better value is taken, a worse one not."""
    tries = Tries(made([0.4, 0.4, 0.4], 1.0), made([0.15, 0.5], 5.0))
    found = with_second_try(FACTS[:3], [1, 6, 6], CONFIG, tries)
    assert [facts for facts, _ in tries.asked] == [FACTS[:3], FACTS[1:3]]
    assert found.value[:, 0].tolist() == [1.0, 5.0, 1.0]


def test_a_third_try_is_for_those_that_have_none_yet() -> None:
    tries = Tries(made([2.0, 0.1, 3.0], 1.0), made([0.2, 2.5], 5.0), made([0.3], 7.0))
    found = with_second_try(FACTS[:3], ONE_TOKEN[:3], CONFIG.replace(retries=2), tries)
    assert [facts for facts, _ in tries.asked] == [FACTS[:3], [FACTS[0], FACTS[2]], [FACTS[2]]]
    assert tries.asked[2][1] == CONFIG.replace(clamp=9.0, value_steps=50, retries=0)
    assert found.value[:, 0].tolist() == [5.0, 1.0, 7.0]
    assert (found.second_tries, found.kept_seconds) == ((0, 2), 13.0)


@pytest.mark.parametrize(("nll", "config"), [([0.1, POOR_NLL - 1e-3], CONFIG), ([0.1, 9.0], CONFIG.replace(retries=0))])
def test_without_need_or_wish_there_is_no_second_try(nll, config) -> None:
    first = made(nll, 1.0)
    tries = Tries(first)
    assert with_second_try(FACTS[:2], ONE_TOKEN[:2], config, tries) is first
    assert len(tries.asked) == 1


def test_steps_stay_within_what_the_configuration_allows() -> None:
    assert later_config(CONFIG.replace(value_steps=900), 1).value_steps == 1000


def test_the_bits_of_what_was_found_at_once_do_not_change(tmp_path, monkeypatch) -> None:
    """On a model: with and without the second try, each kept under a key of its own."""
    poor = 5.0  # a random model is far from saying anything
    monkeypatch.setattr("errata.edit.values.second_try.POOR_NLL", poor)
    lm = tiny_model("llama")
    few = CONFIG.replace(value_steps=4, learning_rate=0.3)

    def collect(facts, config):
        return collect_values(lm, facts, config, PREFIXES, cache=tmp_path)

    once, twice = (with_second_try(FACTS, ONE_TOKEN, few.replace(retries=retries), collect) for retries in (0, 1))
    assert twice.second_tries, "the test needs a fact that finds no value in four steps"
    changed = {i for i in range(len(FACTS)) if not torch.equal(once.value[i], twice.value[i])}
    assert changed, "the test needs a fact that the second try helps"
    assert changed <= set(twice.second_tries)
    assert all(float(twice.nll[i]) <= poor < float(once.nll[i]) for i in changed)
    keys = [value_keys(lm, FACTS, config, PREFIXES) for config in (few, few.replace(retries=0), later_config(few, 1))]
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])
