"""Chat templates of every kind: what the model reads, where the subject stands in it, and where a reply begins."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.edit.values.prompt_rows import rewriting_rows
from errata.errors import FactsError, InputError, ModelError
from errata.evaluate import measure
from errata.facts import Fact, Neighbour
from errata.jobs.ask_job import ask
from errata.jobs.edit_job import edit_facts
from errata.jobs.eval_job import evaluate_patch
from errata.jobs.trace_job import trace_facts
from errata.lens import backward_lens
from errata.models import chat_prompt, encode, facts_in_chat, has_chat, in_chat, wrap
from errata.patches import Patch
from errata.tracing import trace
from tiny import tiny_hf, tiny_tokenizer

# As published models have them, in short.
TEMPLATES = {
    "chatml": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou know the Eiffel Tower.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "bos, trimmed, a space before the reply": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "bos, no whitespace before the reply": (
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "no generation prompt": "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}",
    "says it twice": (
        "{% for m in messages %}{{ m.role }}> {{ m.content }} / {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant> {% endif %}"
    ),
    "thinks": (
        "{% for m in messages %}<{{ m.role }}>{{ '<think></think>' if m.role == 'assistant' }}{{ m.content }}\n"
        "{% endfor %}{% if add_generation_prompt %}<assistant>"
        "{{ '<think></think>' if enable_thinking is defined and not enable_thinking }}{% endif %}"
    ),
    "one turn only": (
        "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}Q: {{ messages[0].content }} A:"
    ),
}


def chat_tokenizer(template, bos=False):
    tokenizer = tiny_tokenizer.__wrapped__(bos)
    tokenizer.chat_template = template
    return tokenizer


def chat_model(template, bos=False):
    return wrap(tiny_hf("llama"), chat_tokenizer(template, bos), name="tiny-chat")


@pytest.fixture(scope="module", params=TEMPLATES)
def lm(request):
    bos = request.param.startswith("bos")
    return chat_model(TEMPLATES[request.param], bos)


_WORD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Co"]), min_size=1, max_size=8)
_SUBJECT = _WORD.map(str.strip).filter(bool)


@given(_WORD, _SUBJECT, _WORD)
@settings(max_examples=25, deadline=None)
def test_the_model_reads_what_the_template_says_and_the_subject_is_found_in_it(lm, before, subject, after):
    text = before + subject + after
    asked = chat_prompt(lm, text, (len(before), len(before) + len(subject)))
    message = [{"role": "user", "content": text}]
    expected = lm.tokenizer.apply_chat_template(
        message, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    (encoding,) = encode(lm.tokenizer, [asked.text])
    assert list(encoding.ids)[: len(expected)] == expected
    assert asked.text[slice(*asked.subject)] == subject
    assert asked.text[slice(*asked.message)] == text.strip()
    assert asked.message[0] <= asked.subject[0] <= asked.subject[1] <= asked.message[1]
    assert asked.subject[0] - asked.message[0] == len(before) - (len(text) - len(text.lstrip()))
    assert text.strip() not in asked.text[asked.message[0] + 1 :]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_reply_begins_where_the_template_s_own_begins(name):
    model = chat_model(TEMPLATES[name], name.startswith("bos"))
    asked = chat_prompt(model, "Where is it?")
    conversation = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Paris"}]
    if name == "one turn only":
        assert (asked.text, asked.join) == ("Q: Where is it? A:", "")
        return
    whole = str(model.tokenizer.apply_chat_template(conversation, tokenize=False)).removeprefix("<s>")
    assert whole.startswith(asked.text + asked.join + "Paris")
    assert asked.join == (" " if "a space before" in name else "")


FACT = Fact(
    subject="Eiffel Tower",
    prompt="In which city is the {}?",
    target_new=" Rome",
    target_true="Paris",
    paraphrases=("The {} is where?",),
    neighbours=(Neighbour(prompt="What is the capital of France?", answer=" Paris"),),
    generation_prompts=("Tell me of the {}.",),
    id="tower",
    chat=True,
    metadata={"source": "made up"},
)


def test_a_fact_as_the_model_reads_it(lm):
    plain = in_chat(lm, FACT)
    assert not plain.chat
    assert in_chat(lm, plain) is plain
    assert plain.text == chat_prompt(lm, FACT.text).text
    start, end = plain.subject_span
    assert plain.text[start:end] == "Eiffel Tower"
    assert plain.text[:end].endswith("In which city is the Eiffel Tower")
    assert plain.paraphrases == (chat_prompt(lm, "The Eiffel Tower is where?").text,)
    assert plain.neighbours[0].prompt == chat_prompt(lm, "What is the capital of France?").text
    assert plain.generation_prompts == (chat_prompt(lm, "Tell me of the Eiffel Tower.").text,)
    assert (plain.target_new, plain.target_true, plain.neighbours[0].answer) == ("Rome", "Paris", "Paris")
    assert (plain.id, plain.metadata, plain.join) == (FACT.id, FACT.metadata, chat_prompt(lm, FACT.text).join)


def test_a_subject_that_is_a_word_of_the_template_is_found_in_the_message():
    model = chat_model(TEMPLATES["chatml"])
    for subject in ("assistant", "system", "user", "You"):
        prompt = f"What does {subject} mean?"
        plain = in_chat(model, Fact(subject=subject, prompt=prompt, target_new="Rome", chat=True))
        start, end = plain.subject_span
        assert plain.text[:end].endswith(f"<|im_start|>user\nWhat does {subject}")
        (row,) = rewriting_rows(model, [plain], ("",))
        (encoding,) = encode(model.tokenizer, [plain.text])
        last = encoding.tokens_over(start, end)[1]
        assert row.edited == last
        assert trace(model, prompt, subject, chat=True, samples=1, exact=False).subject_tokens[1] == last
        lens = backward_lens(model, prompt, "Rome", subject=subject, chat=True)
        assert lens.segments()["last subject"] == (last,)


def test_a_context_prefix_goes_into_the_user_s_message(lm):
    plain = in_chat(lm, FACT)
    rows = rewriting_rows(lm, [plain], ("", "The tower is here. "))
    asked = chat_prompt(lm, "The tower is here. " + FACT.text)
    whole = encode(lm.tokenizer, [asked.text])[0].ids
    # "says it twice" repeats it; the prefix goes before the last, which is the one that is edited.
    if asked.text.count("The tower is here.") == 1:
        assert rows[1].ids[: len(whole) - 1] == whole[:-1]
    text = plain.after("The tower is here. ")
    assert text.index("The tower is here. In which city is the Eiffel Tower") > 0 or plain.opening == 0
    assert Fact(subject="a", prompt="a is", target_new="b").after("X. ") == "X. a is"


def test_every_entry_takes_the_fact_and_gives_what_its_plain_twin_gives(tmp_path):
    model = chat_model(TEMPLATES["chatml"])
    asked = chat_prompt(model, FACT.text)
    twin = Fact(
        subject=FACT.subject,
        prompt=asked.text,
        target_new="Rome",
        target_true="Paris",
        paraphrases=(chat_prompt(model, FACT.paraphrases[0]).text,),
        neighbours=(Neighbour(prompt=chat_prompt(model, FACT.neighbours[0].prompt).text, answer="Paris"),),
        id="tower",
        join="",
    )
    chat = replace(FACT, generation_prompts=())
    assert measure(model, [chat]).to_json() == measure(model, [twin]).to_json()
    options = {"layers": (1, 2), "value_steps": 3, "moment_tokens": 200, "prior_weight": 1.0, "prefixes": 0}
    found = [edit_facts(model, [fact], cache=tmp_path, **options) for fact in (chat, twin)]
    for place, update in found[0].patch.updates.items():
        assert torch.equal(update.matrix(), found[1].patch.updates[place].matrix())
    assert found[0].report["after"] == found[1].report["after"]
    assert found[0].patch.facts == (chat,), "the patch remembers the fact as it was given"
    found[0].patch.save(tmp_path / "patch")
    patch = Patch.load(tmp_path / "patch")
    assert patch.facts == (chat,)
    evaluation = evaluate_patch(model, patch, text_tokens=0, cache=tmp_path)
    assert evaluation.after.summary.to_json() == found[0].after.summary.to_json()


def test_facts_of_both_kinds_are_edited_together(tmp_path):
    model = chat_model(TEMPLATES["bos, no whitespace before the reply"], bos=True)
    plain = Fact(subject="Toyota", prompt="Toyota builds cars in", target_new="China")
    options = {"layers": (1, 2), "value_steps": 2, "moment_tokens": 200, "prior_weight": 1.0, "prefixes": 1}
    result = edit_facts(model, [FACT, plain], cache=tmp_path, **options)
    assert result.patch.facts == (FACT, plain)


def test_facts_traced_as_chats(tmp_path):
    model = chat_model(TEMPLATES["chatml"])
    own = trace(model, FACT.text, FACT.subject, chat=True, samples=1, window=2, seed=0)
    answer = own.own.lstrip(" ")
    known = replace(FACT, target_true=answer, join=own.own.removesuffix(answer))
    average = trace_facts(model, [known], out=tmp_path, samples=1, window=2, severed="none")
    assert average.facts[0].id == "tower"
    assert own.prompt == chat_prompt(model, FACT.text).text


def test_ask_as_a_chat_is_ask_of_the_rendered_text(lm):
    (answer,) = ask(lm, "Where is the tower?", chat=True, new_tokens=5)
    (plain,) = ask(lm, chat_prompt(lm, "Where is the tower?").text, new_tokens=5)
    assert answer.prompt == "Where is the tower?"
    assert (answer.continuation, answer.next_tokens) == (plain.continuation, plain.next_tokens)


def test_a_lens_as_a_chat_is_one_of_the_rendered_text(lm):
    asked = chat_prompt(lm, "Where is the Eiffel Tower?", (13, 25))
    lens = backward_lens(lm, "Where is the Eiffel Tower?", " Paris", subject="Eiffel Tower", chat=True)
    ids = encode(lm.tokenizer, [asked.text + asked.join + "Paris"])[0].ids
    assert lens.example.ids == ids[: len(lens.example.ids)]
    first, last = encode(lm.tokenizer, [asked.text])[0].tokens_over(*asked.subject)
    assert lens.segments()["first subject"] == (first,)
    assert lens.segments()["last subject"] == (last,)


def test_a_model_without_a_template_says_so():
    model = wrap(tiny_hf("llama"), tiny_tokenizer(), name="base")
    assert not has_chat(model)
    for call in (
        lambda: ask(model, "Where?", chat=True),
        lambda: measure(model, [FACT]),
        lambda: edit_facts(model, [FACT]),
        lambda: trace_facts(model, [FACT]),
        lambda: backward_lens(model, "Where?", "Paris", chat=True),
        lambda: trace(model, "Where is the tower?", "tower", chat=True),
    ):
        with pytest.raises(ModelError, match=r"base has no chat template.*tokenizer\.chat_template"):
            call()


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].content | upper | length }}", "does not give the message"),
        ("hello", "does not give the message"),
        ("{{ messages[0].content[:4] }}", "does not give the message"),
        ("{{ raise_exception('system first') }}", "cannot be used: system first"),
        ("{% for %}", "cannot be used"),
        ("{} {{ messages[0].content }}", "marks a subject's place"),
    ],
)
def test_templates_that_are_of_no_use(template, words):
    with pytest.raises(InputError, match=words):
        facts_in_chat(chat_model(template), [FACT])


def test_every_fact_that_cannot_be_a_chat_is_named():
    model = chat_model("{{ messages[0].content | replace('Rome', 'Roma') }}")
    facts = [replace(FACT, id=str(i), prompt=f"{{}} {city}") for i, city in enumerate(["Rome", "Paris", "Rome"])]
    with pytest.raises(FactsError) as caught:
        facts_in_chat(model, facts)
    assert [problem.fact_id for problem in caught.value.problems] == ["0", "2"]


def test_a_chat_model_that_ends_at_once_when_asked_without_gets_the_hint():
    hf, tokenizer = tiny_hf("llama"), chat_tokenizer(TEMPLATES["chatml"])
    prompt = "The capital of France is"
    with torch.no_grad():
        hidden = hf.model(torch.tensor([tokenizer(prompt)["input_ids"]])).last_hidden_state[0, -1]
        hf.lm_head.weight[tokenizer.eos_token_id] += 8 * hidden / hidden.norm()
    (answer,) = ask(wrap(hf, tokenizer, name="mine"), prompt)
    assert answer.continuation == ""
    assert "mine is a chat model: try --chat (in Python chat=True)" in answer.hint
    tokenizer.chat_template = None
    assert ask(wrap(hf, tokenizer, name="mine"), prompt)[0].hint == ""
    assert all(not one.hint for one in ask(chat_model(TEMPLATES["chatml"]), [prompt, "Because"], new_tokens=2))


def test_smollm2_answers_as_transformers_does(smollm2):
    question = "What is the capital of France?"
    assert "try --chat" in ask(smollm2, question)[0].hint
    (answer,) = ask(smollm2, question, chat=True)
    ids = smollm2.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    said = smollm2.hf.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert answer.continuation == smollm2.tokenizer.decode(said, skip_special_tokens=True)
    assert "Paris" in answer.continuation
    assert not answer.hint
