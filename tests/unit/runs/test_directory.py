"""directory.py: what is finished stays, what is half done is not taken, and one process holds a run."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustering.errors import ConfigError, StageError
from clustering.runs.directory import RunDir
from clustering.runs.inventory import ARTEFACTS, FILES, FOLDERS, LOCK, STAGE_ARTEFACTS, STAGE_OF, TEMPORARY
from clustering.runs.parts import part_name, parts, read_columns, read_row_texts
from clustering.runs.storage import (
    atomic_write,
    digest,
    move,
    write_json,
    write_table,  # fmt: skip
)

DIGEST, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


class Work:
    """A stage's work that counts how often it was done and leaves parts; it fails after ``fails_after`` parts."""

    def __init__(self, run: RunDir, artefact: str = "texts", n_parts: int = 3) -> None:
        self.run, self.artefact, self.n_parts = run, artefact, n_parts
        self.calls = 0
        self.written: list[str] = []
        self.fails_after: int | None = None

    def __call__(self) -> dict[str, Any]:
        self.calls += 1
        todo = [name for name in map(part_name, range(self.n_parts)) if not (self.run / self.artefact / name).exists()]
        for done, name in enumerate(todo):
            if done == self.fails_after:
                raise InterruptedError("pulled the plug")
            write_table(self.run / self.artefact / name, pa.table({"row": [done]}))
            self.written.append(name)
        return {"parts": self.n_parts, "peak_bytes": 1}


@pytest.fixture
def work(run: RunDir) -> Work:
    return Work(run)


def interrupt(run: RunDir, work: Work, fingerprint: str, after: int, stage: str = "read") -> None:
    work.fails_after = after
    with pytest.raises(InterruptedError):
        run.stage(stage, fingerprint, work)
    work.fails_after = None


# --- stages ---


def test_a_finished_stage_is_not_done_again(run: RunDir, work: Work) -> None:
    first = run.stage("read", DIGEST, work)
    again = RunDir(run.path).stage("read", DIGEST, work)
    assert first == again == {"parts": 3, "peak_bytes": 1}
    assert work.calls == 1
    assert run.finished("read", DIGEST)


def test_a_stage_whose_fingerprint_changed_is_done_again_from_nothing(run: RunDir, work: Work) -> None:
    run.stage("read", DIGEST, work)
    write_table(run / "texts" / part_name(7), pa.table({"row": [7]}))
    run.stage("read", OTHER, work)
    assert work.calls == 2
    assert [path.name for path in parts(run / "texts")] == list(map(part_name, range(3)))
    assert run.finished("read", OTHER)
    assert not run.finished("read", DIGEST)


def test_an_interrupted_stage_keeps_its_whole_parts(run: RunDir, work: Work) -> None:
    interrupt(run, work, DIGEST, after=2)
    assert not run.finished("read", DIGEST)
    run.stage("read", DIGEST, work)
    assert work.calls == 2
    assert work.written == list(map(part_name, range(3)))  # none twice


def test_parts_of_an_interrupted_stage_with_another_fingerprint_are_not_taken(run: RunDir, work: Work) -> None:
    interrupt(run, work, DIGEST, after=2)
    run.stage("read", OTHER, work)
    assert work.written == [part_name(0), part_name(1), *map(part_name, range(3))]


