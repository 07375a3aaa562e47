"""A run directory in; a lock on it out: the kernel's on a file system, a lease with a heartbeat in an object store."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
import math
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

from clustering.errors import ConfigError, StageError
from clustering.runs.inventory import LOCK
from clustering.runs.object_store import RemotePath, is_transient, object_client

LOCK_ATTEMPTS = 15  # in a second and a half
T = TypeVar("T")
log = logging.getLogger("covey")
HEARTBEAT_S = 10  # between two writes of the lease of a directory in an object store
LEASE_S = 60  # the lease expires so long after its last write
WATCHED_S = 15  # that an expired lease of another machine is watched before it is taken
FAILED_CONDITIONS = (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# File systems on which other machines do not see a lock, with the mount options that cause it; None: always.
UNSHARED_LOCKS = {"nfs": ("nolock", "local_lock=all", "local_lock=flock"), "nfs4": ("nolock", "local_lock=all",
          "local_lock=flock"), "lustre": ("localflock",), "cifs": ("nobrl",), "smb3": ("nobrl",), "fuse.s3fs": None,
          "fuse.gcsfuse": None, "fuse.goofys": None, "fuse.rclone": None, "fuse.mount-s3": None, "fuse.blobfuse2": None,
          "fuse.sshfs": None}  # fmt: skip
_own_leases: set[str] = set()  # fencing tokens of the leases that this process holds


class ConflictError(Exception):
    """An object is not the version that this process read or wrote last."""


class UnsupportedError(Exception):
    """A store takes no conditional writes; the text says why."""


def in_use_error(path: object) -> ConfigError:
    return ConfigError([f"run.dir {path} is in use by another run; wait for it, or choose another"])


@contextmanager
def hold_local(path: Path) -> Iterator[LocalLock]:
    """Hold a local directory; the kernel releases the lock when the process ends.

    Raises: ConfigError when another process holds it, or it cannot be written or locked.
    """
    lock = LocalLock(path)
    try:
        kind = unshared_locks(path)
        if kind:
            log.warning(
                "run.dir %s lies on %s, where two machines do not see each other's locks: start this run from one "
                "machine only", path, kind,
            )  # fmt: skip
        yield lock
    finally:
        lock.handle.close()


class LocalLock:
    """A file that the kernel locks for this process.

    Raises: ConfigError when another process holds it, or it cannot be written or locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = self._held(make_folder=True)

    def _held(self, make_folder: bool) -> Any:
        try:
            if make_folder:
                self.path.mkdir(parents=True, exist_ok=True, mode=0o700)  # only its owner may read the texts
            handle = (self.path / LOCK).open("a+")
        except OSError as error:
            problem = f"run.dir {self.path} cannot be written: {error.strerror}; choose another one"
            raise ConfigError([problem]) from None
        try:
            self._lock(handle)
        except BaseException:
            handle.close()
            raise
        return handle

    def _lock(self, handle: Any) -> None:
        for tried in range(LOCK_ATTEMPTS):  # a process that only checks it, or a child that starts, has it briefly
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if tried == LOCK_ATTEMPTS - 1:
                    raise in_use_error(self.path) from None
                time.sleep(0.1)
            except OSError as error:
                raise _cannot_lock(self.path, error) from None

    def still_holds(self) -> bool:
        """Whether the locked file is still in the directory; a removed one is made and locked again, no directory."""
        try:
            if os.path.samestat(os.stat(self.path / LOCK), os.fstat(self.handle.fileno())):
                return True
        except OSError:
            pass  # it is gone
        try:
            before, self.handle = self.handle, self._held(make_folder=False)
        except ConfigError:
            return False
        before.close()
        return True


def _cannot_lock(path: Path, error: OSError) -> ConfigError:
    why = "its file system has no locks" if error.errno in NO_LOCKS else "its file system refuses a lock"
    problem = (
        f"run.dir {path} cannot be held: {why} ({error.strerror}). Two runs could write there at once: "
        f"mount it with locks (NFS: version 4, or lockd; Lustre: flock), or take another run.dir"
    )
    return ConfigError([problem])


