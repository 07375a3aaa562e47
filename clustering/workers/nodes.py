"""Ray's view of the cluster in; its nodes, what is free on them, and how many actors they have room for, out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clustering.errors import ConfigError, CoveyError
from clustering.runs.directory import RunDir

log = logging.getLogger("covey")
ANSWER_TIMEOUT_S = 5  # for Ray's head to say what is free
MAX_BUNDLES = 2000  # that one process asks for
RENEW_S = 60  # after which the same wish is sent again
Bundle = dict[str, float]
_wishes: dict[int, list[Bundle]] = {}  # of the pools of this process
_changing = threading.Lock()
_refused: set[str] = set()  # ids of nodes that do not see the run directory
_asked: set[str] = set()  # ids of nodes that have said whether they do
_watched: tuple[RunDir, str] | None = None  # the run directory that tasks must see, and its id
_seen: set[str] = set()  # ids of run directories that this process has seen


@dataclass(frozen=True)
class Node:
    """A live node that takes work; its memory is what Ray gives to tasks, without the object store."""

    id: str
    address: str
    cpus: int
    gpus: float
    memory_bytes: int


@dataclass(frozen=True)
class FreeResources:
    """The part of a node that nobody holds."""

    cpus: float
    memory_bytes: int
    gpus: float = 0


def live_nodes() -> list[Node]:
    """Every live node with a core for work that is not refused; the head of a cluster often has none."""
    return [
        Node(
            node["NodeID"], node["NodeManagerAddress"], int(has["CPU"]), float(has.get("GPU", 0)),
            int(has.get("memory", 0)),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and (has := node["Resources"]).get("CPU", 0) >= 1
        and node["NodeID"] not in _refused
    ]  # fmt: skip


def own_node_id() -> str:
    """The id of the node on which this process works."""
    return str(ray.get_runtime_context().get_node_id())


def own_address() -> str:
    """The address of that node, which may be a cluster's head without a core for work."""
    own, nodes = own_node_id(), ray.nodes()  # type: ignore[no-untyped-call]
    return next((str(node["NodeManagerAddress"]) for node in nodes if node["NodeID"] == own), "")


def free_resources(nodes: list[Node]) -> dict[str, FreeResources]:
    """The free resources of each node, by id, as Ray's head says; it learns of changes a moment later.

    A node of which the head says nothing counts as free.
    """
    free = {node.id: FreeResources(node.cpus, node.memory_bytes, node.gpus) for node in nodes}
    if (status := _cluster_status()) is not None:
        for node in status.active_nodes + status.idle_nodes:
            if node.node_id in free and node.resource_usage:
                left = {item.resource_name: item.total - item.used for item in node.resource_usage.usage}
                free[node.node_id] = FreeResources(left.get("CPU", 0), int(left.get("memory", 0)), left.get("GPU", 0))
    return free


def coming_nodes() -> int | None:
    """How many nodes an autoscaler is starting; None where there is none, or it does not say (that of version 1)."""
    status = _cluster_status()
    if status is None or status.stats.autoscaler_version in (None, "", "0"):
        return None
    return len(status.pending_nodes) + sum(int(launch.count) for launch in status.pending_launches)


def _cluster_status() -> Any:
    """What Ray's head says of nodes and autoscaler; None where it does not answer.

    Ray's public calls tell what is free in the whole cluster (ray.available_resources) and how large each node is
    (ray.nodes), but not what is free on a node, nor what comes. This one, of `ray status`, is not marked as public.
    """
    try:
        from ray.autoscaler.v2.sdk import get_cluster_status

        return get_cluster_status(ray.get_runtime_context().gcs_address, timeout=ANSWER_TIMEOUT_S)
    except Exception as error:  # another release of Ray may raise anything; the sizes suffice
        log.debug("the free resources of the nodes are not known: %s", error)
        return None


def obtainable_nodes(before: list[dict[str, Any]]) -> tuple[int, int]:
    """How many nodes can be had, and the memory of the smallest in bytes, 0 where it is not known.

    They are those that are up with those that the autoscaler starts, or those of the run's plan, of which it may have
    taken some back.
    before : the types of node of the plan, each with count and memory_bytes
    """
    nodes = live_nodes()
    count = max(len(nodes) + (coming_nodes() or 0), sum(kind["count"] for kind in before))
    sizes = [*(node.memory_bytes for node in nodes), *(kind["memory_bytes"] for kind in before)]
    return count, min(filter(None, sizes), default=0)


