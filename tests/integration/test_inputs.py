"""Bad input ends early, with exit status 2 and a message to act on; odd input works to the end."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.mapped import unpacked

pytestmark = [pytest.mark.ray, pytest.mark.full]
Run = Callable[..., tuple[Path, object]]


@pytest.fixture
def run_files(run_files: Run) -> Run:
    """The texts of these tests are made of few words; each is clustered for itself."""
    return lambda *overrides: run_files("read.near_duplicates=keep", *overrides)


def write_csv(path: Path, titles: list[str]) -> Path:
    lines = ["id,title", *(f'n{number},"{title}"' for number, title in enumerate(titles))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def headlines(count: int) -> list[str]:
    places = ["Barbeck", "Calford", "Dorport", "Eldvale", "Fenton", "Garlund", "Halmere"]
    events = ["flood closes the harbour", "council bans scooters", "airport strike goes on", "cup final won late"]
    return [f"{places[n % 7]}: {events[n % 4]} on day {n}" for n in range(count)]


BAD = {
    "no such file": (["read.paths=missing.csv"], "no such file: missing.csv"),
    "a glob that matches nothing": (["read.paths=nothing/*.csv"], "matches no csv, tsv, jsonl, json or parquet file"),
    "a missing text column": (["read.text_columns=[headline]"], "no column 'headline'; its columns are 'id', 'title'"),
    "an unknown key": (["cluster.min_sample=3"], "nearest known one is 'cluster.min_samples'"),
    "k below min_samples": (
        ["search.k=3", "project.n_neighbors=3", "cluster.min_samples=5"],
        "smaller than cluster.min_samples=5",
    ),
    "n_neighbors above k": (["project.n_neighbors=60"], "project.n_neighbors=60 is above search.k=50"),
    "a misspelled encoder": (["embed.encoder=statik"], "nearest known one is 'static'"),
    "a name that no collection may have": (["store.collection=my-news"], "store.collection: string should match"),
    "a parameter that is no number": (
        ["store.index=IVF_FLAT", "store.params.nlist=many"],
        "store.params.nlist='many' is not a whole number",
    ),
    "nobody at the address": (
        ["store.uri=http://127.0.0.1:9", "store.index=HNSW", "store.timeout_s=2"],
        "nothing answers at http://127.0.0.1:9",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_any_work(case, run_files, tmp_path):
    overrides, message = BAD[case]
    given = write_csv(tmp_path / "news.csv", headlines(10))
    run, result = run_files(f"read.paths={given}", *overrides)
    assert result.status == 2
    assert message in result.err
    assert not (run / "texts").exists()


def test_all_problems_are_reported_at_once(run_files, tmp_path):
    _, result = run_files("read.paths=missing.csv", "cluster.min_sample=3", "project.n_neighbors=60", "serch.k=3")
    assert result.status == 2
    assert result.err.count("error: ") == 3  # the configuration's own; files are looked for when it is sound
    for word in ("cluster.min_samples", "n_neighbors=60", "the nearest known one is 'search'"):
        assert word in result.err


def test_the_time_an_unreachable_server_was_tried_is_stated(run_files, tmp_path):
    given = write_csv(tmp_path / "news.csv", headlines(10))
    _, result = run_files(
        f"read.paths={given}", "store.uri=http://127.0.0.1:9", "store.index=null", "store.timeout_s=2"
    )
    assert result.status == 2
    assert "tried for 2 s" in result.err


def test_an_undecodable_file_names_itself_and_the_record(run_files, tmp_path):
    given = tmp_path / "news.csv"
    rows = [f"n{number},größer title {number}".encode() for number in range(5)]
    given.write_bytes(b"\n".join([b"id,title", *rows, b"n5,bad \xff\xfe bytes"]) + b"\n")
    _, result = run_files(f"read.paths={given}")
    assert result.status == 2
    assert f"{given}: line 7, byte 116: can't decode byte 0xff as UTF-8" in result.err


def test_bytes_that_go_bad_deep_in_a_file_are_found_while_reading(run_files, tmp_path):
    given = tmp_path / "news.jsonl"
    lines = [
        json.dumps({"id": str(number), "title": f"größer {number}"}, ensure_ascii=False).encode()
        for number in range(20_000)
    ]
    given.write_bytes(b"\n".join([*lines, b'{"id": "x", "title": "bad \xff"}']))
    _, result = run_files(f"read.paths={given}")
    assert result.status == 2
    assert "line 20,001, byte" in result.err
    assert "read.errors=replace puts U+FFFD in the place of such bytes" in result.err


@pytest.mark.parametrize("name", ["news.jsonl.gz", "news.parquet"])
def test_a_small_file_of_a_huge_record_ends_clearly(name, run_files, tmp_path):
    given = tmp_path / name
    if name == "news.parquet":  # found while reading; the other before any work
        titles = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * (17 << 20)])
        pq.write_table(pa.table({"id": [str(n) for n in range(100_000)], "title": titles}), given, compression="zstd")
    else:
        given.write_bytes(gzip.compress(b'{"id": "1", "title": "') + gzip.compress(b"x" * (4 << 20)) * 256)
    assert given.stat().st_size < 2 << 20
    _, result = run_files(f"read.paths={given}")
    assert result.status == 2
    assert f"error: {given}: " in result.err
    assert "16,777,216" in result.err


def test_no_texts_end_clearly(run_files, covey, tmp_path):
    given = write_csv(tmp_path / "news.csv", ["", "  ", "\t"])
    run, result = run_files(f"read.paths={given}")
    assert result.status == 0
    assert "no texts: 3 records" in result.err
    report = json.loads((run / "report.json").read_text())
    counts = {"records": 3, "texts": 0, "empty": 3, "dropped": 0, "repeated_ids": 0}
    assert report["counts"] == {**counts, "near_duplicates": None, "families": None, "outlets": None}
    assert pq.read_table(run / "labels.parquet").num_rows == 0
    assert "nothing to cluster" in result.out
    assert covey("show", "--run", run).out == "the run has no texts\n"
    for words in (
        ("recluster",),
        ("recluster", "--into", "other"),
        ("assign", "--input", given),
        ("show", "--cluster=0"),
    ):
        refused = covey(*words, "--run", run)
        assert refused.status == 2
        assert "the run has no texts" in refused.err
        assert "covey run first" not in refused.err
    assert "has no map.html: the run has no texts" in covey("open", run, "--map").err
    assert not run.with_name(f"{run.name}-other").exists()


def test_nothing_of_an_earlier_run_stays_when_its_texts_are_gone(run_files, tmp_path):
    given = write_csv(tmp_path / "news.csv", headlines(30))
    run, result = run_files(f"read.paths={given}")
    assert result.status == 0, result.err
    write_csv(given, ["", ""])
    run, result = run_files(f"read.paths={given}")
    assert result.status == 0, result.err
    assert pq.read_table(run / "labels.parquet").num_rows == 0
    assert pq.read_table(run / "clusters.parquet").num_rows == 0
    report = json.loads((run / "report.json").read_text())
    assert report["clusters"]["count"] == 0
    assert set(report["stages"]) == {"read"}
    assert not (run / "vectors").exists()


@pytest.mark.parametrize("count", [1, 2, 12])
def test_fewer_texts_than_neighbors_work(count, run_files, tmp_path):
    given = write_csv(tmp_path / "news.csv", headlines(count))
    run, result = run_files(f"read.paths={given}")
    assert result.status == 0, result.err
    labels = pq.read_table(run / "labels.parquet")
    assert labels["text_id"].to_pylist() == [f"n{number}" for number in range(count)]
    assert (run / "map.html").exists()
    assert (run / "report.html").exists()


def test_equal_texts_are_one_cluster_of_their_records(run_files, tmp_path):
    given = write_csv(tmp_path / "news.csv", ["The very same words"] * 40)
    run, result = run_files(f"read.paths={given}")
    assert result.status == 0, result.err
    assert pq.read_table(run / "texts")["copies"].to_pylist() == [40]
    assert pq.read_table(run / "labels.parquet")["label"].to_pylist() == [0] * 40
    assert pq.read_table(run / "clusters.parquet")["size"].to_pylist() == [40]


def test_texts_whose_vectors_are_equal_do_not_crash(run_files, tmp_path):
    # Static vectors know no word order, so all of these have one vector and distance 0 to each other.
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    titles = [" ".join([*words[turn:], *words[:turn]]) + " word" * repeat for turn in range(5) for repeat in range(16)]
    given = write_csv(tmp_path / "news.csv", [*titles, *headlines(40)])
    run, result = run_files(f"read.paths={given}", "search.k=20")
    assert result.status == 0, result.err
    strength = pq.read_table(run / "labels.parquet")["strength"].to_numpy()
    assert ((strength >= 0) & (strength <= 1)).all()


def test_long_emoji_and_right_to_left_texts_work(run_files, tmp_path):
    odd = ["word " * 20_000, "😀🚀" * 50, "مرحبا بالعالم", "שלום עולם", "نص\u200f مع علامات", "北京今天下雪了"]
    given = tmp_path / "news.jsonl"
    rows = [{"id": str(n), "title": title} for n, title in enumerate([*odd, *headlines(30)])]
    given.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    run, result = run_files(f"read.paths={given}")
    assert result.status == 0, result.err
    assert pq.read_table(run / "labels.parquet").num_rows == 36
    assert json.loads((run / "report.json").read_text())["embed"]["cut"] == 1
    assert "مرحبا بالعالم" in unpacked((run / "map.html").read_text(encoding="utf-8"))["texts"]


def test_nulls_and_numbers_in_a_column_work(run_files, tmp_path):
    given = tmp_path / "news.parquet"
    titles = [*headlines(20), None, None]
    numbers = [*range(20), None, 7]
    pq.write_table(pa.table({"id": [f"n{n}" for n in range(22)], "title": titles, "number": numbers}), given)
    run, result = run_files(f"read.paths={given}", "read.text_columns=[title, number]")
    assert result.status == 0, result.err
    counts = json.loads((run / "report.json").read_text())["counts"]
    assert (counts["records"], counts["texts"], counts["empty"]) == (22, 21, 1)
    texts = pq.read_table(run / "texts")["text"].to_pylist()
    assert texts[3].endswith("on day 3\n3")
    assert texts[-1] == "7"


def test_ids_that_repeat_are_reported_and_kept(run_files, tmp_path):
    given = tmp_path / "news.csv"
    given.write_text("id,title\n" + "".join(f"same,{title}\n" for title in headlines(12)))
    run, result = run_files(f"read.paths={given}")
    assert result.status == 0, result.err
    assert "11 records repeat an id" in result.out
    assert pq.read_table(run / "labels.parquet").num_rows == 12


def test_malformed_records_are_refused_or_counted(run_files, tmp_path):
    given = tmp_path / "news.csv"
    given.write_text(
        "id,title\n" + "".join(f"{n},{title}\n" for n, title in enumerate(headlines(12))) + "one,two,three\n"
    )
    _, result = run_files(f"read.paths={given}")
    assert result.status == 2
    assert f"error: 1 of 13 records are malformed; the first: {given}, line 14: 3 fields" in result.err
    run, result = run_files(f"read.paths={given}", "read.bad_lines=skip")
    assert result.status == 0, result.err
    counts = json.loads((run / "report.json").read_text())["counts"]
    assert (counts["records"], counts["dropped"]) == (12, 1)
    assert "1 malformed records were dropped while reading; the first: " in result.out


def test_columns_are_carried_into_the_labels(run_files, covey, tmp_path):
    given = tmp_path / "news.csv"
    lines = [f'{n},"{title}",{1_700_000_000 + n},agency {n % 3},{n / 2},http://x.org/{n}' for n, title in
             enumerate(headlines(40))]  # fmt: skip
    given.write_text("id,title,at,by,score,url\n" + "\n".join(lines) + "\n")
    words = [
        "read.id_column=id",
        "read.time_column=at",
        "read.source_column=by",
        "read.link_column=url",
        "read.keep=[score, by]",
    ]
    run, result = run_files(f"read.paths={given}", *words)
    assert result.status == 0, result.err
    labels = pq.read_table(run / "labels.parquet")
    types = {"text_id": "int64", "time": "timestamp[us, tz=UTC]", "source": "string", "link": "string",
             "score": "double", "by": "string"}  # fmt: skip
    assert {name: str(labels.schema.field(name).type) for name in types} == types
    assert labels["text_id"].to_pylist() == list(range(40))
    assert labels["time"][7].as_py().timestamp() == 1_700_000_007
    assert labels["score"].to_pylist() == [n / 2 for n in range(40)]
    again = covey("assign", "--run", run, "--input", given)
    assert again.status == 0, again.err
    placed = pq.read_table(run / "assigned.parquet")
    assert placed["text_id"].to_pylist() == list(range(40))
    assert placed.schema.field("text_id").type == pa.int64()
    truth = tmp_path / "truth.csv"
    truth.write_text("id,label\n" + "".join(f"{n},{n % 4}\n" for n in range(40)))
    found = covey("evaluate", "--run", run, "--truth", truth)
    assert found.status == 0, found.err
    assert json.loads(found.out)["truth"]["records"] == 40


def test_rows_do_not_depend_on_how_files_are_cut(run_files, tmp_path):
    titles = [*headlines(50), *headlines(30), *headlines(60)]
    whole = write_csv(tmp_path / "whole.csv", titles)
    folder = tmp_path / "cut"
    folder.mkdir()
    rows = [{"id": f"n{n}", "title": title} for n, title in enumerate(titles)]
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:33]))
    with gzip.open(folder / "b.csv.gz", "wt") as handle:
        handle.write("id,title\n" + "".join(f'{row["id"]},"{row["title"]}"\n' for row in rows[33:70]))
    (folder / "c.tsv").write_text("id\ttitle\n" + "".join(f"{row['id']}\t{row['title']}\n" for row in rows[70:90]))
    pq.write_table(pa.Table.from_pylist(rows[90:]), folder / "d.parquet")
    one, result = run_files(f"read.paths={whole}")
    assert result.status == 0, result.err
    tables = [pq.read_table(one / name) for name in ("texts", "members", "labels.parquet")]
    other, result = run_files(f"read.paths={folder}")
    assert result.status == 0, result.err
    again = [pq.read_table(other / name) for name in ("texts", "members", "labels.parquet")]
    assert tables[0].equals(again[0])
    assert tables[1].equals(again[1])
    assert tables[2].select(["text_id", "label", "home"]).equals(again[2].select(["text_id", "label", "home"]))


def test_a_stray_quote_in_tab_separated_values_swallows_nothing(run_files, tmp_path):
    given = tmp_path / "news.tsv"
    titles = headlines(40)
    titles[3], titles[30] = '"' + titles[3], '"' + titles[30]
    given.write_text("id\ttitle\n" + "".join(f"n{n}\t{title}\n" for n, title in enumerate(titles)))
    run, result = run_files(f"read.paths={given}")
    assert result.status == 0, result.err
    assert pq.read_table(run / "texts")["text"].to_pylist() == titles


def test_a_gpu_that_is_not_there_is_said(run_files, tmp_path):
    given = write_csv(tmp_path / "news.csv", headlines(12))
    _, result = run_files(f"read.paths={given}", "embed.gpus_per_actor=1")
    assert result.status == 2
    assert "Ray has 0 GPUs" in result.err


def test_the_limit_takes_the_first_records(run_files, tmp_path):
    given = write_csv(tmp_path / "news.csv", ["", *headlines(30)])
    run, result = run_files(f"read.paths={given}", "read.limit=11")
    assert result.status == 0, result.err
    counts = json.loads((run / "report.json").read_text())["counts"]
    assert (counts["records"], counts["texts"], counts["empty"]) == (11, 10, 1)
