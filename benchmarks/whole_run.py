"""The command from start to end: wall time, stages, and the memory of every process, beside another checkout if wanted.

    python -m benchmarks.whole_run --texts 235000    # 200,000 distinct ones
    python -m benchmarks.whole_run --texts 235000 --beside ../older --rounds 2 --here read.near_duplicates=keep \\
        embed.lexical=0
    python -m benchmarks.whole_run --texts 23500 --store embedded --beside ../older --rounds 3 \\
        --here read.near_duplicates=keep embed.lexical=0
    DATACOORD_SEGMENT_MAXSIZE=2048 python -m benchmarks.whole_run --texts 4710000 \\
        --settings search.k=20 read.near_duplicates=keep embed.lexical=0 "store.params={M: 8, efConstruction: 80}" \\
        "search.params={ef: 24}" --output benchmarks/results/whole-run-4m.json
        # 4 million distinct ones, in 90 minutes of a machine that does nothing else: what else runs comes first

The command runs as a user starts it, by default against the packaged Milvus server (extra `server`) and HNSW. The other
checkout has its own `.venv`; the two take turns, and each turn has a server and a directory of its own. What the other
one does not know stands under --here: one that does not fold near-duplicates is compared with them kept. Memory: each
stage's measured peak beside its plan, and the most that any process of each name held, the server's too, as the kernel
counts it, read once a second. The server takes its own settings from the environment, such as the MiB of a segment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from clustering.preflight import versions
from clustering.sample import write_sample
from tests.integration.conftest import ROOT, start_milvus, stop_milvus


class Watch(threading.Thread):
    """Notes the most memory that any process of each name below this one and others held, in MiB."""

    def __init__(self, *others: int) -> None:
        super().__init__(daemon=True)
        self.roots, self.over, self.peaks = {os.getpid(), *others}, threading.Event(), dict[str, int]()

    def __enter__(self) -> dict[str, int]:
        self.start()
        return self.peaks

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(1):
            seen = {}
            for path in Path("/proc").glob("[0-9]*/status"):
                with suppress(OSError):  # it has ended
                    seen[int(path.parent.name)] = dict(line.split(":\t", 1) for line in path.read_text().splitlines())
            below = self.roots & seen.keys()
            while more := {pid for pid, status in seen.items() if int(status["PPid"]) in below} - below:
                below |= more
            for pid in below:
                name, peak = seen[pid]["Name"].strip(), int(seen[pid].get("VmHWM", "0").split()[0]) >> 10
                self.peaks[name] = max(self.peaks.get(name, 0), peak)


def run_once(checkout: Path, sample: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One run by the command of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        run = given.keep or Path(folder, "run")
        words, server = [f"read.paths={sample}", f"run.dir={run}", *given.settings], None
        if given.store == "server":
            server, uri = start_milvus(Path(folder, "milvus"))
            words = [f"store.uri={uri}", "store.index=HNSW", *words]
        if checkout == ROOT:
            words += given.here
        command = [checkout / ".venv/bin/covey", "run", "--config", "cluster_configs/laptop.yaml", *words]
        try:
            started = time.perf_counter()
            with Watch(*([server.pid] if server else [])) as peaks:
                subprocess.run(command, check=True, cwd=checkout)
            wall = time.perf_counter() - started
        finally:
            if server:
                stop_milvus(server)
        manifest, figures = (json.loads((run / f"{name}.json").read_text("utf-8")) for name in ("manifest", "report"))
    return {
        "texts": figures["counts"]["texts"],
        "wall_s": round(wall, 1),
        "stages_s": {name: stage["seconds"] for name, stage in manifest["stages"].items()},
        "memory": {
            name: {
                "peak_mib": stage["figures"]["peak_bytes"] >> 20,
                "planned_mib": manifest["plan"][name]["memory"] >> 20,
            }
            for name, stage in manifest["stages"].items()
        },
        "driver_mib": figures["driver_bytes"] >> 20,
        "process_peaks_mib": dict(sorted(peaks.items(), key=lambda peak: -peak[1])),
        "warnings": figures["warnings"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=260_000)
    parser.add_argument("--store", choices=["server", "embedded"], default="server")
    parser.add_argument("--beside", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--here", nargs="*", default=[], metavar="KEY=VALUE", help="settings of this checkout alone")
    parser.add_argument("--keep", type=Path, help="directory of the run, which stays; else it is a temporary one")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/whole-run.json"))
    given = parser.parse_args()
    checkouts = {"this": ROOT} | ({"beside": given.beside.resolve()} if given.beside else {})
    found: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions()}
    found["settings"] = {"both": given.settings, "here": given.here}
    found["server"] = {name: value for name, value in os.environ.items() if name.startswith("DATACOORD_")}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder, "sample.parquet")
        write_sample(sample, given.texts)
        for _ in range(given.rounds):
            for name, checkout in checkouts.items():
                runs[name].append(run_once(checkout, sample, given) | {"load_afterwards": os.getloadavg()[0]})
                found |= {"runs": runs}
                if given.beside and runs["beside"]:
                    medians = [statistics.median(run["wall_s"] for run in runs[name]) for name in checkouts]
                    found["wall_to_beside"] = round(medians[0] / medians[1], 3)
                given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
