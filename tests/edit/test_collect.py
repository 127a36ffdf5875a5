"""Collected target values: kept by what they depend on, resumed where a run stopped, with the bits of a whole run."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from edit_helpers import FACTS, PREFIXES, InterruptingSink, relative

from errata.edit.methods.memit import MemitConfig
from errata.edit.values import collect
from errata.edit.values.collect import collect_values, plan_batches, value_keys
from errata.edit.values.targets import evaluations, target_values
from errata.facts import Fact
from tiny import fresh_model, tiny_model

CONFIG = MemitConfig(layers=(1, 2), value_steps=4, learning_rate=0.1)
MORE = [
    Fact(subject=name, prompt="{} speaks", target_new=target)
    for name, target in (("Canada", "Rome"), ("Japan", "French and Italy"))
]
ALL = [*FACTS, *MORE]
TESTS = Path(__file__).resolve().parent.parent

# Stops before its second batch for as long as it takes to be killed.
_CHILD = """
import sys, time
sys.path[:0] = [{tests!r}, {edit!r}]
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_collect import ALL, CONFIG, PREFIXES, collect, collect_values, tiny_model

original, calls = collect.target_values, []
def watched(*arguments, **options):
    calls.append(1)
    if len(calls) == 2:
        print("one batch done", flush=True)
        time.sleep(600)
    return original(*arguments, **options)
