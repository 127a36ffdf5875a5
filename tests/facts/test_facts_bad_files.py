"""Kinds of bad fact file, one by one: each with every line and reason that must be reported, and nothing else."""

import json
from pathlib import Path

import pytest

from errata.errors import ConfigError, FactsError
from errata.facts import read_facts, require
from errata.facts import readers as readers_module

GOOD = {"subject": "Paris", "prompt": "Paris is in", "target_new": "Italy"}
OTHER = {"subject": "Rome", "prompt": "Rome is in", "target_new": "Spain"}


def line(*drop: str, **change: object) -> str:
    return json.dumps({name: value for name, value in {**GOOD, **change}.items() if name not in drop})


CF = {"prompt": "{} is in", "subject": "Paris", "target_new": {"str": "Italy"}, "target_true": {"str": "France"}}
FLAT = {**GOOD, "case_id": 1, "ground_truth": "France", "rephrase_prompt": "Paris:", "locality_prompt": "Rome is in"}
ZSRE = {"subject": "Paris", "src": "Where is Paris?", "alt": "Italy", "answers": ["France"]}
# Name, content, and each error expected: its line and a part of its reason.
RECORDS = [
    ("missing-subject", line("subject"), "missing field 'subject'"),
    ("missing-prompt", line("prompt"), "missing field 'prompt'"),
    ("missing-target", line("target_new"), "missing field 'target_new'"),
    ("misspelt-field", line(target_tru="x"), "unknown field 'target_tru'; did you mean 'target_true'?"),
    ("field-twice", line()[:-1] + ', "subject": "Paris"}', "field 'subject' is given more than once"),
    ("alias-twice", line(id="a", case_id="b"), "'case_id' and 'id' mean the same"),
    ("subject-number", line(subject=5), "subject is a number; it must be text"),
    ("subject-null", line(subject=None), "subject is null"),
    ("prompt-list", line(prompt=["Paris"]), "prompt is a list"),
    ("target-object", line(target_new={"id": "Q38"}), "target_new is an object"),
    ("target-true-bool", line(target_true=True), "target_true is true"),
    ("relation-number", line(relation=1.5), "relation is a number"),
    ("id-list", line(id=[1]), "id is a list"),
    ("id-bool", line(id=False), "id is false"),
    ("id-line-break", line(id="a\nb"), "id holds a character that cannot be printed"),
    ("subject-empty", line(subject=""), "subject is empty"),
    ("subject-blank", line(subject="\t"), "subject is only whitespace"),
    ("subject-padded", line(subject="Paris "), "subject begins or ends in whitespace"),
    ("subject-placeholder", line(subject="{}"), "subject holds '{}'"),
    ("subject-absent", line(prompt="Rome is in"), "subject 'Paris' is not in the prompt 'Rome is in'"),
    ("subject-capitals", line(prompt="PARIS is in"), "other capitals"),
    ("subject-composed", line(subject="Café", prompt="Cafe\u0301 is"), "encoded differently"),
    ("prompt-empty", line(prompt=""), "prompt is empty"),
    ("prompt-two-places", line(prompt="{} or {} is in"), "prompt holds '{}' 2 times"),
    ("target-empty", line(target_new=""), "target_new is empty"),
    ("target-blank", line(target_new=" \u3000"), "target_new is only whitespace"),
    ("target-unchanged", line(target_true=" Italy"), "there is nothing to edit"),
    ("nul", line(target_new="It\0aly"), "target_new holds a NUL character at character 2"),
    ("surrogate", line(prompt="Paris \ud800"), "prompt holds half of a surrogate pair (U+D800) at character 6"),
    ("paraphrases-number", line(paraphrases=3), "paraphrases is a number"),
    ("paraphrase-number", line(paraphrases=["Paris is", 3]), "paraphrase 2 is a number"),
    ("paraphrase-empty", line(paraphrases=[""]), "paraphrase 1 is empty"),
    ("generation-prompts-number", line(generation_prompts=3), "generation_prompts is a number"),
    ("generation-prompt-empty", line(generation_prompts=["{} is", " "]), "generation prompt 2 is only whitespace"),
    ("paraphrase-two-places", line(paraphrases=["{} {}"]), "paraphrase 1 holds '{}' more than once"),
    ("neighbours-object", line(neighbours={}), "neighbours is an object; it must be a list"),
    ("neighbour-number", line(neighbours=[1]), "neighbour 1: it is a number"),
    ("neighbour-no-prompt", line(neighbours=[{"answer": "x"}]), "neighbour 1: missing field 'prompt'"),
    ("neighbour-null-prompt", line(neighbours=[{"prompt": None}]), "neighbour 1: prompt is null"),
    (
        "neighbour-unknown",
        line(neighbours=["a", {"prompt": "b", "anser": "c"}]),
        "neighbour 2: unknown field 'anser'; did",
    ),
    ("neighbour-answer", line(neighbors=[{"prompt": "b", "answer": 4}]), "neighbour 1: answer is a number"),
    ("neighbour-template", line(neighbours=["{} is in"]), "neighbour 1: prompt holds '{}'"),
    ("record-list", '[{"subject": "Paris"}]', "the record is a list; it must be an object"),
    ("record-text", '"Paris"', "the record is text; it must be an object"),
    ("record-null", "null", "the record is null"),
    ("utf-16-escape", line(id="\udfff"), "id holds half of a surrogate pair"),
]


