"""RAY_ADDRESS in; a connected Ray for the length of a block out: found or started, watched, and cleaned up."""

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
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from clustering.errors import ConfigError, CoveyError, StageError
from clustering.kernels.printable import hide_credentials
from clustering.workers import process
from clustering.workers.nodes import forget_refused_nodes

log = logging.getLogger("covey")
CONNECT_TIMEOUT_S = 20  # for a cluster's head to take a connection
JOIN_TIMEOUT_S = 40  # for a cluster to take this job in
START_TIMEOUT_S = 120  # from which on a node of the run's own that is late is not started again
LATE_NODE = "timed out during startup"  # what Ray says of a node that has not registered within 30 s
CHECK_EVERY_S = 2
LOST_AFTER_S = {"own": 6, "cluster": 45}  # without an answer; Ray's own parts give up after 60
SHUTDOWN_S = 10  # for the work to end when Ray is lost
SOCKET_BYTES = 107 if sys.platform == "linux" else 103  # of a Unix socket's path
BELOW_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to Ray for the length of the block: the connected one, the cluster of RAY_ADDRESS, or a node of its own.

    A node of its own listens on the loopback address only. Its files are removed at the end, also after SIGKILL.
    Raises: ConfigError for a RAY_ADDRESS that is malformed or does not answer; StageError when Ray does not start, or
        ends before the block.
    """
    try:
        with nullcontext() if ray.is_initialized() else _connected_ray():
            yield
    finally:
        forget_refused_nodes()  # and the run directory that tasks must see


@contextmanager
def _connected_ray() -> Iterator[None]:
    process.set_environment()
    address = _cluster_address()
    with ExitStack() as stack:
        with _handling_signals(), _limiting_join_time(address), _explaining_start_errors(address):
            if address is None:
                stack.enter_context(_own_node())
            else:
                ray.init(address=address, logging_level=logging.ERROR)
        stack.callback(ray.shutdown)  # where the watch has not done it
        stack.enter_context(_watching_ray("cluster" if address else "own"))
        yield


@contextmanager
def _own_node() -> Iterator[None]:
    """A Ray of this process' own for the block, which shuts it down; its files are removed at the end.

    Ray gives a node 30 s to register, and on a busy machine parts of it give up after 15 s. Such a node is started
    again: what the first start has read from disk is in memory then.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with _private_folder() as folder, process.environment("TMPDIR", str(folder)):  # for Ray's processes, too
            options: dict[str, Any] = {"address": "local", "_temp_dir": str(folder), "include_dashboard": False}
            try:
                ray.init(**options, logging_level=logging.ERROR)
            except Exception as error:
                if LATE_NODE not in str(error) or time.monotonic() > deadline:
                    raise
                log.warning("Ray's node has not started in time, as on a busy machine; it is started again")
                continue  # at the end of its folder, the watcher ends what has started of it
            yield
            return


def _cluster_address() -> str | None:
    """RAY_ADDRESS as Ray takes it; None for a node of the run's own.

    Raises: ConfigError when it is not the address of a cluster's head, or does not answer.
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
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while problem := _connection_problem(found[1].strip("[]"), int(found[2])):
        if time.monotonic() > deadline:
            raise ConfigError([f"RAY_ADDRESS={given} gives no answer for {CONNECT_TIMEOUT_S} s ({problem}); {wanted}"])
        time.sleep(0.5)
    return given


def _connection_problem(host: str, port: int) -> str:
    """Why a TCP connection fails; "" where it succeeds."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return str(error)
    return ""


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for a Ray that this process starts, with a path short enough for sockets; a watcher removes it later.

    Raises: ConfigError where no such folder can be written.
    """
    longest = SOCKET_BYTES - BELOW_BYTES - len("/covey-12345678")
    parents = [path for path in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp") if path]
    fitting = [path for path in parents if len(os.fsencode(path)) <= longest and os.access(path, os.W_OK)]
    if not fitting:
        raise ConfigError(
            [f"Ray needs a folder for its sockets, whose path has at most {longest} bytes, and none of "
             f"{', '.join(parents)} is one that can be written; set RAY_TMPDIR to one"]
        )  # fmt: skip
    folder = tempfile.mkdtemp(prefix="covey-", dir=fitting[0])
    command = [sys.executable, "-I", "-S", "-c", _FOLDER_WATCHER, folder, str(os.getpid())]
    watcher = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield Path(folder)
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the watcher goes on by itself
            watcher.wait(timeout=10)


# The watcher removes the folder when its standard input closes, which the kernel does when the job's process ends. It
# goes on while Ray's processes still write there. A Ray process that was just starting may not notice that it is alone:
# after 3 s the watcher kills every process with an open file in the folder, except the job's own, which may belong to
# another program.
_FOLDER_WATCHER = """
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
def _handling_signals() -> Iterator[None]:
    """Handle SIGTERM and SIGINT within the block, in which Ray starts: a half-started Ray crashes the process later.

    A command ends at once. In another program, SIGTERM waits until Ray has started. Ray replaces the handler of
    SIGTERM, and adds one below Python's that aborts after 3 s; both are undone.
    """
    install = signal.signal
    before: dict[int, Any] = {number: signal.getsignal(number) for number in process.SIGNAL_EXITS}
    received: list[int] = []

    def refuse(number: int, handler: Any) -> Any:
        if number not in before:
            return install(number, handler)
        if number == signal.SIGTERM and not callable(before[number]):  # Ray's handler is better than none
            before[signal.SIGTERM] = handler
        return before[number]

    def postpone(number: int, _: Any) -> None:
        signal.alarm(0)
        received.append(number)

    try:
        install(signal.SIGTERM, postpone)
    except ValueError:  # not the main thread, where Ray installs no handler either
        yield
        return
    with ExitStack() as stack:
        if process.owns_process:
            install(signal.SIGINT, postpone)
            stack.enter_context(_exiting_on_signals())
        signal.signal = refuse  # type: ignore[assignment]
        try:
            yield
        finally:
            signal.signal = install
            for number, handler in before.items():
                install(number, handler or signal.SIG_DFL)
            for number in received:
                signal.raise_signal(number)


