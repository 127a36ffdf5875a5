"""Modules without the type checks that the tests switch on."""

import importlib.util


def without_type_checks(module):
    """A module as users have it: in tests beartype refuses wrong types before the module's own checks see them."""
    spec = importlib.util.spec_from_file_location(f"plain_{module.__name__}", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    return plain
