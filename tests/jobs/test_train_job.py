"""Training of MEND's editor: it learns, goes on with the same bits, keeps the best, and refuses early."""

from contextlib import contextmanager

import pytest
import torch

from errata import edit_facts
from errata.edit.methods.mend import trainer as training
from errata.edit.methods.mend.editor_file import load_editor
from errata.edit.methods.mend.trainer_state import checkpoint_path
from errata.errors import ConfigError, CorpusError, CorruptFileError, FactsError, NumericsError, StorageError
from errata.facts import Fact, Neighbour
from errata.jobs import train_job, train_work
from errata.jobs.train_job import train_mend
from errata.stats import Corpus
from errata.store.tensors import load_tensors
from tiny import fresh_model, tiny_model

CITIES = ["Paris", "Rome", "China", "Japan", "Canada", "Italy"]
FACTS = [
    Fact(
        subject=f"Tower {i}", prompt="{} is in", target_new=CITIES[i % 6], target_true=CITIES[(i + 1) % 6],
        paraphrases=(f"We know that Tower {i} is in",), id=f"f{i}",
        neighbours=(Neighbour(prompt=f"Wall {i} is in", answer="Rome"),),
    )
    for i in range(12)
]  # fmt: skip
SMALL = {"layers": (2, 3), "rank": 8, "batch": 4, "learning_rate": 1e-2, "rate_learning_rate": 1e-2, "start_rate": 1e-2}


class Sink:
    """What was said; raises `error` at the `at`-th advance."""

    def __init__(self, at=None, error=KeyboardInterrupt):
        self.lines, self.at, self.error, self.advances, self.stages = [], at, error, 0, []

    @contextmanager
    def stage(self, what, total, unit, *, done=0):
        self.stages.append((what, total, unit, done))

        def advance(_amount):
            self.advances += 1
            if self.advances == self.at:
                raise self.error

        yield advance

    def note(self, text):
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))


def run(out, *, facts=FACTS, lm=None, **options):
    options = {"steps": 6, "valid": 3, "flush_seconds": 0.0, **SMALL, **options}
    return train_mend(lm or tiny_model("llama"), facts, out, **options)


def same(one, other):
    """Whether two files hold the same bits; the order of a safetensors header is left to chance."""
    (tensors, made), (others, their) = load_tensors(one), load_tensors(other)
    return made == their and set(tensors) == set(others) and all(torch.equal(tensors[n], others[n]) for n in tensors)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "phi3", "opt", "gemma2"])
def test_the_loss_on_what_it_learns_from_falls(variant, tmp_path, monkeypatch):
    lm = tiny_model(variant)
    digest, reports = lm.digest(), []
    advance = training.Trainer.advance
    monkeypatch.setattr(training.Trainer, "advance", lambda self: reports.append(advance(self)) or reports[-1])
    run(tmp_path / "e", lm=lm, steps=40, flush_seconds=1e9, learning_rate=2e-3, rate_learning_rate=2e-3,
        start_rate=1e-3, valid=8, batch=4)  # fmt: skip
    losses = [report.loss for report in reports]
    assert losses[-1] < 0.8 * losses[0]
    assert reports[-1].edit < 0.8 * reports[0].edit
    assert lm.digest() == digest
    assert not any(parameter.requires_grad for parameter in lm.hf.parameters())


