"""The names of all that Covey writes into a run directory; every removal goes through here, and leaves all else."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow.fs

from clustering.runs.object_store import RemotePath
from clustering.runs.storage import Location

LOCK = ".lock"
MANIFEST = "manifest.json"
PROGRESS = "progress.json"
PENDING = "pending"  # holds the files that users open until the whole run is done
STAGE_ARTEFACTS: dict[str, tuple[str, ...]] = {
    "read": ("records", "texts", "members", "source_vectors"),
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
FORMER_FOLDERS = ("given",)  # that earlier versions wrote; they are only removed
ARTEFACTS = (*STAGE_OF, *FORMER_FOLDERS, PROGRESS)
_PART = r"part-\d{6}\.parquet"
# The artefacts that are folders, each with the names of the files in it.
FOLDERS = {
    "records": r"part-\d{6}(-\d{6})?\.(arrow|npz|parquet)",  # the last of the version before
    **dict.fromkeys(("texts", "members", "source_vectors", "vectors", "neighbors", "coords", *FORMER_FOLDERS), _PART),
    "loaded": rf"{_PART}\.(begun|done)|filling|bulk\.json",
    "graph": r"(indptr|indices|data|radius)\.npy",
    "forest": rf"{_PART}|core\.npy|grain\.json",
}
TEMPORARY = ("records", "loaded")  # that their stage removes at its end
FILES = tuple(artefact for artefact in STAGE_OF if artefact not in FOLDERS)  # those that users open
_STORE = r"milvus\.db.*|server\.log|given-up"  # the embedded Milvus, with the journals of its database
_FINGERPRINT = r"[0-9a-f]{16}"  # a stage's fingerprint, under which its artefacts lie
_LOOSE = "|".join(map(re.escape, FILES))
_BELOW = "|".join(
    [*(rf"{folder}/(?:{_FINGERPRINT}/)?(?:{names})" for folder, names in FOLDERS.items()), f"store/(?:{_STORE})",
     f"{PENDING}/{_FINGERPRINT}/(?:{_LOOSE})"]
)  # fmt: skip
_TOP = "|".join(map(re.escape, (*FILES, LOCK, MANIFEST, PROGRESS)))
_OURS = re.compile(f"(?:{_BELOW}|{_TOP})")
_OUR_FOLDER = re.compile(f"(?:{'|'.join([*FOLDERS, PENDING])})(?:/{_FINGERPRINT})?|store")
_HALF = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")  # what ``storage.whole`` writes under until it is whole
# What file systems and desktops put into empty directories; none of it is touched.
_NO_CONTENT = re.compile(r"lost\+found|\.DS_Store|\.snapshot|\.nfs.*|\.gitkeep|\.gitignore|Thumbs\.db|desktop\.ini")
REMOVALS = 16  # that an object store is asked for at the same time


def is_written_by_covey(inner: str) -> bool:
    """Whether Covey writes a file of this name; ``inner`` is its path below the run directory, with slashes."""
    folder, _, name = inner.rpartition("/")
    half = _HALF.fullmatch(name)
    return bool(_OURS.fullmatch(f"{folder}/{half[1] if half else name}".lstrip("/")))


def is_half_written(name: str) -> bool:
    """Whether a file was being written when its process ended."""
    return bool(_HALF.fullmatch(name))


def artefact_path(artefact: str, fingerprint: str, swapped: bool) -> str:
    """Where an artefact lies below the run directory.

    fingerprint : its stage's fingerprint; "" for what the version before has made, which knew no such folders
    swapped : whether the files that users open have come to the top
    """
    if artefact in FOLDERS and fingerprint:
        return f"{artefact}/{fingerprint}"
    return artefact if swapped or not fingerprint else f"{PENDING}/{fingerprint}/{artefact}"


def visible_names(names: list[str]) -> list[str]:
    """The names in a directory without those that are there in an empty one."""
    return sorted(name for name in names if not _NO_CONTENT.fullmatch(name))


def remove_written(root: Location, inner: str) -> None:
    """Remove what Covey has written at a place of a run directory: a file, or the files of a folder.

    inner : below ``root``, with slashes; nothing need be there. What is not ours stays, and the folders that hold it;
        so does what lies behind a link to a folder, such as the artefacts of another run.
    """
    if isinstance(root, RemotePath):
        _discard_objects(root, inner)
        return
    if _behind_link(root, inner):
        return
    if not (root / inner).is_dir():
        if is_written_by_covey(inner):
            (root / inner).unlink(missing_ok=True)
    else:
        for folder, _, names in os.walk(root / inner, topdown=False):
            below = Path(folder).relative_to(root).as_posix()
            for name in names:
                if is_written_by_covey(f"{below}/{name}"):
                    Path(folder, name).unlink(missing_ok=True)
            _remove_empty(root, below)
    _remove_empty(root, inner.rpartition("/")[0])


def _behind_link(root: Path, inner: str) -> bool:
    """Whether a place is a link to a folder, or lies below one; ``root`` itself may be one."""
    folders = [root / inner, *(root / inner).parents]
    return any(folder.is_symlink() and folder.is_dir() for folder in folders[: folders.index(root)])


def _remove_empty(root: Path, below: str) -> None:
    if _OUR_FOLDER.fullmatch(below):
        with suppress(OSError):  # others' files lie in it, or it is a link
            (root / below).rmdir()


def _discard_objects(root: RemotePath, inner: str) -> None:
    top = root / inner
    selector = pyarrow.fs.FileSelector(top.inner, recursive=True, allow_not_found=True)
    listed = top.retry(lambda fs: fs.get_file_info(selector))
    files = [info.path[len(root.inner) + 1 :] for info in listed if info.type == pyarrow.fs.FileType.File]
    ours = [name for name in files if is_written_by_covey(name)]
    if len(ours) == len(files) and (files or is_written_by_covey(inner) or _OUR_FOLDER.fullmatch(inner)):
        top.remove()  # in a request for a thousand objects
        return
    with ThreadPoolExecutor(REMOVALS) as pool:
        list(pool.map(lambda name: (root / name).remove(), ours))


def remove_others(root: Location, kept: set[str]) -> None:
    """Remove artefacts of other starts than those that are kept, such as parts that a lost worker wrote late.

    kept : places as of ``place_in``
    """
    pending = {place.rpartition("/")[0] for place in kept if place.startswith(f"{PENDING}/")}
    for folder in (*FOLDERS, PENDING):
        for name in list_names(root / folder):
            inner = f"{folder}/{name}"
            if inner not in kept | pending and (folder not in kept or re.fullmatch(_FINGERPRINT, name)):
                remove_written(root, inner)


def remove_half_written(root: Path) -> None:
    """Remove what killed writers have left half written in a local run directory."""
    for folder in ("", *FOLDERS, PENDING):
        for name in list_names(root / folder):
            inner = f"{folder}/{name}".lstrip("/")
            if is_half_written(name):
                remove_written(root, inner)
            elif _OUR_FOLDER.fullmatch(inner) and folder:
                for half in filter(is_half_written, list_names(root / inner)):
                    remove_written(root, f"{inner}/{half}")


def list_names(folder: Location) -> list[str]:
    """The names directly in a folder; none where there is no folder."""
    if isinstance(folder, RemotePath):
        return [path.name for path in folder.glob("*")]
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
