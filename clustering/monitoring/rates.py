"""A configuration, counts and a cluster in; how long each step of a run takes, by measured and published rates, out.

rates.json holds the rates: texts a second at some size, on some cores. A step's seconds grow with its amount of work
and fall with the cores that share it::

    seconds = texts / texts_a_second * amount(wanted) / amount(measured) * cores(measured) / cores(wanted)
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from clustering.config.sections import RunConfig
from clustering.kernels.memory import FILE_RECORDS, MAP_TEXTS
from clustering.monitoring.resources import Counts, NodeType, milvus_bytes

ANOTHER_MACHINE = (0.5, 2.0)  # times the seconds of the machine of a rate, where the rate does not say
PER_DECADE = 1.25  # wider both ways for each factor of ten between the texts of a rate and those of the run
UNLIKE = (0.5, 2.0)  # times the seconds by a rate of another index or card
SERVER_CORE_BYTES, LEAST_SERVER_CORES = 4 << 30, 2  # so much of a server's memory goes with a core
CARD = "H100"  # that embed was measured on
NODE_BYTES_S = 1e9  # that a node moves in a second, to and from the run directory and other nodes
THREADED = ("embed", "forest")  # steps whose workers take several cores each
LAYOUT_CORES = 16  # that the layout of the map makes use of
OWN_ENCODERS = ("static", "minilm", "openai")  # others are taken to be of the size of BGE-M3
GRAPH_INDEXES = ("HNSW", "HNSW_SQ", "AUTOINDEX", "DISKANN", "GPU_CAGRA")
WORKERS = "workers"  # a kind of search: they compare the vectors themselves
# A query is compared with all vectors, or a share of them.
COMPARING_INDEXES = ("FLAT", "IVF_FLAT", "IVF_SQ8", WORKERS)
# The steps of each stage, and what shares them out: the cores of all nodes or of one, one core, GPUs, the server's
# cores, or the collection's shards.
STEPS: dict[str, dict[str, str]] = {
    "read": {"read": "nodes"},
    "embed": {"embed": "nodes"},
    "store": {"insert": "shards", "index": "server"},
    "search": {"search": "server"},
    "graph": {"graph": "nodes"},
    "forest": {"forest": "nodes", "merge": "one"},
    "cluster": {"cluster": "one"},
    "describe": {"describe": "nodes"},
    "project": {"layout": "node", "place": "nodes"},
    "plot": {"plot": "one"},
    "report": {"report": "nodes", "pages": "one"},
}


class Seconds(NamedTuple):
    """An estimate with its spread, and where it comes from."""

    seconds: float
    low: float
    high: float
    sources: tuple[str, ...]

    def plus(self, other: Seconds) -> Seconds:
        """One after the other."""
        sources = tuple(dict.fromkeys((*self.sources, *other.sources)))
        return Seconds(self.seconds + other.seconds, self.low + other.low, self.high + other.high, sources)


@dataclass(frozen=True)
class Rate:
    """How fast a step was, and the size of what it worked on.

    kind : of the encoder, or the index; "": of all
    texts_a_second : records in read and report
    cores : that shared the work; GPUs of embed, shards of insert
    candidates : of a query of a graph index (ef)
    spread : seconds of other machines, times those of this one
    """

    step: str
    texts_a_second: float
    texts: float
    source: str
    kind: str = ""
    cores: float = 1
    dim: int = 256
    k: int = 50
    text_bytes: float = 70.0
    candidates: int = 102
    spread: tuple[float, float] = ANOTHER_MACHINE


@cache
def _content() -> Any:
    return json.loads((Path(__file__).parent / "rates.json").read_text(encoding="utf-8"))


def rates() -> list[Rate]:
    """All rates of the package, those of the same step in their order of trust."""
    return [Rate(**{**line, "spread": tuple(line.get("spread", ANOTHER_MACHINE))}) for line in _content()["rates"]]


def source_words(source: str) -> str:
    """What a source of a rate is: how it was measured, or who published it."""
    return str(_content()["sources"].get(source, source))


def request_formulas(way: str) -> dict[str, dict[str, list[float]]]:
    """By stage: requests to an object store by verb, and seconds that they wait in one process (serial_s) and in all
    that share the work (shared_s). Of each: fixed, and for each part, row group and block of the graph.

    way : alone, for a run whose stages are single tasks; shared, for a large one
    """
    return dict(_content()["requests"][way])


def cards() -> dict[str, float]:
    """TFLOP/s of bf16 (or fp16) of each kind of GPU that the plan knows."""
    return dict(_content()["cards"])


def amount(rate: Rate) -> float:
    """The work of a step on texts of such a size, in a unit of its own: docs/operations.md lists how each grows."""
    texts, log = rate.texts, math.log2(max(rate.texts, 2))
    if rate.step == "index":
        return texts * rate.dim * (math.sqrt(texts) if rate.kind in COMPARING_INDEXES else log)
    if rate.step == "search":
        return texts * rate.dim * (texts if rate.kind in COMPARING_INDEXES else rate.candidates * log)
    factors = {"text_bytes": ("embed", "describe"), "dim": ("insert",), "k": ("graph", "forest", "layout", "place")}
    return texts * math.prod(float(getattr(rate, name)) for name, steps in factors.items() if rate.step in steps)


def wanted(step: str, config: RunConfig, counts: Counts) -> Rate:
    """The size and kind of a step of a run, as a rate without a speed."""
    texts, laid_out = counts.texts, min(counts.texts, config.project.sample or MAP_TEXTS)
    found = Rate(step, 1, texts, "", "", 1, counts.dim, config.search.k, counts.text_bytes, _candidates(config))
    if step == "embed":
        encoder = config.embed.encoder
        on_card = "gpu" if config.embed.gpus_per_actor else "cpu"
        return replace(found, kind=encoder if encoder in OWN_ENCODERS else on_card)
    if step == "search" and config.store.is_searched_by_workers:
        return replace(found, kind=WORKERS)
    if step in ("index", "search"):
        return replace(found, kind=config.store.index_type)
    if step == "insert":
        return replace(found, kind="embedded" if config.store.embedded else "server")
    if step in ("graph", "forest"):
        return replace(found, k=config.graph_k)
    if step == "plot":
        return replace(found, texts=min(texts, config.plot.points) + texts / 20)  # in the page, and read
    if step in ("read", "report"):
        return replace(found, texts=counts.records)
    if step == "pages":  # up to so many records, the rates of report hold it
        return replace(found, texts=counts.records if counts.records > FILE_RECORDS else 0)
    if step == "layout":
        return replace(found, texts=laid_out, k=config.project.n_neighbors)
    return replace(found, texts=texts - laid_out) if step == "place" else found


def _candidates(config: RunConfig) -> int:
    return int(config.search.params.get("ef", max(2 * (config.search.k + 1), 64)))


def cores_of(step: str, config: RunConfig, counts: Counts, cluster: NodeType, at_once: float = math.inf) -> float:
    """The cores that share a step's work; GPUs of embed, shards of insert.

    at_once : tasks of the stage that are at work together
    """
    shared = next(steps[step] for steps in STEPS.values() if step in steps)
    every = cluster.cpus * cluster.count if step in THREADED else min(cluster.cpus * cluster.count, at_once)
    if step == "embed" and config.embed.encoder == "openai":
        return 1
    if step == "embed" and config.embed.gpus_per_actor:
        return max(cluster.gpus * cluster.count, config.embed.gpus_per_actor)
    if shared == "server" or (step == "insert" and config.store.load == "bulk"):
        return cluster.cpus if config.store.embedded else server_cores(config, counts)
    if step == "insert":
        return 1 if config.store.embedded else config.store.shards
    if step == "report" and counts.records <= FILE_RECORDS:
        return 1
    return {"nodes": every, "node": min(cluster.cpus, LAYOUT_CORES), "one": 1}[shared]


def server_cores(config: RunConfig, counts: Counts) -> int:
    """The cores of a Milvus server, which follow from its memory."""
    return max(LEAST_SERVER_CORES, math.ceil(milvus_bytes(config, counts) / SERVER_CORE_BYTES))


def step_seconds(
    step: str, config: RunConfig, counts: Counts, cluster: NodeType, card: str = CARD, at_once: float = math.inf
) -> Seconds:
    """The seconds of a step.

    The estimate is that of the rate of the same kind that is nearest in size. The spread holds the estimates of all
    rates of a like kind.
    card : the GPUs of embed, of ``cards()``; at_once : as for ``cores_of``
    """
    size, cores = wanted(step, config, counts), cores_of(step, config, counts, cluster, at_once)
    if size.texts <= 0 or (step == "index" and size.kind == "FLAT"):
        return Seconds(0, 0, 0, ())
    like = [rate for rate in rates() if rate.step == step and _family(rate.kind) == _family(size.kind)]
    own = [rate for rate in like if rate.kind == size.kind] or like
    known = {rate: _seconds(rate, size, cores) for rate in like}
    nearest = min(own, key=lambda rate: abs(math.log(rate.texts / size.texts)))
    spread = [_spread(rate, size) for rate in like]
    low = min(known[rate] * one for rate, (one, _) in zip(like, spread, strict=True))
    high = max(known[rate] * one for rate, (_, one) in zip(like, spread, strict=True))
    others = [rate.source for rate in like if rate is not nearest]
    found = Seconds(known[nearest], low, high, tuple(dict.fromkeys([nearest.source, *others])))
    if size.kind == "gpu" and card != CARD:
        slower = cards()[CARD] / cards()[card]
        seconds = (found.seconds * slower, found.low * slower * UNLIKE[0], found.high * slower * UNLIKE[1])
        return Seconds(*seconds, (*found.sources, "cards"))
    return found


def moving_seconds(moved: float, nodes: int) -> Seconds:
    """The seconds in which so many nodes move bytes."""
    seconds = moved / (NODE_BYTES_S * nodes)
    return Seconds(seconds, seconds / 3, seconds / 0.3, ("network",) if seconds >= 1 else ())


def card_seconds(config: RunConfig, counts: Counts, cluster: NodeType) -> dict[str, float]:
    """The seconds of embed on each kind of GPU."""
    return {card: step_seconds("embed", config, counts, cluster, card).seconds for card in cards()}


def _seconds(rate: Rate, size: Rate, cores: float) -> float:
    same = replace(rate, kind=size.kind)  # measured as if it were of the kind that is wanted
    return rate.texts / rate.texts_a_second * amount(size) / amount(same) * rate.cores / cores


def _spread(rate: Rate, size: Rate) -> tuple[float, float]:
    wider = PER_DECADE ** abs(math.log10(size.texts / rate.texts))
    low, high = UNLIKE if rate.kind != size.kind else (1.0, 1.0)
    return rate.spread[0] * low / wider, rate.spread[1] * high * wider


def _family(kind: str) -> str:
    """Kinds that tell something of each other's speed."""
    if kind in GRAPH_INDEXES:
        return "graph"
    return "lists" if kind.startswith("IVF") else kind
