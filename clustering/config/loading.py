"""YAML file and ``section.key=value`` words in, one frozen RunConfig out; every problem is named at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from clustering.config import values
from clustering.config.checks import broken_addresses, contradictions, credentials, shown
from clustering.config.sections import SECTIONS, CollectionInput, RunConfig
from clustering.errors import ConfigError
from clustering.kernels.printable import CREDENTIALS


def load_config(path: str | Path | None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML file, lay ``section.key=value`` words over it, and check the whole.

    overrides : words such as ``cluster.min_samples=3``. A value that is text is taken as it stands, a list is written
        [a, b], null means none where that is a choice.
    Raises: ConfigError that lists every problem of the file and the words at once.
    """
    if CREDENTIALS.search(str(path)):
        raise ConfigError(["the configuration is a URI with a user or password; name a file of this machine"])
    problems: list[str] = []
    raw = _read_yaml(Path(path), problems) if path is not None else {}
    for word in overrides:
        _override(raw, word, problems)
    return build_config(raw, problems)


def override_config(config: RunConfig, overrides: Iterable[str]) -> RunConfig:
    """The configuration with ``section.key=value`` words laid over it, checked again as a whole."""
    problems: list[str] = []
    raw = config.as_dict()
    for word in overrides:
        _override(raw, word, problems)
    return build_config(raw, problems)


def build_config(raw: Mapping[str, Any], problems: list[str] | None = None) -> RunConfig:
    """Check a nested mapping of sections and build the frozen configuration.

    Raises: ConfigError with ``problems`` and whatever else is wrong in ``raw``.
    """
    problems = list(problems or [])
    if not isinstance(raw, Mapping):
        raise ConfigError([*problems, f"the configuration is a {type(raw).__name__}; expected a mapping of sections"])
    odd = list(values.odd_values(raw, RunConfig))
    known = _keep_known(raw, problems)
    if odd:
        raise ConfigError(problems + odd)
    problems += credentials(known) + broken_addresses(known)
    config: RunConfig | None = None
    try:
        config = TypeAdapter(RunConfig).validate_python(known)
    except ValidationError as error:
        problems += [_in_words(detail) for detail in error.errors()]
    problems += contradictions(config) if config is not None else []
    if problems or config is None:
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


def _override(raw: dict[str, Any], word: str, problems: list[str]) -> None:
    name, equals, text = word.partition("=")
    section, *parents, last = name.split(".") if "." in name else ("", "")
    if not (equals and section and last and all(parents)):
        problems.append(
            f"{shown(word)} is not an override; write section.key=value, for instance cluster.min_samples=3"
        )
        return
    try:
        value = values.word_value(text, values.hint_at(RunConfig, name.split(".")))
    except yaml.YAMLError:
        problems.append(f"{shown(word)} is no list; put items that hold a comma, a colon or a # in quotes")
        return
    place: Any = raw
    for parent in (section, *parents):  # store.params.nlist=64 reaches into a mapping
        if not isinstance(place, dict):
            break
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
    if isinstance(place, dict):
        place[last] = value
    else:
        problems.append(f"{shown(word)} reaches into '{section}', which is not a mapping")


def _keep_known(raw: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    everywhere = {key: name for name, section in SECTIONS.items() for key in _keys(section)}
    for name, keys in raw.items():
        if name not in SECTIONS:
            problems.append(f"unknown section '{values.shown_key(name)}'{_nearest(name, SECTIONS)}")
        elif keys is None:
            known[name] = {}
        elif not isinstance(keys, dict):
            problems.append(
                f"section '{name}' holds {shown(keys)}; expected keys such as '{_keys(SECTIONS[name])[0]}:'"
            )
        else:
            allowed = _keys(SECTIONS[name])
            for key in keys:
                if key not in allowed:
                    elsewhere = f"; '{everywhere[key]}.{key}' exists" if key in everywhere else ""
                    named = values.shown_key(key)
                    problems.append(f"unknown key '{name}.{named}'{elsewhere or _nearest(key, allowed, name + '.')}")
            known[name] = {key: _tuples(value) for key, value in keys.items() if key in allowed}
    if isinstance(known.get("read"), dict) and known["read"].get("collection") is not None:
        known["read"]["collection"] = _known_collection(known["read"]["collection"], problems)
    if isinstance(known.get("read"), dict):
        for key in ("paths", "text_columns", "keep"):  # one word stands for a list of one
            if isinstance(known["read"].get(key), str):
                known["read"][key] = (known["read"][key],)
    return known


def _known_collection(given: Any, problems: list[str]) -> dict[str, Any] | None:
    """The known keys of read.collection; values that stand in a wrong place may be secrets, so none is shown."""
    allowed = _keys(CollectionInput)
    needed = [key.name for key in fields(CollectionInput) if key.default is MISSING]
    if not isinstance(given, dict):
        problems.append(f"read.collection holds a {type(given).__name__}; expected the keys {', '.join(needed)}")
        return None
    problems += [
        f"unknown key 'read.collection.{values.shown_key(key)}'{_nearest(key, allowed, 'read.collection.')}"
        for key in given
        if key not in allowed
    ]
    missing = [key for key in needed if given.get(key) is None]
    if missing:
        problems.append(f"read.collection lacks {', '.join(missing)}; it needs {', '.join(needed)}")
        return None
    return {key: value for key, value in given.items() if key in allowed}


def _keys(section: type) -> list[str]:
    return [field.name for field in fields(section)]


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    known = list(known)
    close = difflib.get_close_matches(values.shown_key(word), known, n=1, cutoff=0.0)
    return f"; the nearest known one is '{prefix}{close[0]}'" if close else ""


def _in_words(detail: Any) -> str:
    place = ".".join(
        values.shown_key(str(part)) for part in detail["loc"] if not str(part).startswith(("function-", "tuple["))
    )
    misplaced = detail["type"] in ("missing", "unexpected_keyword_argument")  # then what is there may be a secret
    got = "" if misplaced else f", got {shown(detail['input'])}"
    return f"{place}: {detail['msg'][0].lower()}{detail['msg'][1:]}{got}"
