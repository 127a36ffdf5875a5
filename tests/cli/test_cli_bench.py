"""`errata bench` on a tiny model: what is printed and written, what is refused before anything is loaded."""

import json
from pathlib import Path

import pytest

RECORDS = [
    {
        "case_id": i,
        "prompt": f"{subject} is in",
        "subject": subject,
        "target_new": "China",
        "ground_truth": "Italy",
        "rephrase_prompt": f"I know that {subject} is in",
        "locality_prompt": "Canada is in",
        "locality_ground_truth": "Italy",
    }
    for i, subject in enumerate(["Toyota", "Microsoft", "Rome", "Paris"])
]
SETTINGS = [
    "memit.layers=1-2", "memit.moment_tokens=200", "memit.value_steps=3", "memit.prefixes=1", "memit.clamp=20",
    "memit.retries=0",
    "shift.layers=2", "shift.learning_rate=0.05",
]  # fmt: skip


@pytest.fixture
def arguments(work: Path, model: Path):
    (work / "counterfact.json").write_text(json.dumps(RECORDS))
    (work / "text.txt").write_text("\n\n".join(f"Number {i} is in Rome, the capital of Italy." for i in range(20)))

    def make(*more: object, methods="memit,shift", out="bench", n="1,3", data="counterfact.json") -> list[str]:
        base = ["bench", "--methods", methods, "--n", n, "--out", out, "--model", model, "--data", data, "--singles", 2]
        base += ["--corpus", "corpus.txt", "--text", "text.txt", "--text-tokens", 40, "--quiet"]
        return [str(part) for part in [*base, *(x for s in SETTINGS for x in ("--set", s)), *more]]

    return make


def test_tables_figures_and_a_second_run(errata, arguments) -> None:
    done = errata(*arguments())
    assert (done.code, done.err) == (0, "")
    for part in ("2 single edits", "3 edits", "unedited", "memit", "shift", "KL drift", "GPT-J 6B", "bench"):
        assert part in done.out
    assert Path("bench/summary.md").read_text() in done.out
    assert Path("bench/figures/scaling_score.pdf").read_bytes().startswith(b"%PDF")
    again = errata(*arguments())
    assert again.out == done.out


def test_the_folder_of_data_sets(errata, arguments, work, monkeypatch) -> None:
    monkeypatch.setenv("ERRATA_DATA", str(work))
    words = arguments(methods="shift", n="2")
    at = words.index("--data")
    del words[at : at + 2]
    words = [word for i, word in enumerate(words) if not word.startswith("memit.") and (
        word != "--set" or not words[i + 1].startswith("memit.")
    )]  # fmt: skip
    assert errata(*words).code == 0
    monkeypatch.delenv("ERRATA_DATA")
    refused = errata(*words)
    assert refused.code == 2
    assert "ERRATA_DATA" in refused.err
    assert "counterfact.json" in refused.err
    assert "ROME project" in refused.err
    monkeypatch.setenv("ERRATA_DATA", str(work / "elsewhere"))
    assert f"There is no counterfact.json in {work / 'elsewhere'}" in errata(*words).err


def test_relations_and_the_study(errata, arguments, work) -> None:
    relations = [
        {
            "name": name,
            "type": kind,
            "prompt_templates": [template],
            "samples": [{"subject": s, "object": o} for s, o in zip(["Rome", "Paris", "Japan"], objects, strict=True)],
        }
        for name, kind, template, objects in [
            ("country", "factual", "{} is in", ["Italy", "France", "Asia"]),
            ("letter", "linguistic", "{} starts with the letter", ["R", "P", "J"]),
        ]
    ]
    (work / "relations.json").write_text(json.dumps(relations))
    done = errata(*arguments("--dataset", "relations", "--study", data="relations.json"))
    assert done.code == 0, done.err
    for part in ("## By type (3 edits)", "factual", "linguistic", "What predicts failure", "key_similarity"):
        assert part in done.out
    assert Path("bench/tables/types.csv").exists()
    assert Path("bench/tables/predictions.csv").exists()


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        ([], {"methods": "memit,mem"}, "did you mean 'memit'"),
        ([], {"methods": ""}, "Unknown method ''"),
        ([], {"n": "1,x"}, "write numbers of edits as 1,10,100"),
        ([], {"n": "0"}, "--n must be at least 1"),
        ([], {"n": "5"}, "holds 4 usable facts"),
        ([], {"data": "absent.json"}, "absent.json"),
        (["--dataset", "wiki"], {}, "Unknown data set 'wiki'"),
        (["--dataset", "relations"], {}, "relation 1 is not"),
        (["--set", "prior_weight=3"], {}, "METHOD.NAME=VALUE"),
        (["--set", "memit.nonsense=3"], {}, "nonsense"),
        (["--mixed", "A"], {}, "two different relations"),
        (["--mixed", "{} is in|{} sings"], {}, "0 records of that relation"),
        (["--in-batches", "2", "--one-by-one"], {}, "exclude each other"),
        (["--text", "absent.txt"], {}, "absent.txt"),
        (["--text-tokens", "0"], {}, "asks for no drift"),
        (["--references", "corpus.txt"], {}, "add --generate"),
        (["--generate", "--references", "absent.jsonl"], {}, "absent.jsonl"),
        ([], {"out": "corpus.txt"}, "that is a file"),
    ],
)
def test_bad_input(errata, arguments, monkeypatch, words, options, said) -> None:
    monkeypatch.setattr("errata.models.load", lambda *_, **__: pytest.fail("the model was loaded"))
    done = errata(*arguments(*words, **options))
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not Path("bench").exists()


def test_layers_are_judged_before_the_model_is_loaded(errata, arguments, monkeypatch) -> None:
    monkeypatch.setattr("errata.models.load", lambda *_, **__: pytest.fail("the model was loaded"))
    done = errata(*[word.replace("memit.layers=1-2", "memit.layers=1-9") for word in arguments()])
    assert done.code == 2
    assert "has 4 layers, 0–3" in done.err