# Text that is no JSON value, on its own line; in a JSON list nothing after it can be read.
BROKEN = [
    ("truncated", '{"subject": "Par', "broken JSON: Unterminated string starting at at column 13"),
    ("not-json", "Paris is in Italy", "broken JSON: Expecting value at column 1"),
    ("two-on-a-line", f"{line()}{line()}", "broken JSON: Extra data"),
    ("raw-control", '{"subject": "Pa\0ris"}', "broken JSON: Invalid control character at"),
    ("too-deep", "[" * 200_000, "JSON that cannot be read: maximum recursion depth exceeded"),
    ("huge-number", f'{{"id": {"1" * 5000}}}', "JSON that cannot be read: Exceeds the limit"),
]
FIRST = json.dumps({"subject": "Oslo", "prompt": "Oslo is in", "target_new": "Peru"})


@pytest.mark.parametrize(("record", "reason"), [pytest.param(*case[1:], id=case[0]) for case in RECORDS])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_bad_record_is_reported_and_the_others_survive(tmp_path: Path, suffix: str, record: str, reason: str) -> None:
    path, last = tmp_path / f"facts{suffix}", json.dumps(OTHER)
    path.write_text(f"{FIRST}\n\n{record}\n{last}\n" if suffix == ".jsonl" else f"[{FIRST},\n\n{record}\n,{last}]\n")
    read = read_facts(path)
    assert [problem.line for problem in read.problems] == [3], read.problems
    assert reason in read.problems[0].reason
    assert [fact.subject for fact in read.facts] == ["Oslo", "Rome"]
    with pytest.raises(FactsError, match="--skip-bad") as caught:
        require(read)
    assert caught.value.problems == read.errors
    assert require(read, skip_bad=True) == read.facts


@pytest.mark.parametrize(("record", "reason"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN])
def test_broken_json(tmp_path: Path, record: str, reason: str) -> None:
    (tmp_path / "facts.jsonl").write_text(f"{FIRST}\n\n{record}\n{json.dumps(OTHER)}\n")
    lines = read_facts(tmp_path / "facts.jsonl")
    assert [problem.line for problem in lines.problems] == [3]
    assert reason in lines.problems[0].reason
    assert [fact.subject for fact in lines.facts] == ["Oslo", "Rome"]
    (tmp_path / "facts.json").write_text(f"[{FIRST},\n\n{record}\n,{json.dumps(OTHER)}]")
    listed = read_facts(tmp_path / "facts.json")
    assert [problem.line for problem in listed.problems] == [3]
    assert listed.problems[0].reason.endswith("(the file was not read beyond this point)")
    assert listed.problems[0].reason.startswith(reason.split(":")[0])
    assert listed.facts[0].subject == "Oslo"
    assert "Rome" not in [fact.subject for fact in listed.facts]


