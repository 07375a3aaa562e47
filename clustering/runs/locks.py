"""Who holds a run directory: one process at a time, by the kernel's lock or by an object that only one can make."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
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

LOCK_ATTEMPTS = 15  # at a lock that is held, in a second and a half
T = TypeVar("T")
log = logging.getLogger("covey")
HEARTBEAT_S = 10  # between two signs of life of the process that holds a directory in an object store
LEASE_S = 60  # without one, the process is taken for dead
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# File systems on which a lock is this machine's alone, by the options of their mount; None: always.
UNSHARED_LOCKS = {"nfs": ("nolock", "local_lock=all", "local_lock=flock"), "nfs4": ("nolock", "local_lock=all",
          "local_lock=flock"), "lustre": ("localflock",), "cifs": ("nobrl",), "smb3": ("nobrl",), "fuse.s3fs": None,
          "fuse.gcsfuse": None, "fuse.goofys": None, "fuse.rclone": None, "fuse.mount-s3": None, "fuse.blobfuse2": None,
          "fuse.sshfs": None}  # fmt: skip
_own_leases: set[str] = set()  # owners of locks in object stores that this process holds


class ConflictError(Exception):
    """An object is not what this process has last seen or written."""


class UnsupportedError(Exception):
    """A store takes no conditional writes, or cannot be asked for them; the text says why."""


def in_use_error(path: object) -> ConfigError:
    return ConfigError([f"run.dir {path} is in use by another run; wait for it, or choose another"])


@contextmanager
def hold_local(path: Path) -> Iterator[LocalLock]:
    """Hold a local directory; the kernel frees the lock with the process, however it ends.

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
        self.handle = self._held()

    def _held(self) -> Any:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)  # texts are their owner's business
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
        """Whether the file that is locked is the one that lies there; one that somebody has removed is made again."""
        try:
            if os.path.samestat(os.stat(self.path / LOCK), os.fstat(self.handle.fileno())):
                return True
        except OSError:
            pass  # it is gone
        try:
            before, self.handle = self.handle, self._held()
        except ConfigError:
            return False
        before.close()
        return True


def _cannot_lock(path: Path, error: OSError) -> ConfigError:
    why = "its file system has no locks" if error.errno in NO_LOCKS else "its file system refuses a lock"
    return ConfigError(
        [
            f"run.dir {path} cannot be held: {why} ({error.strerror}). Two runs could write there at once: "
            f"mount it with locks (NFS: version 4, or lockd; Lustre: flock), or take another run.dir"
        ]
    )


