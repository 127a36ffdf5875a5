"""Good fact files in every format, conflicts that are only warned of, and going on without the bad records."""

import json
from pathlib import Path

import pytest

from errata.errors import FactsError
from errata.facts import Fact, FactFile, Neighbour, Problem, read_facts, require

EIFFEL = Fact(
    id="eiffel",
    subject="Eiffel Tower",
    prompt="The Eiffel Tower is in",
    target_new="Rome",
    target_true="Paris",
    paraphrases=("To see the Eiffel Tower, go to",),
    neighbours=(Neighbour(prompt="The Louvre is in", answer="Paris"), Neighbour(prompt="Big Ben is in")),
    relation="city",
    generation_prompts=("Near the Eiffel Tower you find", "People visit the Eiffel Tower"),
)
RECORD = {
    "id": "eiffel",
    "subject": "Eiffel Tower",
    "prompt": "The Eiffel Tower is in",
    "target_new": "Rome",
    "target_true": "Paris",
    "paraphrases": ["To see the Eiffel Tower, go to"],
    "neighbours": [{"prompt": "The Louvre is in", "answer": "Paris"}, "Big Ben is in"],
    "relation": "city",
    "generation_prompts": ["Near the {} you find", "People visit the Eiffel Tower"],
}
ALIASED = {{"id": "case_id", "neighbours": "neighbors"}.get(name, name): value for name, value in RECORD.items()}
PLAIN = {"subject": "Oslo", "prompt": "{} is in", "target_new": "Peru", "target_true": None}
OSLO = Fact(subject="Oslo", prompt="{} is in", target_new="Peru")


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + f"{json.dumps(RECORD)}\r\n\n{json.dumps(PLAIN, ensure_ascii=False)}".encode()
    for name in ("facts.jsonl", "facts.NDJSON"):
        read = read_facts(written(tmp_path / name, content))
        assert (read.facts, read.problems) == ((EIFFEL, OSLO), ())


def test_jsonl_separators_of_unicode_do_not_end_a_line(tmp_path: Path) -> None:
    content = '{"subject": "a\u2028b", "prompt": "a\u2028b is\x85", "target_new": "c"}'
    (fact,) = read_facts(written(tmp_path / "facts.jsonl", content)).facts
    assert fact.text == "a\u2028b is\x85"


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([RECORD, PLAIN]),
        json.dumps({"facts": [ALIASED, PLAIN]}, indent=2),
        json.dumps([RECORD, PLAIN], indent=4).replace("\n", "\r\n"),
        f"\n [ {json.dumps(RECORD)}\t,\n\n{json.dumps(PLAIN)} ]\n\n",
    ],
)
def test_json(tmp_path: Path, content: str) -> None:
    read = read_facts(written(tmp_path / "facts.json", content))
    assert (read.facts, read.problems) == ((EIFFEL, OSLO), ())


HEADER = ["case_id", "subject", "prompt", "target_new", "target_true", "paraphrases", "neighbors", "relation"]
HEADER += ["generation_prompts"]
LISTS = [json.dumps(RECORD["paraphrases"]), json.dumps(RECORD["neighbours"])]
ROWS = [
    [
        "eiffel",
        "Eiffel Tower",
        "The Eiffel Tower is in",
        "Rome",
        "Paris",
        *LISTS,
        "city",
        json.dumps(RECORD["generation_prompts"]),
    ],
    ["", "Oslo", "{} is in", "Peru", "", "", "", "", ""],
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_csv(tmp_path: Path, delimiter: str, end: str, suffix: str) -> None:
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in [HEADER, *ROWS]]
    content = "\ufeff" + end.join(delimiter.join(row) for row in quoted) + end + end
    read = read_facts(written(tmp_path / f"facts{suffix}", content))
    assert (read.facts, read.problems) == ((EIFFEL, OSLO), ())


