"""kernels/hierarchy/placement.py: new rows get the clusters of the rows near them, or none."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.kernels.graph.forest import Forest
from clustering.kernels.hierarchy.placement import Assignments, ReachabilityAssigner, assign_by_vote

NONE = np.full(3, -1, np.int64)  # of three rows, of which none has a cluster


def voted(rows: np.ndarray, away: np.ndarray) -> Assignments:
    return assign_by_vote(rows, away, np.ones_like(away, np.bool_), 2, NONE, NONE)


def reached(rows: np.ndarray, away: np.ndarray) -> Assignments:
    forest = Forest(np.array([0, 1]), np.array([1, 2]), np.array([0.2, 0.4], np.float32))
    return ReachabilityAssigner.from_forest(forest, np.full(3, 0.1, np.float32), NONE, NONE, 1, None).assign(rows, away)


@pytest.mark.parametrize("assigned", [voted, reached])
def test_where_nobody_has_a_home_a_new_row_has_none_of_any_strength(assigned) -> None:  # type: ignore[no-untyped-def]
    found = assigned(np.array([[0, 1, 2]]), np.array([[0.1, 0.2, 0.3]], np.float32))
    expected = {"label": [-1], "strength": [0], "home": [-1], "home_strength": [0]}
    assert {name: column.tolist() for name, column in found.items()} == expected
