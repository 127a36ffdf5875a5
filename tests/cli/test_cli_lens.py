"""`errata lens` and `errata reproduce` on a tiny model: what they print, write and refuse, and resuming."""

import json
import re

import pytest
from pyarrow import parquet

PROMPT = "The Eiffel Tower is located in"


@pytest.fixture
def lens(errata, model):
    """Call `errata lens` on the tiny model."""

    def call(*arguments, code=0):
        done = errata("lens", *arguments, "--model", str(model))
        assert done.code == code, done.err
        return done

    return call


def test_a_grid_is_printed(lens, work):  # noqa: ARG001
    done = lens(PROMPT, "--target", " Rome", "--subject", "The Eiffel Tower")
    assert done.out.startswith(f"{PROMPT} → Rome\n")
    assert "loss “first” = " in done.out
    assert "least probable token of LL(δ) of down, paper mode" in done.out
    assert "Rank of ·Rome at the last token" in done.out or "Rank of ·R" in done.out
    assert "\x1b" not in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--matrix", "up"], "most probable token of LL(x) of up"),
        (["--matrix", "q", "--mode", "raw"], "LL(x) of q, raw mode"),
        (["--sign=-vjp", "--mode", "normalised"], "most probable token of LL(−δ) of down, normalised mode"),
        (["--matrix", "residual"], "LL(h) of residual"),
        (["--loss", "target"], "loss “target”"),
        (["--loss", "logit-difference", "--against", "Paris"], "loss “logit-difference”"),
        (["--loss", "kl", "--reference", "The capital of Italy is"], "loss “kl”"),
        (["--track", " Paris", "--max-layers", "2"], "Rank of ·Par"),
    ],
)
def test_options(lens, work, options, said):  # noqa: ARG001
    assert said in lens(PROMPT, "--target", "Rome", *options).out


def test_without_a_target_it_is_the_model_s_own_answer(errata, lens, model):
    own = errata("ask", PROMPT, "--model", model, "--tokens", 1, "--top", 1).out
    token = re.search(r"next +'(.*)' ([\d.]+%)", own)
    assert token
    done = lens(PROMPT)
    assert done.code == 0, done.err
    assert done.out.startswith("No --target was given: it is the model's own answer, ")
    assert f"{token[1]!r} ({token[2]})" in done.out.splitlines()[0]


def test_files(lens, work):
    files = {kind: work / "out" / f"grid.{kind}" for kind in ("html", "pdf", "png", "json", "parquet")}
    arguments = [part for kind, path in files.items() for part in (f"--{kind}", str(path))]
    done = lens(PROMPT, "--target", "Rome", "--top", "3", *arguments)
    for path in files.values():
        assert f"Written: {path}" in done.out
        assert path.stat().st_size > 1000
    record = json.loads(files["json"].read_text(encoding="utf-8"))
    rows = parquet.read_table(files["parquet"]).to_pylist()
    assert record["cells"] == rows
    assert len(rows) == 4 * len(record["tokens"])
    assert all(len(row["top"]) in (0, 3) for row in rows)
    data = files["html"].read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0]
    sheets = json.loads(data)["sheets"]
    assert {sheet["mode"] for sheet in sheets} == {"paper", "normalised", "eps-free", "linear", "raw"}
    assert {sheet["name"] for sheet in sheets} == {"gate", "up", "down", "o", "residual", "mlp", "attention"}
    assert {sheet["sign"] for sheet in sheets if sheet["name"] == "down"} == {"vjp", "-vjp"}


