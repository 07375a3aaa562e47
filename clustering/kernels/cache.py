"""The environment in, a folder for compiled kernels out, even where home and packages cannot be written to."""

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

CACHE_VARIABLE = "NUMBA_CACHE_DIR"


def set_cache_folders() -> None:
    """Give numba a private temporary folder where it would find none; without one, importing a kernel raises.

    Matplotlib gets one too: else it would make a new folder in each process and read all fonts again.
    """
    home = os.path.expanduser("~")
    user_cache = _user_cache(home)
    numba = importlib.util.find_spec("numba")
    here = Path(__file__).parent
    packages = [here, here / "graph", here / "hierarchy", here / "words"]
    packages += [Path(numba.origin).parent] if numba and numba.origin else []
    writable = [all(_is_writable(package / "__pycache__") for package in packages), _is_writable(user_cache / "numba")]
    configured = os.environ.get(CACHE_VARIABLE)
    if not (configured and _is_writable(Path(configured).absolute())) and not any(writable):
        os.environ[CACHE_VARIABLE] = str(private_folder() / "numba")
        if "numba" in sys.modules:  # it has read its settings already
            sys.modules["numba"].config.CACHE_DIR = os.environ[CACHE_VARIABLE]
    if not os.environ.get("MPLCONFIGDIR") and not (_is_writable(user_cache) and _is_writable(Path(home) / ".config")):
        os.environ["MPLCONFIGDIR"] = str(private_folder() / "matplotlib")


def cache_folder() -> Path:
    """The folder where numba keeps the compiled form of these kernels."""
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured).absolute()
    beside = Path(__file__).parent / "__pycache__"
    return beside if _is_writable(beside) else _user_cache(os.path.expanduser("~")) / "numba"


def _user_cache(home: str) -> Path:
    if sys.platform == "darwin":
        return Path(home) / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home) / ".cache")


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be written to, or created."""
    if not folder.is_absolute():  # a user without a home is "~"
        return False
    existing = next(above for above in (folder, *folder.parents) if os.path.lexists(above))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def private_folder() -> Path:
    """covey-UID in the temporary directory, or a folder for this process alone where that belongs to somebody else.

    The folder must be private: its files are run as code.
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
    """Create a folder if it is missing; return whether only this user can enter it.

    A folder of this user that others can enter, but not write to, is closed to them.
    Raises: OSError if it can neither be created nor inspected.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        return False
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    return True
