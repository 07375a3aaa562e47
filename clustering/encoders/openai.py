"""Texts in, vectors out: a server of embeddings with OpenAI's interface, such as TEI, vLLM, Ollama, or a hosted one."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import json
import platform
import random
import re
import time
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Thread, current_thread
from typing import Any, TypeVar

import aiohttp
import numpy as np

from clustering.config.sections import EmbedSection
from clustering.encoders.base import CPU_TOKENS_PER_BATCH, Encoded, FloatArray, token_batches
from clustering.encoders.weights import embeddings_url
from clustering.errors import ConfigError, StageError
from clustering.http_client import (
    TRANSIENT_STATUS,
    PermanentError,
    Reply,
    key_in,
    open_session,
    post,
    proxy_options,
)
from clustering.kernels.printable import one_line

T = TypeVar("T")
TEXTS = 64  # of a request at most, until the server takes fewer
TOKEN_CHARACTERS = 4  # of a usual token; batches are cut by characters, because only the server knows its tokens
LONGEST_TOKEN = 8  # characters a token: a text beyond embed.max_tokens of these is cut before it is sent
SHORTEST = 32  # characters of a text that is never cut to make the server take it
TIMEOUT_S = 120.0  # of a request
TRIES = 3  # of a request within the patience; also of one that fails in an unknown way
SLOW_TRIES = 2  # of a request of several texts that gets no reply in time; then of each half
PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0  # before the second try, and before any
CLOSE_S = 5.0  # that closing connections may take
MOST_DIMENSIONS, NUMBER_BYTES = 16_384, 32  # what a reply holds at most
TOO_LARGE = (400, 413, 422)  # for too many texts or one that is too long; servers differ
OVERLOADED = (424, 500)  # what servers answer when a batch does not fit their memory; also for other reasons
MALFORMED = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError)
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|$)")
SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "": 1.0}


@dataclass(frozen=True)
class _Answer:
    """What the server gave for some texts."""

    vectors: FloatArray  # (n_texts, dim), of any length
    tokens: int  # by the server's count; 0 where it counts none
    replies: int = 0  # requests that it came by
    failed: int = 0  # and those that failed
    cut: int = 0  # texts that it took only after they were cut

    @classmethod
    def joined(cls, answers: Sequence[_Answer]) -> _Answer:
        sums = (sum(getattr(one, name) for one in answers) for name in ("tokens", "replies", "failed", "cut"))
        return cls(np.concatenate([one.vectors for one in answers]), *sums)


class _FailedError(Exception):
    """A request that may work later, or with fewer texts."""

    def __init__(
        self, reason: str, wait_s: float = 0.0, limited: bool = False, splits_after: int = 0, tries: int = 0
    ) -> None:
        """wait_s : that the server names, or 0; limited : it says that there were too many requests

        splits_after : tries after which several texts are sent in halves; 0: never
        tries : at most; 0: as many as the patience allows
        """
        super().__init__(reason)
        self.wait_s, self.limited, self.splits_after, self.tries = wait_s, limited, splits_after, tries


class OpenAIEncoder:
    """The vectors that a server gives by ``POST embed.url/embeddings``.

    Several requests are in flight, as many as ``embed.requests``, however many threads call ``encode``. What fails is
    tried again for ``embed.patience_s``. A request that the server calls too large is halved; a text that it calls too
    long is cut.
    Source: platform.openai.com/docs/api-reference/embeddings
    """

    def __init__(self, cfg: EmbedSection) -> None:
        self.cfg, self.url = cfg, embeddings_url(cfg.url or "")
        self.key = key_in(cfg.key_env)
        if cfg.key_env and not self.key:
            problem = f"the environment variable {cfg.key_env} is not set on {platform.node()}, where Ray's workers run"
            raise ConfigError([f"embed.key_env: {problem}"])
        self.prompt = cfg.prompt or ""
        self.proxy = proxy_options(self.url)
        self.budget = TOKEN_CHARACTERS * (cfg.tokens_per_batch or CPU_TOKENS_PER_BATCH)  # characters of a request
        self.most = TEXTS
        self.form, self.dim, self.refusal = "base64", 0, ""
        self.resume_at = self.replied_at = 0.0  # time.monotonic()
        self.slots = asyncio.Semaphore(cfg.requests)
        self.loop = asyncio.new_event_loop()
        thread = Thread(target=self.loop.run_forever, name="embed.url", daemon=True)
        thread.start()
        self.session = self._wait(self._open())
        self.close = weakref.finalize(self, _close, self.loop, self.session, thread)  # also when nobody calls it
        try:
            self._wait(self._learn_form())
        except StageError as error:
            self.close()
            raise ConfigError([str(error)]) from None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Raises: StageError when the server refuses the key or a text, or fails for ``embed.patience_s``."""
        started = time.perf_counter()
        rows = np.array([row for row, text in enumerate(texts) if text.strip()], np.int64)  # servers refuse others
        limit = LONGEST_TOKEN * self.cfg.max_tokens
        sent = [self.prompt + texts[row][:limit] for row in rows.tolist()]
        lengths = np.maximum([len(text) for text in sent], -(-self.budget // TEXTS))  # so that TEXTS fit the budget
        batches = [batch.tolist() for batch in token_batches(lengths, self.budget)] if sent else []
        vectors, unread = np.zeros((len(texts), self.dim), np.float32), np.ones(len(texts), bool)
        unread[rows] = False
        cut = sum(len(text) > limit for text in texts)
        tokens = replies = failed = 0
        if batches:
            found = self._wait(self._ask_all([[sent[place] for place in batch] for batch in batches]))
            vectors[rows[np.concatenate(batches)]] = found.vectors
            tokens, replies, failed, cut = found.tokens, found.replies, found.failed, cut + found.cut
        seconds = time.perf_counter() - started
        return Encoded.of_vectors(
            vectors, unread, tokens=tokens, unknown=0, cut=cut, model_seconds=seconds, requests=replies + failed,
            retries=failed,
        )  # fmt: skip

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _open(self) -> aiohttp.ClientSession:
        return open_session(self.key, min(TIMEOUT_S, self.cfg.patience_s / TRIES), self.cfg.requests)

    async def _learn_form(self) -> None:
        """Learn from a small request how the server writes vectors, and their dimension."""
        for self.form in ("base64", "float"):
            found, _ = await self._ask(["Covey"])
            if found is not None:
                self.dim = found[0].shape[1]
                return
        raise self._stop(f"it refuses a request of one word: {self.refusal}")

    async def _ask_all(self, batches: list[list[str]]) -> _Answer:
        """The answers to all batches, in their order. The first error ends the requests of the others."""
        tasks = [self.loop.create_task(self._ask_in_pieces(batch)) for batch in batches]
        try:
            return _Answer.joined(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _ask_in_pieces(self, texts: list[str]) -> _Answer:
        """Ask for some texts: in two pieces where they are too many, and for the head of one that is too long."""
        failed, was_sent = 0, len(texts) <= self.most
        if was_sent:
            found, failed = await self._ask(texts)
            if found is not None:
                return _Answer(*found, 1, failed)
            if len(texts) == 1:
                return await self._ask_shorter(texts[0], failed)
        middle = 1 << ((len(texts) - 1).bit_length() - 1)  # limits of servers are powers of two
        pieces = [await self._ask_in_pieces(piece) for piece in (texts[:middle], texts[middle:])]
        if was_sent and all(piece.replies == 1 and not piece.cut for piece in pieces):  # too many, and none too long
            self.most = min(self.most, middle)
        answer = _Answer.joined(pieces)
        return replace(answer, failed=answer.failed + failed)

    async def _ask_shorter(self, text: str, failed: int) -> _Answer:
        own = text[len(self.prompt) :]  # the prompt alone would give all such texts the same vector
        if len(own) <= SHORTEST:
            shown = one_line(own, 80)
            raise self._stop(f"it refuses the text {shown!r}: {self.refusal}. Leave such a text out of the input")
        answer = await self._ask_in_pieces([self.prompt + own[: len(own) // 2]])
        return replace(answer, cut=1, failed=answer.failed + failed)

    async def _ask(self, texts: list[str]) -> tuple[tuple[FloatArray, int] | None, int]:
        """Ask until there are vectors and tokens; None where fewer or shorter texts may get some. And failed requests.

        Raises: StageError for what a later try cannot mend, and when the patience ends.
        """
        failures, since = 0, 0.0
        async with self.slots:
            while True:
                await self._wait_for_limit()
                try:
                    found = await self._try(texts)
                except PermanentError as error:
                    raise self._stop(str(error)) from None
                except _FailedError as error:
                    failure = error
                else:
                    self.replied_at = time.monotonic()
                    return found, failures + (found is None)
                failures, since = failures + 1, since or time.monotonic()
                if len(texts) > 1 and 0 < failure.splits_after <= failures:
                    self.refusal = str(failure)
                    return None, failures
                await self._pause(failure, failures, since)

    async def _pause(self, failure: _FailedError, failures: int, since: float) -> None:
        """Wait before the next try. Raises: StageError when the patience does not last for it.

        since : time.monotonic() of the first failure
        """
        now, patience = time.monotonic(), self.cfg.patience_s
        # Where there is a limit, others may have got in first; the server works as long as one gets a reply.
        left = (max(since, self.replied_at) if failure.limited else since) + patience - now
        if failure.wait_s > patience:
            raise self._stop(f"{failure}, and to wait {failure.wait_s:,.0f} s, more than embed.patience_s={patience:g}")
        if left <= 0 or failures == failure.tries:
            tried = f"tried {failures} times in {now - since:.0f} s; embed.patience_s={patience:g}"
            raise self._stop(f"{failure} ({tried})")
        if failure.wait_s:
            self.resume_at = max(self.resume_at, now + failure.wait_s)
        else:  # random, so that requests that fail together are not sent together
            pause = min(PAUSE_S * 2 ** min(failures, 9), LONGEST_PAUSE_S)
            await asyncio.sleep(min(left, random.uniform(0.5, 1) * pause))

    async def _wait_for_limit(self) -> None:
        while (left := self.resume_at - time.monotonic()) > 0:
            await asyncio.sleep(left + random.uniform(0, min(1.0, left / 10)))  # not all at the same moment

    async def _try(self, texts: list[str]) -> tuple[FloatArray, int] | None:
        """Send a request; the vectors and tokens in its reply, None where the server calls it too large.

        Raises: PermanentError for what a later try cannot mend; _FailedError for what it may.
        """
        body: dict[str, Any] = {"model": self.cfg.model, "input": texts, "encoding_format": self.form}
        if self.cfg.dimensions:
            body["dimensions"] = self.cfg.dimensions
        most_bytes = len(texts) * MOST_DIMENSIONS * NUMBER_BYTES
        try:
            reply = await post(self.session, self.url, body, most_bytes, "embed.url", self.proxy)
            if reply.status == 200:
                if _exhausted(reply.headers):
                    wait_s = min(_wait_s(reply.headers), LONGEST_PAUSE_S)  # a reset is the end of all waiting
                    self.resume_at = max(self.resume_at, time.monotonic() + wait_s)
                return self._read(reply, len(texts))
        except PermanentError:
            raise
        except aiohttp.ClientConnectorCertificateError as error:
            remedy = "SSL_CERT_FILE in the environment names the certificates of an authority of your own"
            raise PermanentError(f"its certificate is not accepted: {error.certificate_error}. {remedy}") from None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            is_late = isinstance(error, asyncio.TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError)
            reason = one_line(str(error), 200) or ("no reply in time" if is_late else type(error).__name__)
            raise _FailedError(reason, splits_after=SLOW_TRIES if is_late else 0) from None
        except MALFORMED as error:
            raise _FailedError(f"its reply is malformed: {one_line(str(error), 200)}", tries=TRIES) from None
        if reply.status in TOO_LARGE:
            self.refusal = self._words_of(reply)
            return None
        self._refuse(reply)
        limited, splits_after = reply.status == 429, TRIES if reply.status in OVERLOADED else 0
        wait_s = _wait_s(reply.headers) if reply.status in (429, 503) else 0.0
        raise _FailedError(f"it answers {self._words_of(reply)}", wait_s, limited, splits_after)

    def _refuse(self, reply: Reply) -> None:
        """Raises: PermanentError for a status that a later try gets, too, with the remedy."""
        words, key = self._words_of(reply), self.cfg.key_env
        if reply.status in (401, 403):
            shown = f"the key in the environment variable {key}" if key else "a request without a key"
            hint = "" if key else "; embed.key_env names the environment variable that holds one"
            raise PermanentError(f"it refuses {shown}: {words}{hint}")
        if reply.status in (404, 405):
            hint = f"Does the server have embed.model={self.cfg.model}, and does its address end with /v1?"
            raise PermanentError(f"it answers {words}. {hint}")
        is_transient = reply.status >= 500 or reply.status in (*TRANSIENT_STATUS, *OVERLOADED)
        if not is_transient or b"insufficient_quota" in reply.body:
            raise PermanentError(f"it answers {words}")

    def _read(self, reply: Reply, n_texts: int) -> tuple[FloatArray, int]:
        """The vectors in a reply, float32, shape (n_texts, dim), in the order of the texts; and the tokens.

        Raises: PermanentError for another dimension than before; one of MALFORMED for what is no such reply.
        """
        try:
            parsed = json.loads(reply.body)
            data = parsed["data"]
        except MALFORMED as error:
            start = one_line(reply.body[:100].decode("utf-8", "replace"))
            raise ValueError(f"it begins with {start!r}") from error
        order = [item.get("index", number) for number, item in enumerate(data)]
        if sorted(order) != list(range(n_texts)):
            raise ValueError(f"{n_texts} texts were sent and {len(data)} vectors came, or their numbers do not fit")
        rows = [_vector(item["embedding"]) for item in data]
        dims = {row.size for row in rows}
        if len(dims) > 1 or dims == {0}:
            raise ValueError(f"vectors of {min(dims)} to {max(dims)} dimensions")
        if self.dim and dims != {self.dim}:
            raise PermanentError(
                f"it gives vectors of {max(dims)} dimensions, and gave {self.dim} before; has it another model now? "
                f"embed.model={self.cfg.model}"
            )
        vectors = np.empty((n_texts, max(dims)), np.float32)
        vectors[order] = rows
        usage = parsed.get("usage") or {}
        counted = usage.get("prompt_tokens") or usage.get("total_tokens")
        return vectors, counted if isinstance(counted, int) else 0

    def _words_of(self, reply: Reply) -> str:
        """Status and words of an error, without the key, which some servers repeat."""
        try:
            found = json.loads(reply.body)
            found = found.get("error", found)
            found = found if isinstance(found, str) else found.get("message") or found.get("detail") or found
        except MALFORMED:
            found = reply.body.decode("utf-8", "replace")
        words = str(found).replace(self.key, "***") if self.key else str(found)
        return f"{reply}: {one_line(words, 300)}".rstrip(": ")

    def _stop(self, reason: str) -> StageError:
        proxy = f" (asked through the proxy {self.proxy['proxy']})" if self.proxy["proxy"] else ""
        mended = "When that is mended, the same command goes on from the last finished part"
        return StageError(f"embed.url={self.cfg.url}: {reason}{proxy}. {mended}")


def _close(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession, thread: Thread) -> None:
    """Close the connections, and end the thread of the loop."""
    closing = asyncio.run_coroutine_threadsafe(session.close(), loop)
    closing.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    if thread is not current_thread():
        thread.join(CLOSE_S)


def _vector(written: Any) -> FloatArray:
    """float32, shape (dim,), from base64 or from a list, in which null is NaN."""
    if isinstance(written, str):
        return np.frombuffer(base64.b64decode(written, validate=True), "<f4").astype(np.float32)
    row = np.array(written, np.float32)
    if row.ndim != 1:
        raise ValueError(f"a vector of {row.ndim} axes")
    return row


def _exhausted(headers: Mapping[str, str]) -> bool:
    """Whether a reply says that the next request would meet a limit."""
    return any(headers.get(f"x-ratelimit-remaining-{what}", "").strip() == "0" for what in ("requests", "tokens"))


def _wait_s(headers: Mapping[str, str]) -> float:
    """Seconds that a reply says to wait, 0 where it says nothing: Retry-After, or the reset of an exhausted limit."""
    if (said := headers.get("retry-after-ms", "").strip()).isdecimal():
        return int(said) / 1000
    if said := headers.get("Retry-After", "").strip():
        date = email.utils.parsedate_tz(said)  # in one form of a date no zone is named: it is that of Greenwich
        try:
            return _seconds(said) if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
        except (ValueError, OverflowError):  # a date that no calendar has
            return 0.0
    limits = [
        what for what in ("requests", "tokens") if headers.get(f"x-ratelimit-remaining-{what}", "0").strip() == "0"
    ]
    return max((_seconds(headers.get(f"x-ratelimit-reset-{what}", "")) for what in limits), default=0.0)


def _seconds(said: str) -> float:
    """The seconds of a duration such as 20, 1.5s, 6m0s or 20ms; from now on where it is a time of the epoch."""
    found = DURATION.findall(said)
    if "".join(number + unit for number, unit in found) != said:
        return 0.0
    seconds = sum(float(number) * SECONDS[unit] for number, unit in found)
    return max(0.0, seconds - time.time()) if seconds > 1e9 else seconds
