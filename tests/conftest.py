"""Hypothesis for every test: the same examples each time, no deadline (numba compiles on the first call)."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("covey", deadline=None, derandomize=True, max_examples=80, database=None)
settings.load_profile("covey")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes that share the tests (pytest-xdist) take them by module; one takes all that need a Milvus server."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("milvus" if item.get_closest_marker("milvus") else item.path.name))