def test_csv_single_cells(tmp_path: Path) -> None:
    content = (
        "subject,prompt,target_new,paraphrases,neighbours,neighbour_prompt,neighbor_answer,generation_prompts\n"
        'Oslo,"Oslo,\nthe city, is in",Peru,Where is Oslo? In,Rome is in,Bonn is in,Germany,{} lies\n'
    )
    (fact,) = read_facts(written(tmp_path / "facts.csv", content)).facts
    assert fact.text == "Oslo,\nthe city, is in"
    assert fact.paraphrases == ("Where is Oslo? In",)
    assert fact.generation_prompts == ("Oslo lies",)
    assert fact.neighbours == (Neighbour(prompt="Rome is in"), Neighbour(prompt="Bonn is in", answer="Germany"))


ORIGINAL = [
    {
        "case_id": 12,
        "pararel_idx": 3,
        "requested_rewrite": {
            "prompt": "{} was born in the town of",
            "relation_id": "P19",
            "target_new": {"str": "Ulm", "id": "Q3012"},
            "target_true": {"str": "Bonn", "id": "Q586"},
            "subject": "Ludwig van Beethoven",
        },
        "paraphrase_prompts": ["It rained. Ludwig van Beethoven comes from", "The home of Ludwig van Beethoven was"],
        "neighborhood_prompts": ["Konrad Zuse's mentor was born in", "August Macke lived in"],
        "attribute_prompts": ["Albert Einstein was born in"],
        "generation_prompts": ["Ludwig van Beethoven grew up in"],
    },
    {
        "case_id": 13,
        "requested_rewrite": {
            "prompt": "The river in {} is the",
            "relation_id": "P47",
            "target_new": {"str": "Elbe", "id": "Q1644"},
            "target_true": {"str": "Seine", "id": "Q1471"},
            "subject": "Paris",
        },
        "paraphrase_prompts": [],
        "neighborhood_prompts": [],
    },
]
BEETHOVEN = Fact(
    id="12",
    subject="Ludwig van Beethoven",
    prompt="{} was born in the town of",
    target_new="Ulm",
    target_true="Bonn",
    paraphrases=("It rained. Ludwig van Beethoven comes from", "The home of Ludwig van Beethoven was"),
    neighbours=(
        Neighbour(prompt="Konrad Zuse's mentor was born in", answer="Bonn"),
        Neighbour(prompt="August Macke lived in", answer="Bonn"),
    ),
    relation="P19",
    generation_prompts=("Ludwig van Beethoven grew up in",),
    metadata={
        "pararel_idx": 3,
        "attribute_prompts": ["Albert Einstein was born in"],
        "target_new_id": "Q3012",
        "target_true_id": "Q586",
    },
)
FLATTENED = {
    "case_id": 4,
    "prompt": "What is the twin city of Lyon? It is",
    "target_new": "Manila",
    "subject": "Lyon",
    "ground_truth": "Beirut",
    "rephrase_prompt": "Lyon is twinned with",
    "locality_prompt": "The twin city of Trieste is",
    "locality_ground_truth": "Graz",
}
LYON = Fact(
    id="4",
    subject="Lyon",
    prompt="What is the twin city of Lyon? It is",
    target_new="Manila",
    target_true="Beirut",
    paraphrases=("Lyon is twinned with",),
    neighbours=(Neighbour(prompt="The twin city of Trieste is", answer="Graz"),),
)
ZSRE = {
    "subject": "UniFirst",
    "src": "What does UniFirst make?",
    "pred": "cloth",
    "rephrase": "What is made by UniFirst?",
    "alt": " ships",
    "answers": ["uniforms", "clothes"],
    "loc": "nq question: who wrote it",
    "loc_ans": "nobody",
    "cond": "cloth >> ships || What does UniFirst make?",
}
UNIFIRST = Fact(
    id="0",
    subject="UniFirst",
    prompt="What does UniFirst make?",
    target_new=" ships",
    target_true="uniforms",
    paraphrases=("What is made by UniFirst?",),
    neighbours=(Neighbour(prompt="nq question: who wrote it?", answer="nobody"),),
    metadata={
        "pred": "cloth",
        "cond": "cloth >> ships || What does UniFirst make?",
        "answers": ["uniforms", "clothes"],
    },
)
ASKED = {**ZSRE, "loc": "nq question: who wrote it?"}
PARIS = Fact(
    id="13",
    subject="Paris",
    prompt="The river in {} is the",
    target_new="Elbe",
    target_true="Seine",
    relation="P47",
    metadata={"target_new_id": "Q1644", "target_true_id": "Q1471"},
)


