"""The other commands: ask, models, stats, demo's refusals, version and help."""

import dataclasses
import json
import re
import signal

import pytest

import errata as package
from errata.edit import METHODS


@pytest.fixture
def patch(errata, work, edit_arguments):
    assert errata(*edit_arguments("--no-evaluate", "--set", "prior_weight=0.001")).code == 0
    return work / "out"


def test_version(errata) -> None:
    done = errata("--version")
    assert (done.code, done.out, done.err) == (0, f"errata {package.__version__}\n", "")


def test_alone_it_prints_help(errata) -> None:
    alone, asked = errata(), errata("--help")
    assert alone == asked
    assert alone.code == 0
    assert all(command in alone.out for command in ("demo", "edit", "stats", "ask", "models"))


@pytest.mark.parametrize("command", ["demo", "edit", "stats", "ask", "models"])
def test_help_of_commands(errata, command: str) -> None:
    done = errata(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"errata {command}" in done.out


def test_ask(errata, model) -> None:
    done = errata("ask", "The Eiffel Tower is in", "Toyota builds", "--model", model, "--tokens", 4, "--top", 3)
    assert done.code == 0, done.err
    assert done.out.count("\n  goes on") == 2
    assert done.out.startswith("The Eiffel Tower is in\n")
    assert "\n\nToyota builds\n" in done.out
    first = next(line for line in done.out.splitlines() if line.startswith("  next "))
    chances = [float(percent) for percent in re.findall(r" (\d+\.\d)%", first)]
    assert len(chances) == 3
    assert chances == sorted(chances, reverse=True)


def test_ask_with_a_patch_takes_the_model_from_it(errata, patch) -> None:
    done = errata("ask", "The Eiffel Tower is located in the city of", "--patch", patch, "--tokens", 4)
    assert done.code == 0, done.err
    assert f"\n  with patch {package.Patch.load(patch).id}\n" in done.out
    before, after = (line for line in done.out.splitlines() if line.startswith("    next "))
    assert before != after


def test_bare_words_are_one_prompt(errata, model) -> None:
    few = ("--model", model, "--tokens", 2)
    typed = errata("ask", "The", "CEO", "of", "X", "is", *few)
    quoted = errata("ask", "The CEO of X is", *few)
    assert (typed.code, typed.out) == (quoted.code, quoted.out) == (0, typed.out)
    assert 'read as one prompt, "The CEO of X is"' in typed.err
    assert quoted.err == ""


@pytest.mark.parametrize("command", ["lens", "trace"])
def test_bare_words_are_one_prompt_there_too(errata, model, command: str) -> None:
    more = {"lens": ("--target", "Paris"), "trace": ("--subject", "Eiffel Tower")}[command]
    done = errata(command, "The", "Eiffel", "Tower", "is", "in", "--model", model, *more)
    assert done.code == 0, done.err
    assert 'read as one prompt, "The Eiffel Tower is in"' in done.err
    several = errata(command, "The Eiffel Tower", "is in", "--model", model, *more)
    assert several.code == 2
    assert f'errata {command} "The Eiffel Tower is in"' in several.err


def test_words_beside_quoted_prompts_are_refused(errata) -> None:
    done = errata("ask", "The", "Eiffel Tower", "is")
    assert done.code == 2
    assert "Put each prompt in quotes" in done.err


def test_top_beyond_the_vocabulary(errata, model) -> None:
    assert errata("ask", "Paris", "--model", model, "--tokens", 2, "--top", 100_000).code == 0


def test_models(errata) -> None:
    done = errata("models")
    assert done.code == 0
    for text in ("llama", "gpt2", "SmolLM2-135M", "GPT-J 6B", "model smollm2:", "torch "):
        assert text in done.out


def test_stats_are_found_by_a_later_edit(errata, work, model, edit_arguments) -> None:
    corpus = ("--model", model, "--corpus", "corpus.txt")
    done = errata("stats", *corpus, "--layers", "1-2", "--tokens", "300", "--quiet")
    assert done.code == 0, done.err
    assert re.findall(r"layer +(\d+) +d_mlp 80 .* over 300 tokens", done.out) == ["1", "2"]
    digest = re.search(r"digest (\w{12})", done.out)
    assert digest
    arguments = edit_arguments("--no-evaluate")
    arguments.remove("--quiet")
    edit = errata(*arguments)
    assert "All of it was computed before and is kept." in edit.err
    assert package.Patch.load(work / "out").info["second_moments"]["digest"].startswith(digest[1])


def test_demo_refuses_a_foreign_folder_before_any_work(errata, work, model, monkeypatch) -> None:
    (work / "mine").mkdir()
    (work / "mine" / "notes.txt").write_text("mine")
    monkeypatch.setattr("errata.jobs.demo_job.edit_facts", lambda *_, **__: pytest.fail("it began"))
    done = errata("demo", "--out", "mine", "--model", model)
    assert done.code == 2
    assert "never overwritten" in done.err
    assert (work / "mine" / "notes.txt").read_text() == "mine"


def test_demo_on_a_tiny_model(errata, work, model, monkeypatch) -> None:
    """The table and the folder; the model is random and the facts are the demo's own."""
    from errata.jobs import demo_job
    from errata.stats import Corpus

    corpus = Corpus.from_texts([f"Tower {i} is in Paris, which is the capital of France." for i in range(60)])
    real = demo_job.edit_facts
    small = {"corpus": corpus, "layers": (1, 2), "moment_tokens": 200, "value_steps": 3, "prefixes": 1}
    small |= {"retries": 0}
    monkeypatch.setattr(demo_job, "edit_facts", lambda lm, facts, **options: real(lm, facts, **options, **small))
    short = errata("demo", "--out", "demo", "--model", model, "--quiet")
    assert short.code in (0, 1), short.err  # a random model need not learn anything
    rows = [line for line in short.out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(demo_job.demo_facts())
    assert all(line.split("|")[4].strip() in "✓~✗" for line in rows[2:])
    assert "facts " in short.out.splitlines()[0]
    done = errata("demo", "--out", "demo", "--model", model, "--quiet", "--verbose")
    assert done.out.count("| paraphrase |") == done.out.count("| neighbour  |") == len(demo_job.demo_facts())
    assert "said before" in done.out
    assert package.Patch.load(work / "demo").facts == demo_job.demo_facts()
    # An earlier demo is replaced.
    assert errata("demo", "--out", "demo", "--model", model, "--quiet").code == short.code


def test_methods_are_listed_with_their_settings(errata) -> None:
    done = errata("methods")
    assert done.code == 0
    for text in ("memit: MEMIT (Meng et al. 2023)", "shift: forward pass shifting", "prior_weight", "learning_rate"):
        assert text in done.out
    emmet, alphaedit = (done.out.partition(f"{name}: ")[2].partition("\n\n")[0] for name in ("emmet", "alphaedit"))
    for told, name in ((emmet, "emmet"), (alphaedit, "alphaedit")):
        assert told.count("guessed") == len({"layers", *METHODS[name].guessed})


def test_one_method_in_full(errata) -> None:
    done = errata("methods", "alphaedit")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("alphaedit: AlphaEdit")
    for text in ("arXiv:2410.02355", "null space", "  ridge = 10", "Presets", "--method alphaedit"):
        assert text in done.out
    wrong = errata("methods", "alfaedit")
    assert (wrong.code, wrong.out) == (2, "")
    assert "did you mean 'alphaedit'" in wrong.err


def test_a_method_without_presets_is_listed(errata, monkeypatch) -> None:
    monkeypatch.setitem(METHODS, "toy", dataclasses.replace(METHODS["sgd"], name="toy", title="A toy", presets=()))
    assert "toy: A toy; settings known for no model." in errata("methods").out
    assert "Presets: none." in errata("methods", "toy").out


def test_another_method_by_name(errata, edit_arguments, work) -> None:
    options = ("--method", "shift", "--set", "layers=2", "--set", "learning_rate=2", "--verbose")
    done = errata(*edit_arguments(*options, settings=()))
    assert done.code == 0, done.err
    record = json.loads((work / "out" / "report.json").read_text(encoding="utf-8"))
    assert record["method"] == "shift"
    assert record["config"]["learning_rate"] == 2
    assert record["second_moments"] is None
    assert record["after"]["es"] >= record["before"]["es"]
    assert "‖ΔW‖/‖W‖ at layer 2" in done.out
    assert "Second moments" not in done.out


def test_an_unknown_method_or_a_field_of_another_one(errata, edit_arguments) -> None:
    done = errata(*edit_arguments("--method", "memitt"))
    assert done.code == 2
    assert "did you mean 'memit'" in done.err
    done = errata(*edit_arguments("--method", "shift"))
    assert done.code == 2
    assert "Unknown Shift field" in done.err


def test_ctrl_c_that_a_library_turns_into_its_own_error(errata, edit_arguments, monkeypatch) -> None:
    """As transformers does with one that falls into a lazy import."""

    def swallowing(*_arguments, **_options):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ModuleNotFoundError("Could not import module 'LlamaConfig'") from error

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("errata.models.load", swallowing)
    done = errata(*edit_arguments())
    assert done.code == 130
    assert "interrupted" in done.err
    assert "LlamaConfig" not in done.err
    assert signal.getsignal(signal.SIGINT) is before
