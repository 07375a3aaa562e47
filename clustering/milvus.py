"""Where the vectors lie: a Milvus server's address, a client for it, and the embedded server's life."""

from __future__ import annotations

import base64
import importlib.util
import logging
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from pymilvus import MilvusClient, MilvusException
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

from clustering.config import RunConfig
from clustering.errors import ConfigError, StoreError
from clustering.rundir import RunDir
from clustering.wire import Hits, read_hits

T = TypeVar("T")
log = logging.getLogger("covey")

REQUEST_TIMEOUT_S = 120  # a request that takes longer is sent again, a search in halves
FEW_TRIES = 3  # for a refusal that is neither known to pass nor known to stay
SERVICE = "/milvus.proto.milvus.MilvusService/"
# What waiting cannot mend, by gRPC status and by the server's own codes: a wrong parameter, rights that are missing, a
# collection that is gone, a disk that is full.
FINAL_STATUS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "UNIMPLEMENTED"}
FINAL_CODES = {100, 1100, 1400, 1401, 1801}
FINAL_WORDS = ("disk quota", "no space left", "permission deny", "privilege", "auth check failure", "token is expired")
# What passes while a server starts again or catches its breath; one that was killed waits for the sessions of its nodes
# to run out, and says so without a code.
PASSING_STATUS = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "INTERNAL", "UNKNOWN"}
PASSING_CODES = {1, 2, 3, 5, 8, 9, 101, 103, 106, 400, 401, 500, 502, 503, 600, 601, 602, 700, 901, 902, 903, 904}
PASSING_WORDS = ("node not found", "session not found", "node not match")


@dataclass(frozen=True)
class Address:
    """Where the vectors lie; holds the name of the token's variable or file, never the token."""

    uri: str
    collection: str
    token_env: str | None = None
    token_file: str | None = None
    db_name: str | None = None
    ca_file: str | None = None
    server_name: str | None = None
    timeout_s: float = 20
    patience_s: float = 300
    section: str = "store"  # of the configuration, for what is said about its keys

    @property
    def token(self) -> str:
        """The token, or user:password, as this process finds it; "" where none is configured.

        Raises: ConfigError when the variable or file holds none.
        """
        if self.token_env:
            token = os.environ.get(self.token_env, "")
            if not token:
                name, node = self.token_env, platform.node()
                raise ConfigError([f"{self.section}.token_env: the environment variable {name} is not set on {node}"])
            return token
        if self.token_file:
            try:
                token = Path(self.token_file).read_text(encoding="utf-8").strip()
            except OSError as error:
                place = f"{self.token_file} cannot be read on {platform.node()}"
                raise ConfigError([f"{self.section}.token_file: {place}: {error.strerror}"]) from None
            if not token:
                raise ConfigError([f"{self.section}.token_file: {self.token_file} is empty"])
            return token
        return ""

    @property
    def secure(self) -> bool:
        return self.uri.startswith("https://")

    def connect(self) -> MilvusClient:
        """A client of this process's own.

        Raises: ConfigError when the server does not answer within ``timeout_s`` or refuses the token.
        """
        token = self.token
        if self.ca_file and not Path(self.ca_file).is_file():
            raise ConfigError([f"{self.section}.ca_file: there is no file {self.ca_file} on {platform.node()}"])
        _refuse_unreachable(self.uri, self.timeout_s, self.section)
        tls = {"secure": True, "server_pem_path": self.ca_file or "", "server_name": self.server_name or ""}
        try:
            client = MilvusClient(
                uri=self.uri, token=token, db_name=self.db_name or "", timeout=self.timeout_s,
                dedicated=True,  # a shared one has proven the server's name to whoever came first, not to us
                **(tls if self.secure else {}),
            )  # fmt: skip
            client.list_collections(timeout=self.timeout_s)
        except MilvusException as error:
            cause = str(getattr(error.__cause__, "details", lambda: "")() or "")  # the server's own words
            reason = self.hidden(" ".join(f"{error.message or error} {cause}".split()))
            if "verif" in reason.lower():
                raise ConfigError(
                    [
                        f"{self.section}.uri: the certificate of {self.uri} is not accepted: {reason}. Set "
                        f"{self.section}.ca_file to the certificate of its authority, and {self.section}.server_name "
                        f"to the name in the certificate if that is not the address"
                    ]
                ) from None
            if any(word in reason.lower() for word in ("auth", "permission", "credential")):
                given = f"the token in {self.token_env or self.token_file}" if token else "the request without a token"
                raise ConfigError(
                    [
                        f"{self.section}.uri: {self.uri} refused {given}: {reason}. Set {self.section}.token_env to "
                        f"the name of a variable that holds a valid token or user:password, or "
                        f"{self.section}.token_file to a file with it"
                    ]
                ) from None
            raise ConfigError([f"{self.section}.uri: {self.uri} does not work as a Milvus server: {reason}"]) from None
        return client

    def hidden(self, text: str) -> str:
        """The text without the token, its password, or their encoding in the request's header."""
        try:
            token = self.token
        except ConfigError:
            return text
        for secret in (token, base64.b64encode(token.encode()).decode(), token.partition(":")[2]):
            text = text.replace(secret, "***") if secret else text
        return text

    def failed(self, error: Exception) -> StoreError:
        """What a client or channel raised, as an error that says where, what, and how to go on."""
        return StoreError(
            f"collection {self.collection} at {self.uri}: {self.hidden(reason_of(error))}. When that is mended, the "
            f"same command goes on from the last finished part"
        )


