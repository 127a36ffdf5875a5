"""What is no success: raised strengths, what is given up, and the sentence that remains."""

import pytest
import torch
from edit_helpers import FACTS, as_second_moments, random_moments

from errata import edit_facts
from errata.core.updates import WeightUpdate
from errata.edit import guard
from errata.edit.guard import few_said
from errata.edit.values.layer_loop import LayerEdit, Solution
from errata.stats import SecondMoments
from tiny import tiny_model
from type_checks import without_type_checks

LM = "not looked at"
plain = without_type_checks(guard)


def solution(relative_norm=0.1, start=1.0, end=0.1):
    update = WeightUpdate.from_factors(torch.zeros(1, 80), torch.zeros(1, 32))
    layer = LayerEdit(1, update, torch.zeros(1, 80), start, relative_norm, "dual", 0.0, 0.0)
    return Solution((layer,), torch.full((2,), start), torch.full((2,), end))


@pytest.fixture
def judge(monkeypatch):
    """guarded() over solutions by strength, with so many of ten facts said; and the strengths that were tried."""

    def run(by_strength, *, said=10, strength=1.0):
        tried = []
        monkeypatch.setattr(plain, "said_with", lambda *_: said)

        def attempt(weight):
            tried.append(weight)
            return by_strength(weight)

        return plain.guarded(LM, FACTS * 3, attempt, strength, size=1.0, name="prior_weight"), tried

    return run


def test_an_edit_that_passes_is_solved_once_with_the_strength_it_was_given(judge):
    kept, tried = judge(lambda _: solution())
    assert (tried, kept.excess, kept.given_up, kept.strength) == ([1.0], None, (), 1.0)
    assert kept.metrics("prior_weight") == {"said": 10, "prior_weight": 1.0, "given_up": [], "excess": None}


def test_an_update_out_of_proportion_raises_the_strength_tenfold_until_it_fits(judge):
    kept, tried = judge(lambda weight: solution(relative_norm=50 / weight))
    assert tried == [1.0, 10.0, 100.0]
    assert (kept.excess, kept.strength) == (None, 100.0)
    assert [one["prior_weight"] for one in kept.given_up] == [1.0, 10.0]
    assert "down of layer 1 moved by 50 times its own norm" in kept.given_up[0]["because"]


def test_after_three_times_it_is_a_failure(judge):
    kept, tried = judge(lambda _: solution(relative_norm=2000.0))
    assert tried == [1.0, 10.0, 100.0, 1000.0]
    assert kept.excess is not None
    assert "2e+03 times" in guard.failure(kept.excess)


def test_a_residual_that_grew_and_a_large_update_that_says_nothing_raise_it_too(judge):
    kept, tried = judge(lambda weight: solution(end=2.0 if weight < 10 else 0.5))
    assert tried == [1.0, 10.0]
    assert "further from their target values" in kept.given_up[0]["because"]
    _, tried = judge(lambda weight: solution(relative_norm=2 / weight), said=0)
    assert tried == [1.0, 10.0]


def test_where_little_is_said_of_an_update_in_proportion_a_stronger_prior_would_say_less(judge):
    kept, tried = judge(lambda _: solution(), said=0)
    assert (tried, kept.excess) == ([1.0], None)


def test_rounding_is_no_growth_and_a_strength_of_nothing_cannot_be_raised(judge):
    assert judge(lambda _: solution(start=0.0, end=1e-5))[0].excess is None
    kept, tried = judge(lambda _: solution(relative_norm=9.0), strength=0.0)
    assert tried == [0.0]
    assert kept.excess is not None


def test_fewer_than_a_tenth_said_is_no_success():
    assert few_said(2, 20) is None
    assert "Of 20 facts the model says 1 afterwards" in (few_said(1, 20) or "")
    assert "Of 1 fact the model says none afterwards" in (few_said(0, 1) or "")


def test_of_few_facts_one_that_is_preferred_is_enough():
    assert few_said(0, 1, preferred=1) is None
    assert few_said(0, 9, preferred=1) is None
    assert "Of 10 facts the model says none afterwards" in (few_said(0, 10, preferred=9) or "")


SMALL = {"layers": (1, 2), "value_steps": 8, "prefixes": 0, "weight_decay": 0.0, "evaluate": False, "passes": 1}


def run(tmp_path, method="memit", **options):
    lm = tiny_model("llama")
    moments = {**vars(as_second_moments(random_moments(lm, (1, 2)))), "model_digest": lm.digest()}
    held = SecondMoments(**moments)
    return edit_facts(lm, FACTS, method=method, moments=held, cache=tmp_path, **{**SMALL, **options})


def test_an_edit_that_wrecks_the_weights_fails_marks_its_patch_and_says_what_was_tried(tmp_path):
    result = run(tmp_path, learning_rate=100.0, clamp=1e5, prior_weight=1e-9)
    assert "kept to look at, not to use" in result.report["failed"]
    assert result.patch.info["failed"] == result.report["failed"]
    assert len(result.report["guard"]["given_up"]) == 3
    assert any("prior_weight was raised from 1e-09 to 1e-06" in text for text in result.report["warnings"])


def test_a_stronger_prior_saves_an_edit_and_the_target_values_are_used_again(tmp_path):
    options = {"learning_rate": 1.0, "clamp": 20.0}
    weak = run(tmp_path, **options, prior_weight=1.0)
    assert [one["prior_weight"] for one in weak.report["guard"]["given_up"]] == [1.0, 10.0]
    assert weak.report["guard"]["excess"] is None
    again = run(tmp_path, **options, prior_weight=100.0)
    assert again.report["guard"]["given_up"] == []
    for place, update in again.patch.updates.items():
        assert torch.equal(weak.patch.updates[place].matrix(), update.matrix())


@pytest.mark.parametrize("method", ["sgd", "ft"])
def test_methods_without_a_strength_are_judged_too(tmp_path, method):
    lm = tiny_model("llama")
    options = {"learning_rate": 1e6} if method == "sgd" else {"learning_rate": 10.0}
    result = edit_facts(lm, FACTS, method=method, layers=(1,), evaluate=False, cache=tmp_path, **options)
    assert "times its own norm" in result.report["failed"]
    assert result.report["guard"]["excess"]


def test_an_edit_of_batches_is_judged_by_all_of_them(tmp_path):
    result = run(tmp_path, in_batches=1, prior_weight=1e6, learning_rate=0.01)
    assert result.report["guard"]["said"] < 0.1 * len(FACTS)
    assert "afterwards" in result.report["failed"]