def test_parts_that_no_stage_began_are_not_taken(run: RunDir, work: Work) -> None:
    write_table(run / "texts" / part_name(0), pa.table({"row": [99]}))
    run.stage("read", DIGEST, work)
    assert read_columns(run / "texts", ["row"])["row"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize("slow", [True, False])
def test_an_error_in_a_directory_that_vanished_tells_of_that(gone: bool, slow: bool, run: RunDir) -> None:
    def remove() -> None:
        for number in range(4 if slow else 0):
            (run / f"left-{number}").unlink()
            time.sleep(0.7)
        shutil.rmtree(run.path)

    def fail() -> dict[str, Any]:
        for number in range(4):
            (run / f"left-{number}").touch()
        if gone:
            threading.Timer(0.3, remove).start()
        return [][0]

    kind, says = (StageError, "has vanished") if gone else (IndexError, "out of range")
    with pytest.raises(kind, match=says), run.locked():
        run.stage("graph", DIGEST, fail)


@pytest.mark.parametrize("after", ["_refuse_another", "_check_in_place"])
def test_a_directory_that_vanishes_while_the_manifest_is_written_is_not_made_anew(
    after: str, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> dict[str, Any]:
        def check_and_lose(*args: Any) -> None:
            monkeypatch.undo()
            check(*args)
            run.path.rename(run.path.with_name("elsewhere"))

        check = getattr(run.file, after)
        monkeypatch.setattr(run.file, after, check_and_lose)
        return {}

    with run.locked(), pytest.raises(StageError, match="has vanished"):
        run.stage("read", DIGEST, begin)
    assert not run.path.exists()


def test_a_stage_leaves_the_artefacts_of_others(run: RunDir, work: Work) -> None:
    run.stage("read", DIGEST, work)
    embed = Work(run, "vectors", 1)
    run.stage("embed", DIGEST, embed)
    run.stage("read", OTHER, work)
    assert (run / "vectors" / part_name(0)).exists()
    assert run.finished("embed", DIGEST)


def test_a_forgotten_stage_is_done_again_with_its_parts_kept(run: RunDir, work: Work) -> None:
    run.stage("read", DIGEST, work)
    run.forget("read")
    assert not run.finished("read", DIGEST)
    run.stage("read", DIGEST, work)
    assert work.calls == 2
    assert len(work.written) == 3


def test_every_stage_names_artefacts_of_its_own() -> None:
    named = [name for names in STAGE_ARTEFACTS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) < set(ARTEFACTS)


def test_clearing_keeps_the_id_and_files_of_others(run: RunDir, work: Work) -> None:
    run.stage("read", DIGEST, work)
    mine = run.id
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    run.clear()
    assert run.id == mine
    assert not (run / "texts").exists()
    assert not run.finished("read", DIGEST)
    assert (run / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_artefacts_that_are_half_removed_are_not_taken_for_finished(
    run: RunDir, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.stage("read", DIGEST, work)

    def killed(root: Path, kept: set[str]) -> None:
        raise InterruptedError

    monkeypatch.setattr("clustering.runs.directory.remove_others", killed)
    with pytest.raises(InterruptedError):
        run.clear()
    assert (run.path / "texts" / DIGEST).exists()
    assert not run.finished("read", DIGEST)


def test_a_stage_before_that_is_done_again_leaves_the_parts_of_one_that_was_begun(run: RunDir, work: Work) -> None:
    """The server was away when the search went on: the store is looked through again, nothing is searched twice."""
    run.stage("store", DIGEST, dict)
    search = Work(run, "neighbors")
    interrupt(run, search, DIGEST, after=2, stage="search")
    run.forget("store")
    run.stage("store", DIGEST, dict)
    run.stage("search", DIGEST, search)
    assert search.written == list(map(part_name, range(3)))  # none twice


def test_a_run_keeps_its_id_and_no_two_share_one(tmp_path: Path) -> None:
    one, other = RunDir(tmp_path / "one"), RunDir(tmp_path / "other")
    assert one.id == one.id == RunDir(tmp_path / "one").id
    assert one.id != other.id


# --- what users see while another start is at work ---

STAGES = tuple(STAGE_ARTEFACTS)


def fingerprints_of(fingerprint: str, since: str = "read") -> dict[str, str]:
    """Fingerprints of all stages; those before ``since`` are always the same."""
    return {name: fingerprint if STAGES.index(name) >= STAGES.index(since) else "a" * 16 for name in STAGES}


def leave(run: RunDir, stage: str, fingerprint: str) -> None:
    """A stage's work: each artefact holds the fingerprint that it was made with."""

    def work() -> dict[str, Any]:
        for artefact in STAGE_ARTEFACTS[stage]:
            path = run / artefact
            name = {"graph": "data.npy", "loaded": "filling"}.get(artefact, part_name(0))
            write_json(path / name if artefact in FOLDERS else path, fingerprint)
        for artefact in TEMPORARY:
            if artefact in STAGE_ARTEFACTS[stage]:
                run.remove(artefact)
        return {}

    run.stage(stage, fingerprint, work)


def do_all(run: RunDir, fingerprints: dict[str, str], until: str | None = None, publish: bool = True) -> None:
    """A start; it ends before ``until``, or before the files that users open are swapped in."""
    with run.locked():
        run.begin(fingerprints, config={"made with": fingerprints["report"]})
        for name in STAGES:
            if name == until:
                return
            leave(run, name, fingerprints[name])
        if publish:
            run.publish()


def opened(run: RunDir) -> dict[str, str]:
    """What a user finds in the files that lie in the run directory."""
    assert isinstance(run.path, Path)
    return {name: json.loads((run.path / name).read_text()) for name in FILES if (run.path / name).exists()}


def files_below(run: RunDir) -> list[str]:
    assert isinstance(run.path, Path)
    return sorted(path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file())


def test_a_worker_of_an_earlier_start_that_writes_late_writes_beside(run: RunDir) -> None:
    with run.locked():
        run.begin(fingerprints_of(DIGEST, since="embed"))
        leave(run, "read", "a" * 16)
        interrupt(run, Work(run, "vectors"), DIGEST, after=1, stage="embed")
    late = pickle.loads(pickle.dumps(run))  # as Ray gives it to a worker
    again = RunDir(run.path)
    with again.locked():
        again.begin(fingerprints_of(OTHER, since="embed"))
        write_table(late / "vectors" / part_name(2), pa.table({"row": [99]}))
        interrupt(again, Work(again, "vectors"), OTHER, after=2, stage="embed")
        write_table(late / "vectors" / part_name(2), pa.table({"row": [99]}))
        again.stage("embed", OTHER, Work(again, "vectors"))
        write_table(late / "vectors" / part_name(2), pa.table({"row": [99]}))
        assert read_columns(again / "vectors", ["row"])["row"].to_pylist() == [0, 1, 0]
    assert [name for name in files_below(run) if DIGEST in name] == [f"vectors/{DIGEST}/{part_name(2)}"]
    with again.locked():
        again.begin(fingerprints_of(OTHER, since="embed"))
    assert not [name for name in files_below(run) if DIGEST in name]
    assert len(parts(again / "vectors")) == 3


def test_a_worker_knows_the_places_without_asking_the_manifest(run: RunDir) -> None:
    do_all(run, fingerprints_of(DIGEST), until="search")
    there = pickle.loads(pickle.dumps(run))
    (run / "manifest.json").unlink()
    assert there / "vectors" == run.path / "vectors" / DIGEST
    assert there / "labels.parquet" == run.path / "pending" / DIGEST / "labels.parquet"


@pytest.mark.parametrize("until", ["graph", "cluster", "describe", "plot", "report", None])
def test_an_interrupted_start_leaves_the_results_of_the_run_before(until: str | None, run: RunDir) -> None:
    do_all(run, fingerprints_of(DIGEST, since="graph"))
    old = dict.fromkeys(FILES, DIGEST)
    assert opened(run) == old
    do_all(run, fingerprints_of(OTHER, since="graph"), until=until, publish=False)
    assert opened(run) == old
    seen = RunDir(run.path)  # of a tool, which looks at what is whole
    if until is None:  # all is done but for the swap, which any next start does
        assert json.loads((seen / "labels.parquet").read_text()) == DIGEST
        with seen.locked():
            pass
        assert json.loads((seen / "labels.parquet").read_text()) == OTHER
        assert opened(seen) == dict.fromkeys(FILES, OTHER)
        return
    assert seen.is_complete
    assert seen.results["config"] == {"made with": DIGEST}
    for name in ("graph", "forest", "coords"):
        assert seen / name == run.path / name / DIGEST
        assert list((seen / name).glob("*"))
    assert seen / "report.json" == run.path / "report.json"
    do_all(seen, fingerprints_of(OTHER, since="graph"))
    assert opened(seen) == dict.fromkeys(FILES, OTHER)
    assert not [name for name in files_below(run) if DIGEST in name], "what is replaced goes"
    assert RunDir(run.path).results["config"] == {"made with": OTHER}


@pytest.mark.parametrize("after", range(9))
def test_a_swap_that_is_interrupted_is_finished_by_the_next_start(
    after: int, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_all(run, fingerprints_of(DIGEST, since="graph"))
    moved = []

    def killed(path: Path, to: Path) -> None:
        if len(moved) == after:
            raise KeyboardInterrupt
        moved.append(to.name)
        move(path, to)

    monkeypatch.setattr("clustering.runs.inventory.move", killed)
    with pytest.raises(KeyboardInterrupt):
        do_all(run, fingerprints_of(OTHER, since="graph"))
    monkeypatch.undo()
    assert sorted(moved) == sorted(name for name, fingerprint in opened(run).items() if fingerprint == OTHER)
    seen = RunDir(run.path)
    assert {name: json.loads((seen / name).read_text()) for name in FILES} == dict.fromkeys(FILES, OTHER)
    with seen.locked():
        assert opened(seen) == dict.fromkeys(FILES, OTHER)
    assert not [name for name in files_below(run) if DIGEST in name or name.startswith("pending")]


@pytest.mark.parametrize("killed", [None, "emptied", "moved"])
@pytest.mark.parametrize(("before", "after"), [(0, 3), (3, 2), (2, 0)])
def test_labels_that_are_a_folder_take_the_place_of_a_file_and_the_other_way_round(
    before: int, after: int, killed: str | None, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """before, after : parts of the folder; 0: a file"""

    def leave_labels(fingerprint: str, n_parts: int) -> None:
        for number in range(n_parts):
            write_json(run / "labels.parquet" / part_name(number), [fingerprint, n_parts])
        if not n_parts:
            write_json(run / "labels.parquet", [fingerprint, 0])

    def seen(run: RunDir) -> list[Any]:
        path = run / "labels.parquet"
        assert isinstance(path, Path)
        return [json.loads(one.read_text()) for one in (sorted(path.iterdir()) if path.is_dir() else [path])]

    def start(fingerprint: str, n_parts: int) -> None:
        with run.locked():
            run.begin(fingerprints_of(fingerprint, since="report"))
            for name in STAGES[:-1]:
                leave(run, name, "a" * 16)
            run.stage("report", fingerprint, lambda: leave_labels(fingerprint, n_parts) or {})
            assert seen(RunDir(run.path)) == expected if expected else not (run.path / "labels.parquet").exists()
            run.publish()

    expected: list[Any] = []
    start(DIGEST, before)
    expected = [[DIGEST, before]] * max(before, 1)
    assert seen(RunDir(run.path)) == expected

    def end(path: Path, to: Path) -> None:
        if to.name == "labels.parquet":
            if killed == "moved":
                move(path, to)
            raise KeyboardInterrupt
        move(path, to)

    if killed:
        monkeypatch.setattr("clustering.runs.inventory.move", end)
        with pytest.raises(KeyboardInterrupt):
            start(OTHER, after)
        monkeypatch.undo()
    else:
        start(OTHER, after)
    expected = [[OTHER, after]] * max(after, 1)
    assert seen(RunDir(run.path)) == expected
    with RunDir(run.path).locked():
        assert seen(run) == expected
    assert not [name for name in files_below(run) if DIGEST in name or name.startswith("pending")]
    run.clear()
    run.remove("labels.parquet")
    assert not (run.path / "labels.parquet").exists()


def test_going_back_to_the_settings_of_the_results_does_nothing_again(run: RunDir) -> None:
    do_all(run, fingerprints_of(DIGEST, since="graph"))
    before = run.manifest["stages"]
    do_all(run, fingerprints_of(OTHER, since="graph"), until="plot")
    assert RunDir(run.path).finished("report", DIGEST)
    do_all(run, fingerprints_of(DIGEST, since="graph"))
    assert run.manifest["stages"] == before
    assert not [name for name in files_below(run) if OTHER in name]


def test_a_file_that_the_new_results_lack_goes(run: RunDir) -> None:
    do_all(run, fingerprints_of(DIGEST))
    with run.locked():  # a run without texts
        run.begin(fingerprints_of(OTHER))
        leave(run, "read", OTHER)
        leave(run, "report", OTHER)
        run.publish()
    assert opened(run) == dict.fromkeys(STAGE_ARTEFACTS["report"], OTHER)
    with RunDir(run.path).locked():
        assert opened(run) == dict.fromkeys(STAGE_ARTEFACTS["report"], OTHER)


def test_a_first_run_keeps_nothing_twice(run: RunDir) -> None:
    do_all(run, fingerprints_of(DIGEST), until="graph")
    with run.locked():
        run.begin(fingerprints_of(OTHER))
        assert not [name for name in files_below(run) if DIGEST in name], (
            "an unfinished start's parts are given up first"
        )
    do_all(run, fingerprints_of(OTHER))
    lasting = [name for stage in STAGES for name in STAGE_ARTEFACTS[stage] if name not in TEMPORARY]
    assert len([name for name in files_below(run) if name not in ("manifest.json", ".lock")]) == len(lasting)


def test_the_folder_of_source_vectors_that_earlier_versions_wrote_is_removed(run: RunDir) -> None:
    do_all(run, fingerprints_of(DIGEST))
    former = [f"given/{DIGEST}/{part_name(0)}", f"given/{part_name(0)}"]
    for name in former:
        write_json(run.path / name, "vectors")
    with run.locked():
        run.begin(fingerprints_of(DIGEST))
    assert not set(former) & set(files_below(run))
    assert not (run / "given").exists()


def test_starting_anew_leaves_the_files_that_users_open_until_new_ones_are_whole(run: RunDir) -> None:
    do_all(run, fingerprints_of(DIGEST))
    with run.locked():
        run.clear()
        run.begin(fingerprints_of(DIGEST))
        assert [name for name in files_below(run) if DIGEST in name] == []
        assert opened(run) == dict.fromkeys(FILES, DIGEST)
        assert not RunDir(run.path).is_complete
        leave(run, "cluster", DIGEST)
        assert (run.path / "pending" / DIGEST / "tree.parquet").exists()
    do_all(run, fingerprints_of(DIGEST))
    assert opened(run) == dict.fromkeys(FILES, DIGEST)


def test_a_run_of_the_version_before_is_read_where_it_lies(run: RunDir) -> None:
    """It knew no folders of fingerprints: its entries have none, and everything lay at the top."""
    assert isinstance(run.path, Path)
    for stage in STAGES:
        for artefact in set(STAGE_ARTEFACTS[stage]) - set(TEMPORARY):
            path = run.path / artefact
            name = {"graph": "radius.npy", "forest": "core.npy"}.get(artefact, part_name(0))
            write_json(path / name if artefact in FOLDERS else path, DIGEST)
    entry = {"started": 1.0, "finished": 2.0, "seconds": 1.0, "figures": {}}
    fingerprints = fingerprints_of(DIGEST, since="graph")
    stages = {name: {**entry, "fingerprint": fingerprints[name]} for name in STAGES}
    write_json(run / "manifest.json", {"id": "0123456789ab", "stages": stages, "config": {}})
    before = files_below(run)
    old = RunDir(run.path)
    assert old.is_complete
    for artefact in STAGE_OF:
        assert old / artefact == run.path / artefact
    do_all(old, fingerprints_of(OTHER, since="graph"), until="plot")
    assert opened(old) == dict.fromkeys(FILES, DIGEST)
    assert set(before) < set(files_below(run))
    do_all(old, fingerprints_of(OTHER, since="graph"))
    assert opened(old) == dict.fromkeys(FILES, OTHER)
    assert old / "vectors" == run.path / "vectors"  # is kept, and stays
    assert (run.path / "vectors" / part_name(0)).exists()
    assert not [
        name
        for name in files_below(run)
        if name in ("graph/radius.npy", "forest/core.npy", "coords/part-000000.parquet")
    ]


def test_stages_on_threads_of_one_driver_do_not_lose_each_others_entries(run: RunDir) -> None:
    fingerprints = fingerprints_of(DIGEST)
    with run.locked(), ThreadPoolExecutor(8) as pool:
        run.begin(fingerprints)
        list(pool.map(lambda name: leave(run, name, fingerprints[name]), STAGES))
        list(
            pool.map(
                lambda at: run.update_manifest(**[{"seed": 1}, {"dropped": DIGEST}, {"machine": "x"}][at % 3]),
                range(32),
            )
        )
        assert set(run.manifest["stages"]) == set(STAGES)
        assert run.manifest["begun"] == {}
        assert [run.manifest[name] for name in ("seed", "dropped", "machine")] == [1, DIGEST, "x"]


# --- the manifest ---


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
    ],
)
def test_a_damaged_manifest_is_named_with_the_remedy(content: bytes, run: RunDir, work: Work) -> None:
    run.update_manifest()
    (run / "manifest.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"manifest\.json is damaged \(.+\); start anew with run\.resume=false"):
        run.stage("read", DIGEST, work)


ENTRY = {"fingerprint": DIGEST, "started": 1.0, "finished": 2.0, "seconds": 1.0, "figures": {}}
SOUND: dict[str, Any] = {"id": "0123456789ab", "stages": {"read": ENTRY}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "../../etc"}, r"id: string should match pattern .*, got '\.\./\.\./etc'"),
        ({"id": 7}, "id: input should be a valid string, got 7"),
        ({"stages": []}, r"stages: input should be an object, got \[\]"),
        ({"stages": {"../read": ENTRY}}, r"stages\.\.\./read.*: string should match pattern"),
        ({"stages": {"read": {**ENTRY, "fingerprint": "/tmp/x"}}}, r"stages\.read\.fingerprint: string should match"),
        ({"stages": {"read": {**ENTRY, "folder": ".."}}}, r"stages\.read\.folder: string should match pattern"),
        ({"stages": {"read": {**ENTRY, "seconds": "1"}}}, r"stages\.read\.seconds: input should be a valid number"),
        ({"begun": {"embed": "../texts"}}, r"begun\.embed: string should match pattern"),
        ({"swapping": {"../../labels.parquet": DIGEST}}, "swapping.*: string should match pattern"),
        ({"swapping": {"map.html": "../.."}}, r"swapping\.map\.html: string should match pattern"),
        ({"previous": {"stages": {"read": {**ENTRY, "folder": "/"}}}}, r"previous\.stages\.read\.folder"),
        ({"collection": "a b"}, "collection: string should match pattern"),
        ({"surprise": 1}, "surprise: unexpected keyword argument"),
    ],
)
def test_a_prepared_manifest_is_refused(change: dict[str, Any], says: str, run: RunDir) -> None:
    write_json(run / "manifest.json", SOUND)
    assert run.manifest == SOUND
    write_json(run / "manifest.json", {**SOUND, **change})
    with pytest.raises(ConfigError, match=rf"manifest\.json is damaged \({says}"):
        _ = run.manifest


def test_starting_anew_is_a_remedy_for_a_damaged_manifest(run: RunDir, work: Work) -> None:
    run.stage("read", DIGEST, work)
    (run / "manifest.json").write_text("{", encoding="utf-8")
    with run.locked():
        run.replace_damaged_manifest()
        run.clear()
    assert run.manifest["stages"] == {}
    assert not (run / "texts").exists()


def test_the_manifest_keeps_what_it_is_not_told_to_change(run: RunDir) -> None:
    run.update_manifest(seed=3, versions={"covey": "1"})
    run.update_manifest(seed=4)
    assert (run.manifest["seed"], run.manifest["versions"]) == (4, {"covey": "1"})
    assert json.loads((run / "manifest.json").read_text(encoding="utf-8")) == run.manifest


# --- the lock ---


def refused(run: RunDir, says: str) -> None:
    with pytest.raises(ConfigError, match=says), run.locked():
        pass


def test_a_second_holder_is_refused_and_the_lock_is_free_afterwards(run: RunDir) -> None:
    with run.locked():
        refused(run, "is in use by another run; wait for it, or choose another")
    with RunDir(run.path).locked():
        pass


def test_the_lock_of_a_killed_process_is_free(run: RunDir) -> None:
    hold = "import sys, time; from clustering.runs.directory import RunDir\n"
    hold += "with RunDir(sys.argv[1]).locked(): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, run.path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused(run, "is in use by another run")
        holder.kill()
    with run.locked():
        pass


def test_a_driver_whose_lock_was_removed_gives_way_to_the_next(run: RunDir) -> None:
    with run.locked():
        run.update_manifest(seed=1)
        (run / LOCK).unlink()  # as people do with a lock that is in their way
        with RunDir(run.path).locked():
            with pytest.raises(StageError, match=r"taken over by another run, as its file \.lock was removed"):
                run.update_manifest(seed=2)
            assert RunDir(run.path).manifest["seed"] == 1


def test_a_lock_that_was_removed_is_made_again(run: RunDir) -> None:
    with run.locked():
        (run / LOCK).unlink()
        run.update_manifest(seed=1)
        with pytest.raises(ConfigError, match="in use by another run"), RunDir(run.path).locked():
            pass
        run.update_manifest(seed=2)
    assert not run.in_use()
    assert run.manifest["seed"] == 2


def test_a_full_disk_is_told_also_where_the_manifest_meets_it(run: RunDir, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with run.locked():
        monkeypatch.setattr("clustering.runs.manifest_file.write_json", full)
        with pytest.raises(StageError, match=r"run\.dir .*No space left on device\. When that is mended, the same"):
            run.update_manifest(seed=1)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    refused(RunDir(tmp_path / "file/run"), r"run\.dir .*file/run cannot be written: Not a directory; choose another")


# --- files that are whole or absent ---


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_table(path, pa.table({"row": [1]})),
        lambda path: write_json(path, {"row": 1}),
    ],
)
def test_a_written_file_leaves_nothing_beside_it(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "deep/er/file")
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["file"]


def test_a_file_half_written_is_absent_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, "old")
    with pytest.raises(TypeError, match="not JSON serializable"), atomic_write(path) as temporary:
        temporary.write_text(json.dumps("half") + json.dumps(object()), encoding="utf-8")
    assert [found.name for found in tmp_path.iterdir()] == ["file.json"]
    assert json.loads(path.read_text(encoding="utf-8")) == "old"


