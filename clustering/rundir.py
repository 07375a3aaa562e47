"""The run directory: where artefacts lie, what is finished, and the manifest; this makes a run restartable."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from clustering.errors import ConfigError, StageError
from clustering.inventory import (
    ARTEFACTS,
    FILES,
    LOCK,
    MANIFEST,
    PASSING,
    PENDING,
    PROGRESS,
    STAGE_ARTEFACTS,
    STAGE_OF,
    contents,
    discard,
    is_half_written,
    is_ours,
    names_in,
    place_in,
    sweep,
    sweep_half_written,
)
from clustering.kernels.cache import made_private
from clustering.locks import (
    DEAD_S,
    ChangedError,
    LocalLock,
    RemoteLock,
    UnsupportedError,
    Versioned,
    hold_local,
    local_in_use,
    remote_in_use,
)
from clustering.manifest import KEYS, parse_manifest
from clustering.storage import ANEW, Place, RemotePath, load_array, move, place, read_schema, read_table, whole

log = logging.getLogger("covey")

Figures = dict[str, Any]
WITHOUT = b"without_vector"  # in the metadata of a part of vectors/: rows whose text has none that can be used


class RunDir:
    """One run's directory, a local path or an s3:// or gs:// URI.

    ``run / name`` is where an artefact lies. Those that are folders lie under their stage's fingerprint, so that a
    worker of an earlier start that writes late writes beside those of a later one; the files that users open come to
    the top when the whole run is done. A stage is finished when the manifest says so, and the manifest is replaced in
    one step after the stage's artefact is complete. Parts appear under their final name only when they are whole.
    """

    def __init__(
        self, path: str | Place, places: dict[str, str] | None = None, patience_s: float | None = None
    ) -> None:
        """places : where artefacts lie, as the driver knew it when it gave the directory to a worker; patience_s : how
        long an object store that fails is waited for."""
        self.path = place(path)
        if patience_s is not None and isinstance(self.path, RemotePath):
            self.path = replace(self.path, patience_s=patience_s)
        self.held: Figures | None = None  # the manifest, while this process holds the directory and nobody else writes
        self.lock: RemoteLock | None = None  # that this process holds in an object store
        self.local_lock: LocalLock | None = None  # that this process holds on a file system
        self.fence: Versioned | None = None  # the manifest there, which only who wrote it last can replace
        self.changing = threading.RLock()  # stages may run on threads of one driver
        self.marks: dict[str, str] = {}  # the fingerprints of this process's own start
        self._given = places
        self._placed: dict[str, str] | None = None  # while nobody else writes, until the manifest changes

    def __reduce__(self) -> tuple[type, tuple[Place, dict[str, str]]]:
        return type(self), (self.path, self.places)  # only this process holds the directory

    def __truediv__(self, name: str) -> Place:
        return self.path / self.places.get(name, name) if name in STAGE_OF else self.path / name

    @property
    def places(self) -> dict[str, str]:
        """The place of each artefact below the directory."""
        if self._given is not None:
            return self._given
        placed = self._placed
        if placed is None:
            placed = self._where(self.manifest)
            self._placed = placed if self.held is not None else None
        return placed

    def _where(self, manifest: Figures) -> dict[str, str]:
        """Of this process's start; of what is finished where it has none; else of what was begun."""
        stages = manifest["stages"] if self.marks else _results(manifest)["stages"]
        begun = {} if "previous" in manifest else manifest.get("begun", {})
        swapped, swapping = manifest.get("swapped", {}), manifest.get("swapping", {})
        found = {}
        for artefact, stage in STAGE_OF.items():
            mark = self.marks.get(stage)
            entry = stages.get(stage)
            if entry and mark in (None, entry["fingerprint"]):
                mark = entry.get("folder", "")
            elif mark is None:
                mark = begun.get(stage, "")
            found[artefact] = place_in(artefact, mark, swapped.get(stage) == mark)
            waiting = place_in(artefact, swapping.get(artefact, ""), False)
            if artefact in swapping and (self.path / waiting).exists():  # its process ended in the midst
                found[artefact] = waiting
        return found

    @property
    def whole(self) -> bool:
        """Whether there are results of a whole run; another start may be at work, or have ended before its end."""
        return _is_whole(self.results)

    @property
    def results(self) -> Figures:
        """The manifest's entries on what users see: of the last whole run, else of the one at work."""
        return _results(self.manifest)

    def local(self, name: str) -> Path:
        """A folder of this machine for what cannot lie in an object store; there it is lost with the machine.

        Raises: ConfigError when the folder that is ours in the temporary directory is somebody else's: it would read
            the texts' vectors, or lead what is written elsewhere.
        """
        if isinstance(self.path, Path):
            return self.path / name
        ours = Path(tempfile.gettempdir()) / f"covey-{os.getuid()}"
        if not made_private(ours):
            found = ours.lstat()
            raise ConfigError(
                [
                    f"{ours} is not a folder that only this user can enter (owner {found.st_uid}, mode "
                    f"{found.st_mode & 0o7777:o}), and the embedded store of {self.path} is to lie there. Remove it, "
                    f"or set TMPDIR to a folder of your own"
                ]
            )
        return ours / self.id / name

    @property
    def manifest(self) -> Figures:
        return self._read_manifest() if self.held is None else copy.deepcopy(self.held)

    def _read_manifest(self) -> Figures:
        try:
            return parse_manifest((self / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"id": uuid.uuid4().hex[:12], "stages": {}}
        except (ValueError, RecursionError) as error:
            raise ConfigError([f"{self / MANIFEST} is damaged ({error}); start anew with run.resume=false"]) from None
        except OSError as error:
            raise ConfigError([f"{str(self.path)[:200]} is no run directory: {error.strerror or error}"]) from None

    @property
    def report(self) -> Figures:
        """Raises: StageError where report.json is missing or damaged."""
        try:
            found = json.loads((self / "report.json").read_text(encoding="utf-8"))
            if not isinstance(found, dict) or "counts" not in found:
                raise ValueError("it holds no report")
        except (OSError, ValueError, RecursionError) as error:
            what = getattr(error, "strerror", None) or str(error)[:200]
            raise StageError(f"{self / 'report.json'} is missing or damaged: {what}. {ANEW}") from None
        return found

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Raises: StageError that names the artefact when one is missing that the block reads."""
        try:
            yield
        except FileNotFoundError as error:
            raise StageError(f"{self.path} is not whole: {error.filename or error} is missing. {ANEW}") from None

    @property
    def id(self) -> str:
        """Tells this run's collection from those of others; kept for the life of the directory."""
        if not (self / MANIFEST).exists():
            self.update_manifest()
        return str(self.manifest["id"])

    @property
    def begun(self) -> dict[str, str]:
        """The fingerprints of stages that are not finished, of which parts may lie there."""
        return self.manifest.get("begun") or {}

    def update_manifest(self, **entries: Any) -> None:
        """Raises: StageError when the directory that this process holds has vanished, or is held by another now."""
        with self._changed() as manifest:
            manifest.update(entries)

    @contextmanager
    def _changed(self) -> Iterator[Figures]:
        """The manifest, to be changed in the block and written at its end; threads wait for each other."""
        with self.changing:
            manifest = self.manifest
            yield manifest
            assert manifest.keys() <= KEYS, (
                manifest.keys() - KEYS
            )  # what manifest.py does not know, no start would read
            if self.held is not None and self.fence is None:
                self._refuse_another(manifest)
            if self._taken_over():
                raise self._taken()
            self._write(manifest)
            self.held = manifest if self.held is not None else None
            self._placed = None

    def _write(self, manifest: Figures) -> None:
        if self.fence is None:
            with self._told():
                write_json(self / MANIFEST, manifest)
            return
        try:
            self.fence.write(json_bytes(manifest))
        except ChangedError:
            self._refuse_another(manifest)
            raise self._taken() from None
        except UnsupportedError as error:
            raise StageError(f"{self / MANIFEST}: {error}. When that is mended, the same command goes on") from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raises: StageError when the directory's disk is full, or takes no writes any more."""
        try:
            yield
        except OSError as error:
            raise StageError(f"run.dir {self.path}: {error}. When that is mended, the same command goes on") from error

    def _refuse_another(self, manifest: Figures) -> None:
        """Raises: StageError when what lies there is not what this process has last written."""
        if not (self / MANIFEST).exists() or (found := self._read_manifest())["id"] != manifest["id"]:
            raise StageError(
                f"{self.path} has vanished while the run was at work, or another run has taken its place. What it held "
                f"is lost; start again with a run.dir that stays"
            )
        if self.held is not None and found.get("owner") != self.held.get("owner"):
            raise self._taken()

    def _taken(self) -> StageError:
        why = f"this process gave no sign of life for {DEAD_S} s"
        if self.local_lock is not None:
            why = f"its file {LOCK} was removed while this process held it"
        return StageError(f"{self.path} was taken over by another run, as {why}. That one goes on")

    def remove(self, name: str) -> None:
        """Remove an artefact, as far as Covey has written it."""
        discard(self.path, self.places.get(name, name))

    def refuse_foreign(self) -> None:
        """Raises: ConfigError when the directory holds something and no run of Covey's."""
        names = self._contents()
        if not names or self._holds_run(names):
            return
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ConfigError(
            [
                f"run.dir {self.path} is not empty and holds no run of Covey, but {shown}; nothing there was touched. "
                f"Take a directory that is empty or not there yet"
            ]
        )

    def _contents(self) -> list[str]:
        try:
            return contents(names_in(self.path))
        except OSError:  # the lock will say what is wrong
            return []

    def _holds_run(self, names: list[str]) -> bool:
        begun = [name for name in names if name != LOCK and not is_half_written(name)]
        if MANIFEST not in begun:
            return not begun  # a start that ended before its first entry
        try:
            self._read_manifest()
        except ConfigError:  # damaged, or somebody else's
            return LOCK in names or all(is_ours(name) or name in ARTEFACTS for name in begun)
        return True

    def holds(self, uri: str) -> bool:
        """Whether a path or URI is the directory or lies below it, links followed."""
        try:
            other = place(uri)
        except ConfigError:  # it is neither
            return False
        if isinstance(self.path, RemotePath):
            return isinstance(other, RemotePath) and f"{other.inner}/".startswith(f"{self.path.inner}/")
        if isinstance(other, RemotePath):
            return False
        if not self.path.exists():
            return other.is_relative_to(self.path)
        real = Path(os.path.realpath(other))
        return any(above.exists() and above.samefile(self.path) for above in (real, *real.parents))

    def wrote(self, uri: str) -> bool:
        """Whether a path or URI is a file of the directory that Covey has written."""
        if not self.holds(uri):
            return False
        if isinstance(self.path, RemotePath):
            return is_ours(RemotePath.of(uri).inner[len(self.path.inner) + 1 :])
        return is_ours(os.path.relpath(os.path.realpath(str(place(uri))), os.path.realpath(self.path)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process.

        The kernel frees a local lock with the process, however it ends; in an object store the holder gives signs of
        life, and is taken for dead without them.
        Raises: ConfigError when another process holds it, it cannot be written, or holds what Covey did not write.
        """
        self.refuse_foreign()
        with self._local_lock() if isinstance(self.path, Path) else self._remote_lock():
            with contextlib.suppress(ConfigError):  # a damaged manifest is told later
                self.held = {**self._read_manifest(), "id": self.id}
                if self.lock is not None:
                    self.update_manifest(owner=self.lock.owner)
            if isinstance(self.path, Path):
                sweep_half_written(self.path)
            if self.held is not None:
                self._finish()
            try:
                yield
            finally:
                self.held = self._placed = None

    @contextmanager
    def _local_lock(self) -> Iterator[None]:
        assert isinstance(self.path, Path)
        with hold_local(self.path) as self.local_lock:
            try:
                yield
            finally:
                self.local_lock = None

    @contextmanager
    def _remote_lock(self) -> Iterator[None]:
        assert isinstance(self.path, RemotePath)
        with RemoteLock(self.path).held() as self.lock:
            if self.lock.versioned is not None:
                self.fence = Versioned(self.path / MANIFEST)
                self.fence.look()
            try:
                yield
            finally:
                self.lock = self.fence = None

    def _taken_over(self) -> bool:
        """Whether another process holds what this one held: it gave no sign of life for too long, or its lock's file
        was removed."""
        if self.local_lock is not None:
            return not self.local_lock.still_holds()
        return self.lock is not None and self.lock.owner_now() not in (self.lock.owner, None)

    def in_use(self) -> bool:
        """Whether a process that lives holds the directory."""
        return local_in_use(self.path) if isinstance(self.path, Path) else remote_in_use(self.path / LOCK)

    def mend(self) -> None:
        """Begin a manifest in place of one that is damaged."""
        try:
            self._read_manifest()
        except ConfigError:
            fresh = {"id": uuid.uuid4().hex[:12], "stages": {}}
            self._write(fresh if self.lock is None else {**fresh, "owner": self.lock.owner})
            self.held, self._placed = self._read_manifest(), None

    def clear(self) -> None:
        """Give up all that earlier starts have left, but for the files that users open: they stay until new ones are
        whole. The manifest goes first: half of an artefact must not pass for a finished one."""
        with self._changed() as manifest:
            for key in manifest.keys() - {"id", "owner"}:
                del manifest[key]
            manifest["stages"] = {}
        self.marks = {}
        sweep(self.path, set())
        discard(self.path, PROGRESS)
        discard(self.local("store").parent, "store")

    def begin(self, marks: dict[str, str], **entries: Any) -> None:
        """Begin a start, or go on: what earlier ones have left under these fingerprints is kept.

        The results of the last whole run stay as they are until ``publish``; other starts' artefacts are removed.
        marks : the fingerprint of each stage; entries : of the manifest, such as the configuration
        """
        with self._changed() as manifest:
            results = _results(manifest)
            whole = {key: results[key] for key in _RESULTS if key in results} if _is_whole(results) else None
            known = [manifest["stages"], *([whole["stages"]] if whole else [])]
            stages = {name: entry for name in marks for entry in [_entry(known, name, marks[name])] if entry}
            stale = [name for name in manifest["stages"] if name not in stages]
            begun = {name: mark for name, mark in manifest.get("begun", {}).items() if mark == marks.get(name)}
            lost = sorted(manifest.get("begun", {}).keys() - begun.keys())
            manifest.pop("previous", None)
            if whole and whole["stages"] == stages:
                manifest.update(whole)
            elif whole:
                manifest["previous"] = whole
            manifest.update(entries, stages=stages, begun=begun)
        if stale:
            log.info("changed configuration or input: %s will be done again", ", ".join(stale))
        if lost:
            log.info("changed configuration or input: what was begun of %s is given up", ", ".join(lost))
        self.marks, self._placed = dict(marks), None
        self._sweep()

    def _sweep(self) -> None:
        """Remove what belongs neither to this start nor to the results that users see."""
        manifest = self.manifest
        kept = set()
        for stages in (manifest["stages"], manifest.get("previous", {}).get("stages", {})):
            for name, entry in stages.items():
                lasting = [artefact for artefact in STAGE_ARTEFACTS[name] if artefact not in PASSING]
                kept |= {place_in(artefact, entry.get("folder", ""), False) for artefact in lasting}
        for name, mark in manifest.get("begun", {}).items():
            kept |= {place_in(artefact, mark, False) for artefact in STAGE_ARTEFACTS[name]}
        sweep(self.path, kept)

    def publish(self) -> None:
        """Put the files that users open in the place of those of the run before, now that all stages are done.

        The manifest says which are being swapped, so that the next start finishes what was interrupted.
        """
        with self._changed() as manifest:
            marks, swapped = self._file_marks(manifest), manifest.get("swapped", {})
            moved = [name for name in FILES if marks.get(STAGE_OF[name], "") != swapped.get(STAGE_OF[name], "")]
            waiting = {name: place_in(name, marks.get(STAGE_OF[name], ""), False) for name in moved}
            made = {name: (self.path / waiting[name]).exists() for name in moved}
            # "": the run before has left one that this one has not
            manifest["swapping"] = {name: marks[STAGE_OF[name]] if made[name] else "" for name in moved}
            manifest["swapped"] = marks
            manifest.pop("previous", None)
        self._settle()

    def _file_marks(self, manifest: Figures) -> dict[str, str]:
        """The stages that leave files for users, each with the fingerprint under which it does."""
        found = {stage: manifest.get("swapped", {}).get(stage, "") for stage in map(STAGE_OF.__getitem__, FILES)}
        found |= {stage: mark for stage, mark in self.marks.items() if stage in found}
        return found | {name: entry.get("folder", "") for name, entry in manifest["stages"].items() if name in found}

    def _settle(self) -> None:
        """Finish a swap that is at hand."""
        swapping = self.manifest.get("swapping")
        if not swapping:
            return
        for artefact, mark in swapping.items():
            waiting = self.path / place_in(artefact, mark, False)
            with self._told():
                if not mark:
                    discard(self.path, artefact)
                elif waiting.exists():
                    move(waiting, self.path / artefact)
        self.update_manifest(swapping={})
        discard(self.path, PENDING)
        self._sweep()

    def _finish(self) -> None:
        """Do what a run that ended between its last stage and the end of the swap has left to do."""
        self._settle()
        manifest = self.manifest
        swapped = manifest.get("swapped", {})
        marks = self._file_marks(manifest)
        if "report" in manifest["stages"] and any(swapped.get(name, "") != mark for name, mark in marks.items()):
            self.publish()

    def forget(self, name: str) -> None:
        """Let a stage be done again, its parts kept."""
        with self._changed() as manifest:
            mark = manifest["stages"].pop(name)["fingerprint"]
            manifest["begun"] = {**manifest.get("begun", {}), name: mark}

    def stage(self, name: str, fingerprint: str, work: Callable[[], Figures]) -> Figures:
        """Run a stage unless it is finished with this fingerprint; return its figures either way.

        work : does the stage's work and returns its figures (counts, ``peak_bytes``; ``warnings``: sentences that the
            log says and the report repeats)
        """
        self.marks[name], self._placed = fingerprint, None
        done = self.manifest["stages"].get(name)
        if done is not None and done["fingerprint"] == fingerprint:
            return dict(done["figures"])
        if self.begun.get(name) != fingerprint:  # else parts that lie there were made by this very stage, and are kept
            self._discard(name)
        with self._changed() as manifest:
            manifest["begun"] = {**manifest.get("begun", {}), name: fingerprint}
        started = time.perf_counter()
        figures = work()
        seconds = time.perf_counter() - started
        with self._changed() as manifest:
            del manifest["begun"][name]
            manifest["stages"][name] = {
                "fingerprint": fingerprint,
                "folder": fingerprint,
                "started": round(time.time() - seconds, 3),
                "finished": round(time.time(), 3),
                "seconds": round(seconds, 3),
                "figures": figures,
            }
        shown = " ".join(f"{key}={_short(key, value)}" for key, value in figures.items() if _is_plain(value))
        fields = {"event": "stage_finished", "stage": name, "seconds": round(seconds, 3), **figures}
        log.info("%s: %s seconds=%.1f", name, shown, seconds, extra={"fields": fields})
        for line in figures.get("warnings", []):
            log.warning("%s: %s", name, line)
        return figures

    def _discard(self, name: str) -> None:
        for artefact in STAGE_ARTEFACTS[name]:
            self.remove(artefact)

    def finished(self, name: str, fingerprint: str) -> bool:
        manifest = self.manifest
        return _entry([manifest["stages"], _results(manifest)["stages"]], name, fingerprint) is not None


# What the manifest keeps of the last whole run while another start is at work.
_RESULTS = ("stages", "config", "versions", "seed", "machine", "plan", "nodes", "expected")


def _results(manifest: Figures) -> Figures:
    return manifest.get("previous") or manifest


def _is_whole(results: Figures) -> bool:
    return "report" in results["stages"]


def _entry(known: list[Figures], name: str, mark: str) -> Figures | None:
    """A stage that was finished with a fingerprint."""
    return next((stages[name] for stages in known if name in stages and stages[name]["fingerprint"] == mark), None)


def fingerprint(*parts: Any) -> str:
    """Digest of what a stage depends on: its configuration, its input, the stages before it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def json_bytes(content: Any) -> bytes:
    return f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode()


def write_json(path: Place, content: Any) -> None:
    with whole(path) as temporary:
        temporary.write_bytes(json_bytes(content))


def write_table(path: Place, table: pa.Table) -> None:
    """Write one Parquet file that is either whole or absent."""
    with whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def save_array(path: Place, array: np.ndarray[Any, Any]) -> None:
    """Write one .npy file that is either whole or absent."""
    with whole(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, array)


def part_name(index: int) -> str:
    return f"part-{index:06d}.parquet"


def parts(folder: Place) -> list[Place]:
    """The finished Parquet parts of an artefact, in row order."""
    return sorted(folder.glob("part-*.parquet"), key=lambda path: path.name)


def names_of(folder: Place) -> list[str]:
    """The names of the finished parts, which are the same in all artefacts."""
    return [path.name for path in parts(folder)]


def read_columns(folder: Place, columns: list[str]) -> pa.Table:
    """Some columns of all parts of an artefact, in row order; for columns that fit in one process."""
    found = parts(folder)
    if not found:
        raise StageError(f"{folder} holds no parts; run the stage that makes it first")
    return pa.concat_tables([read_table(path, columns=columns) for path in found])


def gather(folder: Place, rows: np.ndarray[Any, Any], columns: list[str]) -> pa.Table:
    """Some columns of some rows of an artefact, ascending by row, read part by part."""
    found = []
    for path in parts(folder):
        held = read_table(path, columns=["row"])["row"].to_numpy()
        places = np.flatnonzero(np.isin(held, rows))
        if len(places):
            found.append(read_table(path, columns=columns).take(places))
    return pa.concat_tables(found)


def gather_texts(run: RunDir, rows: np.ndarray[Any, Any]) -> dict[int, str]:
    """The texts of some rows, as they are shown."""
    if not rows.size:
        return {}
    found: dict[int, str] = {}
    for path in parts(run / "texts"):
        held = read_table(path, columns=["row"])["row"].to_numpy()
        places = np.flatnonzero(np.isin(held, rows))
        if len(places):
            shown = ["shown"] if "shown" in read_schema(path).names else []
            table = read_table(path, columns=["text", *shown]).take(places)
            words = pc.coalesce(*(table[name] for name in (*shown, "text")))
            found.update(zip(held[places].tolist(), words.to_pylist(), strict=True))
    return found


def flat_neighbors(path: Place, k: int) -> tuple[np.ndarray[Any, Any], ...]:
    """The k nearest of each list of a part of neighbors/, one entry a neighbor.

    Returns: row int64, place in its list (0 the nearest), neighbor int64, distance float32, each shape (n_entries,)
    """
    table = read_table(path)
    lengths = pc.list_value_length(table["neighbors"]).to_numpy().astype(np.int64)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    near = place < k
    flat = (table[name].combine_chunks().flatten().to_numpy()[near] for name in ("neighbors", "distances"))
    return np.repeat(table["row"].to_numpy(), lengths)[near], place[near], *flat


def load_assignment(run: RunDir) -> pa.Table:
    """label, strength, outlier_score, home and home_strength of every row, in row order."""
    return read_table(run / "assignment.parquet")


def vectors_of(table: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32, shape (n_rows, dim): column ``vector`` without a Python object a row."""
    column = table["vector"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return values.reshape(len(column), column.type.list_size)  # type: ignore[no-any-return]


def stored_vectors(table: pa.Table) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.float32]]]:
    """Rows and vectors of those texts of a part that have a vector; the others' are all zeros."""
    vectors = vectors_of(table)
    there = vectors.any(axis=1)
    return table["row"].to_numpy()[there], vectors if there.all() else vectors[there]


def rows_without_vector(folder: Place) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The rows of vectors/ whose text has none that can be used, ascending."""
    return named_rows(folder, WITHOUT)


def named_rows(folder: Place, key: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The rows that the metadata of an artefact's parts names under a key."""
    named = [(read_schema(path).metadata or {}).get(key, b"").decode() for path in parts(folder)]
    return np.array([int(row) for rows in named for row in rows.split()], np.int64)


def save_graph(folder: Place, graph: csr_array) -> None:
    """Write the graph as three memory-mappable arrays."""
    for name in ("indptr", "indices", "data"):
        save_array(folder / f"{name}.npy", getattr(graph, name))


def load_graph(run: str | Place | RunDir) -> csr_array:
    """The run's distance graph as a symmetric float32 csr_array, memory-mapped, shape (n_texts, n_texts).

    run : a run directory, or its URI
    Raises: StageError when the run has no finished graph.
    """
    folder = (run if isinstance(run, RunDir) else RunDir(run)) / "graph"
    try:
        arrays = [load_array(folder / f"{name}.npy", mapped=True) for name in ("data", "indices", "indptr")]
    except FileNotFoundError as error:
        raise StageError(f"{folder} holds no finished graph ({error.filename} is missing)") from None
    n_texts = arrays[2].size - 1
    return csr_array(tuple(arrays), shape=(n_texts, n_texts))


@dataclass
class Peak:
    """Peak resident memory of this process since the last reset."""

    bytes: int = 0


@contextmanager
def measured_peak() -> Iterator[Peak]:
    """Measure the highest resident memory of this process inside the block (Linux; elsewhere since its start)."""
    peak = Peak()
    _release()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's high-water mark
    try:
        yield peak
    finally:
        peak.bytes = peak_bytes()


def _release() -> None:
    """Give back what this process has freed: a worker goes on to other stages, whose memory it is not."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # glibc's own
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _short(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{value / 2**20:.0f}MiB"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
