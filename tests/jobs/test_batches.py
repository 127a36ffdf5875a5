"""Editing in batches and one after another: what each batch sees, what the patch holds, what is left behind."""

from contextlib import nullcontext

import pytest
import torch

from errata import Fact, Patch, edit_facts
from errata.core.progress import SILENT
from errata.core.updates import WeightUpdate, add_
from errata.edit import METHODS, Edit, EditTask, settings_for
from errata.errors import ConfigError, NumericsError
from errata.jobs import batches as batches_module
from errata.models import Place, run_taps, weights_restored
from errata.reports.edit_summary import summary
from errata.stats import Corpus, second_moments
from tiny import tiny_model

TEXTS = [f"Tower {i} is in Paris, which is the capital of France." for i in range(40)]
TARGETS = [("Toyota", "China"), ("Bill Gates", "Rome"), ("France", "Japan"), ("Microsoft", "Paris"), ("Rome", "Canada")]
FACTS = [
    Fact(subject=s, prompt=f"{s} is in", target_new=t, target_true="Italy", paraphrases=(f"I know that {s} is in",))
    for s, t in TARGETS
]
SMALL = {"layers": (1, 2), "value_steps": 4, "prefixes": 1, "clamp": 20.0, "weight_decay": 0.0, "retries": 0}
METHOD_SETTINGS = {
    "memit": {**SMALL, "past_keys": True, "prior_weight": 5.0},
    "alphaedit": {**SMALL, "threshold": 0.9, "threshold_unit": "share", "ridge": 0.1},
    "rome": {**SMALL, "layers": (1,), "short_prefixes": 0},
    "shift": {"layers": (2,), "learning_rate": 0.05},
    "ft": {"layers": (1,), "matrices": "down", "epochs": 2, "learning_rate": 1e-2},
    "kn": {"layers": (1, 2), "prefixes": 1, "steps": 3, "max_neurons": 3},
}


