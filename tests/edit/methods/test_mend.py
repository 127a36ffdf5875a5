"""MEND against whole forwards under weights that really are replaced, on every family; and as a method."""

import pytest
import torch
from edit_helpers import FACTS, relative

from errata import edit_facts
from errata.edit.lookup import settings_for
from errata.edit.methods.mend import mend_config as config_module
from errata.edit.methods.mend.editor_file import new_editor, save_editor
from errata.edit.methods.mend.examples import Batch, Schedule, examples_of, split
from errata.edit.methods.mend.mend import MEND, guess
from errata.edit.methods.mend.mend_config import MendConfig
from errata.edit.methods.mend.objective import batch_gradients, editor_losses, enter
from errata.edit.methods.mend.validation import validate
from errata.edit.settings.method_config import parse_override
from errata.errors import ConfigError
from errata.facts import Fact, Neighbour
from errata.models import encode_targets
from reference import mend as reference
from tiny import LAYERS, VARIANTS, fresh_model, tiny_model
from type_checks import without_type_checks

RICH = [
    Fact(
        subject=fact.subject, prompt=fact.prompt, target_new=fact.target_new, target_true="Paris",
        paraphrases=(f"We know that {fact.text}", f"As said, {fact.text}"),
        neighbours=(Neighbour(prompt="The Great Wall is in", answer="China"), Neighbour(prompt="Bill Gates speaks")),
    )
    for fact in FACTS
]  # fmt: skip


def trained(lm, config):
    """An editor with every parameter moved off its start, and statistics of the gradients of FACTS."""
    editor = new_editor(lm, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in editor.named_parameters():
            size = 0.02 if name.endswith(".u") else 0.1
            parameter.add_(size * torch.randn(parameter.shape, generator=generator) if name != "rates" else 0.01)
    examples = examples_of(lm, RICH)
    batch = Schedule(examples, [], len(examples), 0, False).rows(range(len(examples)), 0)
    entered = enter(lm, batch, config.layers[0])
    for place, gradient in batch_gradients(lm, batch, entered, editor).by_place.items():
        editor.observe(place, *gradient.rows())
    return editor, batch, entered


def of(batch, index):
    return batch.edits[index], batch.paraphrases[index], batch.locality[index]


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_those_of_replaced_weights(variant):
    lm = tiny_model(variant)
    config = MendConfig(layers=(1, 2, 3), rank=6, matrices="mlp")
    editor, batch, entered = trained(lm, config)
    digest = lm.digest()
    found = editor_losses(lm, editor, batch, entered, batch_gradients(lm, batch, entered, editor), config)
    slow = reference.losses(lm, editor, [of(batch, i) for i in range(len(FACTS))])
    assert relative(found.edit.detach(), torch.stack([nll for nll, _ in slow]).detach()) < 1e-3
    assert relative(found.locality.detach(), torch.stack([kl for _, kl in slow]).detach()) < 5e-3
    total = found.total(config)
    expected = sum(0.1 * nll + kl for nll, kl in slow) / len(slow)
    parameters = list(editor.parameters())
    ours = torch.autograd.grad(total, parameters)
    theirs = torch.autograd.grad(expected, parameters)
    assert all(bool(gradient.any()) for gradient in theirs)
    for (name, _), one, other in zip(editor.named_parameters(), ours, theirs, strict=True):
        assert relative(one, other) < 2e-2, name
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in lm.hf.parameters())
    assert lm.digest() == digest


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (3,), (0,), (1, 3)])
@pytest.mark.parametrize("matrices", ["down", "gate,up"])
def test_any_choice_of_layers_and_matrices(layers, matrices):
    lm = tiny_model("phi3")  # its gate and up are one matrix
    config = MendConfig(layers=layers, matrices=matrices, rank=6)
    editor, batch, entered = trained(lm, config)
    found = editor_losses(lm, editor, batch, entered, batch_gradients(lm, batch, entered, editor), config)
    slow = reference.losses(lm, editor, [of(batch, i) for i in range(len(FACTS))])
    assert relative(found.edit.detach(), torch.stack([nll for nll, _ in slow]).detach()) < 1e-3
    assert relative(found.locality.detach(), torch.stack([kl for _, kl in slow]).detach()) < 5e-3


