"""A trace and its numbers: seeds, positions, what is said of odd prompts, correlations, rows, records and grids."""

import math

import pytest
import torch

from errata.errors import ConfigError, InputError
from errata.facts import Fact
from errata.models import encode
from errata.tracing import KINDS, SEVERED, TraceConfig, trace
from errata.tracing.config import window_of
from errata.tracing.correlation import pearson, ranks, spearman
from errata.tracing.prompts import traced_fact, traced_prompt
from errata.tracing.record import trace_from, trace_record
from tiny import tiny_model

PROMPT, SUBJECT = "The Eiffel Tower is in the city of", "Eiffel Tower"
OPTIONS = {"samples": 2, "window": 2}


@pytest.fixture
def lm():
    return tiny_model("llama")


def test_the_same_seed_gives_the_same_bits_and_another_one_others(lm):
    one, again = (trace(lm, PROMPT, SUBJECT, severed="all", **OPTIONS) for _ in range(2))
    assert trace_record(one) == trace_record(again)
    other = trace(lm, PROMPT, SUBJECT, seed=1, **OPTIONS)
    assert other.samples != one.samples


def test_nothing_before_the_subject_has_an_effect(lm):
    found = trace(lm, "I think that the Eiffel Tower is in", SUBJECT, severed="all", **OPTIONS)
    first = found.subject_tokens[0]
    assert first >= 3
    for kind in (*KINDS, *SEVERED):
        assert not found.effect(kind)[:, :first].any()
        assert found.effect(kind)[:-1, first:].any()
    assert not found.attribution["hidden"][:, :first].any()


def test_the_last_token_of_the_top_layer_restores_everything_and_other_tokens_there_nothing(lm):
    found = trace(lm, PROMPT, SUBJECT, **OPTIONS)
    effect = found.effect("hidden")
    assert float(effect[-1, -1]) == pytest.approx(found.total_effect, abs=1e-7)
    assert float(effect[-1, :-1].abs().max()) < 1e-8


def test_severed_states_are_run_where_they_are_asked_for(lm):
    last = trace(lm, PROMPT, SUBJECT, **OPTIONS)
    everywhere = trace(lm, PROMPT, SUBJECT, severed="all", **OPTIONS)
    at = last.subject_tokens[1]
    for kind in SEVERED:
        run = ~last.restored[kind].isnan().any(0)
        assert run.nonzero().flatten().tolist() == [at]
        torch.testing.assert_close(last.restored[kind][:, at], everywhere.restored[kind][:, at], rtol=0, atol=1e-7)
        assert not everywhere.restored[kind].isnan().any()
    assert tuple(trace(lm, PROMPT, SUBJECT, severed="none", **OPTIONS).restored) == KINDS
    assert tuple(trace(lm, PROMPT, SUBJECT, kinds=["mlp"], **OPTIONS).restored) == ("mlp",)


def test_windows():
    assert [window_of(i, 4, 6) for i in (0, 2, 5)] == [range(0, 2), range(0, 4), range(3, 6)]
    assert window_of(3, 1, 6) == range(3, 4)
    assert window_of(3, 3, 6) == range(2, 5)


def test_a_subject_of_one_token_in_the_middle(lm):
    found = trace(lm, "The Tower is", "Tower", **OPTIONS)
    assert found.subject_tokens[0] == found.subject_tokens[1]
    assert found.segments["first subject"] == found.segments["last subject"]
    assert found.segments["middle subject"] == ()


def test_a_subject_at_the_end_of_the_prompt_is_in_last_alone(lm):
    found = trace(lm, "I am in the Eiffel Tower", SUBJECT, **OPTIONS)
    assert found.subject_tokens[1] == len(found.ids) - 1
    assert found.segments["last"] == (len(found.ids) - 1,)
    assert found.segments["last subject"] == found.segments["further"] == found.segments["first after"] == ()
    assert found.segments["first subject"] == (found.subject_tokens[0],)
    alone = trace(lm, "I like the Tower", "Tower", **OPTIONS)
    assert alone.segments["first subject"] == ()


def test_a_subject_at_the_end_is_said(lm):
    notes = trace(lm, "I think that the Eiffel Tower", "Eiffel Tower", exact=False, samples=1).notes
    assert any("The subject ends the prompt" in note for note in notes)
    notes = trace(lm, "I think that the Eiffel Tower is", "Eiffel Tower", exact=False, samples=1).notes
    assert not any("ends the prompt" in note for note in notes)


