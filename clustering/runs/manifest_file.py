"""A run directory in; its manifest out, which one process may write after it checks its lock at each write."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clustering.errors import ConfigError, CoveyError, StageError
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
from clustering.runs.storage import Location, json_bytes, write_json
from clustering.schema import Figures

REMOVAL_S = 1  # after an error, for somebody to go on with removing the directory


class ManifestFile:
    """manifest.json of a run directory: every process reads it, the process that holds the directory changes it."""

    def __init__(self, root: Location) -> None:
        self.root = root
        self.cached: Figures | None = None  # the content, while this process holds the directory
        self.lease: Lease | None = None  # on a directory in an object store
        self.local_lock: LocalLock | None = None  # on a directory of a file system
        self.fence: FencedObject | None = None  # the manifest in an object store; only its last writer can replace it
        self.changing = threading.RLock()  # stages may run on threads of one driver
        self.changes = 0  # their count, for caches of what is derived from the manifest

    @property
    def content(self) -> Figures:
        return self.read() if self.cached is None else copy.deepcopy(self.cached)

    def read(self) -> Figures:
        try:
            return parse_manifest((self.root / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"id": uuid.uuid4().hex[:12], "stages": {}}
        except (ValueError, RecursionError) as error:
            problem = f"{self.root / MANIFEST} is damaged ({error}); start anew with run.resume=false"
            raise ConfigError([problem]) from None
        except OSError as error:
            raise ConfigError([f"{str(self.root)[:200]} is no run directory: {error.strerror or error}"]) from None

    @property
    def id(self) -> str:
        """Identifies this run's collection on a server; it never changes."""
        if not (self.root / MANIFEST).exists():
            self.update()
        return str(self.content["id"])

    def update(self, **entries: Any) -> None:
        """Raises: StageError when the directory of this process has vanished, or another process holds it now."""
        with self.changed() as manifest:
            manifest.update(entries)

    @contextmanager
    def changed(self) -> Iterator[Figures]:
        """The manifest, to change inside the block; it is written at the end. Threads wait for each other."""
        with self.changing:
            manifest = self.content
            yield manifest
            assert manifest.keys() <= KEYS, manifest.keys() - KEYS  # parse_manifest refuses other keys
            self._check_in_place()
            self._write(manifest)
            self.cached = manifest if self.cached is not None else None
            self.changes += 1

    @contextmanager
    def _telling_when_lost(self) -> Iterator[None]:
        """Raises: StageError in place of another error, when the directory has vanished meanwhile."""
        try:
            yield
        except CoveyError:  # whose words may be of a file that is gone; an object store does not lose all at once
            if isinstance(self.root, Path):
                with contextlib.suppress(OSError):
                    self._check_in_place()
            raise
        except Exception:
            before, left = self._count_files() + 1, self._count_files()
            while left < before:  # a busy machine takes its time
                time.sleep(REMOVAL_S)
                self._check_in_place()
                before, left = left, self._count_files()
            raise

    def _count_files(self) -> int:
        """Files in the directory; 0 for one in an object store."""
        return sum(len(names) for _, _, names in os.walk(self.root)) if isinstance(self.root, Path) else 0

    def _check_in_place(self) -> None:
        if self.cached is not None and self.fence is None:
            self._refuse_another(self.cached)
        if self._is_taken_over():
            if self.fence is None and self.cached is not None:  # it may have vanished only now
                self._refuse_another(self.cached)
            raise self._taken_over_error()

    def _write(self, manifest: Figures) -> None:
        if self.fence is None:
            # A held folder that has vanished is not made anew: with this manifest it would look as if it were in place.
            held = self.cached is not None
            with self.reporting_disk_errors():
                try:
                    write_json(self.root / MANIFEST, manifest, make_folder=not held)
                except FileNotFoundError:
                    if held:
                        self._refuse_another(manifest)
                    raise
            return
        try:
            self.fence.write(json_bytes(manifest))
        except ConflictError:
            self._refuse_another(manifest)
            raise self._taken_over_error() from None
        except UnsupportedError as error:
            problem = f"{self.root / MANIFEST}: {error}. When that is mended, the same command goes on"
            raise StageError(problem) from None

    @contextmanager
    def reporting_disk_errors(self) -> Iterator[None]:
        """Raises: StageError when the disk is full or refuses writes."""
        try:
            yield
        except OSError as error:
            raise StageError(f"run.dir {self.root}: {error}. When that is mended, the same command goes on") from error

    def _refuse_another(self, manifest: Figures) -> None:
        """Raises: StageError when the manifest is not the one that this process wrote last."""
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
        """Hold the directory for this process; a damaged manifest stays as it is.

        Raises: ConfigError when another process holds it, or it cannot be written; StageError when it vanishes.
        """
        with contextlib.ExitStack() as locks:
            try:
                if isinstance(self.root, Path):
                    self.local_lock = locks.enter_context(hold_local(self.root))
                else:
                    self.lease = locks.enter_context(Lease(self.root).held())
                    if self.lease.fence is not None:
                        self.fence = FencedObject(self.root / MANIFEST)
                        self.fence.read()
                with contextlib.suppress(ConfigError):  # a damaged manifest is reported later
                    self.cached = {**self.read(), "id": self.id}
                    if self.lease is not None:
                        self.update(owner=self.lease.owner)
                with self._telling_when_lost():
                    yield
            finally:
                self.cached = self.local_lock = self.lease = self.fence = None
                self.changes += 1

    def _is_taken_over(self) -> bool:
        """Whether another process took the directory: the lease expired, or the lock's file was removed."""
        if self.local_lock is not None:
            return not self.local_lock.still_holds()
        return self.lease is not None and self.lease.owner_now() not in (self.lease.owner, None)

    def in_use(self) -> bool:
        """Whether a running process holds the directory."""
        return local_in_use(self.root) if isinstance(self.root, Path) else remote_in_use(self.root / LOCK)

    def replace_damaged(self) -> None:
        """Replace a damaged manifest with an empty one."""
        try:
            self.read()
        except ConfigError:
            fresh = {"id": uuid.uuid4().hex[:12], "stages": {}}
            self._write(fresh if self.lease is None else {**fresh, "owner": self.lease.owner})
            self.cached = self.read()
            self.changes += 1
