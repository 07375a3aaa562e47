"""inventory.py: what Covey has written is removed, and nothing else; a run starts only where nothing else lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clustering.cli.main import main
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir
from clustering.runs.inventory import (
    FOLDERS,
    STAGE_ARTEFACTS,
    is_written_by_covey,
    remove_half_written,
    remove_others,
    remove_written,
)
from clustering.runs.storage import write_json

ROOT = Path(__file__).parents[3]
LAPTOP = str(ROOT / "cluster_configs/laptop.yaml")


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, links not followed, with its content."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def written(folder: Path, *names: str) -> Path:
    """A folder with some files, each with its name as its content."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"title\n{name}\n", encoding="utf-8")
    return folder


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str]):
    """``covey run`` with words laid over the laptop configuration; its status and what it says."""

    def run(*words: str) -> tuple[int, str]:
        status = main(["run", "--config", LAPTOP, "read.text_columns=[title]", "read.id_column=null", *words])
        return status, capsys.readouterr().err

    return run


# --- names ---


@pytest.mark.parametrize(
    "inner",
    ["texts/part-000012.parquet", "records/part-000001-000002.parquet", "records/part-000001-000002.npz", ".lock",
     "records/part-000001-000002.arrow", "records/part-000001.arrow", "records/.part-000001.arrow.0123abcd.tmp",
     "loaded/part-000000.parquet.begun", "loaded/_parts.json",
     "vectors/_parts.json", "loaded/bulk.json", "graph/radius.npy", "forest/grain.json", "map.png",
     "store/milvus.db", "store/milvus.db-journal", "store/server.log", "manifest.json", ".report.json.0123abcd.tmp",
     "vectors/.part-000009.parquet.0123abcd.tmp", "vectors/0123456789abcdef/part-000009.parquet",
     "pending/0123456789abcdef/labels.parquet",
     "pending/0123456789abcdef/labels.parquet/.part-000000.parquet.0123abcd.tmp",
     "labels.parquet/part-000000.parquet", "graph/0123456789abcdef/.data.npy.0123abcd.tmp",
     "graph/blocks.json", "graph/0123456789abcdef/block-00012/list_indices.npy",
     "graph/0123456789abcdef/block-00012/.rows.npy.0123abcd.tmp"],
)  # fmt: skip
def test_what_covey_writes_is_known(inner: str) -> None:
    assert is_written_by_covey(inner)


@pytest.mark.parametrize(
    "inner",
    ["texts/a.csv", "texts/part-00000-6f2c.parquet", "texts/deep/part-000001.parquet", "texts", "notes.txt",
     "store/a.db", "graph/data.csv", "mine/map.png", ".notes.tmp", ".notes.txt.0123abcd.tmp",
     "texts/.a.csv.0123abcd.tmp", "forest/radius.npy", "part-000000.parquet", "../map.png",
     "texts/0123456789abcdef/a.csv", "texts/2024/part-000000.parquet", "pending/0123456789abcdef/notes.txt",
     "graph/block-00012/a.npy", "graph/block-12/rows.npy", "forest/block-00012/rows.npy"],
)  # fmt: skip
def test_what_others_write_is_not_ours(inner: str) -> None:
    assert not is_written_by_covey(inner)


# --- removals ---


@pytest.mark.parametrize("artefact", FOLDERS)
def test_a_folder_loses_only_what_covey_wrote(artefact: str, tmp_path: Path) -> None:
    ours = [name for name in ("part-000000.parquet", "part-000000.parquet.done", "data.npy", "core.npy", "bulk.json")
            if is_written_by_covey(f"{artefact}/{name}")]  # fmt: skip
    assert ours
    mine = ["mine.csv", "deep/part-000000.parquet", "part-1.parquet"]
    run = RunDir(written(tmp_path / "run", *(f"{artefact}/{name}" for name in ours + mine)))
    run.remove(artefact)
    assert sorted(files_of(tmp_path / "run")) == sorted(f"{artefact}/{name}" for name in mine)


def test_a_folder_of_covey_goes_with_its_files(tmp_path: Path) -> None:
    run = RunDir(written(tmp_path / "run", "texts/part-000000.parquet", "texts/.part-000001.parquet.0123abcd.tmp"))
    run.remove("texts")
    run.remove("texts")  # what is not there is no error
    assert list((tmp_path / "run").iterdir()) == []


def test_half_written_parts_of_labels_go(tmp_path: Path) -> None:
    waiting = "pending/0123456789abcdef/labels.parquet"
    names = [f"{waiting}/part-000000.parquet", f"{waiting}/.part-000001.parquet.0123abcd.tmp"]
    remove_half_written(written(tmp_path / "run", *names))
    assert list(files_of(tmp_path / "run")) == names[:1]


