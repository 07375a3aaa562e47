"""plan.py, rates.py, traffic.py, advice.py: what ``covey plan`` tells of a run that has not begun."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clustering.cli.main import main
from clustering.config.loading import build_config, load_config
from clustering.config.sections import BUILD_PARAMS, RunConfig
from clustering.errors import ConfigError
from clustering.monitoring.plan import WIDTH, plan_lines, plan_stages
from clustering.monitoring.rates import (
    PER_DECADE,
    STEPS,
    WORKERS,
    card_seconds,
    cards,
    rates,
    request_formulas,
    server_cores,
    source_words,
    step_seconds,
)
from clustering.monitoring.resources import Counts, NodeType
from clustering.monitoring.times import Calibration, calibration_of, calibrations_beside
from clustering.monitoring.traffic import LATENCY_S
from clustering.runs.directory import RunDir
from clustering.runs.inventory import STAGE_ARTEFACTS
from tests.unit.monitoring.test_progress import finished_run

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results"
SERVER = {"uri": "http://milvus:19530"}
NODE = NodeType(16, 0, int(0.7 * (64 << 30)), 16)
INDEXES = [("embedded", index) for index in ("FLAT", "IVF_FLAT")] + [
    ("http://milvus:19530", index) for index in (*BUILD_PARAMS, "FLAT", "AUTOINDEX", "DISKANN")
]


def counts_of(n_texts: int, dim: int = 1024) -> Counts:
    return Counts(n_texts, n_texts, dim, 67.0)


def configured(**sections: dict[str, Any]) -> RunConfig:
    return build_config({"embed": {"encoder": "static"}, "store": SERVER, **sections})


# --- hours ---


@pytest.mark.parametrize("n_texts", [1, 3, 20_000, 100_000_000])
@pytest.mark.parametrize("encoder", ["static", "minilm", "bge-m3", "intfloat/multilingual-e5-large"])
def test_every_encoder_has_hours_at_every_size(encoder: str, n_texts: int) -> None:
    config = configured(embed={"encoder": encoder})
    stages = plan_stages(config, counts_of(n_texts), [NODE], [])
    assert [stage.name for stage in stages] == list(STAGE_ARTEFACTS)
    for stage in stages:
        assert 0 < stage.seconds.low <= stage.seconds.seconds <= stage.seconds.high < math.inf
        assert stage.seconds.sources
        assert all(source_words(source) != source for source in stage.seconds.sources), "each source says what it is"


@pytest.mark.parametrize(("uri", "index"), INDEXES)
def test_every_index_has_hours(uri: str, index: str) -> None:
    config = configured(store={"uri": uri, "index": index})
    for n_texts in (20_000, 100_000_000):
        for stage in plan_stages(config, counts_of(n_texts), [NodeType(16)], []):
            assert 0 < stage.seconds.low <= stage.seconds.seconds <= stage.seconds.high < math.inf


@pytest.mark.parametrize("name", ["laptop", "gpu", "tutorial"])
@pytest.mark.parametrize("n_texts", [1, 5000, 10_000_000, 100_000_000])
def test_the_plan_is_narrow_and_leaves_no_question(name: str, n_texts: int) -> None:
    for nodes in (None, [NODE, replace(NODE, gpus=1)]):
        lines = plan_lines(load_config(name, []), n_texts, nodes=nodes)
        assert not any("?" in line or "unknown" in line for line in lines)
        assert max(map(len, lines)) <= WIDTH
        assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in STAGE_ARTEFACTS] == [
            *STAGE_ARTEFACTS, *STAGE_ARTEFACTS
        ]  # fmt: skip


def test_a_step_takes_as_long_as_it_was_measured_to_take() -> None:
    compared = set()
    for rate in rates():
        if rate.kind in ("gpu", "openai", "cpu") or rate.step in ("layout", "plot", "place", "pages"):
            continue
        config = configured(
            embed={"encoder": rate.kind or "static"} if rate.step == "embed" else {"encoder": "static"},
            store={"uri": "embedded" if rate.kind in ("embedded", "IVF_FLAT", WORKERS) else SERVER["uri"],
                   "index": rate.kind if rate.kind in BUILD_PARAMS else None},
            search={"k": min(rate.k, rate.candidates - 1),
                    "params": {"ef": rate.candidates} if rate.kind.startswith("HNSW") else {}},
        )  # fmt: skip
        counts = Counts(int(rate.texts), int(rate.texts), rate.dim, rate.text_bytes)
        found = step_seconds(rate.step, config, counts, NodeType(int(rate.cores)))
        if found.sources[0] != rate.source:  # another one of the same size comes first
            continue
        compared.add(rate.step)
        if rate.step in ("index", "search") and rate.kind not in ("IVF_FLAT", WORKERS):
            cores = server_cores(config, counts)
        else:
            cores = 1 if rate.step in ("insert", "merge", "cluster", "report") else int(rate.cores)
        assert found.seconds == pytest.approx(rate.texts / rate.texts_a_second * rate.cores / cores, rel=0.01), rate
    assert compared >= {"read", "embed", "insert", "index", "search", "graph", "forest", "merge", "cluster", "describe"}


def test_the_pages_of_a_report_are_made_by_one_process_and_are_in_the_rates_of_smaller_runs() -> None:
    assert seconds_of("pages", 10_000_000) == 0
    assert seconds_of("pages", 100_000_000, nodes=1) == seconds_of("pages", 100_000_000) > 150


def seconds_of(step: str, n_texts: int, dim: int = 1024, nodes: int = 16, **sections: Any) -> float:
    return step_seconds(step, configured(**sections), counts_of(n_texts, dim), replace(NODE, count=nodes)).seconds


def total_seconds(config: RunConfig, n_texts: int, nodes: NodeType) -> float:
    return sum(stage.seconds.seconds for stage in plan_stages(config, counts_of(n_texts), [nodes], []))


def test_seconds_grow_with_texts_dimensions_and_neighbors() -> None:
    n = 40_000_000  # nearest to the same rates as its double
    for step in "read embed insert graph forest merge cluster describe place report pages".split():
        more = 1 if step != "place" else (2 * n - 1e6) / (2 * n - 2e6)
        assert seconds_of(step, 2 * n) == pytest.approx(2 * more * seconds_of(step, n), rel=0.01), step
    assert seconds_of("layout", 2 * n) == seconds_of("layout", n)  # of a million at most
    for step in ("insert", "index", "search"):
        cores = 1.0
        if step != "insert":  # which follow from the server's memory
            cores = server_cores(configured(), counts_of(n, 512)) / server_cores(configured(), counts_of(n, 1024))
        assert seconds_of(step, n, 1024) == pytest.approx(2 * cores * seconds_of(step, n, 512), rel=0.01)
    for step in ("graph", "forest", "place"):
        wide, narrow = (seconds_of(step, n, search={"k": k}) for k in (60, 20))
        assert wide == pytest.approx(3 * narrow)
    assert seconds_of("search", n, search={"k": 99}) == pytest.approx(2 * seconds_of("search", n, search={"k": 49}))
    compared = [
        step_seconds("search", configured(store={"uri": "embedded"}), counts_of(m), NODE).seconds for m in (n, 2 * n)
    ]
    assert compared[1] == pytest.approx(4 * compared[0])


def test_more_nodes_share_out_what_they_can() -> None:
    n = 100_000_000
    for step in ("read", "embed", "graph", "forest", "describe", "place", "report"):
        assert seconds_of(step, n, nodes=16) == pytest.approx(seconds_of(step, n, nodes=4) / 4), step
    for step in ("merge", "cluster", "layout", "plot", "insert", "index", "search"):
        assert seconds_of(step, n, nodes=16) == seconds_of(step, n, nodes=4), step
    assert seconds_of("insert", n, store={**SERVER, "shards": 4}) == pytest.approx(seconds_of("insert", n) / 4)
    by_nodes = [total_seconds(configured(), n, replace(NODE, count=count)) for count in (2, 8, 32)]
    assert by_nodes[0] > by_nodes[1] > by_nodes[2]


def test_the_spread_widens_with_the_distance_and_holds_every_measurement() -> None:
    for n_texts in (1_000_000, 100_000_000):
        found = step_seconds("read", configured(), counts_of(n_texts), NODE)
        wider = PER_DECADE ** math.log10(n_texts / 260_000)
        assert found.low == pytest.approx(found.seconds * 0.5 / wider)
        assert found.high == pytest.approx(found.seconds * 2 * wider)
    searched = step_seconds("search", configured(), counts_of(100_000_000), NODE)
    assert set(searched.sources) == {
        "whole-run-4m",
        "server-1m",
        "server-200k",
        "vectordbbench-2.5",
        "vectordbbench-2.6",
    }
    assert searched.low < 0.5 * searched.seconds < 2 * searched.seconds < searched.high


def test_cards_differ_by_their_rates() -> None:
    config = configured(embed={"encoder": "bge-m3", "gpus_per_actor": 1})
    nodes = replace(NODE, gpus=2)
    seconds = card_seconds(config, counts_of(100_000_000), nodes)
    assert seconds["H100"] == pytest.approx(100_000_000 * 67 / 72 / 50_101 / 32, rel=0.001)
    for card, peak in cards().items():
        assert seconds[card] == pytest.approx(seconds["H100"] * 989 / peak)
    slow, fast = (step_seconds("embed", config, counts_of(10**6), nodes, card) for card in ("L4", "H100"))
    assert "cards" in slow.sources
    assert "cards" not in fast.sources
    assert slow.high / slow.seconds > fast.high / fast.seconds


def test_the_spread_of_the_rates_holds_the_results() -> None:
    """Which may have been measured anew."""
    whole, largest, server, actor = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("whole-run", "whole-run-4m", "server-1m", "gpu-embed-actor")
    )
    stage_of = {step: stage for stage, steps in STEPS.items() for step in steps}
    for source, found in (("whole-run", whole), ("whole-run-4m", largest)):
        seconds = found["runs"]["this"][0]["stages_s"]
        for rate in rates():
            if rate.source == source:
                assert 0.5 < seconds[stage_of[rate.step]] / (rate.texts / rate.texts_a_second) < 2, rate
    of_server = {rate.step: rate.texts_a_second for rate in rates() if rate.source == "server-1m"}
    assert of_server["search"] == server["searching"]["target"]["queries_per_second"]
    loaded = server["loading"]["stream"][0]["rows_per_second_with_start"]
    assert of_server["insert"] == pytest.approx(loaded, abs=1)
    assert of_server["index"] == pytest.approx(1e6 / (server["searching"]["store_seconds"] - 1e6 / loaded), rel=0.01)
    (on_gpu,) = (rate for rate in rates() if rate.source == "h100")
    seen = [run["texts_a_second"] for run in actor["runs"] if run["name"].startswith("actor")]
    assert all(on_gpu.texts_a_second / 1.2 < one < on_gpu.texts_a_second / 0.9 for one in seen)


def test_published_figures_name_who_published_what() -> None:
    for source in {rate.source for rate in rates()}:
        assert re.match(r"(measured|published: \S+|a guess)", source_words(source)), source
    assert "3,465 queries/s at recall 0.953" in source_words("vectordbbench-2.5")
    assert "2,385 queries/s at recall 0.963 (3,917 at 0.920)" in source_words("vectordbbench-2.6")


# --- memory, and what an object store costs ---


@pytest.mark.parametrize(("n_texts", "most"), [(100_000_000, 48 << 30), (10_000_000, 16 << 30)])
@pytest.mark.parametrize("nodes", [1, 4, 16, 64])
def test_no_process_is_large(n_texts: int, most: int, nodes: int) -> None:
    config = configured(search={"k": 50})
    for stage in plan_stages(config, counts_of(n_texts), [replace(NODE, count=nodes)], []):
        assert stage.estimate.memory_bytes <= most, stage.name


@pytest.mark.parametrize("nodes", [4, 16, 64])
def test_the_latency_of_an_object_store_costs_less_than_20_minutes(nodes: int) -> None:
    stages = plan_stages(configured(), counts_of(100_000_000), [replace(NODE, count=nodes)], [])
    assert 60 < sum(stage.traffic.waits_s for stage in stages) < 20 * 60


def test_a_run_in_an_object_store_waits_for_it() -> None:
    totals = [total_seconds(configured(run={"dir": place}), 10**8, NODE) for place in ("runs/one", "s3://bucket/one")]
    waits = sum(stage.traffic.waits_s for stage in plan_stages(configured(), counts_of(10**8), [NODE], []))
    assert totals[1] - totals[0] == pytest.approx(waits)
    assert LATENCY_S == {"HEAD": 0.020, "GET": 0.035, "PUT": 0.060, "LIST": 0.035}


@pytest.mark.parametrize(
    "case",
    json.loads((RESULTS / "requests.json").read_text(encoding="utf-8"))["cases"],
    ids=lambda case: f"{case['parts']}-{case['groups']}-{case['blocks']}",
)
def test_the_formulas_give_what_was_counted(case: dict[str, Any]) -> None:
    formulas = request_formulas("shared" if case["large"] else "alone")
    sizes = (1, case["parts"], case["groups"], case["blocks"])
    for stage in (*STAGE_ARTEFACTS, "between stages"):
        counted = {
            verb: sum(line.get(verb, 0) for line in case["lines"] if line["stage"] == stage) for verb in LATENCY_S
        }
        for verb, count in counted.items():
            fitted = formulas[stage].get(verb, [0.0] * 4)
            expected = sum(a * b for a, b in zip(fitted, sizes, strict=True))
            assert expected == pytest.approx(count, rel=0.3, abs=12), (stage, verb)


def test_fewer_parts_need_fewer_requests() -> None:
    cases = json.loads((RESULTS / "requests.json").read_text(encoding="utf-8"))["cases"]
    many, few = (next(case for case in cases if case["parts"] == parts and case["groups"] > 20) for parts in (25, 4))
    asked = [
        sum(line.get(verb, 0) for line in case["lines"] for verb in LATENCY_S if line["stage"] != "heartbeat")
        for case in (many, few)
    ]
    assert asked[1] < 0.8 * asked[0]


def test_words_are_counted_in_a_pass_of_their_own_over_the_texts() -> None:
    given = {"uri": "http://milvus:19530", "name": "news", "text_field": "title"}
    embeds = (configured(embed={"encoder": "static", "lexical": 0}), configured(embed={"encoder": "static"}),
              configured(embed={"encoder": "static"}, read={"collection": given}))  # fmt: skip
    without, words, source = (
        next(stage.traffic for stage in plan_stages(one, counts_of(10**6, 512), [NODE], []) if stage.name == "embed")
        for one in embeds
    )
    parts, groups = 123, 123
    assert words.requests["GET"] - without.requests["GET"] == parts + groups + min(4 * NODE.count, parts)
    assert words.read == 2 * without.read
    assert words.tasks == without.tasks + 8
    assert (source.read, source.tasks) == (without.read, without.tasks)


# --- what is printed ---


def test_finished_runs_come_before_the_rates_and_their_times_follow_the_cores(tmp_path: Path) -> None:
    finished_run(tmp_path / "one", 10_000)
    config = build_config({"embed": {"encoder": "static"},
                           "run": {"dir": str(tmp_path / "new"), "prices": {"cpu_hour": 1.0}}})  # fmt: skip
    lines = plan_lines(config, 20_000)
    assert sum(str(tmp_path / "one") in line for line in lines) == 1
    assert not any("whole_run" in line for line in lines)
    assert any(re.fullmatch(r"in all: .* of disk; a node needs .* of memory", line) for line in lines)
    assert any(re.fullmatch(r"cost: \d+\.\d\d USD", line) for line in lines)
    known = calibrations_beside(RunDir(tmp_path / "new"))  # 2 cores
    few, many = (seconds_by(known, 10_000, node) for node in (NodeType(2), NodeType(16)))
    assert few["embed"] == pytest.approx(2.0)
    assert many["embed"] == pytest.approx(2.0 / 8)
    assert many["cluster"] == few["cluster"]
    assert main(["plan", "--texts", "20000", "--config", str(ROOT / "cluster_configs/laptop.yaml"),
                 "--run", str(tmp_path / "one")]) == 0  # fmt: skip
    with pytest.raises(ConfigError, match="--texts=0 is no number of texts"):
        plan_lines(RunConfig(), 0)


def seconds_by(known: list[Calibration], n_texts: int, node: NodeType) -> dict[str, float]:
    config = build_config({"embed": {"encoder": "static"}})
    stages = plan_stages(config, counts_of(n_texts, 256), [node], known)
    return {stage.name: stage.seconds.seconds for stage in stages}


@pytest.mark.parametrize(("n_texts", "one", "other", "stages"), [
    (50_000, NodeType(64), NodeType(4), ["graph", "describe", "report"]),  # single tasks
    (10_000_000, NodeType(8, count=16), NodeType(8, count=32), ["describe", "report"]),  # at most 64 tasks count words
])  # fmt: skip
def test_cores_without_a_task_made_a_finished_run_no_faster(
    n_texts: int, one: NodeType, other: NodeType, stages: list[str], tmp_path: Path
) -> None:
    known = calibration_of(finished_run(tmp_path / "one", n_texts))
    assert known is not None
    known.used["cpus"] = one.cpus * one.count
    for node in (one, other):
        seconds = seconds_by([known], n_texts, node)
        assert [seconds[stage] for stage in stages] == [pytest.approx(2.0)] * len(stages)


def test_the_command_plans_for_the_nodes_that_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--texts", "100000000", "--config", "gpu", "--nodes", "16", "--cpus", "8", "--memory", "64GiB"]
    assert main([*words, "--gpus", "2", "--card", "A100"]) == 0
    told = capsys.readouterr().out
    assert "on 16 nodes of 8 cores and 2 GPU with 44.8 GiB for work" in told
    assert "GPUs: A100; embed takes on H100" in told
    assert main([*words, "--gpus", "0"]) == 2
    assert "embed.gpus_per_actor=1, and no node has so many; see --gpus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--memory", "64"], "'64' is no size; write it as 64GiB"), (["--nodes", "0"], "'0' is no number from 1 on"),
     (["--cpus", "many"], "'many' is no number from 1 on"),
     (["--gpus", "nan"], "'nan' is no number from 0 on"), (["--gpus=-1"], "'-1' is no number from 0 on"),
     (["--gpus", "1e999"], "'1e999' is no number"), (["--memory", "9" * 400 + "GiB"], "is no size; write it as 64GiB"),
     (["--card", "abacus"], "invalid choice: 'abacus'")],
)  # fmt: skip
def test_nodes_that_cannot_be_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--texts", "9", "--config", "laptop", *words])
    assert said in capsys.readouterr().err


def test_what_would_have_to_change_is_said_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # finished runs beside it would tell their own rates

    def told(n_texts: int, nodes: NodeType, **sections: Any) -> str:
        lines = plan_lines(configured(**sections), n_texts, nodes=[nodes])
        return " ".join(" ".join(lines[lines.index("") :]).split())

    fits = told(5000, NodeType(4, 0, 16 << 30), store={"uri": "embedded"})
    assert fits.endswith("- Nothing has to change.")
    small = told(10_000_000, NodeType(4, 0, 2 << 30))
    assert "cluster does not fit: it needs" in small
    assert "Take larger nodes (--memory)" in small
    large = told(100_000_000, NODE, embed={"encoder": "bge-m3"})
    assert "store.index=HNSW_SQ (2" in large
    assert "embed.lexical" not in large
    words = re.search(r"holds ([\d.]+) GiB.* embed.lexical=0 \(([\d.]+) GiB\)", told(100_000_000, NODE))
    assert words is not None
    assert float(words[2]) < 0.6 * float(words[1])
    given = {"uri": "http://milvus:19530", "name": "news", "text_field": "title"}
    assert "embed.lexical" not in told(100_000_000, NODE, read={"collection": given})  # which has the vectors
    assert "embed takes" in large
    assert "take GPUs (embed.gpus_per_actor=1, --gpus), or a smaller encoder" in large
    on_gpus = told(100_000_000, replace(NODE, gpus=1), embed={"encoder": "bge-m3", "gpus_per_actor": 1})
    assert "set store.shards to 4 or more, or store.load=bulk" in on_gpus
    many = told(500_000, NodeType(4), store={"uri": "embedded"})
    assert "The embedded store compares each text with all others. Take a Milvus server (store.uri)" in many
    assert "The embedded store serves one node" in told(5000, NODE, store={"uri": "embedded"})