def test_one_that_was_stopped_ends_with_the_same_bits(tmp_path, monkeypatch):
    options = {"steps": 9, "validate_every": 2}
    run(tmp_path / "whole.safetensors", **options)
    for at in (1, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped.safetensors", progress=Sink(at), **options)
    # In the midst of a validation, and between the best editor's file and the checkpoint.
    for name in ("validate", "save_checkpoint"):
        module = training if name == "validate" else train_job
        with monkeypatch.context() as patched:
            patched.setattr(module, name, _interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "stopped.safetensors", **options)
    sink = Sink()
    run(tmp_path / "stopped.safetensors", progress=sink, **options)
    assert any(line.startswith("Going on after step") for line in sink.lines)
    assert sink.stages[0][3] > 0
    assert same(tmp_path / "stopped.safetensors", tmp_path / "whole.safetensors")


def test_one_that_was_killed_behind_its_first_editor_goes_on(tmp_path, monkeypatch):
    out, calls = tmp_path / "e", []
    save = train_job.save_checkpoint

    def second_time(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(train_job, "save_checkpoint", second_time)
        with pytest.raises(KeyboardInterrupt):
            run(out, validate_every=1, flush_seconds=1e9)
    assert out.exists()
    assert run(out, validate_every=1).steps == 6


def _interrupted(*_arguments, **_options):
    raise KeyboardInterrupt


def test_more_steps_go_on_where_fewer_ended(tmp_path):
    run(tmp_path / "whole.safetensors", steps=8, validate_every=4)
    run(tmp_path / "parts.safetensors", steps=4, validate_every=4)
    sink = Sink()
    result = run(tmp_path / "parts.safetensors", steps=8, validate_every=4, progress=sink)
    assert sink.advances == 4
    assert result.steps == 8
    assert same(tmp_path / "parts.safetensors", tmp_path / "whole.safetensors")
    again = Sink()
    assert run(tmp_path / "parts.safetensors", steps=8, validate_every=4, progress=again).steps == 8
    assert again.advances == 0


def test_the_cache_of_hidden_states_moves_no_bit(tmp_path, monkeypatch):
    run(tmp_path / "kept.safetensors", steps=9)
    plain = training.Trainer.__init__

    def without(self, *arguments, **_options):
        plain(self, *arguments, cache_bytes=0)

    monkeypatch.setattr(training.Trainer, "__init__", without)
    run(tmp_path / "new.safetensors", steps=9)
    assert same(tmp_path / "kept.safetensors", tmp_path / "new.safetensors")


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, seed=seed)
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_the_best_by_validation_is_kept_and_patience_ends_it(tmp_path):
    sink = Sink()
    # So fast that it soon gets worse.
    result = run(
        tmp_path / "e", steps=60, validate_every=1, patience=4, learning_rate=0.1, rate_learning_rate=0.3,
        progress=sink,
    )  # fmt: skip
    lines = [line for line in sink.lines if ", validation: " in line]
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert result.steps < 60
    assert result.validation.loss == pytest.approx(min(losses), abs=1e-4)
    assert result.best_step == 1 + losses.index(min(losses))
    assert result.steps == result.best_step + 4
    assert "patience" in sink.lines[-1]
    _, _, about = load_editor(tiny_model("llama"), tmp_path / "e")
    assert about["step"] == result.best_step
    assert about["validation"] == result.validation.to_json()


def test_minutes_are_of_all_runs_together(tmp_path, monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(train_job.time, "monotonic", clock)
    sink = Sink(at=3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "e", steps=None, minutes=0.5, progress=sink)
    assert sink.stages == [("training", 30, "seconds", 0)]
    sink = Sink()
    result = run(tmp_path / "e", steps=None, minutes=0.5, progress=sink)
    assert sink.stages[0][3] > 0
    assert 30 <= result.seconds < 40
    assert result.steps < 30


def test_it_says_what_it_will_do_and_how_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(train_job, "_NOTE_SECONDS", 0.0)
    sink = Sink()
    run(tmp_path / "e", progress=sink)
    assert sink.lines[0].startswith("MEND editor for tiny-llama: up, down of layers 2, 3; 2 shared networks, ")
    assert "published settings, not measured here" in sink.lines[0]
    assert sink.lines[1].startswith("To learn from: 9 facts, 4 a step; held out: 3, ")
    assert sink.lines[1].endswith("what must stay: neighbours.")
    assert str(checkpoint_path(tmp_path / "e")) in sink.lines[2]
    assert sink.lines[3].startswith("step 1: loss ")
    assert "edit success" in sink.lines[-1]


def test_unrelated_text(tmp_path):
    corpus = Corpus.from_texts([f"The tower {i} is tall, and the answer is here." for i in range(30)])
    sink = Sink()
    run(tmp_path / "corpus", corpus=corpus, progress=sink)
    assert "what must stay: texts." in sink.lines[1]
    bare = [Fact(subject=f.subject, prompt=f.prompt, target_new=f.target_new, id=f.id) for f in FACTS[:6]]
    sink = Sink()
    run(tmp_path / "samples", facts=[*bare, *FACTS[6:]], progress=sink, text_tokens=6, cache=tmp_path / "cache")
    assert "the model's own samples stand in" in sink.lines[0]
    assert "what must stay: neighbours or self-samples seed=0." in sink.lines[2]
    with pytest.raises(CorpusError):
        run(tmp_path / "x", corpus=tmp_path / "missing.txt")


def test_the_editor_edits(tmp_path):
    lm = tiny_model("llama")
    run(tmp_path / "e", steps=60, validate_every=20, layers=(1, 2, 3), flush_seconds=1e9)
    result = edit_facts(lm, FACTS[:1], method="mend", editor=str(tmp_path / "e"))
    before, after = (side.facts[0].prompt.new.log_prob for side in (result.before, result.after))
    assert after > before


@pytest.mark.parametrize("rates", [{"learning_rate": 1e30}, {"start_rate": 1e30}])
def test_a_loss_that_is_not_finite_says_what_to_lower(tmp_path, rates):
    with pytest.raises(NumericsError, match="Lower learning_rate"):
        run(tmp_path / "e", **rates)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("what", ["loss", "gradient of the editor"])
def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(tmp_path, monkeypatch, what):
    """To the bit: parameters, statistics, Adam's moments, the step; and the next step is what it would have been."""
    trainers = []
    advance = training.Trainer.advance
    monkeypatch.setattr(training.Trainer, "advance", lambda self: trainers.append(self) or advance(self))
    run(tmp_path / "e", steps=2)
    trainer = trainers[0]

    def state():
        adam = {name: one.clone() for i, part in enumerate(trainer.adam.state.values())
                for name, one in ((f"{i} {key}", value) for key, value in part.items())}  # fmt: skip
        return {**{name: one.clone() for name, one in trainer.editor.tensors().items()}, **adam}

    before, expect = state(), trainer._expect_finite
    with monkeypatch.context() as patched:
        patched.setattr(
            trainer, "_expect_finite", lambda value, name: expect(float("nan") if name == what else value, name)
        )
        with pytest.raises(NumericsError, match=f"{what} is nan at step 3"):
            advance(trainer)
    after = state()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert trainer.standing.step == 2
    advance(trainer)
    run(tmp_path / "whole", steps=3)
    assert all(torch.equal(one, trainers[-1].editor.tensors()[n]) for n, one in trainer.editor.tensors().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"steps": 0}, "at least 1"), ({"minutes": 1.0}, "choose one"), ({"steps": None, "minutes": -1.0}, "positive"),
     ({"valid": 0}, "valid must be"), ({"valid": 12}, "leave none"), ({"layers": (4,)}, "4 layers"),
     ({"rnak": 3}, "'rank'"), ({"editor": "x"}, "of an edit"), ({"scale": 2.0}, "of an edit")],
)  # fmt: skip
def test_bad_options(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        run(tmp_path / "e", **options)
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == []


def test_bad_facts_are_named_and_can_be_left_out(tmp_path):
    long = Fact(subject="Rome", prompt="Rome " * 400 + "is", target_new="old", id="long")
    with pytest.raises(FactsError, match="1 of 13 facts cannot be learned from"):
        run(tmp_path / "e", facts=[*FACTS, long])
    sink = Sink()
    run(tmp_path / "e", facts=[*FACTS, long], skip_bad=True, progress=sink)
    assert "1 of 13 facts are skipped:" in sink.lines[0]
    with pytest.raises(FactsError, match="no fact"):
        run(tmp_path / "x", facts=[])


def test_files_that_are_not_this_training_s(tmp_path):
    out = tmp_path / "e"
    run(out)
    with pytest.raises(ConfigError, match="another training: rank differ"):
        run(out, rank=9)
    with pytest.raises(ConfigError, match="facts"):
        run(out, facts=FACTS[1:])
    with pytest.raises(ConfigError, match="weights"):
        run(out, lm=fresh_model("llama", seed=1))
    run(out, rank=9, overwrite=True)
    assert load_editor(tiny_model("llama"), out)[1].rank == 9
    out.rename(tmp_path / "moved")
    with pytest.raises(StorageError, match="is gone"):
        run(out, rank=9)
    checkpoint_path(out).unlink()
    (tmp_path / "moved").rename(out)
    with pytest.raises(StorageError, match="no checkpoint of its training"):
        run(out, rank=9)
    with pytest.raises(StorageError, match="is a folder"):
        run(tmp_path)
    with pytest.raises(StorageError, match="is a file"):
        run(out / "below")


def test_a_damaged_checkpoint_is_an_error(tmp_path):
    out = tmp_path / "e"
    run(out)
    path = checkpoint_path(out)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptFileError, match="checksum"):
        run(out)
    path.write_bytes(out.read_bytes())
    with pytest.raises(ConfigError, match="not a training's checkpoint"):
        run(out)


