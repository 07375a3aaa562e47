"""The two tiers, and Hypothesis for every test: no deadline (numba compiles on the first call), the same examples."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("full", deadline=None, derandomize=True, max_examples=80, database=None)
settings.register_profile("quick", parent=settings.get_profile("full"), max_examples=20)
# Ray's own parts look after the logs of all workers ten times a second, and after each process every five; in a session
# of many tests that takes a tenth of the machine.
os.environ |= {
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "5",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
RAY = {"local_ray"}  # fixtures that start it
MILVUS = {"milvus_server"}


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("quick" if config.option.markexpr == "not full" else "full")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray or a server, and say which process takes a test.

    Processes that share the tests (pytest-xdist) take them by module; one takes all that need a Milvus server.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & RAY:
            item.add_marker("ray")
        if fixtures & MILVUS:
            item.add_marker("milvus")
        if item.get_closest_marker("nightly"):
            item.add_marker("full")
        needs_server = item.get_closest_marker("milvus") is not None
        if needs_server:
            item.add_marker("full")
        item.add_marker(pytest.mark.xdist_group("milvus" if needs_server else item.path.name))
