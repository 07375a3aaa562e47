"""Where shards are placed, and what is asked of an autoscaler where they have no room."""

from __future__ import annotations

import pytest

from clustering.kernels.memory import ShardBytes, process_bytes
from clustering.workers.graph import halo
from clustering.workers.graph.halo import HaloExchange
from clustering.workers.nodes import FreeResources, Node, Wish

GIB = 1 << 30
SHARDS = [ShardBytes(5 * GIB, 2 * GIB)] * 4


class Cluster:
    """Nodes of 16 GiB, of which an autoscaler starts one each time that somebody looks, up to so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, up: int, most: int | None) -> None:
        self.up, self.most, self.asked, self.looks = up, most, [], 0
        monkeypatch.setattr(halo, "live_nodes", self.nodes)
        monkeypatch.setattr(halo, "free_resources", lambda nodes: {one.id: FreeResources(4, 16 * GIB) for one in nodes})
        monkeypatch.setattr(halo, "coming_nodes", self.coming)
        monkeypatch.setattr(Wish, "ask", lambda wish, count: self.asked.append((wish.bundle, count)))
        monkeypatch.setattr(halo, "LOOK_EVERY_S", 0)
        monkeypatch.setattr(halo, "AUTOSCALER_S", 0)

    def nodes(self) -> list[Node]:
        return [Node(str(number), f"10.0.0.{number}", 4, 0, 16 * GIB) for number in range(self.up)]

    def coming(self) -> int | None:
        self.looks += 1
        if self.most is None:
            return None
        found = self.most - self.up
        self.up += found > 0
        return found

    def room(self) -> list[int]:
        """How many shards each node gets."""
        HaloExchange(len(SHARDS), SHARDS)._make_room()
        return [place.shards for place in halo._placed(SHARDS)[0]]


def test_shards_with_room_ask_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, up=2, most=9)
    assert cluster.room() == [2, 2]
    assert (cluster.asked, cluster.looks) == ([], 0)


def test_shards_without_room_wait_for_the_nodes_that_an_autoscaler_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, up=1, most=9)
    assert cluster.room() == [2, 2]
    assert set(map(str, cluster.asked)) == {str(({"memory": process_bytes(SHARDS[:1])}, 4))}


def test_what_is_asked_for_is_withdrawn_when_no_actor_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, up=1, most=9)

    def fails() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(halo, "coming_nodes", fails)
    with pytest.raises(KeyboardInterrupt), halo.open_shards(str, 4, 100, SHARDS):
        pass
    assert [count for _, count in cluster.asked] == [4, 0]


@pytest.mark.parametrize("most", [None, 1])
def test_where_no_node_comes_shards_go_where_most_is_free(most: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, up=1, most=most)
    assert cluster.room() == [4]
    assert cluster.looks == 1
