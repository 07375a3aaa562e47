"""Headlines in; the same headlines as several outlets carry them, with the outlet's name, markup and links, out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

OUTLETS = (
    " - Reuters", " | Fox News", " (Video)", " - BBC News", " | The Guardian", " – CNN.com", " - Washington Post",
    " :: WRAL.com", " — Bloomberg", " | Daily Mail Online", " - The Times of India", " [Photos]", " - Yahoo News",
    " | NBC News", " - USA TODAY", " » Variety", " - Los Angeles Times", " | ABC News", " • Mashable", " (Update)",
)  # fmt: skip


class Syndicated(NamedTuple):
    """A feed of several outlets.

    texts : as the outlets carry them; origin : int64, shape (n_texts,), which headline each text is
    """

    texts: list[str]
    origin: np.ndarray[tuple[int], np.dtype[np.int64]]


def syndicate(headlines: list[str], most: int, seed: int = 0, marked: float = 0.0) -> Syndicated:
    """Each headline as one to ``most`` outlets carry it: once without a name, then each time with another one.

    marked : share of the texts with entities, tags or an address of the web in them
    Texts are shuffled, so a headline's are not side by side.
    """
    rng = np.random.default_rng(seed)
    origin = np.repeat(np.arange(len(headlines)), rng.integers(1, most + 1, len(headlines)))
    texts, at = [], 0
    for headline, times in zip(headlines, np.bincount(origin, minlength=len(headlines)).tolist(), strict=True):
        names = ["", *(OUTLETS[one] for one in rng.permutation(len(OUTLETS))[: times - 1])]
        for name in names:
            text = headline + name
            if rng.random() < marked:
                text = _marked(text, int(rng.integers(0, 5)), at)
            texts.append(text)
            at += 1
    order = rng.permutation(len(texts))
    return Syndicated([texts[one] for one in order], origin[order])


def _marked(text: str, kind: int, number: int) -> str:
    if kind == 0:
        return f"<b>{text}</b>"
    if kind == 1:
        return f'<a href="https://news.example.org/{number}">{text.replace("&", "&amp;")}</a>'
    if kind == 2:
        return text.replace("'", "&#39;").replace(" ", "&nbsp;", 1)
    if kind == 3:
        return f"{text} https://news.example.org/story/{number}?ref=rss"
    return f"www.example.com/{number} {text}"