@pytest.mark.parametrize(
    ("format", "records", "facts"),
    [
        ("counterfact", ORIGINAL, (BEETHOVEN, PARIS)),
        ("counterfact", [FLATTENED], (LYON,)),
        ("zsre", [ZSRE], (UNIFIRST,)),
        ("zsre", [ASKED], (UNIFIRST,)),
    ],
)
def test_data_sets_in_their_own_shapes(tmp_path: Path, format: str, records: list[dict], facts: tuple) -> None:
    as_list = written(tmp_path / "set.json", json.dumps(records))
    as_lines = written(tmp_path / "set.jsonl", "\n".join(map(json.dumps, records)))
    unnamed = written(tmp_path / "set", json.dumps(records))
    for path, asked in [
        (as_list, "auto"),
        (as_lines, "auto"),
        (as_list, format),
        (as_lines, format),
        (unnamed, format),
    ]:
        read = read_facts(path, format=asked)
        assert (read.facts, read.problems) == (facts, ())


def test_optional_parts_of_the_data_sets(tmp_path: Path) -> None:
    flat = {
        "subject": "Lyon",
        "prompt": "Lyon is in",
        "target_new": "Peru",
        "rephrase_prompt": "",
        "locality_prompt": None,
    }
    (fact,) = read_facts(written(tmp_path / "a.json", json.dumps([flat])), format="counterfact").facts
    assert fact == Fact(id="0", subject="Lyon", prompt="Lyon is in", target_new="Peru")
    (fact,) = read_facts(written(tmp_path / "b.json", json.dumps([{**ZSRE, "answers": []}]))).facts
    assert fact.target_true is None


def test_a_named_container_says_how_the_file_is_written_not_what_is_in_it(tmp_path: Path) -> None:
    read = read_facts(
        written(tmp_path / "set", json.dumps([FLATTENED, ZSRE | {"subject": "Uni", "src": "Is Uni?"}])), format="json"
    )
    assert read.problems == ()
    assert [fact.subject for fact in read.facts] == ["Lyon", "Uni"]


def test_first_usable_record_tells_the_shape(tmp_path: Path) -> None:
    read = read_facts(written(tmp_path / "set.json", json.dumps([5, ZSRE])))
    assert [problem.where for problem in read.problems] == ["record 1 (line 1)"]
    assert read.facts[0].id == "1"


def test_limit_counts_records(tmp_path: Path) -> None:
    records = [{"subject": f"s{i}", "prompt": f"s{i} is", "target_new": "x"} for i in range(5)]
    lines = ["", *map(json.dumps, records[:2]), "broken", *map(json.dumps, records[2:])]
    path = written(tmp_path / "facts.jsonl", "\n".join(lines))
    read = read_facts(path, limit=4)
    assert [fact.subject for fact in read.facts] == ["s0", "s1", "s2"]
    assert [problem.line for problem in read.problems] == [4]
    assert read_facts(path, limit=2) == read_facts(path, limit=2)
    assert len(read_facts(path, limit=99).facts) == 5
    assert read_facts(path, limit=2).problems == ()


def record(**change: str) -> str:
    return json.dumps({"subject": "Paris", "prompt": "In 1900 Paris lay in", "target_new": "Italy", **change})


SAME_KEY = "has the same key as the fact at line 1:"
WARNINGS = [
    ("same-key", record(prompt="In 1900 Paris was led by"), SAME_KEY + " both texts begin with 'In 1900 Paris'"),
    ("same-key-longer-subject", record(subject="1900 Paris", prompt="In 1900 Paris was in"), SAME_KEY),
    ("same-fact-other-id", record(id="again"), "repeats the fact at line 1 under another id"),
    ("same-fact-spaced", record(id="again", target_new=" Italy"), "repeats the fact at line 1 under another id"),
    ("paraphrase", record(prompt="Paris is", paraphrases=["The town is"]), "paraphrase 1 does not mention the subject"),
    ("trailing-space", record(prompt="Paris is", target_new="Rome "), "target_new ends in whitespace"),
]