def test_facts_that_are_edited_together_share_their_update():
    lm, config = tiny_model("llama"), MendConfig(layers=(2, 3), rank=6)
    editor, batch, entered = trained(lm, config)
    gradients = batch_gradients(lm, batch, entered, editor)
    for together in (2, 4, 3):  # the last leaves one fact over
        found = editor_losses(lm, editor, batch, entered, gradients, config.replace(batch=12, facts_at_once=together))
        slow = reference.losses(lm, editor, [of(batch, i) for i in range(len(FACTS))], together=together)
        assert relative(found.edit.detach(), torch.stack([nll for nll, _ in slow]).detach()) < 1e-3
        assert relative(found.locality.detach(), torch.stack([kl for _, kl in slow]).detach()) < 1e-3


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_prompt_can_count_too(weight):
    lm, config = tiny_model("llama"), MendConfig(layers=(2, 3), rank=6, prompt_weight=weight)
    editor, batch, entered = trained(lm, config)
    found = editor_losses(lm, editor, batch, entered, batch_gradients(lm, batch, entered, editor), config)
    asked = reference.losses(lm, editor, [of(batch, i) for i in range(len(FACTS))])
    prompts = reference.losses(lm, editor, [(row, row, ids) for row, _, ids in (of(batch, i) for i in range(4))])
    pairs = zip(asked, prompts, strict=True)
    expected = torch.stack([(1 - weight) * nll + weight * own for (nll, _), (own, _) in pairs])
    assert relative(found.edit.detach(), expected.detach()) < 1e-3
    assert validate(lm, editor, [batch], [entered], config).loss == pytest.approx(float(found.total(config).detach()))


def test_in_half_precision_the_loss_is_that_of_the_moved_weights_within_its_rounding():
    lm, config = tiny_model("llama", dtype=torch.bfloat16), MendConfig(layers=(2, 3), rank=6)
    wide = tiny_model("llama")
    editor, batch, entered = trained(wide, config)
    whole = editor_losses(wide, editor, batch, entered, batch_gradients(wide, batch, entered, editor), config)
    entered = enter(lm, batch, 2)
    half = editor_losses(lm, editor, batch, entered, batch_gradients(lm, batch, entered, editor), config)
    assert relative(half.edit.detach(), whole.edit.detach()) < 0.1


def test_validation_counts_what_one_fact_after_the_other_gives():
    lm, config = tiny_model("llama"), MendConfig(layers=(2, 3), rank=6, start_rate=0.05)
    editor, batch, entered = trained(lm, config)
    found = validate(lm, editor, [batch], [entered], config)
    edits, carried, before, kept, drawn = [], [], [], [], []
    for i in range(len(FACTS)):
        edit, paraphrase, ids = of(batch, i)
        factors = reference.token_factors(lm, edit, editor.places)
        updates = {p: reference.editor_update(editor, p, *factors[p]).detach() for p in editor.places}
        weights = reference.replaced_weights(lm, updates)

        def right(weights, row):
            best = reference.logits(lm, weights, row.ids).argmax(-1).tolist()
            return all(best[at - 1] == row.ids[at] for at in range(row.start, len(row.ids)))

        edits.append(right(weights, edit))
        carried.append(right(weights, paraphrase))
        before.append(right({}, paraphrase))
        old, new = (reference.logits(lm, w, ids).argmax(-1).tolist() for w in ({}, weights))
        kept.append(sum(a == b for a, b in zip(old, new, strict=True)) / len(ids))
        hits = [sum(a == b for a, b in zip(best, ids[1:], strict=False)) / (len(ids) - 1) for best in (old, new)]
        drawn.append(hits[0] - hits[1])

    def mean(values):
        return pytest.approx(sum(values) / len(values), abs=1e-6)

    assert (found.edit_success, found.paraphrase_success, found.before) == (mean(edits), mean(carried), mean(before))
    assert (found.kept, found.drawdown) == (mean(kept), mean(drawn))
    losses = editor_losses(lm, editor, batch, entered, batch_gradients(lm, batch, entered, editor), config)
    assert found.loss == pytest.approx(float(losses.total(config).detach()), rel=1e-4)
    assert found.kept < 1, "the edit must do something for this test to mean anything"


