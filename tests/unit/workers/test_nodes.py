"""How many actors a cluster has room for, and the nodes that it can have."""

from __future__ import annotations

from typing import Any

import pytest
from ray.autoscaler.v2.schema import ClusterStatus, LaunchRequest, NodeInfo, Stats

from clustering.workers import nodes as node_list
from clustering.workers.nodes import (
    Node,
    coming_nodes,
    cores_of_actors,
    cores_of_pool,
    obtainable_nodes,
    room_for,
)

NODES = [Node("a", "10.0.0.1", 16, 2, 0), Node("b", "10.0.0.2", 16, 1, 0), Node("c", "10.0.0.3", 3, 0, 0)]


@pytest.mark.parametrize(
    ("cpus", "gpus", "per_node", "room"),
    [
        (1, 0, None, 35),
        (4, 0, None, 8),
        (16, 0, None, 2),
        (0, 1, None, 3),
        (0, 0.5, None, 6),
        (1, 0, 2, 6),
        (4, 0, 2, 4),
    ],
)
def test_all_nodes_have_room_not_the_largest_alone(cpus: float, gpus: float, per_node: int | None, room: int) -> None:
    assert room_for(NODES, cpus, gpus, per_node) == room


@pytest.mark.parametrize(("actors", "cpus"), [(1, 16), (2, 16), (3, 8), (4, 8), (7, 4), (11, 3), (35, 1), (99, 1)])
def test_a_number_of_actors_shares_the_cores_of_all_nodes(actors: int, cpus: int) -> None:
    assert cores_of_actors(NODES, actors) == cpus
    assert cpus == 1 or room_for(NODES, cpus) >= actors


def test_without_a_node_an_actor_has_a_core() -> None:
    assert room_for([], 1) == 0
    assert cores_of_actors([], 3) == 1


@pytest.mark.parametrize(
    ("sizes", "cpus"),
    [([], 1), ([2], 1), ([4], 1), ([8, 8], 2), ([10], 2), ([64], 16), ([64, *[8] * 10], 8), ([16, 3], 3)],
)
def test_a_pool_uses_the_cores_of_small_nodes_beside_a_large_one(sizes: list[int], cpus: int) -> None:
    assert cores_of_pool([Node(str(number), "", size, 0, 0) for number, size in enumerate(sizes)], 4) == cpus


PENDING = LaunchRequest("", "worker", 3, LaunchRequest.Status.PENDING, 0)
STARTING = NodeInfo("", "worker", "", "10.0.0.4")


@pytest.mark.parametrize(
    ("status", "coming"),
    [
        (None, None),  # Ray's head does not answer
        (ClusterStatus(), None),
        (ClusterStatus(stats=Stats(autoscaler_version="0")), None),
        (ClusterStatus(stats=Stats(autoscaler_version="7")), 0),
        (ClusterStatus([], [], [PENDING], [], [STARTING], stats=Stats(autoscaler_version="7")), 4),
    ],
)
def test_an_autoscaler_tells_how_many_nodes_it_starts(
    status: ClusterStatus | None, coming: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_list, "_cluster_status", lambda: status)
    assert coming_nodes() == coming


@pytest.mark.parametrize(
    ("up", "coming", "before", "found"),
    [
        ([], None, [], (0, 0)),
        ([64], None, [], (1, 64)),
        ([64, 32], 5, [], (7, 32)),
        ([64], None, [{"count": 16, "memory_bytes": 48}], (16, 48)),  # some were taken back
        ([], None, [{"count": 2, "memory_bytes": 48}, {"count": 1, "memory_bytes": 0}], (3, 48)),
        ([32, 32, 32], 0, [{"count": 2, "memory_bytes": 32}], (3, 32)),
    ],
)
def test_nodes_that_can_be_had_need_not_be_up(
    up: list[int], coming: int | None, before: list[dict[str, Any]], found: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(node_list, "live_nodes", lambda: [Node(str(n), "", 4, 0, n) for n in up])
    monkeypatch.setattr(node_list, "coming_nodes", lambda: coming)
    assert obtainable_nodes(before) == found
