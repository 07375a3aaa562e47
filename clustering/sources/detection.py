"""read.paths in; the files of the input out, each with its layout, or all that is wrong with them in one error."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from clustering.config.sections import ReadSection
from clustering.errors import ConfigError
from clustering.runs.object_store import PATIENCE_S, is_local
from clustering.sources.batches import other_names, text_names
from clustering.sources.files import DETECTION_THREADS, SHOWN, Inputs, and_more, resolve_paths, unread_warning
from clustering.sources.layout import MAX_CARRIED, DetectedFile, detect_layout

SCAN_BYTES = 256 << 20  # of all JSON files, searched for keys that their first records lack
SCAN_LEAST = 4 << 20  # of each


def find_files(
    cfg: ReadSection, exclude: Callable[[str], bool] = lambda _: False, patience_s: float = PATIENCE_S
) -> Inputs:
    """Resolve paths, globs, directories and URIs to files, and detect the layout of each.

    exclude : says of a file's URI whether it is no input, such as an artefact of the run itself
    patience_s : how long reading retries a bucket that fails; detection does not retry
    Returns: the files in the order of ``paths``, each path's files by name; a file named twice is read once.
    Raises: ConfigError that lists every problem: nothing found, unknown format, not decodable, a column that no file
        has, a text column of a kind that is no text.
    """
    problems: list[str] = []
    files, unread = resolve_paths(cfg, exclude, problems)
    max_search_bytes = max(SCAN_LEAST, SCAN_BYTES // max(len(files), 1))
    with ThreadPoolExecutor(1 if all(is_local(file.pattern) for file in files) else DETECTION_THREADS) as pool:
        detected = list(pool.map(lambda file: detect_layout(file, cfg, max_search_bytes), files))
    problems += [problem for one in detected for problem in one.problems]
    full = [one for one in detected if not one.empty and not one.problems]
    problems += _lost_headers(full, cfg)
    keep = cfg.keep
    if keep == ("all",):
        named = {"", *cfg.text_columns, *other_names(cfg)}
        keep = tuple(name for name in dict.fromkeys(name for one in full for name in one.columns) if name not in named)
    if len(keep) > MAX_CARRIED:
        problems.append(
            f"read.keep means {len(keep):,} columns; at most {MAX_CARRIED:,} are carried. Name those that you need."
        )
    warnings = unread_warning(unread)
    if full:
        wanted = [*text_names(cfg), *other_names(cfg, () if cfg.keep == ("all",) else cfg.keep)]
        nowhere = [name for name in wanted if all(one.lacks(name) for one in full)]
        if cfg.bad_lines == "skip":
            nowhere = [name for name in nowhere if not any(name in one.unseen for one in full)]
        problems += _missing_columns(full, nowhere, cfg)
        warnings += _header_warning(full)
        warnings += [word for name in wanted if name not in nowhere for word in _lacking_warning(full, name)]
    if problems:
        raise ConfigError(problems)
    if cfg.keep == ("all",):
        warnings += _unlisted_warning(full)
        detected = [_looking_for(one, keep) for one in detected]
    return Inputs([replace(one.file, patience_s=patience_s) for one in detected], keep, warnings)


def _looking_for(one: DetectedFile, names: tuple[str, ...]) -> DetectedFile:
    """A JSON file, in which a column that another file has is looked up, too: it may come anywhere."""
    if one.file.format != "jsonl" or one.empty or one.problems:
        return one
    positions = dict.fromkeys(names, 0) | {
        name: position for name, position in one.file.layout["positions"].items() if position is not None
    }
    return replace(one, file=replace(one.file, layout={**one.file.layout, "positions": positions}))


def _unlisted_warning(files: list[DetectedFile]) -> list[str]:
    some = [f"{one.file.uri} in its first {one.listed_bytes:,} bytes" for one in files if one.listed_bytes]
    if not some:
        return []
    return [f"read.keep=[all] takes the keys that large JSON files have at their start: {and_more(some)}. A key that "
            f"comes later is left out, unless read.keep names it."]  # fmt: skip


def _missing_columns(files: list[DetectedFile], names: list[str], cfg: ReadSection) -> list[str]:
    """Problems for columns that no file has."""
    if not names:
        return []
    listed = ", ".join(map(repr, names))
    asking = {
        "text_columns": cfg.text_columns, "id_column": [cfg.id_column], "time_column": [cfg.time_column],
        "source_column": [cfg.source_column], "link_column": [cfg.link_column], "keep": cfg.keep,
    }  # fmt: skip
    keys = " and ".join(f"read.{key}" for key, own in asking.items() if {*own} & {*names})
    problems = []
    for one in files[:SHOWN]:
        columns = ", ".join(repr(name[:60]) for name in one.columns[:50]) + (", ..." if len(one.columns) > 50 else "")
        where = one.searched(names)
        more = " If it comes later, read.bad_lines=skip reads on." if where else ""
        problems.append(f"{one.file.uri} has no column {listed}{where}; its columns are {columns or 'none'}. Set "
                        f"{keys} to one of them.{more}")  # fmt: skip
    if len(files) > SHOWN:
        problems.append(f"{len(files) - SHOWN:,} more files have no column {listed} either")
    return problems


def _header_warning(files: list[DetectedFile]) -> list[str]:
    headed = [one for one in files if one.header]
    if not headed:
        return []
    cells = ", ".join(repr(name[:30]) for name in headed[0].header[:6])
    return [f"The first line of {len(headed):,} files is taken for a header, though read.text_columns goes by number "
            f"(read.csv.header=none makes it a record); the first: {headed[0].file.uri}, {cells}."]  # fmt: skip


def _lacking_warning(files: list[DetectedFile], name: str) -> list[str]:
    lacking = [f"{one.file.uri}{one.searched([name])}" for one in files if one.lacks(name)]
    if not lacking:
        return []
    return [f"{len(lacking):,} of {len(files):,} files have no column '{name}': {and_more(lacking)}."]


def _own_columns(one: DetectedFile) -> list[str]:
    """The columns that stand in a file, without those that its folders name."""
    return [name for name in one.columns if name not in one.file.layout["constants"]]


def _lost_headers(files: list[DetectedFile], cfg: ReadSection) -> list[str]:
    """Problems for files whose first line would be taken for a header, but is most likely a record.

    They have the width and the delimiter of a csv file that has a text column, but none of its names.
    """
    if cfg.csv.header != "first" or cfg.bad_lines == "skip":
        return []

    def has_text(one: DetectedFile) -> bool:
        return any(one.has(name) for name in text_names(cfg))

    tables = [one for one in files if "dialect" in one.file.layout]
    headed = {_shape(one): one for one in reversed(tables) if has_text(one)}
    lost = [
        (one, other)
        for one in tables
        if (other := headed.get(_shape(one))) and not has_text(one) and not _names(one) & _names(other)
    ]
    problems = [
        f"{one.file.uri} has as many columns as {other.file.uri}, but no header with such names; its first line is "
        f"{', '.join(repr(name[:30]) for name in _own_columns(one)[:6])}. Join the files to one, or write the header "
        f"into each; read.bad_lines=skip leaves the records of such files out"
        for one, other in lost[:SHOWN]
    ]
    return problems + ([f"{len(lost) - SHOWN:,} more files have no such header either"] if len(lost) > SHOWN else [])


def _shape(one: DetectedFile) -> tuple[str, int]:
    dialect = one.file.layout["dialect"]
    return dialect["delimiter"], dialect["width"]


def _names(one: DetectedFile) -> set[str]:
    """The names that a file's own first line gives."""
    return {name for name in one.columns if not name.isdigit()} - {*one.file.layout["constants"]}