def test_of_a_repeated_subject_the_last_occurrence_is_corrupted_and_a_facts_own_place(lm):
    text = "Paris is Paris in"
    (encoding,) = encode(lm.tokenizer, [text])
    one = traced_prompt(lm, text, "Paris")
    assert (one.first, one.last) == encoding.tokens_over(9, 14)
    fact = Fact(subject="Paris", prompt="{} is Paris in", target_new="Rome", target_true="France")
    assert (traced_fact(lm, fact).first, traced_fact(lm, fact).last) == encoding.tokens_over(0, 5)


def test_the_answer_is_the_models_own_without_one(lm):
    found = trace(lm, PROMPT, SUBJECT, **OPTIONS)
    assert found.answer_id == found.own_id
    assert not any("own next token" in note for note in found.notes)


def test_an_answer_that_the_model_does_not_give_is_traced_and_said(lm):
    found = trace(lm, PROMPT, SUBJECT, "Constantinople", **OPTIONS)
    assert found.answer_id != found.own_id
    said = " ".join(found.notes)
    assert "does not give this answer" in said
    assert "its first, " in said  # of several tokens
    assert found.answer_id == lm.tokenizer(PROMPT + " Constantinople")["input_ids"][len(found.ids)]


def test_a_corruption_that_does_not_hurt_is_said(lm):
    notes = [
        note
        for answer in ("Rome", "Paris", "Japan", "French", "tall", "Bill")
        for found in [trace(lm, PROMPT, SUBJECT, answer, exact=False, **OPTIONS)]
        for note in found.notes
        if "did not make" in note and found.corrupted >= found.clean
    ]
    assert notes


def test_zeros_and_swaps_say_how_many_runs_there_are(lm):
    zero = trace(lm, PROMPT, SUBJECT, corruption="zero", samples=5, exact=False)
    assert len(zero.samples) == 1
    assert any("zeros are the same" in note for note in zero.notes)
    with pytest.raises(InputError, match="No other subject can take the place"):
        trace(lm, PROMPT, SUBJECT, corruption="swap", swap=["Paris", SUBJECT])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("The Eiffel Tower is", "Big Ben"), "does not occur"),
        (("The Eiffel Tower is", "eiffel tower"), "other capitals"),
        (("The Eiffel Tower is", " "), "whitespace"),
        ((" ", "Tower"), "prompt"),
        (("The Eiffel Tower is", "Tower", " "), "answer"),
        (("The Eiffel Tower is " + "in " * 400, "Tower"), "tokens long"),
    ],
)
def test_prompts_that_cannot_be_traced(lm, arguments, message):
    with pytest.raises(InputError, match=message):
        trace(lm, *arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"kinds": ("neuron",)}, {"kinds": ()}, {"kinds": ("mlp", "mlp")}, {"samples": 0}, {"window": 0}, {"noise": 0.0},
        {"noise": math.inf}, {"corruption": "salt"}, {"severed": "some"}, {"seed": -1}, {"batch_tokens": 0},
    ],
)  # fmt: skip
def test_settings_outside_their_domain(lm, options):
    with pytest.raises(ConfigError):
        TraceConfig(**options)
    with pytest.raises(ConfigError, match="Unknown option 'noize'"):
        trace(lm, PROMPT, SUBJECT, noize=3)


def test_effects_and_correlations_of_what_was_not_run(lm):
    found = trace(lm, PROMPT, SUBJECT, kinds=["hidden"], exact=False, **OPTIONS)
    with pytest.raises(InputError, match="exact=False"):
        found.effect("hidden")
    with pytest.raises(InputError, match="no attribution"):
        trace(lm, PROMPT, SUBJECT, **OPTIONS).correlation("mlp severed")


def test_correlations_are_those_of_their_definitions():
    import numpy as np
    from scipy import stats

    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, generator=generator, dtype=torch.float64)
    b = a + torch.randn(40, generator=generator, dtype=torch.float64)
    b[:5] = b[5]  # equal values
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0])
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0], dtype=torch.float64)).tolist() == [2.5, 0, 2.5, 1]
    assert math.isnan(pearson(torch.ones(4, dtype=torch.float64), a[:4]))


