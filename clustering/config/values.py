"""A YAML file, or the value of a ``section.key=value`` word, and the key's type in; a value of that type out.

A key that takes text gets the text as written: plain YAML would read the column 007 as a number and the column no as
false. Of YAML this takes maps, lists, text, the numbers of YAML 1.2, true, false and null.
"""

from __future__ import annotations

import contextlib
import io
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from clustering.errors import ConfigError

MAX_BYTES = 1 << 20  # of a configuration file
MAX_VALUES = 100_000  # of a configuration file, aliases written out
MAX_DEPTH = 20  # levels of maps and lists
SHOWN = 80  # characters of a key or a value in a message
UNSUPPORTED_CHARACTER = re.compile("[\0\ud800-\udfff]")  # no part of a file's name, or not writable as UTF-8
_CORE = "tag:yaml.org,2002:"
TEXT_LIKE = ("str", "int", "float", "bool", "null", "merge")  # tags of values that a key for text takes as written


def ready_configs() -> dict[str, Path]:
    """The configurations that come with Covey, by name; they lie in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    folders = [package / "configs", package.parent / "cluster_configs"]
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core: no dates, no base 60, no yes and no, 010 is ten, 1e3 a number; an unknown tag is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as in PyYAML)
    yaml_constructors = {  # noqa: RUF012
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (None, *(_CORE + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")))
    }

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        prefix = text.lstrip("+-")[:2].lower()
        return int(text, {"0x": 16, "0o": 8, "0b": 2}.get(prefix, 10))


_Loader.add_constructor(_CORE + "int", _Loader.construct_yaml_int)
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?([0-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(_CORE + _kind, re.compile(rf"^(?:{_pattern})$"), _first)


def read_yaml(path: Path, shape: type) -> Any:
    """Read a YAML file; each value gets the type that its key has in ``shape``, a dataclass.

    Raises: ConfigError for a file that cannot be read, is no YAML, gives a key twice, holds an alias within itself, or
        too many bytes, values or levels. No line is quoted, because it may hold a secret.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        hints = [f"Ready ones, which need no file: {', '.join(ready_configs())}"]
        with contextlib.suppress(OSError, ValueError):
            near = sorted(str(file) for file in path.parent.glob("*.yaml"))
            hints = [f"Configurations there: {', '.join(near)}", *hints] if near else hints
        why = getattr(error, "strerror", None) or error
        shown = show_key(str(path), 4 * SHOWN)
        raise ConfigError([f"cannot read the configuration {shown}: {'. '.join([str(why), *hints])}"]) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(
            [f"{path} is longer than {MAX_BYTES:,} bytes, which no configuration is; is it another file?"]
        )
    try:
        return parse_yaml(content.decode("utf-8-sig"), shape)
    except UnicodeDecodeError as error:
        why = f"its byte {error.start} is no UTF-8; save it as UTF-8 text"
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
    raise ConfigError([f"{path} is not valid YAML: {why}"])


def parse_yaml(text: str, hint: Any) -> Any:
    """Raises: YAMLError."""
    loader = _Loader(io.StringIO(text))  # from a string, an error would quote lines
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, set())
        return _value(loader, node, hint)
    except RecursionError:
        raise yaml.YAMLError(f"maps and lists lie more than {MAX_DEPTH} deep within each other") from None
    finally:
        loader.dispose()


def word_value(text: str, hint: Any) -> Any:
    """The value of a ``section.key=value`` word: the text itself where the key takes text, else YAML.

    null means none where that is a choice. Where the key takes a list, [a, b] is one, and other text is its only item.
    Raises: YAMLError for a value in brackets that is no list.
    """
    members = members_of(hint)
    listed = any(map(_is_list, members))
    if text == "null" and type(None) in members:
        return None
    if listed and text[:1] == "[" and text[-1:] == "]":
        return parse_yaml(text, hint)
    if _takes_text(members):
        return text
    if listed and _takes_text(members_of(_item(members))):
        return [text]
    try:
        return parse_yaml(text, hint)
    except yaml.YAMLError:
        return text  # the check of the key refuses and shows it


def hint_at(shape: type, path: Sequence[str]) -> Any:
    """The type of the key at a path within a dataclass; Any where there is no such key."""
    hint: Any = shape
    for name in path:
        hint = _keys(members_of(hint)).get(name, Any)
    return hint


