"""`errata edit` from facts to patch and report: what it writes, what is left when interrupted, what is reused."""

import errno
import json
from pathlib import Path

import pytest
import torch

from errata.reports.verdict_text import sentence
from errata.store.tensors import load_tensors

METRICS = {"es", "ps", "ns", "score", "accuracy"}
FILES = {"patch.json", "patch.safetensors", "report.json", "report.md"}


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def tensors(folder) -> dict[str, torch.Tensor]:
    return load_tensors(folder / "patch.safetensors")[0]


def same(one, other) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """How many facts each call of target_values was given."""
    from errata.edit.values import collect

    calls: list[int] = []
    real = collect.target_values

    def counting(lm, facts, *arguments, **options):
        calls.append(len(facts))
        return real(lm, facts, *arguments, **options)

    monkeypatch.setattr(collect, "target_values", counting)
    return calls


def test_what_it_writes(errata, work, edit_arguments, model) -> None:
    done = errata(*edit_arguments())
    assert (done.code, done.err) == (0, "")
    assert names(work / "out") == FILES
    report = json.loads((work / "out" / "report.json").read_text())
    for state in ("before", "after"):
        assert report[state].keys() >= METRICS
        assert all(0 <= report[state][name] <= 100 for name in METRICS)
        assert [fact["id"] for fact in report[state]["facts"]] == ["tower", "language", "cars"]
    assert (report["facts"], report["skipped"], report["model"]["name"]) == (3, [], str(model))
    assert [layer["layer"] for layer in report["layers"]] == [1, 2]
    assert all(layer["relative_norm"] > 0 for layer in report["layers"])
    assert report["residual"]["start"] > report["residual"]["end"] > 0
    assert report["residual"]["landed"] == 1 - report["residual"]["end"] / report["residual"]["start"]
    assert report["target_values"]["mean_nll"] < report["target_values"]["mean_nll_before"]
    assert report["second_moments"]["tokens"] == 300
    stages = {"second_moments", "evaluation_before", "target_values", "solve", "evaluation_after"}
    assert stages < report["seconds"].keys()
    assert report["seconds"]["total"] >= max(report["seconds"][stage] for stage in stages)
    assert report["peak_memory_mib"] > 0
    assert any("guesses" in warning for warning in report["warnings"])
    patch = json.loads((work / "out" / "patch.json").read_text())
    assert patch["id"] == report["patch"]
    assert [fact["id"] for fact in patch["facts"]] == ["tower", "language", "cars"]
    assert "Warning: Nobody has measured settings" in done.out
    assert done.out.startswith(sentence(report["verdict"]))
    assert "| Score" not in done.out
    full = errata(*edit_arguments("--verbose", out="full"))
    told, _, every = (work / "full" / "report.md").read_text().partition("\n\nEvery fact:\n\n")
    assert told in full.out
    assert [line.split("|")[1].strip() for line in every.strip().splitlines()[2:]] == [
        fact["prompt"] for fact in report["verdict"]["of_facts"]
    ]
    assert "| Score" in full.out


def test_the_model_on_disk_is_left_as_it_was(errata, edit_arguments, model) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    assert errata(*edit_arguments()).code == 0
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_the_report_holds_the_numbers_that_were_measured(errata, work, edit_arguments, model) -> None:
    from errata import Patch, load, measure

    assert errata(*edit_arguments()).code == 0
    report = json.loads((work / "out" / "report.json").read_text())
    lm, patch = load(model), Patch.load(work / "out")
    assert measure(lm, patch.facts).to_json() == report["before"]
    with patch.applied(lm):
        assert measure(lm, patch.facts).to_json() == report["after"]
    assert report["before"]["facts"] != report["after"]["facts"]


def test_without_evaluation(errata, work, edit_arguments) -> None:
    done = errata(*edit_arguments("--no-evaluate"))
    report = json.loads((work / "out" / "report.json").read_text())
    assert (done.code, report["before"], report["after"]) == (0, None, None)
    assert "| Score" not in done.out
    assert errata(*edit_arguments(out="measured")).code == 0
    assert same(work / "out", work / "measured")


def test_same_inputs_same_bits_and_nothing_is_computed_twice(
    errata, work, edit_arguments, counted, monkeypatch
) -> None:
    assert errata(*edit_arguments()).code == 0
    assert counted == [3]
    assert errata(*edit_arguments(out="again")).code == 0
    assert counted == [3]
    monkeypatch.setenv("ERRATA_HOME", str(work / "other-home"))
    assert errata(*edit_arguments(out="anew")).code == 0
    assert counted == [3, 3]
    assert same(work / "out", work / "again")
    assert same(work / "out", work / "anew")


def test_overwrite_replaces_the_run(errata, work, edit_arguments) -> None:
    assert errata(*edit_arguments()).code == 0
    old = (work / "out" / "patch.json").read_text()
    refused = errata(*edit_arguments("--limit", "2"))
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert (work / "out" / "patch.json").read_text() == old
    assert errata(*edit_arguments("--limit", "2", "--overwrite")).wrote
    assert json.loads((work / "out" / "report.json").read_text())["facts"] == 2
    assert names(work / "out") == FILES


