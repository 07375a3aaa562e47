"""What is odd in an input, counted, with the first example of each kind in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

EXAMPLES = 3  # files whose first example is kept, for each kind


class Issues:
    """Counts of what was dropped, mended or guessed while reading; travels as JSON."""

    def __init__(self, counts: dict[str, int] | None = None, examples: dict[str, list[str]] | None = None) -> None:
        self.counts: Counter[str] = Counter(counts or {})
        self.examples: dict[str, list[str]] = dict(examples or {})
        self.of_file: Counter[str] = Counter()
        self.uri = ""

    def start_file(self, uri: str) -> None:
        """The file that is read from now on."""
        self.uri, self.of_file = uri, Counter()

    def is_first(self, kind: str) -> bool:
        """Whether the file at hand has no example of a kind yet."""
        return not self.of_file[kind]

    def count(self, kind: str, count: int, words: str = "") -> None:
        """Count something; ``words`` say where and what, and are kept for the first of a file."""
        if not count:
            return
        kept = self.examples.setdefault(kind, [])
        if self.is_first(kind) and words and len(kept) < EXAMPLES:
            kept.append(f"{self.uri}, {words}" if self.uri else words)
        self.counts[kind] += count
        self.of_file[kind] += count

    def merge(self, found: dict[str, Any]) -> None:
        """Take over what another has counted, as its ``as_dict`` gives it."""
        self.counts.update(found["counts"])
        for kind, words in found["examples"].items():
            self.examples[kind] = [*self.examples.get(kind, []), *words][:EXAMPLES]

    def as_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "examples": self.examples}

    def example(self, kind: str) -> str:
        return (self.examples.get(kind) or [""])[0]


def excerpt(line: str | bytes) -> str:
    """The first words of a line, as messages show them."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:60] + "...")
