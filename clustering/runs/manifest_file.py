"""The manifest of a run directory, and who may write it: one process, which shows at each write that it still may."""

from __future__ import annotations

import contextlib
import copy
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clustering.errors import ConfigError, StageError
from clustering.runs.inventory import LOCK, MANIFEST
from clustering.runs.locks import (
    LEASE_S,
    ConflictError,
    FencedObject,
    Lease,
    LocalLock,
    UnsupportedError,
    hold_local,
    local_in_use,
    remote_in_use,
)
from clustering.runs.manifest import KEYS, parse_manifest
from clustering.runs.object_store import RemotePath
from clustering.runs.storage import Location, json_bytes, write_json
from clustering.schema import Figures


class ManifestFile:
    """manifest.json of a run directory: read by anybody, changed by the process that holds the directory."""

    def __init__(self, root: Location) -> None:
        self.root = root
        self.cached: Figures | None = None  # the content, while this process holds the directory and nobody else writes
        self.lease: Lease | None = None  # that this process holds in an object store
        self.local_lock: LocalLock | None = None  # that this process holds on a file system
        self.fence: FencedObject | None = None  # the manifest there, which only who wrote it last can replace
        self.changing = threading.RLock()  # stages may run on threads of one driver
        self.changes = 0  # counts them, for those who keep what they have derived

    @property
    def content(self) -> Figures:
        return self.read() if self.cached is None else copy.deepcopy(self.cached)

    def read(self) -> Figures:
        try:
            return parse_manifest((self.root / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"id": uuid.uuid4().hex[:12], "stages": {}}
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                [f"{self.root / MANIFEST} is damaged ({error}); start anew with run.resume=false"]
            ) from None
        except OSError as error:
            raise ConfigError([f"{str(self.root)[:200]} is no run directory: {error.strerror or error}"]) from None

    @property
    def id(self) -> str:
        """Tells this run's collection from those of others; kept for the life of the directory."""
        if not (self.root / MANIFEST).exists():
            self.update()
        return str(self.content["id"])

    def update(self, **entries: Any) -> None:
        """Raises: StageError when the directory that this process holds has vanished, or is held by another now."""
        with self.changed() as manifest:
            manifest.update(entries)

    @contextmanager
    def changed(self) -> Iterator[Figures]:
        """The manifest, to be changed in the block and written at its end; threads wait for each other."""
        with self.changing:
            manifest = self.content
            yield manifest
            assert manifest.keys() <= KEYS, (
                manifest.keys() - KEYS
            )  # what manifest.py does not know, no start would read
            if self.cached is not None and self.fence is None:
                self._refuse_another(manifest)
            if self._is_taken_over():
                raise self._taken_over_error()
            self._write(manifest)
            self.cached = manifest if self.cached is not None else None
            self.changes += 1

    def _write(self, manifest: Figures) -> None:
        if self.fence is None:
            with self.reporting_disk_errors():
                write_json(self.root / MANIFEST, manifest)
            return
        try:
            self.fence.write(json_bytes(manifest))
        except ConflictError:
            self._refuse_another(manifest)
            raise self._taken_over_error() from None
        except UnsupportedError as error:
            raise StageError(
                f"{self.root / MANIFEST}: {error}. When that is mended, the same command goes on"
            ) from None

    @contextmanager
    def reporting_disk_errors(self) -> Iterator[None]:
        """Raises: StageError when the directory's disk is full, or takes no writes any more."""
        try:
            yield
        except OSError as error:
            raise StageError(f"run.dir {self.root}: {error}. When that is mended, the same command goes on") from error

    def _refuse_another(self, manifest: Figures) -> None:
        """Raises: StageError when what lies there is not what this process has last written."""
        if not (self.root / MANIFEST).exists() or (found := self.read())["id"] != manifest["id"]:
            raise StageError(
                f"{self.root} has vanished while the run was at work, or another run has taken its place. What it held "
                f"is lost; start again with a run.dir that stays"
            )
        if self.cached is not None and found.get("owner") != self.cached.get("owner"):
            raise self._taken_over_error()

    def _taken_over_error(self) -> StageError:
        why = f"this process gave no sign of life for {LEASE_S} s"
        if self.local_lock is not None:
            why = f"its file {LOCK} was removed while this process held it"
        return StageError(f"{self.root} was taken over by another run, as {why}. That one goes on")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process; a damaged manifest is left as it is.

        Raises: ConfigError when another process holds it, or it cannot be written.
        """
        with self._locally_locked() if isinstance(self.root, Path) else self._leased():
            with contextlib.suppress(ConfigError):  # a damaged manifest is told later
                self.cached = {**self.read(), "id": self.id}
                if self.lease is not None:
                    self.update(owner=self.lease.owner)
            try:
                yield
            finally:
                self.cached = None
                self.changes += 1

    @contextmanager
    def _locally_locked(self) -> Iterator[None]:
        assert isinstance(self.root, Path)
        with hold_local(self.root) as self.local_lock:
            try:
                yield
            finally:
                self.local_lock = None

    @contextmanager
    def _leased(self) -> Iterator[None]:
        assert isinstance(self.root, RemotePath)
        with Lease(self.root).held() as self.lease:
            if self.lease.fence is not None:
                self.fence = FencedObject(self.root / MANIFEST)
                self.fence.read()
            try:
                yield
            finally:
                self.lease = self.fence = None

    def _is_taken_over(self) -> bool:
        """Whether another process holds what this one held: it gave no sign of life for too long, or its lock's file
        was removed."""
        if self.local_lock is not None:
            return not self.local_lock.still_holds()
        return self.lease is not None and self.lease.owner_now() not in (self.lease.owner, None)

    def in_use(self) -> bool:
        """Whether a process that lives holds the directory."""
        return local_in_use(self.root) if isinstance(self.root, Path) else remote_in_use(self.root / LOCK)

    def replace_damaged(self) -> None:
        """Begin a manifest in place of one that is damaged."""
        try:
            self.read()
        except ConfigError:
            fresh = {"id": uuid.uuid4().hex[:12], "stages": {}}
            self._write(fresh if self.lease is None else {**fresh, "owner": self.lease.owner})
            self.cached = self.read()
            self.changes += 1
