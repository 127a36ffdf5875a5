"""A workbench makes what its work shares once: prefixes, second moments, the unedited model's view of a text."""

import pytest
import torch

from errata.edit import find_method
from errata.edit.methods.memit import MemitConfig
from errata.jobs import workbench
from errata.jobs.held_out import HeldOut
from errata.jobs.workbench import Workbench
from errata.stats import Corpus
from tiny import fresh_model

CONFIG = MemitConfig(layers=(1, 2), moment_tokens=100, prefixes=1, prefix_tokens=3)
ROWS = [[5, 6, 7, 8], [9, 10, 11]]


@pytest.fixture
def bench(tmp_path):
    text = Corpus.from_texts(["Rome is the capital of Italy."] * 40)
    return Workbench(fresh_model("llama"), text, tmp_path, held_out=HeldOut("rows", (), lambda: ROWS))


def test_what_is_shared_is_made_once(bench, monkeypatch):
    memit = find_method("memit")
    first, prefixes = bench.moments(memit, CONFIG), bench.prefixes(memit, CONFIG)
    with monkeypatch.context() as patched:
        for name in ("run_stats", "context_prefixes"):
            patched.setattr(workbench, name, lambda *_, **__: pytest.fail("made again"))
        assert bench.moments(memit, CONFIG.replace(clamp=2.0)) is first
        assert bench.prefixes(memit, CONFIG.replace(clamp=2.0)) == prefixes
    other = bench.moments(memit, CONFIG.replace(layers=(1,)))
    assert other is not None
    assert list(other) == [1]
    assert torch.equal(other[1], first[1])


def test_methods_without_them_get_none(bench):
    shift = find_method("shift")
    config = shift.guess(bench.lm)
    assert bench.moments(shift, config) is None
    assert bench.task((), shift, config, None).prefixes == bench.prefixes(shift, config)


def test_drift_is_against_the_model_as_it_was_looked_at(bench):
    assert bench.drift() is None
    bench.look_at_text(None, 2)
    assert bench.drift().measure().kl_drift.value == 0
    with torch.no_grad():
        bench.lm.down_weight(2).mul_(3)
    assert bench.drift().measure().kl_drift.value > 0
    assert bench.drift().measure().positions > bench.drift(2).measure().positions
