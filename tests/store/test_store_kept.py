"""The table of kept things: no two kinds share a name in keys or a folder, and a caller's folder stands for home."""

import pytest

from errata.store import folder_of, home
from errata.store.kept import EXPERIMENTS, KINDS, VALUES


def test_no_two_kinds_share_a_name():
    for names in ([kind.purpose for kind in KINDS], [kind.folder for kind in KINDS if kind.folder]):
        assert len(set(names)) == len(names)


def test_a_folder_of_the_caller_stands_for_home(tmp_path):
    assert folder_of(VALUES) == home() / "values"
    assert folder_of(VALUES, tmp_path) == tmp_path / "values"
    with pytest.raises(AssertionError, match="run's folder"):
        folder_of(EXPERIMENTS)
