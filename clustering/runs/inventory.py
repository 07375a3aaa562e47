"""Names in a run directory in; whether Covey writes them out, and the removal of those files and no others."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow.fs

from clustering.runs.object_store import RemotePath
from clustering.runs.storage import Location, is_folder, move

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
    "describe": ("layers.parquet", "titles.jsonl"),
    "project": ("coords",),
    "plot": ("map.html", "map.png", "map.svg", "tree.png"),
    "report": (
        "labels.parquet",
        "clusters.parquet",
        "clusters.csv",
        "families.parquet",
        "report.json",
        "report.html",
        "report.md",
    ),
}
# The stages after the search, in their order, each with those whose artefacts it reads.
READS: dict[str, tuple[str, ...]] = {
    "graph": ("search",),
    "forest": ("graph",),
    "cluster": ("graph", "forest"),
    "describe": ("cluster",),
    "project": ("search",),
    "plot": ("describe", "project"),
    "report": ("plot",),
}
STAGE_OF = {artefact: stage for stage, artefacts in STAGE_ARTEFACTS.items() for artefact in artefacts}
FORMER_FOLDERS = ("given",)  # written by earlier versions; Covey only removes them
ARTEFACTS = (*STAGE_OF, *FORMER_FOLDERS, PROGRESS)
_INDEX = r"_parts\.json"
_PART, _BLOCK = r"part-\d{6}\.parquet", r"block-\d{5}"
_LISTED = ("texts", "members", "source_vectors", "vectors", "neighbors", "coords", *FORMER_FOLDERS)
# The artefacts that are folders, each with the names of the files in it.
FOLDERS = {
    "records": r"part-\d{6}(-\d{6})?(-families)?\.(arrow|npz|parquet)",  # parquet: of an earlier version
    **dict.fromkeys(_LISTED, f"{_PART}|{_INDEX}"),
    "texts": rf"{_PART}|{_INDEX}|_outlets\.npy",
    "vectors": rf"{_PART}|{_INDEX}|_terms\.npy",
    "loaded": rf"{_INDEX}|bulk\.json|{_PART}\.(begun|done)|filling",  # the last ones: of an earlier version
    # An earlier version wrote the arrays of the whole graph, without a folder for each block.
    "graph": rf"(?:{_BLOCK}/)?(rows|(list_)?(indptr|indices)|data|list_distances|radius|keys|copies)\.npy|blocks\.json",
    "forest": rf"{_PART}|core\.npy|grain\.json",
}
TEMPORARY = ("records", "loaded")  # their stage removes them at its end
FILES = tuple(artefact for artefact in STAGE_OF if artefact not in FOLDERS)  # users open these
LABELS = "labels.parquet"  # beyond a number of records, a folder of parts
_SPLIT = re.escape(LABELS)
_STORE = r"milvus\.db.*|server\.log|given-up"  # the embedded Milvus and its database's journals
_FINGERPRINT = r"[0-9a-f]{16}"  # a stage's fingerprint, under which its artefacts lie
_LOOSE = "|".join(map(re.escape, FILES))
_BELOW = "|".join(
    [*(rf"{folder}/(?:{_FINGERPRINT}/)?(?:{names})" for folder, names in FOLDERS.items()), f"store/(?:{_STORE})",
     f"{PENDING}/{_FINGERPRINT}/(?:{_LOOSE}|{_SPLIT}/{_PART})", f"{_SPLIT}/{_PART}"]
)  # fmt: skip
_TOP = "|".join(map(re.escape, (*FILES, LOCK, MANIFEST, PROGRESS)))
_OURS = re.compile(f"(?:{_BELOW}|{_TOP})")
_OUR_FOLDER = re.compile(
    f"(?:{'|'.join([*FOLDERS, PENDING])})(?:/{_FINGERPRINT})?|graph/(?:{_FINGERPRINT}/)?{_BLOCK}|"
    f"(?:{PENDING}/{_FINGERPRINT}/)?{_SPLIT}|store"
)
_HALF = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")  # ``storage.atomic_write`` writes to such a name first
# What file systems and desktops put into empty directories; none of it is touched.
_NO_CONTENT = re.compile(r"lost\+found|\.DS_Store|\.snapshot|\.nfs.*|\.gitkeep|\.gitignore|Thumbs\.db|desktop\.ini")
REMOVALS = 16  # concurrent requests to an object store


def is_written_by_covey(inner: str) -> bool:
    """Whether Covey writes a file of this name; ``inner`` is its path below the run directory, with slashes."""
    folder, _, name = inner.rpartition("/")
    half = _HALF.fullmatch(name)
    return bool(_OURS.fullmatch(f"{folder}/{half[1] if half else name}".lstrip("/")))


def is_half_written(name: str) -> bool:
    """Whether a file of this name is a temporary one, left by a process that ended while writing."""
    return bool(_HALF.fullmatch(name))


def artefact_path(artefact: str, fingerprint: str, swapped: bool) -> str:
    """The path of an artefact below the run directory.

    fingerprint : of its stage; "" for an artefact of an earlier version, which had no such folders
    swapped : whether the files that users open have moved to the top
    """
    if artefact in FOLDERS and fingerprint:
        return f"{artefact}/{fingerprint}"
    return artefact if swapped or not fingerprint else f"{PENDING}/{fingerprint}/{artefact}"


def swap_in(root: Location, waiting: Location, artefact: str) -> None:
    """Replace an artefact that users open with the one that waits; a file in one step."""
    if artefact == LABELS and (is_folder(waiting) or is_folder(root / artefact)):
        remove_written(root, artefact)  # a folder takes no place that is not free
    move(waiting, root / artefact)


def visible_names(names: list[str]) -> list[str]:
    """The names in a directory, without those that file systems and desktops put into empty ones."""
    return sorted(name for name in names if not _NO_CONTENT.fullmatch(name))


def remove_written(root: Location, inner: str) -> None:
    """Remove a file that Covey has written, or such files in a folder.

    inner : path below ``root``, with slashes; it need not exist. Other files stay, with the folders that hold them, and
        so does everything behind a link to a folder, such as the artefacts of another run.
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
    """Whether a path is a link to a folder, or lies below one; ``root`` itself may be a link."""
    folders = [root / inner, *(root / inner).parents]
    return any(folder.is_symlink() and folder.is_dir() for folder in folders[: folders.index(root)])


