"""Losses, what they read, and prompts that cannot be used; segments of a prompt."""

import pytest
import torch

from errata.errors import InputError
from errata.lens import SEGMENTS, backward_lens, backward_lenses
from tiny import tiny_model, tiny_tokenizer

PROMPT = "The Eiffel Tower is located in"


def logits_of(lm, ids):
    with torch.no_grad():
        return lm.hf(input_ids=torch.tensor([list(ids)])).logits[0].float()


def test_losses_are_what_they_say():
    lm = tiny_model("llama")
    prompt, target = PROMPT, "English and French"
    full = tiny_tokenizer()(f"{prompt} {target}")["input_ids"]
    start = len(tiny_tokenizer()(prompt)["input_ids"])
    log_p = logits_of(lm, full).log_softmax(-1)
    nll = [-float(log_p[i - 1, full[i]]) for i in range(1, len(full))]

    first = backward_lens(lm, prompt, target)
    assert first.example.ids == tuple(full[:start])
    assert first.loss == pytest.approx(nll[start - 1], rel=1e-4)
    whole = backward_lens(lm, prompt, target, loss="target")
    assert whole.example.ids == tuple(full[:-1])
    assert whole.loss == pytest.approx(sum(nll[start - 1 :]), rel=1e-4)
    assert backward_lens(lm, prompt, target, loss="all").loss == pytest.approx(sum(nll), rel=1e-4)
    assert backward_lens(lm, prompt, loss="all").loss == pytest.approx(sum(nll[: start - 1]), rel=1e-4)

    last = logits_of(lm, full[:start])[-1]
    answer = int(last.argmax())
    difference = backward_lens(lm, prompt, target, loss="logit-difference")
    assert difference.loss == pytest.approx(float(last[answer] - last[full[start]]), rel=1e-4)
    other = tiny_tokenizer()(" Paris")["input_ids"][0]
    named = backward_lens(lm, prompt, target, loss="logit-difference", against="Paris")
    assert named.loss == pytest.approx(float(last[other] - last[full[start]]), rel=1e-4)

    reference = "The capital of Italy is"
    aim = logits_of(lm, tiny_tokenizer()(reference)["input_ids"])[-1].log_softmax(0)
    expected = float((aim.exp() * (aim - last.log_softmax(0))).sum())
    assert backward_lens(lm, prompt, loss="kl", reference=reference).loss == pytest.approx(expected, rel=1e-3)
    assert backward_lens(lm, prompt, loss="kl", reference=prompt).loss == pytest.approx(0, abs=1e-5)

    own = backward_lens(lm, prompt, loss=lambda logits: logits[-1, 3] ** 2)
    assert own.loss == pytest.approx(float(last[3]) ** 2, rel=1e-4)
    forced = backward_lens(lm, prompt, target, loss=lambda logits: logits.sum() * 0 + len(logits))
    assert forced.loss == len(full) - 1


def test_bos_is_kept_and_is_a_segment_of_its_own():
    lm = tiny_model("llama", bos=True)
    lens = backward_lens(lm, PROMPT, "Rome", subject="The Eiffel Tower")
    assert lens.example.ids[0] == 0
    found = lens.segments()
    assert found["bos"] == (0,)
    assert found["first subject"] == (1,)


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("The capital of France is", "France", {"before": 3, "middle subject": None, "last": 1}),
        ("Who is Danielle Darrieux", "Danielle Darrieux", {"first after": 0, "further": 0, "last": 1}),
        ("France and France again", "France", {"before": None, "last": 1}),
        ("The tower is tall", None, {"first subject": 0, "last subject": 0, "before": 0, "last": 1}),
    ],
)
def test_segments_cover_the_prompt(prompt, subject, expected):
    lens = backward_lens(tiny_model("llama"), prompt, "Rome", subject=subject)
    found = lens.segments()
    assert set(found) == set(SEGMENTS)
    for name, count in expected.items():
        if count is not None:
            assert len(found[name]) == count, (name, found)
    covered = {i for positions in found.values() for i in positions}
    assert covered == set(range(len(lens.tokens)))
    if subject:
        first, last = found["first subject"][0], found["last subject"][0]
        assert "".join(lens.tokens[first : last + 1]).strip() == subject
        if prompt.count(subject) > 1:
            assert "".join(lens.tokens[:first]).strip().startswith(subject)
        if first == last:
            assert found["middle subject"] == ()


def test_teacher_forced_tokens_are_a_segment():
    lens = backward_lens(tiny_model("llama"), PROMPT, "English and French", loss="target")
    found = lens.segments()
    assert found["target"] == lens.example.read[1:]
    assert found["last"] == (lens.example.read[0],)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("", "Rome"), {}, "prompt"),
        (("   ", "Rome"), {}, "prompt"),
        ((PROMPT, ""), {}, "target is empty"),
        ((PROMPT, "  "), {}, "target is empty"),
        ((PROMPT, None), {}, "needs a target"),
        ((PROMPT, None), {"loss": "target"}, "needs a target"),
        ((PROMPT, "</s>"), {}, "special token"),
        ((PROMPT, "Rome"), {"loss": "nll"}, "choose first, target"),
        ((PROMPT, "Rome"), {"loss": "kl"}, "needs reference"),
        ((PROMPT, "Rome"), {"loss": "logit-difference", "against": "Rome"}, "own first token"),
        (("T", None), {"loss": "all"}, "at least two tokens"),
        ((PROMPT + " tower" * 400, "Rome"), {}, "takes at most 256"),
        ((PROMPT, "Rome"), {"mode": "x"}, "no mode"),
        ((PROMPT, "Rome"), {"matrices": ["W1"]}, "has no matrix"),
        ((PROMPT, "Rome"), {"subject": "Louvre"}, "does not occur"),
        ((PROMPT, "Rome"), {"subject": ""}, "does not occur"),
        ((PROMPT, None), {"loss": "all", "against": None, "subject": "Rome"}, "does not occur"),
        ((PROMPT, "a\0b"), {}, "NUL"),
        ((PROMPT, "a\ud800"), {}, "surrogate"),
        ((PROMPT, "Rome"), {"loss": "logit-difference", "against": "\ud800"}, "surrogate"),
        ((PROMPT, None), {"loss": "kl", "reference": "tower " * 300}, "takes 1 to 256"),
        ((PROMPT, None), {"loss": lambda logits: logits[0]}, "one number"),
        ((PROMPT, None), {"loss": lambda _: torch.tensor(1.0)}, "does not depend"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(InputError, match=message):
        backward_lens(tiny_model("llama"), *arguments, **options)


def test_a_prompt_of_one_token():
    lens = backward_lens(tiny_model("llama"), "T", "Rome", subject="T")
    assert lens.rank(0, "down") == 1
    assert lens.segments()["last"] == lens.segments()["first subject"] == (0,)


def test_lists_that_do_not_match():
    lm = tiny_model("llama")
    with pytest.raises(InputError, match="do not match"):
        backward_lenses(lm, [PROMPT], ["a", "b"])
    with pytest.raises(InputError, match="batch_size"):
        backward_lenses(lm, [PROMPT], ["a"], batch_size=0)
    # All are checked before the first one runs.
    with pytest.raises(InputError, match="empty"):
        backward_lenses(lm, [PROMPT, PROMPT], ["Rome", " "])
