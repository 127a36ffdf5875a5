"""`errata eval` on a tiny model: the table, the folder, resuming, and every kind of bad input before any long work."""

import json

import pytest
from pyarrow import parquet

from tiny import tiny_hf, tiny_tokenizer

FILES = {"results.parquet", "summary.json", "summary.md"}


@pytest.fixture
def patched(errata, edit_arguments, work):
    """A patch of the three facts in `patch`."""
    assert errata(*edit_arguments("--no-evaluate", out="patch")).code == 0
    return work / "patch"


@pytest.fixture
def evaluate(errata, patched):
    def call(*arguments, code=0):
        done = errata("eval", patched, *arguments, "--quiet")
        assert done.code == code, done.err
        assert "Traceback" not in done.err
        return done

    return call


def cells(line):
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_table_and_the_folder(evaluate, work):
    done = evaluate("--out", "eval", "--corpus", "corpus.txt", "--text-tokens", "200")
    lines = [cells(line) for line in done.out.splitlines() if line.startswith("|")]
    assert lines[0] == ["metric", "unit", "before", "after", "n", "better", "meaning"]
    labels = [line[0] for line in lines[2:]]
    assert labels[:4] == ["Score", "ES", "PS", "NS"]
    assert {"EM", "prompt accuracy", "zsRE efficacy", "perplexity", "KL drift", "changed neighbours"} < set(labels)
    assert not {"GE", "RS"} & set(labels)
    es = lines[2 + labels.index("ES")]
    assert "±" in es[2]
    assert es[4:6] == ["3", "higher"]
    assert "Results: eval" in done.out
    assert names(work / "eval") == FILES
    report = json.loads((work / "eval" / "summary.json").read_text())
    assert [record["label"] for record in report["metrics"]] == labels
    assert (report["facts"], report["held_out"], report["skipped"]) == (3, "corpus.txt", [])
    assert report["after"]["es"] == next(r["after"] for r in report["metrics"] if r["key"] == "es")
    assert (work / "eval" / "summary.md").read_text().strip() in done.out
    rows = parquet.read_table(work / "eval" / "results.parquet").to_pylist()
    assert len(rows) == 9
    assert {row["kind"] for row in rows} == {"prompt", "paraphrase", "neighbour"}


