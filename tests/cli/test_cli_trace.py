"""`errata trace` on a tiny model: one prompt, a file of facts, and what is refused before the model is loaded."""

import json

import pytest

from tiny import knowing_hf, tiny_tokenizer

PROMPT = "The Eiffel Tower is in the city of"
FAST = ("--samples", "2", "--window", "2")


@pytest.fixture
def trace(errata, model):
    def call(*arguments, code=0):
        done = errata("trace", *arguments, *FAST, "--model", str(model))
        assert done.code == code, done.err
        return done

    return call


@pytest.fixture
def known(work):
    """A file in the known-facts format, and a model that knows its first fact."""
    texts = [
        ("Eiffel Tower", "I think that the {} is in the city of", "Paris"),
        ("Toyota", "{} builds cars in", "Rome"),
    ]
    records = [
        {"known_id": i, "subject": subject, "template": template, "attribute": answer, "relation_id": "P1",
         "prompt": template.replace("{}", subject), "prediction": "x"}
        for i, (subject, template, answer) in enumerate(texts)
    ]  # fmt: skip
    (work / "known.json").write_text(json.dumps(records))
    knowing_hf({records[0]["prompt"]: "Paris"}).save_pretrained(work / "knowing")
    tiny_tokenizer().save_pretrained(work / "knowing")
    return ("--facts", work / "known.json", "--model", work / "knowing", *FAST)


def test_one_prompt_on_the_terminal_and_in_files(trace, work):
    files = {kind: work / f"t.{kind}" for kind in ("html", "png", "pdf", "json", "parquet")}
    done = trace(PROMPT, "--subject", "Eiffel Tower", *(x for k, f in files.items() for x in (f"--{k}", f)))
    for text in ("hidden state", "MLPs, window of 2", "MLPs severed", "Attribution against exact", "·Eiff"):
        assert text in done.out
    assert all(path.stat().st_size > 500 for path in files.values())
    page = files["html"].read_text()
    assert '"side":"effect"' in page
    assert '"side":"backward"' in page  # the lens of the same prompt beside it
    record = json.loads(files["json"].read_text())
    assert len(record["restored"]["hidden"]) == 4


def test_without_an_answer_it_is_the_model_s_own(errata, known, trace):
    sure = errata("trace", "I think that the Eiffel Tower is in the city of", "--subject", "Eiffel Tower", *known[2:])
    assert sure.code == 0, sure.err
    assert sure.out.startswith("No --answer was given: what is traced is the model's own, ·Paris (")
    assert "not sure" not in sure.out
    assert "The model is not sure of it" in trace(PROMPT, "--subject", "Eiffel Tower").out
    assert "No --answer" not in trace(PROMPT, "--subject", "Eiffel Tower", "--answer", "Rome").out


def test_the_page_without_the_lens(trace, work):
    done = trace(PROMPT, "--subject", "Eiffel Tower", "--no-exact", "--no-lens", "--html", work / "t.html")
    assert "Attributed: hidden state (" in done.out
    assert "Restored:" not in done.out
    assert "trace: 0 of " in done.err  # progress, of one prompt too
    page = (work / "t.html").read_text()
    assert '"side":"backward"' not in page
    assert "attributed" in page


def test_facts_in_the_known_format(errata, known, work):
    done = errata("trace", *known, "--out", work / "out", "--n", "5")
    assert done.code == 0, done.err
    assert "Of 2 facts: 1 traced, 1 unknown to the model" in done.out
    assert "holds 2 records; all are used" in done.err
    assert "knows 1 of 2 facts" in done.err
    assert (work / "out" / "summary.md").read_text() in done.out
    again = errata("trace", *known, "--out", work / "out")
    assert "kept from an earlier run: 1 fact." in again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PROMPT,), "--subject is missing"),
        ((), "Give either a prompt"),
        ((PROMPT, "--subject", "Big Ben"), "does not occur"),
        ((PROMPT, "--subject", "eiffel tower"), "other capitals"),
        ((PROMPT, "--subject", "Eiffel Tower", "--out", "x"), "--out belongs to --facts"),
        ((PROMPT, "--subject", "Eiffel Tower", "--n", "3"), "--n belongs to --facts"),
        ((PROMPT, "--subject", "Eiffel Tower", "--kinds", "mlp,head"), "kinds="),
        ((PROMPT, "--subject", "Eiffel Tower", "--corruption", "swap"), "belong together"),
        ((PROMPT, "--subject", "Eiffel Tower", "--png", "x.gif"), "--png"),
        ((PROMPT, "--subject", "Eiffel Tower", "--max-layers", "1"), "--max-layers"),
        (("--facts", "facts.jsonl"), "--out is missing"),
        (("--facts", "facts.jsonl", "--out", "o", "--subject", "x"), "--subject belongs to a prompt"),
        (("--facts", "facts.jsonl", "--out", "o", "--html", "x.html"), "--html belongs to a prompt"),
        (("--facts", "nothing.jsonl", "--out", "o"), "No fact file"),
        (("--facts", "facts.jsonl", "--out", "facts.jsonl"), "that is a file"),
        (("--facts", "facts.jsonl", "--out", "o", "--n", "0"), "at least 1"),
        (("--facts", "facts.jsonl", "--out", "."), "other things lie"),
    ],
)
def test_bad_input_is_found_before_the_model_is_loaded(errata, arguments, message):
    done = errata("trace", *arguments, "--model", "no-such-model")
    assert done.code == 2
    assert message in done.err
    assert "no-such-model" not in done.err


def test_facts_that_the_model_does_not_know(trace, work):
    done = trace("--facts", "facts.jsonl", "--out", work / "out", code=2)
    assert "knows none of the 3 facts" in done.err


def test_a_number_of_facts_that_is_none_names_its_option(errata, known, work):
    done = errata("trace", *known, "--out", work / "out", "--n", "0")
    assert done.code == 2
    assert "--n must be at least 1, found 0" in done.err