CONTRADICTION = "contradicts the fact at line 1: 'Paris is in' is answered by 'Italy' there and 'Peru' here"
FILES = [
    ("empty", "a.jsonl", b"", [(None, "the file holds no facts")]),
    ("only-bom", "a.jsonl", b"\xef\xbb\xbf", [(None, "the file holds no facts")]),
    ("blank-lines", "a.jsonl", b"\n \r\n", [(None, "the file holds no facts")]),
    ("json-empty", "a.json", b" ", [(None, "the file holds no facts")]),
    ("json-empty-list", "a.json", b"[]", [(None, "the file holds no facts")]),
    ("json-empty-facts", "a.json", b'{"facts": [ ]}', [(None, "the file holds no facts")]),
    ("csv-empty", "a.csv", b"", [(None, "the file holds no facts")]),
    ("csv-header-only", "a.csv", b"subject,prompt,target_new\n", [(None, "the file holds no facts")]),
    ("jsonl-is-json", "a.jsonl", b"\n[\n{}]", [(1, "a JSON list where one object a line was expected")]),
    ("jsonl-not-utf8", "a.jsonl", line().encode() + b'\n{"id": "\xe9"}\n\n', [(2, "not UTF-8: byte 0xe9")]),
    ("json-not-utf8", "a.json", b'[\n{"id":\n"\xe9"},\n{"id": "a\xff"}]', [(3, "byte 0xe9"), (4, "byte 0xff")]),
    (
        "json-stray-byte",
        "a.json",
        b"[\n\x80]",
        [(2, "byte 0x80; save the file as UTF-8 (the file was not read beyond")],
    ),
    ("csv-not-utf8", "a.csv", b"subject,prompt,target_new\na,a is,b\nc,c is,\xe9\n", [(3, "not UTF-8: byte 0xe9")]),
    ("csv-header-not-utf8", "a.csv", b"subject,pr\xe9mpt\n", [(1, "not UTF-8: byte 0xe9")]),
    ("json-scalar", "a.json", b"\n42", [(2, 'expected a list of records or {"facts": [...]}, found a number')]),
    ("json-empty-object", "a.json", b"{}", [(1, "found an object with nothing")]),
    ("json-no-facts", "a.json", b'{"fact": []}', [(1, "found an object with 'fact'; did you mean 'facts'?")]),
    ("json-one-record", "a.json", line().encode(), [(1, "found an object with 'subject', 'prompt', 'target_new'")]),
    ("json-facts-object", "a.json", b'{"facts": {}}', [(1, "found an object with 'facts'")]),
    (
        "json-facts-beside",
        "a.json",
        f'{{"facts": [{line()}], "n": 1}}'.encode(),
        [(1, "unknown field beside \"facts\": 'n'")],
    ),
    ("json-is-jsonl", "a.json", b"[]\n[]", [(2, "Extra data (one object a line is JSON Lines")]),
    ("json-unclosed", "a.json", f"[{line()}\n".encode(), [(2, "broken JSON: Expecting ',' or ']' at column 1")]),
    ("json-trailing-comma", "a.json", f"[{line()},\n]".encode(), [(2, "broken JSON: Expecting value")]),
    ("json-key-unquoted", "a.json", b"{facts: []}", [(1, "broken JSON: Expecting '\"'")]),
    ("json-no-colon", "a.json", b'{"facts" []}', [(1, "broken JSON: Expecting ':'")]),
    (
        "csv-unknown-column",
        "a.csv",
        b"subject,prompt,target_new,target\n",
        [(1, "unknown column 'target'; did you mean")],
    ),
    (
        "csv-missing-columns",
        "a.csv",
        b"subject,id\n",
        [(1, "missing column 'prompt'"), (1, "missing column 'target_new'")],
    ),
    (
        "csv-column-twice",
        "a.csv",
        b"subject,prompt,target_new,id,case_id\n",
        [(1, "column 'id' is there more than once")],
    ),
    ("csv-no-header", "a.csv", b"Paris,Paris is in,Italy\n", [(1, "the first row must name the columns")]),
    ("csv-few-cells", "a.csv", b"subject,prompt,target_new\n\na,a is\n", [(3, "the row has 2 cells, the header 3")]),
    ("csv-many-cells", "a.csv", b"subject,prompt,target_new\na,a is,b,c\n", [(2, "the row has 4 cells, the header 3")]),
    ("csv-empty-cell", "a.csv", b"subject,prompt,target_new\na,a is,\n", [(2, "target_new is empty")]),
    (
        "csv-open-quote",
        "a.csv",
        b'subject,prompt,target_new\na,a is,"b\nc,c is,d\n',
        [(2, "broken CSV: unexpected end of data")],
    ),
    ("csv-stray-quote", "a.csv", b'subject,prompt,target_new\na,"a" is,b\n', [(2, "broken CSV: ',' expected after")]),
    (
        "csv-huge-cell",
        "a.csv",
        b"subject,prompt,target_new\na,a is," + b"b" * 140_000,
        [(2, "broken CSV: field larger than")],
    ),
    ("csv-nul", "a.csv", b"subject,prompt,target_new\na,a is,b\0\n", [(2, "target_new holds a NUL character")]),
    (
        "csv-after-quoted-break",
        "a.csv",
        b'subject,prompt,target_new\na,"a\nis",b\nc,d,e\n',
        [(4, "is not in the prompt")],
    ),
    (
        "csv-broken-list",
        "a.csv",
        b'subject,prompt,target_new,paraphrases\na,a is,b,"[""a is"""\n',
        [(2, "paraphrases begins like a JSON list but is broken: Expecting ',' delimiter at character 7")],
    ),
    (
        "csv-deep-list",
        "a.csv",
        b"subject,prompt,target_new,neighbours\na,a is,b," + b"[" * 99_999,
        [(2, "neighbours cannot be read")],
    ),
    (
        "csv-answer-alone",
        "a.csv",
        b"subject,prompt,target_new,neighbour_answer\na,a is,b,c\n",
        [(2, "neighbour_answer without")],
    ),
    (
        "same-id",
        "a.jsonl",
        f"{line(id=7)}\n{json.dumps({**OTHER, 'id': '7'})}".encode(),
        [(2, "id '7' is already that of the fact at line 1")],
    ),
    ("same-fact-same-id", "a.jsonl", f"{line()}\n{line()}".encode(), [(2, "repeats the fact at line 1")]),
    ("contradiction", "a.jsonl", f"{line()}\n\n{line(target_new='Peru')}".encode(), [(3, CONTRADICTION)]),
    (
        "contradiction-template",
        "a.jsonl",
        f"{line()}\n{line(prompt='{} is in', target_new='Peru')}".encode(),
        [(2, "contradicts the fact at line 1")],
    ),
    (
        "contradiction-subject",
        "a.json",
        f"[{line()},\n{line(subject='is', target_new='Peru')}]".encode(),
        [(2, "contradicts the fact at record 1 (line 1)")],
    ),
    (
        "cf-rewrite-text",
        "a.json",
        b'[{"requested_rewrite": "x"}]',
        [(1, "requested_rewrite is text; it must be an object")],
    ),
    (
        "cf-no-template",
        "a.json",
        json.dumps([{"requested_rewrite": CF | {"prompt": "It is in"}}]).encode(),
        [(1, "subject 'Paris' is not in the prompt")],
    ),
    (
        "cf-no-target",
        "a.json",
        json.dumps([{"requested_rewrite": CF | {"target_new": {"id": 1}}}]).encode(),
        [(1, "target_new is an object")],
    ),
    (
        "cf-missing-subject",
        "a.json",
        json.dumps([{"requested_rewrite": {**CF, "subject": ""}, "case_id": 3}]).encode(),
        [(1, "subject is empty")],
    ),
    (
        "cf-neighbours",
        "a.json",
        json.dumps([{"requested_rewrite": CF, "neighborhood_prompts": {"a": 1}}]).encode(),
        [(1, "neighbours is an object; it must be")],
    ),
    (
        "cf-no-rewrite",
        "a.json",
        json.dumps([FLAT, {"case_id": 2}]).encode(),
        [(1, "missing field 'subject'"), (1, "missing field 'prompt'"), (1, "missing field 'target_new'")],
    ),
    (
        "flat-unchanged",
        "a.json",
        json.dumps([FLAT | {"ground_truth": "Italy"}]).encode(),
        [(1, "there is nothing to edit")],
    ),
    (
        "flat-rephrase-list",
        "a.json",
        json.dumps([FLAT | {"rephrase_prompt": [1]}]).encode(),
        [(1, "paraphrase 1 is a number")],
    ),
    (
        "zsre-missing-alt",
        "a.json",
        json.dumps([ZSRE, {"subject": "a", "src": "a?"}]).encode(),
        [(1, "missing field 'alt'")],
    ),
    (
        "zsre-answer-number",
        "a.json",
        json.dumps([ZSRE | {"answers": [1998]}]).encode(),
        [(1, "target_true is a number")],
    ),
]


