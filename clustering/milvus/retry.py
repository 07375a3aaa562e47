"""A request to Milvus in, its reply out: transient errors are retried, permanent ones are raised at once."""

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
UNKNOWN_TRIES = 3  # for an error that is neither known to be transient nor known to be permanent
SPLIT_STATUS = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)  # too slow, or too large
SPLIT_WORDS = ("maxoutputsize", "exceed the limit size", "maximum output size")  # in Milvus's own answer: too large
GROW_AFTER = 8  # requests in a row that work, until they hold twice as much again
# Permanent, by gRPC status and by Milvus's own codes: a wrong parameter, missing rights, a collection that is gone, a
# full disk.
PERMANENT_STATUS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "UNIMPLEMENTED"}
PERMANENT_CODES = {100, 1100, 1400, 1401, 1801}
PERMANENT_WORDS = (
    "disk quota", "no space left", "permission deny", "privilege", "auth check failure", "token is expired",
)  # fmt: skip
# Transient: the server restarts or is overloaded. One that was killed waits until the sessions of its nodes expire, and
# says so without a code.
TRANSIENT_STATUS = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "INTERNAL", "UNKNOWN"}
TRANSIENT_CODES = {1, 2, 3, 5, 8, 9, 101, 103, 106, 400, 401, 500, 502, 503, 600, 601, 602, 700, 901, 902, 903, 904}
TRANSIENT_WORDS = ("node not found", "session not found", "node not match")


class Server(Protocol):
    """What a retry needs of a server; an Endpoint provides it."""

    @property
    def patience_s(self) -> float: ...

    @property
    def home(self) -> str | None: ...

    def store_error(self, error: Exception) -> StoreError: ...


class RefusedError(Exception):
    """A reply whose status is not success, with the server's code, and whether it says that a retry may help."""

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
    """Whether an error of a client or channel is transient; False: permanent; None: unknown."""
    reason = reason_of(error).lower()
    status = error.code().name if isinstance(error, grpc.RpcError) else ""
    code = error.code if isinstance(error, (RefusedError, MilvusException)) else None
    if status in PERMANENT_STATUS or code in PERMANENT_CODES or any(word in reason for word in PERMANENT_WORDS):
        return False
    if status in TRANSIENT_STATUS or code in TRANSIENT_CODES or any(word in reason for word in TRANSIENT_WORDS):
        return True
    return True if isinstance(error, RefusedError) and error.retriable else None


def retry(endpoint: Server, attempt: Callable[[int], T], since: float | None = None) -> tuple[T, int]:
    """Call until it works; return the result and the number of failures before it.

    attempt : called with the number of failures so far, so that a write can be made safe to repeat
    since : when the server was first asked for this (time.monotonic()); None: now
    Raises: StoreError at once for a permanent error, after a few tries for an unknown one, and after ``patience_s`` for
        a server that stays away or silent.
    """
    failures = 0
    deadline = (time.monotonic() if since is None else since) + endpoint.patience_s
    while True:
        try:
            return attempt(failures), failures
        except (grpc.RpcError, MilvusException, RefusedError) as error:
            failures += 1
            transient = is_transient(error)
            if transient is False or (transient is None and failures >= UNKNOWN_TRIES):
                raise endpoint.store_error(error) from None
            if reason := reason_given_up(endpoint.home):
                raise StoreError(f"{reason}. When that is mended, the same command goes on") from None
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"{endpoint.store_error(error)} (it was tried {failures} times in {endpoint.patience_s:g} s, "
                    f"which is store.patience_s)"
                ) from None
            time.sleep(min(0.2 * 2 ** min(failures, 9), 5))


class RequestSize:
    """How many rows a request holds: halved when the server is too slow, doubled when it has caught up."""

    def __init__(self, most: int) -> None:
        self.most = self.rows = most
        self.good, self.needed = 0, GROW_AFTER
        self.lock = threading.Lock()

    def worked(self) -> None:
        """A request has worked."""
        with self.lock:
            self.good += 1
            if self.good >= self.needed and self.rows < self.most:
                self.rows, self.good = min(2 * self.rows, self.most), 0

    def failed(self, rows: int) -> None:
        """A request of so many rows has failed twice; the next growth needs twice as many that work."""
        with self.lock:
            if rows // 2 < self.rows:
                self.needed *= 2
            self.rows, self.good = max(1, min(self.rows, rows // 2)), 0


def retry_in_halves(
    endpoint: Server, request_size: RequestSize, n_rows: int, ask: Callable[[slice, bool], T]
) -> tuple[list[T], int]:
    """Send one request for n_rows rows; split it in halves when it is too slow or too large twice at the same size.

    ask : sends the request for some of the rows; its second argument says whether the server may have seen them before
    Returns: the replies in the order of the rows, and how often requests were repeated.
    Raises: StoreError as ``retry`` does; the patience counts from the last reply.
    """
    todo, replies, retries = [slice(0, n_rows)], [], 0
    since = time.monotonic()
    while todo:
        rows = todo.pop()
        size = rows.stop - rows.start
        if request_size.rows < size < n_rows:  # its other half was too large
            todo += _halves(rows)
            continue
        reply, failures = retry(endpoint, _attempt(ask, rows, size < n_rows), since)
        retries += failures
        if reply:
            request_size.worked()
            replies += reply
            since = time.monotonic()
        else:
            retries += 1
            request_size.failed(size)
            todo += _halves(rows)
    return replies, retries


def _halves(rows: slice) -> list[slice]:
    """The second half and the first: the list is read from its end."""
    middle = (rows.start + rows.stop) // 2
    return [slice(middle, rows.stop), slice(rows.start, middle)]


def _attempt(ask: Callable[[slice, bool], T], rows: slice, again: bool) -> Callable[[int], list[T]]:
    """The request for some rows, as ``retry`` calls it; it returns [] when it must be split."""

    def attempt(failures: int) -> list[T]:
        try:
            return [ask(rows, again or failures > 0)]
        except (grpc.RpcError, RefusedError) as error:
            if isinstance(error, RefusedError):
                too_much = any(word in reason_of(error).lower() for word in SPLIT_WORDS)
            else:
                too_much = failures > 0 and error.code() in SPLIT_STATUS
            if too_much and rows.stop - rows.start > 1:
                return []
            raise

    return attempt
