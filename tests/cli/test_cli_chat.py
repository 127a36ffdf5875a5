"""--chat: the command line says what Python says."""

import json

import pytest

import errata as package
from tiny import tiny_hf, tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
QUESTION = "Where is the Eiffel Tower?"


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "chat"
    tokenizer = tiny_tokenizer.__wrapped__()
    tokenizer.chat_template = TEMPLATE
    tiny_hf("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_ask(errata, chat_model):
    (expected,) = package.ask(package.load(chat_model), QUESTION, chat=True, new_tokens=4, top=3)
    done = errata("ask", QUESTION, "--chat", "--model", chat_model, "--tokens", 4, "--top", 3)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(QUESTION + "\n")
    for token, probability in expected.next_tokens:
        assert f"{token!r} {100 * probability:.1f}%" in done.out
    assert done.out != errata("ask", QUESTION, "--model", chat_model, "--tokens", 4, "--top", 3).out


def test_lens_and_trace(errata, chat_model):
    lm = package.load(chat_model)
    lens = package.backward_lens(lm, QUESTION, "Paris", subject="Eiffel Tower", chat=True)
    done = errata("lens", QUESTION, "--target", "Paris", "--subject", "Eiffel Tower", "--chat", "--model", chat_model)
    assert done.code == 0, done.err
    assert f"loss “first” = {lens.loss:.3f}" in done.out or f"{lens.loss:.3g}" in done.out
    options = ("--subject", "Eiffel Tower", "--chat", "--model", chat_model, "--samples", 1, "--no-exact", "--quiet")
    done = errata("trace", QUESTION, *options)
    assert done.code == 0, done.err
    assert "<|user|>" in done.out


def test_edit_eval_and_trace_of_facts(errata, work, chat_model, edit_arguments):
    fact = {"id": "a", "subject": "Eiffel Tower", "prompt": QUESTION, "target_new": "Rome", "chat": True}
    (work / "chat.jsonl").write_text(json.dumps(fact) + "\n")
    arguments = [chat_model if str(one).endswith("tiny") else one for one in edit_arguments(facts="chat.jsonl")]
    done = errata(*arguments)
    assert done.wrote, done.err
    (kept,) = package.Patch.load(work / "out").facts
    assert kept.chat
    assert kept.prompt == QUESTION
    assert errata("eval", "out", "--out", "out-eval", "--text-tokens", 0, "--quiet").code == 0
    assert "<|assistant|>" in (work / "out" / "report.json").read_text()


def test_a_model_without_a_template(errata, model):
    for command in (
        ["ask", QUESTION],
        ["lens", QUESTION, "--target", "Paris"],
        ["trace", QUESTION, "--subject", "Eiffel Tower"],
    ):
        done = errata(*command, "--chat", "--model", model)
        assert done.code == 2
        assert "has no chat template" in done.err


def test_a_warning_is_one_line(errata, tmp_path):
    tiny_hf("llama").save_pretrained(tmp_path)
    tiny_tokenizer(True).save_pretrained(tmp_path)
    done = errata("ask", "<s>Where is", "<s>Where was", "--model", tmp_path, "--tokens", 2)
    assert done.code == 0
    # pytest lets every warning through; a process of its own says it once.
    said = "errata: A text begins with <s>, which this tokenizer adds by itself; the model reads it once."
    assert set(done.err.splitlines()) == {said}
