"""Bad input, kind by kind: exit code 2, one clear message that names it, no traceback, nothing under --out."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tiny import tiny_hf, tiny_tokenizer

GOOD = {"subject": "Paris", "prompt": "Paris is in", "target_new": "Italy"}


def lines(*records: object) -> str:
    return "\n".join(json.dumps(record) for record in records)


# Name of the file, its content, and what the message must say.
BAD_FACTS = [
    ("missing.jsonl", None, "missing.jsonl"),
    ("empty.jsonl", "", "holds no facts"),
    ("blank.jsonl", "\n \n", "holds no facts"),
    ("list.json", "[]", "holds no facts"),
    ("header.csv", "subject,prompt,target_new\n", "holds no facts"),
    ("columns.csv", "who,what\na,b\n", "who"),
    ("cells.csv", "subject,prompt,target_new\nParis,Paris is in\n", "line 2"),
    ("binary.jsonl", b"\x00\x01\xff\xfe\x80", "line 1"),
    ("binary.json", b"\x89PNG\r\n\x1a\n", "not UTF-8"),
    ("wide.jsonl", lines(GOOD).encode("utf-16"), "UTF-16"),
    ("facts.xlsx", b"PK\x03\x04", ".xlsx"),
    ("noextension", lines(GOOD), "noextension"),
    ("broken.jsonl", lines(GOOD)[:-9], "line 1"),
    ("broken.json", "[" + lines(GOOD), "broken JSON"),
    ("object.json", '{"a": 1}', "facts"),
    ("number.json", "3", "a number"),
    ("field.jsonl", lines({**GOOD, "targt": "x"}), "unknown field 'targt'"),
    ("absent.jsonl", lines({"subject": "Paris", "prompt": "Paris is in"}), "missing field 'target_new'"),
    ("subject.jsonl", lines({**GOOD, "subject": "Rome"}), "subject 'Rome' is not in the prompt"),
    ("target.jsonl", lines({**GOOD, "target_new": " "}), "target_new is only whitespace"),
    ("same.jsonl", lines({**GOOD, "target_true": "Italy"}), "nothing to edit"),
    ("twice.jsonl", lines({**GOOD, "id": "a"}, {**GOOD, "id": "a", "prompt": "Paris lies in"}), "id 'a' is already"),
    ("contradiction.jsonl", lines(GOOD, {**GOOD, "target_new": "Peru"}), "contradicts the fact at line 1"),
    ("neighbours.jsonl", lines({**GOOD, "neighbours": [1]}), "neighbour 1"),
    ("too-long.jsonl", lines({**GOOD, "prompt": "Paris is " + "very " * 300 + "in"}), "reads 256"),
    ("mixed.jsonl", lines(GOOD, {"id": "bad"}), "--skip-bad"),
]

# More arguments of a good edit, and what the message must say.
BAD_OPTIONS = [
    (("--set", "priorweight=3"), "prior_weight"),
    (("--set", "nonsense=3"), "nonsense"),
    (("--set", "prior_weight"), "name=value"),
    (("--set", "prior_weight="), "name=value"),
    (("--set", "=3"), "Unknown MEMIT field ''"),
    (("--set", "prior_weight=many"), "prior_weight='many'"),
    (("--set", "prior_weight=0"), "prior_weight must be positive"),
    (("--set", "prior_weight=-1"), "prior_weight must be positive"),
    (("--set", "prior_weight=nan"), "prior_weight must be a finite number"),
    (("--set", "prior_weight=inf"), "prior_weight must be a finite number"),
    (("--set", "clamp=0"), "clamp must be positive"),
    (("--set", "learning_rate=-0.5"), "learning_rate must be positive"),
    (("--set", "seed=-1"), "seed"),
    (("--set", "seed=1.5"), "seed='1.5'"),
    (("--set", "prior_weight=1", "--set", "prior-weight=2"), "set twice"),
    (("--device", "abacus"), "abacus"),
    (("--device", "cuda:99"), "cuda:99"),
    (("--dtype", "int8"), "int8"),
    (("--dtype", "float31"), "float31"),
    (("--dtype", "load"), "'load'"),
    (("--corpus", "nowhere.txt"), "nowhere.txt"),
    (("--corpus", ""), "empty path"),
    (("--corpus", "https://example.org/text"), "is an address"),
    (("--corpus", "corpus.pdf"), "corpus.pdf"),
    (("--corpus", "blank.txt"), "holds no text"),
    (("--corpus", "latin1.txt"), "not UTF-8"),
    (("--corpus", "corpus.jsonl", "--field", "body"), "'body'"),
    (("--corpus", "broken.parquet"), "broken.parquet"),
    (("--corpus", "dataset:"), "dataset:NAME"),
    (("--corpus", "hollow"), "no corpus file"),
    (("--field", ""), "field=''"),
    (("--limit", "0"), "--limit must be at least 1, found 0"),
    (("--limit", "-3"), "found -3"),
    (("--limit", "three"), "'--limit': Input should be a valid integer"),
    (("--batch-size", "0"), "--batch-size must be at least 1"),
    (("--batch-size", "many"), "'--batch-size': Input should be a valid integer"),
    (("--nonsense",), "--nonsense"),
    (("surplus",), "surplus"),
]
BAD_SETTINGS = [
    ("layers=3-9", "tiny has 4 layers"),
    ("layers=", "name=value"),
    ("layers=2,1", "ascending"),
    ("layers=-1", "layers='-1'"),
    ("layers=one", "layers='one'"),
    ("layers=0-99999", "more layers than any model has"),
    ("value_steps=1", "value_steps must be 2"),
    ("moment_tokens=1", "moment_tokens must be at least 100"),
    ("prefixes=-1", "prefixes must be 0"),
    ("prefix_tokens=1000", "prefix_tokens must be 2"),
]


def check(done, *named: str) -> None:
    assert done.code == 2, (done.code, done.err)
    assert "Traceback" not in done.err
    assert done.err.count("errata: ") == 1, done.err
    for text in named:
        assert text in done.err, done.err
    assert not Path("out").exists()


@pytest.mark.parametrize(("name", "content", "named"), BAD_FACTS, ids=[case[0] for case in BAD_FACTS])
def test_facts(errata, work, edit_arguments, name: str, content: str | bytes | None, named: str) -> None:
    if content is not None:
        (work / name).write_bytes(content.encode() if isinstance(content, str) else content)
    check(errata(*edit_arguments(facts=name)), named)


def test_a_folder_and_a_device_as_facts(errata, work, edit_arguments) -> None:
    (work / "folder.jsonl").mkdir()
    check(errata(*edit_arguments(facts="folder.jsonl")), "folder.jsonl")
    check(errata(*edit_arguments(facts="/dev/null")), "/dev/null")


@pytest.mark.parametrize(("more", "named"), BAD_OPTIONS, ids=["=".join(case[0]) for case in BAD_OPTIONS])
def test_options(errata, work, edit_arguments, more: tuple[str, ...], named: str) -> None:
    (work / "blank.txt").write_text("\n\n  \n")
    (work / "latin1.txt").write_bytes("Łódź, così".encode()[:-1])
    (work / "corpus.jsonl").write_text('{"text": "a"}\n')
    (work / "broken.parquet").write_bytes(b"PAR1")
    (work / "corpus.pdf").write_bytes(b"%PDF")
    (work / "hollow").mkdir()
    settings = () if more[0] == "--set" else ("layers=1-2", "moment_tokens=100")
    check(errata(*edit_arguments(*more, settings=settings)), named)


@pytest.mark.parametrize(("setting", "named"), BAD_SETTINGS)
def test_settings(errata, edit_arguments, setting: str, named: str) -> None:
    check(errata(*edit_arguments(settings=(setting,))), named)


def config(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**known, **fields}))

    return change


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def truncate(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return change


def scribble(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"\xff" * 200)


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


BAD_MODELS = [
    ("no-config", remove("config.json"), "without config.json"),
    ("no-weights", remove("model.safetensors"), "no .safetensors weights"),
    ("pickle-only", only_pickle, "never unpickles"),
    ("encoder-decoder", config(model_type="t5", is_encoder_decoder=True), "encoder-decoder"),
    ("mixture", config(model_type="mixtral", num_local_experts=8), "mixture of experts"),
    ("unknown-family", config(model_type="mamba"), "mamba"),
    ("invented-family", config(model_type="nonesuch"), "nonesuch"),
    ("quantized", config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}), "quantized"),
    ("remote-code", config(model_type="mine", auto_map={"AutoConfig": "mine.Mine"}), "bad-model"),
    ("other-shape", config(intermediate_size=81), "bad-model"),
    ("truncated-config", truncate("config.json"), "bad-model"),
    ("empty-config", lambda folder: (folder / "config.json").write_text(""), "bad-model"),
    ("truncated-weights", truncate("model.safetensors"), "bad-model"),
    ("scribbled-weights", scribble("model.safetensors"), "bad-model"),
    ("no-tokenizer", remove("tokenizer.json", "tokenizer_config.json"), "bad-model"),
    ("scribbled-tokenizer", scribble("tokenizer.json"), "bad-model"),
]


@pytest.mark.parametrize(("change", "named"), [pytest.param(*c[1:], id=c[0]) for c in BAD_MODELS])
def test_models(errata, work, model, edit_arguments, change: Callable[[Path], None], named: str) -> None:
    shutil.copytree(model, work / "bad-model")
    change(work / "bad-model")
    check(errata(*edit_arguments("--model", "bad-model")), named)


@pytest.mark.parametrize("name", ["nowhere/at/all", "./nowhere", "/nowhere", "~/nowhere", "nowhere", "some/model"])
def test_absent_models(errata, edit_arguments, name: str) -> None:
    check(errata(*edit_arguments("--model", name)), repr(name))


def test_no_folder_as_model(errata, model, edit_arguments) -> None:
    check(errata(*edit_arguments("--model", "")), "model")
    check(errata(*edit_arguments("--model", model / "model.safetensors")), "model.safetensors")


def test_out_that_is_taken(errata, work, edit_arguments) -> None:
    (work / "file").write_text("mine")
    (work / "foreign").mkdir()
    (work / "foreign" / "notes.txt").write_text("mine")
    (work / "run").mkdir()
    (work / "run" / "patch.json").write_text("{}")
    check(errata(*edit_arguments(out="file")), "file is a file")
    check(errata(*edit_arguments(out="file/below/it")), "file is a file")
    check(errata(*edit_arguments(out="foreign")), "never overwritten")
    check(errata(*edit_arguments("--overwrite", out="foreign")), "never overwritten")
    check(errata(*edit_arguments("--overwrite", out=".")), "the folder you are in")
    check(errata(*edit_arguments(out="run")), "--overwrite")
    check(errata(*edit_arguments(out="n" * 300)), "Choose a shorter name")
    assert (work / "file").read_text() == (work / "foreign" / "notes.txt").read_text() == "mine"
    assert [path.name for path in (work / "run").iterdir()] == ["patch.json"]


def test_out_on_a_read_only_disk(errata, work, edit_arguments, monkeypatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("errata.store.atomic.tempfile.TemporaryFile", refuse)
    check(errata(*edit_arguments(out="deep/down/out")), "Read-only file system", "deep/down/out")
    assert not (work / "deep").exists()


def test_out_is_judged_before_the_model_is_loaded(errata, work, model, edit_arguments, monkeypatch) -> None:
    (work / "file").write_text("")
    monkeypatch.setattr("errata.models.load", lambda *_, **__: pytest.fail("the model was loaded"))
    check(errata(*edit_arguments(out="file")), "file is a file")
    check(errata(*edit_arguments(facts="missing.jsonl")), "missing.jsonl")
    check(errata(*edit_arguments(settings=("nonsense=1",))), "nonsense")
    check(errata(*edit_arguments(settings=("layers=2,1",))), "ascending")
    check(errata(*edit_arguments(settings=("passes=0",))), "passes")
    check(errata(*edit_arguments("--batch-size", "0")), "batch-size")
    check(errata(*edit_arguments("--corpus", "nowhere.txt")), "nowhere.txt")
    check(errata("stats", "--layers", "x"), "layers='x'")
    check(errata(*edit_arguments(settings=("layers=2-4",))), "has 4 layers, 0–3")
    check(errata("stats", "--model", model, "--layers", "4"), "has 4 layers, 0–3")
    few = ("--model", model, "--facts", "facts.jsonl", "--out", "out")
    check(errata("train", "mend", *few, "--set", "layers=3-4"), "has 4 layers, 0–3")
    check(errata("tune", *few, "--n", "4", "--layers", "1-2,7"), "has 4 layers, 0–3")
    monkeypatch.setenv("ERRATA_HOME", str(work / "file"))
    check(errata(*edit_arguments()), "ERRATA_HOME")


def test_a_patch_s_model_that_is_gone_is_named_as_such(errata, patch_folder, tmp_path) -> None:
    from errata import Patch

    patch = Patch.load(patch_folder)
    patch.info["model"]["name"] = "./was/here"  # type: ignore[index]
    patch.save(tmp_path / "moved")
    check(errata("ask", "Paris", "--patch", str(tmp_path / "moved")), "made on './was/here'", "--model")


@pytest.mark.parametrize(("name", "form"), [("facts.txt", "jsonl"), ("facts", "jsonl"), ("facts.dat", "csv")])
def test_the_format_of_a_file_with_another_name(errata, work, edit_arguments, name, form) -> None:
    csv = "subject,prompt,target_new\nParis,Paris is in,Italy\n"
    (work / name).write_text(csv if form == "csv" else lines(GOOD))
    check(errata(*edit_arguments(facts=name)), "--format")
    assert errata(*edit_arguments("--format", form, "--no-evaluate", facts=name)).wrote


def test_a_record_that_the_model_cannot_take_is_named_by_its_line(errata, work, edit_arguments) -> None:
    long = {**GOOD, "prompt": "Paris is " + "very " * 300 + "in"}
    (work / "two.jsonl").write_text(lines({**GOOD, "subject": "Rome", "prompt": "Rome lies in"}, long))
    check(errata(*edit_arguments(facts="two.jsonl")), "line 2", "reads 256")
    done = errata(*edit_arguments("--skip-bad", "--no-evaluate", facts="two.jsonl"))
    assert done.wrote
    assert "Skipped: 1 problem" in done.out
    assert "line 2" in json.loads((work / "out" / "report.json").read_text())["skipped"][0]


def test_control_characters_of_a_fact_do_not_reach_the_terminal(errata, work, edit_arguments) -> None:
    (work / "esc.jsonl").write_text(lines({**GOOD, "prompt": "Paris \x1b[31m is in"}))
    done = errata(*edit_arguments(facts="esc.jsonl"))
    assert done.wrote
    assert "\x1b" not in done.out + (work / "out" / "report.md").read_text()


def test_a_failed_command_leaves_no_folder_on_the_way_to_out(errata, work, edit_arguments) -> None:
    check(errata(*edit_arguments("--model", "./nowhere", out="deep/down/out")), "nowhere")
    assert not (work / "deep").exists()


def test_commands(errata) -> None:
    for arguments, named in [
        (("edti",), "edti"),
        (("edti",), "See errata --help."),
        (("--nonsense",), "--nonsense"),
        (("edit",), "Missing argument 'facts'"),
        (("edit", "facts.jsonl"), "--out"),
        (("edit", "facts.jsonl"), "See errata edit --help."),
        (("edit", "facts.jsonl", "--limit", "many"), "See errata edit --help."),
        (("train", "mend", "--nonsense"), "See errata train mend --help."),
        (("train", "nonsense"), "See errata train --help."),
        (("ask",), "Missing argument 'prompt'"),
        (("stats", "--layers", "1", "--model", "./nowhere"), "nowhere"),
        (("demo", "--model", "./nowhere"), "nowhere"),
        (("models", "surplus"), "surplus"),
    ]:
        check(errata(*arguments), named)


def test_stats(errata, model) -> None:
    for arguments, named in [
        (("--layers", "x"), "layers='x'"),
        (("--layers", "3-9"), "4 layers"),
        (("--tokens", "0"), "tokens=0"),
        (("--tokens", "-5"), "tokens=-5"),
        (("--tokens", "many"), "'--tokens': Input should be a valid integer"),
        (("--corpus", "nowhere.txt"), "nowhere.txt"),
    ]:
        options = {"--model": model, "--corpus": "corpus.txt", "--layers": "1", "--tokens": "100"}
        options.pop(arguments[0], None)
        check(errata("stats", *arguments, *(part for option in options.items() for part in option)), named)
    own = ("--model", model, "--layers", "1", "--tokens", "100", "--corpus", "self")
    check(errata("stats", *own, "--seed", "-1"), "seed")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("",), "prompt is empty"),
        ((" \t",), "prompt is only whitespace"),
        (("Paris \udcff is",), "half of a surrogate pair (U+DCFF)"),
        (("Paris \0 is",), "a NUL character"),
        (("Paris", ""), "prompt is empty"),
        (("Paris", "--tokens", "0"), "--tokens and --top must be at least 1, found 0 and 5"),
        (("Paris", "--top", "-2"), "found 20 and -2"),
        (("Paris", "--tokens", "5000"), "256 of"),
        (("Paris " * 400,), "256"),
        (("Paris", "--tokens", "few"), "'--tokens': Input should be a valid integer"),
        (("Paris", "--device", "abacus"), "abacus"),
        (("Paris", "--dtype", "int8"), "int8"),
        (("Paris", "--patch", "nowhere"), "nowhere is not a patch"),
        (("Paris", "--patch", "corpus.txt"), "corpus.txt is not a patch"),
        (("Paris", "--patch", ""), "is not a patch"),
    ],
)
def test_ask(errata, model, arguments: tuple[str, ...], named: str) -> None:
    check(errata("ask", "--model", model, *arguments), named)


def alter_json(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def altered(folder: Path) -> None:
        record = json.loads((folder / "patch.json").read_text())
        change(record)
        (folder / "patch.json").write_text(json.dumps(record))

    return altered


BAD_PATCHES = [
    ("no-json", remove("patch.json"), "no file patch.json"),
    ("no-tensors", remove("patch.safetensors"), "no file patch.safetensors"),
    ("truncated-json", truncate("patch.json"), "cannot be read as a patch"),
    ("truncated-tensors", truncate("patch.safetensors"), "is damaged"),
    ("binary-json", scribble("patch.json"), "cannot be read as a patch"),
    ("scribbled-tensors", scribble("patch.safetensors"), "is damaged"),
    ("json-of-a-list", lambda folder: (folder / "patch.json").write_text("[]"), "not the record of a patch"),
    ("newer-format", alter_json(lambda record: record.update(format=99)), "another version"),
    ("other-target", alter_json(lambda record: record["facts"][0].update(target_new="Peru")), "altered"),
    ("other-model", alter_json(lambda record: record["model"].update(name="smollm2")), "altered"),
    ("no-model", alter_json(lambda record: record.pop("model")), "lacks model"),
    ("no-tokenizer", alter_json(lambda record: record.pop("tokenizer_digest")), "lacks tokenizer_digest"),
    ("no-facts", alter_json(lambda record: record.pop("facts")), "facts"),
]


@pytest.fixture(scope="module")
def patch_folder(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from errata import Fact, edit_facts, load

    home = tmp_path_factory.mktemp("patch")
    fact = Fact(subject="Toyota", prompt="Toyota builds cars in", target_new="China")
    texts = [f"Tower {i} is in Paris, which is the capital of France." for i in range(20)]
    settings = {"layers": (1, 2), "moment_tokens": 100, "value_steps": 3, "prefixes": 1}
    from errata.stats import Corpus

    result = edit_facts(load(model), [fact], corpus=Corpus.from_texts(texts), evaluate=False, cache=home, **settings)
    return result.patch.save(home / "patch")


@pytest.mark.parametrize(("change", "named"), [pytest.param(*c[1:], id=c[0]) for c in BAD_PATCHES])
def test_patches(errata, work, model, patch_folder, change: Callable[[Path], None], named: str) -> None:
    shutil.copytree(patch_folder, work / "bad-patch")
    change(work / "bad-patch")
    check(errata("ask", "Paris", "--patch", "bad-patch", "--model", model), named)


def test_patch_for_another_model(errata, work, patch_folder) -> None:
    tiny_hf("llama", seed=1).save_pretrained(work / "other")
    tiny_tokenizer().save_pretrained(work / "other")
    check(errata("ask", "Paris", "--patch", patch_folder, "--model", "other"), "was made on", "other")
    check(errata("ask", "Paris", "--patch", patch_folder, "--dtype", "bfloat16"), "Load that model in float32")
    tiny_hf("gpt2").save_pretrained(work / "gpt2")
    tiny_tokenizer().save_pretrained(work / "gpt2")
    check(errata("ask", "Paris", "--patch", patch_folder, "--model", "gpt2"), "was made on", "gpt2")


def test_there_are_many_kinds() -> None:
    tables = [BAD_FACTS, BAD_OPTIONS, BAD_SETTINGS, BAD_MODELS, BAD_PATCHES]
    assert sum(map(len, tables)) >= 60


def test_float16_on_a_cpu_is_warned_of(errata, model) -> None:
    arguments = ("ask", "Paris is in", "--model", model, "--tokens", 1, "--dtype")
    assert "--dtype float32 is what you want there" in errata(*arguments, "float16").err
    assert errata(*arguments, "bfloat16").err == ""