def test_a_folder_of_labels_loses_only_what_covey_wrote(tmp_path: Path) -> None:
    run = RunDir(written(tmp_path / "run", "labels.parquet/part-000000.parquet", "labels.parquet/mine.csv"))
    run.remove("labels.parquet")
    assert list(files_of(tmp_path / "run")) == ["labels.parquet/mine.csv"]


def test_a_link_to_others_files_is_left(tmp_path: Path) -> None:
    news = written(tmp_path / "news", "a.csv", "map.png")
    run = RunDir(written(tmp_path / "run", "map.png"))
    (tmp_path / "run/texts").symlink_to(news)
    for artefacts in STAGE_ARTEFACTS.values():
        for artefact in artefacts:
            run.remove(artefact)
    assert set(files_of(news)) == {"a.csv", "map.png"}
    assert [path.name for path in run.path.iterdir()] == ["texts"]


def test_artefacts_of_another_run_stay_where_a_link_leads_to_them(tmp_path: Path) -> None:
    """As in a copy of a run that saves the room of its vectors."""
    mark = "0123456789abcdef"
    names = [f"vectors/{mark}/part-000000.parquet", "vectors/part-000000.parquet", "vectors/.core.npy.0123abcd.tmp"]
    other = written(tmp_path / "other", *names, f"pending/{mark}/labels.parquet")
    before = files_of(other)
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    for folder in ("vectors", "pending"):
        (run.path / folder).symlink_to(other / folder)
    remove_others(run.path, set())
    remove_half_written(run.path)
    run.remove("vectors")
    remove_written(run.path, f"vectors/{mark}")
    run.clear()
    assert files_of(other) == before
    (tmp_path / "alias").symlink_to(tmp_path / "other")  # the run directory itself may be a link
    remove_written(tmp_path / "alias", f"vectors/{mark}")
    assert f"vectors/{mark}/part-000000.parquet" not in files_of(other)


def test_a_link_in_the_place_of_a_file_goes_and_not_what_it_leads_to(tmp_path: Path) -> None:
    written(tmp_path, "mine.parquet", "run/notes.txt")
    (tmp_path / "run/labels.parquet").symlink_to(tmp_path / "mine.parquet")
    RunDir(tmp_path / "run").remove("labels.parquet")
    assert set(files_of(tmp_path)) == {"mine.parquet", "run/notes.txt"}


