"""Patches: on and off to the exact bits, whole or not at all, and refused where they do not belong."""

import dataclasses
import json
from contextlib import nullcontext

import pytest
import torch

from errata.core.updates import WeightUpdate
from errata.errors import CorruptPatchError, PatchError, PatchMismatchError, StorageError
from errata.facts import Fact, Neighbour
from errata.models import Place, matrices, tokenizer_digest, weight_of, wrap
from errata.patches import Patch, patches_on
from tiny import VARIANTS, fresh_model, tiny_model, tiny_tokenizer

FACTS = (
    Fact(subject="The Eiffel Tower", prompt="The Eiffel Tower is located in the city of", target_new="Rome"),
    Fact(subject="Danielle Darrieux", prompt="The mother tongue of Danielle Darrieux is", target_new="English"),
)


def small_patch(lm, seed=0, layers=(1, 2), facts=FACTS, dense=False, matrix="down"):
    """A patch of random numbers for the weights that `lm` has now."""
    generator = torch.Generator().manual_seed(seed)
    updates, keys = {}, {}
    for layer in layers:
        d_in, d_out = weight_of(lm, Place(layer, matrix)).shape
        left = 0.1 * torch.randn(len(facts), d_in, generator=generator)
        right = torch.randn(len(facts), d_out, generator=generator)
        update = WeightUpdate(dense=left.T @ right) if dense else WeightUpdate(left=left, right=right)
        updates[Place(layer, matrix)] = update
        keys[layer] = torch.randn(len(facts), lm.d_mlp, generator=generator)
    info = {
        "method": "memit",
        "base_digest": lm.digest(),
        "tokenizer_digest": tokenizer_digest(lm.tokenizer),
        "model": {"name": lm.name, "dtype": str(lm.dtype).removeprefix("torch.")},
        "config": {"layers": list(layers)},
        "seed": seed,
    }
    return Patch(info, tuple(facts), updates, torch.randn(len(facts), lm.d_model, generator=generator), keys)


def _bits(lm):
    return {name: tensor.clone() for name, tensor in lm.hf.state_dict().items()}


def _same(lm, bits):
    state = lm.hf.state_dict()
    return state.keys() == bits.keys() and all(torch.equal(state[name], tensor) for name, tensor in bits.items())


@pytest.fixture
def lm():
    return fresh_model("llama")


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gpt2-square", "llama-square", "bloom"])
@pytest.mark.parametrize("dense", [False, True])
def test_on_and_off_again_restores_the_exact_bits(variant, dense):
    lm = fresh_model(variant)
    bits, before = _bits(lm), lm.digest()
    patch = small_patch(lm, dense=dense)
    patch.apply_(lm)
    assert lm.digest() != before
    for (layer, _), update in patch.updates.items():
        added = lm.down_weight(layer) - _weight_of(lm, bits, layer)
        assert torch.allclose(added, update.matrix(), atol=1e-6)
    patch.remove_(lm)
    assert lm.digest() == before
    assert _same(lm, bits)
    assert not patches_on(lm)


