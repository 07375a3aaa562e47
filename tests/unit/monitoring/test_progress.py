"""progress.py, plan.py and status.py: what is reported of a run at work, before it, and from another shell."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clustering.cli.main import JsonLines, main
from clustering.config.loading import build_config
from clustering.errors import ConfigError, StageError
from clustering.monitoring import metrics, progress
from clustering.monitoring.capacity import check_fits, estimates_by_node_type, group_node_types
from clustering.monitoring.metrics import METRICS
from clustering.monitoring.plan import plan_entries
from clustering.monitoring.progress import StageProgress, format_duration, progress_line
from clustering.monitoring.resources import Counts, NodeType, StageEstimate, estimate_stages
from clustering.monitoring.status import status_lines
from clustering.monitoring.times import calibration_of, calibrations_beside, cost_of, estimate_seconds
from clustering.monitoring.usage import Usage, charge, measure
from clustering.runs.directory import RunDir
from clustering.runs.inventory import PROGRESS, STAGE_ARTEFACTS
from clustering.runs.storage import write_json

ROOT = Path(__file__).resolve().parents[3]
MACHINE = NodeType(cpus=4, gpus=2, memory_bytes=8 << 30)
COUNTS = Counts(texts=1_000_000, records=1_200_000, dim=256, text_bytes=60.0)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Metrics are kept here instead of being handed to Ray."""
    seen: dict[str, float] = {}

    class Gauge:
        def __init__(self, name: str) -> None:
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == {"run", "stage"}
            seen[self.name] = value

    monkeypatch.setattr(progress, "gauge", Gauge)
    return seen


# --- what work uses ---


def test_what_a_task_uses_is_charged_to_who_asked_for_it() -> None:
    def child() -> int:
        return sum(range(2_000_000))

    def parent() -> int:
        charge(Usage(peak_bytes=1 << 50, cpu_seconds=100, gpu_seconds=3))
        return child()

    result, usage = measure(parent)
    assert result == sum(range(2_000_000))
    assert usage.peak_bytes == 1 << 50
    assert 100 < usage.cpu_seconds < 110
    assert usage.gpu_seconds == 3
    charge(usage)  # nobody asked: lost, and no error


# --- a stage at work ---


def test_progress_tells_how_far_how_fast_and_what_is_left(run: RunDir, quiet: dict[str, float]) -> None:
    at_work = StageProgress(run, "news", "embed")
    at_work.expect(10, gpus=2)
    at_work.since = time.time() - 20  # not counted from before the write, which may take its time
    at_work.usage.gpu_busy_seconds = 10
    at_work.written = 0
    at_work.advance({"rows": 4000, "retries": 1})
    told = json.loads((run / PROGRESS).read_text())
    assert (told["stage"], told["done"], told["total"]) == ("embed", 1, 10)
    assert told["rows_per_second"] == pytest.approx(200, rel=0.05)
    assert told["left_s"] == pytest.approx(180, rel=0.05)
    assert quiet["covey_rows_per_second"] == pytest.approx(200, rel=0.05)
    assert quiet["covey_gpu_idle_ratio"] == pytest.approx(0.75, rel=0.05)
    assert quiet["covey_retries"] == 1
    assert progress_line(told) == "embed: 1 of 10 parts (10%), 200 rows a second, 3 min left"


def test_a_stage_without_parts_tells_that_it_is_at_work(
    run: RunDir, quiet: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(progress.log, "info", lambda line, *words, **_: told.append(line % words))
    monkeypatch.setattr(progress, "WRITE_EVERY_S", 0.01)
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.05)
    monkeypatch.setattr(metrics.ray, "cluster_resources", dict)
    expected = {"embed": 7.0, "graph": 600.0, "forest": 6000.0}
    progress.track_stage(run, "news", "graph", lambda: time.sleep(0.5) or {}, expected)
    assert len(told) > 2
    assert set(told) <= {f"graph: at work for {n} s, 10 min left, of the run about 1.8 h" for n in (0, 1)}
    written = json.loads((run / PROGRESS).read_text())
    assert written["left_s"] == pytest.approx(600, abs=2)
    assert written["run_left_s"] == pytest.approx(6600, abs=2)


