"""Thousands of wrong values for every key: each ends in a ConfigError that names the key, or is a configuration."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from clustering.config.loading import build_config, load_config
from clustering.config.sections import RunConfig
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir

SEED = 15
LOOP: list[Any] = []
LOOP.append(LOOP)
RING: dict[str, Any] = {}
RING["ring"] = {"ring": RING}
VALUES = [
    None, True, False, 0, 1, -1, 2, 3.5, -0.0, 12.0, 1e308, float("inf"), float("-inf"), float("nan"), 2**31, 2**32,
    2**63, -(2**63) - 1, 10**400, "", " ", "~", "no", "1", "007", "none", "null", "-1", "1e3", "0x10", "a: b", "[x",
    "{x", "#", " #2", "'", "\"", "\\", "\n", "\t", "\0", "\x1b[31m", "\ud800", "a\udcffb", "\U0001f600", "é",
    "\u202eabc", "x" * 5000, "http://[::1", "http://", "http://:1", "http://h:99999", "http://h:x", "://", "s3://", "s3://[",
    "file://", "gs://b/[", "unknown://x", "../..", "/", ".", "~root", "~nobody-known", "%s%n", "{0.__class__}",
    "${HOME}", "$(id)", "`id`", "@", "a@b", "http://u:p@h", [], {}, [[]], [None], [True], [1, 2], ["a", "a"], [""],
    ["\0"], ["http://[::1"], [{}], ("a", 1), {"a": 1}, {"a": {"a": {}}}, {1: 2}, {None: 1}, {(1, 2): 3}, {"": ""},
    {"\ud800": 1}, {"x" * 5000: 1}, LOOP, RING, b"bytes", 1j, object(), range(3), {"a", "b"}, Path("x"), RunConfig,
]  # fmt: skip
TEXTS = [
    "", " ", "~", "null", "no", "yes", "on", "1", "007", "010", "0b_", "0x_", "0o9", "1_000", "1:30", "1:2:3",
    "2024-13-45", "2024-01-01", "2024-01-01T00:00:00Z", ".inf", "-.inf", ".nan", "1e400", "1e3", "9" * 5000, "-" * 50,
    "true", "True", "a: b", "a: b: c", "[x", "x]", "[x, 1, no]", "[a #b]", "[]", "{}", "{a}", "{a: b}",
    "{a: {a: {a: 1}}}", "{1: 2}", "{~: 1}", "{[1]: 2}", "{a: 1, a: 2}", "&x [*x]", "&x {y: *x}", "*x", "{<<: 5}",
    "{<<: {a: 1}, a: 2}", "!!int x", "!!python/object/apply:os.system [id]", "!!python/name:os.system", "!!set {a}",
    "!!timestamp x", "!!binary x", "!x y", "!", "!!str", "? x", "- a", "-", "#", "x #2", "'", "\"", "\"\\ud800\"",
    "\"\\0\"", "'a''b'", "|", ">", "%", "@", "`", "\t1", "1\t", "=", "a=b", "==", "[" * 500, "[" * 30 + "]" * 30,
    "{a: " * 300, "http://[::1", "http://h:0", "[http://[::1]", "u:p@h", "\U0001f600", "\u2028", "é", "\udcff",
]  # fmt: skip
NEEDED = {  # keys without which the section is not whole
    "read.collection": {"uri": "http://h:19530", "name": "n", "text_field": "t"},
    "describe.titles": {"url": "http://h", "model": "m"},
}
MESSAGE = 4000  # characters that a message takes at most


def keys(shape: type = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every key with a value of its own, and those that hold keys."""
    hints = get_type_hints(shape)
    for one in fields(shape):
        within = [part for part in (hints[one.name], *get_args(hints[one.name])) if is_dataclass(part)]
        if prefix:
            yield prefix + one.name
        for part in within:
            assert isinstance(part, type)
            yield from keys(part, f"{prefix}{one.name}.")


