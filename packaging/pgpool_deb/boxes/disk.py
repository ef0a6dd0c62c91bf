"""Check that roots can be made in a folder, before minutes are spent on one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from pgpool_deb.ground import namespaces
from pgpool_deb.ground.errors import MachineError

TRY = Path(__file__).with_name("try-overlay")
ANOTHER = "set PGPOOL_DEB_CACHE=/path to use another folder"
_GOOD = ("ext2/ext3", "xfs", "btrfs", "tmpfs")
"""File systems on which overlays are known to work, by stat(1)'s names."""


def check_overlays(folder: Path) -> None:
    """Try an overlay in the cache's folder of roots; raises MachineError if the file system or the machine refuses.

    The files that a killed run leaves there are removed together with its partial roots.
    """
    place = Path(tempfile.mkdtemp(prefix=f".partial-{os.getpid()}-", dir=folder))
    try:
        status, lines = _output_as_root(str(TRY), str(place))
        if status != 0:
            raise _no_overlays(folder, lines[0] if lines else f"status {status}")
    finally:
        shutil.rmtree(place, ignore_errors=True)  # first without a namespace, which may be unavailable
        namespaces.remove(place)


def _output_as_root(*command: str) -> tuple[int, list[str]]:
    words = [*namespaces.as_root(), *command]
    answer = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
    return answer.returncode, answer.stdout.splitlines()


def check_writable(folder: Path, what: str) -> None:
    """Create `folder`, and a temporary file in it; raises MachineError if `what` cannot be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise MachineError(
            f"{what} cannot be written to {folder}: {error.strerror or error}",
            hint=f"let this user write there (ls -ld {shlex.quote(str(folder))}), or work in a checkout of your own",
        ) from error


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raise MachineError if fewer than `needed` bytes are free for `what`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{what} needs up to {_megabytes(needed)}, and {folder} has {_megabytes(free)} free",
            hint=f"free some space, or {ANOTHER}",
        )


def _no_overlays(folder: Path, reason: str) -> MachineError:
    if "No space left" in reason:
        return MachineError(f"no space is left in {folder}", hint=f"free some, or {ANOTHER}")
    if reason.endswith("/program: Permission denied"):
        return MachineError(f"the cache is on a file system that is mounted noexec: {folder}", hint=ANOTHER)
    kind = "".join(_output_as_root("stat", "--file-system", "--format=%T", str(folder))[1])
    if reason.startswith(("unshare: ", "machine: ")) or kind in _GOOD:
        return MachineError(
            f"this machine forbids the mounts that roots need: {reason.removeprefix('machine: ')}",
            hint="start the container with --privileged, even for a plain user; a virtual machine needs no option",
        )
    return MachineError(
        f"the cache is on {kind}, which does not support the mounts of roots: {folder}",
        hint=f"{ANOTHER} on ext4, XFS or Btrfs; in a container, use a volume",
    )


def _megabytes(size: int) -> str:
    return f"{size // 1_000_000:,} MB".replace(",", " ")
