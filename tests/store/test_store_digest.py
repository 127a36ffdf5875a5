import enum
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import StorageError
from errata.store.digest import digest, file_digest, tensor_digest


@dataclass(frozen=True)
class Config:
    rate: float
    layers: tuple[int, ...]


@dataclass(frozen=True)
class OtherConfig:
    rate: float
    layers: tuple[int, ...]


class Color(enum.StrEnum):
    RED = "red"


DISTINCT = [
    1,
    "1",
    True,
    1.0,
    None,
    b"1",
    Path("1"),
    [1],
    [[1]],
    [1, 1],
    {"1": 1},
    {1: 1},
    [["1", 1]],
    0,
    False,
    0.0,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    b"",
    [],
    {},
    "\ud800",
    "é",
    Config(1.0, (1,)),
    Config(1.0, (1, 2)),
    OtherConfig(1.0, (1,)),
    {"rate": 1.0, "layers": (1,)},
]


def test_values_that_differ_have_digests_that_differ():
    found = {digest(value): value for value in DISTINCT}
    assert len(found) == len(DISTINCT)
    assert all(len(key) == 64 for key in found)


def test_parts_are_kept_apart():
    assert len({digest("a", "b"), digest("ab"), digest(["a", "b"]), digest("a"), digest()}) == 5


def test_digests_last():
    """Keys of what users have on disk: a change here loses their caches, and needs a reason."""
    expected = hashlib.sha256(b'[["str","a"],["dict",[[["int",1],["float","0.5"]]]]]').hexdigest()
    assert digest("a", {1: 0.5}) == expected


def test_equal_values_have_equal_digests():
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest(Config(0.1, (1,))) == digest(Config(0.1, (1,)))
    assert digest({None: 1, (1, "a"): 2, 2: 3}) == digest({2: 3, (1, "a"): 2, None: 1})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(plain, plain)
def test_digest_tells_values_apart_as_their_types_and_reprs_do(one, two):
    assert (digest(one) == digest(two)) == (sorted_repr(one) == sorted_repr(two))


def sorted_repr(value: object) -> str:
    if isinstance(value, dict):
        return f"dict{sorted((repr(key), sorted_repr(item)) for key, item in value.items())}"
    if isinstance(value, list):
        return f"list{[sorted_repr(item) for item in value]}"
    return repr(value)


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), np.float64(1), np.int64(1), np.zeros(2), Color.RED, torch.zeros(1), Config, 1j, [{1}]]
)
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="No digest for"):
        digest(value)


def test_file_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(StorageError, match="read"):
        file_digest(tmp_path / "b")


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"t{n}": torch.randn(3, n, generator=generator) for n in range(40)}


def test_tensor_digest_ignores_order_and_layout_only():
    given_ = tensors()
    base = tensor_digest(given_.items())
    assert base == tensor_digest(reversed(given_.items()))
    assert base == tensor_digest((name, tensor.T.contiguous().T) for name, tensor in given_.items())
    assert base == tensor_digest((name, tensor.clone().requires_grad_()) for name, tensor in given_.items())


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"t7": t["t7"].to(torch.bfloat16)},
        lambda t: t | {"t7": t["t7"].reshape(7, 3)},
        lambda t: t | {"t7": t["t8"], "t8": t["t7"]},
        lambda t: t | {"t7": t["t7"].nextafter(torch.tensor(9.0))},
        lambda t: t | {"t7": t["t7"].view(torch.int32)},
        lambda t: {name: tensor for name, tensor in t.items() if name != "t0"},
        lambda t: t | {"t1": torch.zeros(3, 1)},
        lambda t: t | {"t1": -torch.zeros(3, 1)},
    ],
)
def test_tensor_digest_sees_every_change(change):
    digests = {tensor_digest(tensors().items()), tensor_digest(change(tensors()).items())}
    assert len(digests) == 2


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_tensor_digest_takes_any_dtype_and_shape(dtype, shape):
    zeros, ones = torch.zeros(shape).to(dtype), torch.ones(shape).to(dtype)
    same = tensor_digest([("a", zeros)]) == tensor_digest([("a", ones)])
    assert same == (zeros.numel() == 0)


def test_tensor_digest_reads_tensors_as_they_come():
    """Tensors that are made one by one are let go one by one: a model need not fit into memory twice."""
    import weakref

    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    def one_by_one():
        nonlocal most
        for n in range(200):
            tensor = torch.full((1000,), n)
            alive.add(tensor)
            most = max(most, len(alive))
            yield str(n), tensor

    tensor_digest(one_by_one())
    assert 0 < most < 40


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensor_digest_on_another_device():
    given_ = tensors()
    assert tensor_digest(given_.items()) == tensor_digest((name, t.cuda()) for name, t in given_.items())
