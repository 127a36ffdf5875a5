"""Features against one fact at a time, and the prediction on data whose answer is known."""

import numpy as np
import pytest
import torch

from errata import measure
from errata.facts import Fact, Neighbour
from errata.jobs.bench.features import FEATURES, features
from errata.jobs.bench.study import auc, failed, predict
from errata.stats import SecondMoments
from reference import memit as reference
from tiny import VARIANTS, tiny_model

NAMES = ["signal", "noise"]
FACTS = [
    Fact(subject="The Eiffel Tower", prompt="The Eiffel Tower is located in the city of", target_new="Rome"),
    Fact(subject="Danielle Darrieux", prompt="The mother tongue of {} is", target_new="English and more"),
    Fact(subject="France", prompt="France has its capital in", target_new="Rome"),
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_equal_the_slow_way(variant):
    lm, layer = tiny_model(variant), 1
    facts = [
        Fact(
            subject=fact.subject,
            prompt=fact.prompt,
            target_new=fact.target_new,
            neighbours=(Neighbour(prompt="The Great Wall is in", answer="China"),) if i else (),
        )
        for i, fact in enumerate(FACTS)
    ]
    rows = torch.randn(2 * lm.d_mlp, lm.d_mlp, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moment = rows.T @ rows / len(rows)
    moments = SecondMoments({layer: moment}, 500, 500, 1, "random", "x", "y")
    before = {score.id: score for score in measure(lm, facts).facts}
    found = features(lm, facts, before, layer, moments, together=True)
    apart = features(lm, facts, before, layer, moments, together=False)
    assert torch.equal(apart[:, 1:-1].nan_to_num(), found[:, 1:-1].nan_to_num())
    assert apart[:, -1].isnan().all()
    keys = torch.stack([reference.context_keys(lm, fact, layer, [""])[0] for fact in facts]).double()
    inverse = torch.linalg.inv(moment)
    for i, fact in enumerate(facts):
        row = dict(zip(FEATURES, found[i].tolist(), strict=True))
        rank, vjp, nll = by_hand(lm, fact, layer)
        assert 10 ** row["target_rank"] == pytest.approx(rank)
        assert row["vjp_norm"] == pytest.approx(vjp, rel=1e-4, abs=1e-9)
        assert row["target_nll"] == pytest.approx(nll, rel=1e-4)
        assert row["key_norm"] == pytest.approx(float(keys[i] @ inverse @ keys[i]), rel=1e-5)
        assert row["subject_tokens"] == len(lm.tokenizer(fact.subject)["input_ids"])
        cosines = [
            float(keys[i] @ inverse @ other / ((keys[i] @ inverse @ keys[i]) * (other @ inverse @ other)).sqrt())
            for j, other in enumerate(keys)
            if j != i
        ]
        assert row["key_similarity"] == pytest.approx(max(cosines), rel=1e-4)
        assert np.isnan(row["object_prior"]) == (i == 0)


def by_hand(lm, fact, layer):
    """Rank of the target's first token, its VJP's norm at the MLP's output at the subject, the target's NLL."""
    text = fact.text + " " + fact.target_new
    ids, target = reference.find(lm.tokenizer, text, len(fact.text) + 1, len(text))
    _, subject = reference.find(lm.tokenizer, text, *fact.subject_span)
    held = []

    def keep(_module, _arguments, output):
        held.append(output.detach().requires_grad_())
        return held[-1] * 1  # Falcon adds to it in place

    handle = lm.down(layer).register_forward_hook(keep)
    log_probs = lm.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    handle.remove()
    at = target[0] - 1
    (gradient,) = torch.autograd.grad(-log_probs[at, ids[target[0]]], held[0])
    rank = 1 + int((log_probs[at] > log_probs[at, ids[target[0]]]).sum())
    nll = -float(torch.stack([log_probs[t - 1, ids[t]] for t in target]).mean().detach())
    return rank, float(gradient.reshape(len(ids), -1)[subject[-1]].norm()), nll


def sample(strength, count=300, seed=0):
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(count, 2))
    return rows, (strength * rows[:, 0] + draw.normal(size=count) > 0).tolist()


def test_a_strong_feature_predicts_and_noise_does_not():
    rows, labels = sample(3.0)
    found = predict(NAMES, rows, labels, failure="prompt", seed=0)
    assert found.auc is not None
    assert found.interval is not None
    assert found.auc > 0.9
    assert found.interval[0] < found.auc < found.interval[1]
    assert found.single["signal"] > 0.9
    assert abs(found.single["noise"] - 0.5) < 0.1
    assert found.weights["signal"] > 5 * abs(found.weights["noise"])
    rows, labels = sample(0.0)
    chance = predict(NAMES, rows, labels, failure="prompt", seed=0)
    assert chance.auc is not None
    assert abs(chance.auc - 0.5) < 0.1


def test_records_are_predicted_by_fits_without_them():
    """With more features than records, a fit on all records would tell them apart perfectly."""
    draw = np.random.default_rng(0)
    rows, labels = draw.normal(size=(60, 100)), [i % 2 == 0 for i in range(60)]
    found = predict([str(i) for i in range(100)], rows, labels, failure="prompt", seed=0)
    assert found.auc is not None
    assert found.auc < 0.75


def test_missing_and_constant_features():
    rows, labels = sample(3.0)
    rows[::7, 0] = np.nan
    rows[:, 1] = 4.0
    found = predict(NAMES, rows, labels, failure="prompt", seed=0)
    assert found.auc is not None
    assert found.auc > 0.8
    assert found.single["noise"] == 0.5
    rows[:, 1] = np.nan
    alone = predict(NAMES, rows, labels, failure="prompt", seed=0)
    assert list(alone.single) == ["signal"]


def test_too_few_failures_give_no_statement():
    rows, _ = sample(1.0, count=50)
    found = predict(NAMES, rows, [i < 9 for i in range(50)], failure="prompt", seed=0)
    assert (found.auc, found.interval, found.single) == (None, None, {})
    assert found.share == pytest.approx(0.18)


def test_auc_is_the_chance_of_the_right_order():
    labels, scores = np.array([True, True, False, False]), np.array([3.0, 1.0, 1.0, 0.0])
    assert auc(labels, scores) == (1 + 1 + 0.5 + 1) / 4


def test_what_counts_as_failure():
    outcome = {"values": {"accuracy": 0.0, "ps": 0.5, "ns": 0.5}, "before": {"ns": 1.0}}
    assert [failed(outcome, kind) for kind in ("prompt", "paraphrase", "neighbour")] == [True] * 3
    fine = {"values": {"accuracy": 1.0, "ps": 1.0, "ns": 0.0}, "before": {"ns": 0.0}}
    assert [failed(fine, kind) for kind in ("prompt", "paraphrase", "neighbour")] == [False] * 3
    bare = {"values": {"accuracy": 1.0}, "before": {}}
    assert [failed(bare, kind) for kind in ("prompt", "paraphrase", "neighbour")] == [False, None, None]