@contextmanager
def _exiting_on_signals() -> Iterator[None]:
    """End the process on a signal, even while its main thread is within Ray: a thread reads signals from a socket."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        while number := reader.recv(1):
            if number[0] in set(process.SIGNAL_EXITS):
                process.exit_now(*process.SIGNAL_EXITS[signal.Signals(number[0])])

    thread = threading.Thread(target=listen, name="covey-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join()
        reader.close()


@contextmanager
def _limiting_join_time(address: str | None) -> Iterator[None]:
    """End a command when a cluster takes its connection, but does not answer in time."""
    message = (
        f"error: RAY_ADDRESS={address} does not take this job in within {JOIN_TIMEOUT_S} s; is it a cluster's head?"
    )
    timer = threading.Timer(JOIN_TIMEOUT_S, process.exit_now, (2, message))
    timer.daemon = True
    if address and process.owns_process:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _explaining_start_errors(address: str | None) -> Iterator[None]:
    """Raises: ConfigError or StageError for what Ray raises when it starts."""
    try:
        yield
    except CoveyError:
        raise
    except Exception as error:
        log.debug("Ray's start", exc_info=True)
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if address:
            raise ConfigError([f"RAY_ADDRESS={address}: no cluster could be joined ({reason})"]) from error
        raise StageError(f"Ray did not start: {reason}") from error


@contextmanager
def _watching_ray(kind: str) -> Iterator[None]:
    """Watch Ray's head and raylet; end the block when either is lost, where Ray itself would wait or abort.

    Ray is shut down at the end of the block. A shutdown may take as long as a loss; a lost Ray gets a limited time.
    kind : "own", or "cluster", whose head may come back
    Raises: StageError in place of what the block raises when Ray is lost.
    """
    check = _health_check(kind)
    problems: list[str] = []
    ended, leaving = threading.Event(), threading.Event()
    in_main = threading.current_thread() is threading.main_thread()

    def watch() -> None:
        healthy = time.monotonic()
        while not ended.wait(CHECK_EVERY_S):
            problem = check()
            if leaving.is_set():
                return
            if not problem:
                healthy = time.monotonic()
            if time.monotonic() - healthy < LOST_AFTER_S[kind]:
                continue
            problems.append(problem)
            if in_main:
                _thread.interrupt_main()
            if not ended.wait(SHUTDOWN_S) and process.owns_process:
                process.exit_now(1, f"error: {problem}")
            return

    thread = threading.Thread(target=watch, name="covey-ray-guard", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        problem = problems[0] if problems else check() if isinstance(error, CoveyError) else ""  # before the shutdown
        if problem:
            raise StageError(problem) from error
        raise
    finally:
        leaving.set()
        ray.shutdown()
        ended.set()


def _health_check(kind: str) -> Callable[[], str]:
    """A function that returns a message when a part of Ray is gone, and "" while none is."""
    context = ray.get_runtime_context()
    head, _, port = context.gcs_address.rpartition(":")
    here = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]  # type: ignore[no-untyped-call]
    parts = {"Ray's head (gcs_server)": (head.strip("[]"), int(port))}
    if here:
        parts["Ray's part on this machine (raylet)"] = (here[0]["NodeManagerAddress"], here[0]["NodeManagerPort"])
    hint = "start it again" if kind == "cluster" else "was it killed, by hand or for want of memory?"

    def check() -> str:
        for name, (host, number) in parts.items():
            if problem := _connection_problem(host, number):
                return f"{name} at {host}:{number} is gone ({problem}); {hint} The same command goes on from here"
        return ""

    return check
