"""locks.py: a local directory whose file system cannot keep two runs apart says so."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clustering.errors import ConfigError
from clustering.runs.locks import (
    LEASE_S,
    WATCHED_S,
    Lease,
    hold_local,
    is_renewed,
    pid_namespace,
    remote_in_use,
    unshared_locks,
)
from clustering.runs.object_store import RemotePath


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_told_in_words(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("clustering.runs.locks.fcntl.flock", refuse)
    with (
        pytest.raises(ConfigError, match=rf"run cannot be held: its file system .*\({os.strerror(number)}\).*mount it"),
        hold_local(tmp_path / "run"),
    ):
        pass


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2,local_lock=none 0 0
server:/scratch /scratch nfs rw,vers=3,nolock,local_lock=all 0 0
bucket /mnt/bucket fuse.gcsfuse rw,nosuid 0 0
10.0.0.1@tcp:/fs /lustre lustre rw,flock 0 0
10.0.0.1@tcp:/fs /lustre/local lustre rw,localflock 0 0
server:/odd /mnt/with\\040space nfs rw,nolock 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/runs/one", None),
        ("/home/me/run", None),
        ("/scratch/run", "nfs (nolock)"),
        ("/scratchpad/run", None),
        ("/mnt/bucket/run", "fuse.gcsfuse"),
        ("/lustre/run", None),
        ("/lustre/local/run", "lustre (localflock)"),
        ("/mnt/with space/run", "nfs (nolock)"),
    ],
)
def test_locks_that_other_machines_do_not_see_are_known_by_the_mount(
    path: str, kind: str | None, tmp_path: Path
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS, encoding="utf-8")
    assert unshared_locks(Path(path), mounts) == kind


def test_nothing_is_said_where_nobody_tells_of_mounts(tmp_path: Path) -> None:
    assert unshared_locks(tmp_path, tmp_path / "none") is None


def test_a_lock_that_others_do_not_see_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("clustering.runs.locks.unshared_locks", lambda path: "nfs (nolock)")
    monkeypatch.setattr("clustering.runs.locks.log.warning", lambda text, *words: said.append(text % words))
    with hold_local(tmp_path):
        pass
    (line,) = said
    assert "lies on nfs (nolock), where two machines do not see each other's locks: start this run from one" in line


# --- object stores ---


@dataclass
class Lock:
    """What lies in a bucket, written so many seconds ago."""

    held: Any
    age: float = 1.0

    def age_s(self) -> float:
        return self.age

    def read_text(self) -> str:
        return json.dumps(self.held)


ENDED = {"owner": "x", "host": platform.node(), "pid": 2**22 + 1, "numbers": pid_namespace()}  # no such process


@pytest.mark.parametrize(
    ("changed", "in_use"),
    [
        ({}, False),
        ({"owner": ""}, False),
        ({"host": "elsewhere"}, True),
        ({"numbers": "another container on this machine's network, or a clone of it"}, True),
        ({"numbers": ""}, True),
        ({"numbers": None}, True),
        ({"pid": os.getppid()}, True),
        ({"pid": os.getpid()}, False),  # this process knows that it holds nothing
    ],
)
def test_a_holder_is_dead_at_once_only_where_its_processes_can_be_seen(changed: dict[str, Any], in_use: bool) -> None:
    lock: Any = Lock({**ENDED, **changed})
    assert remote_in_use(lock) == in_use
    lock.age = LEASE_S + 1
    assert not remote_in_use(lock)


@pytest.mark.parametrize(
    ("changed", "ages", "renewed", "waits"),
    [
        ({"host": "elsewhere"}, [90, 91, 92, 91], True, 3),  # this machine's clock is 90 s ahead of the store's
        ({"host": "elsewhere"}, [100 + second for second in range(99)], False, WATCHED_S),
        ({"host": "elsewhere", "owner": ""}, [100], False, 0),
        ({}, [100], False, 0),
        ({"host": "elsewhere"}, [math.inf], False, 0),  # there is no lease
    ],
)
def test_an_expired_lease_is_taken_only_where_nobody_renews_it(
    changed: dict[str, Any], ages: list[float], renewed: bool, waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock: Any = Lock({**ENDED, **changed})
    waited: list[float] = []
    monkeypatch.setattr("clustering.runs.locks.time.sleep", waited.append)
    monkeypatch.setattr(Lock, "age_s", lambda _: ages.pop(0))
    monkeypatch.setattr(Lock, "parent", "s3://bucket/run", raising=False)
    assert is_renewed(lock) == renewed
    assert len(waited) == waits


def test_the_lease_of_a_machine_with_another_clock_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustering.runs.locks.remote_in_use", lambda path: False)  # by the clock
    monkeypatch.setattr("clustering.runs.locks.is_renewed", lambda path: True)
    with pytest.raises(ConfigError, match="is in use by another run"), Lease(RemotePath.of("s3://bucket/run")).held():
        pass


def test_a_system_that_does_not_tell_has_no_dead_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustering.runs.locks.pid_namespace", lambda: "")
    lock: Any = Lock({**ENDED, "numbers": ""})
    assert remote_in_use(lock)


def test_a_bucket_that_is_not_there_is_not_in_use_by_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    says = "Object at location one/.lock not found: status code: 404 Not Found: <Error><Code>NoSuchBucket</Code>"

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError(says)

    monkeypatch.setattr("clustering.runs.locks.remote_in_use", lambda path: False)
    monkeypatch.setattr("clustering.runs.locks.is_renewed", lambda path: False)
    monkeypatch.setattr("clustering.runs.locks.object_client", lambda root, bucket: None)
    monkeypatch.setattr("clustering.runs.locks.obstore.put", refuse)
    monkeypatch.setattr("clustering.runs.locks.obstore.get", refuse)
    says_bucket = r"cannot be used: s3://gone/one/\.lock: there is no bucket gone\. Make it, or choose another run\.dir"
    with pytest.raises(ConfigError, match=says_bucket), Lease(RemotePath.of("s3://gone/one")).held():
        pass