def test_skip_bad_goes_on_and_says_how_many(errata, work, edit_arguments) -> None:
    facts = work / "facts.jsonl"
    long = {"subject": "Rome", "prompt": "Rome is " + "very " * 300 + "in", "target_new": "Peru"}
    facts.write_text('{"id": "broken"}\nnonsense\n' + facts.read_text() + json.dumps(long) + "\n")
    assert errata(*edit_arguments()).code == 2
    done = errata(*edit_arguments("--skip-bad"))
    assert done.code == 0, done.err
    assert "skipped: 2. The model looks at the other 4 next" in done.err
    report = json.loads((work / "out" / "report.json").read_text())
    assert report["facts"] == 3
    # Line 1 lacks three fields, each a problem of its own.
    places = {problem.split(":")[0].split(" [")[0] for problem in report["skipped"]}
    assert places == {"line 1", "line 2", "line 6"}
    assert "256" in report["skipped"][-1]


def test_nothing_is_left_when_every_fact_is_bad(errata, work, edit_arguments) -> None:
    (work / "facts.jsonl").write_text("nonsense\n")
    done = errata(*edit_arguments("--skip-bad"))
    assert (done.code, (work / "out").exists()) == (2, False)


def test_a_weight_far_too_large_is_reported(errata, work, edit_arguments) -> None:
    done = errata(*edit_arguments("--set", "prior_weight=1e12"))
    report = json.loads((work / "out" / "report.json").read_text())
    assert done.code == 1
    assert report["residual"]["landed"] < 0.01
    assert any("residual did not land" in w and "prior_weight=1e+12" in w for w in report["warnings"])
    assert "Warning: The residual did not land" in done.out
    assert not any("guesses" in w for w in report["warnings"])  # layers and prior_weight were both given


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device. Free some space"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupted_while_saving(errata, work, edit_arguments, monkeypatch, error, code, message, overwrite) -> None:
    """The report fails after the patch is written: the folder is whole, old, or absent."""
    if overwrite:
        assert errata(*edit_arguments("--limit", "1")).wrote
    before = {path.name: path.read_bytes() for path in (work / "out").iterdir()} if overwrite else {}

    def fail(*_) -> None:
        raise error

    monkeypatch.setattr("errata.reports.edit_summary.atomic_write_text", fail)
    done = errata(*edit_arguments("--overwrite"))
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    left = {path.name: path.read_bytes() for path in (work / "out").iterdir()} if (work / "out").exists() else {}
    assert left == before
    assert not list(work.glob(".errata-*"))


def test_interrupted_between_batches_the_same_command_goes_on(
    errata, work, edit_arguments, counted, monkeypatch
) -> None:
    from errata.edit.values import collect

    counting = collect.target_values

    def interrupted(lm, facts, *arguments, **options):
        if counted:
            raise KeyboardInterrupt
        return counting(lm, facts, *arguments, **options)

    monkeypatch.setattr(collect, "target_values", interrupted)
    done = errata(*edit_arguments("--batch-size", "1"))
    assert done.code == 130
    assert done.err.startswith("errata: interrupted. Second moments, target values")
    assert done.err.rstrip().endswith("the same command goes on from there.")
    assert not (work / "out").exists()
    monkeypatch.setattr(collect, "target_values", counting)
    assert errata(*edit_arguments("--batch-size", "1")).code == 0
    assert counted == [1, 1, 1]
    monkeypatch.setenv("ERRATA_HOME", str(work / "other-home"))
    assert errata(*edit_arguments("--batch-size", "1", out="whole")).code == 0
    assert same(work / "out", work / "whole")


def test_a_numerical_failure_is_exit_code_1(errata, work, edit_arguments, monkeypatch) -> None:
    from errata.errors import SingularSystemError

    def fail(*_, **__):
        raise SingularSystemError("The system is singular.")

    monkeypatch.setattr("errata.edit.methods.mass_editing.solve", fail)
    done = errata(*edit_arguments())
    assert (done.code, done.err) == (1, "errata: The system is singular.\n")
    assert not (work / "out").exists()


def test_progress_goes_to_stderr_only(errata, edit_arguments) -> None:
    arguments = edit_arguments()
    arguments.remove("--quiet")
    done = errata(*arguments)
    assert "target values: 0 of " in done.err
    assert "evaluations in " in done.err
    assert "MEMIT (Meng et al. 2023): 3 facts" in done.err
    assert "of 3 facts in" not in done.out


def test_three_orders_of_editing(errata, edit_arguments) -> None:
    found = {}
    for name, words in {"once": ["--at-once"], "batches": ["--in-batches", "2"], "one": ["--one-by-one"]}.items():
        done = errata(*edit_arguments(*words, out=name))
        assert done.code == 0, done.err
        found[name] = json.loads((Path(name) / "report.json").read_text())
    assert [found[name]["in_batches"] for name in ("once", "batches", "one")] == [None, 2, 1]
    assert [len(found[name].get("batches", [])) for name in ("once", "batches", "one")] == [0, 2, 3]
    assert len({found[name]["patch"] for name in found}) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at-once", "--one-by-one"], "exclude each other"),
        (["--in-batches", "2", "--one-by-one"], "exclude each other"),
        (["--in-batches", "0"], "--in-batches must be at least 1"),
        (["--in-batches", "x"], "in-batches"),
    ],
)
def test_orders_that_make_no_sense(errata, edit_arguments, words, said) -> None:
    done = errata(*edit_arguments(*words))
    assert done.code == 2
    assert said in done.err
    assert not Path("out").exists()
