"""workers/graph/halo.py on Ray: shards give each other exactly the rows that their edges name."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import ray
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from clustering.kernels.graph.halo import number_locally
from clustering.kernels.memory import ShardBytes
from clustering.workers.graph.halo import HaloExchange, OneShard, open_shards
from clustering.workers.nodes import free_resources, live_nodes

pytestmark = [pytest.mark.ray, pytest.mark.full]
N_TEXTS, K, ROUNDS = 600, 5, 4


@dataclass
class Lists:
    rows: NDArray[np.int64]
    halo: NDArray[np.int64]
    nearest: NDArray[Any]


def lists() -> NDArray[np.int64]:
    """Mostly near rows; nobody names row 0, and row 1 names none but itself."""
    nearest = (np.arange(N_TEXTS)[:, None] + np.random.default_rng(0).integers(1, 40, (N_TEXTS, K))) % N_TEXTS
    nearest[nearest == 0] = 2
    nearest[1] = 1
    return nearest


def load(owner: NDArray[np.int64], number: int) -> Lists:
    rows = np.flatnonzero(owner == number)
    local, halo = number_locally(rows, lists()[rows].ravel())
    return Lists(rows, halo, local.reshape(-1, K))


def start(shard: Lists) -> NDArray[np.int64]:
    return shard.rows * 7 + 1


def add(shard: Lists, weight: int, table: NDArray[np.int64]) -> NDArray[np.int64]:
    assert len(table) == shard.rows.size + shard.halo.size
    return weight * table[: shard.rows.size] + table[shard.nearest].sum(axis=1)


def with_rows(shard: Lists, values: NDArray[np.int64], table: NDArray[np.int64]) -> Any:
    assert_array_equal(values, table[: shard.rows.size])
    return shard.rows, values


def in_order(one: Any, other: Any) -> Any:
    return [np.concatenate(both) for both in zip(one, other, strict=True)]


def expected() -> NDArray[np.int64]:
    values = np.arange(N_TEXTS) * 7 + 1
    for _ in range(ROUNDS):
        values = 3 * values + values[lists()].sum(axis=1)
    return values


@pytest.mark.parametrize("n_shards", [1, 2, 5, 16])
def test_values_reach_the_shards_that_name_their_rows(local_ray: None, n_shards: int) -> None:
    owner = np.minimum(np.arange(N_TEXTS) * n_shards // N_TEXTS, n_shards - 1)
    owner[owner == 3] = 1  # shard 3 has no rows
    with open_shards(partial(load, owner), n_shards, N_TEXTS, [ShardBytes(1 << 20, 0)] * n_shards) as shards:
        assert isinstance(shards, OneShard if n_shards == 1 else HaloExchange)
        assert shards.n_halo == sum(load(owner, number).halo.size for number in range(n_shards))
        values = shards.exchange(start)
        for _ in range(ROUNDS):
            values = shards.exchange(add, 3, values)
        kept = shards.keep(lambda shard, table: table[: shard.rows.size].copy(), values)
        rows, found = shards.reduce(with_rows, in_order, kept, values)
        each = list(shards.each(with_rows, kept, values))
    assert len(each) == n_shards
    assert_array_equal(np.concatenate([rows for rows, _ in each]), rows)
    assert_array_equal(np.sort(rows), np.arange(N_TEXTS))
    assert_array_equal(found, expected()[rows])


def refuse(shard: Lists) -> None:
    if shard.rows[0]:
        raise ValueError(f"row {shard.rows[0]} is refused")


def test_an_error_of_a_shard_names_its_cause_and_ends_the_actors(local_ray: None) -> None:
    actors: list[Any] = []

    def work() -> None:
        with open_shards(partial(load, np.arange(N_TEXTS) % 2), 2, N_TEXTS, [ShardBytes(0, 0)] * 2) as shards:
            actors.extend(shards.actors)
            shards.exchange(start)
            list(shards.each(refuse))

    with pytest.raises(ValueError, match="row 1 is refused"):
        work()
    assert len(actors) == 2
    for actor in actors:
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(actor.usage.remote())


class Holder:
    def hold(self) -> bool:
        return True


def test_shards_take_no_more_memory_than_is_free(local_ray: None) -> None:
    (node,) = live_nodes()
    holder: Any = ray.remote(Holder).options(memory=node.memory_bytes * 9 // 10).remote()
    ray.get(holder.hold.remote())
    while free_resources([node])[node.id].memory_bytes > node.memory_bytes // 5:
        time.sleep(0.1)  # Ray's head learns of it a moment later
    half = ShardBytes(node.memory_bytes // 2, 0)
    with open_shards(partial(load, np.arange(N_TEXTS) % 2), 2, N_TEXTS, [half, half]) as shards:
        assert sum(values.size for values in shards.each(start)) == N_TEXTS
    ray.kill(holder)
