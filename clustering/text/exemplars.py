"""The strongest texts of a cluster in, a few that say different things out."""

from __future__ import annotations

from clustering.text.words import has_letters, normalized, word_keys

SAME_WORDS = 0.6  # share of the shorter text's words that the other one has, from which they say the same


def spread_texts(texts: list[str], count: int) -> list[str]:
    """The first texts that say different things, at most ``count``: each differs from the ones before by its words.

    Headlines that differ in the name of an outlet or in their last words say the same. A cluster of nothing else has
    one exemplar.
    """
    chosen: list[str] = []
    known: list[set[str]] = []
    for text in texts:
        words = set(filter(has_letters, word_keys(normalized(text)))) or {text}
        if all(len(words & other) < SAME_WORDS * min(len(words), len(other)) for other in known):
            chosen.append(text)
            known.append(words)
            if len(chosen) == count:
                break
    return chosen
