"""Parse the headers of our patches to pgpool-II, and try which patches fit a source.

A header is DEP-3 with additional fields. `X-Without` says in one line what is missing without the patch. `X-Tested-By`
names the tests that fail without it. `X-Relied-On-By: pgpool2-cluster` means that a cluster relies on the patch.
`X-Mends` names the CVEs that the patch fixes, if any.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from debian.deb822 import Deb822

from pgpool_deb.upstream.sources import read_record, write_record

from .debianize import SERIES, selected_patches

_OPTIONS = ("-s", "-F", "0", "-p1", "-u", "-V", "never", "-E", "--reject-file=-")
"""dpkg-source's options for patch(1): lines may have moved, but they must be identical."""
_FORWARD, _REVERSE = ("-t", "-N"), ("-f", "--reverse")
"""With -t, patch(1) ignores --reverse if the first hunk is not applied: it applies it forward and reports success."""
_METHOD = "forward -t -N, reverse -f"
"""Part of the key of remembered results, so that another method tries again."""
_TOUCHED = re.compile(r"^(?:---|\+\+\+) [^/\s]+/(\S+)", re.MULTILINE)
_FILE_NAMES = re.compile(r"(?:---|\+\+\+) [^/\s]+/")
_TEST = r"tests/[\w/]+\.py::test_\w+"
_REQUIRED = {
    "Description": (r".+(\n.*)*", "must begin with one line that names the fault or the change"),
    "X-Without": (r".+", "must state in one line what is missing without it"),
    "X-Tested-By": (rf"{_TEST}(,\s+{_TEST})*|none: .+", "must name tests as tests/…/test_x.py::test_y, or none: why"),
    "Forwarded": (r"no|not-needed|https?://\S+", "must be no, not-needed or the address of the report"),
    "Last-Update": (r"\d{4}-\d\d-\d\d", "must be a day such as 2026-11-29"),
}
"""The fields of every header: the pattern of their values, and the complaint about other values."""
NOT_SENT = "no"
"""The value of `Forwarded` if the patch also concerns upstream and has not been sent there."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One of our patches; `name` is its file name without ".patch"."""

    name: str
    text: str
    without: str
    """The effect of leaving it out, in one line (X-Without)."""
    relied_on: bool
    """Whether pgpool2-cluster relies on it."""
    mends: tuple[str, ...] = ()
    """The CVEs that it fixes."""
    description: str = ""
    """A title line, an empty line, and paragraphs."""
    forwarded: str = NOT_SENT
    """One of "no" and "not-needed", or the address of the report to upstream."""
    origin: str = ""
    """Its origin as "upstream, ADDRESS", empty if it is ours."""
    tested_by: str = ""
    """The tests that fail without it, by pytest's names, comma-separated; or "none: " and the reason."""
    updated: str = ""
    """The day of its last change, such as 2026-11-29."""

    @classmethod
    def read(cls, path: Path) -> Patch:
        """Read a patch; raises ValueError if its header lacks a required field."""
        return cls._of(path, path.read_text(encoding="utf-8"))

    @classmethod
    @cache
    def _of(cls, path: Path, text: str) -> Patch:
        """Parse a patch once for all releases."""
        header = Deb822(text.partition("\n---")[0])
        for field, (pattern, complaint) in _REQUIRED.items():
            if not re.fullmatch(pattern, header.get(field, "").strip()):
                raise ValueError(f"{path}: {field} {complaint}")
        return cls(
            name=path.stem,
            text=text,
            without=header["X-Without"].strip(),
            relied_on=header.get("X-Relied-On-By") == "pgpool2-cluster",
            mends=tuple(re.findall(r"CVE-[0-9]+-[0-9]+", header.get("X-Mends", ""))),
            description=_plain(header["Description"]),
            forwarded=header["Forwarded"].strip(),
            origin=header.get("Origin", "").strip(),
            tested_by=" ".join(header["X-Tested-By"].split()),
            updated=header["Last-Update"].strip(),
        )

    @property
    def title(self) -> str:
        """The first line of its description."""
        return self.description.partition("\n")[0]

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests that fail without it; empty if `tested_by` gives a reason instead."""
        return tuple(re.findall(_TEST, self.tested_by))

    @property
    def size(self) -> tuple[int, int]:
        """The numbers of lines that it adds and removes."""
        lines = [line for line in self.text.partition("\n---\n")[2].splitlines() if not _FILE_NAMES.match(line)]
        return sum(line.startswith("+") for line in lines), sum(line.startswith("-") for line in lines)

    @property
    def touches(self) -> tuple[str, ...]:
        """The files that it changes, below the top of the source, sorted."""
        return tuple(sorted(set(_TOUCHED.findall(self.text))))


def _plain(description: str) -> str:
    """Return a folded DEP-3 description as plain text."""
    title, *lines = description.strip().splitlines()
    body = "\n".join("" if line.strip() == "." else line.removeprefix(" ") for line in lines)
    return f"{title}\n\n{body}".strip()


@dataclass(frozen=True, slots=True)
class Fit:
    """How the patches for a version fit its source, which gets all of them except `left_out` and `upstream`."""

    proved: bool = False
    """The version passed every level of tests with exactly these patches (sources.toml)."""
    left_out: tuple[Patch, ...] = ()
    """The patches that do not fit, so that the source lacks them."""
    upstream: tuple[Patch, ...] = ()
    """The patches that the source already contains."""
    tried: bool = True
    """False if nothing was tried and all patches are assumed to fit."""

    @property
    def names(self) -> frozenset[str]:
        """The file names of the patches that are not applied."""
        return frozenset(f"{patch.name}.patch" for patch in (*self.left_out, *self.upstream))


EVERY = Fit()
"""All patches for a version fit; it is not proved."""
UNTRIED = Fit(tried=False)
"""The fit of a source on a machine without patch(1)."""


def chosen(templates: Path, upstream_version: str) -> tuple[Patch, ...]:
    """Return the patches that series.in names for a version, in order; raises ValueError as `Patch.read` does."""
    series = (templates / SERIES).read_text(encoding="utf-8")
    return tuple(Patch.read(templates / "patches" / name) for name in selected_patches(series, upstream_version))


def fit(patches: Sequence[Patch], tarball: Path, sha256: str, folder: Path) -> Fit:
    """Return how patches fit a checked tarball, each tried on top of the previous ones; remembers it in `folder`.

    Only the files that the patches name are unpacked, into a temporary folder.
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


