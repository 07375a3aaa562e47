"""A path or URI in; a run's artefacts and finished stages out, which makes the run restartable."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from clustering.errors import ConfigError, StageError
from clustering.kernels.cache import make_private
from clustering.runs.inventory import (
    ARTEFACTS,
    FILES,
    LOCK,
    MANIFEST,
    PENDING,
    PROGRESS,
    STAGE_ARTEFACTS,
    STAGE_OF,
    TEMPORARY,
    artefact_path,
    is_half_written,
    is_written_by_covey,
    list_names,
    remove_half_written,
    remove_others,
    remove_written,
    swap_in,
    visible_names,
)  # fmt: skip
from clustering.runs.manifest import finished_line
from clustering.runs.manifest_file import ManifestFile
from clustering.runs.object_store import RemotePath
from clustering.runs.storage import REDO_HINT, Location, is_within, locate
from clustering.schema import Figures

log = logging.getLogger("covey")


class RunDir:
    """One run's directory, a local path or an s3:// or gs:// URI.

    ``run / name`` is the path of an artefact. A folder lies under the fingerprint of its stage, so a late write of a
    worker of an earlier start does not meet the files of a later one. The files that users open move to the top when
    the whole run is done. A stage is finished when the manifest says so, and the manifest is replaced in one step
    after the artefact is complete. A part gets its final name only when it is complete.
    """

    def __init__(
        self, path: str | Location, artefact_paths: dict[str, str] | None = None, patience_s: float | None = None
    ) -> None:
        """artefact_paths : of the driver, when it sends the directory to a worker
        patience_s : how long an object store that fails is retried
        """
        self.path = locate(path)
        if patience_s is not None and isinstance(self.path, RemotePath):
            self.path = replace(self.path, patience_s=patience_s)
        self.file = ManifestFile(self.path)
        self.fingerprints: dict[str, str] = {}  # of the stages of this process's own start
        self._known_paths = artefact_paths
        self._cached_paths: tuple[int, dict[str, str]] | None = None  # with the count of manifest changes

    def __reduce__(self) -> tuple[type, tuple[Location, dict[str, str]]]:
        return type(self), (self.path, self.artefact_paths)  # the lock stays with this process

    def __truediv__(self, name: str) -> Location:
        return self.path / self.artefact_paths.get(name, name) if name in STAGE_OF else self.path / name

    @property
    def artefact_paths(self) -> dict[str, str]:
        """The path of each artefact below the directory."""
        if self._known_paths is not None:
            return self._known_paths
        if not (known := self._cached_paths) or known[0] != self.file.changes or self.file.cached is None:
            known = self._cached_paths = self.file.changes, self._find_artefacts(self.manifest)
        return known[1]

    def _find_artefacts(self, manifest: Figures) -> dict[str, str]:
        """The paths of this process's start; without one, of what is finished, else of what was begun."""
        stages = manifest["stages"] if self.fingerprints else _results(manifest)["stages"]
        begun = {} if "previous" in manifest else manifest.get("begun", {})
        swapped, swapping = manifest.get("swapped", {}), manifest.get("swapping", {})
        found = {}
        for artefact, stage in STAGE_OF.items():
            fingerprint = self.fingerprints.get(stage)
            entry = stages.get(stage)
            if entry and fingerprint in (None, entry["fingerprint"]):
                fingerprint = entry.get("folder", "")
            elif fingerprint is None:
                fingerprint = begun.get(stage, "")
            found[artefact] = artefact_path(artefact, fingerprint, swapped.get(stage) == fingerprint)
            waiting = artefact_path(artefact, swapping.get(artefact, ""), False)
            if artefact in swapping and (self.path / waiting).exists():  # the process ended during the swap
                found[artefact] = waiting
        return found

    @property
    def is_complete(self) -> bool:
        """Whether there are results of a complete run; another start may be at work, or may have stopped early."""
        return "report" in self.results["stages"]

    @property
    def results(self) -> Figures:
        """The manifest's entries on what users see: of the last complete run, else of the one at work."""
        return _results(self.manifest)

    def local(self, name: str) -> Path:
        """A path on this machine, for what cannot lie in an object store; for such a run it is lost with the machine.

        Raises: ConfigError when another user owns the folder in the temporary directory and could read the texts'
            vectors or redirect what is written.
        """
        if isinstance(self.path, Path):
            return self.path / name
        private = Path(tempfile.gettempdir()) / f"covey-{os.getuid()}"
        if not make_private(private):
            status = private.lstat()
            problem = (
                f"{private} is not a folder that only this user can enter (owner {status.st_uid}, mode "
                f"{status.st_mode & 0o7777:o}), and the embedded store of {self.path} is to lie there. Remove it, "
                f"or set TMPDIR to a folder of your own"
            )
            raise ConfigError([problem])
        return private / self.id / name

    @property
    def manifest(self) -> Figures:
        return self.file.content

    @property
    def report(self) -> Figures:
        """The content of report.json. Raises: StageError when it is missing or damaged."""
        try:
            report = json.loads((self / "report.json").read_text(encoding="utf-8"))
            if not isinstance(report, dict) or "counts" not in report:
                raise ValueError("it holds no report")
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error)[:200]
            raise StageError(f"{self / 'report.json'} is missing or damaged: {reason}. {REDO_HINT}") from None
        return report

    @contextmanager
    def naming_missing_artefacts(self) -> Iterator[None]:
        """Raises: StageError with the name of an artefact that the block reads and that is missing."""
        try:
            yield
        except FileNotFoundError as error:
            raise StageError(f"{self.path} is not whole: {error.filename or error} is missing. {REDO_HINT}") from None

    @property
    def id(self) -> str:
        """Identifies this run's collection on a server; it never changes."""
        return self.file.id

    @property
    def begun(self) -> dict[str, str]:
        """The fingerprints of stages that were begun and are not finished; some of their parts may exist."""
        return self.manifest.get("begun") or {}

    def update_manifest(self, **entries: Any) -> None:
        """Raises: StageError when the directory of this process has vanished, or another process holds it now."""
        self.file.update(**entries)

    def remove(self, name: str) -> None:
        """Remove the files of an artefact that Covey has written."""
        remove_written(self.path, self.artefact_paths.get(name, name))

    def refuse_foreign(self) -> None:
        """Raises: ConfigError when the directory is not empty and holds no run of Covey."""
        try:
            names = visible_names(list_names(self.path))
        except OSError:  # the lock reports what is wrong
            return
        if not names or self._holds_run(names):
            return
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        problem = (
            f"run.dir {self.path} is not empty and holds no run of Covey, but {shown}; nothing there was touched. "
            f"Take a directory that is empty or not there yet"
        )
        raise ConfigError([problem])

    def _holds_run(self, names: list[str]) -> bool:
        begun = [name for name in names if name != LOCK and not is_half_written(name)]
        if MANIFEST not in begun:
            return not begun  # a start may end before it writes the manifest
        try:
            self.file.read()
        except ConfigError:  # the manifest is damaged, or of another program
            return LOCK in names or all(is_written_by_covey(name) or name in ARTEFACTS for name in begun)
        return True

    def contains(self, uri: str) -> bool:
        """Whether a path or URI is the directory or lies below it; links are followed."""
        try:
            other = locate(uri)
        except ConfigError:  # it is neither a path nor a URI
            return False
        return is_within(other, self.path)

    def has_written(self, uri: str) -> bool:
        """Whether a path or URI is a file of the directory that Covey has written."""
        if not self.contains(uri):
            return False
        if isinstance(self.path, RemotePath):
            return is_written_by_covey(RemotePath.of(uri).inner[len(self.path.inner) + 1 :])
        return is_written_by_covey(os.path.relpath(os.path.realpath(str(locate(uri))), os.path.realpath(self.path)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process.

        The kernel releases a local lock when the process ends; in an object store the holder renews a lease with a
        heartbeat, and the lease expires without it.
        Raises: ConfigError when another process holds it, it cannot be written, or Covey did not write its content.
        """
        self.refuse_foreign()
        with self.file.locked():
            if isinstance(self.path, Path):
                remove_half_written(self.path)
            if self.file.cached is not None:
                self._finish_publishing()
            yield

    def in_use(self) -> bool:
        """Whether a running process holds the directory."""
        return self.file.in_use()

    def replace_damaged_manifest(self) -> None:
        """Replace a damaged manifest with an empty one."""
        self.file.replace_damaged()

    def clear(self) -> None:
        """Remove what earlier starts left, except the files that users open: those stay until new ones are complete.

        The manifest is cleared first, so that a partly removed artefact does not count as finished.
        """
        with self.file.changed() as manifest:
            for key in manifest.keys() - {"id", "owner"}:
                del manifest[key]
            manifest["stages"] = {}
        self.fingerprints = {}
        remove_others(self.path, set())
        remove_written(self.path, PROGRESS)
        remove_written(self.local("store").parent, "store")

    def begin(self, fingerprints: dict[str, str], **entries: Any) -> None:
        """Begin a start, or continue one: artefacts with these fingerprints are kept, other starts' are removed.

        The results of the last complete run stay until ``publish``.
        fingerprints : the fingerprint of each stage; entries : of the manifest, such as the configuration
        """
        with self.file.changed() as manifest:
            results = _results(manifest)
            complete = {key: results[key] for key in _RESULTS if key in results and "report" in results["stages"]}
            known = [manifest["stages"], complete.get("stages", {})]
            found = {name: _finished_entry(known, name, own) for name, own in fingerprints.items()}
            stages = {name: entry for name, entry in found.items() if entry}
            stale = [name for name in manifest["stages"] if name not in stages]
            begun = {name: own for name, own in manifest.get("begun", {}).items() if own == fingerprints.get(name)}
            lost = sorted(manifest.get("begun", {}).keys() - begun.keys())
            manifest.pop("previous", None)
            if complete and complete["stages"] == stages:
                manifest.update(complete)
            elif complete:
                manifest["previous"] = complete
            manifest.update(entries, stages=stages, begun=begun)
        if stale:
            log.info("changed configuration or input: %s will be done again", ", ".join(stale))
        if lost:
            log.info("changed configuration or input: the unfinished parts of %s are removed", ", ".join(lost))
        self.fingerprints, self._cached_paths = dict(fingerprints), None
        self._remove_stale()

    def _remove_stale(self) -> None:
        """Remove artefacts that belong neither to this start nor to the results that users see."""
        manifest = self.manifest
        kept = set()
        for stages in (manifest["stages"], manifest.get("previous", {}).get("stages", {})):
            for name, entry in stages.items():
                lasting = [artefact for artefact in STAGE_ARTEFACTS[name] if artefact not in TEMPORARY]
                kept |= {artefact_path(artefact, entry.get("folder", ""), False) for artefact in lasting}
        for name, fingerprint in manifest.get("begun", {}).items():
            kept |= {artefact_path(artefact, fingerprint, False) for artefact in STAGE_ARTEFACTS[name]}
        remove_others(self.path, kept)

    def publish(self) -> None:
        """Replace the files that users open with those of this run, when all stages are done.

        The manifest records which files are being swapped, so that the next start can finish an interrupted swap.
        """
        with self.file.changed() as manifest:
            fingerprints, swapped = self._file_fingerprints(manifest), manifest.get("swapped", {})
            moved = [name for name in FILES if fingerprints.get(STAGE_OF[name], "") != swapped.get(STAGE_OF[name], "")]
            waiting = {name: artefact_path(name, fingerprints.get(STAGE_OF[name], ""), False) for name in moved}
            made = {name: (self.path / waiting[name]).exists() for name in moved}
            # "": the run before left this file and this run does not
            manifest["swapping"] = {name: fingerprints[STAGE_OF[name]] if made[name] else "" for name in moved}
            manifest["swapped"] = fingerprints
            manifest.pop("previous", None)
        self._finish_swap()

    def _file_fingerprints(self, manifest: Figures) -> dict[str, str]:
        """The stages that leave files for users, each with the fingerprint of its files."""
        found = {stage: manifest.get("swapped", {}).get(stage, "") for stage in map(STAGE_OF.__getitem__, FILES)}
        found |= {stage: fingerprint for stage, fingerprint in self.fingerprints.items() if stage in found}
        return found | {name: entry.get("folder", "") for name, entry in manifest["stages"].items() if name in found}

    def _finish_swap(self) -> None:
        """Finish the swap that the manifest records, if any."""
        swapping = self.manifest.get("swapping")
        if not swapping:
            return
        for artefact, fingerprint in swapping.items():
            waiting = self.path / artefact_path(artefact, fingerprint, False)
            with self.file.reporting_disk_errors():
                if not fingerprint:
                    remove_written(self.path, artefact)
                elif waiting.exists():
                    swap_in(self.path, waiting, artefact)
        self.update_manifest(swapping={})
        remove_written(self.path, PENDING)
        self._remove_stale()

    def _finish_publishing(self) -> None:
        """Publish a run that ended between its last stage and the end of the swap."""
        self._finish_swap()
        manifest = self.manifest
        swapped, wanted = manifest.get("swapped", {}), self._file_fingerprints(manifest)
        if "report" in manifest["stages"] and any(swapped.get(name, "") != own for name, own in wanted.items()):
            self.publish()

    def forget(self, name: str) -> None:
        """Mark a stage as begun again; its parts are kept."""
        with self.file.changed() as manifest:
            fingerprint = manifest["stages"].pop(name)["fingerprint"]
            manifest["begun"] = {**manifest.get("begun", {}), name: fingerprint}

    def stage(self, name: str, fingerprint: str, work: Callable[[], Figures]) -> Figures:
        """Run a stage unless it is finished with this fingerprint; return its figures either way.

        work : does the stage's work and returns its figures (counts, ``peak_bytes``; ``warnings``: sentences for the
            log and the report)
        """
        self.fingerprints[name], self._cached_paths = fingerprint, None
        done = self.manifest["stages"].get(name)
        if done is not None and done["fingerprint"] == fingerprint:
            return dict(done["figures"])
        if self.begun.get(name) != fingerprint:  # otherwise this stage made the parts, and they are kept
            for artefact in STAGE_ARTEFACTS[name]:
                self.remove(artefact)
        with self.file.changed() as manifest:
            manifest["begun"] = {**manifest.get("begun", {}), name: fingerprint}
        started = time.perf_counter()
        figures = work()
        seconds = time.perf_counter() - started
        with self.file.changed() as manifest:
            del manifest["begun"][name]
            manifest["stages"][name] = {
                "fingerprint": fingerprint,
                "folder": fingerprint,
                "started": round(time.time() - seconds, 3),
                "finished": round(time.time(), 3),
                "seconds": round(seconds, 3),
                "figures": figures,
            }
        fields = {"event": "stage_finished", "stage": name, "seconds": round(seconds, 3), **figures}
        log.info(finished_line(name, figures, seconds, log.level <= logging.DEBUG), extra={"fields": fields})
        for line in figures.get("warnings", []):
            log.warning("%s: %s", name, line)
        return figures

    def finished(self, name: str, fingerprint: str) -> bool:
        manifest = self.manifest
        return _finished_entry([manifest["stages"], _results(manifest)["stages"]], name, fingerprint) is not None

    def unfinished(self, fingerprints: dict[str, str]) -> list[str]:
        """The stages that are not finished with these fingerprints."""
        return [name for name, fingerprint in fingerprints.items() if not self.finished(name, fingerprint)]


# What the manifest keeps of the last complete run while another start is at work.
_RESULTS = ("stages", "config", "origin", "versions", "seed", "machine", "plan", "nodes", "expected")


def _results(manifest: Figures) -> Figures:
    return manifest.get("previous") or manifest


def _finished_entry(known: list[Figures], name: str, fingerprint: str) -> Figures | None:
    """The entry of a stage that was finished with a fingerprint."""
    entries = (stages[name] for stages in known if name in stages)
    return next((entry for entry in entries if entry["fingerprint"] == fingerprint), None)
