"""Define a rendered file, and insert the cluster's part into a file that other programs also write to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

BEGIN = "# BEGIN pgpool2-cluster: written by pgpoolctl apply"
END = "# END pgpool2-cluster"


class FileShare(StrEnum):
    """How much of a file belongs to the cluster."""

    WHOLE = "whole"
    BLOCK = "block"
    """A block between two comments at the top; in these files the first match wins."""
    ENTRIES = "entries"
    """The lines that start with certain names, as in pool_passwd; lines with other names belong to users."""


@dataclass(frozen=True, slots=True)
class File:
    """The intended content, owner and mode of a file or of the cluster's part of it; repr() shows no content."""

    path: PurePosixPath
    content: bytes
    owner: str
    group: str
    mode: int
    share: FileShare = FileShare.WHOLE

    def __repr__(self) -> str:
        return f"File({self.path}, {len(self.content)} bytes, {self.owner}:{self.group} {self.mode:04o}, {self.share})"


def merged(existing: str, file: File) -> str:
    """Return the text of a file whose text is `existing`, with the cluster's part replaced by that of `file`."""
    if file.share is FileShare.WHOLE:
        return file.content.decode()
    if file.share is FileShare.BLOCK:
        return "\n".join([BEGIN, file.content.decode().rstrip("\n"), END, ""]) + without_block(existing)
    return _with_entries(existing, file.content.decode())


def without_block(existing: str) -> str:
    """Return `existing` without the cluster's block and otherwise unchanged; a block without an end is not removed."""
    begin = existing.find(BEGIN + "\n")
    end = existing.find(END + "\n", begin)
    if begin < 0 or end < 0:
        return existing
    return existing[:begin] + existing[end + len(END) + 1 :]


def without_entries(existing: str, names: Iterable[str]) -> str:
    """Return the lines of `existing` that do not start with one of `names` and a colon."""
    gone = set(names)
    return "".join(line for line in existing.splitlines(keepends=True) if line.split(":", 1)[0] not in gone)


def _with_entries(existing: str, ours: str) -> str:
    others = without_entries(existing, (line.split(":", 1)[0] for line in ours.splitlines()))
    return ours + others
