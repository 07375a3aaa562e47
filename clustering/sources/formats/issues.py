"""What is wrong or unusual in an input: counted while it is read, with first examples, and reported as warnings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from clustering.schema import Figures

EXAMPLES = 3  # kept of each kind, each from another file
MARKUP_SHARE = 0.05  # of the records; from here on a warning mentions the markup
WARNINGS = {
    "malformed": "{n} malformed records were dropped while reading; the first: {first}.",
    "keyless": "{n} records have no column of read.text_columns and count as empty; the first: {first}.",
    "strays": "{n} quotes open a field that they do not close, and were read as characters; the first: {first}.",
    "long": "{n} fields have 50 lines and more, as one does whose quote was opened by mistake; the first: {first}.",
    "headers": "{n} lines repeat the header of their file and were left out; the first: {first}.",
    "nulls": "{n} unquoted cells mean that there is no text (read.csv.nulls sets which); the first: {first}.",
    "replaced": "{n} bytes or characters are not of the encoding and were replaced by U+FFFD; the first: {first}.",
    "guessed": "An encoding was guessed for what is not UTF-8 (read.csv.encoding sets it); files: {n}; {all}.",
    "times": "{n} values of read.time_column are no time and are empty in column time; the first: {first}.",
    "early": "{n} numbers of read.time_column are below 100,000,000 and became times around 1970, as seconds do. Where "
    "they are days of a spreadsheet, write dates in their place.",
}


class Issues:
    """Counts of what was dropped, repaired or guessed, by kind: those of ``WARNINGS``, and markup."""

    def __init__(self, counts: dict[str, int] | None = None, examples: dict[str, list[str]] | None = None) -> None:
        self.counts: Counter[str] = Counter(counts or {})
        self.examples: dict[str, list[str]] = dict(examples or {})
        self.of_file: Counter[str] = Counter()
        self.uri = ""
        self.lines = 0  # of a piece of a file, or of the pieces that were merged

    def start_file(self, uri: str) -> None:
        self.uri, self.of_file = uri, Counter()

    def count(self, kind: str, number: int, example: str | Callable[[], str] = "") -> None:
        """Count ``number`` more of a kind. The first of a file may leave an example; a function is only then called."""
        if not number:
            return
        kept = self.examples.setdefault(kind, [])
        if not self.of_file[kind] and len(kept) < EXAMPLES:
            text = example if isinstance(example, str) else example()
            if text:
                kept.append(f"{self.uri}, {text}" if self.uri else text)
        self.counts[kind] += number
        self.of_file[kind] += number

    def merge(self, other: dict[str, Any], uri: str = "") -> None:
        """Add what another reader has counted, in the form of ``as_dict``.

        uri : of a piece's file, whose pieces are merged one after the other; examples are those of the whole file
        """
        if not uri or uri != self.uri:
            self.start_file(uri)
            self.lines = 0
        for kind, examples in other["examples"].items():
            if not self.of_file[kind]:
                examples = [_on_later_line(one, uri, self.lines) for one in examples] if self.lines else examples
                self.examples[kind] = [*self.examples.get(kind, []), *examples][:EXAMPLES]
        self.counts.update(other["counts"])
        self.of_file.update(other["counts"])
        self.lines += other["lines"]

    def as_dict(self) -> dict[str, Any]:
        """Counts and examples as JSON can hold them."""
        return {"counts": dict(self.counts), "examples": self.examples, "lines": self.lines}

    def example(self, kind: str) -> str:
        return (self.examples.get(kind) or [""])[0]

    def warnings(self, figures: Figures) -> list[str]:
        """What a reader of the results must know of the input: what was lost, repaired or guessed.

        figures : records, and missing_ids where there is an id column
        """
        found = [
            words.format(
                n=f"{self.counts[kind]:,}", first=self.example(kind), all="; ".join(self.examples.get(kind, []))
            )
            for kind, words in WARNINGS.items()
            if self.counts[kind]
        ]
        records = max(figures["records"], 1)
        if self.counts["markup"] >= MARKUP_SHARE * records:
            share = self.counts["markup"] / records
            found.append(f"{share:.0%} of the texts carry markup (tags or entities of HTML), which was taken out "
                         f"before they were compared and embedded (read.clean.markup).")  # fmt: skip
        if figures.get("missing_ids"):
            found.append(f"{figures['missing_ids']:,} records have no id in read.id_column.")
        return found


def _on_later_line(example: str, uri: str, lines: int) -> str:
    """An example in which a line is counted from a later one of its file."""
    found = re.match(r"line (\d{1,3}(,\d{3})*)", example.removeprefix(f"{uri}, "))
    if not found or not example.startswith(f"{uri}, "):
        return example
    line = int(found[1].replace(",", "")) + lines
    return f"{uri}, line {line:,}{example[len(uri) + 2 + found.end() :]}"


def excerpt(line: str | bytes) -> str:
    """The first 60 characters of a line, quoted for a message."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:60] + "...")
