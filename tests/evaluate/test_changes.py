"""Changed first choices, by hand and on a model whose weights are changed."""

import json
from dataclasses import replace

import pytest
import torch

from errata.errors import InputError
from errata.evaluate import FactScore, Measurement, PromptScore, TargetScore, changes, measure, metric
from errata.evaluate.scores import summarize, summarize_zsre
from errata.facts import Fact, Neighbour
from reference import evaluation as reference
from tiny import fresh_model

TARGET = TargetScore(target="t", log_prob=-1.0, tokens=1, right=0)


def prompts(*firsts):
    return tuple(PromptScore(text=str(i), new=TARGET, first=first) for i, first in enumerate(firsts))


def measurement(*facts):
    return Measurement(facts, summarize(facts), summarize_zsre(facts))


def fact(name, own, paraphrases=(), neighbours=()):
    (prompt,) = prompts(own)
    return FactScore(id=name, prompt=prompt, paraphrases=prompts(*paraphrases), neighbours=prompts(*neighbours))


BEFORE = measurement(fact("a", 1, (1, 2), (3, 4, 5)), fact("b", 1, (), (7,)), fact("c", None))
AFTER = measurement(fact("a", 2, (1, 3), (4, 4, 6)), fact("b", 1, (), (7,)), fact("c", 5))


def test_by_hand():
    found = changes(BEFORE, AFTER)
    assert found.prompts_changed == metric([1, 0])  # a choice that is not known has not changed
    assert found.paraphrases_changed == metric([1 / 2])
    assert found.neighbours_changed == metric([2 / 3, 0])
    assert changes(BEFORE, BEFORE).neighbours_changed.value == 0
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert stored["prompts_changed"] == 50
    assert stored["counts"]["neighbours_changed"] == 2
    assert stored["interval_95"]["neighbours_changed"] == found.neighbours_changed.interval


def test_other_prompts_are_refused():
    with pytest.raises(InputError, match="3 and 2 facts"):
        changes(BEFORE, measurement(*AFTER.facts[:2]))
    other = replace(AFTER.facts[0], neighbours=prompts(4, 4))
    with pytest.raises(InputError, match="fact 'a' are of different prompts"):
        changes(BEFORE, measurement(other, *AFTER.facts[1:]))


def test_on_a_model_whose_weights_change():
    lm = fresh_model("gpt2")
    subjects = ["France", "Paris", "Toyota", "Microsoft", "Rome", "Japan"]
    facts = [
        Fact(
            subject=subject,
            prompt="{} is in",
            target_new="Italy",
            paraphrases=("I know that {} is", "{}, of course, is in"),
            neighbours=(Neighbour(prompt="The tower is in"), Neighbour(prompt=f"Not {subject} but the wall is")),
        )
        for subject in subjects
    ]
    before = measure(lm, facts)
    choices = {score.text: score.first for f in before.facts for score in (f.prompt, *f.paraphrases, *f.neighbours)}
    with torch.no_grad():
        lm.down_weight(2).add_(0.2 * torch.randn(lm.d_mlp, lm.d_model, generator=torch.Generator().manual_seed(0)))
    found = changes(before, measure(lm, facts))

    def changed(text):
        return reference.score(lm, text, "Italy").first != choices[text]

    assert found.prompts_changed == metric([changed(f.text) for f in facts])
    assert found.paraphrases_changed == metric([sum(map(changed, f.paraphrases)) / 2 for f in facts])
    assert found.neighbours_changed == metric([sum(changed(n.prompt) for n in f.neighbours) / 2 for f in facts])
    assert 0 < found.paraphrases_changed.value < 100
