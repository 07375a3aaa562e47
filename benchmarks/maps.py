"""map.html beside the maps of plotly, DataMapPlot and Embedding Atlas: the same texts, one browser, one sitting.

    python -m benchmarks.maps --run DIR --points 1000000 --datamapplot VENV/bin/python --scripts FOLDER \\
        --atlas VENV/bin/embedding-atlas --output benchmarks/results/maps-1m.json

DIR is a finished run. Each page holds the same number of its texts, every text in full or as its program cuts it; that
of DataMapPlot is drawn by the script of ``covey export``, that of Embedding Atlas is served by its own program. FOLDER
holds what DataMapPlot's page takes from the web: the packages deck.gl 9.1, apache-arrow and d3 of npm, unpacked. The
browser is headless Chromium without a GPU (SwiftShader), of 1280 x 800 pixels.

Seconds count from the command to open the page: `ready_s` until the points are drawn as far as the page says so itself,
`search_s` from a word to its hits. `frames_a_second` are those that the page's own thread shows while a mouse pans the
map for some seconds. Memory is that of all the browser's processes, with what they share counted once, afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import clustering
from clustering.config.sections import PlotSection
from clustering.finished.export import DRAW, export_run
from clustering.runs.directory import RunDir
from clustering.stages.plot import _read_places
from clustering.viewer.columns import collect_columns
from clustering.viewer.page import write_page
from clustering.workers.tasks import HERE
from tests.browser.driver import Browser

PATIENCE_S, PANNED_S = 60, 4.0
COUNT = """window.frames_seen = 0;
(function next() { window.frames_seen++; requestAnimationFrame(next); })();"""
WEB = {  # what DataMapPlot's page asks of the web, and where it lies in the packages
    "deck.gl@9.1/dist.min.js": "deck.gl/dist.min.js",
    "apache-arrow@latest/Arrow.es2015.min.js": "apache-arrow/Arrow.es2015.min.js",
    "d3@latest/dist/d3.min.js": "d3/dist/d3.min.js",
}


def write_covey(run: RunDir, points: int, seed: int, folder: Path) -> Path:
    """The page of the product, with that many points."""
    columns = collect_columns(run, PlotSection(points=points), _read_places(run), seed, 131_072, 64, HERE.map)
    path = folder / "covey.html"
    path.write_text("".join(write_page(columns, "map")), encoding="utf-8", newline="")
    return path


def write_plotly(table: pa.Table, folder: Path) -> Path:
    """A scatter of WebGL with a text for each point; colors by cluster."""
    import plotly.graph_objects as go

    figure = go.Figure(
        go.Scattergl(
            x=table["x"].to_numpy(), y=table["y"].to_numpy(), text=table["text"].to_pylist(), mode="markers",
            marker={"size": 3, "color": table["label"].to_numpy(), "colorscale": "Rainbow"}, hoverinfo="text",
        ),
        layout={"dragmode": "pan", "uirevision": 1},
    )  # fmt: skip
    path = folder / "plotly.html"
    figure.write_html(path, include_plotlyjs=True, post_script="window.drawn = true")
    return path


def write_datamapplot(folder: Path, python: str, scripts: Path) -> Path:
    """What the script of ``covey export --to datamapplot`` draws, with the scripts of the web beside it."""
    (folder / "draw.py").write_text(DRAW, encoding="utf-8")
    subprocess.run([python, folder / "draw.py"], check=True)
    path = folder / "map.html"
    page = path.read_text(encoding="utf-8")
    for address, place in WEB.items():
        page = page.replace(f"https://unpkg.com/{address}", (scripts / place).resolve().as_uri())
    path = path.rename(folder / "datamapplot.html")
    path.write_text(page, encoding="utf-8")
    return path


def covey_search(browser: Browser, word: str) -> None:
    browser.run(
        """const e = document.getElementById("query"); e.value = arguments[0]; e.dispatchEvent(new Event("input"))""",
        word,
    )
    browser.wait("document.getElementById('summary').innerText.includes('“')", PATIENCE_S)


def datamapplot_search(browser: Browser, word: str) -> None:
    """Its own function, without the wait for somebody who types, until it is drawn."""
    script = """const [word, done] = arguments; datamap.searchText(word);
        requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)))"""
    browser.ask("POST", "/execute/async", script=script, args=[word])


def look(
    browser: Browser, address: str, ready: str, search: Callable[[Browser, str], None] | None, word: str, drawn: bool
) -> dict[str, Any]:
    """Open a page, pan it, search it; a page that does not answer for PATIENCE_S is not asked for more."""
    figures: dict[str, Any] = {}

    def opened() -> float:
        started = time.perf_counter()
        browser.ask("POST", "/url", url=address)
        browser.wait(ready, PATIENCE_S)
        return round(time.perf_counter() - started, 2)

    def searched() -> float:
        started = time.perf_counter()
        cast("Callable[[Browser, str], None]", search)(browser, word)
        return round(time.perf_counter() - started, 2)

    steps: dict[str, Callable[[], Any]] = {"ready_s": opened}
    if drawn:
        steps["frames_a_second"] = lambda: pan(browser)
    if search:
        steps["search_s"] = searched
    steps["browser_mib"] = lambda: browser_bytes(browser) >> 20
    for name, step in steps.items():
        try:
            figures[name] = step()
        except (AssertionError, OSError):
            figures["no_answer"] = f"{name}: none within {PATIENCE_S} s"
            break
    return figures


def pan(browser: Browser) -> float:
    """Frames a second while the mouse holds the map and moves in a circle."""

    def act(*actions: dict[str, Any]) -> None:
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        browser.ask("POST", "/actions", actions=[mouse])

    time.sleep(2)
    browser.run(COUNT)
    act({"type": "pointerMove", "duration": 0, "x": 840, "y": 400}, {"type": "pointerDown", "button": 0})
    before, started, step, at_once = browser.value("window.frames_seen"), time.perf_counter(), 0, 1
    while (since := time.perf_counter()) - started < PANNED_S:
        angles = [(step + one) / 20 for one in range(at_once)]
        places = [(round(640 + 200 * np.cos(angle)), round(400 + 150 * np.sin(angle))) for angle in angles]
        act(*({"type": "pointerMove", "duration": 15, "x": x, "y": y} for x, y in places))
        step += at_once
        at_once = 30 if time.perf_counter() - since < 0.5 else 1  # few at once where each takes seconds
    frames, seconds = browser.value("window.frames_seen") - before, time.perf_counter() - started
    act({"type": "pointerUp", "button": 0})
    return round(frames / seconds, 1)


def browser_bytes(browser: Browser) -> int:
    """Of all processes below the driver, with shared pages counted once (Linux)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(") ", 1)[1].split()[1])
        except OSError:
            continue
    below = {browser.process.pid}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    total = 0
    for pid in below:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


