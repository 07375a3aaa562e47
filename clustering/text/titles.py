"""Terms and exemplars of clusters in, titles that a language model writes out."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from clustering.config.sections import Titles
from clustering.errors import ConfigError
from clustering.kernels.printable import one_line

log = logging.getLogger("covey")
PROMPT = (
    "These texts are the most typical ones of a cluster of short texts, and these words stand out in it. "
    "Answer with a title of at most eight words that says what they share, in their language, and nothing else."
)
LONGEST_TITLE = 80  # characters
LONGEST_TEXT = 300
REPLY_BYTES = 1 << 20  # a longer reply is no title
TIMEOUT_S = 60.0  # of a whole request, from the connection to the end of the body
TRIES = 3
PAUSE_S = 1.0  # before the second try; twice as long before each later one
CONCURRENCY = 8
MAX_FAILED_IN_A_ROW = 24  # then no further title is requested
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
TRANSIENT_STATUS = (408, 409, 425, 429)  # client errors that a later try may not get
FAILURES = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, LookupError, TypeError, RecursionError)


class PermanentError(ValueError):
    """The endpoint would give the same reply again."""


def check_titles(cfg: Titles | None) -> None:
    """Warn of a key that would travel to another machine without encryption.

    Raises: ConfigError when the key's environment variable is not set.
    """
    if cfg is None or not cfg.key_env:
        return
    if not _key(cfg.key_env):
        raise ConfigError([f"describe.titles.key_env: the environment variable {cfg.key_env} is not set"])
    if cfg.url.startswith("http:") and urlsplit(cfg.url).hostname not in LOCAL_HOSTS:
        log.warning(
            "describe.titles.url=%s is plain http: the key is sent without encryption to another machine. Use https://",
            cfg.url,
        )


def _key(name: str) -> str:
    """The key in an environment variable, without the line end of the file that it is from; "" where there is none."""
    return os.environ.get(name, "").strip()


def write_titles(cfg: Titles, terms: list[list[str]], exemplars: list[list[str]]) -> tuple[list[str | None], str]:
    """Request a title for each cluster from an OpenAI-compatible endpoint; a title is None where all tries failed.

    No reply ends the run. A reply that is late, too long, malformed or a redirect counts as a failed try.
    Returns: the titles, and the reason of the first failure ("" where no try failed).
    """
    if cfg.key_env and not _key(cfg.key_env):  # workers have the environment in which Ray was started
        return [None] * len(terms), f"the environment variable {cfg.key_env} is not set where Ray's workers run"
    return asyncio.run(_Endpoint(cfg).write_all(terms, exemplars))


class _Endpoint:
    """An endpoint that gets requests until too many of them in a row have failed."""

    def __init__(self, cfg: Titles) -> None:
        self.cfg, self.url = cfg, f"{cfg.url.rstrip('/')}/chat/completions"
        self.proxy, password = proxy_for(self.url)
        # Only the proxy may see its password: through a tunnel it goes into the proxy's own headers.
        of_proxy = "proxy_headers" if self.url.startswith("https:") else "headers"
        self.proxy_options: Any = {"proxy": self.proxy, of_proxy: password}
        self.failed_in_a_row, self.reason = 0, ""
        self.slots = asyncio.Semaphore(CONCURRENCY)

    async def write_all(self, terms: list[list[str]], exemplars: list[list[str]]) -> tuple[list[str | None], str]:
        headers = {"Accept-Encoding": "identity"}
        if self.cfg.key_env:
            headers["Authorization"] = f"Bearer {_key(self.cfg.key_env)}"
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, auto_decompress=False) as session:
            requests = (self.write_one(session, *cluster) for cluster in zip(terms, exemplars, strict=True))
            titles = list(await asyncio.gather(*requests))
        through = f" (asked through the proxy {self.proxy})" if self.proxy and self.reason else ""
        return titles, self.reason + through

    async def write_one(self, session: aiohttp.ClientSession, terms: list[str], exemplars: list[str]) -> str | None:
        async with self.slots:
            for attempt in range(TRIES):
                if self.failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                    break
                try:
                    title = parse_title(await self.complete(session, terms, exemplars))
                except FAILURES as error:
                    self.failed_in_a_row += 1
                    self.reason = self.reason or one_line(f"{error}" or type(error).__name__, 200)
                    if isinstance(error, PermanentError) or attempt == TRIES - 1:
                        break
                    await asyncio.sleep(PAUSE_S * 2**attempt)
                else:
                    self.failed_in_a_row = 0
                    return title
            return None

    async def complete(self, session: aiohttp.ClientSession, terms: list[str], exemplars: list[str]) -> bytes:
        """The endpoint's reply, at most REPLY_BYTES long."""
        texts = "\n".join(f"- {' '.join(text.split())[:LONGEST_TEXT]}" for text in exemplars)
        content = f"Words: {', '.join(terms)}\nTexts:\n{texts}"
        messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": content}]
        body = {"model": self.cfg.model, "messages": messages, "temperature": 0}
        # A redirect would send the texts and the key to a host that the configuration does not name.
        async with session.post(self.url, json=body, allow_redirects=False, **self.proxy_options) as reply:
            if 300 <= reply.status < 400:
                to = urlsplit(reply.headers.get("Location", ""))
                where = f"{to.scheme}://{to.netloc.rpartition('@')[2]}" if to.netloc else to.path
                raise PermanentError(f"it redirects to {where}; set describe.titles.url to the address that answers")
            if reply.status != 200:
                kind = PermanentError if reply.status < 500 and reply.status not in TRANSIENT_STATUS else ValueError
                raise kind(f"it answered {reply.status} {reply.reason}")
            received = b""
            async for chunk in reply.content.iter_any():
                received += chunk
                if len(received) > REPLY_BYTES:
                    raise PermanentError(f"its reply is longer than {REPLY_BYTES:,} bytes")
            return received


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


def parse_title(reply: bytes) -> str:
    """The title in a reply, at most LONGEST_TITLE characters. Raises: one of FAILURES for a malformed reply."""
    parsed: Any = json.loads(reply)
    content = parsed["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise ValueError(f"its reply holds a {type(content).__name__} in place of a title")
    # Some models write their thoughts before the answer. The opening tag may be in their prompt, and a limit may cut
    # the answer off.
    answer = content.rpartition("</think>")[2].partition("<think>")[0]
    lines = [one_line(line) for line in answer.splitlines()]
    title = next((line for line in lines if line), "").strip("\"'“”*# ").removeprefix("Title:").strip("\"'“”*# ")
    if not any(map(str.isalnum, title)):
        raise ValueError("its reply holds no title")
    return title[:LONGEST_TITLE]