def node_affinity(node: Node) -> NodeAffinitySchedulingStrategy:
    """The scheduling strategy that runs a task on a node as long as that lives."""
    return NodeAffinitySchedulingStrategy(node.id, soft=True)


def sees_run(run: RunDir, run_id: str) -> bool:
    """Whether this process finds the run directory, with the id that the driver sees there."""
    try:
        return (run / "manifest.json").exists() and run.id == run_id
    except (OSError, CoveyError):  # without rights to a bucket, or without a way to it
        return False


def blind_nodes_problem(run: RunDir, addresses: list[str]) -> str:
    """What is wrong, in words, with nodes that do not find the run directory."""
    shown = ", ".join(addresses[:3]) + (" ..." if len(addresses) > 3 else "")
    return (f"run.dir={run.path} is not the same place on {shown}; take a folder that all nodes share, or a bucket "
            f"(s3://, gs://)")  # fmt: skip


def refuse_node(node_id: str) -> None:
    """Give no more work to a node, which has joined but does not see the run directory."""
    _refused.add(node_id)


def refuse_blind(run: RunDir, blind: dict[str, str], told: str) -> None:
    """Refuse nodes that do not see the run directory, and warn of them.

    blind : the id of each and its address; told : what happens to them, in words
    Raises: ConfigError where no other is up.
    """
    for node_id in blind:
        refuse_node(node_id)
    problem = blind_nodes_problem(run, sorted(set(blind.values())))
    if not live_nodes():
        raise ConfigError([problem])
    log.warning("%s: %s", told, problem)


def watch_run(run: RunDir | None, run_id: str) -> None:
    """From now on, tasks that start here must see this run directory."""
    global _watched
    _watched = (run, run_id) if run else None


def watched_run() -> RunDir | None:
    return _watched[0] if _watched else None


class Origin(NamedTuple):
    """What goes with a task: the node that it comes from, what it must see, and the nodes that get no work.

    A node may join after the last one was asked, and get a task at once; so each task looks for itself.
    """

    node_id: str
    run: RunDir | None
    run_id: str
    refused: tuple[str, ...]

    @classmethod
    def here(cls) -> Origin:
        run, run_id = _watched or (None, "")
        return cls(own_node_id(), run, run_id, tuple(sorted(_refused)))

    def is_seen(self) -> bool:
        """Whether this process sees the run directory; each looks once, and those on the node of origin need not."""
        if self.run is None or self.run_id in _seen or own_node_id() == self.node_id:
            return True
        if sees_run(self.run, self.run_id):
            _seen.add(self.run_id)
            return True
        return False

    def adopt(self) -> None:
        """Let the tasks that this process starts have the same run directory and refused nodes."""
        forget_refused_nodes()  # of an earlier run, whose worker this was
        _refused.update(self.refused)
        watch_run(self.run, self.run_id)

    def refusing_this_node(self) -> Origin:
        """The same without this node, which does not see the run directory.

        Raises: ConfigError where no other is up.
        """
        refused = {*self.refused, own_node_id()}
        if self.run and not any(node.id not in refused for node in live_nodes()):
            raise ConfigError([blind_nodes_problem(self.run, [own_address()])])
        return self._replace(refused=tuple(sorted(refused)))


def forget_refused_nodes() -> None:
    """Before another run directory is used."""
    _refused.clear()
    _asked.clear()
    watch_run(None, "")


def asks_nodes() -> bool:
    """Whether this process has asked nodes for their sight of the run directory; a worker has not."""
    return bool(_asked)


def nodes_to_ask() -> list[Node]:
    """The live nodes that have not been asked whether they see the run directory; the driver's own needs not be."""
    found = [node for node in live_nodes() if node.id not in _asked]
    _asked.update(node.id for node in found)
    return found if _asked - {own_node_id()} else []


