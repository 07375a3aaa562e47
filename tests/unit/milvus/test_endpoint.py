"""retry.py and endpoint.py: transient errors are retried, permanent ones raised, and no message shows a secret."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from pymilvus import MilvusException

from clustering.errors import ConfigError, StoreError
from clustering.milvus.endpoint import NIGHTLY, Endpoint, server_version
from clustering.milvus.retry import RefusedError, is_transient, retry


class CallError(grpc.RpcError):
    """What a channel raises."""

    def __init__(self, status: str, details: str = "") -> None:
        self.status, self.words = grpc.StatusCode[status], details

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str:
        return self.words


class Status:
    """What a reply says of itself."""

    error_code = 0

    def __init__(self, code: int, reason: str = "", retriable: bool = False) -> None:
        self.code, self.reason, self.retriable = code, reason, retriable


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CallError("UNAVAILABLE", "connection refused"), True),
        (CallError("DEADLINE_EXCEEDED"), True),
        (CallError("UNAUTHENTICATED", "auth check failure"), False),
        (CallError("PERMISSION_DENIED", "PrivilegeInsert: permission deny to reader"), False),
        (RefusedError(Status(100, "collection not found")), False),
        (RefusedError(Status(1100, "invalid parameter")), False),
        (RefusedError(Status(8, "request is rejected by grpc RateLimiter")), True),
        (RefusedError(Status(9, "quota exceeded[reason=disk quota exceeded, please allocate more resources]")), False),
        (RefusedError(Status(9, "quota exceeded[reason=memory quota exceeded]")), True),
        (RefusedError(Status(4711, "try again", retriable=True)), True),
        (RefusedError(Status(4711, "who knows")), None),
        (MilvusException(503, "channel not available"), True),
        (MilvusException(65535, "session not found->datanode-1: node not found[node=1]: unrecoverable error"), True),
        (MilvusException(65535, "who knows"), None),
        (MilvusException(1, "write failed: no space left on device"), False),
    ],
)
def test_what_waiting_may_mend(error: Exception, expected: bool | None) -> None:
    assert is_transient(error) is expected


def failing(errors: list[Exception]) -> tuple[list[int], Any]:
    asked: list[int] = []

    def attempt(failures: int) -> str:
        asked.append(failures)
        if errors:
            raise errors.pop(0)
        return "done"

    return asked, attempt


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_what_passes_is_tried_again_and_counted() -> None:
    asked, attempt = failing([CallError("UNAVAILABLE")] * 6)
    assert retry(Endpoint("http://m:1", "texts"), attempt) == ("done", 6)
    assert asked == [0, 1, 2, 3, 4, 5, 6]


def test_what_stays_is_said_at_once() -> None:
    asked, attempt = failing([CallError("UNAUTHENTICATED", "auth check failure")])
    with pytest.raises(StoreError, match=r"collection texts at http://m:1: UNAUTHENTICATED.*the same command goes on"):
        retry(Endpoint("http://m:1", "texts"), attempt)
    assert asked == [0]


def test_what_nobody_knows_is_tried_a_few_times() -> None:
    asked, attempt = failing([RefusedError(Status(4711, "who knows"))] * 9)
    with pytest.raises(StoreError, match="who knows"):
        retry(Endpoint("http://m:1", "texts"), attempt)
    assert asked == [0, 1, 2]


def test_a_server_that_stays_away_is_given_up_after_the_patience() -> None:
    _, attempt = failing([CallError("UNAVAILABLE", "gone")] * 10_000_000)
    with pytest.raises(StoreError, match=r"UNAVAILABLE: gone.*it was tried \d+ times in 0.05 s"):
        retry(Endpoint("http://m:1", "texts", patience_s=0.05), attempt)


def test_no_message_holds_the_token_its_password_or_its_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVEY_TEST_TOKEN", "root:sesame")
    endpoint = Endpoint("http://m:1", "texts", token_env="COVEY_TEST_TOKEN")
    encoded = base64.b64encode(b"root:sesame").decode()
    said = str(endpoint.store_error(CallError("INTERNAL", f"header {encoded} of root:sesame with sesame")))
    assert "sesame" not in said
    assert encoded not in said
    assert "header *** of *** with ***" in said
    assert "sesame" not in repr(endpoint)


def test_a_token_comes_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = tmp_path / "token"
    held.write_text("root:sesame\n")
    assert Endpoint("http://m:1", "texts", token_file=str(held)).token == "root:sesame"
    held.write_bytes(b"\xef\xbb\xbfroot:sesame\r\n")  # as Windows leaves it
    assert Endpoint("http://m:1", "texts", token_file=str(held)).token == "root:sesame"
    monkeypatch.setenv("COVEY_TEST_TOKEN", "root:sesame\n")
    assert Endpoint("http://m:1", "texts", token_env="COVEY_TEST_TOKEN").token == "root:sesame"
    held.write_bytes(b"root:sesame\xff")
    with pytest.raises(
        ConfigError, match=r"store.server.token_file: .* cannot be read on .*: it is no UTF-8 text"
    ) as caught:
        _ = Endpoint("http://m:1", "texts", token_file=str(held)).token
    assert "sesame" not in str(caught.value)
    held.write_text("\n")
    with pytest.raises(ConfigError, match=r"store.server.token_file: .* is empty"):
        _ = Endpoint("http://m:1", "texts", token_file=str(held)).token
    with pytest.raises(ConfigError, match=r"read.collection.server.token_file: .* cannot be read"):
        _ = Endpoint("http://m:1", "texts", token_file=str(tmp_path / "none"), section="read.collection").token
    monkeypatch.delenv("COVEY_TEST_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="variable COVEY_TEST_TOKEN is not set"):
        _ = Endpoint("http://m:1", "texts", token_env="COVEY_TEST_TOKEN").token


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("v2.3.5", (2, 3, 5)),
        ("2.5.1-lite", (2, 5, 1)),
        ("v2.6", (2, 6, 0)),
        ("Zilliz Cloud Vector Database(Compatible with Milvus 2.6)", (2, 6, 0)),
        ("master-20260608-3c1a9f2", NIGHTLY),
        ("unknown-20260608-3c1a9f2", NIGHTLY),
    ],
)
def test_a_version_is_read_out_of_the_words_of_a_server(told: str, version: tuple[int, ...]) -> None:
    class Client:
        def get_server_version(self) -> str:
            return told

    assert server_version(Client()) == version  # type: ignore[arg-type]