def test_with_a_patch_on(errata, edit_arguments, lens, work):
    assert errata(*edit_arguments("--no-evaluate", out="run")).code == 0
    plain = lens("The Eiffel Tower is located in the city of", "--target", "Rome").out
    done = errata("lens", "The Eiffel Tower is located in the city of", "--target", "Rome", "--patch", "run")
    assert done.code == 0, done.err

    def loss(out):
        return float(out.split(" = ")[1].split()[0])

    assert loss(done.out) < loss(plain)
    assert (work / "run" / "patch.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "--target", "Rome"], "prompt"),
        ([PROMPT, "--loss", "logit-difference"], "needs a target"),
        ([PROMPT, "--target", " "], "target is empty"),
        ([PROMPT, "--target", "Rome", "--matrix", "W2"], "no matrix 'W2'"),
        ([PROMPT, "--target", "Rome", "--mode", "x"], "choose paper"),
        ([PROMPT, "--target", "Rome", "--sign", "x"], "'vjp' or '-vjp'"),
        ([PROMPT, "--target", "Rome", "--loss", "x"], "choose first"),
        ([PROMPT, "--target", "Rome", "--top", "0"], "at least 1"),
        ([PROMPT, "--target", "Rome", "--max-layers", "1"], "at least 2"),
        ([PROMPT, "--target", "Rome", "--subject", "Louvre"], "does not occur"),
        ([PROMPT, "--target", "Rome", "--html", "x.pdf"], "ends in .html"),
        ([PROMPT, "--target", "Rome", "--html", "~nosuchuser/x.html"], "--html"),
        ([PROMPT, "--target", "Rome", "--html", "facts.jsonl/x.html"], "is a file"),
        ([PROMPT, "--target", "Rome", "--matrix", "residual", "--sign", "-vjp"], "forward pass"),
        ([PROMPT, "--target", "Rome", "--against", "Paris"], "belongs to --loss logit-difference"),
        ([PROMPT, "--target", "Rome", "--reference", "x"], "belongs to --loss kl"),
        ([PROMPT, "--target", "Rome\0"], "NUL"),
        ([PROMPT, "--target", "Rome", "--png", "x"], "ends in .png"),
        ([PROMPT, "--target", "Rome", "--patch", "nowhere"], "not a patch"),
    ],
)
def test_bad_input(lens, work, arguments, message):
    done = lens(*arguments, code=2)
    assert message in done.err
    assert "Traceback" not in done.err
    assert not [path for path in work.iterdir() if path.suffix in (".html", ".pdf", ".png")]


@pytest.fixture
def facts(work):
    return work / "facts.jsonl"


OPTIONS = ["--n", "3", "--flip-prompts", "2", "--flip-layers", "3"]


@pytest.fixture
def reproduce(errata, model):
    def call(*arguments, code=0):
        done = errata("reproduce", "backward-lens", "--model", str(model), *arguments)
        assert done.code == code, done.err
        return done

    return call


def test_reproduction(reproduce, work, facts):
    done = reproduce("--facts", str(facts), "--out", "lens", *OPTIONS)
    out = work / "lens"
    summary = (out / "summary.md").read_text(encoding="utf-8")
    assert summary.strip() in done.out
    for figure in ("3", "4", "5", "6", "7–9", "16–17", "18–19", "20–21", "22", "23", "26", "Lemma 5.2"):
        assert f"\n| {figure} " in summary, figure
    assert "nan" not in summary
    names = {path.stem for path in (out / "figures").iterdir()}
    assert {"fig03_rank", "fig04_grid", "fig05_norm_by_segment", "fig26_learning_rates", "fig23_cosine_last"} <= names
    for name in names:
        assert (out / "figures" / f"{name}.pdf").stat().st_size > 3000
        assert (out / "figures" / f"{name}.png").stat().st_size > 3000
    tables = {path.stem for path in (out / "tables").glob("*.parquet")}
    assert tables == {path.stem for path in (out / "tables").glob("*.csv")}
    rates = parquet.read_table(out / "tables" / "fig26_learning_rates.parquet").to_pylist()
    assert {row["rule"] for row in rates} == {"shift", "sgd", "adam"}
    ranks = parquet.read_table(out / "tables" / "fig03_rank.parquet").to_pylist()
    assert [row["mean_rank"] for row in ranks if row["layer"] == 3] == [1.0] * 3


@pytest.mark.usefixtures("no_figures")
def test_a_second_run_measures_nothing_again(reproduce, work, facts, monkeypatch):
    reproduce("--facts", str(facts), "--out", "lens", *OPTIONS)
    first = (work / "lens" / "summary.md").read_bytes()
    (work / "lens" / "summary.md").unlink()

    def never(*_arguments, **_options):
        raise AssertionError("measured again")

    for name in ("measure_lens", "smallest_rate", "mechanism"):
        monkeypatch.setattr(f"errata.jobs.reproduce.experiments.{name}", never)
    reproduce("--facts", str(facts), "--out", "lens", *OPTIONS)
    assert (work / "lens" / "summary.md").read_bytes() == first


