"""Words of a command line in; the configuration that they mean out, also of files alone."""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from clustering.cli.roles import SETTINGS, find_roles
from clustering.config.loading import load_config
from clustering.config.sections import SECTIONS, RunConfig
from clustering.errors import ConfigError
from clustering.kernels.printable import hide_credentials
from clustering.runs.directory import RunDir
from clustering.sources.files import COMPRESSIONS

log = logging.getLogger("covey")
READY = "laptop"  # the configuration of files for which none is named
HEADER_WORDS = 3  # of a column's name at most; more may be a text
RUNS = "runs"  # the folder of their runs
SETTING = re.compile(rf"[^/=]*=|(?:{'|'.join(SECTIONS)})\.\w+$")


def build_from_words(config: str | None, words: Sequence[str], needs_input: bool = True) -> RunConfig:
    """The configuration of a file with overrides; of input files alone, the laptop's with the columns that they have.

    config : a YAML file or the name of a ready configuration; words : input files, and settings as section.key=value.
        Without a configuration, the columns are found by name and content, and said; and the run lies in ``runs``,
        under the name of the first file.
    needs_input : False for a command that reads no texts
    Raises: ConfigError with every problem; also where both files and read.paths= or read.collection= are given.
    """
    files = [word for word in words if os.path.lexists(word) or not SETTING.match(word)]
    settings = [word for word in words if word not in files]
    inputs = ("read.paths", "read.collection")
    if files:
        if other := next((word.partition("=")[0] for word in settings if word.startswith(inputs)), ""):
            problem = (
                f"{hide_credentials(files[0])} and {other}= both say what to cluster; name all files as words of "
                f"their own (covey run a.csv b.csv), or leave them out beside {other}="
            )
            raise ConfigError([problem])
        settings.insert(0, f"read.paths={json.dumps(files)}")
    if config is not None:
        return load_config(config, settings)
    said = {word.partition("=")[0] for word in settings}
    if not any(name.startswith(inputs) for name in said):
        if not needs_input:
            return load_config(READY, settings)
        problem = "nothing to cluster is named; name a file (covey run news.csv), or a configuration (--config NAME)"
        raise ConfigError([problem])
    if not any(name.startswith(inputs[1]) for name in said):
        settings = [*_found_columns(settings, said), *settings]
    if "run.dir" not in said:
        settings.append(f"run.dir={_free_dir(load_config(READY, settings))}")
    return load_config(READY, settings)


def _found_columns(settings: list[str], said: set[str]) -> list[str]:
    """Settings that name the columns of an input, apart from those that other settings name."""
    untimed = [word for word in settings if not word.startswith("cluster.time_scale=")]  # it needs the column of times
    read = load_config(READY, untimed).read
    given = {role: getattr(read, key) for role, key in SETTINGS.items() if f"read.{key}" in said}
    texts = given.get("text", ())
    if texts:
        given["text"] = texts[0]
    roles = find_roles(read, {role: column for role, column in given.items() if column})
    shown = roles
    if len(texts) > 1:
        keep, left = (tuple(name for name in names if name not in texts) for names in (roles.keep, roles.left))
        shown = replace(roles, text=", ".join(texts), keep=keep, left=left)
    log.info("columns: %s", shown)
    if len(roles.text.split()) > HEADER_WORDS and read.csv.header == "first":
        log.warning(
            "the text column's name is %r; is that a record? Then read.csv.header=none says so", roles.text[:80]
        )
    found = {"id_column": "null", **roles.as_settings()}
    return [
        f"read.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in found.items()
        if f"read.{key}" not in said
    ]


def _free_dir(config: RunConfig) -> str:
    """A folder for a run of some inputs: under the name of the first, with a number where another input's run lies."""
    paths = config.read.paths or (config.collection,)
    base = posixpath.basename(paths[0].partition("?")[0].rstrip("/"))
    words = base.split(".")
    if len(words) > 1 and words[-1].lower() in COMPRESSIONS:
        words.pop()
    stem = re.sub(r"[^\w.-]+", "_", ".".join(words[:-1] or words)).strip("._") or "covey"
    number = 1
    while True:
        name = f"{RUNS}/{stem}" if number == 1 else f"{RUNS}/{stem}-{number}"
        saved = RunDir(name).results.get("config") or {}
        if _same_inputs(saved.get("read", {}).get("paths") or [], paths) or not saved:
            return name
        number += 1


def _same_inputs(saved: Iterable[str], paths: Iterable[str]) -> bool:
    return [os.path.abspath(path) for path in saved] == [os.path.abspath(path) for path in paths]
