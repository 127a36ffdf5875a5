"""Whatever a model's results depend on changes the name of everything that is kept of it."""

from contextlib import contextmanager

import pytest
import torch

from errata.backends import LOCAL
from errata.core.progress import SILENT
from errata.edit.methods.knowledge_neurons.neuron_attribution import Question
from errata.edit.methods.knowledge_neurons.neuron_choice import Search, _keys
from errata.edit.methods.memit import MemitConfig
from errata.edit.settings.training_config import FineTuningConfig
from errata.edit.training.checkpoint import Checkpoint
from errata.edit.values.collect import value_keys
from errata.facts import Fact
from errata.jobs.bench.bench_job import _shared
from errata.jobs.eval_states import model_digest
from errata.jobs.reproduce.reproduce_job import ReproduceOptions, _Run
from errata.jobs.trace_job import TraceRun
from errata.jobs.train_work import TrainOptions, checked_work
from errata.models import fingerprint, wrap
from errata.stats import Corpus
from errata.stats.recipe import stream_digest
from errata.store import digest
from errata.store.json_records import Records
from errata.store.kept import Kind
from errata.tracing import TraceConfig
from errata.tracing.prompts import traced_fact
from tiny import tiny_hf, tiny_tokenizer

FACTS = [
    Fact(subject="The Eiffel Tower", prompt="The Eiffel Tower is in the city of", target_new="Rome"),
    Fact(subject="Microsoft", prompt="Microsoft was founded by", target_new="Bill Gates"),
]


def model(*, bos=False, dtype=torch.float32, change=None, **config):
    hf = tiny_hf("llama", dtype=dtype, **config)
    if change is not None:
        with torch.no_grad():
            change(hf)
    return wrap(hf, tiny_tokenizer(bos), name="tiny")


def with_attention(name):
    lm = model()
    lm.hf.set_attn_implementation(name)
    return lm


@contextmanager
def precision(name):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def training_key(lm, folder):
    texts = Corpus.from_texts(["Paris is in France. " * 20] * 8)
    options = TrainOptions(corpus=texts, valid=1, skip_bad=False, cache=folder, places={}, overrides={"layers": (1,)})
    work = checked_work(lm, FACTS, options, SILENT)
    return digest(work.request)


def trace_key(lm, folder):
    known = ((FACTS[0], traced_fact(lm, FACTS[0])),)
    (part,) = TraceRun(lm, TraceConfig(), 1.0, (), known, (), (), (), 0, Records(folder))._parts()
    return part.key


VALUES, TUNING = MemitConfig(layers=(1, 2)), FineTuningConfig(layers=(1,))
SEARCH = Search(layers=(1,), steps=4, threshold=0.2, share=0.5, max_neurons=3)
# Of each kind of kept thing, what it is found by.
KINDS = {
    "target values": lambda lm, _: value_keys(lm, FACTS, VALUES, [""])[0],
    "second moments and samples": lambda lm, _: stream_digest(lm, ["text"], 100),
    "neurons": lambda lm, _: _keys(lm, [[Question((5, 6), 7)]], SEARCH)[0],
    "fine-tuning": lambda lm, folder: Checkpoint.of(lm, [], TUNING, folder).key,
    "an editor's training": training_key,
    "evaluation and tuning": lambda lm, _: model_digest(lm),
    "benchmark": lambda lm, _: _shared(lm, None, None),
    "traces": trace_key,
    "experiments": lambda lm, folder: _Run(lm, folder, ReproduceOptions(), SILENT, LOCAL).shared,
}
CHANGES = {
    "weights": lambda: model(change=lambda hf: hf.model.layers[3].mlp.down_proj.weight[0, 0].add_(1e-3)),
    "norm's epsilon": lambda: model(rms_norm_eps=1e-3),
    "rotary base": lambda: model(rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}),
    "activation": lambda: model(hidden_act="gelu"),
    "tokenizer": lambda: model(bos=True),
    "number format": lambda: model(dtype=torch.bfloat16),
}
# What moves the last bits only: second moments, which take minutes and are compared to rounding, are taken anyway.
ROUNDING = {"attention": lambda: with_attention("eager")}


@pytest.fixture(scope="module")
def base():
    return model()


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_model_has_other_keys(kind, base, tmp_path):
    key = KINDS[kind]
    expected = key(base, tmp_path)
    assert key(model(), tmp_path) == expected, "the same model, loaded again"
    found = {name: key(change(), tmp_path) for name, change in CHANGES.items()}
    with precision("high"):
        found["precision of products"] = key(base, tmp_path)
    if "second moments" not in kind:
        found |= {name: key(change(), tmp_path) for name, change in ROUNDING.items()}
    assert [name for name, value in found.items() if value == expected] == []
    assert len(set(found.values())) == len(found)


def test_the_device_counts_where_the_last_bits_do(base, monkeypatch):
    keys = {rounding: fingerprint(base, Kind("x", 1), rounding=rounding) for rounding in (True, False)}
    monkeypatch.setattr(type(base), "device", property(lambda _: torch.device("meta")))
    assert fingerprint(base, Kind("x", 1)) != keys[True]
    assert fingerprint(base, Kind("x", 1), rounding=False) == keys[False]


def test_the_code_and_the_purpose_count(base):
    assert len({fingerprint(base, Kind(*asked)) for asked in (("x", 1), ("x", 2), ("y", 1))}) == 3
