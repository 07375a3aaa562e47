"""Input files in; which column is the text, the id, the time, the source and the link, by name and content, out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clustering.config.sections import ReadSection
from clustering.errors import ConfigError
from clustering.sources.batches import read_batches
from clustering.sources.files import InputFile, resolve_paths
from clustering.sources.formats.column_types import as_type, decoded, parse_times, small_times
from clustering.sources.formats.issues import Issues
from clustering.sources.layout import detect_layout
from clustering.sources.pieces import ReadTask

SAMPLE_FILES = 3  # from the first, the middle and the last of the files
SAMPLE_ROWS = 1000  # of each
SEARCH_BYTES = 1 << 20  # of a JSON file, for keys that its first records lack
MAX_KEPT = 20  # columns that are kept without being asked for
KEPT_CHARACTERS = 60  # of a kept column's values, on average
# Names of columns, the surest first; the last part of a path such as data.title counts. In the order in which a role
# takes its column from the others.
NAMES = {
    "text": "title headline headlines text texts sentence sentences titel schlagzeile titre titulo título texto tekst "
            "标题 タイトル tweet question query content body full_text message post comment review utterance document "
            "caption name subject description summary abstract snippet lead",
    "link": "url link href permalink web_url article_url source_url uri",
    "time": "published_at published published_date publishedat pubdate pub_date publish_date publish_time "
            "date_published created_at created_utc created createdat date datetime timestamp time datum posted_at when "
            "ts day first_seen seendate updated_at updated",
    "source": "source source_name outlet publisher publication venue newspaper medium site domain hostname channel "
              "feed subreddit author user username",
    "id": "id _id guid uuid text_id article_id doc_id document_id post_id tweet_id record_id item_id identifier key "
          "nr number",
}  # fmt: skip
SETTINGS = {"text": "text_columns", "id": "id_column", "time": "time_column", "source": "source_column",
            "link": "link_column"}  # of ``read``, by role  # fmt: skip
LETTERS = r"\p{L}"
WORDS = r"\S+\s+\S+|\p{Han}{4}|[\p{Hiragana}\p{Katakana}\p{Thai}]{4}"  # at least two, or such as need no space
LINK = r"^https?://\S+$"
CODE = r"^[0-9A-Fa-f-]{16,}$|^\S*[/\\]\S*$"  # hexadecimal, or a path
OBJECT, LIST = r"^\s*\{\s*\".*\}\s*$", r"^\s*\[.*\]\s*$"  # as JSON
INNER = {"name", "$oid", "$date", "$numberlong"}  # keys within an object that mean what the object's own key says


@dataclass(frozen=True)
class Roles:
    """The columns of an input, by what they are for; None for what it lacks."""

    text: str
    id: str | None = None
    time: str | None = None
    source: str | None = None
    link: str | None = None
    keep: tuple[str, ...] = ()  # other short columns
    left: tuple[str, ...] = ()  # all others
    no_time: str = ""  # where no column is the time: one whose name says so, and a value of it

    def as_settings(self) -> dict[str, Any]:
        """The keys of ``read`` that say the same."""
        found: dict[str, Any] = {"keep": list(self.keep)}
        for role, key in SETTINGS.items():
            if column := getattr(self, role):
                found[key] = [column] if role == "text" else column
        return found

    def __str__(self) -> str:
        parts = [f"text: {self.text}"]
        for role in ("id", "time", "source", "link"):
            parts += [f"{role}: {column}"] if (column := getattr(self, role)) else []
        parts += [f"kept: {', '.join(self.keep)}"] if self.keep else []
        shown = ", ".join(self.left[:8]) + (f" and {len(self.left) - 8} more" if len(self.left) > 8 else "")
        parts += [f"not used: {shown}"] if shown else []
        return "; ".join([*parts, *([f"no time: {self.no_time} is in no form that is read"] if self.no_time else [])])


def find_roles(cfg: ReadSection, given: Mapping[str, str] = MappingProxyType({})) -> Roles:
    """Find the columns by the first records of a few files.

    cfg : with the paths, and how the files are written where that is known; its columns are not looked at
    given : the columns of those roles that are known
    Raises: ConfigError when the paths find nothing, a file cannot be read, or no column looks like texts.
    """
    problems: list[str] = []
    files, _ = resolve_paths(cfg, lambda _: False, problems)
    full = [file for file in files if file.size]
    if problems or not full:
        raise ConfigError(problems or [f"read.paths: {cfg.paths[0]} is empty; there is nothing to cluster"])
    chosen = dict.fromkeys(at * (len(full) - 1) // (SAMPLE_FILES - 1) for at in range(SAMPLE_FILES))
    found = [_first_records(full[at], cfg) for at in chosen]
    tables = [table for table, _ in found]
    doubled = dict.fromkeys(name for _, names in found for name in names)
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for table in tables for name in table.schema.names):
        parts = [table[name] for table in tables if name in table.schema.names]
        kinds = {part.type for part in parts}
        columns[name] = pa.concat_arrays(
            [chunk for part in parts for chunk in (part if len(kinds) == 1 else as_type(part, pa.string())).chunks]
        )
    if "text" not in given:
        _check_records(full[0].uri, tables, [*columns], [*doubled])
    return _choose(columns, given, full[0].uri, tuple(doubled))


def _check_records(uri: str, tables: list[pa.Table], columns: list[str], doubled: list[str]) -> None:
    """Raises: ConfigError for files without records, and for two columns of texts with one name."""
    listed = _listed(columns)
    if not any(map(len, tables)):
        what = f"only its columns, {listed}, are known" if columns else "it has no columns either"
        raise ConfigError([f"{uri}: no record can be read from it; {what}"])
    texts = NAMES["text"].split()
    if twice := next((name for name in doubled if _plain(name) in texts), None):
        raise ConfigError([f"{uri}: two columns and more are named {twice!r}; name one by its number, counted from 1, "
                           f"with read.text_columns=NUMBER"])  # fmt: skip


def _first_records(file: InputFile, cfg: ReadSection) -> tuple[pa.Table, list[str]]:
    """The first records of a file with all its columns, and the names that several of them have, which are left out."""
    probe = replace(cfg, text_columns=("",), id_column=None, time_column=None, source_column=None, link_column=None,
                    keep=(), bad_lines="skip", errors="replace", limit=None)  # fmt: skip
    detected = detect_layout(file, probe, SEARCH_BYTES)
    if detected.file.format in ("csv", "tsv"):  # names tell the delimiter
        names = [name for own in NAMES.values() for name in own.split() if detected.columns.count(name) < 2]
        detected = detect_layout(file, replace(probe, text_columns=tuple(names)), SEARCH_BYTES)
    if detected.problems:
        raise ConfigError(detected.problems)
    counts = Counter(name for name in detected.columns if name)
    known, doubled = ([name for name in counts if (counts[name] > 1) == several] for several in (False, True))
    if not known:
        return pa.table({}), doubled
    wanted = replace(probe, keep=tuple(known))
    detected = detect_layout(file, wanted, SEARCH_BYTES)
    if detected.problems:
        raise ConfigError(detected.problems)
    groups = [0] if detected.file.format == "parquet" else None
    batches = read_batches(detected.file, ReadTask(row_groups=groups), wanted, wanted.keep, SAMPLE_ROWS, Issues())
    table = next(batches, None)
    if table is None:
        return pa.table({name: pa.nulls(0) for name in known}), doubled
    return pa.table({name: _decoded(table[name]) for name in known}), doubled


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of bytes as strings, where they are such: some programs write no others into Parquet."""
    strings = decoded(column) if pa.types.is_binary(column.type) else None
    return column if strings is None else strings


