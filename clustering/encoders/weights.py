"""The section ``embed`` in; what decides an encoder's vectors out: packages, weights, the commit of a model."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clustering.config.sections import ENCODERS, TORCH_PACKAGES, EmbedSection, EncoderPackages

BGE_M3 = "BAAI/bge-m3"
UNKNOWN = "unknown"  # in a manifest: a commit that could not be found out
HUB_TIMEOUT_S = 5


def hub_name(cfg: EmbedSection) -> str | None:
    """The name on the hub of the model that is loaded; None where the weights lie in a folder or a package."""
    if _packages(cfg).weights:
        return None
    name = model_location(cfg)
    return None if Path(name).is_dir() else name


def model_location(cfg: EmbedSection) -> str:
    """The folder or the name of the model whose weights are loaded; ~ is this user's home, as in ``run.dir``."""
    return os.path.expanduser(cfg.model or (BGE_M3 if cfg.encoder == "bge-m3" else cfg.encoder))


def encoder_fingerprint(cfg: EmbedSection, commit: str | None = None) -> dict[str, Any]:
    """What the vectors of an encoder depend on, ready for JSON: the encoder's share of a run's fingerprint.

    commit : of a model of the hub, see ``resolve_commit``
    """
    (libraries, packages), name = _packages(cfg), hub_name(cfg)
    kind = cfg.encoder if packages else "torch"
    if name is not None:
        weights: dict[str, Any] = {"name": name, "commit": commit}
    elif packages and not cfg.model:
        weights = {package: _version(package) for package in packages}
    else:
        weights = _folder_fingerprint(model_location(cfg))
    versions = {library: _version(library, 2) for library in libraries}
    of_auto = "auto" if cfg.gpus_per_actor else "float32"
    dtype = {} if packages else {"dtype": of_auto if cfg.dtype == "auto" else cfg.dtype}
    return {"kind": kind, **dtype, **versions, **weights, "max_tokens": cfg.max_tokens}


def _packages(cfg: EmbedSection) -> EncoderPackages:
    return ENCODERS.get(cfg.encoder, TORCH_PACKAGES)


def _version(package: str, numbers: int | None = None) -> str | None:
    try:
        return ".".join(importlib.metadata.version(package).split(".")[:numbers])
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder_fingerprint(model: str) -> dict[str, Any]:
    """Names, sizes and times of the files of a local model. Other weights in the same folder change them.

    The folder's own name does not count, nor do Markdown files and hidden ones, which download tools write.
    """
    root, files = Path(model), []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.suffix != ".md":
            state = path.stat()
            files.append([name.as_posix(), state.st_size, state.st_mtime_ns])
    return {"files": files}


def resolve_commit(name: str, known: str | None = None) -> str | None:
    """The commit of a model of the hub: that of this machine's cache, else the known one, else the hub's latest.

    While the cache stays the same, so does the commit, whether or not the hub answers. All workers load this commit.
    known : the commit that an earlier start found, UNKNOWN where it found none, see ``recorded_commit``
    Returns: None where it cannot be found out, for example without the packages or the network.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return None
    names = [name] if "/" in name else [name, f"sentence-transformers/{name}"]  # as sentence-transformers looks it up
    for one in names:
        reference = Path(HF_HUB_CACHE) / f"models--{one.replace('/', '--')}" / "refs" / "main"
        if reference.is_file():
            return reference.read_text(encoding="utf-8").strip()
    if known is not None:
        return known if known != UNKNOWN else None
    try:
        return HfApi().model_info(names[-1], timeout=HUB_TIMEOUT_S).sha
    except Exception:  # the hub's client raises errors of many kinds when the hub is out of reach
        return None


def recorded_commit(name: str, *versions: Mapping[str, str] | None) -> str | None:
    """The commit of a model (or UNKNOWN) by the first entry ``versions`` of a manifest that has one; else None."""
    found = [entry[name] for entry in versions if entry and name in entry]
    return next((one for one in found if one == UNKNOWN or re.fullmatch("[0-9a-f]{40}", one)), None)