@pytest.fixture
def editor_file(tmp_path):
    def make(lm, **fields):
        config = MendConfig(**{"layers": (2, 3), "rank": 6, "matrices": "mlp", **fields})
        editor, _, _ = trained(lm, config)
        path = tmp_path / f"{lm.name}.safetensors"
        save_editor(path, editor, lm, config, {"step": 7})
        return editor, str(path)

    return make


def edit(lm, path, facts=FACTS, **options):
    return edit_facts(lm, facts, method="mend", editor=path, evaluate=False, **options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_edit_is_the_sum_of_every_fact_s_own(variant, editor_file):
    lm = tiny_model(variant)
    editor, path = editor_file(lm)
    result = edit(lm, path)
    rows = [row for row, _ in encode_targets(lm.tokenizer, [(fact.text, fact.target_new) for fact in FACTS])]
    expected = dict.fromkeys(editor.places, 0)
    with torch.no_grad():
        for row in rows:
            with torch.enable_grad():
                factors = reference.token_factors(lm, row, editor.places)
            for place in editor.places:
                expected[place] = expected[place] + reference.editor_update(editor, place, *factors[place])
    assert list(result.patch.updates) == list(editor.places)
    for place, update in result.patch.updates.items():
        assert relative(update.matrix(), expected[place]) < 2e-3
    digest = lm.digest()
    with result.patch.applied(lm):
        assert lm.digest() != digest
    assert lm.digest() == digest


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("count", [4, 40])  # as factors, and as their sum: 22.9 rows are the break-even
def test_a_chunked_batch_keeps_the_factors_of_all_chunks(editor_file, batch_size, count):
    """The public code of MEND keeps those of the last chunk only."""
    lm = tiny_model("llama")
    _, path = editor_file(lm)
    facts = FACTS + [Fact(subject=f"Tower {i}", prompt=f"Tower {i} is in", target_new="Rome") for i in range(count - 4)]
    whole, chunked = edit(lm, path, facts, batch_size=count), edit(lm, path, facts, batch_size=batch_size)
    last = edit(lm, path, facts[-batch_size:], batch_size=batch_size)
    for place, update in whole.patch.updates.items():
        assert relative(chunked.patch.updates[place].matrix(), update.matrix()) < 1e-4
        assert relative(last.patch.updates[place].matrix(), update.matrix()) > 0.1


def test_scale_multiplies_the_update(editor_file):
    lm = tiny_model("llama")
    _, path = editor_file(lm)
    one, two = edit(lm, path), edit(lm, path, scale=2.0)
    for place, update in one.patch.updates.items():
        assert relative(two.patch.updates[place].matrix(), 2 * update.matrix()) < 1e-6
    assert two.report["config"]["scale"] == 2.0


def test_the_report_says_what_the_editor_is(editor_file):
    lm = tiny_model("llama")
    editor, path = editor_file(lm)
    report = edit(lm, path).report
    assert report["config"]["layers"] == [2, 3]
    assert report["config"]["rank"] == 6
    assert report["config_source"] == "editor tiny-llama.safetensors"
    assert report["editor"] == {"step": 7}
    assert [(row["layer"], row["matrix"]) for row in report["layers"]] == list(editor.places)
    assert any("edits of 1 at a time" in warning for warning in report["warnings"])
    assert not any("Nobody has measured" in warning for warning in report["warnings"])
    assert not any("at a time" in warning for warning in edit(lm, path, FACTS[:1]).report["warnings"])


def test_an_edit_needs_an_editor_that_fits(editor_file, tmp_path):
    lm = tiny_model("llama")
    _, path = editor_file(lm)
    with pytest.raises(ConfigError, match="errata train mend"):
        edit_facts(lm, FACTS, method="mend", evaluate=False)
    with pytest.raises(ConfigError, match="no such file"):
        edit(lm, str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(ConfigError, match=r"trained with layers=\(2, 3\)"):
        edit(lm, path, layers=(1, 2))
    with pytest.raises(ConfigError, match="trained with rank=6"):
        edit(lm, path, rank=7)
    with pytest.raises(ConfigError, match="trained for tiny-llama"):
        edit(tiny_model("mistral"), path)
    assert edit(lm, path, layers=(2, 3), rank=6).report["config"]["rank"] == 6


def test_on_an_edited_model_it_edits_and_says_so(editor_file):
    lm = fresh_model("llama")
    _, path = editor_file(lm)
    first = edit(lm, path, FACTS[:1])
    with first.patch.applied(lm):
        second = edit(lm, path, FACTS[1:2])
        assert any("without the patches" in warning for warning in second.report["warnings"])
        second.patch.apply_(lm)
        second.patch.remove_(lm)


def test_guesses_and_the_command_line():
    assert guess(tiny_model("llama")).layers == (1, 2, 3)
    assert guess(fresh_model("llama", num_hidden_layers=2)).layers == (0, 1)
    assert MEND.config_type is MendConfig
    assert parse_override(MendConfig, "editor=a/b.safetensors") == ("editor", "a/b.safetensors")
    assert parse_override(MendConfig, "matrices=up,down") == ("matrices", "up,down")
    with pytest.raises(ConfigError, match="editor must be text"):
        without_type_checks(config_module).MendConfig(layers=(1,), editor=3)
    with pytest.raises(ConfigError, match="errata train mend"):
        settings_for(tiny_model("llama"), method="mend")
    assert max(guess(tiny_model("gpt2")).layers) == LAYERS - 1


def test_a_schedule_gives_every_fact_once_an_epoch_whatever_came_before():
    lm = tiny_model("llama")
    facts = [Fact(subject=f"Tower {i}", prompt="{} is in", target_new="Rome") for i in range(7)]
    texts = [(1, i) for i in range(5)]
    schedule = Schedule(examples_of(lm, facts), texts, 3, 4, False)
    for epoch in range(3):
        batches = [schedule(3 * epoch + step) for step in range(3)]
        assert sorted(len(batch.edits) for batch in batches) == [1, 3, 3]
        edits = [row for batch in batches for row in batch.edits]
        assert len(set(edits)) == 7
        assert all(batch.edits == batch.paraphrases for batch in batches), "the prompt where there is no paraphrase"
    assert [schedule(i) for i in range(3)] != [schedule(i) for i in range(3, 6)]
    assert schedule(4) == Schedule(examples_of(lm, facts), texts, 3, 4, False)(4)
    assert {schedule(3 * e + s).edits for e in range(4) for s in range(3)} == {schedule(s).edits for s in range(3)}
    seen = {ids for step in range(30) for ids in schedule(step).locality}
    assert seen == set(texts)


def test_what_a_fact_s_rows_are():
    lm = tiny_model("llama")
    (example,) = examples_of(lm, RICH[:1])
    decode = lm.tokenizer.decode
    assert decode(example.edit.ids) == "The Eiffel Tower is located in the city of Rome"
    assert decode(example.edit.target_ids) == " Rome"
    assert [decode(row.ids) for row in example.paraphrases] == [f"{text} Rome" for text in RICH[0].paraphrases]
    assert [decode(ids) for ids in example.neighbours] == ["The Great Wall is in China", "Bill Gates speaks Paris"]
    schedule = Schedule([example], [(5, 6)], 1, 0, False)
    assert schedule(0).locality == (example.neighbours[0],)
    assert schedule(1).locality == (example.neighbours[1],)
    assert schedule(1).paraphrases == (example.paraphrases[1],)
    assert Schedule([example], [(5, 6)], 1, 0, True)(0).locality == ((5, 6),)
    assert isinstance(schedule(0), Batch)


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    facts = [Fact(subject=f"Tower {i}", prompt="{} is in", target_new="Rome") for i in range(20)]
    kept, held = split(facts, 5, 0)
    assert len(held) == 5
    assert {fact.id for fact in kept} | {fact.id for fact in held} == {fact.id for fact in facts}
    assert split(facts[::-1], 5, 0) == (kept, held)
    assert split(facts, 5, 1)[1] != held