def unsupported_values(value: Any, hint: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """A problem for each value that pydantic would accept but nothing can work with.

    These are text that no file can hold, true for a number, numbers beyond 64 bits, and endless levels.
    """
    members = members_of(hint)
    if depth > MAX_DEPTH:
        yield f"{prefix[:SHOWN]}: maps and lists lie more than {MAX_DEPTH} deep within each other, or within themselves"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            name = f"{prefix}.{show_key(key)}".lstrip(".")
            if isinstance(key, str) and UNSUPPORTED_CHARACTER.search(key):
                yield f"{name} is no name of a key"
            yield from unsupported_values(item, _keys(members).get(key, Any), name, depth + 1)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from unsupported_values(item, _item(members), f"{prefix}.{number}", depth + 1)
    elif isinstance(value, str) and (bad := UNSUPPORTED_CHARACTER.search(value)):
        yield f"{prefix}: U+{ord(bad[0]):04X} stands in it, which no text holds; got {value[:SHOWN]!r}"
    elif isinstance(value, bool) and {int, float} & set(members) and bool not in members:
        yield f"{prefix}: input should be a number, got {value}"
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        yield f"{prefix}: a number that 64 bits do not hold"


def show_key(key: Any, most: int = SHOWN) -> str:
    """A key as messages show it: short, on one line, of characters that every stream takes."""
    text = key if isinstance(key, str) else repr(key)
    if len(text) > most:
        text = text[:most] + "..."
    return text if text.isprintable() else repr(text)[1:-1]


def _count(node: yaml.Node, counted: dict[int, int], around: set[int]) -> int:
    """Count the values in a node, aliases written out; raise for a key that is given twice, and for too many values."""
    if id(node) in around:
        raise yaml.YAMLError(f"an alias stands within itself{_line(node)}")
    if len(around) > MAX_DEPTH:
        raise yaml.YAMLError(f"maps and lists lie more than {MAX_DEPTH} deep within each other{_line(node)}")
    if id(node) not in counted:
        total = 1
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicate_keys(node)
            held = [part for pair in node.value for part in pair]
        else:
            held = node.value if isinstance(node, yaml.SequenceNode) else []
        for part in held:
            total += _count(part, counted, {*around, id(node)})
        counted[id(node)] = total
    if counted[id(node)] > MAX_VALUES:
        raise yaml.YAMLError(f"it holds more than {MAX_VALUES:,} values, aliases written out{_line(node)}")
    return counted[id(node)]


def _refuse_duplicate_keys(node: yaml.MappingNode) -> None:
    seen: dict[str, yaml.Node] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _CORE + "merge":
            continue
        if key.value in seen:
            raise yaml.YAMLError(
                f"the key '{show_key(key.value)}' is given twice, in lines {seen[key.value].start_mark.line + 1} and "
                f"{key.start_mark.line + 1}; keep one"
            )
        seen[key.value] = key


def _line(node: yaml.Node) -> str:
    return f", line {node.start_mark.line + 1}"


def _value(loader: _Loader, node: yaml.Node, hint: Any) -> Any:
    members = members_of(hint)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node, members)
    if node.tag not in (_CORE + "map", _CORE + "seq"):
        raise yaml.YAMLError(f"the tag {show_key(node.tag)!r} is not known{_line(node)}")
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, _item(members)) for item in node.value]
    assert isinstance(node, yaml.MappingNode)
    loader.flatten_mapping(node)
    keys = {}
    for name, item in node.value:
        key = _scalar(loader, name, (Any,)) if isinstance(name, yaml.ScalarNode) else None
        if key is None:
            raise yaml.YAMLError(f"a key is neither text nor a number{_line(name)}")
        keys[key] = _value(loader, item, _keys(members).get(key, Any))
    return keys


def _scalar(loader: _Loader, node: yaml.ScalarNode, members: Sequence[Any]) -> Any:
    null = node.tag == _CORE + "null" and (node.value.lower() != "null" or type(None) in members)
    if node.tag.startswith(_CORE) and node.tag[len(_CORE) :] in TEXT_LIKE and not null:
        if _takes_text(members):
            return node.value
        if any(map(_is_list, members)) and _takes_text(members_of(_item(members))):
            return [node.value]  # one word stands for a list of one
    try:
        return loader.construct_object(node)
    except ValueError as error:
        raise yaml.YAMLError(f"{str(error).partition(':')[0]}{_line(node)}") from None


def members_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    if get_origin(hint) is Annotated:
        return members_of(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for one in get_args(hint) for member in members_of(one))
    return (hint,)


def _takes_text(members: Sequence[Any]) -> bool:
    """Whether the only single values there are text and none."""
    single = [one for one in members if one is not type(None) and (get_origin(one) in (None, Literal))]
    single = [one for one in single if not is_dataclass(one)]
    return bool(single) and all(
        one is str or (get_origin(one) is Literal and all(isinstance(word, str) for word in get_args(one)))
        for one in single
    )


def _is_list(member: Any) -> bool:
    return get_origin(member) in (tuple, list)


def _item(members: Sequence[Any]) -> Any:
    """The type of a list's items; Any where there is no list."""
    return next((get_args(member)[0] for member in members if _is_list(member)), Any)


def _keys(members: Sequence[Any]) -> dict[Any, Any]:
    """The types of the keys of a section; empty where there is none, so that any key is taken."""
    section = next(filter(_is_section, members), None)
    return {} if section is None else hints_of(section)


def section_of(hint: Any) -> type | None:
    """The dataclass that a key takes; None for a key with a value of its own."""
    return next(filter(_is_section, members_of(hint)), None)


def _is_section(member: Any) -> bool:
    return isinstance(member, type) and is_dataclass(member)


@lru_cache
def hints_of(section: type) -> dict[str, Any]:
    """The types of a dataclass's keys, in their order."""
    return get_type_hints(section, include_extras=True)