@pytest.mark.parametrize(("second", "reason"), [pytest.param(*case[1:], id=case[0]) for case in WARNINGS])
def test_warned_of_and_kept(tmp_path: Path, second: str, reason: str) -> None:
    read = read_facts(written(tmp_path / "facts.jsonl", f"{record()}\n{second}"))
    assert [(problem.severity, problem.line) for problem in read.problems] == [("warning", 2)]
    assert reason in read.problems[0].reason
    assert len(require(read)) == 2
    assert (read.warnings, read.errors, read.bad_records) == (read.problems, (), 0)


@pytest.mark.parametrize("prompt", ["In 1901 Paris lay in", "in 1900 Paris lay in", "Paris lay in 1900 in"])
def test_other_text_before_the_subject_has_another_key(tmp_path: Path, prompt: str) -> None:
    assert read_facts(written(tmp_path / "facts.jsonl", f"{record()}\n{record(prompt=prompt)}")).problems == ()


def test_a_bad_record_is_nothing_to_conflict_with(tmp_path: Path) -> None:
    content = f"{record(id='a', target_true='Italy')}\n{record(id='a')}\n{record(id='b', target_new='Peru')}"
    read = read_facts(written(tmp_path / "facts.jsonl", content))
    assert [(problem.line, problem.fact_id) for problem in read.problems] == [(1, "a"), (3, "b")]
    assert "contradicts the fact at line 2" in read.problems[1].reason


def test_require_lists_every_error_and_names_the_way_on() -> None:
    problems = (*(Problem("error", f"bad {line}", line) for line in (2, 3, 3)), Problem("warning", "odd", 4))
    with pytest.raises(FactsError) as caught:
        require(FactFile((OSLO,), problems, Path("facts.jsonl")))
    message = str(caught.value)
    assert message.startswith("2 bad records in facts.jsonl:\nline 2: error: bad 2\nline 3: error: bad 3\n")
    assert message.endswith("or go on with the 1 good fact: --skip-bad (skip_bad=True in Python).")
    assert "odd" not in message
    assert caught.value.problems == problems[:3]
    assert require(FactFile((OSLO,), problems), skip_bad=True) == (OSLO,)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_require_needs_a_fact(skip_bad: bool) -> None:
    with pytest.raises(FactsError, match="bad 2"):
        require(FactFile((), (Problem("error", "bad 2", 2),)), skip_bad=skip_bad)


def test_where_each_fact_stands(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text("\n" + json.dumps(RECORD) + "\n{}\n" + json.dumps({**RECORD, "id": "b", "prompt": "{} is"}) + "\n")
    assert dict(read_facts(path).places) == {"eiffel": "line 2", "b": "line 4"}


def test_a_first_record_that_is_nobody_s_does_not_decide_the_shape(tmp_path):
    flattened = {
        "case_id": 3, "prompt": "Paris is in", "subject": "Paris", "target_new": "Italy", "ground_truth": "France"
    }  # fmt: skip
    path = tmp_path / "facts.jsonl"
    path.write_text("{}\n" + json.dumps(flattened) + "\n")
    (fact,) = read_facts(path).facts
    assert (fact.id, fact.target_true) == ("3", "France")


@pytest.mark.parametrize(
    ("subject", "prompt", "word"),
    [
        ("Par", "Paris is in", "Paris"), ("Cafe", "Cafe\u0301 is in", "Cafe\u0301"), ("aris", "Paris is", "Paris"),
        ("Paris", "Paris's mayor is", None), ("Paris", "Paris, which", None), ("서울", "서울은 나라의", None),
        ("Par", "Par and Paris are", None), ("2", "A2 is", None),
    ],
)  # fmt: skip
def test_a_subject_inside_a_longer_word_is_warned_of(tmp_path, subject, prompt, word):
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps({"subject": subject, "prompt": prompt, "target_new": "x"}))
    found = [p.reason for p in read_facts(path).warnings]
    assert len(found) == bool(word)
    assert not word or f"stands only inside {word!r}" in found[0]