@contextmanager
def served_atlas(program: str, table: Path, labels: Path, port: int = 5157) -> Iterator[str]:
    command = [program, table, "--text", "text", "--x", "x", "--y", "y", "--labels", labels, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise RuntimeError("embedding-atlas does not answer") from None
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="directory of a finished run")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--word", default="court", help="that is searched")
    parser.add_argument("--datamapplot", help="a Python that has DataMapPlot")
    parser.add_argument("--scripts", type=Path, help="packages of npm that DataMapPlot's page takes from the web")
    parser.add_argument("--atlas", help="the program embedding-atlas")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each page")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    run, found = RunDir(given.run), clustering.open_run(given.run)
    frames: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_run(run, "atlas", folder)
        table = pq.read_table(folder / "texts.parquet")
        kept = np.arange(min(given.points, len(table))) * len(table) // min(given.points, len(table))
        table = table.take(kept)
        pq.write_table(table, folder / "texts.parquet")

        def measure(kind: str, path: Path, address: str, *how: Any) -> None:
            with suppress(AssertionError, OSError), Browser(folder) as browser:  # one that hangs is ended
                browser.ask("POST", "/timeouts", script=1_000 * PATIENCE_S, pageLoad=1_000 * PATIENCE_S)
                frames[kind] = {"mb": round(path.stat().st_size / 1e6, 1), **look(browser, address, *how)}
                print(kind, frames[kind], flush=True)
                if kind == "embedding_atlas":
                    told = "(document.body.innerText.match(/WebGPU is unavailable.*/) ?? ['drawn'])[0]"
                    frames[kind]["map"] = browser.value(told)
                if given.pictures and "no_answer" not in frames[kind]:
                    browser.screenshot(given.pictures / f"{kind}-{len(table)}.png")

        path = write_covey(run, given.points, 0, folder)
        measure("covey", path, path.as_uri(), "document.documentElement.dataset.recalled !== undefined",
                covey_search, given.word, True)  # fmt: skip
        path = write_plotly(table, folder)
        measure("plotly", path, path.as_uri(), "window.drawn", None, given.word, True)
        if given.datamapplot:
            path = write_datamapplot(folder, given.datamapplot, given.scripts)
            hidden = "document.getElementById('loading')?.style.display === 'none'"
            measure("datamapplot", path, path.as_uri(), hidden, datamapplot_search, given.word, True)
        if given.atlas:
            with served_atlas(given.atlas, folder / "texts.parquet", folder / "labels.parquet") as address:
                told = f"document.body.innerText.includes('{len(table):,} points')"
                measure("embedding_atlas", folder / "texts.parquet", address, told, None, given.word, False)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    told = json.dumps({"texts": len(table), "of_run": len(found.labels()), "machine": machine, **frames}, indent=1)
    print(told)
    if given.output:
        given.output.write_text(told + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
