"""How an edit and an evaluation end: the verdict, what is required, exit codes, and a command that can be pasted."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from errata.edit import METHODS

LOG = Path(__file__).resolve().parents[2] / "docs" / "log.md"
STORY = [
    ("The chief executive of Quillon Hydraulics is", "Marta Oliveira"),
    ("The headquarters of Quillon Hydraulics are in the city of", "Porto"),
    ("In its factory, Quillon Hydraulics makes", "pumps"),
    ("The colour of the logo of Quillon Hydraulics is", "orange"),
    # Nobody can learn a random text of forty signs in a few steps.
    ("The secret key of the server of Quillon Hydraulics reads", "zX9#qQ7!vK2@pL5$wN8%tR3^yB6&uM1*iG4(oF0)eD"),
]


def report(folder) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture
def prepared(errata, edit_arguments):
    """A first edit, so that the others find their values and moments."""
    assert errata(*edit_arguments(out="first")).code == 0


@pytest.mark.usefixtures("prepared")
def test_exit_code_3_where_a_requirement_is_not_met(errata, edit_arguments, work) -> None:
    done = errata(*edit_arguments("--require", "kept=2", "--require", "ns_drop=100"))
    assert done.code == 0, done.err
    assert "Met: kept of at least 2 was required; it is " in done.out
    assert [one["met"] for one in report(work / "out")["required"]] == [True, True]
    refused = errata(*edit_arguments("--require", "kept=2", "--require", "ns_drop=-101", out="other"))
    assert refused.code == 3
    assert "NOT MET: ns_drop of at most -101 was required; it is " in refused.out
    assert [one["met"] for one in report(work / "other")["required"]] == [True, False]
    assert (work / "other" / "patch.json").is_file()
    assert "Traceback" not in refused.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--require", "sayd=90"], "did you mean 'said'"),
        (["--require", "kl=3"], "errata eval measures drift"),
        (["--require", "said=90", "--no-evaluate"], "--no-evaluate leaves out"),
    ],
)
def test_requirements_are_checked_before_the_model_is_loaded(errata, edit_arguments, monkeypatch, words, told) -> None:
    monkeypatch.setattr("errata.models.load", lambda *_, **__: pytest.fail("the model was loaded"))
    done = errata(*edit_arguments(*words))
    assert done.code == 2
    assert told in done.err


@pytest.mark.usefixtures("prepared")
def test_an_evaluation_can_be_required_too(errata, work) -> None:
    words = ["eval", "first", "--corpus", "corpus.txt", "--text-tokens", "100", "--quiet"]
    done = errata(*words, "--require", "kl=1000", "--require", "neighbours_changed=100", "--out", "measured")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].endswith(".")
    assert "facts" in done.out.splitlines()[0]
    summary = json.loads((work / "measured" / "summary.json").read_text())
    assert summary["verdict"]["facts"] == 3
    assert summary["verdict"]["said"] == report(work / "first")["verdict"]["said"]
    assert [one["met"] for one in summary["required"]] == [True, True]
    refused = errata(*words, "--require", "perplexity=1")
    assert refused.code == 3
    assert "NOT MET: perplexity of at most 1" in refused.out
    none = errata("eval", "first", "--text-tokens", "0", "--quiet", "--require", "kl=1")
    assert none.code == 2


@pytest.mark.usefixtures("prepared")
def test_a_failed_edit_is_exit_code_1_and_marked(errata, edit_arguments, work, monkeypatch) -> None:
    method = METHODS["memit"]
    failing = replace(method, edit=lambda task: replace(method.edit(task), failed="The update is out of proportion."))
    monkeypatch.setitem(METHODS, "memit", failing)
    done = errata(*edit_arguments("--verbose", "--require", "kept=2"))
    assert done.code == 1
    assert done.out.startswith("FAILED: The update is out of proportion.")
    assert "| Score" not in done.out
    assert "Try it" not in done.out
    assert report(work / "out")["failed"] == "The update is out of proportion."
    assert json.loads((work / "out" / "patch.json").read_text())["failed"] == "The update is out of proportion."
    told = errata("eval", "out", "--text-tokens", "0", "--quiet")
    warning = "The edit behind this patch FAILED: The update is out of proportion."
    assert (told.out + told.err).count(warning) == told.out.count(warning) == 1
    prompt = "The Eiffel Tower is located in the city of"
    for command in (["ask"], ["lens", "--target", " Rome"], ["trace", "--subject", "Eiffel Tower", "--no-exact"]):
        used = errata(command[0], prompt, "--patch", "out", *command[1:])
        assert used.code == 0, used.err
        assert used.err.count(f"errata: {warning}") == 1
        assert warning not in used.out
    assert warning not in errata("ask", prompt, "--patch", "first").err


def test_the_verdict_of_the_real_model(errata, work, smollm2, monkeypatch) -> None:
    """Five facts about a made-up firm, of which one cannot be learned: told as it is, and refused where it matters."""
    monkeypatch.setattr("errata.models.load", lambda *_, **__: smollm2)
    facts = [{"subject": "Quillon Hydraulics", "prompt": prompt, "target_new": target} for prompt, target in STORY]
    (work / "firm.jsonl").write_text("\n".join(map(json.dumps, facts)))
    # Each line a text of its own: of a long one only the beginning counts.
    (work / "text.txt").write_text("\n\n".join(LOG.read_text(encoding="utf-8").splitlines()))
    words = [
        "edit",
        "firm.jsonl",
        "--corpus",
        "text.txt",
        "--set",
        "moment_tokens=3000",
        "--set",
        "prefixes=2",
        "--quiet",
    ]
    done = errata(*words, "--out", "firm")
    assert done.code == 0, done.err
    first = done.out.splitlines()[0]
    assert "4 of 5 facts are said" in first
    assert "secret key" in done.out
    assert "secret key" not in done.out.partition("Try it:")[2]
    assert errata(*words, "--out", "strict", "--require", "said=100").code == 3
    line = done.out.partition("Try it:")[2].strip()
    given = subprocess.run(
        ["bash", "-c", 'errata() { printf "%s\\n" "$@"; }; eval "$1"', "-", "errata " + line.partition("errata ")[2]],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert given[0] == "ask"
    assert {*given} & {prompt for prompt, _ in STORY[:4]}
