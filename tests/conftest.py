"""Hypothesis for every test: the same examples each time, no deadline (numba compiles on the first call)."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("covey", deadline=None, derandomize=True, max_examples=80, database=None)
settings.load_profile("covey")
