"""Terms and exemplars of clusters in, titles that a language model writes out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from clustering.config.sections import Titles
from clustering.http_client import (
    TRANSIENT_STATUS,
    PermanentError,
    check_key,
    key_in,
    open_session,
    post,
    proxy_options,
)
from clustering.kernels.printable import one_line

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
FAILURES = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, LookupError, TypeError, RecursionError)


def check_titles(cfg: Titles | None) -> None:
    """Warn of a key that would travel to another machine without encryption.

    Raises: ConfigError when the key's environment variable is not set.
    """
    if cfg is not None:
        check_key("describe.titles", cfg.url, cfg.key_env)


def write_titles(cfg: Titles, terms: list[list[str]], exemplars: list[list[str]]) -> tuple[list[str | None], str]:
    """Request a title for each cluster from an OpenAI-compatible endpoint; a title is None where all tries failed.

    No reply ends the run. A reply that is late, too long, malformed or a redirect counts as a failed try.
    Returns: the titles, and the reason of the first failure ("" where no try failed).
    """
    if cfg.key_env and not key_in(cfg.key_env):  # workers have the environment in which Ray was started
        return [None] * len(terms), f"the environment variable {cfg.key_env} is not set where Ray's workers run"
    return asyncio.run(_Endpoint(cfg).write_all(terms, exemplars))


class _Endpoint:
    """An endpoint that gets requests until too many of them in a row have failed."""

    def __init__(self, cfg: Titles) -> None:
        self.cfg, self.url = cfg, f"{cfg.url.rstrip('/')}/chat/completions"
        self.proxy = proxy_options(self.url)
        self.failed_in_a_row, self.reason = 0, ""
        self.slots = asyncio.Semaphore(CONCURRENCY)

    async def write_all(self, terms: list[list[str]], exemplars: list[list[str]]) -> tuple[list[str | None], str]:
        async with open_session(key_in(self.cfg.key_env), TIMEOUT_S, CONCURRENCY) as session:
            requests = (self.write_one(session, *cluster) for cluster in zip(terms, exemplars, strict=True))
            titles = list(await asyncio.gather(*requests))
        through = f" (asked through the proxy {self.proxy['proxy']})" if self.proxy["proxy"] and self.reason else ""
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
        reply = await post(session, self.url, body, REPLY_BYTES, "describe.titles.url", self.proxy)
        if reply.status != 200:
            kind = PermanentError if reply.status < 500 and reply.status not in TRANSIENT_STATUS else ValueError
            raise kind(f"it answered {reply}")
        return reply.body


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
