"""The names of all that Covey writes into a run directory; every removal goes through here, and leaves all else."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow.fs

from clustering.storage import Place, RemotePath

LOCK = ".lock"
MANIFEST = "manifest.json"
PROGRESS = "progress.json"
STAGE_ARTEFACTS: dict[str, tuple[str, ...]] = {
    "read": ("records", "texts", "members", "given"),
    "embed": ("vectors",),
    "store": ("loaded",),
    "search": ("neighbors",),
    "graph": ("graph",),
    "forest": ("forest",),
    "cluster": ("assignment.parquet", "tree.parquet", "layers.json"),
    "describe": ("clusters.parquet",),
    "project": ("coords",),
    "plot": ("map.html", "map.png"),
    "report": ("labels.parquet", "report.json", "report.html"),
}
STAGE_OF = {artefact: stage for stage, artefacts in STAGE_ARTEFACTS.items() for artefact in artefacts}
ARTEFACTS = (*STAGE_OF, PROGRESS)
_PART = r"part-\d{6}\.parquet"
# The artefacts that are folders, each with the names of the files in it.
FOLDERS = {
    "records": r"part-\d{6}(-\d{6})?\.(parquet|npz)",
    **dict.fromkeys(("texts", "members", "given", "vectors", "neighbors", "coords"), _PART),
    "loaded": rf"{_PART}\.(begun|done)|filling|bulk\.json",
    "graph": r"(indptr|indices|data|radius)\.npy",
    "forest": rf"{_PART}|core\.npy|grain\.json",
}
FILES = tuple(artefact for artefact in STAGE_OF if artefact not in FOLDERS)  # those that users open
_STORE = r"milvus\.db.*|server\.log"  # the embedded Milvus, with the journals of its database
_BELOW = "|".join([*(f"{folder}/(?:{names})" for folder, names in FOLDERS.items()), f"store/(?:{_STORE})"])
_TOP = "|".join(map(re.escape, (*FILES, LOCK, MANIFEST, PROGRESS)))
_OURS = re.compile(f"(?:{_BELOW}|{_TOP})")
_OUR_FOLDER = re.compile("|".join([*FOLDERS, "store"]))
_HALF = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")  # what ``storage.whole`` writes under until it is whole
# What file systems and desktops put into empty directories; none of it is touched.
_NO_CONTENT = re.compile(r"lost\+found|\.DS_Store|\.snapshot|\.nfs.*|\.gitkeep|\.gitignore|Thumbs\.db|desktop\.ini")
REMOVALS = 16  # that an object store is asked for at the same time


def is_ours(inner: str) -> bool:
    """Whether Covey writes a file of this name; ``inner`` is its path below the run directory, with slashes."""
    folder, _, name = inner.rpartition("/")
    half = _HALF.fullmatch(name)
    return bool(_OURS.fullmatch(f"{folder}/{half[1] if half else name}".lstrip("/")))


def is_half_written(name: str) -> bool:
    """Whether a file was being written when its process ended."""
    return bool(_HALF.fullmatch(name))


def contents(names: list[str]) -> list[str]:
    """The names in a directory without those that are there in an empty one."""
    return sorted(name for name in names if not _NO_CONTENT.fullmatch(name))


def discard(root: Place, inner: str) -> None:
    """Remove what Covey has written at a place of a run directory: a file, or the files of a folder.

    inner : below ``root``, with slashes; nothing need be there. What is not ours stays, and the folders that hold it.
    """
    if isinstance(root, RemotePath):
        _discard_objects(root, inner)
    elif not (root / inner).is_dir():
        if is_ours(inner):
            (root / inner).unlink(missing_ok=True)
    else:
        for folder, _, names in os.walk(root / inner, topdown=False):
            below = Path(folder).relative_to(root).as_posix()
            for name in names:
                if is_ours(f"{below}/{name}"):
                    Path(folder, name).unlink(missing_ok=True)
            if _OUR_FOLDER.fullmatch(below):
                with suppress(OSError):  # others' files lie in it
                    os.rmdir(folder)


def _discard_objects(root: RemotePath, inner: str) -> None:
    top = root / inner
    selector = pyarrow.fs.FileSelector(top.inner, recursive=True, allow_not_found=True)
    listed = top.again(lambda fs: fs.get_file_info(selector))
    files = [info.path[len(root.inner) + 1 :] for info in listed if info.type == pyarrow.fs.FileType.File]
    ours = [name for name in files if is_ours(name)]
    if len(ours) == len(files) and (files or is_ours(inner) or _OUR_FOLDER.fullmatch(inner)):
        top.remove()  # in a request for a thousand objects
        return
    with ThreadPoolExecutor(REMOVALS) as pool:
        list(pool.map(lambda name: (root / name).remove(), ours))


def sweep(root: Path) -> None:
    """Remove what killed writers have left half written in a local run directory."""
    for folder in ("", *FOLDERS):
        names = os.listdir(root / folder) if (root / folder).is_dir() else []
        for name in filter(is_half_written, names):
            discard(root, f"{folder}/{name}".lstrip("/"))