@dataclass(frozen=True, slots=True)
class Change:
    """The change that a patch makes in a source: the files that it names, before and after, by their path."""

    patch: Patch
    before: Mapping[str, bytes]
    after: Mapping[str, bytes] | None
    """None if the patch does not fit."""
    in_source: bool = False
    """Whether it does not fit because the source already contains it."""


def changes(patches: Sequence[Patch], tarball: Path) -> Iterator[Change]:
    """Try patches on a checked tarball, each on top of the previous ones; unpacks only the files that they name."""
    contents = _contents(tarball, {name for patch in patches for name in patch.touches})
    for patch in patches:
        before = {name: contents[name] for name in patch.touches if name in contents}
        after = _applied(patch, contents, _FORWARD)
        yield Change(patch, before, after, after is None and _applied(patch, contents, _REVERSE) is not None)
        contents |= after or {}


def _try_all(patches: Sequence[Patch], tarball: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {"left_out": [], "upstream": []}
    for change in changes(patches, tarball):
        if change.after is None:
            names["upstream" if change.in_source else "left_out"].append(change.patch.name)
    return names


def _contents(tarball: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return the bytes of regular files of a tarball, by their path below its top folder."""
    names, contents = set(names), {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = member.name.removeprefix("./").partition("/")[2]
            stream = archive.extractfile(member) if name in names and member.isreg() else None
            if stream is not None:
                contents[name] = stream.read()
    return contents


def _applied(patch: Patch, contents: dict[str, bytes], options: Sequence[str]) -> dict[str, bytes] | None:
    """Return the files that the patch changes, after the change; None if it does not fit."""
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
