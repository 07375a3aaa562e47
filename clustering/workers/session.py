"""Ray for the length of a block: found or started, watched while it is used, and left without a trace."""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray

from clustering.errors import ConfigError, CoveyError, StageError
from clustering.kernels.printable import hide_credentials
from clustering.workers import process

log = logging.getLogger("covey")
ANSWER_S = 20  # that a cluster's head has to take a connection
CONNECT_S = 40  # that it has to take this job in
LOOK_S = 2  # between looks whether Ray is there
GONE_S = {"own": 6, "cluster": 45}  # of silence, after which Ray counts as gone; its own parts give up after 60
LEAVE_S = 10  # that the work has to end when Ray is gone
SOCKET_BYTES = 107 if sys.platform == "linux" else 103  # of a Unix socket's path
BELOW_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray for the length of the block: the connected one, the cluster of RAY_ADDRESS, or a single node of its own.

    A node of its own listens on the loopback address only, and its files are gone at the end, also after SIGKILL.
    Raises: ConfigError for a RAY_ADDRESS that is none, or that nobody answers at; StageError when Ray does not start,
        and when it ends before the block does.
    """
    if ray.is_initialized():
        yield
        return
    address = _given_address()
    with ExitStack() as stack:
        options: dict[str, Any] = {"address": address}
        if address is None:
            folder = stack.enter_context(_own_folder())
            options = {"address": "local", "_temp_dir": str(folder), "include_dashboard": False}
            stack.enter_context(_temporary_files_in(folder))
        with _signals_answered(), _told_in_time(address), _start_in_words(address):
            ray.init(**options, logging_level=logging.ERROR)
        stack.callback(ray.shutdown)  # where the guard does not come to it
        stack.enter_context(_guarded("cluster" if address else "own"))
        yield


def _given_address() -> str | None:
    """RAY_ADDRESS as Ray takes it; None for a node of this machine's own.

    Raises: ConfigError when it is no address of a cluster's head, or nobody answers there.
    """
    given = os.environ.get("RAY_ADDRESS", "").strip()
    shown = hide_credentials(given)
    if given in ("", "local"):
        return None
    if given == "auto":
        return given
    wanted = "give the host:port of a cluster's head (10.0.0.1:6379), or unset it for a Ray of this machine's own"
    kinds = {"ray://": "for Ray's client, which a run cannot use", "http": "a dashboard's, for `ray job submit`"}
    for scheme, kind in kinds.items():
        if given.startswith(scheme):
            raise ConfigError([f"RAY_ADDRESS={shown} is {kind}; {wanted}"])
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@]+):(\d{1,5})", given)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise ConfigError([f"RAY_ADDRESS={shown} is no address; {wanted}"])
    deadline = time.monotonic() + ANSWER_S
    while problem := _refused(found[1].strip("[]"), int(found[2])):
        if time.monotonic() > deadline:
            raise ConfigError([f"RAY_ADDRESS={given} gives no answer for {ANSWER_S} s ({problem}); {wanted}"])
        time.sleep(0.5)
    return given


def _refused(host: str, port: int) -> str:
    """Why a connection cannot be made; "" where it can."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return str(error)
    return ""


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for a Ray that this process starts, short enough for its sockets; a watcher removes it afterwards.

    Raises: ConfigError where there is no place for it.
    """
    longest = SOCKET_BYTES - BELOW_BYTES - len("/covey-12345678")
    places = [os.environ.get("RAY_TMPDIR", ""), tempfile.gettempdir(), "/tmp", "/var/tmp"]
    fitting = [place for place in places if place and len(os.fsencode(place)) <= longest and os.access(place, os.W_OK)]
    if not fitting:
        raise ConfigError(
            [f"Ray needs a folder for its sockets, whose path has at most {longest} bytes, and none of "
             f"{', '.join(filter(None, places))} is one that can be written; set RAY_TMPDIR to one"]
        )  # fmt: skip
    folder = tempfile.mkdtemp(prefix="covey-", dir=fitting[0])
    words = [sys.executable, "-I", "-S", "-c", _SWEEPER, folder, str(os.getpid())]
    watcher = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield Path(folder)
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it goes on by itself
            watcher.wait(timeout=10)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let processes that are started within the block, such as Ray's, leave their temporary files in a folder."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before


# Removes the folder when its standard input closes, which the kernel does when the job's process is gone; what Ray's
# processes still write while they end goes, too. One that was just starting may not notice that it is alone: who still
# has a file of the folder open 3 s later is ended, but not the job's process, which goes on where it is a program's.
_SWEEPER = """
import os, shutil, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
folder = sys.argv[1]
def holds(pid):
    open_files = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{open_files}/{name}").startswith(folder + "/") for name in os.listdir(open_files))
    except OSError:
        return False
