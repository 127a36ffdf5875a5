"""One thread: on a busy machine several spend their time in barriers, and tiny models gain nothing from them."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass
