"""Where the vectors lie: a Milvus server's address, a client for it, and the embedded server's life."""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pymilvus import MilvusClient, MilvusException

from clustering.config import RunConfig
from clustering.errors import ConfigError, StoreError
from clustering.rundir import RunDir


@dataclass(frozen=True)
class Address:
    """Where the vectors lie; holds the name of the token's environment variable, never the token."""

    uri: str
    token_env: str | None
    db_name: str | None
    collection: str
    timeout_s: float

    def connect(self) -> MilvusClient:
        """A client of this process's own.

        Raises: ConfigError when the server does not answer within ``timeout_s`` or refuses the token.
        """
        token = os.environ.get(self.token_env, "") if self.token_env else ""
        if self.token_env and not token:
            raise ConfigError(
                [f"store.token_env: the environment variable {self.token_env} is not set on {platform.node()}"]
            )
        _refuse_unreachable(self.uri, self.timeout_s)
        try:
            client = MilvusClient(uri=self.uri, token=token, db_name=self.db_name or "", timeout=self.timeout_s)
            client.list_collections(timeout=self.timeout_s)
        except MilvusException as error:
            cause = str(getattr(error.__cause__, "details", lambda: "")() or "")  # the server's own words
            reason = " ".join(_without(token, f"{error.message or error} {cause}").split())
            if any(word in reason.lower() for word in ("auth", "permission", "credential")):
                given = f"the token in {self.token_env}" if self.token_env else "the request without a token"
                raise ConfigError(
                    [
                        f"store.uri: {self.uri} refused {given}: {reason}. Set store.token_env to the name of a "
                        f"variable that holds a valid token or user:password"
                    ]
                ) from None
            raise ConfigError([f"store.uri: {self.uri} does not work as a Milvus server: {reason}"]) from None
        return client


@contextmanager
def talking_to(address: Address) -> Iterator[None]:
    """Turn what the client raises into a StoreError that says where, what, and how to go on."""
    try:
        yield
    except MilvusException as error:
        token = os.environ.get(address.token_env, "") if address.token_env else ""
        reason = " ".join(_without(token, str(error.message or error)).split())
        raise StoreError(
            f"collection {address.collection} at {address.uri}: {reason}. When that is mended, the same command goes "
            f"on from the last finished part"
        ) from None


def _without(secret: str, text: str) -> str:
    return text.replace(secret, "***") if secret else text


def _refuse_unreachable(uri: str, timeout_s: float) -> None:
    """Say early, and within a stated time, that nobody listens; a client would try far longer."""
    host, _, port = uri.split("://", 1)[1].split("/")[0].partition(":")
    number = int(port) if port.isdigit() else (443 if uri.startswith("https") else 19530)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host, number), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() + 0.5 >= deadline:
                raise ConfigError(
                    [
                        f"store.uri: nothing answers at {uri} ({error}); tried for {timeout_s:g} s. Start Milvus "
                        f"there, correct store.uri, or set store.uri=embedded"
                    ]
                ) from None
            time.sleep(0.5)


@contextmanager
def open_store(config: RunConfig, run: RunDir) -> Iterator[Address]:
    """The address of the store; the embedded server runs until the block ends, whatever ends it."""
    if not config.store.embedded:
        yield address_of(config, config.store.uri)
        return
    with embedded_server(run / "store") as uri:
        yield address_of(config, uri)


def address_of(config: RunConfig, uri: str) -> Address:
    store = config.store
    if store.embedded:  # Milvus Lite knows neither tokens nor databases
        return Address(uri, None, None, config.collection, store.timeout_s)
    return Address(uri, store.token_env, store.db_name, config.collection, store.timeout_s)


@contextmanager
def embedded_server(folder: Path) -> Iterator[str]:
    """Run Milvus Lite on a free loopback port, with its data in ``folder``; yield its address.

    A watcher ends the server when this process is gone, even when it was killed.
    Raises: StoreError when it does not come up.
    """
    spec = importlib.util.find_spec("milvus_lite")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(["store.uri=embedded needs Milvus Lite, which has no wheel for this platform; name a server"])
    binaries = Path(spec.submodule_search_locations[0]) / "lib"
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-c", _WATCHED,
        str(binaries / "milvus"), str(folder / "milvus.db"), f"127.0.0.1:{port}", "ERROR",
    ]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            if server.poll() is not None:
                raise StoreError(f"the embedded Milvus ended at once (status {server.returncode}); see {log.name}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise StoreError(f"the embedded Milvus did not come up within 30 s; see {log.name}") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        assert server.stdin is not None
        server.stdin.close()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


# The watcher ends the server when its standard input closes, which the kernel does when the job's process is gone.
_WATCHED = """
import os, subprocess, sys
libraries = os.path.dirname(sys.argv[1])
environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "DYLD_LIBRARY_PATH": libraries}
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, env=environment)
try:
    while sys.stdin.buffer.read(1):
        pass
finally:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
"""


def default_nlist(n_texts: int) -> int:
    """4 sqrt(n), as Milvus advises, within its bounds."""
    return int(min(max(4 * n_texts**0.5, 16), 65_536))
