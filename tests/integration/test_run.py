"""The whole run on a generated sample: artefacts, figures, restarts, reclustering, evaluation, new texts."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hdbscan import HDBSCAN
from safetensors.numpy import load_file, save_file
from sklearn.metrics import adjusted_rand_score

from clustering import load_graph, schema
from clustering.cli.main import main
from clustering.collection_lifecycle import keep_collection_name
from clustering.config.loading import override_config
from clustering.runs.directory import RunDir
from clustering.runs.inventory import FILES, STAGE_ARTEFACTS, is_written_by_covey
from clustering.runs.kernel_inputs import load_forest
from clustering.runs.parts import read_columns, vectors_of
from clustering.runs.saved_config import load_run_config
from clustering.sample import write_sample
from clustering.workers.nodes import live_nodes
from tests.mapped import unpacked

pytestmark = pytest.mark.ray
RECORDS = 2000
LAPTOP = Path(__file__).parents[2] / "cluster_configs" / "laptop.yaml"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "sample.csv"
    write_sample(path, RECORDS, seed=3)
    return path


@pytest.fixture(scope="module")
def original(local_ray, sample, tmp_path_factory):
    run = tmp_path_factory.mktemp("original") / "run"
    assert main(["run", "--config", str(LAPTOP), f"run.dir={run}", f"read.paths={sample}", "search.k=30"]) == 0
    return run


@pytest.fixture
def finished(original, tmp_path):
    """A finished run of this test's own; a run directory may be copied and moved."""
    return RunDir(shutil.copytree(original, tmp_path / "run"))


def stage_times(run: RunDir) -> dict[str, float]:
    return {name: stage["finished"] for name, stage in run.manifest["stages"].items()}


