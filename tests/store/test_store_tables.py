"""Tables in parts: read back as written, nothing of a write that fails, one chunk in memory at a time."""

import gc
import math
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from errata.errors import StorageError
from errata.store import digest
from errata.store.tables import Parts, write_csv, write_parquet, write_rows

COLUMNS = {"id": "string", "number": "int32", "value": "float64", "right": "bool"}


def row(value, number=1):
    return {"id": "é\n", "number": number, "value": value, "right": None}


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path, lambda text: pytest.fail(text))


@given(st.lists(st.floats(allow_nan=False), max_size=4))
def test_read_back_to_the_last_bit(tmp_path_factory, values):
    kept, key = Parts(tmp_path_factory.mktemp("parts"), lambda text: pytest.fail(text)), digest(1)
    rows = [row(value, number) for number, value in enumerate(values)]
    kept.save(key, rows, COLUMNS)
    found = kept.load(key, COLUMNS)
    assert found == rows
    assert [math.copysign(1, r["value"]) for r in found] == [math.copysign(1, value) for value in values]


def test_what_is_not_there_is_none(parts):
    assert parts.load(digest(2), COLUMNS) is None


def test_other_columns_are_another_table(tmp_path):
    notes = []
    parts, key = Parts(tmp_path, notes.append), digest(1)
    parts.save(key, [row(1.0)], COLUMNS)
    assert parts.load(key, {**COLUMNS, "more": "string"}) is None
    assert len(notes) == 1
    assert not parts.path(key).exists()


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.parquet"
    write_parquet(path, [[row(1.0)]], COLUMNS)

    def chunks():
        yield [row(2.0)]
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        write_parquet(path, chunks(), COLUMNS)
    assert parquet.read_table(path).to_pylist() == [row(1.0)]
    assert [found.name for found in tmp_path.iterdir()] == ["rows.parquet"]


def test_one_chunk_at_a_time(tmp_path):
    class Rows(list):
        pass

    alive: list[weakref.ref] = []

    def chunks():
        for i in range(5):
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 1
            rows = Rows([row(float(i), i)])
            alive.append(weakref.ref(rows))
            yield rows

    write_parquet(tmp_path / "rows.parquet", chunks(), COLUMNS)
    assert parquet.read_table(tmp_path / "rows.parquet").column("number").to_pylist() == list(range(5))


def test_no_chunks_is_an_empty_table(tmp_path):
    write_parquet(tmp_path / "rows.parquet", [], COLUMNS)
    assert parquet.read_table(tmp_path / "rows.parquet").column_names == list(COLUMNS)


def test_rows_of_any_columns(tmp_path):
    rows = [{"id": "é\n", "top": ["a", "b"], "value": 0.1}, {"id": "", "top": [], "value": None}]
    write_rows(tmp_path / "new" / "rows.parquet", rows)
    assert parquet.read_table(tmp_path / "new" / "rows.parquet").to_pylist() == rows


def test_csv_has_the_columns_of_the_first_row(tmp_path):
    path = tmp_path / "rows.csv"
    write_csv(path, [{"id": "a, b", "value": 0.1}, {"id": "c", "value": None}])
    assert path.read_bytes() == b'id,value\r\n"a, b",0.1\r\nc,\r\n'
    with pytest.raises(ValueError, match="other"):
        write_csv(path, [{"id": "d"}, {"other": "e"}])
    assert path.read_bytes().startswith(b"id,value"), "the old file stays"
