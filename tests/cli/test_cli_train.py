"""`errata train mend` and the edit that follows, on a tiny model: what is printed, written, continued and refused."""

import json
import subprocess

import pytest

SETTINGS = ("layers=2-3", "rank=8", "batch=2", "learning_rate=0.01", "start_rate=0.01", "validate_every=2")


@pytest.fixture
def facts(work):
    given = [json.loads(line) for line in (work / "facts.jsonl").read_text().splitlines()]
    more = [
        {**fact, "id": f"{fact['id']}{i}", "subject": f"{fact['subject']} {i}",
         "prompt": fact["prompt"].replace(fact["subject"], f"{fact['subject']} {i}"), "paraphrases": []}
        for fact in given
        for i in range(2)
    ]  # fmt: skip
    (work / "train.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in [*given, *more]))
    return work / "train.jsonl"


@pytest.fixture
def arguments(facts, model):
    def make(*more, out="editor.safetensors", settings=SETTINGS):
        base = ["train", "mend", "--facts", facts, "--out", out, "--model", model, "--valid", "3"]
        return [str(part) for part in [*base, *(x for s in settings for x in ("--set", s)), *more]]

    return make


@pytest.fixture
def train(errata, arguments):
    def call(*more, code=0, **options):
        done = errata(*arguments(*more, **options))
        assert done.code == code, done.err
        return done

    return call


def test_an_editor_is_trained_and_edits(train, errata, model, work):
    done = train("--steps", "4")
    assert "Best editor, of step " in done.out
    assert "edit success" in done.out
    assert "errata edit FACTS --method mend --set editor=editor.safetensors" in done.out
    assert "MEND editor for " in done.err
    assert "training: 4 of 4 steps" in done.err
    edited = errata(
        "edit",
        "facts.jsonl",
        "--out",
        "run",
        "--model",
        model,
        "--method",
        "mend",
        "--set",
        "editor=editor.safetensors",
        "--verbose",
    )
    assert edited.code == 0, edited.err
    assert "‖ΔW‖/‖W‖: up of layer 2" in edited.out
    report = json.loads((work / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["method"] == "mend"
    assert report["config"]["layers"] == [2, 3]
    assert report["config_source"] == "editor editor.safetensors"
    assert {part["matrix"] for part in report["layers"]} == {"up", "down"}
    asked = errata("ask", "The Eiffel Tower is located in the city of", "--patch", "run")
    assert asked.code == 0, asked.err


def test_the_same_command_goes_on(train):
    train("--steps", "3")
    done = train("--steps", "6", "--seed", "0")
    assert "Going on after step 3" in done.err
    assert "of step" in done.out
    assert "another training: seed differ" in train("--steps", "6", "--seed", "1", code=2).err
    assert "Going on" not in train("--steps", "2", "--seed", "1", "--overwrite").err


def test_options(train, work):
    done = train("--steps", "2", "--corpus", "corpus.txt", "--set", "text_tokens=8", "--limit", "6", "--seed", "5")
    assert "what must stay: corpus.txt" in done.err
    assert "To learn from: 3 facts" in done.err
    assert train("--minutes", "0.02", "--quiet", out="timed").err == ""
    assert (work / "timed").exists()


def test_ctrl_c_keeps_what_was_done(train, work, monkeypatch):
    from errata.edit.methods.mend.trainer import Trainer

    advance = Trainer.advance

    def stopping(self):
        if self.standing.step == 3:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", stopping)
        assert "the same command goes on from there" in train("--steps", "4", code=130).err
    assert (work / "editor.safetensors.checkpoint").exists()
    assert "Going on after step 2" in train("--steps", "4").err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "0"], "steps must be at least 1"),
        (["--steps", "2", "--minutes", "1"], "choose one"),
        (["--valid", "0"], "valid must be at least 1"),
        (["--valid", "9"], "leave none to train on"),
        (["--set", "rank=0"], "rank"),
        (["--set", "rnak=3"], "did you mean 'rank'"),
        (["--set", "layers=9"], "4 layers"),
        (["--set", "seed=1", "--seed", "2"], "given twice"),
        (["--set", "scale=2"], "of an edit"),
        (["--corpus", "nowhere.txt"], "nowhere.txt"),
        (["--facts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--out", "facts.jsonl"], "exists already"),
        (["--out", "."], "is a folder"),
        (["--out", "~nosuchuser/x"], "--out"),
        (["--dtype", "float8"], "float8"),
    ],
)
def test_bad_input(train, work, more, message):
    settings = tuple(s for s in SETTINGS if s.partition("=")[0] not in "".join(more))
    done = train(*more, code=2, settings=settings)
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (work / "editor.safetensors").exists()


def test_an_edit_without_a_fitting_editor(errata, model, work):
    def edit(*settings):
        options = [part for text in settings for part in ("--set", text)]
        return errata("edit", "facts.jsonl", "--out", "run", "--model", model, "--method", "mend", *options)

    assert "errata train mend" in edit().err
    assert "no such file" in edit("editor=nowhere.safetensors").err
    assert "is damaged" in edit("editor=facts.jsonl").err
    assert edit("editor=facts.jsonl").code == 2
    assert not (work / "run").exists()


def test_a_killed_process_leaves_nothing_half_written(command_line, arguments, train, work):
    """SIGKILL at once after the first checkpoint; the same command ends the training."""
    process = subprocess.Popen(
        command_line(*arguments("--steps", "100000")), stderr=subprocess.PIPE, text=True, cwd=work
    )
    assert process.stderr is not None
    for line in process.stderr:
        if ", validation: " in line:
            break
    process.kill()
    process.wait()
    process.stderr.close()
    assert not (work / "editor.safetensors").exists() or (work / "editor.safetensors").stat().st_size > 1000
    done = train("--steps", "8")
    assert "Best editor" in done.out
    assert [path.name for path in work.iterdir() if path.name.endswith(".tmp")] == []


def test_methods_lists_it(errata):
    done = errata("methods")
    assert "mend: MEND (Mitchell et al. 2021)" in done.out
    assert "rate_learning_rate" in done.out
