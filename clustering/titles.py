"""Terms and exemplars of clusters in, titles written by a language model out."""

from __future__ import annotations

import json
import os
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clustering.config import Titles
from clustering.errors import ConfigError

ASK = (
    "These texts are the most typical ones of a cluster of short texts, and these words stand out in it. "
    "Answer with a title of at most eight words that says what they share, in their language, and nothing else."
)
LONGEST_TITLE = 80  # characters
LONGEST_TEXT = 300
TIMEOUT_S = 60
TRIES = 3
AT_ONCE = 8


def check_titles(cfg: Titles | None) -> None:
    """Raises: ConfigError when the key's environment variable is not set."""
    if cfg is not None and cfg.key_env and not os.environ.get(cfg.key_env):
        raise ConfigError([f"describe.titles.key_env: the environment variable {cfg.key_env} is not set"])


def write_titles(cfg: Titles, terms: list[list[str]], exemplars: list[list[str]]) -> list[str | None]:
    """A title for each cluster from an OpenAI-compatible endpoint; None where it gave none after some tries."""

    def one(place: int) -> str | None:
        for _ in range(TRIES):
            try:
                return _title(_complete(cfg, terms[place], exemplars[place]))
            except (OSError, ValueError, LookupError, TypeError):
                continue
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(len(terms))))


def _complete(cfg: Titles, terms: list[str], exemplars: list[str]) -> str:
    texts = "\n".join(f"- {' '.join(text.split())[:LONGEST_TEXT]}" for text in exemplars)
    content = f"Words: {', '.join(terms)}\nTexts:\n{texts}"
    messages = [{"role": "system", "content": ASK}, {"role": "user", "content": content}]
    body = json.dumps({"model": cfg.model, "messages": messages, "temperature": 0}).encode()
    headers = {"Content-Type": "application/json"}
    if cfg.key_env:
        headers["Authorization"] = f"Bearer {os.environ[cfg.key_env]}"
    request = urllib.request.Request(f"{cfg.url.rstrip('/')}/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        found: Any = json.load(answer)
    return str(found["choices"][0]["message"]["content"])


def _title(answer: str) -> str:
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    title = lines[0].strip("\"'“”*# ").removeprefix("Title:").strip()
    if not title:
        raise ValueError("an empty title")
    return title[:LONGEST_TITLE]
