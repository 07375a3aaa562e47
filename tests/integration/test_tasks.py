"""Many tasks of a stage on a real Ray: their order, what stays on its node, and their end when the stage ends."""

from __future__ import annotations

import gc
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import ray

from clustering.errors import StageError, StoreError
from clustering.monitoring.usage import Usage
from clustering.workers.nodes import avoiding_refused, forget_refused_nodes, refuse_node
from clustering.workers.pool import Item, map_parts
from clustering.workers.tasks import (
    HERE,
    IN_TASKS,
    Mapper,
    collect,
    map_tasks,
    run_concurrently,
    run_on_one_node,
    submit,
    submit_pieces,
)

pytestmark = [pytest.mark.ray, pytest.mark.full]


def _slow_when_even(number: int) -> int:
    time.sleep(0.2 * (number % 2 == 0))
    return number


def test_results_come_in_the_order_of_the_calls_with_few_at_a_time(local_ray: None) -> None:
    begun: list[int] = []

    def calls() -> Iterator[tuple[int]]:
        for number in range(7):
            begun.append(number)
            yield (number,)

    ahead = [(result, len(begun)) for result in map_tasks(_slow_when_even, calls(), most=3)]
    assert [result for result, _ in ahead] == list(range(7))
    assert [count for _, count in ahead] == [3, 4, 5, 6, 7, 7, 7]


def _cut(shared: np.ndarray, first: int) -> tuple[int, np.ndarray]:
    return first, shared[first : first + 3]


def _sum(kept: Any, more: int) -> int:
    return int(collect(kept).sum()) + more


class CyclicWorker:
    """One that no count of references frees."""

    alive: ClassVar[weakref.WeakSet[CyclicWorker]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.own = self
        self.alive.add(self)

    def __call__(self, item: Item) -> Item:
        return _look()


def _look() -> Item:
    """What a collection of this process walks over, and which workers it has left."""
    return {"walked": len(gc.get_objects()), "alive": len(CyclicWorker.alive), "process": os.getpid()}


def test_a_collection_walks_over_no_modules_and_frees_the_worker_of_an_only_item(local_ray: None) -> None:
    (made,) = map_parts(CyclicWorker, [{}])
    assert made["alive"] == 1
    assert made["walked"] < 20_000 < len(gc.get_objects())
    for _ in range(20):
        later = collect(ray.get(submit(_look)))
        assert later["walked"] < 20_000
        if later["process"] == made["process"]:
            break
    assert (later["process"], later["alive"]) == (made["process"], 0)


@pytest.mark.parametrize("mapper", [HERE, IN_TASKS])
def test_a_value_that_stays_is_given_to_a_later_call(local_ray: None, mapper: Mapper) -> None:
    shared = mapper.share(np.arange(9))
    kept = list(mapper.map(_cut, [(shared, first) for first in (0, 3, 6)], keep=True))
    assert [told for told, _ in kept] == [0, 3, 6]
    assert list(mapper.map(_sum, [(value, told) for told, value in kept])) == [3, 15, 27]


def test_what_a_single_task_starts_keeps_away_from_refused_nodes(local_ray: None) -> None:
    refuse_node("blind")
    try:
        assert run_on_one_node(avoiding_refused) == {"label_selector": {"ray.io/node-id": "!in(blind)"}}
    finally:
        forget_refused_nodes()
    assert run_on_one_node(avoiding_refused) == {}  # perhaps by the same worker


def _beat(folder: Path, number: int) -> None:
    if number == 3:
        raise StageError("part 3 is damaged")
    for _ in range(600):
        (folder / f"{number}-{os.getpid()}").touch()
        time.sleep(0.1)


def _beats(folder: Path, numbers: list[int]) -> None:
    list(map_tasks(_beat, [(folder, number) for number in numbers]))


def latest(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.iterdir())


def until_started(folder: Path, many: int = 1) -> None:
    deadline = time.monotonic() + 300
    while len(list(folder.iterdir())) < many:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_silent(folder: Path) -> None:
    """No task has left its mark for a while."""
    deadline = time.monotonic() + 45  # of the minute that a task would work
    while time.time() - latest(folder) < 2:
        assert time.monotonic() < deadline, "its tasks work on"
        time.sleep(0.2)


def test_a_task_that_fails_ends_the_others(local_ray: None, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(StageError, match=r"^part 3 is damaged$"):
        run_on_one_node(_beats, tmp_path, [3, 0, 1])
    assert time.monotonic() - begun < 50  # they would have worked for 60 s
    if any(tmp_path.iterdir()):
        assert_silent(tmp_path)


def test_a_stage_that_fails_ends_the_tasks_of_a_stage_beside_it(local_ray: None, tmp_path: Path) -> None:
    def block() -> None:
        until_started(tmp_path)
        raise StoreError("no answer")

    with (
        pytest.raises(StoreError, match="no answer"),
        run_concurrently(lambda: run_on_one_node(_beats, tmp_path, [0, 1, 2])),
    ):
        block()
    assert_silent(tmp_path)


def test_a_stage_that_fails_ends_the_tasks_that_the_driver_has_started_beside_it(
    local_ray: None, tmp_path: Path
) -> None:
    def fails() -> None:
        until_started(tmp_path)
        raise StageError("no map")

    def block() -> None:
        assert collect(ray.get(submit(_sum, (np.arange(3), Usage()), 1))) == 4  # this one is done before
        waiting = [submit(_beat, tmp_path, 0), *submit_pieces(2, _beat, tmp_path, 1)]
        ray.get(waiting)

    begun = time.monotonic()
    with pytest.raises(StageError, match="no map"), run_concurrently(fails):
        block()
    assert time.monotonic() - begun < 55  # they would have worked for 60 s
    assert_silent(tmp_path)


def test_tasks_of_two_stages_are_in_flight_at_once(local_ray: None, tmp_path: Path) -> None:
    def stage(first: int) -> Any:
        return run_on_one_node(_sums, first)

    found: list[Any] = []
    with run_concurrently(lambda: found.append(stage(0))):
        other = stage(100)
    assert (found, other) == ([sum(range(20))], sum(range(100, 120)))


def _sums(first: int) -> int:
    return sum(map_tasks(_slow_when_even, [(number,) for number in range(first, first + 20)]))
