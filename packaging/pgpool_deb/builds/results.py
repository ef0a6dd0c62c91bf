"""Store finished builds in the cache, under the key of their inputs, and lay them down in dist/.

A result gets its name only when it is complete, and its files are hashed again before use. So dist/ gets complete
files that match their record; a damaged result is built again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.ground import atomic
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import MachineError
from pgpool_deb.packages import fingerprint
from pgpool_deb.upstream.download import sha256_of

KEPT_RESULTS = 32


@dataclass(frozen=True, slots=True)
class Results:
    """The store of finished builds."""

    cache: Cache

    def find(self, inputs: fingerprint.Inputs) -> dict[str, str] | None:
        """Return name to SHA-256 of the files built from exactly these inputs; None if they are missing or damaged."""
        folder = self._folder(inputs)
        try:
            files: dict[str, str] = json.loads((folder / "files.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        intact = all((folder / name).is_file() and sha256_of(folder / name) == sha for name, sha in files.items())
        if intact:
            os.utime(folder)  # `_forget_old` keeps the most recently used results
        return files if intact else None

    def keep(self, name: str, inputs: fingerprint.Inputs, built: Path) -> dict[str, str]:
        """Keep the files in the folder `built` as the result of `inputs`, and remember the inputs under `name`."""
        files = {path.name: sha256_of(path) for path in sorted(built.iterdir())}
        folder = self._folder(inputs)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        self._sweep(folder.parent)
        try:
            shutil.copytree(built, partial)
            atomic.write(partial / "files.json", json.dumps(files, indent=1))
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        atomic.write(self.cache.folder("cells") / f"{name}.json", json.dumps(dict(inputs), indent=1))
        self._forget_old(folder)
        return files

    def _sweep(self, folder: Path) -> None:
        """Remove the partial results of killed runs; the cache's lock admits one build at a time."""
        for leftover in folder.glob(".*"):
            if not Path("/proc", leftover.name.rpartition(".")[2]).exists():
                shutil.rmtree(leftover, ignore_errors=True)

    def last_inputs(self, name: str) -> dict[str, str] | None:
        """Return the inputs of the last finished build called `name`, or None."""
        try:
            text = (self.cache.path / "cells" / f"{name}.json").read_text(encoding="utf-8")
            inputs: dict[str, str] = json.loads(text)
        except (OSError, ValueError):
            return None
        return inputs

    def _folder(self, inputs: fingerprint.Inputs) -> Path:
        return self.cache.folder("results") / fingerprint.key(inputs)[:32]

    def folder(self, inputs: fingerprint.Inputs) -> Path:
        """Return the folder with the files of these inputs."""
        return self._folder(inputs)

    def _forget_old(self, newest: Path) -> None:
        """Keep only the most recently used results."""
        others = [path for path in newest.parent.iterdir() if path != newest and not path.name.startswith(".")]
        for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_RESULTS - 1 :]:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Dist:
    """The folder dist/ of the checkout, with the packages for the user. It never contains a partial package."""

    path: Path

    def holds(self, release: str, source_package: str, files: Mapping[str, str]) -> bool:
        """Return whether dist/<release>/ has exactly these files for a source package, byte for byte."""
        folder = self.path / release
        if self._listed(folder, source_package) != set(files):
            return False
        return all((folder / name).is_file() and sha256_of(folder / name) == sha for name, sha in files.items())

    def lay_down(self, release: str, source_package: str, files: Mapping[str, str], origin: Path) -> None:
        """Replace a source package's files in dist/<release>/ by those of a new build.

        Every file is copied under another name and renamed, so a file under its own name is complete. The old .changes
        is removed first and the new one appears last, so the files of a .changes exist even if the tool is killed.
        Raises MachineError if the folder cannot be written.
        """
        folder = self.path / release
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._sweep(folder)
            for name in files:
                shutil.copyfile(origin / name, folder / f".{name}.partial")
            (folder / f".{source_package}.files").write_text("\n".join(sorted(files)) + "\n", encoding="utf-8")
            before = self._listed_before(folder, source_package)
            for name in before:
                if name.endswith(".changes"):  # its files are about to change
                    (folder / name).unlink()
            for name in sorted(files, key=lambda name: (name.endswith(".changes"), name)):
                (folder / f".{name}.partial").replace(folder / name)
            for name in before - set(files):
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            self._sweep(folder)
            raise MachineError(
                f"{folder} cannot be written: {error.strerror}",
                hint="free space there, then run the same command again",
            ) from error

    def _listed(self, folder: Path, source_package: str) -> set[str]:
        try:
            return set((folder / f".{source_package}.files").read_text(encoding="utf-8").split())
        except OSError:
            return set()

    def _listed_before(self, folder: Path, source_package: str) -> set[str]:
        return {path.name for path in folder.iterdir() if _belongs(path.name, source_package)}

    def _sweep(self, folder: Path) -> None:
        for leftover in folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)


def _belongs(name: str, source_package: str) -> bool:
    """Return whether a file in dist/<release>/ belongs to the source package, which is pgpool2 or pgpool2-cluster."""
    if name.startswith("."):
        return False
    return name.startswith(f"{source_package}-cluster") == source_package.endswith("-cluster")
