"""Find where two .debs differ: the first file and byte, and diffoscope's full report if that is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from debian.arfile import ArFile

from pgpool_deb.ground.errors import MachineError

DIFFOSCOPE = "diffoscope"
_SAME, _DIFFERENT = 0, 1
_REPORT_LIMITS = ("--max-text-report-size=1000000", "--max-diff-block-lines=100")
"""The report stops after a megabyte, because one more byte in a program moves every address after it."""


def first_difference(one: Path, other: Path) -> str:
    """Return the first difference of two .debs: the file in them, and the offset of the byte in that file."""
    with one.open("rb") as first, other.open("rb") as second:
        parts, others = (ArFile(fileobj=stream) for stream in (first, second))
        if parts.getnames() != others.getnames():
            return f"parts {parts.getnames()}, rebuilt {others.getnames()}"
        for name in parts.getnames():
            data, again = parts.getmember(name).read(), others.getmember(name).read()
            if data == again:
                continue
            if ".tar" not in name:
                return f"{name}: byte {_byte(data, again)}"
            return _in_tar(name, data, again)
    return "differs between its parts"


def _in_tar(name: str, data: bytes, again: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(data)) as one, tarfile.open(fileobj=io.BytesIO(again)) as other:
        members, others = one.getmembers(), other.getmembers()
        for first, second in zip(members, others, strict=False):
            if first.name != second.name:
                return f"{name}: {first.name}, rebuilt {second.name}"
            if first.get_info() != second.get_info():
                return f"{name}: {first.name}: different size, time, mode or owner"
            if first.isfile():
                contents = [_read(tar, member) for tar, member in ((one, first), (other, second))]
                if contents[0] != contents[1]:
                    return f"{name}: {first.name}: byte {_byte(*contents)}"
        if len(members) != len(others):
            return f"{name}: {len(members)} files, rebuilt {len(others)}"
    return f"{name}: packed differently, with the same files"


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream is not None else b""


def _byte(one: bytes, other: bytes) -> int:
    """Return the offset of the first byte that differs."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, pair in pairs if pair[0] != pair[1]), min(len(one), len(other)))


def described(one: Path, other: Path, report: Path) -> bool:
    """Let diffoscope write the differences of two files to `report`; return False if it is not installed.

    Raises MachineError if diffoscope fails.
    """
    program = shutil.which(DIFFOSCOPE)
    if program is None:
        return False
    command = [program, "--no-progress", *_REPORT_LIMITS, f"--text={report}", str(one), str(other)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode not in (_SAME, _DIFFERENT):
        lines = answer.stderr.strip().splitlines()
        raise MachineError(
            f"diffoscope failed: {lines[-1] if lines else answer.returncode}", hint=f"diffoscope {one} {other}"
        )
    return True