class RefusedError(Exception):
    """A reply whose status is not success; ``code`` is the server's, ``passing`` its own word that a retry may help."""

    def __init__(self, status: Any) -> None:
        super().__init__(str(status.reason))
        self.code = int(status.code or status.error_code)
        self.passing = bool(status.retriable)


class Link:
    """A channel of this process's own to the server, for columns instead of rows; threads may share it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ]
        place = address.uri.split("://", 1)[1].split("/")[0]
        if ":" not in place:
            place += ":443" if address.secure else ":19530"
        if address.secure:
            if address.server_name:
                options.append(("grpc.ssl_target_name_override", address.server_name))
            root = Path(address.ca_file).read_bytes() if address.ca_file else None
            self.channel = grpc.secure_channel(place, grpc.ssl_channel_credentials(root), options)
        else:
            self.channel = grpc.insecure_channel(place, options)
        token = address.token
        self.metadata = [("dbname", address.db_name or "")]
        if token:
            self.metadata.append(("authorization", base64.b64encode(token.encode()).decode()))
        self.stub = milvus_pb2_grpc.MilvusServiceStub(self.channel)
        self._search = self.channel.unary_unary(
            SERVICE + "Search", request_serializer=lambda request: request.SerializeToString()
        )

    def call(self, method: str, request: Any, timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
        """The server's reply to a request; ``method`` as in Milvus's protocol, such as "Upsert".

        Raises: RefusedError, grpc.RpcError.
        """
        reply = getattr(self.stub, method)(request, timeout=timeout_s, metadata=self.metadata)
        _check(reply.status if hasattr(reply, "status") else reply)
        return reply

    def search(self, request: Any, timeout_s: float = REQUEST_TIMEOUT_S) -> tuple[Hits, int]:
        """The hits of a search request, and the bytes of the reply. Raises: RefusedError, grpc.RpcError."""
        reply = self._search(request, timeout=timeout_s, metadata=self.metadata)
        status, hits = read_hits(reply)
        _check(status)
        return hits, len(reply)

    def query(
        self, expression: str, fields: list[str], limit: int | None = None, collection: str = "",
        smallest: bool = False, strong: bool = True,
    ) -> Any:  # fmt: skip
        """The fields of the entities for which an expression holds.

        smallest : of more than ``limit``, those with the smallest keys; else whichever the server has at hand
        strong : wait for everything written so far; needless where a strong request came before and nothing since
        """
        level = common_pb2.ConsistencyLevel.Strong if strong else common_pb2.ConsistencyLevel.Eventually
        words = {"limit": str(limit)} if limit else {}
        if smallest:
            words |= {"iterator": "True", "reduce_stop_for_best": "True"}
        return self.call(
            "Query",
            milvus_pb2.QueryRequest(
                collection_name=collection or self.address.collection,
                db_name=self.address.db_name or "",
                expr=expression,
                output_fields=fields,
                query_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in words.items()],
                consistency_level=level,
            ),
        ).fields_data

    def count(self, expression: str = "", collection: str = "") -> int:
        """Entities for which an expression holds; an entity that was written twice counts twice."""
        (field,) = self.query(expression, ["count(*)"], collection=collection)
        return int(field.scalars.long_data.data[0])

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


def _check(status: Any) -> None:
    if status.code or status.error_code:
        raise RefusedError(status)


def reason_of(error: Exception) -> str:
    """An error's own words on one line."""
    if isinstance(error, grpc.RpcError):
        return " ".join(f"{error.code().name}: {error.details()}".split())
    return " ".join(str(getattr(error, "message", "") or error).split())