def test_patches_come_off_first(tmp_path):
    lm = fresh_model("llama")
    run(tmp_path / "e", lm=lm)
    with (
        edit_facts(lm, FACTS[:1], method="mend", editor=str(tmp_path / "e"), evaluate=False).patch.applied(lm),
        pytest.raises(ConfigError, match="take them off"),
    ):
        run(tmp_path / "f", lm=lm)


def test_on_the_embedded_model_three_steps_bring_the_targets_closer(smollm2, tmp_path):
    cities = ["Rome", "Tokyo", "Berlin", "Madrid"]
    places = ["The Eiffel Tower", "The Louvre", "Big Ben", "The Kremlin", "The Prado", "The Colosseum", "The Alhambra"]
    facts = [
        Fact(subject=name, prompt="{} is in the city of", target_new=cities[i % 4], paraphrases=("{} can be seen in",),
             neighbours=(Neighbour(prompt="The Statue of Liberty is in the city of"),))
        for i, name in enumerate(places)
    ]  # fmt: skip
    digest = smollm2.digest()
    preset, source = train_work.train_settings(smollm2, {})
    assert (preset.layers, preset.rank, preset.prompt_weight) == ((27, 28, 29), 256, 0.5)
    assert source.startswith("preset SmolLM2-135M, measured")
    out = tmp_path / "e.safetensors"
    result = run(out, lm=smollm2, facts=facts, steps=3, layers=(28, 29), batch=2, rank=16, learning_rate=1e-4,
                 rate_learning_rate=1e-4, start_rate=1e-4)  # fmt: skip
    assert result.steps == 3
    assert torch.isfinite(torch.tensor(result.validation.loss))
    edited = edit_facts(smollm2, facts[:1], method="mend", editor=str(out))
    assert edited.after.facts[0].prompt.new.log_prob > edited.before.facts[0].prompt.new.log_prob
    assert smollm2.digest() == digest
