"""The configuration in; where the Milvus server is, its token, its timeouts, its errors and a client of it out."""

from __future__ import annotations

import base64
import functools
import inspect
import ipaddress
import logging
import os
import platform
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from pymilvus import MilvusClient, MilvusException

from clustering.config.sections import RunConfig
from clustering.errors import ConfigError, StoreError
from clustering.kernels.printable import hide_credentials
from clustering.milvus.embedded import embedded_server
from clustering.milvus.retry import RefusedError, reason_of
from clustering.runs.directory import RunDir

log = logging.getLogger("covey")

REQUEST_TIMEOUT_S = 120  # a request that takes longer is sent again, and the third time in halves
TRIES = 3  # at least, of a request without a reply, within the patience
NEVER_MS = (1 << 31) - 1  # gRPC's value for no keepalive
NIGHTLY = (999, 0, 0)  # the version of a server that does not give a number
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # in gRPC's order


@dataclass(frozen=True)
class Endpoint:
    """Where a collection lies; holds the name of the token's variable or file, never the token."""

    uri: str
    collection: str
    token_env: str | None = None
    token_file: str | None = None
    db_name: str | None = None
    ca_file: str | None = None
    server_name: str | None = None
    timeout_s: float = 20
    patience_s: float = 300
    section: str = "store"  # of the configuration, for messages that name its keys
    home: str | None = None  # the folder of the embedded server, which runs on this machine for this run alone
    stall_s: float = 3600
    vector_type: str = "float32"  # of the collection's field
    replicas: int = 1  # in memory, once it is loaded

    def __str__(self) -> str:
        return f"collection {self.collection} at {self.uri}"

    @property
    def target(self) -> dict[str, str]:
        """The collection's name and its database, as requests take them."""
        return {"collection_name": self.collection, "db_name": self.db_name or ""}

    @property
    def embedded(self) -> bool:
        return self.home is not None

    @property
    def secure(self) -> bool:
        return self.uri.startswith("https://")

    @property
    def host(self) -> str:
        return urlsplit(self.uri).hostname or ""

    @property
    def host_port(self) -> str:
        """Host and port, as gRPC takes them."""
        host_port = self.uri.split("://", 1)[1].split("/")[0]
        if urlsplit(self.uri).port is None:
            host_port += ":443" if self.secure else ":19530"
        return host_port

    @property
    def on_this_machine(self) -> bool:
        return is_loopback(self.host)

    @property
    def request_s(self) -> float:
        """Seconds after which a request counts as lost.

        A server is asked three times within the patience. The embedded one works on one request at a time, and a second
        copy would only wait behind the first: one request gets the whole patience.
        """
        return self.patience_s if self.embedded else min(REQUEST_TIMEOUT_S, self.patience_s / TRIES)

    @property
    def grpc_options(self) -> dict[str, Any]:
        """No proxy and no pings for a server on this machine: a busy one takes pings for an attack."""
        backoff = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 5000}  # else 120 s
        if self.on_this_machine:
            return {**backoff, "grpc.enable_http_proxy": 0, "grpc.keepalive_time_ms": NEVER_MS}
        return {**backoff, "grpc.keepalive_time_ms": 10_000, "grpc.keepalive_timeout_ms": 10_000}

    @property
    def proxy(self) -> str:
        """The proxy that gRPC uses for this endpoint, as the environment names it; "" where there is none."""
        if self.on_this_machine or _bypasses_proxy(self.host):
            return ""
        return hide_credentials(next((os.environ[name] for name in PROXIES if os.environ.get(name)), ""))

    @property
    def proxy_hint(self) -> str:
        if not self.proxy:
            return ""
        return (
            f". It is asked through the proxy {self.proxy}, which the environment names ({', '.join(PROXIES)}); "
            f"where it is reached without one, set no_proxy={self.host}"
        )

    @property
    def token(self) -> str:
        """The token, or user:password, as this process finds it; "" where none is configured.

        Raises: ConfigError when the variable or file holds none.
        """
        if self.token_env:
            token = os.environ.get(self.token_env, "").strip()
            if not token:
                variable = f"the environment variable {self.token_env} is not set on {platform.node()}"
                raise ConfigError([f"{self.section}.server.token_env: {variable}"])
            return token
        if self.token_file:
            try:
                token = Path(self.token_file).read_text(encoding="utf-8-sig").strip()
            except (OSError, ValueError) as error:
                # The words of a UnicodeDecodeError would show what was read.
                reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
                file = f"{self.token_file} cannot be read on {platform.node()}"
                raise ConfigError([f"{self.section}.server.token_file: {file}: {reason}"]) from None
            if not token:
                raise ConfigError([f"{self.section}.server.token_file: {self.token_file} is empty"])
            return token
        return ""

    def connect(self) -> MilvusClient:
        """A client of this process's own.

        Raises: ConfigError when the server does not answer within ``timeout_s`` or refuses the token.
        """
        token = self.token
        if self.ca_file and not os.path.isfile(self.ca_file):
            raise ConfigError([f"{self.section}.server.ca_file: there is no file {self.ca_file} on {platform.node()}"])
        if not self.proxy:
            _refuse_unreachable(self)
        warn_of_open_token(self, token)
        tls = {"secure": True, "server_pem_path": self.ca_file or "", "server_name": self.server_name or ""}
        try:
            client = _ClientWithTimeouts(
                self.request_s, uri=self.uri, token=token, db_name=self.db_name or "", timeout=self.timeout_s,
                dedicated=True,  # a shared one has checked the server's name for its first user, not for us
                grpc_options=self.grpc_options,
                **(tls if self.secure else {}),
            )  # fmt: skip
            client.list_collections(timeout=self.timeout_s)
        except MilvusException as error:
            raise ConfigError([f"{self.section}.uri: {self._why_refused(error)}"]) from None
        return client

    def _why_refused(self, error: MilvusException) -> str:
        keys = f"{self.section}.server"
        cause = str(getattr(error.__cause__, "details", lambda: "")() or "")  # the server's own words
        reason = self.redact(" ".join(f"{error.message or error} {cause}".split()))
        if "verif" in reason.lower():
            return (
                f"the certificate of {self.uri} is not accepted: {reason}. Set {keys}.ca_file to the certificate of "
                f"its authority, and {keys}.server_name to the name in the certificate if that is not the address"
            )
        if any(word in reason.lower() for word in ("auth", "permission", "credential")):
            token = self.token_env or self.token_file
            refused = f"the token in {token}" if token else "the request without a token"
            return (
                f"{self.uri} refused {refused}: {reason}. Set {keys}.token_env to the name of a variable that holds a "
                f"valid token or user:password, or {keys}.token_file to a file with it"
            )
        return f"{self.uri} does not work as a Milvus server: {reason}{self.proxy_hint}"

    def redact(self, text: str) -> str:
        """The text without the token, its password, or their encoding in the request's header."""
        try:
            token = self.token
        except ConfigError:
            return text
        for secret in (token, base64.b64encode(token.encode()).decode(), token.partition(":")[2]):
            text = text.replace(secret, "***") if secret else text
        return text

    def store_error(self, error: Exception) -> StoreError:
        """The error of a client or channel as one that says where, what, and how to go on."""
        reason = self.redact(reason_of(error)) + self.proxy_hint
        if self.home:
            reason += f" (the embedded server's log is {self.home}/server.log)"
        return StoreError(
            f"{self}: {reason}. When that is mended, the same command goes on from the last finished part"
        )


