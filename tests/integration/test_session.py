"""Ray's start and end as a command meets them: signals, wrong addresses, parts of Ray that die, what is left."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clustering.errors import ConfigError, StageError
from clustering.workers import session
from tests.integration.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.full]

WAITS = """
import signal, sys, time
from clustering.cli.main import run_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it

def waits():
    time.sleep(600)

def work():
    print("starts", flush=True)
    import ray
    from clustering.workers.session import ray_session
    with ray_session():
        waiting = ray.remote(waits).remote()
        print("waits", flush=True)
        ray.get(waiting)

sys.exit(run_command(work, *sys.argv[1:]))
"""


class Command:
    """A command that starts Ray for itself, in a session of its own, with a folder of its own for what is temporary."""

    def __init__(self, folder: Path, *words: str, **env: str) -> None:
        self.folder = folder
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", WAITS, *words],
            cwd=ROOT, env={**os.environ, "TMPDIR": str(folder), **env}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def until(self, word: str) -> None:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line == f"{word}\n", line or self.process.communicate()[1]

    def end(self, timeout: float = 60) -> tuple[int, list[str]]:
        err = self.process.communicate(timeout=timeout)[1]
        return self.process.returncode, err.splitlines()

    def processes(self) -> dict[int, str]:
        """Of this command, by pid, as far as they live."""
        listed = subprocess.run(
            ["ps", "-ww", "-s", str(self.process.pid), "-o", "pid=,stat=,args="], capture_output=True, text=True
        )
        fields = [line.split(None, 2) for line in listed.stdout.splitlines()]
        return {int(pid): args for pid, state, args in fields if not state.startswith("Z")}

    def pid_of(self, name: str) -> int:
        return next(pid for pid, args in self.processes().items() if f"/{name}" in args.partition(" ")[0])

    def leaves_nothing(self) -> None:
        deadline = time.monotonic() + 300
        while self.processes() or list(self.folder.iterdir()):
            assert time.monotonic() < deadline, (self.processes(), list(self.folder.iterdir()))
            time.sleep(0.2)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for Ray's sockets."""
    folder = Path(f"/tmp/t{os.getpid() % 1000}{int(time.time()) % 1000}")
    folder.mkdir()
    yield folder
    folder.rmdir()


@pytest.fixture(scope="module", autouse=True)
def unanswered() -> Iterator[dict[int, Command]]:
    """By port, a command whose address nobody takes, and one whose connection is taken, but not answered.

    They wait beside the other tests.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket() as nobody, socket.socket() as mute:
        for one in (nobody, mute):
            one.bind(("127.0.0.1", 0))
        mute.listen()
        taken: list[socket.socket] = []
        threading.Thread(target=lambda: taken.extend(mute.accept()[0] for _ in range(9)), daemon=True).start()
        ports = [one.getsockname()[1] for one in (nobody, mute)]
        commands = {port: Command(Path(folder), RAY_ADDRESS=f"127.0.0.1:{port}") for port in ports}
        yield commands
        for command in commands.values():
            command.process.kill()
            command.process.wait()


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
@pytest.mark.parametrize("of_the_start", [*(pytest.param(part, marks=pytest.mark.nightly) for part in (0.3, 0.6)), 0.9])
def test_a_signal_is_answered_while_ray_starts(
    number: signal.Signals, status: int, said: str, of_the_start: float, start_s: float, short: Path
) -> None:
    command = Command(short)
    command.until("starts")
    time.sleep(of_the_start * start_s)
    sent = time.monotonic()
    command.process.send_signal(number)
    code, lines = command.end()
    assert time.monotonic() - sent < max(4, start_s)  # where Ray is just up, it is ended first
    assert (code, lines[-1]) == (status, f"{said}; the same command goes on from here"), lines
    command.leaves_nothing()


@pytest.fixture(scope="module")
def start_s() -> float:
    """Seconds that Ray's start takes on this machine at the moment."""
    folder = Path(f"/tmp/s{os.getpid() % 1000}{int(time.time()) % 1000}")
    folder.mkdir()
    command = Command(folder)
    command.until("starts")
    since = time.monotonic()
    command.until("waits")
    found = time.monotonic() - since
    addresses = listening_of(command)
    assert addresses
    assert {one for one in addresses if not one.startswith(("127.", "::ffff:127.", "::1"))} == set()
    command.process.send_signal(signal.SIGTERM)
    assert command.end()[0] == 143
    command.leaves_nothing()
    folder.rmdir()
    return found