@pytest.mark.parametrize(("name", "content", "expected"), [pytest.param(*case[1:], id=case[0]) for case in FILES])
def test_bad_file(tmp_path: Path, name: str, content: bytes, expected: list[tuple[int | None, str]]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    read = read_facts(path)
    assert [problem.line for problem in read.problems] == [line for line, _ in expected], read.problems
    for problem, (_, reason) in zip(read.problems, expected, strict=True):
        assert reason in problem.reason
    with pytest.raises(FactsError):
        require(read)


def test_a_record_with_several_faults_has_them_all_reported(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps({"id": "x", "subject": 1, "target_new": " ", "relatoin": "red", "paraphrases": [""]}))
    read = read_facts(path)
    assert sorted(problem.reason for problem in read.problems) == [
        "missing field 'prompt'",
        "paraphrase 1 is empty",
        "subject is a number; it must be text",
        "target_new is only whitespace",
        "unknown field 'relatoin'; did you mean 'relation'?",
    ]
    assert {(problem.line, problem.fact_id) for problem in read.problems} == {(1, "x")}
    assert read.bad_records == 1


WHOLE = [
    ("absent", "absent.jsonl", "No fact file at"),
    ("folder", "folder.json", "is a folder or a device"),
    ("extension", "facts.txt", "Cannot tell the format"),
    ("no-extension", "facts", "Cannot tell the format"),
    ("utf-16", "wide.jsonl", "is UTF-16 or UTF-32; save it as UTF-8"),
    ("excel", "facts.XLSX", "save it as CSV"),
    ("libreoffice", "facts.ods", "save it as CSV"),
    ("renamed-spreadsheet", "sheet.csv", "is a spreadsheet or another archive, not text; save it as CSV"),
    ("yaml", "f.yaml", "save it as JSON or JSONL"),
    ("yml", "f.yml", "save it as JSON or JSONL"),
    ("nul-in-path", "a\0.jsonl", "No fact file at"),
    ("long-path", "a" * 5000 + ".json", "Cannot read"),
]


@pytest.mark.parametrize(("name", "message"), [pytest.param(*case[1:], id=case[0]) for case in WHOLE])
def test_file_as_a_whole(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "facts.txt").write_text(line())
    (tmp_path / "facts").write_text(line())
    (tmp_path / "wide.jsonl").write_text(line(), encoding="utf-16")
    (tmp_path / "sheet.csv").write_bytes(b"PK\x03\x04")
    with pytest.raises(FactsError, match=message):
        read_facts(tmp_path / name)


def test_a_shape_s_name_does_not_open_a_spreadsheet_and_a_container_s_name_outranks_the_ending(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match="save it as CSV"):
        read_facts(tmp_path / "facts.xlsx", format="counterfact")
    (tmp_path / "facts.yaml").write_text(line())
    assert read_facts(tmp_path / "facts.yaml", format="jsonl").facts


def test_device_is_not_read() -> None:
    with pytest.raises(FactsError, match="a folder or a device"):
        read_facts("/dev/zero", format="jsonl")


def test_implausible_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "facts.jsonl").write_text(line())
    monkeypatch.setattr(readers_module, "MAX_BYTES", 10)
    with pytest.raises(FactsError, match="is not plausible"):
        read_facts(tmp_path / "facts.jsonl")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "facts.jsonl").write_text(line())
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(FactsError, match=r"Cannot read .*Permission denied"):
        read_facts(tmp_path / "facts.jsonl")


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_outside_its_domain(tmp_path: Path, limit: int) -> None:
    with pytest.raises(ConfigError, match=f"limit is {limit}"):
        read_facts(tmp_path / "facts.jsonl", limit=limit)