@pytest.mark.usefixtures("no_figures")
def test_a_stopped_run_goes_on_where_it_was(reproduce, work, facts, monkeypatch):
    from errata.jobs.reproduce import experiments
    from errata.jobs.reproduce import reproduce_job as job

    monkeypatch.setattr(job, "_BATCH", 1)
    reproduce("--facts", str(facts), "--out", "whole", *OPTIONS)
    measure, calls = experiments.measure_lens, []

    def stopping(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(experiments, "measure_lens", stopping)
        reproduce("--facts", str(facts), "--out", "stopped", *OPTIONS, code=130)
    assert len(list((work / "stopped" / "records").iterdir())) == 1
    calls.clear()
    monkeypatch.setattr(experiments, "measure_lens", lambda *a, **o: (calls.append(1), measure(*a, **o))[1])
    reproduce("--facts", str(facts), "--out", "stopped", *OPTIONS)
    assert len(calls) == 2
    assert (work / "stopped" / "summary.md").read_bytes() == (work / "whole" / "summary.md").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "n must be at least 1"),
        (["--mode", "x"], "choose paper"),
        (["--flip-layers", "0"], "flip_layers"),
        (["--flip-prompts", "-1"], "must not be negative"),
        (["--corpus", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_reproductions(reproduce, work, facts, arguments, message):
    assert message in reproduce("--facts", str(facts), "--out", "lens", *arguments, code=2).err
    assert not (work / "lens").exists()


@pytest.mark.usefixtures("no_figures")
def test_unusable_records_are_named_all_at_once(reproduce, facts):
    long = {"id": "long", "subject": "Rome", "prompt": "Rome " * 400 + "is", "target_new": "old"}
    special = {"id": "special", "subject": "Rome", "prompt": "Rome is", "target_new": "</s>"}
    with facts.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(fact) + "\n" for fact in (long, special))
    options = ["--facts", str(facts), "--out", "lens", "--n", "5", "--flip-prompts", "1", "--flip-layers", "2"]
    err = reproduce(*options, code=2).err
    assert "line 4" in err
    assert "takes at most 256" in err
    assert "line 5" in err
    assert "special token" in err
    assert "3 prompts" in reproduce(*options, "--skip-bad").out


def test_what_other_options_left_is_taken_away(reproduce, work, facts):
    reproduce("--facts", str(facts), "--out", "lens", *OPTIONS)
    figures = work / "lens" / "figures"
    assert (figures / "fig26_perplexity.pdf").exists()
    reproduce("--facts", str(facts), "--out", "lens", "--n", "2", "--flip-prompts", "0")
    assert not (figures / "fig26_perplexity.pdf").exists()
    assert not (work / "lens" / "tables" / "fig26_learning_rates.csv").exists()
    assert (figures / "fig03_rank.pdf").exists()


@pytest.mark.usefixtures("no_figures")
def test_a_prompt_has_this_runs_number(reproduce, work, facts):
    reproduce("--facts", str(facts), "--out", "lens", *OPTIONS)
    lines = facts.read_text(encoding="utf-8").splitlines()
    facts.write_text("\n".join([lines[1], lines[0]]), encoding="utf-8")
    rates = work / "lens" / "tables" / "fig26_learning_rates.parquet"

    def found():
        rows = parquet.read_table(rates).to_pylist()
        return [[(r["layer"], r["rule"], r["rate"]) for r in rows if r["prompt"] == number] for number in range(2)]

    before = found()
    reproduce("--facts", str(facts), "--out", "lens", *OPTIONS)
    assert before[0] != before[1]
    assert found() == before[::-1]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("content", ["", "{}", '{"record": {"rank": 1}, "digest": "x"}', "[1]"])
def test_a_damaged_record_is_measured_again(reproduce, work, facts, content):
    reproduce("--facts", str(facts), "--out", "lens", *OPTIONS)
    summary = (work / "lens" / "summary.md").read_bytes()
    for path in (work / "lens" / "records").iterdir():
        path.write_text(content)
    reproduce("--facts", str(facts), "--out", "lens", *OPTIONS)
    assert (work / "lens" / "summary.md").read_bytes() == summary


def test_other_papers_and_foreign_folders(errata, reproduce, work, facts):
    assert "known: backward-lens" in errata("reproduce", "rome", "--facts", str(facts), "--out", "x").err
    (work / "mine").mkdir()
    (work / "mine" / "thesis.tex").write_text("x")
    assert "other things lie" in reproduce("--facts", str(facts), "--out", "mine", code=2).err
    assert [path.name for path in (work / "mine").iterdir()] == ["thesis.tex"]