def cases(count: int) -> list[tuple[str, str, Any]]:
    """(key, way in, value), as many of each key and of each way; the same ones at any time."""
    chance = random.Random(SEED)
    every = [*sorted(keys()), "read", "search", "nosuch", "read.nosuch", "store.params.nlist", "search.params.ef"]
    ways = ["value", "word", "file"]
    found = []
    for number in range(count):
        way = ways[number // len(every) % 3]
        value = chance.choice(VALUES if way == "value" else TEXTS)
        found.append((every[number % len(every)], way, value))
    return found


def built(key: str, way: str, value: Any, folder: Path) -> RunConfig:
    *names, last = key.split(".")
    beside = {
        f"{place}.{name}": fine
        for place, needed in NEEDED.items()
        for name, fine in needed.items()
        if key.startswith(f"{place}.") and key != f"{place}.{name}"
    }
    if way == "word":
        return load_config(None, [*(f"{name}={fine}" for name, fine in beside.items()), f"{key}={value}"])
    if way == "file":
        lines = []
        for level, name in enumerate(names):
            depth, place = "  " * level, ".".join(names[: level + 1])
            lines.append(f"{depth}{name}:")
            lines += [f"{depth}  {one}: {fine}" for one, fine in NEEDED.get(place, {}).items() if one != last]
        path = folder / "run.yaml"
        path.write_text("\n".join([*lines, f"{'  ' * len(names)}{last}: {value}"]), "utf-8", "surrogateescape")
        return load_config(path)
    value = {last: value}
    while names:
        value = {names[-1]: {**NEEDED.get(".".join(names), {}), **value}}
        names.pop()
    return build_config(value)


def outcome(key: str, way: str, value: Any, folder: Path) -> str:
    """What is wrong with what becomes of a value; nothing where all is well."""
    began = time.process_time()
    try:
        config = built(key, way, value, folder)
        saved = json.dumps(config.as_dict(), allow_nan=False).encode()
        if build_config(json.loads(saved)) != config:
            return "is not the same when it is saved and loaded"
        assert config.collection.isidentifier()
        RunDir(config.run.dir)
    except ConfigError as error:
        text = "\n".join(error.problems)
        around, _, last = key.rpartition(".")
        named = key in text or f"{around} lacks {last};" in text or "is not an override" in text
        if not named and not (way == "file" and "run.yaml is not valid YAML: " in text):
            return f"names no key: {text[:300]!r}"
        if len(text) > MESSAGE or not text.encode():
            return f"is told in {len(text)} characters"
    except Exception as error:
        return f"ends in {type(error).__name__}: {str(error)[:200]!r}"
    spent = time.process_time() - began
    return f"takes {spent:.1f} s" if spent > 5 else ""


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.full)])
def test_no_value_of_any_key_ends_in_a_traceback(count: int, tmp_path: Path) -> None:
    wrong = [
        f"{key} ({way}) {value!r:.60}: {said}"
        for key, way, value in cases(count)
        if (said := outcome(key, way, value, tmp_path))
    ]
    assert not wrong, "\n".join([f"{len(wrong)} of {count}", *wrong[:40]])


@pytest.mark.parametrize("key", ["embed.encoder", "embed.model", "store.server.ca_file", "store.bulk_path"])
def test_a_path_of_any_shape_is_taken_or_refused(key: str, tmp_path: Path) -> None:
    """The paths that are looked at while the configuration is checked; no home, a name that is too long."""
    shapes = [value for value in VALUES if isinstance(value, str)]
    assert {"~nobody-known", "x" * 5000} <= {*shapes}
    assert not [f"{value!r:.60}: {said}" for value in shapes if (said := outcome(key, "value", value, tmp_path))]


def test_every_key_and_every_value_has_its_turn() -> None:
    tried = cases(3000)
    assert {key for key, _, _ in tried} >= set(keys())
    assert len({key for key, _, _ in tried}) > 70
    assert len({repr(value) for _, way, value in tried if way == "value"}) == len({repr(value) for value in VALUES})
