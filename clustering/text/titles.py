"""Terms and exemplars of clusters in, titles that a language model writes out, with what was sent and answered."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from clustering.kernels.printable import hide_credentials, one_line, printable
from clustering.text.naming import JOINT, TITLE_CHARACTERS, Unique

if TYPE_CHECKING:
    import aiohttp

PROMPT = (
    "These texts are the most typical ones of a cluster of short texts, and these words stand out in it. Where the "
    "cluster holds smaller ones, their titles follow. Answer with a title of at most eight words that says what they "
    "share, in their language, and nothing else."
)
AUDIT = "titles.jsonl"  # what was sent to the endpoint for each cluster, and what it answered
LONGEST_TEXT = 300
MOST_BELOW = 10  # titles of smaller clusters in a message
REPLY_BYTES = 1 << 20  # a longer reply is no title
TIMEOUT_S = 60.0  # of a whole request, from the connection to the end of the body
TRIES = 3
PAUSE_S = 1.0  # before the second try; twice as long before each later one
CONCURRENCY = 8
MAX_FAILED_IN_A_ROW = 24  # then no further title is requested
KEPT_TOGETHER = 256  # replies that an interruption may lose
MALFORMED = (ValueError, LookupError, TypeError, RecursionError, AttributeError)  # what a bad reply raises


def check_titles(cfg: Titles | None) -> None:
    """Warn of a key that would travel to another machine without encryption.

    Raises: ConfigError when the key's environment variable is not set.
    """
    if cfg is not None:
        check_key("describe.titles", cfg.url, cfg.key_env)


def announcement(cfg: Titles, n_clusters: int, first: dict[str, Any]) -> str:
    """What is sent to the endpoint, in words. first : the terms and exemplars of the cluster that is asked for first"""
    return (
        f"describe: {cfg.model} at {hide_credentials(cfg.url)} is asked for the titles of {n_clusters:,} clusters "
        f"of all layers; each message holds terms and exemplars of one. {AUDIT} keeps what is sent and answered. "
        f"The first message:\n{printable(prompt_of(message_of(first['terms'], first['exemplars'], [])))}"
    )


def waves(layers: Sequence[NDArray[np.int32]]) -> Iterator[list[int]]:
    """The clusters of each layer, the finest first, without those of layers before it."""
    asked: set[int] = set()
    for layer in reversed(layers):
        wave = [label for label in layer.tolist() if label not in asked]
        asked.update(wave)
        if wave:
            yield wave


class Answer(NamedTuple):
    """What the endpoint has answered; None where all tries failed."""

    reply: str | None
    title: str | None


def message_of(terms: Sequence[str], exemplars: Sequence[str], below: Sequence[str]) -> str:
    """What the endpoint is told of a cluster. below : the titles of the clusters within it, largest first"""
    texts = "\n".join(f"- {' '.join(text.split())[:LONGEST_TEXT]}" for text in exemplars)
    within = "\n".join(f"- {title}" for title in below[:MOST_BELOW])
    return f"Words: {', '.join(terms)}\nTexts:\n{texts}" + (
        f"\nSmaller clusters within it:\n{within}" if within else ""
    )


def prompt_of(message: str) -> str:
    """All that is sent: the task, and what a cluster's message says."""
    return f"{PROMPT}\n\n{message}"


def write_titles(cfg: Titles, messages: list[str]) -> tuple[list[Answer], str]:
    """Request a title for each message from an OpenAI-compatible endpoint.

    No reply ends the run. A reply that is late, too long, malformed or a redirect counts as a failed try.
    Returns: the answers, and the reason of the first failure ("" where no try failed).
    """
    if cfg.key_env and not key_in(cfg.key_env):  # workers have the environment in which Ray was started
        why = f"the environment variable {cfg.key_env} is not set where Ray's workers run"
        return [Answer(None, None)] * len(messages), why
    return asyncio.run(_Endpoint(cfg).write_all(messages))