def unshared_locks(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The kind of a file system whose locks other machines do not see; None when they do, or when it is unknown."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return None
    real = os.path.realpath(path)
    mounted = [line for line in lines if len(line) > 3]
    above = [line for line in mounted if os.path.commonpath([real, _decoded(line[1])]) == _decoded(line[1])]
    if not above:
        return None
    _, _, kind, options, *_ = max(above, key=lambda line: len(line[1]))
    causes = UNSHARED_LOCKS.get(kind, ())
    found = None if causes is None else next((word for word in options.split(",") if word in causes), "")
    return None if found == "" else f"{kind} ({found})" if found else kind


def _decoded(mount: str) -> str:
    return mount.replace("\\040", " ").replace("\\011", "\t") if mount.startswith("/") else "/-"


def local_in_use(path: Path) -> bool:
    """Whether a running process holds a local directory."""
    try:
        with (path / LOCK).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


class FencedObject:
    """An object that only a process that knows its last version can replace."""

    def __init__(self, path: RemotePath) -> None:
        self.path = path
        self.bucket, _, self.key = path.inner.partition("/")
        self.seen: Any = None  # the last version by the names of the store; None: there is no object

    def read(self) -> bytes | None:
        """The content, whose version is remembered; None when there is no object."""

        def get() -> bytes | None:
            try:
                found = obstore.get(object_client(self.path.root, self.bucket), self.key)
            except (NotFoundError, FileNotFoundError):
                self.seen = None
                return None
            content = bytes(found.bytes())
            self.seen = {name: found.meta[name] for name in ("e_tag", "version") if found.meta.get(name)}
            return content

        return self._retry(get)

    def write(self, content: bytes, once: bool = False) -> None:
        """Put the next version. Raises: ConflictError when the object is not the version that was seen."""

        def put() -> None:
            mode: Any = "create" if self.seen is None else self.seen
            client = object_client(self.path.root, self.bucket)
            found: Any = obstore.put(client, self.key, content, mode=mode, use_multipart=False)
            self.seen = {name: found[name] for name in ("e_tag", "version") if found.get(name)}

        try:
            self._retry(put, once)
        except FAILED_CONDITIONS:
            before = self.seen
            if self.read() != content:  # otherwise the write succeeded, and only the reply was lost
                self.seen = before  # so that no later write replaces what others wrote
                raise ConflictError from None

    def require_conditional_writes(self, content: bytes) -> None:
        """Raises: UnsupportedError when the store writes although a condition fails; the object holds ``content``."""
        modes: list[Any] = ["create", {"e_tag": '"00000000000000000000000000000000"', "version": "1"}]
        client = object_client(self.path.root, self.bucket)
        for mode in modes:
            put = functools.partial(obstore.put, client, self.key, content, mode=mode, use_multipart=False)
            try:
                self._retry(put)
            except FAILED_CONDITIONS:
                continue
            raise UnsupportedError("it writes although the condition fails")

    def _retry(self, work: Callable[[], T], once: bool = False) -> T:
        deadline = time.monotonic() + self.path.patience_s
        pause = 0.2
        while True:
            try:
                return work()
            except FAILED_CONDITIONS as error:
                if "NoSuchBucket" in str(error):  # for a store, that is no failed condition
                    problem = f"{self.path}: there is no bucket {self.bucket}. Make it, or choose another run.dir"
                    raise StageError(problem) from None
                raise
            except BaseError as error:
                words = " ".join(str(error).split("Debug source")[0].split())[:300]
                if is_transient(error) is not True:  # the store rejects this kind of request
                    raise UnsupportedError(words) from None
                if once or time.monotonic() > deadline:
                    raise StageError(f"{self.path}: {words}. When that is mended, the same command goes on") from None
                time.sleep(pause)
                pause = min(2 * pause, 5)


class Lease:
    """An object that its holder rewrites as a heartbeat; the lease expires without it."""

    def __init__(self, folder: RemotePath) -> None:
        self.folder, self.path = folder, folder / LOCK
        self.owner = uuid.uuid4().hex
        holder = {"owner": self.owner, "host": platform.node(), "pid": os.getpid(), "numbers": pid_namespace()}
        self.content = json.dumps(holder).encode()
        self.fence: FencedObject | None = FencedObject(self.path)  # None: no conditional writes

    @contextmanager
    def held(self) -> Iterator[Lease]:
        """Raises: ConfigError when another process holds the directory, or the store cannot be used."""
        try:
            self._acquire()
        except (OSError, StageError) as error:
            raise ConfigError([f"run.dir cannot be used: {error}"]) from None
        ended = threading.Event()
        thread = threading.Thread(target=self._heartbeat, args=(ended,), daemon=True)
        thread.start()
        _own_leases.add(self.owner)
        try:
            yield self
        finally:
            _own_leases.remove(self.owner)
            ended.set()
            thread.join()
            self._release()

    def _acquire(self) -> None:
        if remote_in_use(self.path) or is_renewed(self.path):  # a store without conditional writes would replace it
            raise in_use_error(self.folder)
        try:
            self._take()
        except ConflictError:  # another process was faster
            raise in_use_error(self.folder) from None
        except UnsupportedError as error:
            self.fence = None
            log.warning(
                "%s takes no conditional writes (%s): two runs that start on it within a second may both take it",
                self.folder, error,
            )  # fmt: skip
            self.path.upload(self.content)
            time.sleep(1)  # of two writes at the same time, the later one stays
            if self.owner_now() != self.owner:
                raise in_use_error(self.folder) from None

    def _take(self) -> None:
        assert self.fence is not None
        try:
            self.fence.write(self.content)
        except ConflictError:  # a lease exists: of a running process, or an expired one
            if remote_in_use(self.path):
                raise
            self.fence.read()
            if remote_in_use(self.path):  # another process took it meanwhile
                raise
            self.fence.write(self.content)
        self.fence.require_conditional_writes(self.content)
        self.fence.read()

    def _heartbeat(self, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_S):
            self._write(self.content)

    def _release(self) -> None:
        self._write(json.dumps({"owner": "", "host": "", "pid": 0}).encode())

    def _write(self, content: bytes) -> None:
        """Write the lease if it is still this process's; errors are ignored, and the lease then expires."""
        with contextlib.suppress(OSError, StageError, ConflictError, UnsupportedError):
            if self.fence is not None:
                self.fence.write(content, once=True)
            elif self.owner_now() == self.owner:
                self.path.upload(content, tries=1)

    def owner_now(self) -> str | None:
        """The fencing token in the object; None when there is none."""
        try:
            return str(json.loads(self.path.read_text())["owner"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None


def remote_in_use(path: RemotePath) -> bool:
    """Whether a lease is that of a running process."""
    return path.age_s() <= LEASE_S and _may_run(path)


def is_renewed(path: RemotePath) -> bool:
    """Whether its holder renews a lease that has expired by this machine's clock, which may be ahead of the store's."""
    before = path.age_s()
    if math.isinf(before) or not _may_run(path):
        return False
    log.info("run.dir %s was held by another machine; is it gone? %d s show it", path.parent, WATCHED_S)
    for _ in range(WATCHED_S):
        time.sleep(1)
        age = path.age_s()
        if age < before:
            return True
        before = age
    return False


def _may_run(path: RemotePath) -> bool:
    """Whether the process that wrote a lease may be running, as far as this machine can tell."""
    try:
        holder = json.loads(path.read_text())
        owner, host, pid = holder["owner"], holder["host"], int(holder["pid"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False
    if not owner:  # it was released
        return False
    here = pid_namespace()
    if host != platform.node() or not here or holder.get("numbers") != here:
        return True  # its process cannot be checked from here
    return owner in _own_leases if pid == os.getpid() else Path(f"/proc/{pid}").exists()


def pid_namespace() -> str:
    """The boot and the container within which process ids are unique; "" when they are unknown.

    The host name identifies neither: clones of a machine, and containers on its network, share it.
    """
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