def listening_of(command: Command) -> set[str]:
    """Addresses at which a command's processes listen."""
    import psutil

    found = set()
    for pid in command.processes():
        for one in psutil.Process(pid).net_connections(kind="inet"):
            if one.status == psutil.CONN_LISTEN:
                found.add(one.laddr.ip)
    return found


@pytest.mark.parametrize("name", ["gcs_server", pytest.param("raylet", marks=pytest.mark.nightly)])
def test_a_part_of_ray_that_is_killed_ends_the_run_with_words(name: str, short: Path) -> None:
    command = Command(short, "json")
    command.until("starts")
    command.until("waits")
    os.kill(command.pid_of(name), signal.SIGKILL)
    code, lines = command.end(timeout=50)
    last = json.loads(lines[-1])
    assert (code, last["status"]) == (1, 1), lines
    assert re.match(
        rf"error: Ray's .* \({name}\) at 127\.0\.0\.1:\d+ is gone \(.*\); was it killed, by hand or for want of "
        r"memory\? The same command goes on from here$",
        last["message"],
    )
    command.leaves_nothing()


def test_an_error_within_a_ray_of_its_own_is_told_as_it_is() -> None:
    lines = ["from clustering.cli.main import run_command", "from clustering.errors import ConfigError", "import sys",
             "def work():", "    from clustering.workers.session import ray_session", "    with ray_session():",
             "        raise ConfigError(['read.limit is wrong'])", "sys.exit(run_command(work))"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "error: read.limit is wrong\n")


def test_a_killed_driver_leaves_nothing(short: Path) -> None:
    command = Command(short)
    command.until("starts")
    command.until("waits")
    assert list(short.iterdir())
    command.process.kill()
    command.process.communicate()
    command.leaves_nothing()


@pytest.mark.nightly
def test_a_long_tmpdir_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    command = Command(folder)
    command.until("starts")
    command.until("waits")
    command.process.send_signal(signal.SIGTERM)
    assert command.end()[0] == 143
    command.leaves_nothing()


WANTED = "give the host:port of a cluster's head (10.0.0.1:6379), or unset it for a Ray of this machine's own"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", f"http://127.0.0.1:8265 is a dashboard's, for `ray job submit`; {WANTED}"),
        ("http://me:sesame@ray", f"http://***@ray is a dashboard's, for `ray job submit`; {WANTED}"),
        ("ray://127.0.0.1:10001", f"ray://127.0.0.1:10001 is for Ray's client, which a run cannot use; {WANTED}"),
        ("127.0.0.1", f"127.0.0.1 is no address; {WANTED}"),
        ("head:99999", f"head:99999 is no address; {WANTED}"),
        ("head: 6379", f"head: 6379 is no address; {WANTED}"),
    ],
)
def test_a_ray_address_that_is_none_is_told_at_once(address: str, said: str, short: Path) -> None:
    command = Command(short, RAY_ADDRESS=address)
    assert command.end() == (2, [f"error: RAY_ADDRESS={said}"])


def test_what_ray_raises_at_its_start_is_told_in_words() -> None:
    """As where nothing runs that RAY_ADDRESS=auto could find."""
    said = "Could not find any running Ray instance. Please specify the one to connect to by setting ..."
    with pytest.raises(ConfigError) as error, session._explaining_start_errors("auto"):
        raise ConnectionError(f"\n{said}\nmore")
    assert error.value.problems == [f"RAY_ADDRESS=auto: no cluster could be joined ({said})"]
    with pytest.raises(StageError, match=r"^Ray did not start: TimeoutError$"), session._explaining_start_errors(None):
        raise TimeoutError


def test_a_ray_address_that_answers_nothing_is_told_in_time(unanswered: dict[int, Command]) -> None:
    (nobody, dead), (port, mute) = unanswered.items()
    code, lines = dead.end()
    said = rf"error: RAY_ADDRESS=127\.0\.0\.1:{nobody} gives no answer for 20 s \(.*refused.*\); {re.escape(WANTED)}$"
    assert code == 2, lines
    assert re.match(said, lines[-1])
    code, lines = mute.end(timeout=300)
    assert code == 2, lines
    said = f"error: RAY_ADDRESS=127.0.0.1:{port} does not take this job in within 40 s; is it a cluster's head?"
    assert said in lines
