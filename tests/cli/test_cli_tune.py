"""`errata tune` on a tiny model, and the preset it writes in `errata edit` and `errata bench`."""

import json
from pathlib import Path

import pytest

SUBJECTS = ["Toyota", "Microsoft", "Rome", "Paris", "Japan", "France", "Bill Gates", "Danielle Darrieux"]
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
    for i, subject in enumerate(SUBJECTS)
]
FIXED = ("moment_tokens=200", "value_steps=3", "prefixes=0", "clamp=20", "learning_rate=0.5")
PRESET = {
    "errata_preset": 1,
    "method": "memit",
    "model": {"name": "tiny", "family": "llama", "num_layers": 4, "d_model": 32, "d_vocab": 480},
    "facts": 3,
    "fields": {"layers": [1, 2], "prior_weight": 5, "moment_tokens": 200, "value_steps": 3, "prefixes": 1},
    "source": "by hand",
}


@pytest.fixture
def preset(work: Path) -> Path:
    (work / "preset.json").write_text(json.dumps(PRESET))
    return work / "preset.json"


@pytest.fixture
def arguments(work: Path, model: Path):
    (work / "counterfact.json").write_text(json.dumps(RECORDS))

    def make(*more: object, budget=1, n=4, out="tuned", settings=FIXED) -> list[str]:
        base = ["tune", "--facts", "counterfact.json", "--out", out, "--model", model, "--budget", budget, "--n", n]
        base += ["--corpus", "corpus.txt", "--text-tokens", 40, "--quiet"]
        return [str(part) for part in [*base, *(x for s in settings for x in ("--set", s)), *more]]

    return make


def test_a_preset_from_a_tuning_to_an_edit(errata, arguments, edit_arguments) -> None:
    done = errata(*arguments("--layers", "1-2,0-2"))
    assert (done.code, done.err) == (0, "")
    for part in (
        "Chosen: **layers",
        "Held-out facts (4)",
        "Pareto front",
        "Every setting tried",
        "Preset: ",
        "unedited",
    ):
        assert part in done.out
    assert Path("tuned/summary.md").read_text() in done.out
    assert Path("tuned/pareto.pdf").read_bytes().startswith(b"%PDF")
    table = Path("tuned/tuning.csv").read_text().splitlines()
    assert "short_nll" in table[0]
    assert len(table) > 8
    held = json.loads(Path("tuned/preset.json").read_text())
    assert (held["method"], held["facts"], held["fields"]["clamp"]) == ("memit", 4, 20.0)
    again = errata(*arguments("--layers", "1-2,0-2"))
    assert again.out == done.out

    edited = errata(*edit_arguments("--preset", "tuned/preset.json", settings=()))
    assert edited.code == 0, edited.err
    config = json.loads(Path("out/report.json").read_text())["config"]
    # Fields that came later are not recorded where they are at their defaults, so that earlier patches keep their ids.
    left_at_default = {"value_unit"}
    assert config == {name: value for name, value in held["fields"].items() if name not in left_at_default}


def test_edit_takes_a_preset_and_single_fields_win(errata, edit_arguments, preset) -> None:
    done = errata(*edit_arguments("--preset", preset, "--verbose", settings=("prior_weight=9",)))
    assert done.code == 0, done.err
    assert "by hand" in done.out
    config = json.loads(Path("out/report.json").read_text())["config"]
    assert (config["layers"], config["prior_weight"], config["value_steps"]) == ([1, 2], 9.0, 3)


def test_edit_refuses_a_preset_that_does_not_fit(errata, edit_arguments, preset) -> None:
    other = errata(*edit_arguments("--preset", preset, "--method", "rome", settings=()))
    assert (other.code, "memit, and rome" in other.err) == (2, True)
    preset.write_text(json.dumps({**PRESET, "model": {**PRESET["model"], "num_layers": 12}}))
    shape = errata(*edit_arguments("--preset", preset, settings=()))
    assert (shape.code, "another shape" in shape.err) == (2, True)
    preset.write_text("{}")
    assert errata(*edit_arguments("--preset", preset, settings=())).code == 2
    assert not Path("out").exists()


def test_bench_takes_a_preset_for_its_method(errata, arguments, model, preset) -> None:
    arguments()
    words = ["bench", "--methods", "memit", "--n", 3, "--out", "bench", "--model", model, "--data", "counterfact.json"]
    words += ["--corpus", "corpus.txt", "--text-tokens", 0, "--quiet", "--preset", preset]
    done = errata(*words)
    assert done.code == 0, done.err
    (used,) = json.loads(Path("bench/bench.json").read_text())["settings"].values()
    assert "by hand" in used["source"]
    assert (used["config"]["layers"], used["config"]["prior_weight"]) == ([1, 2], 5.0)
    for more, said in (
        (["--methods", "shift"], "--preset: memit is not among the methods"),
        (["--preset", preset], "Two --preset files are of memit"),
    ):
        refused = errata(*words, *more)
        assert (refused.code, said in refused.err) == (2, True), refused.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "rome"], "What to try of rome"),
        (["--layers", "9-7-"], "write layer numbers"),
        (["--set", "seed=3"], "--seed"),
        (["--set", "layers=1-2"], "--layers"),
        (["--set", "clmap=2"], "did you mean"),
        (["--budget", "0"], "--budget must be positive"),
        (["--n", "7"], "Give more facts"),
        (["--first", "7"], "Give more facts"),
        (["--corpus", "none.txt"], "none.txt"),
    ],
)
def test_bad_input_before_the_model_is_loaded(errata, arguments, monkeypatch, more, said) -> None:
    monkeypatch.setattr("errata.models.load", lambda *_, **__: pytest.fail("loaded"))
    done = errata(*arguments(*more, settings=()))
    assert done.code == 2
    assert said in done.err
    assert not Path("tuned").exists()


def test_a_folder_with_other_things_is_left_alone(errata, arguments, work) -> None:
    (work / "tuned").mkdir()
    (work / "tuned" / "thesis.txt").write_text("mine")
    done = errata(*arguments())
    assert (done.code, "other things" in done.err) == (2, True)
