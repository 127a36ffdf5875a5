"""The editor's networks, statistics and file: identity at the start, what is shared, what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from errata.edit.methods.mend.editor import MendEditor, RunningMoments
from errata.edit.methods.mend.editor_file import load_editor, new_editor, save_editor
from errata.edit.methods.mend.mend_config import MendConfig, places_of
from errata.errors import ConfigError, CorruptFileError
from errata.models import Place, mlp_matrices, weight_of
from errata.store.tensors import load_tensors, save_tensors
from tiny import VARIANTS, fresh_model, tiny_model

UP, DOWN, UPPER = Place(1, "up"), Place(1, "down"), Place(2, "up")
SHAPES = {UP: (6, 10), DOWN: (10, 6), UPPER: (6, 10)}


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def editor_of(**options):
    return MendEditor(SHAPES, **{"rank": 4, "depth": 2, "start_rate": 0.5, "seed": 0, **options})


def warmed(editor):
    """With statistics of 20 rows for each matrix."""
    for number, (place, (d_in, d_out)) in enumerate(SHAPES.items()):
        editor.observe(place, 2 + rows(20, d_in, number), 3 * rows(20, d_out, 50 + number))
    return editor


def moved(editor):
    """With every parameter away from its start."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in editor.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return editor


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 99), st.floats(-1e3, 1e3))
def test_running_moments_are_those_of_all_rows(counts, seed, offset):
    moments = RunningMoments(3)
    parts = [offset + rows(count, 3, seed + i) for i, count in enumerate(counts)]
    for part in parts:
        moments.observe(part)
    whole = torch.cat(parts).double()
    assert float(moments.count) == len(whole)
    if len(whole):
        assert torch.allclose(moments.mean, whole.mean(0))
    if len(whole) > 1:
        assert torch.allclose(moments.std, whole.std(0), rtol=1e-6)