def test_progress_is_written_seldom_and_told_more_seldom(run: RunDir, quiet: dict[str, float], caplog: Any) -> None:
    at_work = StageProgress(run, "news", "embed")
    at_work.expect(1000)
    first = (run / PROGRESS).read_text()
    for _ in range(500):
        at_work.advance({"rows": 1})
    assert (run / PROGRESS).read_text() == first


def test_a_stage_never_waits_for_the_write_of_its_progress(run: RunDir, quiet: dict[str, float]) -> None:
    at_work = StageProgress(run, "news", "embed")
    at_work.expect(10)
    with at_work.reporting_regularly():  # every two seconds, by a thread
        at_work.written = 0
        at_work.advance({"rows": 1})
        at_work.step("segments", 1, 2)
        assert json.loads((run / PROGRESS).read_text())["done"] == 0
    at_work.written = 0
    at_work.advance({"rows": 1})
    assert json.loads((run / PROGRESS).read_text())["done"] == 2


def test_stages_in_two_threads_each_tell_their_own_and_progress_holds_both(
    run: RunDir, quiet: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics.ray, "cluster_resources", dict)
    both = threading.Barrier(2)

    def work(stage: str) -> Any:
        both.wait(10)
        seen = progress.current_stage()
        assert seen is not None
        seen.expect(7 if stage == "graph" else 9)
        seen.advance({"rows": 1})
        charge(Usage(gpu_seconds=7 if stage == "graph" else 9))
        seen.written = 0
        both.wait(10)
        seen.report()
        both.wait(10)
        return {"told": json.loads((run / PROGRESS).read_text())}

    def watched(stage: str) -> dict[str, Any]:
        return progress.track_stage(run, "news", stage, lambda: work(stage))

    with ThreadPoolExecutor(2) as pool:
        graph, project = pool.map(watched, ["graph", "project"])
    for found in (graph, project):
        told = {one["stage"]: one["total"] for one in (found["told"], *found["told"]["beside"])}
        assert told == {"graph": 7, "project": 9}
    assert (graph["used"]["gpu_seconds"], project["used"]["gpu_seconds"]) == (7, 9)
    assert progress.current_stage() is None


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), StageError("no bucket"), ValueError("odd")])
def test_progress_that_cannot_be_written_is_told_once_and_ends_no_run(
    error: Exception, run: RunDir, quiet: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    told: list[str] = []
    monkeypatch.setattr(metrics.log, "warning", lambda line, *words: told.append(line % words))
    monkeypatch.setattr(metrics, "_warned", set())
    monkeypatch.setattr(progress, "write_json", fails)
    monkeypatch.setattr(metrics.ray, "cluster_resources", fails)
    monkeypatch.setattr(progress, "gauge", fails)
    monkeypatch.setattr(progress, "WRITE_EVERY_S", 0)

    def work() -> Any:
        seen = progress.current_stage()
        assert seen is not None
        seen.expect(2)
        seen.advance({"rows": 1})
        return {"rows": 2}

    assert progress.track_stage(run, "news", "embed", work)["rows"] == 2
    name = type(error).__name__
    assert told == [
        f"progress.json cannot be written, so `covey status` tells less; the run goes on ({name}: {error})",
        f"metrics for Prometheus cannot be set; the run goes on ({name}: {error})",
        f"the cluster's size is not known; the run goes on ({name}: {error})",
    ]


def test_what_a_stage_waits_for_is_its_progress(run: RunDir) -> None:
    at_work = StageProgress(run, "news", "graph")
    at_work.waits = "waits for 1 core on one node"
    assert progress_line(at_work.figures()) == "graph: waits for 1 core on one node"


def test_a_stage_that_meets_a_full_disk_says_how_to_go_on(run: RunDir, quiet: dict[str, float]) -> None:
    def full() -> Any:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        StageError, match=r"embed: .*No space left.*the same command goes on from the last finished part"
    ):
        progress.track_stage(run, "news", "embed", full)
    assert progress.current_stage() is None


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (150, "2 min"), (9000, "2.5 h")])
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


