"""A YAML file and ``section.key=value`` words in, a RunConfig out; all problems are reported at once."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from clustering.config import values
from clustering.config.checks import find_broken_uris, find_contradictions, find_credentials, show_value
from clustering.config.sections import SECTIONS, RunConfig
from clustering.errors import ConfigError
from clustering.kernels.printable import CREDENTIALS

# The former name of a key -> its present name; "" for a key that was removed.
RENAMED = {
    f"{section}.{key}": f"{section}.server.{key}"
    for section in ("store", "read.collection")
    for key in ("token_env", "token_file", "ca_file", "server_name", "db_name")
} | {"search.queries_per_request": ""}


def load_config(path: str | Path | None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML file, override its keys, and check the result.

    path : a file, or the name of a ready configuration such as ``laptop``; a file of this name comes first
    overrides : words such as ``cluster.min_samples=3``. Text is taken as it stands, a list is written [a, b], and null
        means none where that is a choice.
    Raises: ConfigError with every problem of the file and the words.
    """
    if CREDENTIALS.search(str(path)):
        raise ConfigError(["the configuration is a URI with a user or password; name a file of this machine"])
    problems: list[str] = []
    raw: dict[str, Any] = {}
    if path is not None:
        file = Path(path)
        ready = values.ready_configs().get(str(path))
        raw = _read_yaml(file if ready is None or file.is_file() else ready, problems)
    return _build_overridden(raw, overrides, problems)


def override_config(config: RunConfig, overrides: Iterable[str]) -> RunConfig:
    """Override keys of a configuration by ``section.key=value`` words, and check the result."""
    return _build_overridden(config.as_dict(), overrides, [])


def build_saved_config(raw: Any) -> RunConfig:
    """Build the configuration that a run has saved; its keys may have the names of an earlier version.

    Raises: ConfigError as ``build_config`` does.
    """
    raw = copy.deepcopy(raw)
    for old, new in RENAMED.items():
        *parents, last = old.split(".")
        section = raw
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict) and last in section:
            value = section.pop(last)
            if new:
                _set(raw, new.split("."), value)
    if isinstance(raw, dict) and isinstance(embed := raw.get("embed"), dict):
        # Before there were these keys, no text had either; null is the share of vectors that came with the texts.
        raw["embed"] = {"prompt": "", **embed, "lexical": embed.get("lexical") or 0}
    return build_config(raw)


def build_config(raw: Mapping[str, Any], problems: Iterable[str] = ()) -> RunConfig:
    """Check a nested mapping of sections and build the configuration.

    Raises: ConfigError with ``problems`` and every problem of ``raw``.
    """
    problems = list(problems)
    if not isinstance(raw, Mapping):
        raise ConfigError([*problems, f"the configuration is a {type(raw).__name__}; expected a mapping of sections"])
    unsupported = list(values.unsupported_values(raw, RunConfig))
    known = _known_sections(raw, problems)
    if unsupported:
        raise ConfigError(problems + unsupported)
    problems += find_credentials(known) + find_broken_uris(known)
    try:
        config = TypeAdapter(RunConfig).validate_python(known)
    except ValidationError as error:
        raise ConfigError(problems + [_message(detail) for detail in error.errors()]) from None
    problems += find_contradictions(config)
    if problems:
        raise ConfigError(problems)
    return config


def _read_yaml(path: Path, problems: list[str]) -> dict[str, Any]:
    raw = values.read_yaml(path, RunConfig)
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.append(f"{path} holds a {type(raw).__name__}; expected sections such as 'read:' and 'cluster:'")
        return {}
    return {str(section): keys for section, keys in raw.items()}


def _build_overridden(raw: dict[str, Any], overrides: Iterable[str], problems: list[str]) -> RunConfig:
    for word in overrides:
        _override(raw, word, problems)
    return build_config(raw, problems)


def _override(raw: dict[str, Any], word: str, problems: list[str]) -> None:
    key, equals, text = word.partition("=")
    names = key.split(".")
    if not (equals and len(names) > 1 and all(names)):
        problems.append(
            f"{show_value(word)} is not an override; write section.key=value, for instance cluster.min_samples=3"
        )
        return
    try:
        value = values.word_value(text, values.hint_at(RunConfig, names))
    except yaml.YAMLError:
        problems.append(f"{show_value(word)} is no list; put items that hold a comma, a colon or a # in quotes")
        return
    if not _set(raw, names, value):
        problems.append(f"{show_value(word)} reaches into '{names[0]}', which is not a mapping")


