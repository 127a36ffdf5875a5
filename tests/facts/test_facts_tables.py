"""Parquet files, Arrow files and the folders of `datasets`: the same facts as from JSON Lines."""

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from errata.errors import FactsError
from errata.facts import Fact, FactFile, Neighbour, facts_of, read_facts, require

RECORDS = [
    {"subject": "Ada Lane", "prompt": "Ada Lane works as a", "target_new": "pilot", "ground_truth": ["nurse"],
     "locality": {"near": [{"prompt": "Bo is a", "ground_truth": ["cook"]}]}},
    {"subject": "Cy", "prompt": "{} is a", "target_new": "poet", "paraphrases": ["Cy, a"],
     "locality": {"far": [{"prompt": "Dee is a", "ground_truth": ["judge"]}]}},
]  # fmt: skip


def saved(folder: Path, tables: list[pa.Table], **state: object) -> Path:
    """A folder as `save_to_disk` of datasets leaves it."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{len(tables):05}.arrow" for i in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], **state}))
    return folder


def parquet(tmp_path: Path, table: pa.Table) -> Path:
    pq.write_table(table, tmp_path / "facts.parquet")
    return tmp_path / "facts.parquet"


@pytest.fixture
def table() -> pa.Table:
    asked = pa.list_(pa.struct({"prompt": pa.string(), "ground_truth": pa.list_(pa.string())}))
    return pa.Table.from_pylist(RECORDS, schema=pa.schema([
        ("subject", pa.string()), ("prompt", pa.string()), ("target_new", pa.string()),
        ("ground_truth", pa.list_(pa.string())), ("paraphrases", pa.list_(pa.string())),
        ("locality", pa.struct({"near": asked, "far": asked})),
    ]))  # fmt: skip


def check(read: FactFile) -> None:
    assert (read.facts, read.problems) == (facts_of(RECORDS).facts, ())
    assert read.facts[0].neighbours == (Neighbour(prompt="Bo is a", answer="cook"),)
    assert list(read.places.values()) == ["row 1", "row 2"]


def test_parquet(tmp_path, table):
    check(read_facts(parquet(tmp_path, table)))
    (tmp_path / "facts.parquet").rename(tmp_path / "facts")
    check(read_facts(tmp_path / "facts", format="parquet"))


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow(tmp_path, table, new):
    with pa.OSFile(str(tmp_path / "facts.arrow"), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table)
    check(read_facts(tmp_path / "facts.arrow"))


def test_saved_data_set(tmp_path, table):
    check(read_facts(saved(tmp_path / "one", [table])))
    check(read_facts(saved(tmp_path / "more", [table.slice(0, 1), table.slice(1)])))
    assert len(read_facts(tmp_path / "more", limit=1).facts) == 1
    assert read_facts(tmp_path / "one", format="easyedit").facts == facts_of(RECORDS).facts


def test_saved_splits(tmp_path, table):
    saved(tmp_path / "set" / "train", [table])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    check(read_facts(tmp_path / "set"))
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(FactsError, match="holds the splits train, test; give the folder of one"):
        read_facts(tmp_path / "set")


def test_values_that_json_has_not(tmp_path):
    row = {
        "subject": "Bo", "prompt": "Bo is a", "target_new": "cook", "target_true": None, "day": date(2024, 5, 1),
        "price": Decimal("1.50"), "bytes": b"ab", "share": float("nan"), "n": 3,
    }  # fmt: skip
    (fact,) = read_facts(parquet(tmp_path, pa.Table.from_pylist([row]))).facts
    assert fact == Fact(
        subject="Bo", prompt="Bo is a", target_new="cook",
        metadata={"day": "2024-05-01", "price": "1.50", "bytes": "ab", "n": 3},
    )  # fmt: skip


def test_bad_rows_are_named(tmp_path):
    read = read_facts(parquet(tmp_path, pa.Table.from_pylist([RECORDS[1], {**RECORDS[1], "prompt": "Dee is"}])))
    assert [str(problem) for problem in read.errors] == [
        "row 2: error: subject 'Cy' is not in the prompt 'Dee is' and the prompt has no '{}'"
    ]
    with pytest.raises(FactsError, match="1 bad record"):
        require(read)


@pytest.mark.parametrize("name", ["facts.parquet", "facts.arrow"])
def test_a_broken_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1 nothing of the sort")
    with pytest.raises(FactsError, match="cannot be read as"):
        read_facts(tmp_path / name)


def test_folders_that_are_not_whole(tmp_path, table):
    folder = saved(tmp_path / "picked", [table], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(FactsError, match="flatten_indices"):
        read_facts(folder)
    folder = saved(tmp_path / "lost", [table])
    (folder / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(FactsError, match=r"is not whole: state.json is there, but not data-00000"):
        read_facts(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(FactsError, match="Cannot read"):
        read_facts(folder)
    (tmp_path / "plain").mkdir()
    with pytest.raises(FactsError, match="is a folder; a fact file was expected, or a folder that save_to_disk"):
        read_facts(tmp_path / "plain")
