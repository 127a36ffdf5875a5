"""Reading vectors in the vocabulary: modes, signs, ranks with ties, null vectors; against one vector at a time."""

import math

import pytest
import torch

from errata.core.ranking import extremes, ranks
from errata.errors import InputError
from errata.lens import MODES, Reader, backward_lens
from errata.lens.table import read_table, token_texts
from errata.models import FAMILIES, mlp_matrices
from reference import lens as reference
from tiny import fresh_model, tiny_model

PROMPT, TARGET = "The Eiffel Tower is located in", "Rome"


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(("width", "k"), [(50, 10), (6400, 10), (6411, 3), (6400, 1), (9000, 20)])
def test_extremes_are_those_of_a_stable_sort(width, k, largest):
    generator = torch.Generator().manual_seed(width + k)
    plain = torch.randn(8, width, generator=generator)
    for rows in (plain, plain.mul(3).round(), torch.zeros(3, width)):
        expected = rows.sort(dim=1, descending=largest, stable=True)
        values, ids = extremes(rows, k, largest=largest)
        assert torch.equal(values, expected.values[:, :k])
        assert torch.equal(ids, expected.indices[:, :k])


def test_ranks_count_the_strictly_greater_and_the_ties():
    rows = torch.tensor([[3.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    rank, ties = ranks(rows, torch.tensor([[1, 2], [0, 3]]))
    assert rank.tolist() == [[3, 0], [0, 0]]
    assert ties.tolist() == [[1, 2], [4, 4]]
    assert ranks(rows, torch.zeros(2, 0, dtype=torch.long))[0].shape == (2, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_paper_mode_is_the_models_own_norm_and_head(family):
    lm = tiny_model(family)
    vectors = torch.randn(5, lm.d_model, generator=torch.Generator().manual_seed(1))
    found = Reader(lm).logits(vectors)
    for vector, logits in zip(vectors, found, strict=True):
        torch.testing.assert_close(logits, reference.read(lm, vector), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_each_mode_does_with_length(family):
    lm = tiny_model(family)
    v = torch.randn(4, lm.d_model, generator=torch.Generator().manual_seed(2))
    reader = {mode: Reader(lm, mode) for mode in MODES}
    close = {"rtol": 1e-3, "atol": 1e-4}
    for mode in ("normalised", "eps-free"):
        torch.testing.assert_close(reader[mode].logits(v), reader[mode].logits(1e-6 * v), **close)
    # Without ε a long vector reads the same; a short one slides towards LL(0) with it.
    torch.testing.assert_close(reader["paper"].logits(1e3 * v), reader["eps-free"].logits(v), **close)
    zero = reader["paper"].logits(torch.zeros(1, lm.d_model))
    torch.testing.assert_close(reader["paper"].logits(1e-9 * v), zero.expand(4, -1), rtol=1e-3, atol=1e-3)
    for mode in ("linear", "raw"):
        a, b = reader[mode].logits(v[:1]), reader[mode].logits(v[1:2])
        torch.testing.assert_close(reader[mode].logits(v[:1] * 2 - v[1:2]), 2 * a - b, **close)
        torch.testing.assert_close(reader[mode].logits(-v), -reader[mode].logits(v), **close)
    torch.testing.assert_close(reader["raw"].logits(v), (v @ lm.lm_head.weight.T)[:, : lm.num_tokens], **close)
    # The linear mode has the direction of the ε-free one: they differ by a length, a bias and the family's scale.
    norm_bias = reader["linear"]._at_zero
    direct = reader["eps-free"].head_input(v) - norm_bias
    cosine = torch.cosine_similarity(direct, reader["linear"].head_input(v), dim=1)
    assert float(cosine.min()) > 0.9999


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bias_breaks_the_symmetry_of_top_and_bottom_and_nothing_else_does(family):
    lm = tiny_model(family)
    v = torch.randn(6, lm.d_model, generator=torch.Generator().manual_seed(3))
    for mode in MODES:
        reader = Reader(lm, mode)
        same = torch.allclose(reader.logits(-v), -reader.logits(v), rtol=1e-3, atol=1e-4)
        assert same is not reader.has_bias, mode
    biased = {"phi", "gptj", "starcoder2", "stablelm", "gpt2", "gpt_neo", "gpt_neox", "opt", "bloom", "falcon"}
    assert Reader(lm).has_bias is (family in biased)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "phi3", "gemma2", "phi"])
def test_a_table_is_one_vector_at_a_time(variant):
    lm = tiny_model(variant)
    lens = backward_lens(lm, PROMPT, TARGET)
    for matrix in mlp_matrices(lm.family):
        table = lens.project(matrix, top=4, track=["Rome", 7])
        assert table.source == ("vjp" if matrix == "down" else "input")
        for layer in range(lm.num_layers):
            one = lens.of(layer, matrix)
            for position in range(len(lens.tokens)):
                vector = (one.vjps if matrix == "down" else one.inputs)[position]
                assert float(table.norm[layer, position]) == pytest.approx(float(vector.norm()), rel=1e-5)
                if not bool(vector.any()):
                    assert bool(table.null[layer, position])
                    assert table.top(layer, position) == [] == table.bottom(layer, position)
                    assert table.rank(7, layer, position) is None
                    continue
                logits = reference.read(lm, vector)[: table.vocabulary]
                order = logits.argsort(descending=True, stable=True)
                torch.testing.assert_close(table.top_logits[layer, position], logits[order[:4]], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(
                    table.bottom_logits[layer, position], logits[order.flip(0)[:4]], rtol=1e-4, atol=1e-5
                )
                for token in table.tracked:
                    low = table.rank(token, layer, position)
                    assert abs(low - reference.rank(logits, token)) <= 1  # rounding of two products


def test_the_sign_turns_the_vector_round():
    lm = tiny_model("llama")
    lens = backward_lens(lm, PROMPT, TARGET)
    one, other = lens.project(top=5), lens.project(top=5, sign="-vjp")
    assert (one.sign, other.sign) == ("vjp", "-vjp")
    alive = ~one.null
    assert torch.equal(one.top_ids[alive], other.bottom_ids[alive])
    assert torch.equal(one.norm, other.norm)
    biased = backward_lens(tiny_model("gpt2"), PROMPT, TARGET)
    a, b = biased.project(top=5), biased.project(top=5, sign="-vjp")
    assert not torch.equal(a.top_ids[~a.null], b.bottom_ids[~a.null])


def test_rows_that_pad_the_vocabulary_are_not_read():
    """A matrix wider than the tokenizer: its rows stand for nothing, however large."""
    lm = fresh_model("llama", vocab_size=600)
    with torch.no_grad():
        lm.lm_head.weight[500:] *= 100
    tokens = len(lm.tokenizer)
    table = backward_lens(lm, PROMPT, TARGET).project(top=10)
    assert table.vocabulary == tokens < 600
    assert int(table.top_ids.max()) < tokens
    assert int(table.bottom_ids.max()) < tokens


def test_blocks_change_nothing(monkeypatch):
    lm = tiny_model("llama")
    lens = backward_lens(lm, PROMPT, TARGET)
    whole = lens.project(top=5)
    monkeypatch.setattr("errata.lens.modes._LOGITS", 1000)
    parts = lens.project(top=5)
    assert torch.equal(whole.top_ids, parts.top_ids)
    assert torch.equal(whole.ranks, parts.ranks)
    half = tiny_model("llama", dtype=torch.bfloat16)
    vectors = torch.randn(3, half.d_model)
    expected = Reader(half, "raw").head_input(vectors) @ half.lm_head.weight.float().T
    torch.testing.assert_close(Reader(half, "raw").logits(vectors), expected[:, : Reader(half).lm.num_tokens])


def test_the_logit_lens_ends_in_what_the_model_says():
    lm = tiny_model("llama")
    lens = backward_lens(lm, PROMPT, TARGET)
    table = lens.forward("residual", top=3)
    with torch.no_grad():
        logits = lm.hf(input_ids=torch.tensor([lens.example.ids])).logits[0, -1]
    assert int(table.top_ids[-1, -1, 0]) == int(logits.argmax()) == lens.answer
    assert table.rank(lens.answer, lm.num_layers - 1, len(lens.tokens) - 1) == 0
    assert table.share is None
    for source in ("mlp", "attention"):
        assert lens.forward(source).source == source


def test_neurons_against_the_dense_gradient():
    lm = tiny_model("llama")
    lens = backward_lens(lm, PROMPT, TARGET)
    for matrix in ("down", "up"):
        table = lens.neurons(1, matrix, count=12, top=20)
        dense = lens.gradient(1, matrix)
        neurons = dense if matrix == "down" else dense.T
        one = lens.of(1, matrix)
        spanning = one.vjps if matrix == "down" else one.inputs
        assert table.norm.tolist() == sorted(table.norm.tolist(), reverse=True)
        for i, row in enumerate(table.rows()):
            vector = neurons[row["neuron"]]
            assert row["norm"] == pytest.approx(float(vector.norm()), rel=1e-4)
            cosines = torch.cosine_similarity(vector[None].double(), spanning.double(), dim=1)
            assert row["nearest"] == int(cosines.abs().argmax())
            assert row["cosine"] == pytest.approx(float(cosines[row["nearest"]]), abs=1e-4)
            turned = math.copysign(1, row["cosine"]) * spanning[row["nearest"]]
            reader = Reader(lm)
            own = set(reader.logits(vector[None])[0].topk(20).indices.tolist())
            other = set(reader.logits(turned[None])[0].topk(20).indices.tolist())
            assert row["top_overlap"] == pytest.approx(len(own & other) / 20, abs=0.051), i
    assert len(lens.neurons(1, count=None).neuron) == lm.d_mlp


def test_a_last_layer_neuron_is_its_one_spanning_vector():
    lm = tiny_model("llama")
    table = backward_lens(lm, PROMPT, TARGET).neurons(lm.num_layers - 1, top=30, count=None)
    assert float(table.cosine.abs().min()) > 0.999
    assert float(table.top_overlap.min()) >= 29 / 30
    assert float(table.bottom_overlap.min()) >= 29 / 30


def test_a_zero_gradient_has_no_neurons():
    lm = tiny_model("llama")
    lens = backward_lens(lm, PROMPT, loss=lambda logits: 0 * logits.sum())
    table = lens.neurons(2)
    assert len(table.neuron) == 0 == len(list(table.rows()))
    assert lens.rank(2, "down") == 0
    assert lens.stable_rank(2, "down") == 0
    assert bool(lens.project().null.all())
    assert any("No gradient reaches" in note for note in lens.notes)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda lens: lens.project("gate2"), "it has gate, up, down, q, k, v, o"),
        (lambda lens: lens.project("q"), "was not tapped"),
        (lambda lens: lens.project(mode="paperish"), "choose paper, normalised"),
        (lambda lens: lens.project(sign="minus"), "'vjp' or '-vjp'"),
        (lambda lens: lens.project("up", sign="-vjp"), "its inputs are read"),
        (lambda lens: lens.project(top=0), "at least 1"),
        (lambda lens: lens.project(track=[10**6]), "token ids are 0–"),
        (lambda lens: lens.project(track=[""]), "target is empty"),
        (lambda lens: lens.project().rank(3, 0, 0), "was not tracked"),
        (lambda lens: lens.project().top(99, 0), "layers 0–3"),
        (lambda lens: lens.project().top(0, 99), "tokens 0–"),
        (lambda lens: lens.neurons(1, among=[9999]), "not zero"),
        (lambda lens: lens.neurons(1, count=0), "at least 1"),
        (lambda lens: lens.step(1.0, layers=[]), "at least one layer"),
        (lambda lens: lens.predict_shift(""), "prompt is empty"),
        (lambda lens: lens.predict_shift("tower " * 300), "takes 1 to 256"),
        (lambda lens: lens.forward("mpl"), "residual, mlp, attention"),
        (lambda lens: lens.gradient(99, "down"), "4 layers, 0–3"),
        (lambda lens: lens.gradient(-1, "down"), "4 layers, 0–3"),
        (lambda lens: lens.norms("down", of="delta"), "'vjp' or 'input'"),
        (lambda lens: lens.cosine(position=99), "tokens, 0–"),
        (lambda lens: lens.step(0.0), "learning rate"),
        (lambda lens: lens.step(float("nan")), "learning rate"),
        (lambda lens: lens.step(1.0, layers=[9]), "4 layers"),
        (lambda lens: lens.step(1.0, matrices=["q"]), "was not tapped"),
    ],
)
def test_what_cannot_be_asked(ask, message):
    lens = backward_lens(tiny_model("llama"), PROMPT, TARGET)
    with pytest.raises(InputError, match=message):
        ask(lens)


def test_a_table_as_records():
    lm = tiny_model("llama")
    lens = backward_lens(lm, PROMPT, TARGET)
    rows = list(lens.project("down", top=3).rows())
    assert len(rows) == lm.num_layers * len(lens.tokens)
    assert rows[-1]["position"] == len(lens.tokens) - 1
    assert rows[0]["mode"] == "paper"
    assert len(rows[-1]["top"]) == 3
    assert {one["token"] for one in rows[-1]["tracked"]} == {
        lens.project().texts[i] for i in (lens.target, lens.answer)
    }
    last_layer = [row for row in rows if row["layer"] == lm.num_layers - 1]
    assert [row["null"] for row in last_layer] == [True] * (len(lens.tokens) - 1) + [False]
    assert sum(row["share"] for row in last_layer) == pytest.approx(1)


def test_reader_vocabulary_is_never_materialised_for_all_vectors():
    lm = tiny_model("llama")
    vectors = torch.randn(4, 9, lm.d_model)
    table = read_table(
        Reader(lm), vectors, layers=range(4), tokens=["t"] * 9, matrix="down", source="vjp", negate=False, top=2,
        tracked=(),
    )  # fmt: skip
    assert table.ranks.shape == (4, 9, 0)


def test_in_a_notebook():
    lens = backward_lens(tiny_model("llama"), PROMPT, TARGET, subject="The Eiffel Tower")
    for shown in (lens, lens.project("up")):
        html = shown._repr_html_()
        assert html.startswith("<iframe srcdoc=")
        assert "lens-grid" in html
    grid = lens.grid(modes=["raw"], matrices=["down"], forward=["mlp"])
    assert [(sheet.name, sheet.mode, sheet.sign) for sheet in grid.sheets] == [
        ("down", "paper", "vjp"), ("down", "paper", "-vjp"), ("down", "raw", "vjp"), ("down", "raw", "-vjp"),
        ("mlp", "paper", "vjp"), ("mlp", "raw", "vjp"),
    ]  # fmt: skip
    assert grid.sheets[0].shows == "bottom"
    assert grid.sheets[1].shows == "top"
    assert grid.segments["last subject"] == lens.segments()["last subject"]


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_the_turned_table_is_that_of_minus_v(variant):
    """Where nothing has a bias it is only turned round; where something has, it is read again."""
    lens = backward_lens(tiny_model(variant), PROMPT, TARGET)
    table, read = lens.project(mode="raw"), lens.project(mode="raw", sign="-vjp")
    turned = table.turned()
    alive = ~table.null
    assert turned.sign == read.sign == "-vjp"
    assert torch.equal(turned.top_ids[alive], read.top_ids[alive])
    assert torch.equal(turned.bottom_ids[alive], read.bottom_ids[alive])
    torch.testing.assert_close(turned.top_logits[alive], read.top_logits[alive])
    assert torch.equal(turned.ranks[alive], read.ranks[alive])


def test_a_soft_cap_far_exceeded_does_not_make_ties():
    lm = fresh_model("gemma2")
    with torch.no_grad():
        lm.backbone.norm.weight.add_(40)
    vectors = torch.randn(6, 1, lm.d_model)
    table = read_table(
        Reader(lm), vectors, layers=range(6), tokens=["t"], matrix="down", source="vjp", negate=False, top=5,
        tracked=(3,),
    )  # fmt: skip
    assert int(table.ties.max()) == 1
    plain = Reader(lm).scores(vectors[:, 0])
    assert torch.equal(table.top_ids[:, 0], plain.argsort(dim=1, descending=True, stable=True)[:, :5])
    assert float(table.top_logits.max()) <= lm.hf.config.final_logit_softcapping


def test_a_text_is_tracked_as_it_follows_the_prompt():
    lens = backward_lens(tiny_model("llama"), PROMPT, TARGET)
    assert lens.project(track=[TARGET]).tracked == lens.project(track=[f" {TARGET}"]).tracked == (lens.target,)


def test_explained_shares_of_neurons():
    lm = tiny_model("llama")
    lens = backward_lens(lm, PROMPT, TARGET)
    table = lens.neurons(1, count=6, top=5)
    spanning = lens.of(1, "down").vjps.double()
    for i, neuron in enumerate(table.neuron.tolist()):
        v = lens.gradient(1, "down")[neuron].double()
        one = max(float((v @ s) ** 2 / (s @ s) / (v @ v)) for s in spanning)
        assert float(table.explained_by_one[i]) == pytest.approx(one, abs=1e-4)
        first = int(table.nearest[i])
        pairs = []
        for k in range(len(spanning)):
            if k != first:
                basis = torch.stack([spanning[first], spanning[k]], dim=1)
                rest = v - basis @ torch.linalg.lstsq(basis, v[:, None]).solution[:, 0]
                pairs.append(1 - float(rest @ rest / (v @ v)))
        assert float(table.explained_by_two[i]) == pytest.approx(max(pairs), abs=1e-4)


def test_a_leading_space_is_seen_whatever_the_tokenizer_strips():
    """Llama 2's way: a metaspace in front of words, and a decoder that strips the first one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "▁a": 1, "▁Paris": 2, "Paris": 3, "a": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    lm = fresh_model("llama")
    lm.tokenizer = fast
    texts = token_texts(Reader(lm), [2, 3])
    assert texts == {2: " Paris", 3: "Paris"}