def test_what_a_killed_process_left_is_no_part(tmp_path: Path) -> None:
    write_table(tmp_path / part_name(0), pa.table({"row": [0]}))
    with atomic_write(tmp_path / part_name(1)) as temporary:
        temporary.write_bytes(b"half")
        assert [path.name for path in parts(tmp_path)] == [part_name(0)]  # as a killed process leaves it


def test_what_a_killed_process_left_half_written_goes_with_the_next_start(run: RunDir, work: Work) -> None:
    run.stage("read", DIGEST, work)
    half = (run / ".report.json.12ab34cd.tmp", run / "texts" / ".part-000009.parquet.0f0f0f0f.tmp")
    for left in half:
        left.write_bytes(b"PAR1")
    (run / ".notes.txt").touch()
    with run.locked():
        assert sorted(path.name for path in run.path.rglob(".*")) == [".lock", ".notes.txt"]
    assert len(parts(run / "texts")) == 3


def test_parts_come_in_row_order(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_table(tmp_path / part_name(number), pa.table({"row": [number]}))
    assert read_columns(tmp_path, ["row"])["row"].to_pylist() == [0, 2, 10]


def test_an_artefact_without_parts_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="texts holds no parts; run the stage that makes it first"):
        read_columns(tmp_path / "texts", ["row"])