def _remove_empty(root: Path, below: str) -> None:
    if _OUR_FOLDER.fullmatch(below):
        with suppress(OSError):  # it holds other files, or is a link
            (root / below).rmdir()


def _discard_objects(root: RemotePath, inner: str) -> None:
    top = root / inner
    selector = pyarrow.fs.FileSelector(top.inner, recursive=True, allow_not_found=True)
    listed = top.retry(lambda fs: fs.get_file_info(selector))
    files = [info.path[len(root.inner) + 1 :] for info in listed if info.type == pyarrow.fs.FileType.File]
    written = [name for name in files if is_written_by_covey(name)]
    if len(written) == len(files) and (files or is_written_by_covey(inner) or _OUR_FOLDER.fullmatch(inner)):
        top.remove()  # one request for a thousand objects
        return
    with ThreadPoolExecutor(REMOVALS) as pool:
        list(pool.map(lambda name: (root / name).remove(), written))


def remove_others(root: Location, kept: set[str]) -> None:
    """Remove all artefacts except those that are kept, for instance parts that a lost worker wrote late.

    kept : paths as of ``artefact_path``
    """
    pending = {path.rpartition("/")[0] for path in kept if path.startswith(f"{PENDING}/")}
    for folder in (*FOLDERS, PENDING):
        for name in list_names(root / folder):
            inner = f"{folder}/{name}"
            if inner not in kept | pending and (folder not in kept or re.fullmatch(_FINGERPRINT, name)):
                remove_written(root, inner)


def remove_half_written(root: Path) -> None:
    """Remove temporary files that killed processes left in a local run directory."""
    folders = ["", *FOLDERS, PENDING]
    while folders:
        folder = folders.pop()
        for name in list_names(root / folder):
            inner = f"{folder}/{name}".lstrip("/")
            if is_half_written(name):
                remove_written(root, inner)
            elif folder and _OUR_FOLDER.fullmatch(inner):
                folders.append(inner)


def list_names(folder: Location) -> list[str]:
    """The names directly in a folder; none when the folder does not exist."""
    if isinstance(folder, RemotePath):
        return [path.name for path in folder.glob("*")]
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