def _listed(columns: list[str]) -> str:
    return ", ".join(map(repr, columns[:20])) + (", ..." if len(columns) > 20 else "")


def _choose(columns: dict[str, pa.Array], given: Mapping[str, str], uri: str, doubled: tuple[str, ...]) -> Roles:
    """doubled : names that several columns have"""
    taken = {*given.values()}
    free = {name: column for name, column in columns.items() if name not in taken and column.null_count < len(column)}
    free = {name: column for name, column in free.items() if not _holds_mostly(column, OBJECT)}
    found = dict(given)
    for role, names in NAMES.items():
        if role in given:
            continue
        ranks = {name: rank for rank, name in enumerate(names.split())}
        fitting = {name: fit for name, column in free.items() if (fit := FITS[role](column, _plain(name) in ranks))}
        # By name, the surest one first; a text or a link by its content, too.
        best = min(fitting, key=lambda name: (ranks.get(_plain(name), len(ranks)), -fitting[name]), default=None)
        if best is not None and (role in ("text", "link") or _plain(best) in ranks):
            found[role] = best
            del free[best]
    if "text" not in found and [*columns] == ["text"] and _strings(columns["text"]) is not None:
        found["text"] = "text"  # a list of texts without columns, each perhaps a single word
        free.pop("text", None)
    if "text" not in found:
        words = f"{uri}: none of its columns looks like texts ({_listed([*columns])}); name one with "
        raise ConfigError([f"{words}read.text_columns=COLUMN{_unwrapping(columns)}"])
    one = max((len(column) for column in columns.values()), default=0) == 1
    if one and "text" not in given and (how := _unwrapping(columns)):
        raise ConfigError([f"{uri}: it is a single record{how}"])
    short = [name for name, column in free.items() if _is_short(column)][:MAX_KEPT]
    left = [name for name in (*columns, *doubled) if name not in {*short, *found.values()}]
    no_time = "" if "time" in found else _unknown_time(free)
    return Roles(**found, keep=tuple(short), left=tuple(left), no_time=no_time)