class _ClientWithTimeouts(MilvusClient):  # type: ignore[misc]
    """pymilvus's client with a timeout for each call; without one it waits for ever on a silent server."""

    def __init__(self, timeout_s: float, **options: Any) -> None:
        super().__init__(**options)
        for name, method in inspect.getmembers(MilvusClient, inspect.isfunction):
            if not name.startswith("_") and "timeout" in inspect.signature(method).parameters:
                setattr(self, name, functools.partial(getattr(self, name), timeout=timeout_s))


@contextmanager
def connected(endpoint: Endpoint) -> Iterator[MilvusClient]:
    """A client for the length of the block; its errors become a StoreError.

    Raises: ConfigError when there is no connection, see Endpoint.connect.
    """
    client = endpoint.connect()
    try:
        yield client
    except (grpc.RpcError, MilvusException, RefusedError) as error:
        raise endpoint.store_error(error) from None
    finally:
        client.close()


def server_version(client: MilvusClient) -> tuple[int, ...]:
    """Major, minor and patch of the server's version, from words such as v2.3.5-lite or "Compatible with Milvus 2.6".

    A nightly build, whose version is a date, counts as newer than all others.
    """
    numbers = re.search(r"\bv?(\d+)\.(\d+)(?:\.(\d+))?", str(client.get_server_version()))
    return tuple(int(number or 0) for number in numbers.groups()) if numbers else NIGHTLY


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own, which no other machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _bypasses_proxy(host: str) -> bool:
    """Whether the environment excepts a host from proxies; gRPC's own list comes first."""
    names = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy") or ""  # noqa: SIM112
    return bool(urllib.request.proxy_bypass_environment(host, {"no": names}))  # type: ignore[attr-defined]


_warned: set[str] = set()  # URIs


def warn_of_open_token(endpoint: Endpoint, token: str) -> None:
    """Warn once that a token travels unencrypted to another machine, where anyone on the way can read it."""
    if token and not endpoint.secure and not endpoint.on_this_machine and endpoint.uri not in _warned:
        _warned.add(endpoint.uri)
        log.warning(
            "%s.uri=%s is plain http: the token is sent without encryption to another machine. Use https://, and "
            "%s.server.ca_file for an authority of your own", endpoint.section, endpoint.uri, endpoint.section,
        )  # fmt: skip


def _refuse_unreachable(endpoint: Endpoint) -> None:
    """Report within ``timeout_s`` that nothing listens; a client would try far longer."""
    host, _, port = endpoint.host_port.rpartition(":")
    deadline = time.monotonic() + endpoint.timeout_s
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError as error:
            if time.monotonic() + 0.5 >= deadline:
                key = f"{endpoint.section}.uri"
                problem = f"{key}: nothing answers at {endpoint.uri} ({error}); tried for {endpoint.timeout_s:g} s"
                remedy = f"Start Milvus there, or correct {key}"
                other = ", or set it to embedded" if endpoint.section == "store" else ""
                raise ConfigError([f"{problem}. {remedy}{other}"]) from None
            time.sleep(0.5)


def endpoint_of(config: RunConfig, uri: str, home: str | None = None) -> Endpoint:
    """The endpoint of the run's collection. home : folder of the embedded server"""
    store = config.store
    endpoint = Endpoint(
        uri, config.collection, timeout_s=store.timeout_s, patience_s=store.patience_s, stall_s=store.stall_s, home=home
    )
    if store.embedded:  # Milvus Lite knows neither tokens nor databases
        return endpoint
    return replace(endpoint, **asdict(store.server), vector_type=store.vector_type, replicas=store.replicas)


@contextmanager
def open_store(config: RunConfig, run: RunDir) -> Iterator[Endpoint]:
    """The endpoint of the run's collection; the embedded server runs until the block ends, whatever ends it."""
    if not config.store.embedded:
        yield endpoint_of(config, config.store.uri)
        return
    home = run.local("store")
    with embedded_server(home) as uri:
        yield endpoint_of(config, uri, str(home))