@pytest.fixture(scope="module")
def lm():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def moments(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("moments")
    return second_moments(lm, [1, 2], corpus=Corpus.from_texts(TEXTS), tokens=300, cache=folder)


def by_hand(lm, moments, method, size, cache):
    """Each batch edited by the method itself on weights that really hold the batches before."""
    config = settings_for(lm, method=method, **METHOD_SETTINGS[method]).config
    prefixes = ("", "The tower. ") if METHODS[method].uses_prefixes else ("",)
    places = [Place(layer, "down") for layer in config.layers]
    past, total = {}, {}
    with weights_restored(lm, places):
        for at in range(0, len(FACTS), size):
            batch = tuple(FACTS[at : at + size])
            task = EditTask(
                lm, batch, config, prefixes, moments, 32, cache, SILENT, lambda _: nullcontext(),
                {layer: torch.cat(keys) for layer, keys in past.items()},
            )  # fmt: skip
            edit = METHODS[method].edit(task)
            for place, update in edit.updates.items():
                total[place] = total.get(place, 0) + update.matrix()
                add_(lm.down_weight(place.layer), update)
            for layer, keys in edit.keys.items():
                past.setdefault(layer, []).append(keys)
    return total


@pytest.mark.parametrize("size", [1, 2, 5, 99])
@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_equals_batch_after_batch_by_hand(lm, moments, method, size, tmp_path, monkeypatch):
    monkeypatch.setattr("errata.jobs.workbench.context_prefixes", lambda *_: ("", "The tower. "))
    before = lm.digest()
    result = edit_facts(
        lm, FACTS, method=method, in_batches=size, moments=moments, cache=tmp_path / "a", evaluate=False,
        **METHOD_SETTINGS[method],
    )  # fmt: skip
    assert lm.digest() == before
    expected = by_hand(lm, moments, method, size, tmp_path / "b")
    assert set(result.patch.updates) == set(expected)
    for place, update in result.patch.updates.items():
        assert torch.allclose(update.matrix(), expected[place], rtol=1e-4, atol=1e-6)
    assert len(result.report["batches"]) == -(-len(FACTS) // size)
    assert result.patch.info["in_batches"] == result.report["in_batches"] == size


def test_the_preset_is_the_one_for_a_batch(lm, moments, tmp_path, monkeypatch):
    """Not the one for all facts together: they are not written together."""
    asked = []
    wanted = settings_for(lm, **METHOD_SETTINGS["memit"])
    monkeypatch.setattr("errata.jobs.edit_job.settings_for", lambda _, n, **__: (asked.append(n), wanted)[1])
    for size in (None, 1, 2, 99):
        edit_facts(lm, FACTS, in_batches=size, moments=moments, cache=tmp_path, evaluate=False)
    assert asked == [5, 1, 2, 5]


def test_mend_in_batches(lm, tmp_path):
    """Its editor belongs to the unedited weights, which later batches no longer find."""
    from errata.edit.methods.mend.editor_file import new_editor, save_editor
    from errata.edit.methods.mend.mend_config import MendConfig

    config = MendConfig(layers=(2,), matrices="down", rank=4, start_rate=1e-3)
    save_editor(tmp_path / "editor.safetensors", new_editor(lm, config), lm, config, {})
    options = {"method": "mend", "editor": str(tmp_path / "editor.safetensors"), "evaluate": False}
    before = lm.digest()
    result = edit_facts(lm, FACTS, in_batches=2, **options)
    assert lm.digest() == before
    assert len(result.report["batches"]) == 3
    assert len(result.patch.info["config"]["editor_digest"]) == 64


def test_one_batch_of_all_is_at_once(lm, moments, tmp_path):
    options = {"moments": moments, "cache": tmp_path, "evaluate": False, **METHOD_SETTINGS["memit"]}
    together = edit_facts(lm, FACTS, **options)
    batch = edit_facts(lm, FACTS, in_batches=len(FACTS), **options)
    for place, update in together.patch.updates.items():
        assert torch.equal(update.matrix(), batch.patch.updates[place].matrix())
    assert together.report["in_batches"] is None
    apart = edit_facts(lm, FACTS, in_batches=1, **options)
    assert not torch.allclose(
        apart.patch.updates[Place(2, "down")].matrix(), together.patch.updates[Place(2, "down")].matrix(), rtol=1e-2
    )


def test_past_keys_hold_earlier_facts(lm, moments, tmp_path):
    """A later batch whose keys hardly differ overwrites earlier facts, unless their keys are in its system."""
    ends = {}
    for held in (False, True):
        options = {**METHOD_SETTINGS["memit"], "layers": (1,), "prior_weight": 1e-3, "past_keys": held}
        result = edit_facts(lm, FACTS, in_batches=1, moments=moments, cache=tmp_path, evaluate=False, **options)
        first = result.patch.keys[1][:1]
        update = result.patch.updates[Place(1, "down")].matrix()
        alone = edit_facts(lm, FACTS[:1], moments=moments, cache=tmp_path, evaluate=False, **options)
        wanted = first @ alone.patch.updates[Place(1, "down")].matrix()
        ends[held] = float((first @ update - wanted).norm() / wanted.norm())
    assert ends[True] < 0.1 * ends[False]


def test_measured_right_after_each_batch_and_at_the_end(lm, moments, tmp_path):
    result = edit_facts(lm, FACTS, in_batches=2, moments=moments, cache=tmp_path, **METHOD_SETTINGS["memit"])
    told = result.report["batches"]
    assert [batch["facts"] for batch in told] == [2, 2, 1]
    for batch in told:
        assert set(batch["immediately"]) >= {"es", "ps", "score", "accuracy", "zsre"}
        assert batch["residual"]["end"] < batch["residual"]["start"]
    assert result.after is not None
    # Of the last batch, right after and at the end are the same state of the model.
    last = result.after.facts[-1]
    assert told[-1]["immediately"]["es"] == 100.0 * (last.prompt.true.nll > last.prompt.new.nll)
    assert "3 batches" in summary(result.report)


def test_facts_that_later_batches_take_away_are_not_said(lm, tmp_path, monkeypatch):
    """Each batch teaches its fact and undoes the one before, the last one only undoes."""
    place, facts, written = Place(3, "down"), FACTS[:3], []

    def teach(fact):
        ids = torch.tensor([lm.tokenizer(fact.text)["input_ids"]])
        target = lm.tokenizer(" " + fact.target_new)["input_ids"]
        assert len(target) == 1
        key = run_taps(lm, ids, torch.ones_like(ids), [place])[0][place][0, -1]
        return WeightUpdate.from_factors((key / key.norm())[None], 3 * lm.lm_head.weight[target[0]].detach()[None])

    def edit(task):
        update = WeightUpdate(dense=-written[-1].matrix()) if written else None
        if len(written) < len(facts) - 1:
            written.append(teach(task.facts[0]))
            update = written[-1].plus(update) if update else written[-1]
        return Edit({place: update}, {})

    monkeypatch.setitem(METHODS, "sgd", batches_module.replace(METHODS["sgd"], edit=edit))
    report = edit_facts(lm, facts, method="sgd", in_batches=1, layers=(3,), evaluate=False, cache=tmp_path).report
    assert report["guard"] == {"said": 0, "said_right_after": [1, 1, 0]}
    assert [batch["guard"]["excess"] for batch in report["batches"]] == [None] * 3
    assert "Of 3 facts the model says none afterwards" in report["failed"]


def test_a_patch_of_batches_is_saved_applied_and_undone(lm, moments, tmp_path):
    result = edit_facts(
        lm, FACTS, in_batches=2, moments=moments, cache=tmp_path, evaluate=False, **METHOD_SETTINGS["memit"]
    )
    loaded = Patch.load(result.patch.save(tmp_path / "patch"))
    before = lm.digest()
    with loaded.applied(lm):
        assert lm.digest() != before
    assert lm.digest() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_the_exact_bits(lm, moments, tmp_path, monkeypatch, error):
    before, during = lm.digest(), []

    def interrupt(*_):
        during.append(lm.digest())
        if len(during) == 2:
            raise error
        return {}

    monkeypatch.setattr("errata.jobs.edit_job.right_after", interrupt)
    with pytest.raises(error):
        edit_facts(lm, FACTS, in_batches=2, moments=moments, cache=tmp_path, **METHOD_SETTINGS["memit"])
    assert during[0] != before
    assert during[1] != during[0]
    assert lm.digest() == before


def test_a_method_that_diverges_says_so(lm, moments, tmp_path, monkeypatch):
    broken = Edit({Place(1, "down"): WeightUpdate(dense=torch.full((80, 32), float("nan")))}, {})
    method = METHODS["memit"]
    monkeypatch.setitem(METHODS, "memit", batches_module.replace(method, edit=lambda _: broken))
    before = lm.digest()
    for order in (None, 2):
        with pytest.raises(NumericsError, match="down of layer 1"):
            edit_facts(
                lm, FACTS, in_batches=order, moments=moments, cache=tmp_path, evaluate=False,
                **METHOD_SETTINGS["memit"],
            )  # fmt: skip
    assert lm.digest() == before


@pytest.mark.parametrize("size", [0, -1])
def test_bad_sizes(lm, size):
    with pytest.raises(ConfigError, match="in_batches"):
        edit_facts(lm, FACTS, in_batches=size)


def test_sums_of_updates():
    generator = torch.Generator().manual_seed(0)
    factors = [
        WeightUpdate.from_factors(torch.randn(r, 8, generator=generator), torch.randn(r, 5, generator=generator))
        for r in (1, 2, 4)
    ]
    assert [update.dense is None for update in factors] == [True, True, False]
    for one in factors:
        for other in factors:
            assert torch.allclose(one.plus(other).matrix(), one.matrix() + other.matrix(), atol=1e-6)
    assert factors[0].plus(factors[0]).left is not None
    assert factors[1].plus(factors[1]).dense is not None