def test_a_json_line_holds_time_level_message_and_fields() -> None:
    record = logging.LogRecord("covey", logging.INFO, "", 0, "read: %d", (3,), None)
    record.fields = {"event": "stage_finished", "stage": "read"}
    line = json.loads(JsonLines().format(record))
    assert line == {"time": round(record.created, 3), "level": "info", "message": "read: 3", "event": "stage_finished",
                    "stage": "read"}  # fmt: skip


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    board = json.loads((ROOT / "cluster_configs/grafana.json").read_text(encoding="utf-8"))
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    assert set(re.findall(r"ray_(covey_\w+)", asked)) == set(METRICS)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


# --- what a run will need ---


def test_a_run_that_cannot_fit_is_refused_with_two_numbers_and_what_to_change() -> None:
    embed, graph = StageEstimate("embed", 6 << 30, 2, 0), StageEstimate("graph", 9 << 30, 1, 0)
    with pytest.raises(ConfigError) as error:
        check_fits([(MACHINE, embed), (MACHINE, graph), (MACHINE, StageEstimate("plot", 1 << 30, 1, 0))])
    assert error.value.problems == [
        "embed needs 2 x 6.0 GiB = 12.0 GiB of memory on a node, and one of 4 cores and 2 GPU has 8.0 GiB for work: "
        "take a larger one, or lower embed.actors or embed.tokens_per_batch (run.check=false tries it all the same)",
        "graph needs 9.0 GiB of memory on a node, and one of 4 cores and 2 GPU has 8.0 GiB for work: take a larger "
        "one, or lower search.k or graph.k (run.check=false tries it all the same)",
    ]
    check_fits([(NodeType(4, memory_bytes=12 << 30), embed)])
    check_fits([(NodeType(4), graph)])  # nothing is known of the nodes


def test_each_kind_of_node_is_planned_for() -> None:
    """Two large nodes for work, four small ones with a GPU: who embeds is compared with the small ones."""
    large, small = (16, 0.0, 96 << 30), (4, 1.0, 11 << 30)
    machines = group_node_types([small, large, (4, 1.0, (11 << 30) + 5000), small, small, (16, 0.0, (96 << 30) - 7000)])
    assert machines == [NodeType(16, 0, (96 << 30) - 7000, 2), NodeType(4, 1, 11 << 30, 4)]
    assert [str(kind) for kind in machines] == ["16 cores", "4 cores and 1 GPU"]
    config = build_config({"embed": {"encoder": "bge-m3", "gpus_per_actor": 1},
                           "store": {"uri": "http://m:19530"}, "search": {"actors": 8}})  # fmt: skip
    placed = estimates_by_node_type(config, COUNTS, machines)
    on = {stage: [str(kind) for kind, need in placed if need.stage == stage] for stage in STAGE_ARTEFACTS}
    both = [str(kind) for kind in machines]
    assert on == dict.fromkeys(STAGE_ARTEFACTS, both[:1]) | dict.fromkeys(("read", "store", "search"), both) | {
        "embed": both[1:]
    }
    processes = plan_entries(config, COUNTS, placed)["search"]["processes"]
    assert processes == {"16 cores": 8, "4 cores and 1 GPU": 4}
    check_fits(placed)
    with pytest.raises(ConfigError, match=r"embed needs .* and one of 4 cores and 1 GPU has 2\.0 GiB for work"):
        check_fits(estimates_by_node_type(config, COUNTS, group_node_types([large, (4, 1.0, 2 << 30)])))


def test_one_process_numbers_what_many_have_read() -> None:
    counts = Counts(texts=100_000_000, records=100_000_000, dim=256, text_bytes=60.0)
    read = estimate_stages(build_config({}), counts, NodeType(64))[0]
    assert read.node_bytes == max(read.memory_bytes, 64 * 300 << 20)
    small = estimate_stages(build_config({}), COUNTS, NodeType(64))[0]
    assert str(small) == "64 x 300 MiB = 18.8 GiB"


def test_the_graphs_own_k_is_planned_with() -> None:
    wide = build_config({"search": {"k": 50}})
    narrow = build_config({"search": {"k": 50}, "graph": {"k": 10}})
    needs = [
        {need.stage: need.memory_bytes for need in estimate_stages(one, COUNTS, MACHINE)} for one in (wide, narrow)
    ]
    assert needs[1]["graph"] < needs[0]["graph"] / 2
    assert needs[1]["search"] == needs[0]["search"]