@pytest.mark.parametrize(("variant", "matrix"), [("llama", "gate"), ("phi3", "gate"), ("phi3", "up"), ("gpt2", "up")])
def test_every_matrix_of_an_mlp_can_be_patched(variant, matrix, tmp_path):
    lm = fresh_model(variant)
    bits = _bits(lm)
    expected = {layer: weight_of(lm, Place(layer, matrix)).clone() for layer in (1, 2)}
    small_patch(lm, matrix=matrix).save(tmp_path / "patch")
    patch = Patch.load(tmp_path / "patch")
    patch.apply_(lm)
    for place, update in patch.updates.items():
        assert place.matrix == matrix
        torch.testing.assert_close(weight_of(lm, place), expected[place.layer] + update.matrix())
    changed = [name for name, tensor in lm.hf.state_dict().items() if not torch.equal(tensor, bits[name])]
    assert len(changed) == 2
    patch.remove_(lm)
    assert _same(lm, bits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_matrix_of_a_block_can_be_patched(variant, tmp_path):
    """Attention's too, fused or not: on, the weights are the original + update in the standard view; off, the bits."""
    lm = fresh_model(variant)
    bits, generator = _bits(lm), torch.Generator().manual_seed(0)
    places = [Place(layer, matrix) for layer in (1, 2) for matrix in matrices(lm.family)]
    originals = {place: weight_of(lm, place).clone() for place in places}
    updates = {}
    for place in places:
        d_in, d_out = originals[place].shape
        left, right = (torch.randn(2, width, generator=generator) for width in (d_in, d_out))
        whole = place.matrix in ("q", "up")
        updates[place] = WeightUpdate(dense=left.T @ right) if whole else WeightUpdate(left=left, right=right)
    dataclasses.replace(small_patch(lm), updates=updates).save(tmp_path / "patch")
    patch = Patch.load(tmp_path / "patch")
    assert set(patch.updates) == set(places)
    other = small_patch(lm, 1)
    patch.apply_(lm)
    other.apply_(lm)
    other.remove_(lm)
    for place in places:
        assert torch.equal(weight_of(lm, place), originals[place] + updates[place].matrix()), place
    patch.remove_(lm)
    assert _same(lm, bits)


def _weight_of(lm, bits, layer):
    """What the down projection of `layer` was in `bits`, in the standard orientation."""
    weight = lm.down(layer).weight
    name = next(name for name, parameter in lm.hf.named_parameters() if parameter is weight)
    return bits[name] if lm.family.in_first else bits[name].T


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    lm = fresh_model("llama", dtype=dtype)
    bits = _bits(lm)
    patch = small_patch(lm)
    patch.apply_(lm)
    expected = (_weight_of(lm, bits, 1).float() + patch.updates[Place(1, "down")].matrix()).to(dtype)
    assert torch.equal(lm.down_weight(1), expected)
    patch.remove_(lm)
    assert _same(lm, bits)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_context_takes_it_off_whatever_happens(lm, error):
    bits, patch = _bits(lm), small_patch(lm)
    with pytest.raises(error) if error else nullcontext(), patch.applied(lm) as patched:
        assert patched is lm
        assert not _same(lm, bits)
        if error:
            raise error
    assert _same(lm, bits)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interruption_while_it_goes_on_leaves_the_original_bits(lm, at, monkeypatch):
    bits, patch, calls = _bits(lm), small_patch(lm, layers=(0, 1, 3)), []

    def interrupted(lm, place, update):
        calls.append(1)
        weight = weight_of(lm, place)
        weight.add_(1)  # half done
        if len(calls) == at:
            raise KeyboardInterrupt
        weight.sub_(1).add_(update.matrix())

    with monkeypatch.context() as patched:
        patched.setattr("errata.patches.stack.add_to_weight_", interrupted)
        with pytest.raises(KeyboardInterrupt):
            patch.apply_(lm)
    assert len(calls) == at
    assert _same(lm, bits)
    assert not patches_on(lm)
    patch.apply_(lm)
    patch.remove_(lm)
    assert _same(lm, bits)


def test_an_interruption_while_it_comes_off_leaves_it_on(lm, monkeypatch):
    original, first, second = _bits(lm), small_patch(lm, 1), small_patch(lm, 2)
    first.apply_(lm)
    second.apply_(lm)
    both = _bits(lm)

    def interrupted(_lm, _place, _update):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("errata.patches.stack.add_to_weight_", interrupted)
        with pytest.raises(KeyboardInterrupt):
            first.remove_(lm)
    assert _same(lm, both)
    second.remove_(lm)
    first.remove_(lm)
    assert _same(lm, original)


def test_twice_is_refused(lm):
    patch = small_patch(lm)
    patch.apply_(lm)
    on = _bits(lm)
    with pytest.raises(PatchError, match="already on"):
        patch.apply_(lm)
    assert _same(lm, on)


def test_one_that_is_not_on_cannot_come_off(lm):
    patch, other = small_patch(lm, 1), small_patch(lm, 2)
    with pytest.raises(PatchMismatchError, match="not on"):
        patch.remove_(lm)
    other.apply_(lm)
    with pytest.raises(PatchMismatchError, match=other.id):
        patch.remove_(lm)


def test_another_model_is_refused_and_untouched(lm):
    patch = small_patch(lm)
    other = fresh_model("llama", seed=1)
    bits = _bits(other)
    with pytest.raises(PatchMismatchError, match=patch.base_digest[:12]):
        patch.apply_(other)
    assert _same(other, bits)


def test_the_same_weights_in_another_dtype_are_refused(lm):
    with pytest.raises(PatchMismatchError, match="loaded in bfloat16, not float32"):
        small_patch(lm).apply_(fresh_model("llama", dtype=torch.bfloat16))


def test_another_tokenizer_is_refused(lm):
    patch = small_patch(lm)
    with pytest.raises(PatchMismatchError, match="tokenizer"):
        patch.apply_(wrap(lm.hf, tiny_tokenizer(bos=True), name="other"))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("layers", [((1, 2), (1, 2), (1, 2)), ((0, 1), (1, 2), (2, 3))])
def test_independent_patches_come_off_in_any_order(order, layers):
    lm = fresh_model("gpt2")
    original = _bits(lm)
    patches = [small_patch(lm, seed, layers[seed]) for seed in range(3)]
    for patch in patches:
        patch.apply_(lm)
    left = list(patches)
    for number in order:
        patches[number].remove_(lm)
        left.remove(patches[number])
        assert list(patches_on(lm).patches) == left
        clean = fresh_model("gpt2")
        for patch in left:
            patch.apply_(clean)
        assert lm.digest() == clean.digest()
        assert _same(lm, _bits(clean))
    assert _same(lm, original)


def test_a_patch_that_carries_another_stays_until_that_is_off(lm):
    original, first = _bits(lm), small_patch(lm, 1)
    first.apply_(lm)
    one = _bits(lm)
    stacked = small_patch(lm, 2)
    assert stacked.base_digest != first.base_digest
    stacked.apply_(lm)
    both = _bits(lm)
    with pytest.raises(PatchMismatchError, match=stacked.id):
        first.remove_(lm)
    assert _same(lm, both)
    stacked.remove_(lm)
    assert _same(lm, one)
    first.remove_(lm)
    assert _same(lm, original)
    with pytest.raises(PatchMismatchError):
        stacked.apply_(lm)


@pytest.mark.parametrize("action", ["remove_", "apply_"])
def test_weights_that_something_else_changed_are_refused(lm, action):
    on, other = small_patch(lm, 1), small_patch(lm, 2)
    on.apply_(lm)
    with torch.no_grad():
        lm.hf.get_input_embeddings().weight[0, 0] += 1
    changed = _bits(lm)
    with pytest.raises(PatchMismatchError, match="something else"):
        getattr(on if action == "remove_" else other, action)(lm)
    assert _same(lm, changed)


def _rich_facts():
    return (
        Fact(
            subject="埃菲尔铁塔", prompt="{} 位于", target_new="罗马", target_true="巴黎", id="a/1", relation="P276",
            generation_prompts=("{} 的",),
            paraphrases=("{} 在",), neighbours=(Neighbour(prompt="卢浮宫位于", answer="巴黎"), Neighbour(prompt="x")),
        ),
        FACTS[1],
    )  # fmt: skip


@pytest.mark.parametrize("dense", [False, True])
def test_save_and_load_give_the_same_patch(lm, tmp_path, dense):
    patch = small_patch(lm, facts=_rich_facts(), dense=dense)
    folder = patch.save(tmp_path / "deep" / "er" / "patch")
    assert sorted(path.name for path in folder.iterdir()) == ["patch.json", "patch.safetensors"]
    loaded = Patch.load(folder)
    assert (loaded.id, loaded.facts, dict(loaded.info)["seed"]) == (patch.id, patch.facts, 0)
    assert loaded.base_digest == patch.base_digest
    assert torch.equal(loaded.values, patch.values)
    for place, update in patch.updates.items():
        assert torch.equal(loaded.keys[place.layer], patch.keys[place.layer])
        assert loaded.updates[place].tensors().keys() == update.tensors().keys()
        assert torch.equal(loaded.updates[place].matrix(), update.matrix())
    patch.apply_(lm)
    on = lm.digest()
    patch.remove_(lm)
    loaded.apply_(lm)
    assert lm.digest() == on
    patch.remove_(lm)  # the same patch, whichever object


def test_a_folder_that_exists_is_kept(lm, tmp_path):
    first, second = small_patch(lm, 1), small_patch(lm, 2)
    first.save(tmp_path / "patch")
    with pytest.raises(StorageError):
        second.save(tmp_path / "patch")
    assert Patch.load(tmp_path / "patch").id == first.id
    second.save(tmp_path / "patch", overwrite=True)
    assert Patch.load(tmp_path / "patch").id == second.id
    assert [path.name for path in tmp_path.iterdir()] == ["patch"]


def test_an_interrupted_save_leaves_nothing(lm, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("errata.patches.patch.atomic_write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_patch(lm).save(tmp_path / "patch")
    assert list(tmp_path.iterdir()) == []


def _cut(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def _flip(path, where):
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(bytes(data))


def _edit_json(folder, change):
    path = folder / "patch.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


DAMAGE = {
    "no folder": lambda f: [path.unlink() for path in f.iterdir()] and f.rmdir(),
    "empty folder": lambda f: [path.unlink() for path in f.iterdir()],
    "no json": lambda f: (f / "patch.json").unlink(),
    "no tensors": lambda f: (f / "patch.safetensors").unlink(),
    "empty json": lambda f: (f / "patch.json").write_text(""),
    "json cut": lambda f: _cut(f / "patch.json"),
    "json not an object": lambda f: (f / "patch.json").write_text("[1, 2]"),
    "json not utf-8": lambda f: (f / "patch.json").write_bytes(b'{"format": "\xff\xfe"}'),
    "json of something else": lambda f: (f / "patch.json").write_text('{"hello": 1}'),
    "json nested too deep": lambda f: (f / "patch.json").write_text("[" * 200_000),
    "empty tensors": lambda f: (f / "patch.safetensors").write_bytes(b""),
    "tensors cut in half": lambda f: _cut(f / "patch.safetensors"),
    "last byte lost": lambda f: _cut(f / "patch.safetensors", 0.9999),
    "tensors cut in the header": lambda f: _cut(f / "patch.safetensors", 0.01),
    "bit flipped in the header": lambda f: _flip(f / "patch.safetensors", 0.002),
    "bit flipped in the middle": lambda f: _flip(f / "patch.safetensors", 0.5),
    "bit flipped near the end": lambda f: _flip(f / "patch.safetensors", 0.99999),
    "tensors are text": lambda f: (f / "patch.safetensors").write_text("not tensors at all" * 100),
    "another format": lambda f: _edit_json(f, lambda r: r.update(format=99)),
    "no id": lambda f: _edit_json(f, lambda r: r.pop("id")),
    "another id": lambda f: _edit_json(f, lambda r: r.update(id="0" * 12)),
    "another base": lambda f: _edit_json(f, lambda r: r.update(base_digest="0" * 64)),
    "another configuration": lambda f: _edit_json(f, lambda r: r["config"].update(layers=[1])),
    "a layer too many": lambda f: _edit_json(f, lambda r: r["config"].update(layers=[1, 2, 3])),
    "layers not a list": lambda f: _edit_json(f, lambda r: r["config"].update(layers="all")),
    "a fact lost": lambda f: _edit_json(f, lambda r: r["facts"].pop()),
    "a fact without subject": lambda f: _edit_json(f, lambda r: r["facts"][0].pop("subject")),
    "an unusable fact": lambda f: _edit_json(f, lambda r: r["facts"][0].update(target_new=" ")),
    "an unknown field in a fact": lambda f: _edit_json(f, lambda r: r["facts"][0].update(colour="red")),
    "another target": lambda f: _edit_json(f, lambda r: r["facts"][0].update(target_new="Oslo")),
    "another tokenizer": lambda f: _edit_json(f, lambda r: r.update(tokenizer_digest="0" * 64)),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_nothing_is_applied(lm, tmp_path, damage):
    folder = small_patch(lm).save(tmp_path / "patch")
    DAMAGE[damage](folder)
    with pytest.raises(CorruptPatchError) as caught:
        Patch.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["patch.json", "patch.safetensors"])
def test_files_of_two_patches_are_not_taken_for_one(lm, tmp_path, name):
    one, two = (small_patch(lm, seed).save(tmp_path / str(seed)) for seed in (1, 2))
    (one / name).write_bytes((two / name).read_bytes())
    with pytest.raises(CorruptPatchError, match="not of the same patch"):
        Patch.load(one)


def test_equal_content_has_equal_ids_and_any_difference_another(lm):
    assert small_patch(lm, 1).id == small_patch(lm, 1).id
    others = [small_patch(lm, 2), small_patch(lm, 1, layers=(1, 3)), small_patch(lm, 1, facts=tuple(FACTS[2:]))]
    assert len({small_patch(lm, 1).id, *(patch.id for patch in others)}) == 4


def test_a_patch_saved_with_one_thread_loads_with_another_number(tmp_path):
    """Sums of many numbers end in other bits there; a name must not be made of them."""
    lm = tiny_model("llama")
    small = small_patch(lm, 1)
    generator = torch.Generator().manual_seed(0)
    keys = {layer: torch.randn(2000, 80, generator=generator) ** 3 for layer in small.keys}
    big = dataclasses.replace(small, keys=keys, values=torch.zeros(2000, lm.d_model))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        big.save(tmp_path / "patch")
        torch.set_num_threads(4)
        assert Patch.load(tmp_path / "patch").id == big.id
    finally:
        torch.set_num_threads(threads)
    swapped = {layer: k.flip(0) for layer, k in keys.items()}
    assert dataclasses.replace(big, keys=swapped).id != big.id
