"""The requests to an object store that a run makes, by stage, process and verb, and the time that they wait.

    python -m benchmarks.requests --output benchmarks/results/requests.json

Runs lie in a local S3 server (moto), with parts of as many rows as a case says. A case with blocks takes the ways of
a large run: several blocks of the graph, tasks for some parts each, a sampled map, labels in a folder. The server lets
each request wait as long as an object store does (20 ms HEAD, 60 ms PUT, 35 ms others). A process waits while at least
one of its requests does. Further words override the configuration, such as the address of a Milvus server.

At the end a formula is fitted to all cases: fixed + a parts + b row groups + c blocks of the graph.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from clustering.sample import write_sample

LATENCY_S = {"HEAD": 0.020, "GET": 0.035, "LIST": 0.035, "PUT": 0.060}
# Tasks of which a stage has one; other workers share out the work of their stage.
SINGLE = ("_number_alone", "read_rows", "partition_centers", "_place_rows", "_build", "_diffused_forest", "_cluster",
          "_describe_alone", "_write_clusters", "_languages", "_join_words", "_project", "_plot",
          "_write_file")  # fmt: skip
BESIDE = ("_project", "_cut_sample", "_two_steps", "_place_first", "_place_waiting", "_write_coords", "_project_rows")


CASES = ["200000/8192", "200000/65536"]
ALONE = ["16384/8192", "40960/8192", "40960/65536"]
SHARED = ["16384/8192/3", "40960/8192/3", "40960/65536/3", "16384/8192/12"]


@dataclass(frozen=True)
class Case:
    """A run: the rows of a part, and whether it takes the ways of a large run."""

    rows: int
    limit: int  # of records
    blocks: int = 0  # of the graph, in a run that goes the ways of a large one


@dataclass(frozen=True)
class Request:
    begun: float
    verb: str
    key: str  # below the run directory
    process: str  # a title


class CountingStore:
    """An S3 server in this process, which notes each request and lets it wait."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        served = DomainDispatcherApplication(create_backend_app)
        self.requests: list[tuple[Request, int]] = []  # with the process' number
        self.driver = 0

        class Handler(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"  # a connection stays, so that its process is looked for once

            def log_request(self, *_: Any) -> None: ...

        def app(environ: dict[str, Any], start_response: Any) -> Any:
            begun = time.time()
            number, title = self.process_of(int(environ["REMOTE_PORT"]))
            verb, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
            listing = verb == "GET" and ("list-type" in query or "prefix=" in query)
            verb = "LIST" if listing else {"POST": "PUT", "DELETE": "PUT"}.get(verb, verb)
            key = "/".join(environ["PATH_INFO"].split("/")[3:])
            self.requests.append((Request(begun, verb, key, title), number))
            time.sleep(max(0.0, begun + LATENCY_S[verb] - time.time()))
            return served(environ, start_response)

        self.server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def uri(self, path: str) -> str:
        port = self.server.server_port
        return f"s3://bucket/{path}?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{port}"

    def process_of(self, port: int) -> tuple[int, str]:
        """The process at the other end of a connection, and its title: a task of Ray, or the driver."""
        local = f":{port:04X}"
        lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        inode = next((line[9] for line in lines if line[1].endswith(local)), "")
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
                if not title.startswith("ray::") and int(folder.name) != self.driver:
                    continue
                for link in (folder / "fd").iterdir():
                    if os.readlink(link) == f"socket:[{inode}]":
                        return int(folder.name), title if title.startswith("ray::") else "driver"
            except OSError:  # it has ended
                continue
        return 0, "unknown"


def run_case(case: Case, words: list[str]) -> None:
    """``covey run`` in this process, with parts of as many rows as the case says."""
    from clustering.kernels import memory
    from clustering.sources import deduplication
    from clustering.stages import describe, plot, project
    from clustering.workers import labels

    deduplication.part_rows = lambda *_: case.rows
    words = [*words, f"read.limit={case.limit}"]
    if case.blocks:  # and tasks of some thousand texts, as a large run has tasks of more
        memory.LEAST_SHARED, memory.MOST_ENTRIES = 1, -(-case.limit * 15 // case.blocks)
        labels.write_labels.__defaults__ = (0, 4096)
        describe.describe_clusters.__defaults__ = (4096, 16_384)
        project.project_texts.__defaults__ = plot.plot_map.__defaults__ = (8192,)
        words = [*words, "project.sample=5000"]
    from clustering.cli.main import main

    if main(["run", "--config", "laptop", *words]):
        raise SystemExit(f"the run with parts of {case.rows} rows failed")


def measure(store: CountingStore, case: Case, words: list[str]) -> dict[str, Any]:
    name = f"parts-{case.rows}-{case.limit}-{case.blocks}"
    store.requests.clear()
    child = get_context("spawn").Process(target=run_case, args=(case, [*words, f"run.dir={store.uri(name)}"]))
    child.start()
    store.driver = child.pid or 0
    child.join()
    assert child.exitcode == 0
    return summarise(store, name, case)


def summarise(store: CountingStore, name: str, case: Case) -> dict[str, Any]:
    from clustering.runs.directory import RunDir
    from clustering.runs.index import read_index

    found = list(store.requests)
    run = RunDir(store.uri(name))
    stages = run.manifest["stages"]
    index, records = read_index(run / "texts"), stages["read"]["figures"]["records"]
    groups = sum(-(-part.rows // 8192) for part in index)
    window = {stage: (entry["started"], entry["finished"]) for stage, entry in stages.items()}

    def stage_of(request: Request) -> str:
        if request.key.startswith(("progress.json", ".lock")):
            return "heartbeat"
        if any(request.process.startswith(f"ray::{task}") for task in BESIDE) and request.begun < window["plot"][0]:
            return "project"
        inside = [stage for stage, (first, last) in window.items() if first <= request.begun <= last]
        return ([stage for stage in inside if stage != "project"] or inside or ["between stages"])[0]

    waits: dict[tuple[str, str], dict[int, list[Request]]] = defaultdict(lambda: defaultdict(list))
    for request, number in found:
        task = request.process.removeprefix("ray::").partition(".")[0].partition("(")[0]
        waits[stage_of(request), task][number].append(request)
    lines = []
    for (stage, task), processes in waits.items():
        requests = [request for own in processes.values() for request in own]
        verbs = {verb: sum(request.verb == verb for request in requests) for verb in LATENCY_S}
        lines.append({
            "stage": stage, "process": task, "serial": task == "driver" or task in SINGLE,
            "processes": len(processes), **{verb: count for verb, count in verbs.items() if count},
            "waited_s": round(sum(waited(own) for own in processes.values()), 2),
        })  # fmt: skip
    order = ["between stages", *window, "heartbeat"]
    lines.sort(key=lambda line: (order.index(line["stage"]), line["process"]))
    return {"records": records, "texts": index.rows, "parts": len(index), "groups": groups, "large": bool(case.blocks),
            "blocks": stages["graph"]["figures"].get("blocks", 1), "lines": lines}  # fmt: skip


def waited(requests: list[Request]) -> float:
    """Seconds in which at least one of a process' requests waits."""
    total, end = 0.0, 0.0
    for begun, latency in sorted((request.begun, LATENCY_S[request.verb]) for request in requests):
        total += max(0.0, begun + latency - max(begun, end))
        end = max(end, begun + latency)
    return total


def formulas(cases: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """For runs in single tasks, and shared out, by stage: requests by verb, and the seconds that they wait in one
    process, or in all that share the work. Of each: fixed, and for each part, row group and block."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for way in ("alone", "shared"):
        own = [case for case in cases if case["large"] == (way == "shared")]
        sizes = np.array([[1, case["parts"], case["groups"], case["blocks"]] for case in own], float)
        counts: dict[tuple[str, str], Any] = defaultdict(partial(np.zeros, len(own)))
        for number, case in enumerate(own):
            for line in case["lines"]:
                counts[line["stage"], "serial_s" if line["serial"] else "shared_s"][number] += line["waited_s"]
                for verb in LATENCY_S:
                    counts[line["stage"], verb][number] += line.get(verb, 0)
        found[way] = defaultdict(dict)
        for (stage, what), seen in counts.items():
            if stage != "heartbeat" and seen.any():
                fitted, _ = nnls(sizes, seen)
                found[way][stage][what] = [round(float(one), 3) for one in fitted]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="Parquet file with a column title (default: generated headlines)")
    parser.add_argument("--k", type=int, default=15)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--cases", nargs="+", default=[*CASES, *ALONE, *SHARED], help="records / rows of a part / blocks"
    )
    given, words = parser.parse_known_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "1"}
    store = CountingStore()
    import pyarrow.fs

    s3 = pyarrow.fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{store.server.server_port}", scheme="http", region="us-east-1",
        allow_bucket_creation=True,
    )  # fmt: skip
    s3.create_dir("bucket")
    cases = []
    with tempfile.TemporaryDirectory(prefix="covey-") as folder:
        sample = given.input or Path(folder) / "sample.parquet"
        if not given.input:
            write_sample(sample, 260_000)
        words = [
            f"read.paths={sample}",
            "read.id_column=null",
            "read.near_duplicates=keep",
            "embed.lexical=0",  # what words ask for besides, the plan adds
            f"search.k={given.k}",
            *words,
        ]
        for text in given.cases:
            limit, rows, *blocks = map(int, text.split("/"))
            case = Case(rows, limit, *blocks)
            cases.append(measure(store, case, words))
            print(json.dumps({key: value for key, value in cases[-1].items() if key != "lines"}), flush=True)
            for line in cases[-1]["lines"]:
                print("  ", json.dumps(line))
            if given.output:
                content = {"latency_s": LATENCY_S, "formulas": formulas(cases), "cases": cases}
                given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(formulas(cases), indent=1))


if __name__ == "__main__":
    main()
