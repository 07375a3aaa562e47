"""A URL, JSON and the name of a key's variable in; the reply of an OpenAI-compatible server out."""

from __future__ import annotations

import base64
import logging
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from clustering.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("covey")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
TRANSIENT_STATUS = (408, 409, 425, 429)  # client errors that a later try may not get
ERROR_BYTES = 1 << 16  # of a reply that tells of an error; the rest is not read


class PermanentError(ValueError):
    """The server would give the same reply again."""


@dataclass(frozen=True)
class Reply:
    """What a server has answered."""

    status: int
    reason: str
    headers: Mapping[str, str]  # names in any case
    body: bytes  # of an error only the start

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".strip()


def check_key(setting: str, url: str, key_env: str | None) -> None:
    """Warn of a key that would travel to another machine without encryption.

    setting : what the URL's key in the configuration begins with, such as embed
    Raises: ConfigError when the key's environment variable is not set.
    """
    if not key_env:
        return
    if not key_in(key_env):
        raise ConfigError([f"{setting}.key_env: the environment variable {key_env} is not set"])
    if url.startswith("http:") and urlsplit(url).hostname not in LOCAL_HOSTS:
        log.warning(
            "%s.url=%s is plain http: the key is sent without encryption to another machine. Use https://", setting, url
        )


def key_in(name: str | None) -> str:
    """The key in an environment variable, without the line end of the file that it is from; "" where there is none."""
    return os.environ.get(name, "").strip() if name else ""


def open_session(key: str, timeout_s: float, at_once: int) -> aiohttp.ClientSession:
    """A session, made where an event loop runs, that shows the key to the server and checks certificates.

    timeout_s : of a whole request, from the connection to the end of the body
    at_once : connections
    """
    import aiohttp  # a third of a second that most processes can do without

    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return aiohttp.ClientSession(
        headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s), auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=at_once),
    )  # fmt: skip


async def post(
    session: aiohttp.ClientSession, url: str, body: Any, most_bytes: int, setting: str, proxy: Mapping[str, Any]
) -> Reply:
    """Send JSON; the reply has any status but that of a redirect.

    most_bytes : of a good reply
    setting : the URL's key in the configuration; proxy : see ``proxy_options``
    Raises: PermanentError for a redirect, a reply that is too long, and one that is compressed without being asked to.
    """
    # A redirect would send the texts and the key to a host that the configuration does not name.
    async with session.post(url, json=body, allow_redirects=False, **proxy) as reply:
        if 300 <= reply.status < 400:
            to = urlsplit(reply.headers.get("Location", ""))
            where = f"{to.scheme}://{to.netloc.rpartition('@')[2]}" if to.netloc else to.path
            raise PermanentError(f"it redirects to {where}; set {setting} to the address that answers")
        received = bytearray()
        async for chunk in reply.content.iter_any():
            received += chunk
            if reply.status != 200 and len(received) > ERROR_BYTES:
                break
            if len(received) > most_bytes:
                raise PermanentError(f"its reply is longer than {most_bytes:,} bytes")
        coding = reply.headers.get("Content-Encoding", "identity")
        if reply.status == 200 and coding != "identity":
            raise PermanentError(f"its reply is compressed ({coding[:20]}), which was not asked for")
        return Reply(reply.status, reply.reason or "", reply.headers, bytes(received[:most_bytes]))


def proxy_options(url: str) -> dict[str, Any]:
    """How ``post`` reaches a URL: through the proxy that the environment names, or directly."""
    proxy, password = proxy_for(url)
    # Only the proxy may see its password: through a tunnel it goes into the proxy's own headers.
    return {"proxy": proxy, "proxy_headers" if url.startswith("https:") else "headers": password}


def proxy_for(url: str) -> tuple[str | None, dict[str, str]]:
    """The proxy that the environment names for a URL, and the header with its user and password.

    The address of the proxy holds neither, so that no error shows them. This machine itself needs no proxy.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in LOCAL_HOSTS or urllib.request.proxy_bypass(host):
        return None, {}
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy:
        return None, {}
    scheme, _, rest = proxy.rpartition("://")
    user, _, host_port = rest.rpartition("@")
    password = {"Proxy-Authorization": f"Basic {base64.b64encode(unquote(user).encode()).decode()}"} if user else {}
    return f"{scheme or 'http'}://{host_port}", password