collect.target_values = watched
collect_values(tiny_model("llama"), ALL, CONFIG, PREFIXES, batch_size=2, cache=Path({cache!r}))
"""


@pytest.fixture
def computed(monkeypatch):
    """The facts of every batch that is computed, not loaded."""
    batches = []

    def counted(lm, facts, config, prefixes, **options):
        batches.append([fact.subject for fact in facts])
        return target_values(lm, facts, config, prefixes, **options)

    monkeypatch.setattr(collect, "target_values", counted)
    return batches


def _collect(cache, facts=ALL, lm=None, batch_size=2, **keywords):
    return collect_values(
        lm or tiny_model("llama"), facts, CONFIG, PREFIXES, batch_size=batch_size, cache=cache, **keywords
    )


def _planned(lm, batch_size, facts=ALL):
    return plan_batches(lm, facts, range(len(facts)), batch_size)


def _same(one, other):
    return all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def _entries(cache):
    return sorted(cache.rglob("*.safetensors"))


def test_values_come_in_the_facts_order_whatever_the_batches(tmp_path):
    lm = tiny_model("llama")
    lengths = [[len(batch) for batch in _planned(lm, size)] for size in (1, 4, 32)]
    assert lengths == [[1] * 6, [4, 2], [6]]
    assert sorted(i for batch in _planned(lm, 4) for i in batch) == list(range(6))
    assert _planned(lm, 32) != [list(range(6))], "the test needs batches in another order"
    for size in (1, 4, 32):
        found = _collect(tmp_path / str(size), batch_size=size)
        for i, fact in enumerate(ALL):
            alone = target_values(lm, [fact], CONFIG, PREFIXES)
            assert relative(found.value[i], alone.value[0]) < 1e-5
            assert int(found.updates[i]) == int(alone.updates[0])


def test_a_second_run_computes_nothing_and_gives_the_same_bits(tmp_path, computed):
    first = _collect(tmp_path)
    assert len(computed) == 3
    assert len(_entries(tmp_path)) == len(ALL)
    assert _same(_collect(tmp_path), first)
    assert len(computed) == 3


def test_a_longer_list_computes_only_what_is_new(tmp_path, computed):
    few = _collect(tmp_path, facts=ALL[:4])
    computed.clear()
    found = _collect(tmp_path, facts=ALL, batch_size=4)
    assert sorted(subject for batch in computed for subject in batch) == sorted(f.subject for f in ALL[4:])
    assert torch.equal(found.value[:4], few.value)
    for i, fact in enumerate(ALL):
        assert relative(found.value[i], target_values(tiny_model("llama"), [fact], CONFIG, PREFIXES).value[0]) < 1e-5


def test_a_long_prompt_does_not_widen_the_batch_of_short_ones():
    long = Fact(subject="Rome", prompt="So it was, " * 45 + "Rome is in", target_new="France")
    lm = tiny_model("llama")
    batches = _planned(lm, 32, [*ALL, long])
    assert sorted(map(len, batches)) == [1, len(ALL)]
    assert [len(ALL)] in batches
    widest = len(lm.tokenizer(long.text).input_ids)
    for batch in _planned(lm, 4, [long] * 3 + ALL):
        assert len(batch) * (widest if min(batch) < 3 else 64) <= max(4 * 64, widest)


def test_killed_in_the_middle_a_rerun_ends_with_the_bits_of_an_uninterrupted_run(tmp_path, computed):
    code = _CHILD.format(tests=str(TESTS), edit=str(TESTS / "edit"), cache=str(tmp_path / "killed"))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline().strip() == "one batch done"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert len(_entries(tmp_path / "killed")) == 2
    cold = _collect(tmp_path / "cold")
    batches = [*computed]
    assert len(batches) == 3
    assert _same(_collect(tmp_path / "killed"), cold)
    assert computed[3:] == batches[1:], "only what was not finished is computed"


@pytest.mark.parametrize("done", [0, 1, 2])
def test_interrupted_in_a_batch_only_that_batch_is_lost(tmp_path, computed, done):
    with pytest.raises(KeyboardInterrupt):
        _collect(tmp_path / "stopped", progress=InterruptingSink(done * evaluations(CONFIG) + 2))
    assert len(computed) == done + 1
    assert len(_entries(tmp_path / "stopped")) == 2 * done
    computed.clear()
    resumed = _collect(tmp_path / "stopped")
    assert len(computed) == 3 - done
    assert _same(resumed, _collect(tmp_path / "cold"))


def test_interrupted_while_a_batch_is_kept_that_batch_is_computed_again(tmp_path, computed, monkeypatch):
    save, saved = collect.Cache.save, []

    def interrupted(self, *arguments):
        saved.append(1)
        if len(saved) == 4:
            raise KeyboardInterrupt
        return save(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(collect.Cache, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _collect(tmp_path / "stopped")
    resumed = _collect(tmp_path / "stopped")
    assert computed[1] == computed[2]
    assert len(computed) == 4
    assert _same(resumed, _collect(tmp_path / "cold"))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_entry_is_reported_and_made_again(tmp_path, computed, damage):
    first = _collect(tmp_path)
    victim = _entries(tmp_path)[0]
    data = bytearray(victim.read_bytes())
    data[-3] ^= 16
    victim.write_bytes({"flip": bytes(data), "cut": bytes(data[:40]), "empty": b""}[damage])
    notes = []
    assert _same(_collect(tmp_path, notify=notes.append), first)
    assert len(computed) == 4, "its batch and no other"
    assert len(notes) == 1
    assert str(victim) in notes[0]
    _collect(tmp_path, notify=notes.append)
    assert (len(computed), len(notes)) == (4, 1)


def test_progress_counts_what_an_earlier_run_did(tmp_path):
    seen = []

    class Sink:
        @contextmanager
        def stage(self, what, total, unit, *, done=0):
            seen.append((what, total, unit, done))
            yield lambda amount: seen.append(amount)

        def note(self, text):
            seen.append(text)

    with pytest.raises(KeyboardInterrupt):
        _collect(tmp_path, progress=InterruptingSink(2 * evaluations(CONFIG) + 1))
    _collect(tmp_path, progress=Sink())
    each = evaluations(CONFIG)
    assert seen[0] == ("target values", 6 * each, "evaluations", 4 * each)
    assert len(seen) > 2
    assert sum(seen[1:]) == 2 * each


def _key(lm=None, fact=FACTS[0], config=CONFIG, prefixes=PREFIXES):
    (key,) = value_keys(lm or tiny_model("llama"), [fact], config, prefixes)
    return key


@pytest.mark.parametrize(
    "changed",
    [
        {"subject": "Eiffel Tower"},
        {"prompt": "The Eiffel Tower is located in the town of"},
        {"target_new": "Paris"},
        {"subject": "Paris", "prompt": "{} and Paris are in"},
        {"subject": "Paris", "prompt": "Paris and {} are in"},
    ],
)
def test_the_key_depends_on_the_fact(changed):
    fields = {"subject": FACTS[0].subject, "prompt": FACTS[0].prompt, "target_new": FACTS[0].target_new}
    assert _key(fact=Fact(**{**fields, **changed})) != _key()


def test_the_subject_s_place_counts_where_the_text_is_the_same():
    one, other = (
        Fact(subject="Paris", prompt=p, target_new="Rome") for p in ("{} and Paris are in", "Paris and {} are in")
    )
    assert one.text == other.text
    assert _key(fact=one) != _key(fact=other)


@pytest.mark.parametrize(
    "changed",
    [
        {"layers": (1, 3)}, {"value_steps": 5}, {"learning_rate": 0.2}, {"clamp": 0.8}, {"weight_decay": 0.4},
        {"kl_factor": 0.1}, {"stop_loss": 0.1}, {"schedule": "fast"},
    ],
)  # fmt: skip
def test_the_key_depends_on_the_configuration(changed):
    assert _key(config=CONFIG.replace(**changed)) != _key()


@pytest.mark.parametrize(
    "changed", [{"prior_weight": 1.0}, {"passes": 3}, {"moment_tokens": 123}, {"layers": (0, 1, 2)}]
)
def test_the_key_does_not_depend_on_what_comes_later(changed):
    assert _key(config=CONFIG.replace(**changed)) == _key()


@pytest.mark.parametrize("prefixes", [[""], PREFIXES[:2], ["", *PREFIXES[:0:-1]], [*PREFIXES[:2], "Because I said, "]])
def test_the_key_depends_on_the_prefixes(prefixes):
    assert _key(prefixes=prefixes) != _key()


def test_the_key_depends_on_the_model_and_its_tokenizer():
    lm = fresh_model("llama")
    before = _key(lm)
    assert before == _key(), "the same weights under another object"
    with torch.no_grad():
        lm.layers[3].input_layernorm.weight[0] += 1e-3
    others = [
        _key(lm),
        _key(tiny_model("llama", bos=True)),
        _key(tiny_model("gpt2")),
        _key(fresh_model("llama", dtype=torch.bfloat16)),
    ]
    assert len({before, *others}) == 5


def test_metadata_that_changes_no_value_changes_no_key():
    fields = {"subject": FACTS[0].subject, "prompt": FACTS[0].prompt, "target_new": FACTS[0].target_new}
    assert _key(fact=Fact(**fields, id="x", relation="P1", target_true="Paris", paraphrases=("{} is in",))) == _key()


def test_what_was_kept_says_what_it_took(tmp_path):
    lm = tiny_model("llama")
    first, second = (collect_values(lm, FACTS, CONFIG, PREFIXES, cache=tmp_path) for _ in range(2))
    assert first.kept_seconds == 0
    assert second.kept_seconds > 0
    part = collect_values(lm, FACTS[:1], CONFIG, PREFIXES, cache=tmp_path)
    assert part.kept_seconds == pytest.approx(second.kept_seconds / len(FACTS))


class _Watching(InterruptingSink):
    """Remembers too how much was done when a stage began."""

    def stage(self, what, total, unit, *, done=0):
        self.done = done
        return super().stage(what, total, unit, done=done)


@pytest.mark.parametrize("site", ["block", "attention and mlp"])
def test_a_batch_that_is_stopped_goes_on_to_the_same_bits_wherever_it_was(tmp_path, monkeypatch, site) -> None:
    """Facts leave the batch at different steps; one run after another is stopped at its second step."""
    monkeypatch.setattr("errata.edit.values.halfway.EVERY", 0.0)
    lm = tiny_model("llama")
    config = MemitConfig(layers=(1, 2), value_steps=8, learning_rate=0.5, stop_loss=5.9, weight_decay=0.0, clamp=20.0)
    whole = collect_values(lm, ALL, config, PREFIXES, site=site, cache=tmp_path / "whole")
    assert len(set(whole.updates.tolist())) > 1
    steps, done = int(whole.updates.max()), [-1]
    for _ in range(steps):
        sink = _Watching(at=2)
        with pytest.raises(KeyboardInterrupt):
            collect_values(lm, ALL, config, PREFIXES, site=site, cache=tmp_path / "stopped", progress=sink)
        assert sink.done > done[-1]
        done.append(sink.done)
    resumed = collect_values(lm, ALL, config, PREFIXES, site=site, cache=tmp_path / "stopped")
    for name, tensor in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], tensor), name
    assert not list((tmp_path / "stopped").rglob("halfway/*/*.safetensors"))