def title_clusters(
    cfg: Titles,
    clusters: dict[str, list[Any]],
    waves: Iterable[list[int]],
    known: dict[str, Answer],
    keep: Callable[[list[dict[str, Any]]], None],
) -> tuple[list[str], int, str]:
    """The endpoint's titles of clusters. A cluster without one keeps its title; no two of a layer are equal.

    clusters : columns of layers.parquet: terms, exemplars, parent, layers, title
    waves : clusters; those within others come before them, since their titles are in the others' messages
    known : answers that need no request, by what was sent
    keep : takes a line for each cluster that was asked for so far: its number, model, prompt, reply and title
    Returns: the titles, how many the endpoint did not give, and why.
    """
    titles, unique, failed, reason, is_given_up = list(clusters["title"]), Unique(), 0, "", False
    below: dict[int, list[str]] = defaultdict(list)
    lines: list[dict[str, Any]] = []
    for wave in waves:
        for first in range(0, len(wave), KEPT_TOGETHER):
            own = wave[first : first + KEPT_TOGETHER]
            messages = [message_of(clusters["terms"][at], clusters["exemplars"][at], below[at]) for at in own]
            new = list(dict.fromkeys(one for one in messages if prompt_of(one) not in known))
            if new and not is_given_up:
                answers, why = write_titles(cfg, new)
                known = known | {prompt_of(one): found for one, found in zip(new, answers, strict=True) if found.title}
                reason = reason or why
                is_given_up = len(new) >= MAX_FAILED_IN_A_ROW and not any(found.title for found in answers)
            for at, message in zip(own, messages, strict=True):
                answer = known.get(prompt_of(message), Answer(None, None))
                failed += answer.title is None
                more = [f"{answer.title}{JOINT}{term}" for term in clusters["terms"][at]] if answer.title else []
                titles[at] = unique.take(clusters["layers"][at], [answer.title or titles[at], *more, titles[at]])
                below[clusters["parent"][at]].append(titles[at])
                lines.append({"cluster": at, "model": cfg.model, "prompt": prompt_of(message), **answer._asdict()})
            keep(lines)
    return titles, failed, reason


def known_answers(lines: str, model: str) -> dict[str, Answer]:
    """The answers of a model in kept lines, by what was sent; what is malformed is left out."""
    found = {}
    for line in lines.splitlines():
        with suppress(*MALFORMED):
            kept = json.loads(line)
            if kept["model"] == model:
                found[str(kept["prompt"])] = Answer(kept["reply"], title_in(kept["reply"]))
    return found


class _Endpoint:
    """An endpoint that gets requests until too many of them in a row have failed."""

    def __init__(self, cfg: Titles) -> None:
        import aiohttp  # here, as most runs ask no endpoint

        self.failures = (*MALFORMED, aiohttp.ClientError, asyncio.TimeoutError, OSError)
        self.cfg, self.url = cfg, f"{cfg.url.rstrip('/')}/chat/completions"
        self.proxy = proxy_options(self.url)
        self.failed_in_a_row, self.reason = 0, ""
        self.slots = asyncio.Semaphore(CONCURRENCY)

    async def write_all(self, messages: list[str]) -> tuple[list[Answer], str]:
        async with open_session(key_in(self.cfg.key_env), TIMEOUT_S, CONCURRENCY) as session:
            answers = list(await asyncio.gather(*(self.write_one(session, message) for message in messages)))
        through = f" (asked through the proxy {self.proxy['proxy']})" if self.proxy["proxy"] and self.reason else ""
        return answers, self.reason + through

    async def write_one(self, session: aiohttp.ClientSession, message: str) -> Answer:
        async with self.slots:
            for attempt in range(TRIES):
                if self.failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                    break
                try:
                    reply = read_reply(await self.complete(session, message))
                    title = title_in(reply)
                except self.failures as error:
                    self.failed_in_a_row += 1
                    self.reason = self.reason or one_line(f"{error}" or type(error).__name__, 200)
                    if isinstance(error, PermanentError) or attempt == TRIES - 1:
                        break
                    await asyncio.sleep(PAUSE_S * 2**attempt)
                else:
                    self.failed_in_a_row = 0
                    return Answer(reply, title)
            return Answer(None, None)

    async def complete(self, session: aiohttp.ClientSession, message: str) -> bytes:
        """The endpoint's reply, at most REPLY_BYTES long."""
        messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": message}]
        body = {"model": self.cfg.model, "messages": messages, "temperature": 0}
        reply = await post(session, self.url, body, REPLY_BYTES, "describe.titles.url", self.proxy)
        if reply.status != 200:
            kind = PermanentError if reply.status < 500 and reply.status not in TRANSIENT_STATUS else ValueError
            raise kind(f"it answered {reply}")
        return reply.body


def read_reply(reply: bytes) -> str:
    """What the model has answered. Raises: one of MALFORMED for a malformed reply."""
    parsed: Any = json.loads(reply)
    content = parsed["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise ValueError(f"its reply holds a {type(content).__name__} in place of a title")
    return content


def title_in(answer: str) -> str:
    """The title in an answer, at most TITLE_CHARACTERS characters. Raises: ValueError where there is none."""
    # Some models write their thoughts before the answer. The opening tag may be in their prompt, and a limit may cut
    # the answer off.
    answer = answer.rpartition("</think>")[2].partition("<think>")[0]
    lines = [one_line(line) for line in answer.splitlines()]
    title = next((line for line in lines if line), "").strip("\"'“”*# ").removeprefix("Title:").strip("\"'“”*# ")
    if not any(map(str.isalnum, title)):
        raise ValueError("its reply holds no title")
    return title[:TITLE_CHARACTERS]