def _unwrapping(columns: dict[str, pa.Array]) -> str:
    """How to take records out of objects and lists that hold them; nothing where there are none."""
    lists = [name for name, column in columns.items() if _holds_mostly(column, r"^\s*\[\s*[\[{].*\]\s*$")]
    if not lists and not any(_holds_mostly(column, OBJECT) for column in columns.values()):
        return ""
    name = f"jq -c '.{lists[0]}[]', or " if lists else ""
    return (f". Where records stand within {f'the list {lists[0]!r}' if lists else 'one object'}, write one on each "
            f"line ({name}in pandas to_json(orient='records', lines=True))")  # fmt: skip


def _unknown_time(columns: dict[str, pa.Array]) -> str:
    """A column of strings whose name says that they are times, and its first value that is none, with a digit in it."""
    names = NAMES["time"].split()
    named = sorted((name for name in columns if _plain(name) in names), key=lambda name: names.index(_plain(name)))
    for name in named:
        strings = _strings(columns[name])
        if strings is not None and _share(strings, "[0-9]") > 0.5:
            lost = strings.filter(pc.is_null(parse_times(strings)[0]))
            if len(lost):
                return f"{name} ({lost[0].as_py()[:40]!r})"
    return ""


def _plain(name: str) -> str:
    """The part of a name that tells the role, in one way of writing."""
    *outer, last = name.strip().casefold().split(".")
    return re.sub(r"[\s-]+", "_", outer[-1] if outer and last in INNER else last)


def _strings(column: pa.Array) -> pa.Array | None:
    """The values of a column of strings that are not empty; None for other columns, and where there are none."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    filled = column.drop_null()
    filled = filled.filter(pc.not_equal(pc.utf8_trim_whitespace(filled), ""))
    return filled if len(filled) else None


def _holds_mostly(column: pa.Array, pattern: str) -> bool:
    """Whether more than half of the strings of a column match; False for other columns."""
    strings = _strings(column)
    return strings is not None and _share(strings, pattern) > 0.5


def _share(strings: pa.Array, pattern: str) -> float:
    return float(pc.mean(pc.match_substring_regex(strings, pattern).cast(pa.float64())).as_py())


def _distinct(values: pa.Array) -> float:
    """Distinct values to values."""
    return int(pc.count_distinct(values).as_py()) / len(values)


def _mean_length(strings: pa.Array) -> float:
    """In characters."""
    return float(pc.mean(pc.utf8_length(strings)).as_py())


def _fits_text(column: pa.Array, named: bool) -> float:
    """How much a column looks like texts: more for longer and for different ones."""
    strings = _strings(column)
    if strings is None or _share(strings, LETTERS) < 0.5 or _share(strings, f"{LINK}|{CODE}|{LIST}") > 0.5:
        return 0
    if _share(strings, WORDS) < (0.2 if named else 0.5) or parse_times(strings)[1] < len(strings) / 2:
        return 0
    distinct = _distinct(strings)
    if len(strings) >= 20 and distinct < 0.05:
        return 0  # categories
    return distinct * min(_mean_length(strings), 100)


def _fits_link(column: pa.Array, named: bool) -> float:
    strings = _strings(column)
    share = _share(strings, LINK) if strings is not None else 0
    return share if share > (0.5 if named else 0.9) else 0


def _fits_time(column: pa.Array, named: bool) -> float:
    if not named or pa.types.is_nested(column.type) or pa.types.is_boolean(column.type):
        return 0
    times, lost, _ = parse_times(column)
    known = len(times) - times.null_count
    return known / (known + lost) if known > 19 * lost and 2 * small_times(column, times) <= known else 0


def _fits_source(column: pa.Array, named: bool) -> float:
    strings = _strings(column)
    if not named or strings is None:
        return 0
    return float(_mean_length(strings) <= KEPT_CHARACTERS and not _share(strings, LIST) > 0.5)


def _fits_id(column: pa.Array, named: bool) -> float:
    if not named or column.null_count or pa.types.is_nested(column.type) or pa.types.is_floating(column.type):
        return 0
    return 1 if _distinct(column) > 0.99 else 0


FITS = {"text": _fits_text, "link": _fits_link, "time": _fits_time, "source": _fits_source, "id": _fits_id}


def _is_short(column: pa.Array) -> bool:
    """Whether a column is worth carrying along unasked: numbers, times, and strings of a few words."""
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or column.null_count == len(column):
        return False
    strings = _strings(column)
    return strings is None or _mean_length(strings) <= KEPT_CHARACTERS
