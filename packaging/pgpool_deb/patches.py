"""Our patches to pgpool-II: what their headers say, and which of them fit a source.

A header is DEP-3 with fields of our own: `X-Without` says in one line what is missing without the patch, `X-Tested-By`
names the tests that fail without it, `X-Relied-On-By: pgpool2-cluster` stands where a cluster relies on what it mends,
and `X-Mends` names the CVEs that it mends, if any.
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

from .debianize import SERIES, selected_patches
from .sources import read_record, write_record

_OPTIONS = ("-s", "-F", "0", "-p1", "-u", "-V", "never", "-E", "--reject-file=-")
"""As dpkg-source calls patch(1): lines may have moved, but they must be the same."""
_FORWARD, _REVERSE = ("-t", "-N"), ("-f", "--reverse")
"""With -t, patch(1) would ignore --reverse where the first hunk is not there, apply it forward, and report success."""
_METHOD = "forward -t -N, reverse -f"
"""Part of the key of what is remembered: another way of trying is asked anew."""
_TOUCHED = re.compile(r"^(?:---|\+\+\+) [^/\s]+/(\S+)", re.MULTILINE)
_FILE_NAMES = re.compile(r"(?:---|\+\+\+) [^/\s]+/")
_TEST = r"tests/[\w/]+\.py::test_\w+"
_WANTED = {
    "Description": (r".+(\n.*)*", "is to begin with one line that names the fault or the change"),
    "X-Without": (r".+", "is to say in one line what is missing without it"),
    "X-Tested-By": (rf"{_TEST}(,\s+{_TEST})*|none: .+", "is to name tests as tests/…/test_x.py::test_y, or none: why"),
    "Forwarded": (r"no|not-needed|https?://\S+", "is to be no, not-needed or the address of the report"),
    "Last-Update": (r"\d{4}-\d\d-\d\d", "is to be a day as 2026-11-29"),
}
"""Fields that every header has: what their values match, and what is said where they do not."""
NOT_SENT = "no"
"""`Forwarded` of a patch that is upstream's business, too, and has not been sent there."""


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
    description: str = ""
    """A title line, an empty line, and paragraphs."""
    forwarded: str = NOT_SENT
    """One of "no" and "not-needed", or the address of the report to upstream."""
    origin: str = ""
    """Where it comes from, as "upstream, ADDRESS"; empty where it is ours."""
    tested_by: str = ""
    """The tests that fail without it, as pytest names them, joined by commas; else "none: " and the reason."""
    updated: str = ""
    """The day of its last change, as 2026-11-29."""

    @classmethod
    def read(cls, path: Path) -> Patch:
        """Read a patch; raises ValueError where its header lacks a field that every patch has."""
        return cls._of(path, path.read_text(encoding="utf-8"))

    @classmethod
    @cache
    def _of(cls, path: Path, text: str) -> Patch:
        """Parsed once for all releases."""
        header = Deb822(text.partition("\n---")[0])
        for field, (pattern, wanted) in _WANTED.items():
            if not re.fullmatch(pattern, header.get(field, "").strip()):
                raise ValueError(f"{path}: {field}: {wanted}")
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
        """The tests that fail without it; none where `tested_by` says why."""
        return tuple(re.findall(_TEST, self.tested_by))

    @property
    def size(self) -> tuple[int, int]:
        """How many lines it adds and removes."""
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


@dataclass(frozen=True, slots=True)
class Change:
    """What a patch changes in a source: the files that it names, before and after, by their path."""

    patch: Patch
    before: Mapping[str, bytes]
    after: Mapping[str, bytes] | None
    """None where it does not fit."""
    is_there: bool = False
    """It does not fit because the source has its changes already."""


def changes(patches: Sequence[Patch], tarball: Path) -> Iterator[Change]:
    """Try patches on a checked tarball, each on what those before it left; only files that they name are unpacked."""
    contents = _contents(tarball, {name for patch in patches for name in patch.touches})
    for patch in patches:
        before = {name: contents[name] for name in patch.touches if name in contents}
        after = _applied(patch, contents, _FORWARD)
        yield Change(patch, before, after, after is None and _applied(patch, contents, _REVERSE) is not None)
        contents |= after or {}


def _try_all(patches: Sequence[Patch], tarball: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"left_out": [], "upstream": []}
    for change in changes(patches, tarball):
        if change.after is None:
            found["upstream" if change.is_there else "left_out"].append(change.patch.name)
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