def test_a_run_leaves_what_the_design_promises(finished):
    run = finished
    labels, clusters = pq.read_table(run / "labels.parquet"), pq.read_table(run / "clusters.parquet")
    assert labels.schema.equals(schema.LABELS)
    all_clusters = pq.read_table(run / "layers.parquet")
    assert clusters.schema.equals(schema.CLUSTERS)
    assert all_clusters.schema.equals(schema.LAYERS)
    assert labels["text_id"].to_pylist() == [f"h{n:08d}" for n in range(RECORDS)]
    texts, members = read_columns(run / "texts", ["row", "copies"]), read_columns(run / "members", ["row"])
    n_texts = len(texts)
    assert len(pq.read_table(run / "texts")) == n_texts  # also without Covey
    assert texts["row"].to_pylist() == list(range(n_texts))
    assert np.bincount(members["row"].to_numpy()).tolist() == texts["copies"].to_pylist()
    vectors = vectors_of(read_columns(run / "vectors", ["vector"]))
    assert vectors.shape == (n_texts, 512)  # of the encoder, and of words
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    label = labels["label"].to_numpy()
    sizes = np.bincount(label[label >= 0])
    assert clusters["size"].to_pylist() == sizes.tolist()
    assert clusters["title"].equals(all_clusters["title"].slice(0, sizes.size))
    assert (np.diff(sizes) <= 0).all()  # numbered by size
    layers = np.array(labels["layers"].to_pylist())
    home = labels["home"].to_numpy()
    assert (home[label >= 0] == label[label >= 0]).all()
    assert (home >= 0).all()
    report = json.loads((run / "report.json").read_text())
    assert (layers[:, report["clusters"]["layer"]] == label).all()
    assert len(report["clusters"]["layers"]) == layers.shape[1] >= 2
    theme = labels["theme"].to_pylist()
    of_text = np.full(n_texts, -1)
    of_text[members["row"].to_numpy()] = label
    nearest = np.array(read_columns(run / "neighbors", ["neighbors"])["neighbors"].to_pylist())
    for row in clusters.to_pylist():
        own = label == row["label"]
        assert {theme[at] for at in np.flatnonzero(own)} == {row["theme"]}
        assert {labels["title"][at].as_py() for at in np.flatnonzero(own)} == {row["title"]}
        assert row["share"] == pytest.approx(row["size"] / RECORDS)
        links = nearest[of_text == row["label"], : min(10, row["texts"] - 1)]
        assert row["link_share"] == pytest.approx((of_text[links] == row["label"]).mean(), abs=1e-6)
        assert 0.2 < row["link_share"] <= 1
    for row in all_clusters.to_pylist():  # clusters of all layers, each with the records that its layers give it
        for place in row["layers"]:
            assert (layers[:, place] == row["label"]).sum() == row["size"]
        inside = (layers == row["label"]).any(axis=1)
        assert row["parent"] is None or (layers[inside] == row["parent"]).any(axis=1).all()
        assert row["terms"] or row["texts"] < 10, row  # few texts may share no word
        assert row["exemplars"]
    assert report["clusters"]["count"] == sizes.size
    assert report["counts"]["records"] == RECORDS
    assert report["counts"]["texts"] == n_texts
    assert report["clusters"]["noise_share"] == pytest.approx((label < 0).mean(), abs=1e-4)
    assert report["search"]["recall"] == 1.0
    assert set(report["stages"]) >= {"read", "embed", "store", "search", "graph", "forest", "cluster", "project"}
    assert (run / "map.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "map.html").read_text(encoding="utf-8")
    held = unpacked(page)
    assert held["facts"]["texts"] == held["facts"]["points"] == n_texts
    assert sorted(held["cells"]["text_id"]) == sorted(labels["text_id"].to_pylist())
    assert held["facts"]["clusters"]["title"] == all_clusters["title"].to_pylist()
    assert len(page) < 500_000
    files = [path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()]
    assert not [name for name in files if not is_written_by_covey(name)], "what is not known is not removed"


def test_neighbors_are_the_exact_ones_without_the_text_itself(finished):
    run = finished
    vectors = vectors_of(read_columns(run / "vectors", ["vector"])).astype(np.float64)
    table = read_columns(run / "neighbors", ["row", "neighbors", "distances"])
    exact = np.sqrt(np.maximum(2 - 2 * vectors @ vectors.T, 0))
    np.fill_diagonal(exact, np.inf)
    nearest = np.sort(exact, axis=1)[:, :30]
    for row, others, distances in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        assert row not in others
        assert len(set(others)) == 30
        assert distances == sorted(distances)
        np.testing.assert_allclose(distances, nearest[row], atol=2e-3)
        np.testing.assert_allclose(exact[row, others], nearest[row], atol=2e-3)


PLAIN = ["cluster.weights=distance", "cluster.selection=eom"]


def test_labels_agree_with_hdbscan_on_the_same_vectors(finished, covey):
    run = finished
    assert covey("recluster", "--run", run.path, *PLAIN).status == 0
    vectors = vectors_of(read_columns(run / "vectors", ["vector"])).astype(np.float64)
    exact = HDBSCAN(min_samples=5, min_cluster_size=5).fit(vectors)
    label = pq.read_table(run / "assignment.parquet")["label"].to_numpy()
    alone = read_columns(run / "texts", ["copies"])["copies"].to_numpy() >= 5  # those are clusters by promise 4
    assert adjusted_rand_score(exact.labels_[~alone], label[~alone]) > 0.95
    weight = (
        HDBSCAN(min_samples=5, min_cluster_size=5, gen_min_span_tree=True).fit(vectors)._min_spanning_tree[:, 2].sum()
    )
    assert load_forest(run).distance.sum() == pytest.approx(weight, rel=1e-3)
    graph = load_graph(run.path)
    assert abs(graph - graph.T).max() == 0


def test_a_second_start_of_a_finished_run_does_nothing(finished, run_files, sample):
    run = finished
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    _, result = run_files(f"read.paths={sample}", "search.k=30")
    assert result.status == 0
    assert "is finished; nothing to do" in result.err
    after = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


@pytest.mark.full
def test_a_changed_setting_redoes_only_what_depends_on_it(finished, run_files, sample):
    run = finished
    before = stage_times(run)
    _, result = run_files(f"read.paths={sample}", "search.k=30", "cluster.min_cluster_size=8")
    assert result.status == 0
    after = stage_times(run)
    assert "cluster, describe, plot, report will be done again" in result.err
    assert [name for name in before if after[name] != before[name]] == ["cluster", "describe", "plot", "report"]


def test_a_renamed_directory_keeps_its_store_and_a_copy_takes_another(finished, covey, sample, tmp_path):
    before, saved = stage_times(finished), finished.manifest["config"]
    saved["run"]["dir"] = str(finished.path)  # it was made there, not copied
    finished.update_manifest(config=saved)
    renamed = RunDir(finished.path.rename(tmp_path / "renamed"))
    words = ["run", "--config", LAPTOP, f"read.paths={sample}", "search.k=30", f"run.dir={renamed.path}"]
    result = covey(*words)
    assert result.status == 0, result.err
    after = stage_times(renamed)
    assert [name for name in before if after[name] != before[name]] == ["plot", "report"]  # the name heads the map
    config = load_run_config(renamed)
    assert keep_collection_name(config, renamed).collection == "covey_run"
    copy = RunDir(shutil.copytree(renamed.path, tmp_path / "copy"))
    assert keep_collection_name(override_config(config, [f"run.dir={copy.path}"]), copy).collection == "covey_copy"
    linked = tmp_path / "link"
    linked.symlink_to(renamed.path)
    same = override_config(config, [f"run.dir={linked}", "run.name=run"])
    assert keep_collection_name(same, RunDir(linked)).collection == "covey_run"
    alike = override_config(config, [f"run.dir={copy.path}", "run.name=run"])
    assert re.fullmatch(r"covey_run_[0-9a-f]{8}", keep_collection_name(alike, copy).collection)


def test_recluster_keeps_vectors_and_forest(finished, covey):
    run = finished
    before, count = stage_times(run), run.report["clusters"]["count"]
    result = covey("recluster", "--run", run.path, "cluster.selection=leaf", "cluster.min_cluster_size=4")
    assert result.status == 0, result.err
    after = stage_times(run)
    assert all(
        after[name] == before[name] for name in ("read", "embed", "store", "search", "graph", "forest", "project")
    )
    assert run.report["clusters"]["count"] != count
    assert covey("recluster", "--run", run.path, "describe.terms=4").status == 0
    assert run.report["clusters"]["count"] == count, "it starts from the settings of the run, not of the last recluster"
    assert run.manifest["config"]["cluster"]["selection"] == run.manifest["origin"]["cluster"]["selection"]
    assert run.manifest["origin"]["describe"]["terms"] == 10
    refused = covey("recluster", "--run", run.path, "search.k=9")
    assert refused.status == 2
    assert "not 'search.k=9'" in refused.err


def test_views_of_a_run_lie_beside_it_and_share_its_files(finished, covey):
    run, before = finished, {path: path.read_bytes() for path in finished.path.rglob("*.*") if path.is_file()}
    words = ("cluster.selection=leaf", "cluster.min_cluster_size=4")
    assert covey("recluster", "--run", run.path, "--into", "leaf", *words).status == 0
    view = RunDir(f"{run.path}-leaf")
    assert view.report["clusters"]["count"] != run.report["clusters"]["count"]
    assert (view / "neighbors").stat().st_ino != (run / "neighbors").stat().st_ino
    assert all(path.samefile(Path(str(path).replace(str(run.path), str(view.path))))
               for path in (run / "neighbors").glob("*.parquet"))  # fmt: skip
    assert load_run_config(view).run.dir == str(view.path)
    assert covey("recluster", "--run", run.path, "--into", "leaf", "cluster.granularity=300").status == 0, "once more"
    found = covey("recluster", "--run", run.path, "--sweep", "granularity=400,2000,20000")
    assert found.status == 0, found.err
    lines = found.out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["400", "2000", "20000"]
    counts = [int(line.split()[1].replace(",", "")) for line in lines[1:4]]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 1
    assert lines[4].startswith("granularity=")
    assert Path(f"{run.path}-granularity.png").stat().st_size > 10_000
    assert {path: path.read_bytes() for path in run.path.rglob("*.*") if path.is_file()} == before, (
        "the run is as it was"
    )
    for into, said in (("../up", "is no name of a view"), ("granularity-400", ""), ("", "is no name of a view")):
        refused = covey("recluster", "--run", run.path, "--into", into)
        assert (refused.status, said in refused.err) == (2 if said else 0, True)
    Path(f"{run.path}-mine").mkdir()
    assert "is no view of" in covey("recluster", "--run", run.path, "--into", "mine").err


def test_a_view_that_is_not_finished_is_removed_and_a_view_follows_its_run(finished, covey, sample, monkeypatch):
    run, into = finished, ("recluster", "--run", finished.path, "--into")

    def interrupted(*_):
        raise KeyboardInterrupt

    assert covey(*into, "half", "cluster.granularity=many").status == 2
    assert covey("recluster", "--run", run.path, "--sweep", "granularity=300,many").status == 2
    with monkeypatch.context() as patched:
        patched.setattr("clustering.pipeline.plot_map", interrupted)
        assert covey(*into, "half", "cluster.granularity=300").status == 130
    assert {path.name for path in run.path.parent.iterdir()} == {"run"}
    assert covey(*into, "fine", "cluster.granularity=300").status == 0
    view = RunDir(f"{run.path}-fine")
    count, labels = view.report["clusters"]["count"], (view.path / "labels.parquet").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("clustering.pipeline.plot_map", interrupted)
        assert covey(*into, "fine", "cluster.granularity=2000").status == 130
    assert view.report["clusters"]["count"] == count
    assert (view.path / "labels.parquet").read_bytes() == labels
    words = (f"run.dir={run.path}", f"read.paths={sample}", "search.k=30", "describe.terms=4")
    assert covey("run", "--config", LAPTOP, *words).status == 0
    assert covey(*into, "fine", "cluster.granularity=300").status == 0
    assert view.manifest["config"]["describe"]["terms"] == view.manifest["origin"]["describe"]["terms"] == 4
    assert view.report["clusters"]["count"] == count
    assert view.report["stages"].keys() == run.report["stages"].keys()


def test_an_interrupted_recluster_leaves_the_old_results_and_the_same_command_goes_on(
    finished, covey, sample, tmp_path, monkeypatch
):
    run, words = finished, ["recluster", "--run", finished.path, "graph.k=12", "cluster.min_cluster_size=9"]
    opened = {name: (run.path / name).read_bytes() for name in FILES if (run.path / name).exists()}
    assert opened.keys() == set(FILES) - {"titles.jsonl"}  # of an endpoint, which this run has not

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("clustering.pipeline.plot_map", interrupted)
        assert covey(*words).status == 130
    assert {name: (run.path / name).read_bytes() for name in opened} == opened
    status = covey("status", "--run", run.path).out
    assert "stopped; the same command goes on from here; labels, report and map are those of the run before" in status
    output = tmp_path / "assigned.parquet"
    assert covey("assign", "--run", run.path, "--input", sample, "--output", output).status == 0
    assert pq.read_table(output)["label"].equals(pq.read_table(run.path / "labels.parquet")["label"])
    assert load_graph(run.path).shape[0] == run.report["counts"]["texts"]
    assert len(pq.read_table(run.path / "vectors")) == run.report["counts"]["texts"]  # also without Covey
    before = stage_times(run)
    result = covey(*words)
    assert result.status == 0, result.err
    after = stage_times(run)
    assert [name for name in after if after[name] != before.get(name)] == ["plot", "report"]
    same = [name for name in opened if (run.path / name).read_bytes() == opened[name]]
    assert same == ["families.parquet"]  # who carried a text does not depend on the clusters
    assert [len(list((run.path / name).iterdir())) for name in ("graph", "forest")] == [1, 1]
    assert not (run.path / "pending").exists()


def test_evaluate_compares_with_truth_and_with_exact_hdbscan(finished, covey, sample):
    run = finished
    result = covey("evaluate", "--run", run.path, "--truth", sample, "--truth-column", "story")
    assert result.status == 0, result.err
    figures = json.loads(result.out)
    assert run.report["truth"] == figures["truth"]
    assert figures["truth"]["records"] + figures["truth"]["left_out"] == RECORDS
    assert figures["truth"]["left_out"] == sample.read_text().count(",-1,") > 0
    assert set(figures["truth"]["label"]) == {"nmi", "ami", "ari", "homogeneity", "completeness"}
    assert figures["truth"]["label"]["nmi"] > 0.7
    assert figures["truth"]["home"]["ari"] > 0.6
    assert figures["fidelity"] is None  # hdbscan has nothing like it
    assert covey("recluster", "--run", run.path, *PLAIN).status == 0
    figures = json.loads(covey("evaluate", "--run", run.path).out)
    assert figures["fidelity"]["ari_label"] > 0.9
    assert abs(figures["fidelity"]["mst_weight_difference"]) < 1e-3
    wrong = covey("evaluate", "--run", run.path, "--truth", sample, "--truth-column", "stori")
    assert wrong.status == 2
    assert "'story'" in wrong.err


def test_the_first_run_of_the_readme_finds_the_planted_stories(run_files, covey, tmp_path):
    write_sample(tmp_path / "sample.csv", 3000)
    run, result = run_files(f"read.paths={tmp_path / 'sample.csv'}")
    assert result.status == 0, result.err
    result = covey("evaluate", "--run", run, "--truth", tmp_path / "sample.csv", "--truth-column", "story")
    figures = json.loads(result.out)["truth"]
    assert figures["label"]["ari"] > 0.6
    assert figures["home"]["ari"] > 0.6
    story = pyarrow.csv.read_csv(tmp_path / "sample.csv")["story"].to_numpy()
    labels = pq.read_table(run / "labels.parquet")
    label = labels["label"].to_numpy()
    largest = [np.bincount(story[label == cluster] + 1) for cluster in range(10)]
    assert len({int(counts.argmax()) for counts in largest} - {0}) == 10  # ten clusters, ten stories
    assert all(counts.max() > 0.4 * counts.sum() for counts in largest)
    report = RunDir(run).report
    assert 0.1 < report["clusters"]["tiling"] < 0.5
    assert report["warnings"] == []
    assert report["counts"]["families"] > 300


def test_new_texts_find_the_clusters_of_their_words(finished, covey, sample, tmp_path):
    run = finished
    labels = pq.read_table(run / "labels.parquet")
    output = tmp_path / "assigned.parquet"
    result = covey("assign", "--run", run.path, "--input", sample, "--output", output)
    assert result.status == 0, result.err
    placed = pq.read_table(output)
    assert placed["text_id"].to_pylist() == labels["text_id"].to_pylist()
    assert set(placed["distance"].to_numpy()) == {0}  # each finds itself
    for name in ("label", "home", "strength", "home_strength"):
        assert placed[name].equals(labels[name])
    strange = tmp_path / "strange.csv"
    strange.write_text("id,title\nx,How to prune roses and hydrangeas\n")
    assert covey("assign", "--run", run.path, "--input", strange, "--output", output).status == 0
    assert pq.read_table(output)["label"].to_pylist() == [-1]


@pytest.mark.nightly
def test_a_model_that_makes_other_vectors_places_no_texts(finished, covey, tmp_path):
    package = Path(find_spec("wordllama").submodule_search_locations[0])
    ((name, weights),) = load_file(min(package.glob("**/*_256.safetensors"))).items()
    others = {"own": weights, "other": weights[::-1].copy(), "narrow": weights[:, :64].copy()}
    for folder, content in others.items():
        (tmp_path / folder).mkdir()
        save_file({name: content}, tmp_path / folder / "own_256.safetensors")
        shutil.copy(min(package.glob("**/*tokenizer*.json")), tmp_path / folder / "tokenizer.json")
    (tmp_path / "new.csv").write_text("id,title\nx,Recipe for lentil soup with cumin\n")
    words = ["--run", finished.path, "--input", tmp_path / "new.csv", "--output", tmp_path / "placed.parquet"]
    for folder, says in {
        "other": "gives the run's own texts other vectors than the run has (their cosine is",
        "narrow": "gives the run's own texts other vectors than the run has (of 64 dimensions, not 256)",
        "none": "is no folder here, and no name of a model of the hub",
    }.items():
        result = covey("assign", f"embed.model={tmp_path / folder}", *words)
        assert (result.status, says in result.err) == (2, True), result.err
        assert not (tmp_path / "placed.parquet").exists()
    assert covey("assign", f"embed.model={tmp_path / 'own'}", *words).status == 0


@pytest.mark.full
def test_wrong_files_for_a_finished_run_are_told(finished, covey, sample, tmp_path):
    (tmp_path / "folder").mkdir()
    for name, content in {
        "empty.csv": "", "bytes.csv": b"\xff\x00\x01" * 99, "not.csv.gz": "x", "not.parquet": "x",
        "other.csv": "a,b\n1,2\n", "none.csv": "id,title,label\nx,storm,\n", "twice.csv": "id,label\nx,1\nx,2\n",
        "theirs.csv": "id,label\nx,1\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    wrong = ["", "a\0b", "x" * 5000, "http://[::1", "s3://b/[", "none-*.csv", "/dev/null"]
    wrong += [tmp_path / name for name in ("no.csv", "folder", "bytes.csv", "not.csv.gz", "not.parquet", "other.csv")]
    truths = [*wrong, *(tmp_path / name for name in ("empty.csv", "none.csv", "twice.csv", "theirs.csv"))]
    outputs = ["", "a\0b", "x" * 5000, "http://[::1", tmp_path / "folder", "/dev/null/x", "/proc/x"]
    for words in (
        *(["assign", "--input", given, "--output", tmp_path / "out.parquet"] for given in wrong),
        *(["assign", "--input", sample, "--output", output] for output in outputs),
        *(["evaluate", "--truth", truth] for truth in truths),
        ["evaluate", "--truth", sample, "--truth-column", ""],
        ["evaluate", "--truth", sample, "--truth-column", "story", "--id-column", "nope"],
    ):
        result = covey(words[0], "--run", finished.path, *words[1:])
        assert "Traceback" not in result.err, words
        assert (result.status, result.err[:7]) == (2, "error: "), (words, result.err)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.full
@pytest.mark.parametrize(
    ("lost", "how"),
    [
        ("vectors", "gone"), ("forest/core.npy", "gone"), ("forest/core.npy", "damaged"),
        ("assignment.parquet", "damaged"), ("labels.parquet", "gone"), ("report.json", "damaged"),
    ],
)  # fmt: skip
def test_a_run_that_lacks_an_artefact_is_told(finished, covey, sample, lost, how):
    name, _, inner = lost.partition("/")
    place = finished / name / inner if inner else finished / name
    for path in [*place.iterdir()] if place.is_dir() else [place]:
        path.unlink() if how == "gone" else path.write_bytes(b"PAR1xx")
    for words in (["assign", "--input", sample], ["evaluate", "--truth", sample, "--truth-column", "story"], ["status"],
                  ["recluster", "cluster.min_cluster_size=7"]):  # fmt: skip
        result = covey(words[0], "--run", finished.path, *words[1:])
        assert "Traceback" not in result.err, (words, result.err)
        assert result.status in (0, 1)
        if result.status:
            assert any(word in result.err for word in ("damaged", "missing", "No such file")), words


@pytest.mark.full
def test_neighbors_that_are_gone_are_noticed(finished, covey):
    run = finished
    shutil.rmtree(run / "neighbors")
    result = covey("recluster", "--run", run.path, "graph.k=20")
    assert result.status == 1
    assert "part-000000.parquet" in result.err
    assert "covey run with run.resume=false makes it anew" in result.err


@pytest.mark.full
def test_a_start_that_fails_leaves_the_finished_run_its_configuration(finished, run_files, sample, monkeypatch):
    run = finished
    before = run.manifest["config"]
    _, result = run_files(f"read.paths={sample}", "search.k=30", "run.resume=false", "store.uri=http://127.0.0.1:9",
                          "store.index=null", "store.timeout_s=1")  # fmt: skip
    assert result.status == 2
    assert run.manifest["config"] == before
    assert (run / "labels.parquet").exists()


@pytest.mark.full
def test_copies_weigh_on_request(run_files, tmp_path):
    given = tmp_path / "news.csv"
    titles = [
        f"Story {name} about the {word}"
        for name in ("one", "two")
        for word in ("harbour", "bridge", "school", "market")
    ]
    given.write_text("id,title\n" + "".join(f"{n},{title}\n" for n, title in enumerate(titles * 6)))
    run, result = run_files(f"read.paths={given}", "cluster.copies=weigh", "cluster.min_samples=3", "search.k=7",
                            "project.n_neighbors=5")  # fmt: skip
    assert result.status == 0, result.err
    assert pq.read_table(run / "labels.parquet").num_rows == 48
    assert pq.read_table(run / "clusters.parquet")["size"].to_pylist()[0] >= 6


@pytest.mark.full
def test_pieces_of_the_graph_are_joined_by_their_nearest_texts(run_files, tmp_path):
    given = tmp_path / "news.csv"
    groups = [[f"{word} {number}" for number in range(12)] for word in ("volcano erupts", "choir sings", "tax reform")]
    given.write_text("id,title\n" + "".join(f"{n},{title}\n" for n, title in enumerate(itertools.chain(*groups))))
    words = [f"read.paths={given}", "search.k=5", "project.n_neighbors=5", "cluster.min_samples=3", *PLAIN]
    run, result = run_files(*words)
    assert result.status == 0, result.err
    graph = json.loads((run / "report.json").read_text())["graph"]
    assert graph["pieces"] == 3
    assert graph["bridges"] == 2
    assert graph["pieces_left"] == 1
    run, result = run_files(*words, "graph.bridge=none")
    assert json.loads((run / "report.json").read_text())["graph"]["pieces_left"] == 3
    assert "The graph is in 3 separate pieces" in result.out


def command(run: Path, sample: Path, *words: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "jobs.cluster_texts",
        "--config",
        str(LAPTOP),
        f"run.dir={run}",
        f"read.paths={sample}",
        *words,
    ]


def server_processes(run: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(run / "store").encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.full
def test_a_damaged_manifest_is_told_and_starting_anew_helps(run_files, tmp_path):
    (tmp_path / "none.csv").write_text("id,title\n", encoding="utf-8")
    words = [f"read.paths={tmp_path / 'none.csv'}"]
    run, result = run_files(*words)
    assert result.status == 0, result.err
    (run / "manifest.json").write_text("{", encoding="utf-8")
    _, result = run_files(*words)
    assert result.status == 2
    assert "is damaged" in result.err
    assert "start anew with run.resume=false" in result.err
    _, result = run_files(*words, "run.resume=false")
    assert result.status == 0, result.err
    assert RunDir(run).report["counts"]["records"] == 0


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_two_starts_on_one_directory_refuse_each_other(run_files, sample, tmp_path):
    run = RunDir(tmp_path / "run")
    with run.locked():
        _, result = run_files(f"read.paths={sample}")
    assert result.status == 2
    assert "in use by another run" in result.err


@pytest.mark.full
def test_a_run_that_cannot_fit_is_refused_before_its_work(covey, undisturbed, tmp_path, monkeypatch):
    run = RunDir(tmp_path / "run")
    words = [*undisturbed.words, f"run.dir={run.path}"]
    nodes = [replace(node, memory_bytes=100 << 20) for node in live_nodes()]
    monkeypatch.setattr("clustering.preflight.live_nodes", lambda: nodes)
    result = covey(*words)
    assert result.status == 2
    assert re.search(
        r"error: graph needs \d+ MiB of memory on a node, and one of 2 cores has 100 MiB for work", result.err
    )
    assert "take a larger one, or lower search.k or graph.k (run.check=false tries it all the same)" in result.err
    assert list(run.manifest["stages"]) == ["read"]
    assert list(run.manifest["plan"]) == list(STAGE_ARTEFACTS)
    assert covey(*words, "run.check=false").status == 0


@pytest.mark.nightly
def test_words_count_beside_the_encoder_also_for_new_texts(run_files, covey, sample, tmp_path):
    run, result = run_files(f"read.paths={sample}", "search.k=30", "embed.lexical=0.35")
    assert result.status == 0, result.err
    report = json.loads((run / "report.json").read_text())
    assert (report["embed"]["lexical"], report["embed"]["dim"], report["search"]["recall"]) == (0.35, 512, 1.0)
    told = "512 dimensions, 256 of them for words, whose share in the cosine is 0.35"
    assert told in (run / "report.html").read_text()
    titles, new, output = pyarrow.csv.read_csv(sample)["title"], tmp_path / "new.csv", tmp_path / "placed.parquet"
    pyarrow.csv.write_csv(pa.table({"id": range(300), "title": pc.utf8_upper(titles.slice(0, 300))}), new)
    assert covey("assign", "--run", run, "--input", new, "--output", output).status == 0
    label, placed = (pq.read_table(file)["label"].to_numpy()[:300] for file in (run / "labels.parquet", output))
    assert (placed == label)[placed >= 0].mean() > 0.85  # letters in capitals are other tokens, and the same words
    assert (placed >= 0).sum() > 200
    vectors = read_columns(RunDir(run) / "vectors", ["vector"])
    before = RunDir(run).manifest["stages"]["embed"]["finished"]
    assert covey("run", "--config", LAPTOP, f"run.dir={run}", f"read.paths={sample}", "search.k=30",
                 "embed.lexical=0").status == 0  # fmt: skip
    assert RunDir(run).manifest["stages"]["embed"]["finished"] != before
    assert vectors_of(read_columns(RunDir(run) / "vectors", ["vector"])).shape == (len(vectors), 256)