def test_a_trace_comes_back_from_its_record(lm):
    import json

    found = trace(lm, PROMPT, SUBJECT, "Rome", **OPTIONS)
    record = json.loads(json.dumps(trace_record(found), allow_nan=False))
    back = trace_from(record)
    assert back.config == found.config
    assert trace_record(back) == trace_record(found)
    assert list(back.rows()) == list(found.rows())


def test_rows_hold_every_cell_once(lm):
    found = trace(lm, PROMPT, SUBJECT, **OPTIONS)
    rows = list(found.rows())
    cells = lm.num_layers * len(found.ids)
    assert len(rows) == len(KINDS) * cells + len(SEVERED) * lm.num_layers
    assert len({(row["kind"], row["layer"], row["position"]) for row in rows}) == len(rows)
    one = next(row for row in rows if (row["kind"], row["layer"], row["position"]) == ("mlp", 1, 2))
    assert one["effect"] == pytest.approx(one["restored"] - one["corrupted"])
    assert one["attribution"] == float(found.attribution["mlp"][1, 2])
    attributed = list(trace(lm, PROMPT, SUBJECT, exact=False, **OPTIONS).rows())
    assert len(attributed) == len(KINDS) * cells
    assert all(row["effect"] is None and row["attribution"] is not None for row in attributed)


def test_the_grid_holds_points_of_probability(lm):
    found = trace(lm, PROMPT, SUBJECT, **OPTIONS)
    grid = found.grid()
    assert [sheet.name for sheet in grid.sheets][:3] == ["hidden state", "MLPs, window of 2", "attention, window of 2"]
    assert len(grid.sheets) == 8  # three kinds, two severed, three attributed
    sheet = grid.sheets[1]
    assert sheet.values[2][3] == pytest.approx(100 * float(found.effect("mlp")[2, 3]))
    assert sheet.limit == pytest.approx(
        max(100 * float(found.effect(kind).nan_to_num().abs().max()) for kind in found.restored)
    )
    severed = next(sheet for sheet in grid.sheets if "severed" in sheet.name)
    assert severed.values[0][0] is None
    assert grid.to_json()
    assert "<iframe" in found._repr_html_()


def test_the_subjects_last_token_alone(lm):
    whole = trace(lm, PROMPT, SUBJECT, **OPTIONS)
    found = trace(lm, PROMPT, SUBJECT, tokens="last subject", **OPTIONS)
    first, last = found.subject_tokens
    for kind in found.restored:
        run = ~found.restored[kind].isnan().any(0)
        expected = [last] if kind in SEVERED else [*range(first), last]
        assert run.nonzero().flatten().tolist() == expected
        torch.testing.assert_close(found.restored[kind][:, last], whole.restored[kind][:, last], rtol=0, atol=1e-7)
    assert not any(math.isnan(value) for value in found.correlation("hidden"))
    effects = [row for row in found.rows() if row["effect"] is not None]
    assert len(effects) == lm.num_layers * (len(KINDS) * (first + 1) + len(SEVERED))


def test_a_space_of_its_own_belongs_to_the_answer(smollm2):
    """SmolLM2 writes " 1889" as a space and four digits: the first token, which is what is traced, is the space."""
    prompt, subject = "The Eiffel Tower was completed in the year", "Eiffel Tower"
    one = traced_prompt(smollm2, prompt, subject, "1889")
    (plain,) = encode(smollm2.tokenizer, [prompt])
    assert one.ids == plain.ids
    assert (one.answer_tokens, smollm2.tokenizer.decode(one.answer)) == (5, " ")
    found = trace(smollm2, prompt, subject, "1889", exact=False, samples=1)
    assert sum("only the space before the rest" in note for note in found.notes) == 1
    assert not any("space" in note for note in trace(smollm2, prompt, subject, "Paris", exact=False, samples=1).notes)


@pytest.mark.parametrize("exact", [True, False])
def test_printed_it_is_two_lines(lm, exact):
    one = trace(lm, PROMPT, SUBJECT, exact=exact, **OPTIONS)
    first, second = repr(one).splitlines()
    assert first.startswith(f"Trace of tiny-llama at “{PROMPT}” → “")
    assert first.endswith(f"{one.clean:.1%}, with “{SUBJECT}” corrupted {one.corrupted:.1%}.")
    did = "restored" if exact else "attributed"
    assert second == f"4 layers, {len(one.ids)} tokens; {did}: {', '.join(one.kinds)}."