def test_actors_on_one_node_are_counted() -> None:
    config = build_config({"embed": {"encoder": "static", "actors": 8, "gpus_per_actor": 0.5},
                           "store": {"uri": "http://server:19530"}, "search": {"actors": 3}})  # fmt: skip
    processes = {need.stage: need.processes for need in estimate_stages(config, COUNTS, MACHINE)}
    assert processes == {"read": 4, "embed": 4, "store": 2, "search": 3} | dict.fromkeys(
        ("graph", "forest", "cluster", "describe", "project", "plot", "report"), 1
    )


def finished_run(folder: Path, texts: int, **seconds: float) -> RunDir:
    """A directory that holds what a finished run says of itself."""
    run, config = RunDir(folder), build_config({"embed": {"encoder": "static"}})
    figures: dict[str, dict[str, Any]] = {name: {} for name in STAGE_ARTEFACTS}
    figures["read"] = {"texts": texts, "records": texts, "text_bytes": 50 * texts}
    figures["embed"] = {"dim": 256}
    figures["search"] = {"index": "FLAT", "k": 50, "used": {"cpus": 2, "gpus": 1}}
    stages = {
        name: {"fingerprint": "0" * 16, "started": 0.0, "finished": 1.0, "seconds": seconds.get(name, 2.0),
               "figures": figures[name]}
        for name in STAGE_ARTEFACTS
    }  # fmt: skip
    write_json(run / "manifest.json", {"id": "0" * 12, "stages": stages, "config": config.as_dict()})
    return run


def test_finished_runs_tell_how_long_a_larger_one_will_take(tmp_path: Path) -> None:
    config = build_config({"embed": {"encoder": "static"}, "run": {"prices": {"cpu_hour": 0.1, "gpu_hour": 2}}})
    known = calibration_of(finished_run(tmp_path / "one", 10_000, embed=11.0, search=21.0))
    assert known is not None
    counts = Counts(100_000, 100_000, 256, 50)
    assert estimate_seconds("embed", config, counts, known) == pytest.approx(1 + 10 * 10)
    assert estimate_seconds("search", config, counts, known) == pytest.approx(1 + 20 * 10 * 10)  # each with each
    other = build_config({"embed": {"encoder": "minilm"}})
    assert estimate_seconds("embed", other, counts, known) is None
    small = calibration_of(finished_run(tmp_path / "small" / "run", 1_000, embed=11.0))
    assert small is not None
    assert estimate_seconds("embed", config, Counts(10_000, 10_000, 256, 50), small) == pytest.approx(1 + 10 * 10)
    assert estimate_seconds("embed", config, counts, small) is None, "its seconds are those of starts"
    assert cost_of(3600, known.used, config) == pytest.approx(2 * 0.1 + 2)
    assert cost_of(3600, known.used, other) is None
    unfinished = finished_run(tmp_path / "two", 10)
    manifest = unfinished.manifest
    del manifest["stages"]["report"]
    write_json(unfinished / "manifest.json", manifest)
    assert [one.path for one in calibrations_beside(RunDir(tmp_path / "new"))] == [str(tmp_path / "one")]
    with pytest.raises(ConfigError, match="two is no finished run that times could be told from"):
        calibrations_beside(RunDir(tmp_path / "new"), [str(tmp_path / "two")])


