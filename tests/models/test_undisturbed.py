"""Whatever its owner does to a model after wrapping, errata runs it the same, and leaves what was done as it was."""

import pytest
import torch

from errata.errors import InputError
from errata.evaluate import measure
from errata.facts import Fact, Neighbour
from errata.jobs.ask_job import ask
from errata.jobs.edit_job import edit_facts
from errata.lens import backward_lens
from errata.models import Place, pad_right, run_backward, run_layers, run_taps, tuned, wrap
from errata.models.run.generate import sample_ids
from errata.tracing import trace
from tiny import fresh_model, tiny_hf, tiny_tokenizer

PROMPT = "The Eiffel Tower is in the city of"
FACT = Fact(
    subject="Eiffel Tower",
    prompt=PROMPT,
    target_new="Rome",
    target_true="Paris",
    neighbours=(Neighbour(prompt="The capital of France is", answer="Paris"),),
)
# Where each family keeps its dropout rates.
DROPOUT = {
    "llama": {"attention_dropout": 0.5},
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5},
    "phi": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attention_dropout": 0.5},
}


def everything(lm):
    """What each part of errata that runs the model gives, as tensors and plain values."""
    ids, mask = pad_right([lm.tokenizer(PROMPT)["input_ids"]])
    lens = backward_lens(lm, PROMPT, "Rome", subject="Eiffel Tower")
    traced = trace(lm, PROMPT, "Eiffel Tower", samples=2, window=2)
    loss = run_backward(lm, ids, mask, [Place(1, "down")], lambda hidden: lm.logits(hidden)[:, -1].logsumexp(-1))
    with tuned(lm, [Place(1, "down")]) as weights, torch.enable_grad():
        hidden = run_layers(lm, ids, mask).hidden
        trained = weights.gradients(lm.logits(hidden)[:, -1].logsumexp(-1).sum())
    return [
        run_layers(lm, ids, mask).hidden,
        run_taps(lm, ids, mask, [Place(0, "down")])[0][Place(0, "down")],
        loss.vjps[Place(1, "down")],
        trained[Place(1, "down")],
        lens.loss,
        lens.project("down").norm,
        traced.effect("mlp"),
        traced.attribution["mlp"],
        sample_ids(lm, ids.tolist(), new_tokens=5, top_k=5, seed=0),
        ask(lm, PROMPT),
        measure(lm, [FACT]).to_json(),
    ]


def same(found, expected):
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("variant", DROPOUT)
def test_dropout_never_runs_whatever_mode_the_model_is_in(variant):
    lm = fresh_model(variant, **DROPOUT[variant])
    expected = everything(lm)
    ids = torch.tensor([lm.tokenizer(PROMPT)["input_ids"]])
    lm.hf.train()
    assert not torch.equal(lm.hf(ids).logits, lm.hf(ids).logits), "this model has dropout"
    assert same(everything(lm), expected)
    assert all(module.training for module in lm.hf.modules())


def test_every_module_gets_its_own_mode_back_even_after_an_error():
    lm = fresh_model("gpt2", **DROPOUT["gpt2"])
    lm.layers[2].train()
    lm.layers[2].attn.eval()
    modes = {name: module.training for name, module in lm.hf.named_modules()}
    assert len(set(modes.values())) == 2
    ids, mask = pad_right([[5, 6, 7]])

    def failing(*_):
        assert not any(module.training for module in lm.hf.modules())
        raise ZeroDivisionError

    for stop in (None, 2):
        run_layers(lm, ids, mask, stop=stop)
        assert {name: module.training for name, module in lm.hf.named_modules()} == modes
    hook = lm.layers[1].register_forward_hook(failing)
    with pytest.raises(ZeroDivisionError):
        run_backward(lm, ids, mask, [], lambda hidden: hidden.sum((1, 2)))
    with pytest.raises(ZeroDivisionError):
        run_layers(lm, ids, mask)
    hook.remove()
    assert {name: module.training for name, module in lm.hf.named_modules()} == modes


def test_an_edit_in_train_mode_has_the_bits_of_one_in_eval_mode(tmp_path):
    options = {"layers": (1, 2), "value_steps": 3, "moment_tokens": 200, "prior_weight": 10.0}
    lm = fresh_model("gpt2", **DROPOUT["gpt2"])
    plain = edit_facts(lm, [FACT], cache=tmp_path / "a", **options)
    lm.hf.train()
    trained = edit_facts(lm, [FACT], cache=tmp_path / "b", **options)
    for place, update in plain.patch.updates.items():
        assert torch.equal(update.matrix(), trained.patch.updates[place].matrix())
    assert plain.report["after"] == trained.report["after"]
    assert lm.hf.training


def compile_in_place(hf):
    hf.model.compile(backend="eager")
    for block in hf.model.layers:
        block.compile(backend="eager")


def compile_forward(hf):
    hf.forward = torch.compile(hf.forward, backend="eager")
    hf.model.forward = torch.compile(hf.model.forward, backend="eager")


@pytest.mark.parametrize("compiled", [compile_in_place, compile_forward])
def test_what_was_compiled_after_wrapping_is_run_as_written(compiled):
    lm = fresh_model("llama")
    expected = everything(lm)
    compiled(lm.hf)
    ids = torch.tensor([lm.tokenizer(PROMPT)["input_ids"]])
    lm.hf.model(ids)  # traced now, without a hook in sight
    assert same(everything(lm), expected)


def test_a_token_without_an_embedding_is_an_error_only_where_it_is_used():
    tokenizer = tiny_tokenizer.__wrapped__()
    hf = tiny_hf("llama")
    tokenizer.add_tokens(["<|chat|>", "<|end|>"])
    lm = wrap(hf, tokenizer, name="grown")
    assert lm.tokens_beyond
    ask(lm, PROMPT)
    facts = [FACT, Fact(subject="Eiffel Tower", prompt="<|chat|>The Eiffel Tower is in", target_new="Rome")]
    words = r"holds '<\|chat\|>', which grown has no embedding for.*resize_token_embeddings"
    with pytest.raises(InputError, match=words):
        ask(lm, "<|chat|>" + PROMPT)
    with pytest.raises(InputError, match=words):
        measure(lm, facts)
    with pytest.raises(InputError, match=words):
        edit_facts(lm, facts)
    with pytest.raises(InputError, match=words):
        backward_lens(lm, "<|chat|>" + PROMPT, "Rome")
    with pytest.raises(InputError, match=words):
        trace(lm, "<|chat|>" + PROMPT, "Eiffel Tower")
    hf.resize_token_embeddings(len(tokenizer))
    ask(wrap(hf, tokenizer, name="resized"), "<|chat|>" + PROMPT)