def _set(raw: dict[str, Any], names: list[str], value: Any) -> bool:
    """Set a key within nested mappings, making those that are missing; False where one is no mapping."""
    *parents, last = names
    section: Any = raw
    for parent in parents:
        if not isinstance(section, dict):
            return False
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
    if isinstance(section, dict):
        section[last] = value
    return isinstance(section, dict)


def _known_sections(raw: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, keys in raw.items():
        if name not in SECTIONS:
            problems.append(f"unknown section '{values.show_key(name)}'{_nearest(name, SECTIONS)}")
        elif keys is None:
            known[name] = {}
        elif not isinstance(keys, dict):
            first = next(iter(values.hints_of(SECTIONS[name])))
            problems.append(f"section '{name}' holds {show_value(keys)}; expected keys such as '{first}:'")
        else:
            known[name] = _known_keys(keys, SECTIONS[name], name, problems)
    for key in ("paths", "text_columns", "keep"):  # one word stands for a list of one
        if isinstance(known.get("read", {}).get(key), str):
            known["read"][key] = (known["read"][key],)
    return known


def _known_keys(keys: dict[Any, Any], section: type, prefix: str, problems: list[str]) -> dict[str, Any]:
    """The known keys of a section and of those within it; an unknown key becomes a problem.

    prefix : the section's own dotted key. No value is shown: under a wrong key it may be a secret.
    """
    hints, known = values.hints_of(section), {}
    for key, value in keys.items():
        name = f"{prefix}.{values.show_key(key)}"
        if key not in hints:
            problems.append(_unknown(key, name, prefix, hints))
            continue
        inner = values.section_of(hints[key])
        if inner is None:
            known[key] = tuple(value) if isinstance(value, list) else value
        elif value is not None:
            held = _known_inner(value, inner, name, problems)
            known |= {} if held is None else {key: held}
    return known


def _known_inner(value: Any, section: type, prefix: str, problems: list[str]) -> dict[str, Any] | None:
    """The known keys of a section within another; None where it is no mapping or lacks a key that it needs."""
    needed = [key.name for key in fields(section) if key.default is MISSING and key.default_factory is MISSING]
    if not isinstance(value, dict):
        expected = f"the keys {', '.join(needed)}" if needed else f"keys such as '{fields(section)[0].name}:'"
        problems.append(f"{prefix} holds a {type(value).__name__}; expected {expected}")
        return None
    known = _known_keys(value, section, prefix, problems)
    missing = [key for key in needed if value.get(key) is None]
    if missing:
        problems.append(f"{prefix} lacks {', '.join(missing)}; it needs {', '.join(needed)}")
        return None
    return known


def _unknown(key: Any, name: str, prefix: str, known: Iterable[str]) -> str:
    if name in RENAMED:
        new = RENAMED[name]
        return f"'{name}' has a new name: '{new}'" if new else f"'{name}' is no longer a key; leave it out"
    elsewhere = {key: section for section, shape in SECTIONS.items() for key in values.hints_of(shape)}
    if "." not in prefix and key in elsewhere:
        return f"unknown key '{name}'; '{elsewhere[key]}.{key}' exists"
    return f"unknown key '{name}'{_nearest(key, known, f'{prefix}.')}"


def _nearest(word: Any, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(values.show_key(word), known, n=1, cutoff=0.0)
    return f"; the nearest known one is '{prefix}{close[0]}'" if close else ""


def _message(detail: Any) -> str:
    names = [str(part) for part in detail["loc"] if not str(part).startswith(("function-", "tuple["))]
    misplaced = detail["type"] in ("missing", "unexpected_keyword_argument")  # the value may be a secret
    got = "" if misplaced else f", got {show_value(detail['input'])}"
    return f"{'.'.join(map(values.show_key, names))}: {detail['msg'][0].lower()}{detail['msg'][1:]}{got}"
