"""What a server refuses, or does not answer, in; waiting, a smaller request, or an error out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import grpc
from pymilvus import MilvusException

from clustering.errors import StoreError
from clustering.milvus.embedded import reason_given_up

T = TypeVar("T")
FEW_TRIES = 3  # for a refusal that is neither known to pass nor known to stay
SPLIT_STATUS = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)  # too slow, or too large
GROW_AFTER = 8  # requests in a row that work, until they hold twice as much again
# What waiting cannot mend, by gRPC status and by the server's own codes: a wrong parameter, rights that are missing, a
# collection that is gone, a disk that is full.
PERMANENT_STATUS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "UNIMPLEMENTED"}
PERMANENT_CODES = {100, 1100, 1400, 1401, 1801}
PERMANENT_WORDS = (
    "disk quota",
    "no space left",
    "permission deny",
    "privilege",
    "auth check failure",
    "token is expired",
)
# What passes while a server starts again or catches its breath; one that was killed waits for the sessions of its nodes
# to run out, and says so without a code.
TRANSIENT_STATUS = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "INTERNAL", "UNKNOWN"}
TRANSIENT_CODES = {1, 2, 3, 5, 8, 9, 101, 103, 106, 400, 401, 500, 502, 503, 600, 601, 602, 700, 901, 902, 903, 904}
TRANSIENT_WORDS = ("node not found", "session not found", "node not match")


class Server(Protocol):
    """Who is asked, as far as waiting for it is concerned; an Endpoint is one."""

    @property
    def patience_s(self) -> float: ...

    @property
    def home(self) -> str | None: ...

    def store_error(self, error: Exception) -> StoreError: ...


class RefusedError(Exception):
    """A reply whose status is not success; ``code`` is the server's, ``passing`` its own word that a retry may help."""

    def __init__(self, status: Any) -> None:
        super().__init__(str(status.reason))
        self.code = int(status.code or status.error_code)
        self.retriable = bool(status.retriable)


def reason_of(error: Exception) -> str:
    """An error's own words on one line."""
    if isinstance(error, grpc.RpcError):
        return " ".join(f"{error.code().name}: {error.details()}".split())
    return " ".join(str(getattr(error, "message", "") or error).split())


def is_transient(error: Exception) -> bool | None:
    """Whether waiting may mend what a client or channel raised: True, False, or None for who knows."""
    reason = reason_of(error).lower()
    status = error.code().name if isinstance(error, grpc.RpcError) else ""
    code = error.code if isinstance(error, (RefusedError, MilvusException)) else None
    if status in PERMANENT_STATUS or code in PERMANENT_CODES or any(word in reason for word in PERMANENT_WORDS):
        return False
    if status in TRANSIENT_STATUS or code in TRANSIENT_CODES or any(word in reason for word in TRANSIENT_WORDS):
        return True
    if isinstance(error, RefusedError) and error.retriable:
        return True
    return None


def retry(endpoint: Server, attempt: Callable[[int], T], since: float | None = None) -> tuple[T, int]:
    """Call until it works; return its result, and how often it failed before.

    attempt : called with the number of failures so far; a write can so be made safe to repeat
    since : when the server was first asked for this (time.monotonic()); None: now
    Raises: StoreError at once for what waiting cannot mend, after a few tries for what is unknown, and after
        ``patience_s`` for a server that stays away or silent.
    """
    failures = 0
    deadline = (time.monotonic() if since is None else since) + endpoint.patience_s
    while True:
        try:
            return attempt(failures), failures
        except (grpc.RpcError, MilvusException, RefusedError) as error:
            failures += 1
            hope = is_transient(error)
            if hope is False or (hope is None and failures >= FEW_TRIES):
                raise endpoint.store_error(error) from None
            if why := reason_given_up(endpoint.home):
                raise StoreError(f"{why}. When that is mended, the same command goes on") from None
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"{endpoint.store_error(error)} (it was tried {failures} times in {endpoint.patience_s:g} s, "
                    f"which is store.patience_s)"
                ) from None
            time.sleep(min(0.2 * 2**failures, 5))


class RequestSize:
    """How many rows a request holds: halved for a server that is too slow, doubled again when it has caught up."""

    def __init__(self, most: int) -> None:
        self.most = self.rows = most
        self.good, self.needed = 0, GROW_AFTER
        self.lock = threading.Lock()

    def worked(self) -> None:
        with self.lock:
            self.good += 1
            if self.good >= self.needed and self.rows < self.most:
                self.rows, self.good = min(2 * self.rows, self.most), 0

    def failed(self, rows: int) -> None:
        """A request of so many rows failed twice; the next growth takes twice as many that work."""
        with self.lock:
            if rows // 2 < self.rows:
                self.needed *= 2
            self.rows, self.good = max(1, min(self.rows, rows // 2)), 0


def retry_in_halves(
    endpoint: Server, request_size: RequestSize, n_rows: int, ask: Callable[[slice, bool], T]
) -> tuple[list[T], int]:
    """Ask for some rows in one request; in halves, when it was too slow or too large twice at the same size.

    ask : sends the request for some of the rows; told whether the server may have seen them before
    Returns: the replies in the order of the rows, and how often requests were repeated.
    Raises: StoreError as ``patiently`` does; the patience counts from the last answer.
    """
    todo, replies, retries = [slice(0, n_rows)], [], 0
    since = time.monotonic()
    while todo:
        some = todo.pop()
        size = some.stop - some.start
        if request_size.rows < size < n_rows:  # its other half has shown that it is too much
            todo += _halves(some)
            continue
        found, failed = retry(endpoint, _attempt(ask, some, size < n_rows), since)
        retries += failed
        if found:
            request_size.worked()
            replies += found
            since = time.monotonic()
        else:
            retries += 1
            request_size.failed(size)
            todo += _halves(some)
    return replies, retries


def _halves(some: slice) -> list[slice]:
    """The second half, and the first, which is taken from the end."""
    middle = (some.start + some.stop) // 2
    return [slice(middle, some.stop), slice(some.start, middle)]


def _attempt(ask: Callable[[slice, bool], T], some: slice, again: bool) -> Callable[[int], list[T]]:
    """The request for some rows as ``patiently`` makes it; [] where it is to be made in halves."""

    def attempt(failures: int) -> list[T]:
        try:
            return [ask(some, again or failures > 0)]
        except grpc.RpcError as error:
            if failures and error.code() in SPLIT_STATUS and some.stop - some.start > 1:
                return []
            raise

    return attempt