def test_starting_anew_leaves_others_files_in_every_folder(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run.id
    mine = [f"{folder}/mine.csv" for folder in (*FOLDERS, "store", "other")] + ["notes.txt"]
    written(tmp_path / "run", *mine, *(f"{folder}/part-000000.parquet" for folder in FOLDERS), "store/milvus.db")
    run.clear()
    left = set(files_of(tmp_path / "run"))
    assert left >= set(mine)
    assert not [name for name in left - {"manifest.json"} if is_written_by_covey(name)]


def test_only_what_covey_leaves_half_written_is_swept(tmp_path: Path) -> None:
    mine = [".notes.tmp", ".a.csv.0123abcd.tmp", "texts/.x.tmp"]
    half = ["texts/.part-000000.parquet.0123abcd.tmp", "graph/0123456789abcdef/block-00003/.rows.npy.0123abcd.tmp"]
    written(tmp_path, *mine, ".map.png.0123abcd.tmp", *half, "map.png")
    remove_half_written(tmp_path)
    assert set(files_of(tmp_path)) == {*mine, "map.png"}


def test_the_blocks_of_a_graph_go_with_their_folders(tmp_path: Path) -> None:
    blocks = [f"graph/block-{number:05d}/{name}.npy" for number in range(2) for name in ("rows", "list_indptr")]
    run = RunDir(written(tmp_path / "run", *blocks, "graph/blocks.json"))
    run.remove("graph")
    assert list((tmp_path / "run").iterdir()) == []


def test_what_is_no_artefact_is_not_removed(tmp_path: Path) -> None:
    written(tmp_path, "a.csv", "other/part-000000.parquet")
    for inner in ("a.csv", "other", ""):
        remove_written(tmp_path, inner)
    assert set(files_of(tmp_path)) == {"a.csv", "other/part-000000.parquet"}


# --- directories of others ---


def test_a_directory_of_others_is_refused_and_nothing_in_it_is_touched(run_here, tmp_path: Path) -> None:
    news = written(tmp_path / "news", "texts/a.csv", "texts/part-000000.parquet", "report.json", "b", "c", "d", "e")
    before = files_of(news)
    times = {path: path.stat().st_mtime_ns for path in (news, *news.rglob("*"))}
    for words in ([], ["run.resume=false"]):
        status, said = run_here(f"run.dir={news}", f"read.paths={written(tmp_path / 'in', 'a.csv')}", *words)
        assert status == 2
        assert f"run.dir {news} is not empty and holds no run of Covey, but b, c, d, e, report.json and 1 more" in said
        assert "nothing there was touched. Take a directory that is empty" in said
    assert files_of(news) == before
    assert {path: path.stat().st_mtime_ns for path in (news, *news.rglob("*"))} == times


@pytest.mark.parametrize("content", ["{", "{}", '{"name": "my app", "icons": []}'])
def test_a_manifest_of_somebody_else_makes_no_run(content: str, tmp_path: Path) -> None:
    news = written(tmp_path / "news", "texts/a.csv", "notes.txt")
    (news / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds no run of Covey, but manifest\.json, notes\.txt, texts"):
        RunDir(news).refuse_foreign()
    with pytest.raises(ConfigError, match="holds no run of Covey"), RunDir(news).locked():
        pass
    assert set(files_of(news)) == {"manifest.json", "notes.txt", "texts/a.csv"}


@pytest.mark.parametrize(
    "names", [[], [".lock"], ["lost+found/x", ".DS_Store"], [".manifest.json.0123abcd.tmp", ".lock"]]
)
def test_an_empty_directory_and_one_of_a_start_that_ended_at_once_are_taken(names: list[str], tmp_path: Path) -> None:
    run = RunDir(written(tmp_path / "run", *names))
    with run.locked():
        assert run.id
    run.refuse_foreign()


def test_a_directory_of_ours_is_taken_whatever_the_user_has_put_there(tmp_path: Path) -> None:
    with RunDir(tmp_path).locked():
        pass
    written(tmp_path, "notes.txt")
    RunDir(tmp_path).refuse_foreign()


# --- inputs ---


def test_inputs_in_the_run_directory_are_refused_however_they_are_named(run_here, tmp_path: Path, monkeypatch) -> None:
    run = RunDir(tmp_path / "news")
    assert run.id  # a run of ours, so that nothing else is in the way
    written(tmp_path / "news", "texts/a.csv", "in/b.csv")
    before = files_of(tmp_path / "news")
    os.symlink(tmp_path / "news/in", tmp_path / "linked")
    os.symlink(tmp_path / "news", tmp_path / "alias")
    written(tmp_path / "around", "c.csv")
    os.symlink(tmp_path / "news/texts/a.csv", tmp_path / "around/a.csv")
    monkeypatch.chdir(tmp_path)
    given = ["news", "news/texts", "news/texts/*.csv", "news/**/*.csv", "*/texts/*.csv", "linked", "linked/b.csv",
             "around", "alias/in/b.csv",
             f"file://{tmp_path}/news/in/b.csv", f"{tmp_path}/around/../news/in"]  # fmt: skip
    for path in given:
        for directory in ("news", "alias"):
            status, said = run_here(f"run.dir={directory}", f"read.paths={path}")
            assert status == 2, path
            assert f"in run.dir={tmp_path / directory}, which holds artefacts; take another run.dir" in said
    assert files_of(tmp_path / "news") == before


def test_a_directory_that_is_not_there_yet_holds_what_would_lie_in_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "news")
    assert run.contains(str(tmp_path / "news/texts/a.csv"))
    assert not run.contains(str(tmp_path / "newsroom/a.csv"))
    assert not run.contains("s3://bucket/news/a.csv")


def test_a_bucket_holds_its_own_prefix_whatever_the_options_are() -> None:
    run = RunDir("s3://bucket/news?region=eu-west-1")
    assert run.contains("s3://bucket/news/texts/a.csv")
    assert run.contains("s3://bucket/news")
    assert not run.contains("s3://bucket/newsroom/a.csv")
    assert not run.contains("s3://other/news/a.csv")
    assert not run.contains("/bucket/news/a.csv")
    assert not run.contains("s3://[broken")
    assert run.has_written("s3://bucket/news/labels.parquet")


def test_artefacts_of_the_run_itself_are_no_input_of_the_folder_around_it(tmp_path: Path) -> None:
    from clustering.config.loading import build_config
    from clustering.preflight import check_everything

    news = written(tmp_path / "news", "a.csv")
    section = {"paths": [str(news)], "text_columns": ["title"]}
    config = build_config({"run": {"dir": str(news / "run")}, "read": section, "embed": {"encoder": "static"}})
    first = check_everything(config)
    write_json(RunDir(news / "run") / "manifest.json", {"id": "0123456789ab", "stages": {}})
    written(news / "run", "texts/part-000000.parquet", "labels.parquet", "clusters.parquet")
    assert check_everything(config) == first
    assert [file.name for file in first[0]] == ["a.csv"]
    written(news / "run", "more.csv")
    with pytest.raises(ConfigError, match=r"run/more\.csv in run\.dir="):
        check_everything(config)
