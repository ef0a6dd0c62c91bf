"""Check the files of a build: every promised package is there, complete and with the right version."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from debian.deb822 import Changes
from debian.debfile import DebFile

from pgpool_deb.ground.errors import PackageError
from pgpool_deb.upstream.download import sha256_of


def files_of(changes: Path) -> list[Path]:
    """Return a .changes and its files, each verified with its SHA-256 there; raises PackageError."""
    with changes.open(encoding="utf-8") as handle:
        entries = Changes(handle)["Checksums-Sha256"]
    files = [changes]
    for entry in entries:
        name = str(entry["name"])
        path = changes.parent / name
        if "/" in name or not path.is_file() or sha256_of(path) != entry["sha256"]:
            raise PackageError(f"{changes.name} does not match the file {name}", hint="read build.log")
        files.append(path)
    return files


def check(changes: Path, *, version: str, binaries: Collection[str]) -> list[Path]:
    """Return the files of a build to keep; raises PackageError for a missing package or a wrong version."""
    files = files_of(changes)
    built = {}
    for path in files:
        if path.suffix == ".deb":
            with DebFile(str(path)) as package:
                control = package.debcontrol()
            built[control["Package"]] = control["Version"]
    missing = sorted(set(binaries) - built.keys())
    if missing:
        raise PackageError(f"the build produced no {missing[0]}", hint="read build.log")
    wrong = sorted(name for name, built_version in built.items() if built_version != version)
    if wrong:
        raise PackageError(f"{wrong[0]} has version {built[wrong[0]]}, not {version}", hint="read build.log")
    if not any(path.suffix == ".dsc" for path in files):
        raise PackageError("the build produced no source package", hint="read build.log")
    return files