def passes(error: Exception) -> bool | None:
    """Whether waiting may mend what a client or channel raised: True, False, or None for who knows."""
    reason = reason_of(error).lower()
    status = error.code().name if isinstance(error, grpc.RpcError) else ""
    code = error.code if isinstance(error, (RefusedError, MilvusException)) else None
    if status in FINAL_STATUS or code in FINAL_CODES or any(word in reason for word in FINAL_WORDS):
        return False
    if status in PASSING_STATUS or code in PASSING_CODES or any(word in reason for word in PASSING_WORDS):
        return True
    if isinstance(error, RefusedError) and error.passing:
        return True
    return None


def patiently(address: Address, attempt: Callable[[int], T]) -> tuple[T, int]:
    """Call until it works; return its result, and how often it failed before.

    attempt : called with the number of failures so far; a write can so be made safe to repeat
    Raises: StoreError at once for what waiting cannot mend, after a few tries for what is unknown, and after
        ``patience_s`` for a server that stays away.
    """
    failures = 0
    deadline: float | None = None
    while True:
        try:
            return attempt(failures), failures
        except (grpc.RpcError, MilvusException, RefusedError) as error:
            failures += 1
            now = time.monotonic()
            deadline = deadline or now + address.patience_s
            hope = passes(error)
            if hope is False or (hope is None and failures >= FEW_TRIES):
                raise address.failed(error) from None
            if now >= deadline:
                raise StoreError(
                    f"{address.failed(error)} (it was tried {failures} times in {address.patience_s:g} s)"
                ) from None
            time.sleep(min(0.2 * 2**failures, 5))


def server_version(client: MilvusClient) -> tuple[int, ...]:
    """Major, minor and patch of the server's version, from words such as v2.3.5-lite."""
    numbers = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", str(client.get_server_version()))
    return tuple(int(number or 0) for number in numbers.groups()) if numbers else (0, 0, 0)


@contextmanager
def connected(address: Address) -> Iterator[MilvusClient]:
    """A client for the time of the block; what it raises becomes a StoreError: where, what, and how to go on.

    Raises: ConfigError when there is no connection, see Address.connect.
    """
    client = address.connect()
    try:
        yield client
    except (grpc.RpcError, MilvusException, RefusedError) as error:
        raise address.failed(error) from None
    finally:
        client.close()


def _refuse_unreachable(uri: str, timeout_s: float, section: str) -> None:
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
                        f"{section}.uri: nothing answers at {uri} ({error}); tried for {timeout_s:g} s. Start Milvus "
                        f"there, or correct {section}.uri{', or set it to embedded' if section == 'store' else ''}"
                    ]
                ) from None
            time.sleep(0.5)


@contextmanager
def open_store(config: RunConfig, run: RunDir) -> Iterator[Address]:
    """The address of the store; the embedded server runs until the block ends, whatever ends it."""
    if not config.store.embedded:
        yield address_of(config, config.store.uri)
        return
    with embedded_server(run.local("store")) as uri:
        yield address_of(config, uri)


def address_of(config: RunConfig, uri: str) -> Address:
    store = config.store
    if store.embedded:  # Milvus Lite knows neither tokens nor databases
        return Address(uri, config.collection, timeout_s=store.timeout_s)
    return Address(
        uri, config.collection, store.token_env, store.token_file, store.db_name, store.ca_file, store.server_name,
        store.timeout_s, store.patience_s,
    )  # fmt: skip


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
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
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
