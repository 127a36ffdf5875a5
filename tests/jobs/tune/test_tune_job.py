"""A whole tuning on tiny models: what is written, what is kept, and that the model is left as it was."""

import json

import pytest
from pyarrow import parquet

from errata.edit import read_preset, settings_for
from errata.errors import ConfigError, FactsError
from errata.jobs.edit_job import edit_facts
from errata.jobs.tune.tune_job import drawn, tune
from errata.jobs.tune.tune_options import TuneOptions
from errata.reports.tune_report import write_tuning
from tiny import tiny_model

SMALL = {"value_steps": 2, "prefixes": 0, "clamp": 4.0, "learning_rate": 0.5, "moment_tokens": 200}


class Clock:
    """Every look takes a tenth of a second, whatever the machine does."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.1
        return self.now


def tuned(variant, facts, out, corpus, method="memit", clock=None, minutes=0.5, fields=SMALL, seed=0):
    options = TuneOptions(method=method, minutes=minutes, count=4, fields=fields, text_tokens=30, seed=seed)
    result = tune(tiny_model(variant), facts[:12], out, options=options, corpus=corpus, clock=clock or Clock())
    write_tuning(result)
    return result


@pytest.mark.parametrize(
    ("variant", "method", "fields"),
    [
        ("llama", "memit", SMALL),
        ("gpt2", "pmet", SMALL),
        ("gemma2", "emmet", SMALL),
        ("falcon", "alphaedit", SMALL),
        ("phi3", "ft", {"epochs": 2}),
    ],
)
def test_writes_a_table_a_figure_and_a_preset(variant, method, fields, facts, tmp_path, corpus):
    lm = tiny_model(variant)
    before = lm.digest(fresh=True)
    found = tuned(variant, facts, tmp_path / "out", corpus, method, fields=fields)
    assert lm.digest(fresh=True) == before
    rows = parquet.read_table(tmp_path / "out" / "tuning.parquet").to_pylist()
    assert {"first", "last", "held out"} <= {row["stage"] for row in rows}
    assert all(row["es"] is not None or row["out"] for row in rows)
    chosen = [row for row in rows if row["chosen"]]
    assert {row["stage"] for row in chosen} == {"last", "held out"}
    if "value_steps" in fields:
        assert all(row["short_nll"] > 0 for row in rows)
    preset = read_preset(tmp_path / "out" / "preset.json")
    assert preset == found.preset
    assert settings_for(lm, 4, preset=preset).config == found.chosen.trial.config
    assert (tmp_path / "out" / "pareto.png").read_bytes()[:4] == b"\x89PNG"
    assert found.search.spent <= 30
    edited = edit_facts(lm, facts[:3], preset=tmp_path / "out" / "preset.json", corpus=corpus)
    assert edited.report["method"] == method
    assert "errata tune with 4 facts" in edited.report["config_source"]


def test_stopped_and_started_again_it_chooses_the_same(facts, tmp_path, corpus, monkeypatch):
    whole = tuned("llama", facts, tmp_path / "whole", corpus)
    from errata.jobs.tune.worker import ModelWorker

    edit, calls = ModelWorker.edit, []

    def dying(self, config, facts, *, drift):
        calls.append(config)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return edit(self, config, facts, drift=drift)

    monkeypatch.setattr(ModelWorker, "edit", dying)
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "another home"))
    with pytest.raises(KeyboardInterrupt):
        tuned("llama", facts, tmp_path / "stopped", corpus)
    found = tuned("llama", facts, tmp_path / "stopped", corpus)
    assert found.preset == whole.preset
    # Six were made before; the seventh and the rest are made now.
    assert len(calls) - 1 == len(list((tmp_path / "whole" / "trials").glob("edit-*")))
    for name in ("preset.json", "tuning.csv", "summary.md"):
        assert (tmp_path / "stopped" / name).exists()
    assert json.loads((tmp_path / "stopped" / "preset.json").read_text())["tuning"] == whole.preset.tuning


def test_too_little_time_and_too_few_facts(facts, tmp_path, corpus):
    with pytest.raises(ConfigError, match="are too few"):
        tuned("llama", facts, tmp_path / "out", corpus, minutes=0.02)
    assert not (tmp_path / "out" / "preset.json").exists()
    with pytest.raises(FactsError, match="Give more facts"):
        tuned("llama", facts[:4], tmp_path / "out", corpus)


def test_the_seed_draws_the_facts(facts):
    options = TuneOptions(count=4)
    assert drawn(facts, options) == drawn(facts, options)
    assert drawn(facts, options) != drawn(facts, TuneOptions(count=4, seed=1))
    assert not set(drawn(facts, TuneOptions(count=4, first=12))) & set(facts[:12])
