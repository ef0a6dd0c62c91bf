"""Empty a data directory for a copy, and refuse one that the copy does not fit into, before anything is deleted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..ground.errors import ServerError
from ..machine.server import Instance
from ..transport import pulse


def refuse_small_disks(sizes: Mapping[Path, int]) -> None:
    """Raise ServerError if a copy would not fit on one of the disks, after the old data there is deleted."""
    disks: dict[int, list[Path]] = {}
    for place in sizes:
        disks.setdefault(_there(place).stat().st_dev, []).append(place)
    for places in disks.values():
        size = sum(sizes[place] for place in places)
        free = shutil.disk_usage(_there(places[0])).free + sum(map(_size_of, places))
        if free < size:
            names = ", ".join(map(str, places))
            text = f"{names}: the copy needs {size >> 20} MB, and {free >> 20} MB are free"
            raise ServerError(text, hint="free space on that disk")


def _there(place: Path) -> Path:
    """Return the folder, or its nearest ancestor that exists."""
    return next(folder for folder in (place, *place.parents) if folder.exists())


def _size_of(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(root, name)).st_blocks * 512
            except OSError:
                continue
    return total


def refuse_mounts(data: Path) -> None:
    """Raise ServerError, before anything is deleted, for a mount point or a lost+found, which cannot be deleted."""
    wal = data / "pg_wal"
    folders = [data, *([wal.resolve()] if wal.is_symlink() else [])]
    for folder in (folder for folder in folders if folder.is_dir()):
        for entry in folder.iterdir():
            if entry.name == "lost+found":
                hint = f"use a folder below {folder} as the data directory, or make pg_wal a link to one"
                raise ServerError(f"{folder} is a file system's top folder, with {entry.name} in it", hint=hint)
            if entry.is_mount():
                hint = f"umount {entry}; mount that disk elsewhere and make {entry} a symbolic link to a folder on it"
                raise ServerError(f"{entry} is a mount point, and a copy needs an empty data directory", hint=hint)


def empty(instance: Instance, spaces: Mapping[Path, int]) -> str:
    """Empty the data directory and the tablespaces; return the target of pg_wal if that is a link, otherwise ""."""
    pulse.beat(pulse.PROGRESS_SECONDS)
    data = instance.data
    wal = data / "pg_wal"
    waldir = str(wal.resolve()) if wal.is_symlink() else ""
    old = [link.resolve() for link in (data / "pg_tblspc").glob("*") if link.is_symlink()]
    hint = f"install -d -o postgres -g postgres -m 0700 {data}"
    try:
        for place in {*spaces, *old}:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            for version in place.glob(f"PG_{instance.name.major}_*"):
                shutil.rmtree(version)
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in [data, *([Path(waldir)] if waldir else [])]:
            for entry in sorted(folder.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        data.chmod(0o700)
    except OSError as error:
        raise ServerError(f"{error.filename}: {error.strerror}", hint=hint) from error
    return waldir
