"""The sections of the configuration in; every key with its default and its meaning out, as ``sections.py`` has them."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from typing import Any, Literal, get_args, get_origin

from clustering.config import sections, values

NEEDED = "(needed)"


@dataclass(frozen=True)
class Key:
    """A key of the configuration."""

    name: str  # dotted, such as cluster.granularity
    default: str  # as YAML has it; (needed) where there is none
    meaning: str  # the words that it takes, and what stands beside it in the source


def list_keys() -> list[Key]:
    """Every key, in the order of the stages."""
    meanings = _meanings((files("clustering.config") / "sections.py").read_text(encoding="utf-8"))
    return [key for name, section in sections.SECTIONS.items() for key in _keys(name, section, meanings)]


def _keys(prefix: str, section: Any, meanings: Mapping[tuple[str, str], str]) -> Iterator[Key]:
    for key in fields(section):
        hint = values.hints_of(section)[key.name]
        name, inner = f"{prefix}.{key.name}", values.section_of(hint)
        meaning = " ".join(filter(None, [_choices(hint), meanings.get((section.__name__, key.name), "")]))
        if inner is None:
            yield Key(name, _default(key), meaning)
        else:
            if key.default is None:
                yield Key(name, "null", meaning)
            yield from _keys(name, inner, meanings)


def _default(key: Any) -> str:
    value = key.default if key.default_factory is MISSING else key.default_factory()
    return NEEDED if value is MISSING else _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value if value.strip() else repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, Mapping):
        return "{}"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _choices(hint: Any) -> str:
    """The words that a key takes; '' where it takes others, too."""
    members = [member for member in values.members_of(hint) if member is not type(None)]
    if not members or any(get_origin(member) is not Literal for member in members):
        return ""
    return f"One of {', '.join(str(choice) for member in members for choice in get_args(member))}."


def _meanings(source: str) -> dict[tuple[str, str], str]:
    """The comments of each key: those on its own lines, after those on the lines before it."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(fmt|type|noqa)\b", token.string)
    }
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        last = node.lineno
        for key in node.body:
            if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name):
                lines = range(last + 1, (key.end_lineno or key.lineno) + 1)
                found[node.name, key.target.id] = " ".join(comments[line] for line in lines if line in comments)
            last = key.end_lineno or key.lineno
    return found