def test_a_feature_that_never_varied_is_zero():
    moments = RunningMoments(2)
    moments.observe(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    assert moments.normalise(torch.tensor([[2.0, 9.0]])).tolist() == [[0.0, 0.0]]
    assert RunningMoments(2).normalise(torch.ones(1, 2)).tolist() == [[0.0, 0.0]]


@given(seed=st.integers(0, 1000), depth=st.integers(1, 3), rank=st.integers(1, 40))
def test_at_the_start_it_returns_what_it_read_normalised(seed, depth, rank):
    editor = warmed(editor_of(seed=seed, depth=depth, rank=rank))
    for place, (d_in, d_out) in SHAPES.items():
        x, vjp = rows(5, d_in, seed), rows(5, d_out, seed + 1)
        left, right = editor(place, x, vjp)
        net = editor.net(place)
        assert torch.equal(left, net.inputs.normalise(x))
        assert torch.equal(right, -0.5 * net.vjps.normalise(vjp))


def test_an_untrained_edit_goes_downhill():
    """ΔW = −rate·Σx̃ᵀδ̃: against the gradient where the statistics leave signs alone."""
    editor = editor_of()
    x, vjp = rows(200, 6), rows(200, 10, 1)
    editor.observe(UP, torch.cat([x, -x]), torch.cat([vjp, -vjp]))
    left, right = editor(UP, x, vjp)
    assert float(((left.T @ right) * (x.T @ vjp)).sum().detach()) < 0


def test_equal_shapes_share_a_net_and_have_scales_shifts_and_rates_of_their_own():
    editor = moved(warmed(editor_of()))
    assert editor.net(UP) is editor.net(UPPER)
    assert editor.net(UP) is not editor.net(DOWN)
    assert set(editor.nets) == {"6x10", "10x6"}
    x, vjp = rows(4, 6), rows(4, 10, 1)
    first, other = editor(UP, x, vjp), editor(UPPER, x, vjp)
    assert not torch.allclose(first[0], other[0])
    with torch.no_grad():  # matrix UPPER's own numbers
        for layer in editor.net(UP).layers:
            layer.scale[1] = layer.scale[0]
            layer.shift[1] = layer.shift[0]
    again = editor(UPPER, x, vjp)
    assert torch.equal(first[0], again[0])
    rates = editor.rates.detach()
    assert torch.allclose(first[1] / rates[0], again[1] / rates[2])
    assert not torch.allclose(first[1], again[1])
    assert torch.equal(editor(UP, x, vjp)[0], first[0])


def test_each_matrix_uses_its_own_scale_and_shift():
    editor = moved(warmed(editor_of()))
    for place in SHAPES:
        d_in, d_out = SHAPES[place]
        editor.zero_grad()
        left, right = editor(place, rows(6, d_in), rows(6, d_out, 3))
        (left.square().sum() + right.square().sum()).backward()
        for layer in editor.net(place).layers:
            for parameter in (layer.scale, layer.shift):
                used = parameter.grad.abs().sum(1) > 0
                assert used.tolist() == [number == editor.user[place] for number in range(len(used))]
        assert (editor.rates.grad != 0).tolist() == [one == place for one in SHAPES]
        assert all(p.grad is None or not p.grad.any() for n, p in editor.named_parameters()
                   if n.startswith("nets") and f"nets.{d_in}x{d_out}." not in n)  # fmt: skip


def test_gradients_reach_the_networks_from_the_start():
    """At the identity the clamp sits at 0: with relu nothing would ever move."""
    editor = warmed(editor_of())
    left, right = editor(UP, rows(6, 6), rows(6, 10, 1))
    (left.sum() + right.sum()).backward()
    for layer in editor.net(UP).layers:
        assert bool(layer.u.grad.any())
        assert bool(layer.shift.grad.any())


def test_the_rank_is_capped_by_the_width():
    assert editor_of(rank=1920).net(UP).layers[0].u.shape == (16, 16)
    assert editor_of(rank=3).net(UP).layers[0].u.shape == (16, 3)


def test_the_seed_decides_the_start():
    one, same, other = editor_of(seed=1), editor_of(seed=1), editor_of(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.net(UP).layers[0].v, other.net(UP).layers[0].v)


def test_tensors_make_up_the_whole_editor():
    editor = moved(warmed(editor_of()))
    other = editor_of(seed=5)
    other.load_tensors_(editor.tensors())
    for place, (d_in, d_out) in SHAPES.items():
        x, vjp = rows(3, d_in), rows(3, d_out, 1)
        assert all(torch.equal(a, b) for a, b in zip(editor(place, x, vjp), other(place, x, vjp), strict=True))
    with pytest.raises(ConfigError, match="another editor"):
        editor_of(rank=5).load_tensors_(editor.tensors())


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_editor_fits_every_family_and_comes_back_from_its_file(variant, tmp_path):
    lm = tiny_model(variant)
    config = MendConfig(layers=(1, 2, 3), rank=8, matrices="mlp")
    editor = moved(new_editor(lm, config))
    assert editor.places == tuple(Place(layer, name) for layer in (1, 2, 3) for name in mlp_matrices(lm.family))
    for place in editor.places:
        assert editor.shapes[place] == tuple(weight_of(lm, place).shape)
        editor.observe(place, rows(5, editor.shapes[place][0]), rows(5, editor.shapes[place][1]))
    path = tmp_path / "editor.safetensors"
    save_editor(path, editor, lm, config, {"step": 3})
    found, trained, about = load_editor(lm, path)
    assert trained == config
    assert about == {"step": 3}
    assert {n: t.tolist() for n, t in found.tensors().items()} == {n: t.tolist() for n, t in editor.tensors().items()}
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_which_matrices():
    gated, plain = tiny_model("llama"), tiny_model("gpt2")
    config = MendConfig(layers=(0,), matrices="down, up")
    assert places_of(gated, config) == (Place(0, "up"), Place(0, "down"))
    assert places_of(gated, config.replace(matrices="mlp")) == tuple(Place(0, m) for m in ("gate", "up", "down"))
    assert places_of(plain, config.replace(matrices="mlp")) == (Place(0, "up"), Place(0, "down"))
    with pytest.raises(ConfigError, match="no gate"):
        places_of(plain, config.replace(matrices="gate"))
    with pytest.raises(ConfigError, match="4 layers, 0–3"):
        places_of(plain, config.replace(layers=(4,)))


@pytest.fixture
def saved(tmp_path):
    lm, config = fresh_model("llama"), MendConfig(layers=(2, 3), rank=8)
    path = tmp_path / "editor.safetensors"
    save_editor(path, new_editor(lm, config), lm, config, {"step": 1})
    return lm, path


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty"])
def test_a_damaged_file_is_an_error(saved, damage):
    lm, path = saved
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    content = {"cut": data[: len(data) // 2], "flip": data, "text": b"not tensors", "empty": b""}[damage]
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptFileError, match=r"editor\.safetensors is damaged"):
        load_editor(lm, path)


def test_a_foreign_file_is_an_error(saved, tmp_path):
    lm, _ = saved
    path = tmp_path / "other.safetensors"
    save_tensors(path, {"x": torch.ones(2)}, {"anything": 1})
    with pytest.raises(ConfigError, match="not a MEND editor"):
        load_editor(lm, path)


def test_tensors_that_do_not_fit_their_configuration_are_an_error(saved):
    lm, path = saved
    tensors, made = load_tensors(path)
    made["config"]["rank"] = 9
    save_tensors(path, tensors, made)
    with pytest.raises(CorruptFileError, match="names or shapes"):
        load_editor(lm, path)
    del made["config"]["layers"]
    save_tensors(path, tensors, made)
    with pytest.raises(CorruptFileError, match="layers"):
        load_editor(lm, path)


def test_other_weights_are_an_error(saved):
    lm, path = saved
    load_editor(lm, path)
    with torch.no_grad():
        lm.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(ConfigError, match="trained for tiny-llama"):
        load_editor(lm, path)
    with pytest.raises(ConfigError, match="train an editor for this one"):
        load_editor(tiny_model("qwen2"), path)
    with pytest.raises(ConfigError, match="in bfloat16"):
        load_editor(fresh_model("llama", dtype=torch.bfloat16), path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"rank": 0}, "rank"), ({"depth": 0}, "depth"), ({"learning_rate": 0.0}, "learning_rate"),
     ({"clip": -1.0}, "clip"), ({"matrices": "up,q"}, "matrices"), ({"matrices": "up,up"}, "matrices"),
     ({"matrices": ""}, "matrices"),
     ({"facts_at_once": 3}, "divide batch"), ({"facts_at_once": 0}, "facts_at_once"),
     ({"text_tokens": 1}, "text_tokens"), ({"prompt_weight": 1.1}, "prompt_weight"),
     ({"scale": 0.0}, "scale must be positive"), ({"scale": -1.0}, "scale"),
     ({"locality_weight": -0.1}, "locality_weight"), ({"editor": "nowhere.safetensors"}, "no such file")],
)  # fmt: skip
def test_bad_settings(fields, words):
    with pytest.raises(ConfigError, match=words):
        MendConfig(**{"layers": (1,), **fields})


def test_the_published_settings_are_the_defaults():
    config = MendConfig(layers=(1,))
    published = {
        "rank": 1920, "depth": 2, "start_rate": 1e-4, "learning_rate": 1e-6, "rate_learning_rate": 1e-4,
        "matrices": "up,down", "edit_weight": 0.1, "prompt_weight": 0.0, "locality_weight": 1.0, "batch": 10,
        "facts_at_once": 1, "clip": 100.0,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published
    assert json.loads(json.dumps(config.training()))["layers"] == [1]
    assert replace(config, scale=2.0).training() == config.training()