sys.stdin.buffer.read()
began = time.monotonic()
while time.monotonic() < began + 40:
    there = [name for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc") else []
    holders = [int(pid) for pid in there if pid != sys.argv[2] and holds(pid)]
    if time.monotonic() > began + 3:
        for pid in holders:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
    shutil.rmtree(folder, ignore_errors=True)
    if not holders and not os.path.exists(folder):
        break
    time.sleep(0.25)
"""


@contextmanager
def _signals_answered() -> Iterator[None]:
    """Answer SIGTERM and SIGINT within the block, in which Ray starts: left half made, it crashes the process later.

    A command ends at once. In a program of others, SIGTERM waits until Ray is there. Ray lays a handler in place of the
    one that is there, and one below Python's that aborts after 3 s; neither stays.
    """
    lay = signal.signal
    before: dict[int, Any] = {number: signal.getsignal(number) for number in process.SIGNAL_EXITS}
    came: list[int] = []

    def laid(number: int, wanted: Any) -> Any:
        if number not in before:
            return lay(number, wanted)
        if number == signal.SIGTERM and not callable(before[number]):  # none was there: Ray's is better than that
            before[signal.SIGTERM] = wanted
        return before[number]

    def noted(number: int, _: Any) -> None:
        signal.alarm(0)
        came.append(number)

    try:
        lay(signal.SIGTERM, noted)
    except ValueError:  # a thread that is not the main one, where Ray lays none either
        yield
        return
    with ExitStack() as stack:
        if process.owns_process:
            lay(signal.SIGINT, noted)
            stack.enter_context(_end_on_signals())
        signal.signal = laid  # type: ignore[assignment]
        try:
            yield
        finally:
            signal.signal = lay
            for which, handler in before.items():
                lay(which, handler or signal.SIG_DFL)
            for which in came:
                signal.raise_signal(which)


@contextmanager
def _end_on_signals() -> Iterator[None]:
    """End the process when a signal comes, even while its main thread is within Ray: a thread hears of it by a pipe."""
    heard, told = socket.socketpair()
    told.setblocking(False)
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        while number := heard.recv(1):
            if number[0] in set(process.SIGNAL_EXITS):
                process.exit_now(*process.SIGNAL_EXITS[signal.Signals(number[0])])

    thread = threading.Thread(target=listen, name="covey-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        told.close()
        thread.join()
        heard.close()


@contextmanager
def _told_in_time(address: str | None) -> Iterator[None]:
    """End a command when a cluster takes its connection, but does not answer within the block."""
    words = f"error: RAY_ADDRESS={address} does not take this job in within {CONNECT_S} s; is it a cluster's head?"
    timer = threading.Timer(CONNECT_S, process.exit_now, (2, words))
    timer.daemon = True
    if address and process.owns_process:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _start_in_words(address: str | None) -> Iterator[None]:
    """Raises: ConfigError or StageError in place of what Ray raises at its start."""
    try:
        yield
    except Exception as error:
        log.debug("Ray's start", exc_info=True)
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if address:
            raise ConfigError([f"RAY_ADDRESS={address}: no cluster could be joined ({why})"]) from error
        raise StageError(f"Ray did not start: {why}") from error


@contextmanager
def _guarded(whose: str) -> Iterator[None]:
    """Watch Ray's head and this node's part of it; end the block when either is gone, where Ray would wait or abort.

    Ray is ended with the block, under guard only where it is gone: by itself, it may take as long as a loss.
    whose : own, or that of a cluster, whose head may come back
    Raises: StageError in place of what the block raises when Ray is gone.
    """
    gone = _looks(whose)
    lost: list[str] = []
    ended, leaving = threading.Event(), threading.Event()
    in_main = threading.current_thread() is threading.main_thread()

    def guard() -> None:
        since = time.monotonic()
        while not ended.wait(LOOK_S):
            words = gone()
            if leaving.is_set():
                return
            since = since if words else time.monotonic()
            if time.monotonic() - since < GONE_S[whose]:
                continue
            lost.append(words)
            if in_main:
                _thread.interrupt_main()
            if not ended.wait(LEAVE_S) and process.owns_process:
                process.exit_now(1, f"error: {words}")
            return

    thread = threading.Thread(target=guard, name="covey-ray-guard", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        words = lost[0] if lost else gone() if isinstance(error, CoveyError) else ""  # asked while Ray is there
        if words:
            raise StageError(words) from error
        raise
    finally:
        leaving.set()
        ray.shutdown()
        ended.set()


def _looks(whose: str) -> Callable[[], str]:
    """What tells which part of Ray is gone, in words; "" while all are there."""
    context = ray.get_runtime_context()
    head, _, port = context.gcs_address.rpartition(":")
    here = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]  # type: ignore[no-untyped-call]
    parts = {"Ray's head (gcs_server)": (head.strip("[]"), int(port))}
    if here:
        parts["Ray's part on this machine (raylet)"] = (here[0]["NodeManagerAddress"], here[0]["NodeManagerPort"])
    what = "start it again" if whose == "cluster" else "was it killed, by hand or for want of memory?"

    def gone() -> str:
        for name, (host, number) in parts.items():
            if why := _refused(host, number):
                return f"{name} at {host}:{number} is gone ({why}); {what} The same command goes on from here"
        return ""

    return gone