def avoiding(node_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """Options that keep a task or an actor away from nodes."""
    listed = ",".join(sorted(node_ids))
    return {"label_selector": {"ray.io/node-id": f"!in({listed})"}} if listed else {}


def avoiding_refused() -> dict[str, dict[str, str]]:
    """Options that keep a task or an actor away from refused nodes."""
    return avoiding(_refused)


def node_cpus() -> int:
    """Cores of the largest node of the cluster."""
    return max((node.cpus for node in live_nodes()), default=1)


def cluster_cpus() -> int:
    """Cores of all nodes of the cluster."""
    return sum(node.cpus for node in live_nodes()) or 1


def cluster_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def room_for(nodes: list[Node], cpus: float, gpus: float = 0, per_node: int | None = None) -> int:
    """How many actors fit on the nodes, with so many GPUs or else cores each, and at most ``per_node`` on each."""
    found = 0
    for node in nodes:
        here = int(node.gpus / gpus) if gpus else int(node.cpus / cpus) if cpus else node.cpus
        found += here if per_node is None else min(here, per_node)
    return found


def cores_of_pool(nodes: list[Node], per_node: int) -> int:
    """The cores of each actor of a pool of at least so many actors on the largest node.

    The most with which the pool uses nine tenths of the cores that it can: small nodes beside a large one have room
    for small actors only.
    """
    most = max(1, max((node.cpus for node in nodes), default=1) // per_node)
    used = [room_for(nodes, cpus) * cpus for cpus in range(1, most + 1)]
    return max(cpus for cpus in range(1, most + 1) if used[cpus - 1] >= 0.9 * max(used))


def cores_of_actors(nodes: list[Node], actors: int) -> int:
    """The most cores that each of so many actors can have on the nodes; 1 at least."""
    most = max((node.cpus for node in nodes), default=1)
    return next((cpus for cpus in range(most, 1, -1) if room_for(nodes, cpus) >= actors), 1)


@dataclass(eq=False)
class Wish:
    """What one pool asks the autoscaler for: so many bundles, with the nodes that are up; none at first."""

    bundle: Bundle
    count: int | None = 0  # None while it is not known whether the last request has come through
    renewed: float = 0  # by ``time.monotonic``, when it is sent again: another job's request may have taken its place

    def ask(self, count: int) -> None:
        """Ask for so many bundles, in the place of what this pool asked for before. A failing request ends no run."""
        if count == self.count and (not count or time.monotonic() < self.renewed):
            return
        self.renewed = time.monotonic() + RENEW_S
        failed, self.count = self.count is None, None
        with _changing:
            _wishes[id(self)] = [self.bundle] * min(count, MAX_BUNDLES)
            if _request(logging.DEBUG if failed else logging.WARNING):  # told once, and tried each time
                self.count = count
            if not count:
                del _wishes[id(self)]


def _request(level: int = logging.WARNING) -> bool:
    """Ask the autoscaler for all that this process wishes, in the place of the last request of any process.

    level : of the message when it cannot be asked; Returns: whether it could
    """
    from ray.autoscaler.sdk import request_resources  # slow to import, and few processes ask

    try:
        request_resources(bundles=[bundle for bundles in _wishes.values() for bundle in bundles][:MAX_BUNDLES])
    except Exception as error:  # of many kinds: the head is busy, or Ray has lost its client of it
        log.log(level, "the autoscaler cannot be asked for nodes (%s); those that are up do the work", error)
        return False
    return True


@contextmanager
def withdrawing_wishes() -> Iterator[None]:
    """Withdraw what a block's tasks have asked the autoscaler for where the block fails; a task that is killed has not.

    A block that ends well sends nothing: Ray has one request for all jobs of a cluster, which may be another's.
    """
    try:
        yield
    except BaseException:
        if ray.is_initialized():
            with _changing:
                _request()
        raise


@contextmanager
def asking_autoscaler(cpus: float, gpus: float) -> Iterator[Wish]:
    """A wish for more nodes with room for actors of such a size; withdrawn at the block's end."""
    wish = Wish({"GPU": gpus} if gpus else {"CPU": cpus})
    try:
        yield wish
    finally:
        wish.ask(0)
