"""A folder in; the URI of Milvus Lite out, which runs in its own process on a loopback port while a block runs."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clustering.errors import ConfigError, StoreError

log = logging.getLogger("covey")
START_TIMEOUT_S = 30  # until a started server answers
QUICK_EXIT_S = 6  # a server that ends within this time after its start has ended quickly
MAX_QUICK_EXITS = 6  # in a row, after which the server is not started again
LEAST_FREE = 16 << 20  # bytes of the disk; with fewer, an error of the server is one of the disk
GIVEN_UP = "given-up"  # in the store's folder: why the server is not started again, for workers that wait for it


@contextmanager
def embedded_server(folder: Path) -> Iterator[str]:
    """Run Milvus Lite on a free loopback port, with its data in ``folder``; yield its URI.

    A server that dies is started again on the same port; what it has confirmed is on the disk. A watcher ends the
    server when this process is gone, even if it was killed, and the server dies with its watcher.
    Raises: StoreError when it does not start; ConfigError without Milvus Lite.
    """
    spec = importlib.util.find_spec("milvus_lite")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(["store.uri=embedded needs Milvus Lite, which has no wheel for this platform; name a server"])
    binary = Path(spec.submodule_search_locations[0]) / "lib" / "milvus"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _reserved_port() as port:
        server = _Server(binary, folder, port)
        try:
            server.start()
            threading.Thread(target=server.keep, name="covey-embedded-milvus", daemon=True).start()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stop()


def reason_given_up(home: str | None) -> str:
    """Why the embedded server of a folder cannot work again; "" while it may, and without a folder.

    To a request that finds the disk full it says no more than "Unexpected error", which may pass.
    """
    if not home:
        return ""
    with contextlib.suppress(OSError):
        if (free := shutil.disk_usage(home).free) < LEAST_FREE:
            return f"the embedded Milvus has no space left: {free:,} bytes are free on the disk of {home}"
    try:
        return (Path(home) / GIVEN_UP).read_text(encoding="utf-8")
    except OSError:
        return ""


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port that no other process gets meanwhile; the server shares it, as gRPC's servers do."""
    with socket.socket() as reserving:  # bound, but not listening, so no connection comes here
        if hasattr(socket, "SO_REUSEPORT"):
            reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserving.bind(("127.0.0.1", 0))
        yield reserving.getsockname()[1]


class _Server:
    """The watcher's process with the server below it, in a process group of their own."""

    def __init__(self, binary: Path, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.command = [
            sys.executable, "-I", "-S", "-c", _WATCHER, str(binary), str(folder / "milvus.db"), f"127.0.0.1:{port}",
            "ERROR",
        ]  # fmt: skip
        self.log = folder / "server.log"
        self.stopping = threading.Event()
        self.starting = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers; StoreError when it ends, or is silent for START_TIMEOUT_S."""
        with contextlib.suppress(OSError):
            (self.folder / GIVEN_UP).unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.stopping.is_set():
            if self.process.poll() is not None:
                raise StoreError(
                    f"the embedded Milvus ended at once (status {self.process.returncode}); see {self.log}"
                )
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            if time.monotonic() > deadline:
                self._kill()
                raise StoreError(f"the embedded Milvus did not come up within {START_TIMEOUT_S} s; see {self.log}")
            time.sleep(0.05)

    def keep(self) -> None:
        """Start the server again whenever it ends, until several quick exits in a row."""
        quick_exits = 0
        while self.process is not None:
            started = time.monotonic()
            status = self.process.wait()
            with self.starting:
                if self.stopping.is_set():
                    return
                self._kill()  # what a killed watcher may have left
                quick_exits = quick_exits + 1 if time.monotonic() - started < QUICK_EXIT_S else 1
                reason = f"the embedded Milvus ended (status {status}); see {self.log}"
                if quick_exits >= MAX_QUICK_EXITS:
                    reason += f". It did so {quick_exits} times, each within {QUICK_EXIT_S} s of its start"
                    log.warning("store: %s; it is not started again", reason)
                    with contextlib.suppress(OSError):
                        (self.folder / GIVEN_UP).write_text(reason, encoding="utf-8")
                    return
                log.warning("store: %s. It is started again", reason)
                with contextlib.suppress(StoreError, OSError):  # then it has ended again
                    self.start()
            self.stopping.wait(0.1 * quick_exits)

    def stop(self) -> None:
        self.stopping.set()
        with self.starting:
            if self.process is None:
                return
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=10)
            self._kill()
            self.process.wait()

    def _kill(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


# The watcher ends the server when its standard input closes, which the kernel does when the job's process is gone. It
# ends when the server ends, so that the job's process notices. The server dies with its watcher: on Linux the kernel
# signals a parent's death, elsewhere the job's process kills what is left of the group.
_WATCHER = """
import ctypes, os, signal, subprocess, sys, threading
libraries = os.path.dirname(sys.argv[1])
# The server aborts without a HOME; services and containers may have none.
environment = {"HOME": os.getcwd(), **os.environ, "LD_LIBRARY_PATH": libraries, "DYLD_LIBRARY_PATH": libraries}
prctl = getattr(ctypes.CDLL(None), "prctl", None)
die_with_me = (lambda: prctl(1, signal.SIGKILL)) if prctl else None
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, env=environment, preexec_fn=die_with_me)
def end():
    while sys.stdin.buffer.read(1):
        pass
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
threading.Thread(target=end, daemon=True).start()
status = server.wait()
os._exit(status if status >= 0 else 128 - status)
"""
