"""endpoint.py: which servers are asked through a proxy, and the warning of a token on an open line."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clustering.errors import ConfigError, StoreError
from clustering.milvus import endpoint as endpoint_module
from clustering.milvus.channel import Channel
from clustering.milvus.embedded import embedded_server
from clustering.milvus.endpoint import Endpoint, connected, is_loopback
from clustering.milvus.protocol import write_request
from clustering.milvus.retry import retry

NAMES = (
    "http_proxy",
    "https_proxy",
    "grpc_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "no_proxy",
    "no_grpc_proxy",
    "NO_PROXY",
)


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A proxy that lets nobody through, as the environment names it, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                with caller:
                    caller.settimeout(5)
                    asked.append(caller.recv(4096))
                    caller.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://me:sesame@127.0.0.1:{server.getsockname()[1]}")
        yield asked
        server.shutdown(socket.SHUT_RDWR)


def test_the_embedded_server_is_never_asked_through_a_proxy(proxy: list[bytes], tmp_path: Path) -> None:
    """It took 59 s, and store.uri was blamed."""
    with embedded_server(tmp_path) as uri:
        endpoint = Endpoint(uri, "texts", patience_s=10, home=str(tmp_path))
        assert endpoint.proxy == ""
        with connected(endpoint) as client, Channel(endpoint) as channel:
            client.create_collection("texts", dimension=4, primary_field_name="row")
            channel.call("Insert", write_request("insert", "texts", "", np.arange(3), np.ones((3, 4), np.float32)))
            assert retry(endpoint, lambda _: channel.count())[0] == 3
    assert [request for request in proxy if b"127.0.0.1" in request or b"localhost" in request] == []


def test_a_proxy_before_a_server_is_named_and_its_password_is_not(proxy: list[bytes]) -> None:
    endpoint = Endpoint("http://milvus.invalid:19530", "texts", timeout_s=2, patience_s=2)
    with pytest.raises(ConfigError) as refused:
        endpoint.connect()
    with pytest.raises(StoreError) as failed, Channel(endpoint) as channel:
        retry(endpoint, lambda _: channel.count())
    for error in (refused.value, failed.value):
        assert "through the proxy http://***@127.0.0.1:" in str(error)
        assert "set no_proxy=milvus.invalid" in str(error)
        assert "sesame" not in str(error)
    assert any(request.startswith(b"CONNECT milvus.invalid:19530") for request in proxy)


@pytest.mark.parametrize("proxy", ["http://me:ses@me/@proxy:1", "me:sesame@proxy:1", "http://me:s//@e@proxy:1"])
def test_of_a_proxy_only_the_host_is_said(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    assert Endpoint("http://milvus.invalid:19530", "texts").proxy.removeprefix("http://") == "***@proxy:1"


def test_what_no_proxy_names_is_asked_directly(proxy: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "other.example,.invalid")
    endpoint = Endpoint("http://milvus.invalid:19530", "texts", timeout_s=0.5)
    assert endpoint.proxy == ""
    with pytest.raises(ConfigError, match=r"nothing answers at http://milvus\.invalid:19530"):
        endpoint.connect()
    assert proxy == []


HOSTS = {"127.0.0.1": True, "127.3.2.1": True, "::1": True, "localhost": True, "10.0.0.7": False, "milvus": False,
         "localhost.evil.example": False, "": False}  # fmt: skip


@pytest.mark.parametrize(("host", "here"), HOSTS.items())
def test_which_host_is_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.mark.parametrize(
    ("uri", "host_port"),
    [
        ("http://milvus:1", "milvus:1"),
        ("http://milvus", "milvus:19530"),
        ("https://milvus", "milvus:443"),
        ("http://[::1]:7", "[::1]:7"),
        ("http://[::1]", "[::1]:19530"),
        ("http://m:1/path", "m:1"),
    ],
)
def test_host_and_port_of_an_address(uri: str, host_port: str) -> None:
    assert Endpoint(uri, "texts").host_port == host_port


@pytest.mark.parametrize(("uri", "token", "warned"), [("http://milvus.example:19530", "t", True),
                                                      ("https://milvus.example", "t", False),
                                                      ("http://127.0.0.1:19530", "t", False),
                                                      ("http://milvus.example:19530", "", False)])  # fmt: skip
def test_a_token_on_an_open_line_to_another_machine_is_warned_of_once(
    uri: str, token: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(endpoint_module, "_warned", set())
    monkeypatch.setattr(logging.getLogger("covey"), "warning", lambda text, *rest: said.append(text % rest))
    for _ in range(2):
        endpoint_module.warn_of_open_token(Endpoint(uri, "texts"), token)
    expected = [f"store.uri={uri} is plain http: the token is sent without encryption to another machine. Use "
                "https://, and store.server.ca_file for an authority of your own"]  # fmt: skip
    assert said == (expected if warned else [])