def unshared_locks(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The kind of a file system whose locks other machines do not see, None where they do or nobody tells."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return None
    real = os.path.realpath(path)
    whole = [line for line in lines if len(line) > 3]
    above = [line for line in whole if os.path.commonpath([real, _decoded(line[1])]) == _decoded(line[1])]
    if not above:
        return None
    _, _, kind, options, *_ = max(above, key=lambda line: len(line[1]))
    lonely = UNSHARED_LOCKS.get(kind, ())
    found = None if lonely is None else next((word for word in options.split(",") if word in lonely), "")
    return None if found == "" else f"{kind} ({found})" if found else kind


def _decoded(mount: str) -> str:
    return mount.replace("\\040", " ").replace("\\011", "\t") if mount.startswith("/") else "/-"


def local_in_use(path: Path) -> bool:
    """Whether a process holds a local directory."""
    try:
        with (path / LOCK).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


class FencedObject:
    """An object of which only who has seen the last version can write the next."""

    def __init__(self, path: RemotePath) -> None:
        self.path = path
        self.bucket, _, self.key = path.inner.partition("/")
        self.seen: Any = None  # what the store calls the last version; None: there is no object

    def read(self) -> bytes | None:
        """The content, which is remembered as seen; None where there is no object."""

        def get() -> bytes | None:
            try:
                found = obstore.get(object_client(self.path.root, self.bucket), self.key)
            except (NotFoundError, FileNotFoundError):
                self.seen = None
                return None
            content = bytes(found.bytes())
            self.seen = {name: found.meta[name] for name in ("e_tag", "version") if found.meta.get(name)}
            return content

        return self._again(get)

    def write(self, content: bytes, once: bool = False) -> None:
        """Put the next version. Raises: ConflictError when the object is no longer the one that was seen."""

        def put() -> None:
            mode: Any = "create" if self.seen is None else self.seen
            client = object_client(self.path.root, self.bucket)
            found: Any = obstore.put(client, self.key, content, mode=mode, use_multipart=False)
            self.seen = {name: found[name] for name in ("e_tag", "version") if found.get(name)}

        try:
            self._again(put, once)
        except (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError):
            before = self.seen
            if self.read() != content:  # else it was written, and only the answer was lost
                self.seen = before  # so that nothing is written over what others have written
                raise ConflictError from None

    def require_conditional_writes(self, content: bytes) -> None:
        """Raises: UnsupportedError when the store writes though a condition does not hold; ``content`` lies there."""
        modes: list[Any] = ["create", {"e_tag": '"00000000000000000000000000000000"', "version": "1"}]
        client = object_client(self.path.root, self.bucket)
        for mode in modes:
            put = functools.partial(obstore.put, client, self.key, content, mode=mode, use_multipart=False)
            try:
                self._again(put)
            except (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError):
                continue
            raise UnsupportedError("it writes whatever the condition says")

    def _again(self, work: Callable[[], T], once: bool = False) -> T:
        deadline = time.monotonic() + self.path.patience_s
        pause = 0.2
        while True:
            try:
                return work()
            except (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError):
                raise
            except BaseError as error:
                words = " ".join(str(error).split("Debug source")[0].split())[:300]
                if is_transient(error) is not True:  # then it cannot be asked this way
                    raise UnsupportedError(words) from None
                if once or time.monotonic() > deadline:
                    raise StageError(f"{self.path}: {words}. When that is mended, the same command goes on") from None
                time.sleep(pause)
                pause = min(2 * pause, 5)


class Lease:
    """An object whose holder gives signs of life, and is taken for dead without them."""

    def __init__(self, folder: RemotePath) -> None:
        self.folder, self.path = folder, folder / LOCK
        self.owner = uuid.uuid4().hex
        holder = {"owner": self.owner, "host": platform.node(), "pid": os.getpid(), "numbers": pid_namespace()}
        self.content = json.dumps(holder).encode()
        self.fence: FencedObject | None = FencedObject(self.path)  # None: the store takes no conditional writes

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
        if remote_in_use(self.path):  # before a store that heeds no condition writes over it
            raise in_use_error(self.folder)
        try:
            self._take()
        except ConflictError:  # another was faster
            raise in_use_error(self.folder) from None
        except UnsupportedError as error:
            self.fence = None
            log.warning(
                "%s takes no conditional writes (%s): two runs that start on it within a second are told apart less "
                "surely", self.folder, error,
            )  # fmt: skip
            self.path.upload(self.content)
            time.sleep(1)  # two that write at once: the later one's stays
            if self.owner_now() != self.owner:
                raise in_use_error(self.folder) from None

    def _take(self) -> None:
        assert self.fence is not None
        try:
            self.fence.write(self.content)
        except ConflictError:  # there is one: that of a run at work, or one that was left
            if remote_in_use(self.path):
                raise
            self.fence.read()
            if remote_in_use(self.path):  # taken meanwhile
                raise
            self.fence.write(self.content)
        self.fence.require_conditional_writes(self.content)
        self.fence.read()

    def _heartbeat(self, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError, StageError, ConflictError, UnsupportedError):
                self._write(self.content)

    def _release(self) -> None:
        free = json.dumps({"owner": "", "host": "", "pid": 0}).encode()
        with contextlib.suppress(OSError, StageError, ConflictError, UnsupportedError):
            self._write(free)

    def _write(self, content: bytes) -> None:
        if self.fence is not None:
            self.fence.write(content, once=True)
        elif self.owner_now() == self.owner:
            self.path.upload(content, tries=1)

    def owner_now(self) -> str | None:
        return _owner(self.path)


def _owner(path: RemotePath) -> str | None:
    try:
        return str(json.loads(path.read_text())["owner"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def remote_in_use(path: RemotePath) -> bool:
    """Whether a lock is that of a process that lives."""
    if path.age_s() > LEASE_S:
        return False
    try:
        held = json.loads(path.read_text())
        owner, host, pid = held["owner"], held["host"], int(held["pid"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False
    if not owner:  # given back
        return False
    here = pid_namespace()
    if host != platform.node() or not here or held.get("numbers") != here:
        return True  # as far as anybody can tell
    return owner in _own_leases if pid == os.getpid() else Path(f"/proc/{pid}").exists()


def pid_namespace() -> str:
    """What processes share that see each other's numbers: the machine's start, and their container; "" for unknown.

    The name of the host tells neither: clones of a machine, and containers on its network, have the same.
    """
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
