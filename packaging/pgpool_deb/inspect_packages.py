"""Checks on what a build left: the packages that were promised, whole, with their versions and without surprises."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from debian.deb822 import Changes
from debian.debfile import DebFile

from .download import sha256_of
from .errors import PackageError


def files_of(changes: Path) -> list[Path]:
    """Return the files of a .changes and itself, each checked against its SHA-256 there; raises PackageError."""
    with changes.open(encoding="utf-8") as handle:
        entries = Changes(handle)["Checksums-Sha256"]
    files = [changes]
    for entry in entries:
        name = str(entry["name"])
        path = changes.parent / name
        if "/" in name or not path.is_file() or sha256_of(path) != entry["sha256"]:
            raise PackageError(f"{changes.name} promises {name}, which is not what was built", hint="read build.log")
        files.append(path)
    return files


def check(changes: Path, *, version: str, binaries: Collection[str]) -> list[Path]:
    """Return the files of a build that are to be kept; raises PackageError where a package is not as promised."""
    files = files_of(changes)
    built = {}
    for path in files:
        if path.suffix == ".deb":
            with DebFile(str(path)) as package:
                control = package.debcontrol()
            built[control["Package"]] = control["Version"]
    missing = sorted(set(binaries) - built.keys())
    if missing:
        raise PackageError(f"the build made no {missing[0]}", hint="read build.log")
    wrong = sorted(name for name, found in built.items() if found != version)
    if wrong:
        raise PackageError(f"{wrong[0]} has version {built[wrong[0]]}, not {version}", hint="read build.log")
    if not any(path.suffix == ".dsc" for path in files):
        raise PackageError("the build made no source package", hint="read build.log")
    return files
