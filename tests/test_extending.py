"""A method and a family from outside: each is one registration, and everything else finds it by itself."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from errata import Fact, backward_lens, edit_facts, load, settings_for
from errata.cli.listings import methods, models
from errata.core.updates import WeightUpdate
from errata.edit import METHODS, Edit, EditTask, Method, MethodConfig, SearchSpace, bare_keys, presets_of, space_of
from errata.edit.settings.presets import preset
from errata.errors import ConfigError, UnsupportedModelError
from errata.jobs.bench.bench_options import BenchOptions
from errata.jobs.tune.tune_options import TuneOptions
from errata.models import FAMILIES, Place, encode_targets
from errata.stats import Corpus
from tiny import tiny_hf, tiny_model, tiny_tokenizer

FACTS = [
    Fact(subject="Toyota", prompt="Toyota builds cars in", target_new="China", target_true="Japan", id="cars"),
    Fact(subject="Bill Gates", prompt="Bill Gates founded", target_new="Rome", target_true="Microsoft", id="gates"),
]


@dataclass(frozen=True, kw_only=True)
class ToyConfig(MethodConfig):
    """Hyperparameters of the toy.

    layers: one.  rate: how much of the target's unembedding row a key is given.
    """

    title: ClassVar[str] = "Toy"
    one_layer: ClassVar[bool] = True

    rate: float = 0.5

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [(f"rate must be positive, found {self.rate}", self.rate <= 0)]


def edit_toy(task: EditTask) -> Edit:
    lm, (layer,) = task.lm, task.config.layers
    with task.stage("solve"):
        keys = bare_keys(lm, task.facts, layer).detach()
        rows = [row for row, _ in encode_targets(lm.tokenizer, [fact.wanted for fact in task.facts])]
        values = task.config.rate * lm.lm_head.weight[[row.target_ids[0] for row in rows]].detach()
        update = WeightUpdate.from_factors(keys.cpu(), values.cpu())
    return Edit(updates={Place(layer, "down"): update}, metrics={"rate": task.config.rate})


TOY = Method(
    name="toy",
    title="a toy",
    writes="One MLP output matrix: the target's unembedding row at the subject's key.",
    paper="nobody, nowhere",
    config_type=ToyConfig,
    guess=lambda lm: ToyConfig(layers=(lm.num_layers // 2,)),
    certain=frozenset({"layers"}),
    plan=lambda config: f"layer {config.layers[0]}. To do: one forward.",
    edit=edit_toy,
)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))


@pytest.fixture
def toy(monkeypatch):
    """The one line of the registry."""
    monkeypatch.setitem(METHODS, "toy", TOY)


@pytest.mark.usefixtures("toy")
def test_a_method_from_outside_edits():
    lm = tiny_model("llama")
    before = lm.digest(fresh=True)
    result = edit_facts(lm, FACTS, method="toy", rate=2.0)
    assert lm.digest(fresh=True) == before
    assert result.report["method"] == "toy"
    assert result.report["config"] == {"layers": [2], "rate": 2.0}
    (update,) = result.patch.updates.values()
    assert update.matrix().norm() > 0
    with pytest.raises(ConfigError, match="Toy configuration: rate must be positive"):
        edit_facts(lm, FACTS, method="toy", rate=-1.0)


@pytest.mark.usefixtures("toy")
def test_a_method_from_outside_is_listed(capsys):
    methods(None)
    assert "toy: a toy; settings known for no model." in capsys.readouterr().out
    methods("toy")
    page = capsys.readouterr().out
    for text in (TOY.writes, "Paper: nobody, nowhere.", "rate = 0.5", "how much of the target's", "Presets: none."):
        assert text in page


@pytest.mark.usefixtures("toy")
def test_a_method_from_outside_can_be_benched_and_says_what_tuning_lacks():
    lm = tiny_model("llama")
    settings = settings_for(lm, method="toy")
    assert settings.is_guess
    assert settings.config == ToyConfig(layers=(2,))
    assert presets_of("toy") == ()
    assert BenchOptions(methods=("toy",), counts=(1,), settings={"toy": {"rate": 2.0}}).methods == ("toy",)
    with pytest.raises(ConfigError, match=r"What to try of toy is not known; errata tune knows memit.*search_space"):
        TuneOptions(method="toy")


def test_what_a_method_from_outside_adds_of_its_own(monkeypatch, capsys):
    """Presets and a search space in its `Method` are all that they take."""
    lm = tiny_model("llama")
    row = preset("the tiny one", "a test", ("llama", lm.num_layers, lm.d_model, None), ToyConfig(layers=(1,), rate=3.0))
    space = SearchSpace(depths=(0.5,), costly=(("rate", 1.0),))
    monkeypatch.setitem(METHODS, "toy", replace(TOY, presets=(row,), search_space=space))
    settings = settings_for(lm, method="toy")
    assert (settings.config.rate, settings.is_guess, settings.source) == (3.0, False, "preset the tiny one, a test")
    assert space_of("toy") == space
    assert TuneOptions(method="toy", fields={"rate": 2.0}).method == "toy"
    models()
    assert "the tiny one" in capsys.readouterr().out


class ToyLlamaConfig(LlamaConfig):
    model_type = "toy_llama"


class ToyLlamaForCausalLM(LlamaForCausalLM):
    config_class = ToyLlamaConfig


@pytest.fixture
def folder(tmp_path):
    """A saved model of a kind that errata has never heard of, with a tiny llama's weights."""
    AutoConfig.register("toy_llama", ToyLlamaConfig)
    AutoModelForCausalLM.register(ToyLlamaConfig, ToyLlamaForCausalLM)
    source = tiny_hf("llama")
    hf = ToyLlamaForCausalLM(ToyLlamaConfig(**{**source.config.to_dict(), "model_type": "toy_llama"}))
    hf.load_state_dict(source.state_dict())
    hf.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    yield tmp_path / "model"
    CONFIG_MAPPING._extra_content.pop("toy_llama")
    MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.pop(ToyLlamaConfig)


def test_a_family_from_outside(folder, monkeypatch):
    with pytest.raises(UnsupportedModelError, match=r"model_type='toy_llama'.*Add one in models/families/rows\.py"):
        load(folder)
    monkeypatch.setitem(FAMILIES, "toy_llama", replace(FAMILIES["llama"], model_type="toy_llama", example="a toy"))
    lm, llama = load(folder), tiny_model("llama")
    assert lm.family.name == "toy_llama"
    ours, theirs = (backward_lens(one, FACTS[0].text, FACTS[0].target_new).gradient(2, "down") for one in (lm, llama))
    # Not to the bit: weights from a file lie elsewhere in memory, and sums go in another order.
    torch.testing.assert_close(ours, theirs)
    settings = {"method": "memit", "layers": (1, 2), "value_steps": 3, "prefixes": 0, "moment_tokens": 200}
    texts = [f"Tower {i} is in Paris, which is the capital of France." for i in range(40)]
    ours, theirs = (edit_facts(one, FACTS, corpus=Corpus.from_texts(texts), **settings) for one in (lm, llama))
    for place, update in theirs.patch.updates.items():
        torch.testing.assert_close(ours.patch.updates[place].matrix(), update.matrix(), rtol=1e-3, atol=1e-5)


def test_a_wrong_row_from_outside_is_an_error_at_load(folder, monkeypatch):
    wrong = replace(FAMILIES["llama"], model_type="toy_llama", down="mlp.up_proj")
    monkeypatch.setitem(FAMILIES, "toy_llama", wrong)
    with pytest.raises(UnsupportedModelError, match="toy_llama"):
        load(folder)
