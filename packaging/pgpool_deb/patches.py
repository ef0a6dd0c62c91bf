"""Our patches to pgpool-II: what their headers say, and which of them fit a source.

A header is DEP-3 with fields of our own: `X-Without` says in one line what is missing without the patch,
`X-Relied-On-By: pgpool2-cluster` stands where a cluster relies on what it mends, and `X-Mends` names the CVEs that it
mends, if any.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from debian.deb822 import Deb822

from .debianize import SERIES, selected_patches
from .sources import read_record, write_record

_OPTIONS = ("-s", "-F", "0", "-p1", "-u", "-V", "never", "-E", "--reject-file=-")
"""As dpkg-source calls patch(1): lines may have moved, but they must be the same."""
_FORWARD, _REVERSE = ("-t", "-N"), ("-f", "--reverse")
"""With -t, patch(1) would ignore --reverse where the first hunk is not there, apply it forward, and report success."""
_METHOD = "forward -t -N, reverse -f"
"""Part of the key of what is remembered: another way of trying is asked anew."""
_TOUCHED = re.compile(r"^(?:---|\+\+\+) [^/\s]+/(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Patch:
    """One of our patches; `name` is its file's without ".patch"."""

    name: str
    text: str
    without: str
    """What is missing without it, in one line."""
    relied_on: bool
    """Whether pgpool2-cluster relies on what it mends."""
    mends: tuple[str, ...] = ()
    """The CVEs that are not open where the patch is."""

    @classmethod
    def read(cls, path: Path) -> Patch:
        """Read a patch; raises ValueError where its header does not say what is missing without it."""
        return cls._of(path, path.read_text(encoding="utf-8"))

    @classmethod
    @cache
    def _of(cls, path: Path, text: str) -> Patch:
        """Parsed once for all releases."""
        header = Deb822(text.partition("\n---")[0])
        without = header.get("X-Without", "").strip()
        if not without or "\n" in without:
            raise ValueError(f"{path}: X-Without: is to say in one line what is missing without it")
        mends = tuple(re.findall(r"CVE-[0-9]+-[0-9]+", header.get("X-Mends", "")))
        return cls(path.stem, text, without, header.get("X-Relied-On-By") == "pgpool2-cluster", mends)

    @property
    def touches(self) -> tuple[str, ...]:
        """The files that it changes, below the top of the source, sorted."""
        return tuple(sorted(set(_TOUCHED.findall(self.text))))


@dataclass(frozen=True, slots=True)
class Fit:
    """Which of the patches that are for a version its source gets: all but `left_out` and `upstream`."""

    proved: bool = False
    """The version passed every level of tests with exactly these patches (sources.toml)."""
    left_out: tuple[Patch, ...] = ()
    """They do not fit, so what they mend is missing."""
    upstream: tuple[Patch, ...] = ()
    """The source has their changes already."""
    tried: bool = True
    """False where nothing was tried: all of them are taken to fit."""

    @property
    def names(self) -> frozenset[str]:
        """The file names of the patches that are not applied."""
        return frozenset(f"{patch.name}.patch" for patch in (*self.left_out, *self.upstream))


EVERY = Fit()
"""All patches that are for a version, which is not said to be proved."""
UNTRIED = Fit(tried=False)
"""What is known of a source on a machine without patch(1)."""


def chosen(templates: Path, upstream_version: str) -> tuple[Patch, ...]:
    """Return the patches that series.in names for a version, in order; raises ValueError as `Patch.read` does."""
    series = (templates / SERIES).read_text(encoding="utf-8")
    return tuple(Patch.read(templates / "patches" / name) for name in selected_patches(series, upstream_version))


def fit(patches: Sequence[Patch], tarball: Path, sha256: str, folder: Path) -> Fit:
    """Return how patches fit a checked tarball, tried one after the other; remembered in `folder`.

    Of the tarball, only the files that patches name are unpacked, into a folder that is thrown away.
    """
    key = hashlib.sha256("\0".join((_METHOD, sha256, *(f"{patch.name}\0{patch.text}" for patch in patches))).encode())
    record = folder / "fitted" / f"{key.hexdigest()}.json"
    known = read_record(record)
    if not {"left_out", "upstream"} <= known.keys():
        known = _try_all(patches, tarball)
        write_record(record, {**known})
    return Fit(
        left_out=tuple(patch for patch in patches if patch.name in known["left_out"]),
        upstream=tuple(patch for patch in patches if patch.name in known["upstream"]),
    )


def _try_all(patches: Sequence[Patch], tarball: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"left_out": [], "upstream": []}
    contents = _contents(tarball, {name for patch in patches for name in patch.touches})
    for patch in patches:
        applied = _applied(patch, contents, _FORWARD)
        if applied is not None:
            contents |= applied
        elif _applied(patch, contents, _REVERSE) is not None:
            found["upstream"].append(patch.name)
        else:
            found["left_out"].append(patch.name)
    return found


def _contents(tarball: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return the bytes of regular files of a tarball, by their path below its top folder."""
    wanted, found = set(names), {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = member.name.removeprefix("./").partition("/")[2]
            stream = archive.extractfile(member) if name in wanted and member.isreg() else None
            if stream is not None:
                found[name] = stream.read()
    return found


def _applied(patch: Patch, contents: dict[str, bytes], options: Sequence[str]) -> dict[str, bytes] | None:
    """Return the files that the patch changes as they are then, None where it does not fit."""
    with tempfile.TemporaryDirectory(prefix="pgpool-deb-patch-") as place:
        for name in patch.touches:
            if name in contents:
                path = Path(place, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents[name])
        command = ["patch", *_OPTIONS, *options, "-d", place]
        if subprocess.run(command, input=patch.text.encode(), capture_output=True, check=False).returncode != 0:
            return None
        return {name: path.read_bytes() for name in patch.touches if (path := Path(place, name)).is_file()}
