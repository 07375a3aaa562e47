"""The text of manifest.json in; its checked content out. It is checked like input: anybody may have written it."""

from __future__ import annotations

import json
import re
from dataclasses import field, fields
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clustering.kernels.printable import one_line
from clustering.runs.inventory import FILES, STAGE_ARTEFACTS
from clustering.schema import Figures

Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]  # a stage's fingerprint
Folder = Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]  # of the folder of its artefacts; "": at the top
StageName = Annotated[str, Field(pattern=rf"^({'|'.join(STAGE_ARTEFACTS)})$")]
FileName = Annotated[str, Field(pattern=rf"^({'|'.join(map(re.escape, FILES))})$")]
_checked = ConfigDict(extra="forbid", strict=True)


@dataclass(config=_checked, kw_only=True)
class StageEntry:
    """A finished stage."""

    fingerprint: Fingerprint
    folder: Folder = ""
    started: float
    finished: float
    seconds: float
    figures: dict[str, Any]


@dataclass(config=_checked, kw_only=True)
class Results:
    """What users see of a run besides its artefacts."""

    stages: dict[StageName, StageEntry]
    config: dict[str, Any] | None = None  # checked by ``config.build_config``
    origin: dict[str, Any] | None = None  # the configuration of covey run, where recluster has taken another
    versions: dict[str, str] | None = None
    seed: int | None = None
    machine: str | None = None
    plan: dict[StageName, dict[str, Any]] | None = None
    nodes: list[dict[str, float]] | None = None
    expected: dict[StageName, float] | None = None


@dataclass(config=_checked, kw_only=True)
class Manifest(Results):
    """The run at work, or the one that ended."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]  # part of a collection's description and of a folder's name
    begun: dict[StageName, Fingerprint] = field(default_factory=dict)
    dropped: Fingerprint | None = None  # of the store whose collection was dropped after the search
    loaded: Fingerprint | None = None  # of the store whose collection this run loaded and has to release
    collection: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")] | None = None
    swapped: dict[StageName, Folder] = field(default_factory=dict)  # stages whose files for users are at the top
    swapping: dict[FileName, Folder] = field(default_factory=dict)  # files that are moving there; "": to be removed
    previous: Results | None = None  # the last complete run, while another start is at work
    owner: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None  # fencing token of the lease's holder


KEYS = frozenset(key.name for key in fields(Manifest))
_MANIFEST = TypeAdapter(Manifest)


def parse_manifest(text: str) -> dict[str, Any]:
    """The manifest as plain JSON. Raises: ValueError that names the first wrong entry."""
    try:
        _MANIFEST.validate_json(text)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part) for part in detail["loc"] if "[" not in str(part))
        shown = repr(detail["input"])[:60]
        raise ValueError(f"{key or 'it'}: {detail['msg'][0].lower()}{detail['msg'][1:]}, got {shown}") from None
    return dict(json.loads(text))


def format_figures(figures: Figures) -> str:
    """A stage's figures for the log: single numbers and words, bytes in MiB."""
    plain = {key: value for key, value in figures.items() if isinstance(value, (int, float, str))}
    return " ".join(f"{key}={_short(key, value)}" for key, value in plain.items() if not isinstance(value, bool))


# What a line of the log says of a finished stage, by its figures.
SUMMARIES = {
    "read": "{records:,} records, {texts:,} texts",
    "embed": "{vectors:,} vectors of {dim} dimensions",
    "store": "{rows:,} rows, index {index}",
    "search": "{k} neighbors of each text",
    "graph": "{edges:,} edges",
    "forest": "{merged_edges:,} merges",
    "cluster": "{count:,} clusters, {noise_share:.1%} noise",
    "describe": "{clusters:,} clusters named",
    "project": "{laid_out:,} texts laid out",
    "plot": "{drawn:,} points",
    "report": "{records:,} records",
}


def finished_line(stage: str, figures: Figures, seconds: float, in_full: bool) -> str:
    """A line for the log about a finished stage: what it did in words, or all its figures."""
    if in_full:
        return f"{stage}: {format_figures(figures)} seconds={seconds:.1f}"
    try:
        did = SUMMARIES.get(stage, "").format_map(figures)
    except (KeyError, ValueError, TypeError):  # a stage that had nothing to do
        did = ""
    return f"{stage:<8} {seconds:6.1f} s  {did}".rstrip()


def _short(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{value / 2**20:.0f}MiB"
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value), 120)