def test_texts_are_gathered_from_their_parts(run: RunDir) -> None:
    for part in range(3):
        rows = np.arange(4 * part, 4 * part + 4)
        write_table(run / "texts" / part_name(part), pa.table({"row": rows, "text": [f"text {row}" for row in rows]}))
    assert read_row_texts(run, np.array([9, 1, 9, 0])) == {0: "text 0", 1: "text 1", 9: "text 9"}
    assert read_row_texts(run, np.empty(0, np.int64)) == {}


# --- fingerprints ---


def test_a_fingerprint_tells_what_it_depends_on_apart() -> None:
    same = [digest({"k": 5, "metric": "L2"}, ["a"]), digest({"metric": "L2", "k": 5}, ["a"])]
    others = [digest({"k": 6, "metric": "L2"}, ["a"]), digest({"k": 5, "metric": "L2"}, ["b"]), digest()]
    assert len(set(same)) == 1
    assert len({*same, *others}) == 4


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.lists(st.booleans())))
def test_a_fingerprint_survives_json(settings: dict[str, Any]) -> None:
    assert digest(json.loads(json.dumps(settings))) == digest(settings)


@pytest.mark.parametrize("wrong", ["link", "file", "open", "open to the group"])
def test_the_folder_in_the_temporary_directory_is_ours_alone(tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(RunDir, "id", "abc")
    run, ours = RunDir("s3://bucket/run"), tmp_path / f"covey-{os.getuid()}"
    assert run.local("store") == ours / "abc" / "store"
    assert ours.stat().st_mode & 0o777 == 0o700
    ours.rmdir()
    if wrong == "link":  # somebody else's link to a folder that is ours
        (tmp_path / "mine").mkdir(mode=0o700)
        ours.symlink_to(tmp_path / "mine")
    elif wrong == "file":
        ours.write_text("")
    else:
        ours.mkdir()
        ours.chmod(0o777 if wrong == "open" else 0o770)
    expected = r"not a folder that only this user can enter .*set TMPDIR to a folder of your own"
    with pytest.raises(ConfigError, match=expected):
        run.local("store")


@pytest.mark.parametrize("mode", [0o755, 0o711, 0o750])
def test_a_folder_of_ours_that_others_could_only_read_is_closed_to_them(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(RunDir, "id", "abc")
    ours = tmp_path / f"covey-{os.getuid()}"
    (ours / "abc").mkdir(parents=True)
    ours.chmod(mode)
    assert RunDir("s3://bucket/run").local("store") == ours / "abc" / "store"
    assert ours.stat().st_mode & 0o777 == 0o700
    assert (ours / "abc").exists()


def test_the_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"covey-{os.getuid() + 1}").mkdir(mode=0o700)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=rf"covey-{owner + 1} is not a folder .*owner {owner}, mode 700"):
        RunDir("s3://bucket/run").local("store")
