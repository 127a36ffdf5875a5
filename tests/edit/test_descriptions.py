import dataclasses

import pytest

from errata.edit import METHODS
from errata.edit.settings.descriptions import field_meanings
from errata.edit.settings.method_config import MethodConfig


def test_every_method_is_described() -> None:
    assert all(method.writes.endswith(".") and method.paper for method in METHODS.values())


@pytest.mark.parametrize("name", METHODS)
def test_every_field_is_explained_in_a_docstring(name: str) -> None:
    config_type = METHODS[name].config_type
    meanings = field_meanings(config_type)
    assert list(meanings) == [field.name for field in dataclasses.fields(config_type)]
    assert all(2 < len(meaning) < 400 for meaning in meanings.values()), meanings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base(MethodConfig):
    """Of a base.

    rate: how fast; as said: quickly.  size, width: how much.
    """

    rate: float = 1.0
    size: int = 1
    width: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """Of a method.

    rate: another rate, over
    two lines.

    Prose about the size that is no meaning.
    """

    silent: int = 0


def test_meanings_are_read_field_by_field_and_the_nearest_class_wins() -> None:
    assert field_meanings(Base)["rate"] == "how fast; as said: quickly."
    found = field_meanings(Derived)
    assert found["rate"] == "another rate, over two lines."
    assert found["size"] == found["width"] == "how much."
    assert found["layers"] == "those that are written, ascending, 0-based."
    assert "silent" not in found
