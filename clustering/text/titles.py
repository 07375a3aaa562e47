"""Terms and exemplars of clusters in, titles written by a language model out."""

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
TIMEOUT_S = 60.0  # for a whole request: connecting, all headers, all of the body
TRIES = 3
PAUSE_S = 1.0  # before a request is made again; twice as long the next time
CONCURRENCY = 8
MAX_FAILED_IN_A_ROW = 24  # requests that fail one after the other, after which the endpoint is asked no more
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
TRANSIENT_STATUS = (408, 409, 425, 429)  # of the refusals, those that a later try may not meet
FAILURES = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, LookupError, TypeError, RecursionError)


class PermanentError(ValueError):
    """A reply that would be the same another time."""


def check_titles(cfg: Titles | None) -> None:
    """Warn of a key that travels unencrypted to another machine, where anyone on the way can read it.

    Raises: ConfigError when the key's environment variable is not set.
    """
    if cfg is not None and cfg.key_env and not _key(cfg.key_env):
        raise ConfigError([f"describe.titles.key_env: the environment variable {cfg.key_env} is not set"])
    if (
        cfg is not None
        and cfg.key_env
        and cfg.url.startswith("http:")
        and urlsplit(cfg.url).hostname not in LOCAL_HOSTS
    ):
        log.warning(
            "describe.titles.url=%s is plain http: the key is sent without encryption to another machine. Use https://",
            cfg.url,
        )


def _key(name: str) -> str:
    """The key in an environment variable, without the line end that a file gave it; "" where there is none."""
    return os.environ.get(name, "").strip()


def write_titles(cfg: Titles, terms: list[list[str]], exemplars: list[list[str]]) -> tuple[list[str | None], str]:
    """A title for each cluster from an OpenAI-compatible endpoint; None where it gave none after some tries.

    No reply ends the run: one that is late, too long, malformed or a redirect is a title that failed.
    Returns: the titles, and why the first of those that are missing failed ("" where none is missing).
    """
    if cfg.key_env and not _key(cfg.key_env):  # workers have the environment of when Ray was started
        return [None] * len(terms), f"the environment variable {cfg.key_env} is not set where Ray's workers run"
    return asyncio.run(_Endpoint(cfg).all(terms, exemplars))


class _Endpoint:
    """An endpoint that is asked until too many requests in a row have failed."""

    def __init__(self, cfg: Titles) -> None:
        self.cfg, self.url = cfg, f"{cfg.url.rstrip('/')}/chat/completions"
        self.proxy, password = proxy_for(self.url)
        # Of a tunnel, the proxy alone is told the password; else the request is the proxy's own.
        self.told: Any = {"proxy_headers" if self.url.startswith("https:") else "headers": password}
        self.failed, self.reason = 0, ""
        self.places = asyncio.Semaphore(CONCURRENCY)

    async def all(self, terms: list[list[str]], exemplars: list[list[str]]) -> tuple[list[str | None], str]:
        headers = {"Accept-Encoding": "identity"}
        if self.cfg.key_env:
            headers["Authorization"] = f"Bearer {_key(self.cfg.key_env)}"
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, auto_decompress=False) as session:
            wanted = (self.title(session, *both) for both in zip(terms, exemplars, strict=True))
            found = list(await asyncio.gather(*wanted))
        through = f" (asked through the proxy {self.proxy})" if self.proxy and self.reason else ""
        return found, self.reason + through

    async def title(self, session: aiohttp.ClientSession, terms: list[str], exemplars: list[str]) -> str | None:
        async with self.places:
            for tried in range(TRIES):
                if self.failed >= MAX_FAILED_IN_A_ROW:
                    break
                try:
                    found = parse_title(await self.complete(session, terms, exemplars))
                except FAILURES as error:
                    self.failed += 1
                    self.reason = self.reason or one_line(f"{error}" or type(error).__name__, 200)
                    if isinstance(error, PermanentError) or tried == TRIES - 1:
                        break
                    await asyncio.sleep(PAUSE_S * 2**tried)
                else:
                    self.failed = 0
                    return found
            return None

    async def complete(self, session: aiohttp.ClientSession, terms: list[str], exemplars: list[str]) -> bytes:
        """The endpoint's reply, of REPLY_BYTES at most."""
        texts = "\n".join(f"- {' '.join(text.split())[:LONGEST_TEXT]}" for text in exemplars)
        content = f"Words: {', '.join(terms)}\nTexts:\n{texts}"
        messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": content}]
        body = {"model": self.cfg.model, "messages": messages, "temperature": 0}
        # A redirect would take the texts, and the key, to where the configuration does not say.
        async with session.post(self.url, json=body, proxy=self.proxy, allow_redirects=False, **self.told) as reply:
            if 300 <= reply.status < 400:
                to = urlsplit(reply.headers.get("Location", ""))
                where = f"{to.scheme}://{to.netloc.rpartition('@')[2]}" if to.netloc else to.path
                raise PermanentError(f"it redirects to {where}; set describe.titles.url to the address that answers")
            if reply.status != 200:
                kind = PermanentError if reply.status < 500 and reply.status not in TRANSIENT_STATUS else ValueError
                raise kind(f"it answered {reply.status} {reply.reason}")
            found = b""
            async for chunk in reply.content.iter_any():
                found += chunk
                if len(found) > REPLY_BYTES:
                    raise PermanentError(f"its reply is longer than {REPLY_BYTES:,} bytes")
            return found


def proxy_for(url: str) -> tuple[str | None, dict[str, str]]:
    """The proxy that the environment names for a URL, and the header with its user and password, which stand in no
    address that an error would show; none for this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in LOCAL_HOSTS or urllib.request.proxy_bypass(host):
        return None, {}
    given = urllib.request.getproxies().get(parts.scheme)
    if not given:
        return None, {}
    scheme, _, rest = given.rpartition("://")
    user, _, place = rest.rpartition("@")
    password = {"Proxy-Authorization": f"Basic {base64.b64encode(unquote(user).encode()).decode()}"} if user else {}
    return f"{scheme or 'http'}://{place}", password


def parse_title(reply: bytes) -> str:
    """The title in a reply. Raises: what a malformed reply makes of it, one of FAILURES."""
    found: Any = json.loads(reply)
    content = found["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise ValueError(f"its reply holds a {type(content).__name__} in place of a title")
    # Some models think aloud before they answer; the opening tag may stand in their prompt, and a limit cut the answer.
    answer = content.rpartition("</think>")[2].partition("<think>")[0]
    lines = [one_line(line) for line in answer.splitlines()]
    title = next((line for line in lines if line), "").strip("\"'“”*# ").removeprefix("Title:").strip("\"'“”*# ")
    if not any(map(str.isalnum, title)):
        raise ValueError("its reply holds no title")
    return title[:LONGEST_TITLE]
