"""Where numba keeps what it has compiled, for users whose home and whose packages cannot be written."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def set_cache_folders() -> None:
    """Name a private temporary folder to numba where it finds no other: it raises when a kernel is imported else.

    Matplotlib's folder goes the same way; it would make a new one in each process and read all fonts again.
    """
    home = os.path.expanduser("~")
    caches = _user_cache(home)
    numba = importlib.util.find_spec("numba")
    here = Path(__file__).parent
    packages = [here, here / "graph", here / "hierarchy"]
    packages += [Path(numba.origin).parent] if numba and numba.origin else []
    places = [all(_can_hold(package / "__pycache__") for package in packages), _can_hold(caches / "numba")]
    given = os.environ.get(VARIABLE)
    if not (given and _can_hold(Path(given).absolute())) and not any(places):
        os.environ[VARIABLE] = str(private_folder() / "numba")
        if "numba" in sys.modules:  # it has read its settings
            sys.modules["numba"].config.CACHE_DIR = os.environ[VARIABLE]
    if not os.environ.get("MPLCONFIGDIR") and not (_can_hold(caches) and _can_hold(Path(home) / ".config")):
        os.environ["MPLCONFIGDIR"] = str(private_folder() / "matplotlib")


def cache_folder() -> Path:
    """Where numba keeps what it compiles of these kernels."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).absolute()
    beside = Path(__file__).parent / "__pycache__"
    return beside if _can_hold(beside) else _user_cache(os.path.expanduser("~")) / "numba"


def _user_cache(home: str) -> Path:
    if sys.platform == "darwin":
        return Path(home) / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home) / ".cache")


def _can_hold(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    if not folder.is_absolute():  # a user without a home is "~"
        return False
    there = next(above for above in (folder, *folder.parents) if os.path.lexists(above))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def private_folder() -> Path:
    """covey-UID in the temporary directory; where that is somebody else's, one that goes with the process.

    What lies there is run as code.
    """
    ours = Path(tempfile.gettempdir()) / f"covey-{os.getuid()}"
    try:
        if make_private(ours):
            return ours
    except OSError:
        pass
    own = tempfile.mkdtemp(prefix="covey-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return Path(own)


def make_private(folder: Path) -> bool:
    """Whether a folder, made where there is none, is one that only this user can enter.

    One of this user's own that others could enter, but not write to, is closed to them.
    Raises: OSError where it can neither be made nor looked at.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return False
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return True