@pytest.mark.parametrize(
    ("place", "value"),
    [(("config",), {"embed": "static"}), (("config",), {"embed": {"encoder": "static"}, "search": [], "graph": {}}),
     (("stages", "search", "figures", "used"), "all"), (("stages", "search", "figures", "used"), {"cpus": "2"}),
     (("stages", "read", "figures", "texts"), "9"), (("stages", "read", "figures", "text_bytes"), "many"),
     (("stages", "embed", "figures", "dim"), "wide"),
     *((("stages", "embed", "figures", "dim"), value) for value in (0, -256, 1e300, math.inf, math.nan, 10**400)),
     *((("stages", "read", "figures", name), -9) for name in ("texts", "records", "text_bytes")),
     (("stages", "read", "figures", "records"), 0), (("stages", "read", "figures", "texts"), 10**400),
     (("config", "graph", "k"), -50), (("stages", "graph", "seconds"), -1.0), (("stages", "graph", "seconds"), 1e300),
     (("stages", "search", "figures", "used"), {"cpus": math.nan, "gpus": 0}),
     (("stages", "search", "figures", "used"), {"cpus": 2, "gpus": -1})],
    ids=lambda one: str(one)[:40],
)  # fmt: skip
def test_a_directory_beside_it_ends_no_run_whatever_it_says(place: tuple[str, ...], value: Any, tmp_path: Path) -> None:
    other = finished_run(tmp_path / "one", 10_000)
    manifest = inner = other.manifest
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    (tmp_path / "one/manifest.json").write_text(json.dumps(manifest))
    assert calibrations_beside(RunDir(tmp_path / "new")) == []


def test_a_pipe_beside_it_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/manifest.json")
    assert calibrations_beside(RunDir(tmp_path / "new")) == []


# --- from another shell ---


def test_status_tells_a_run_that_stopped_from_one_that_works(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", 1000)
    assert status_lines(run)[0] == f"{run.path}: finished"
    manifest = run.manifest
    for name in list(STAGE_ARTEFACTS)[3:]:
        del manifest["stages"][name]
    finished_run(tmp_path / "sibling", 1000, graph=5.0)
    write_json(run / "manifest.json", manifest)
    now = time.time()
    progress = {"stage": "search", "started": now - 30, "updated": now, "what": "", "done": 2, "total": 8, "host": "h",
                "rows_per_second": 100.0, "left_s": 90.0, "pid": 7}  # fmt: skip
    write_json(run / PROGRESS, progress)
    lines = status_lines(run)
    assert lines[0] == f"{run.path}: stopped; the same command goes on from here"
    assert lines[4] == "  search    begun, 30 s; 2 of 8 parts (25%), 100 rows a second, 2 min left"
    assert lines[5] == "  graph     to do, about 5 s"
    with run.locked():
        lines = status_lines(RunDir(run.path))
        assert lines[0] == f"{run.path}: running, process 7 of h"
        assert lines[4].startswith("  search    at work, ")
    with pytest.raises(ConfigError, match="holds no run"):
        status_lines(RunDir(tmp_path / "none"))


@pytest.mark.parametrize("wrong", ["x", None, [], {}, -1, 10**400, float("nan"), 1e300])
@pytest.mark.parametrize("key", ["stage", "updated", "started", "total", "done", "rows_per_second", "left_s", "pid"])
def test_status_takes_any_progress(key: str, wrong: Any, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", 1000)
    manifest = run.manifest
    del manifest["stages"]["report"], manifest["stages"]["plot"]
    write_json(run / "manifest.json", manifest)
    progress = {"stage": "plot", "started": 0.0, "updated": 1.0, "done": 1, "total": 8, "rows_per_second": 2.0,
                "left_s": 9.0, "pid": 7}  # fmt: skip
    write_json(run / PROGRESS, progress)
    assert "begun, 1 s; 1 of 8 parts" in status_lines(run)[-2]
    write_json(run / PROGRESS, {**progress, key: wrong})
    assert status_lines(run)[0].endswith("stopped; the same command goes on from here")
    write_json(run / PROGRESS, {**progress, "what": "\x1b[2J\u202e\nx" + "x" * 500})
    assert (
        status_lines(run)[-2] == f"  plot      begun, 1 s; 1 of 8 �[2J� {'x' * 193}… (12%), 2 rows a second, 9 s left"
    )
    assert max(map(len, status_lines(run)[1:])) < 300


def test_status_shows_a_terminal_nothing_to_obey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path / "r\x1b[2J", 1000)
    assert main(["status", "--run", str(run.path)]) == 0
    assert "r�[2J: finished" in capsys.readouterr().out


def test_status_takes_a_configuration_of_another_version(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", 1000)
    manifest = run.manifest
    manifest["config"]["read"]["gone"] = 1
    write_json(run / "manifest.json", manifest)
    assert status_lines(run)[0] == f"{run.path}: finished"