def test_other_facts_with_a_limit_and_generations(evaluate, work):
    references = [{"relation": "P1", "target": "Italy", "text": "Rome is the capital of Italy, a country."}]
    (work / "references.jsonl").write_text("\n".join(map(json.dumps, references)))
    fact = {"subject": "Paris", "prompt": "Paris is in", "target_new": "Italy", "relation": "P1"}
    more = {"subject": "Rome", "prompt": "Rome is in", "target_new": "Peru", "generation_prompts": ["In {}", "At {}"]}
    facts = [fact, more, {**fact, "prompt": "Paris lies in"}]
    (work / "others.jsonl").write_text("\n".join(map(json.dumps, facts)))
    arguments = ["--facts", "others.jsonl", "--limit", "2", "--generate", "--references", "references.jsonl"]
    done = evaluate(*arguments, "--text-tokens", "0", "--out", "eval")
    assert names(work / "eval") == FILES | {"generations.parquet"}
    table = {cells(line)[0]: cells(line) for line in done.out.splitlines() if line.startswith("|")}
    assert (table["GE"][4], table["RS"][4]) == ("2", "1")
    assert not {"ES", "Score", "KL drift"} & set(table)  # no true answers, no text
    rows = parquet.read_table(work / "eval" / "generations.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == ["Paris is in", "In Rome", "At Rome"]
    assert all(row["before_text"].startswith(row["prompt"]) for row in rows)
    again = evaluate(*arguments, "--text-tokens", "0", "--seed", "1")
    ge = next(cells(line) for line in again.out.splitlines() if line.startswith("| GE"))
    assert ge[2] != table["GE"][2]


def test_a_run_that_was_stopped_goes_on(evaluate, work, monkeypatch):
    from errata.jobs import eval_states

    monkeypatch.setattr("errata.jobs.eval_job.chunks_of", lambda facts: eval_states.chunks_of(facts, 1))
    real, calls = eval_states.measured_rows, []

    def counted(lm, facts):
        calls.append(facts[0].id)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(lm, facts)

    monkeypatch.setattr(eval_states, "measured_rows", counted)
    text = ["--corpus", "corpus.txt", "--text-tokens", "100"]
    done = evaluate("--out", "eval", *text, code=130)
    assert "the same command goes on" in done.err
    assert not (work / "eval").exists()
    evaluate("--out", "eval", *text)
    assert calls == ["tower", "language", "cars", "tower", "language", "language", "cars"]
    monkeypatch.setenv("ERRATA_HOME", str(work / "other-home"))
    evaluate("--out", "whole", *text)
    for name in ("results.parquet", "summary.md"):
        assert (work / "eval" / name).read_bytes() == (work / "whole" / name).read_bytes()
    one, other = (json.loads((work / out / "summary.json").read_text()) for out in ("eval", "whole"))
    for report in (one, other):
        del report["seconds"], report["peak_memory_mib"]
    assert one == other


def test_skip_bad(evaluate, work):
    long = {"subject": "Rome", "prompt": "Rome is " + "very " * 300 + "in", "target_new": "Peru"}
    (work / "mixed.jsonl").write_text((work / "facts.jsonl").read_text() + "nonsense\n" + json.dumps(long) + "\n")
    none = ["--text-tokens", "0"]
    assert "line 4" in evaluate("--facts", "mixed.jsonl", *none, code=2).err
    done = evaluate("--facts", "mixed.jsonl", *none, "--skip-bad", "--out", "eval")
    report = json.loads((work / "eval" / "summary.json").read_text())
    assert report["facts"] == 3
    assert [text.split(" ")[0:2] for text in report["skipped"]] == [["line", "4:"], ["line", "5"]]
    assert "Skipped: 2 problems" in done.out


def test_overwrite(evaluate, work):
    evaluate("--out", "eval", "--text-tokens", "0")
    assert "--overwrite" in evaluate("--out", "eval", "--text-tokens", "0", code=2).err
    evaluate("--out", "eval", "--text-tokens", "0", "--overwrite", "--limit", "1")
    assert json.loads((work / "eval" / "summary.json").read_text())["facts"] == 1
    (work / "eval" / "mine.txt").write_text("mine")
    assert "mine.txt" in evaluate("--out", "eval", "--overwrite", code=2).err


BAD = [
    (("--facts", "nowhere.jsonl"), "No fact file at nowhere.jsonl"),
    (("--facts", "corpus.txt"), "Cannot tell the format"),
    (("--limit", "0"), "--limit must be at least 1"),
    (("--out", "patch"), "patch.json"),
    (("--out", "facts.jsonl"), "is a file"),
    (("--overwrite",), "--out"),
    (("--text-tokens", "1"), "at least 2"),
    (("--text-tokens", "-3"), "at least 2"),
    (("--seed", "-1"), "--seed"),
    (("--corpus", "nowhere.txt"), "nowhere.txt"),
    (("--corpus", "corpus.txt", "--text-tokens", "0"), "no drift"),
    (("--references", "corpus.txt"), "add --generate"),
    (("--generate", "--references", "corpus.txt"), "line 1: this is no JSON"),
    (("--generate", "--references", "nowhere.jsonl"), "No file of reference texts"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_before_the_model_is_loaded(evaluate, monkeypatch, arguments, message):
    monkeypatch.setattr("errata.models.load", lambda *_, **__: pytest.fail("loaded"))
    assert message in evaluate(*arguments, code=2).err


def test_bad_input_that_only_the_model_can_tell(evaluate, work, monkeypatch):
    for name in ("errata.jobs.eval_states.measured_rows", "errata.jobs.eval_job.Drift"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("worked"))
    done = evaluate("--corpus", "corpus.txt", "--text-tokens", "100000", code=2)
    assert "100,000 of held-out text were asked for" in done.err
    tiny_hf("llama", seed=1).save_pretrained(work / "other")
    tiny_tokenizer().save_pretrained(work / "other")
    done = evaluate("--model", "other", code=2)
    assert "was made on" in done.err


def test_no_patch(errata, work):  # noqa: ARG001
    done = errata("eval", "nowhere")
    assert done.code == 2
    assert "nowhere is not a patch" in done.err
    assert errata("eval").code == 2
