"""Render debian/ of a source package from its folder in debian-templates/.

`render` is a pure function of the templates, of a `Packaging` and of the facts that the source package adds
(pgpool2.py, pgpool2_cluster.py); only `write` writes files. Jinja2 renders files ending in `.j2` and their names
(`{{ library.package }}.install.j2`); other files are copied. A file with PGVERSION in its name becomes one file for
each PostgreSQL major. This module writes `changelog`, derives `control` from `control.in` as pg_buildext does, and
derives `patches/series` from `patches/series.in`.
"""

from __future__ import annotations

import operator
import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from pathlib import Path

from debian.changelog import Changelog
from debian.debian_support import Version
from jinja2 import Environment, StrictUndefined, Template

MAINTAINER = "pgpool2-cluster maintainers <maintainers@pgpool2-cluster.example.org>"
TEMPLATE_SUFFIX = ".j2"
SERIES = "patches/series.in"
PER_MAJOR = "PGVERSION"
_CHANGELOG_COLUMNS = 78
"""lintian warns of longer lines."""
_ENVIRONMENT = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701


@dataclass(frozen=True, slots=True)
class Packaging:
    """A source package to render: its version, its release and its PostgreSQL majors."""

    source: str
    """The source package's name: "pgpool2"."""
    upstream_version: str
    """Upstream's version ("4.6.1"), or one that sorts for a checkout ("4.8~devel+git20261122.abc1234")."""
    debian_version: str
    """The full version of the source package: "4.6.1-50+deb13+1"."""
    release: str
    """Code name of the Debian release."""
    release_number: int
    """Debian's number for the release: 12 bookworm, 13 trixie, 14 forky, 15 sid."""
    distribution: str
    """The changelog's distribution: the code name, or "unstable" for sid."""
    majors: tuple[int, ...]
    """The PostgreSQL majors to build modules for: at least one, in ascending order."""
    timestamp: int
    """Seconds since 1970, UTC: the changelog's date, and therefore SOURCE_DATE_EPOCH of the build."""
    changes: tuple[str, ...]
    """The lines of the changelog's entry, without bullets; at least one."""

    @property
    def standards_version(self) -> str:
        """The version of Debian Policy for the release; its lintian knows no newer one."""
        known = {11: "4.5.1", 12: "4.6.2", 13: "4.7.2"}
        return known.get(self.release_number, "4.7.4")

    @property
    def dpkg_has_defaults(self) -> bool:
        """Whether dpkg has defaults for Priority and Rules-Requires-Root, so that lintian calls them redundant."""
        return self.release_number >= 14

    @property
    def facts(self) -> dict[str, object]:
        """The variables for the templates of every source package. Decisions are made here; templates only print."""
        return {
            "maintainer": MAINTAINER,
            "upstream_version": self.upstream_version,
            "release": self.release,
            "release_number": self.release_number,
            "majors": self.majors,
            "standards_version": self.standards_version,
            "dpkg_has_defaults": self.dpkg_has_defaults,
        }


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file of a source package: its bytes, and its permission bits (0o644 or 0o755)."""

    content: bytes
    mode: int

    @classmethod
    def read(cls, path: Path) -> PackageFile:
        """Return a file of the checkout, with mode 0o755 if it has any execute bit, else 0o644."""
        return cls(path.read_bytes(), 0o755 if path.stat().st_mode & 0o111 else 0o644)


def render(
    templates: Path, packaging: Packaging, own_facts: Mapping[str, object], without: Collection[str] = ()
) -> dict[str, PackageFile]:
    """Return all files of debian/ by their path in it; templates see the packaging's facts and `own_facts`.

    `without` holds the file names of patches to leave out. The same arguments give the same bytes.

    Raises `ValueError` if `packaging` has no major or no change, or if a line of patches/series.in cannot be parsed;
    `jinja2.UndefinedError` if a template uses an undefined variable; `OSError` if a template cannot be read.
    """
    if not packaging.majors or not packaging.changes:
        raise ValueError("a packaging needs at least one PostgreSQL major and one line of change")
    files = dict(_templates(templates, packaging.majors, {**packaging.facts, **own_facts}))
    if SERIES in files:
        chosen = selected_patches(files.pop(SERIES).content.decode(), packaging.upstream_version)
        series = tuple(name for name in chosen if name not in without)
        files["patches/series"] = _text("".join(f"{name}\n" for name in series))
        for name in _unused_patches(files, series):
            del files[name]
    if "control.in" in files:
        files["control"] = _text(control_of(files["control.in"].content.decode(), packaging.majors))
    files["changelog"] = _text(changelog_of(packaging))
    return dict(sorted(files.items()))


def write(files: Mapping[str, PackageFile], destination: Path) -> None:
    """Write files with their modes below `destination`; raises `FileExistsError` if that exists."""
    destination.mkdir(parents=True)
    for name, file in files.items():
        path = destination / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)


def changelog_of(packaging: Packaging) -> str:
    """Return debian/changelog with one entry."""
    changelog = Changelog()
    changelog.new_block(
        package=packaging.source,
        version=packaging.debian_version,
        distributions=packaging.distribution,
        urgency="medium",
        author=MAINTAINER,
        date=format_datetime(datetime.fromtimestamp(packaging.timestamp, UTC)),
        changes=["", *(line for change in packaging.changes for line in _bullet(change)), ""],
    )
    return str(changelog)


def _bullet(change: str) -> list[str]:
    return textwrap.wrap(change, _CHANGELOG_COLUMNS, initial_indent="  * ", subsequent_indent="    ")


def control_of(control_in: str, majors: tuple[int, ...]) -> str:
    """Return debian/control from debian/control.in, byte for byte as `pg_buildext updatecontrol` writes it.

    Otherwise `pg_buildext checkcontrol` would stop the build.
    """
    paragraphs: list[str] = []
    for paragraph in re.split(r"\n{2,}", control_in.strip("\n")):
        per_major = re.match(rf"Package: .*{PER_MAJOR}", paragraph)
        paragraphs += [paragraph.replace(PER_MAJOR, str(m)) for m in majors] if per_major else [paragraph]
    return "\n\n".join(paragraphs) + "\n"


_RELATIONS: dict[str, Callable[[Version, Version], bool]] = {
    "<<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">>": operator.gt,
}
_SERIES_LINE = re.compile(r"(?P<name>[a-z0-9.-]+\.patch)(?P<ranges>(?:\s+\((?:<<|<=|=|>=|>>) [^\s()]+\))*)")


def selected_patches(series: str, upstream_version: str) -> tuple[str, ...]:
    """Return the patches of patches/series.in for this version, in order; raises ValueError for a malformed line."""
    upstream = Version(upstream_version)
    return tuple(
        name
        for name, ranges in _lines(series)
        if all(_RELATIONS[relation](upstream, Version(version)) for relation, version in ranges)
    )


def ranges_of(series: str) -> dict[str, list[list[tuple[str, str]]]]:
    """Return the version ranges of each patch of patches/series.in: for each of its lines, limits like (">=", "4.4~").

    Raises ValueError for a malformed line.
    """
    ranges: dict[str, list[list[tuple[str, str]]]] = {}
    for name, limits in _lines(series):
        ranges.setdefault(name, []).append(limits)
    return ranges


def _lines(series: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for line in series.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _SERIES_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{SERIES}: not a patch with its versions: {line}")
        yield match["name"], re.findall(r"\((\S+) (\S+)\)", match["ranges"])


def _templates(
    templates: Path, majors: tuple[int, ...], facts: Mapping[str, object]
) -> Iterator[tuple[str, PackageFile]]:
    for path in sorted(templates.rglob("*")):
        if not path.is_file():
            continue
        name, file = path.relative_to(templates).as_posix(), PackageFile.read(path)
        if name.endswith(TEMPLATE_SUFFIX):
            name = _template(name.removesuffix(TEMPLATE_SUFFIX)).render(facts)
            file = PackageFile(_template(file.content.decode()).render(facts).encode(), file.mode)
        if PER_MAJOR not in name:
            yield name, file
            continue
        for major in map(str, majors):
            content = file.content.replace(PER_MAJOR.encode(), major.encode())
            yield name.replace(PER_MAJOR, major), PackageFile(content, file.mode)


@cache
def _template(text: str) -> Template:
    """Compile a template once for all releases."""
    return _ENVIRONMENT.from_string(text)


def _unused_patches(files: dict[str, PackageFile], series: tuple[str, ...]) -> list[str]:
    used = {f"patches/{name}" for name in series}
    missing = used - files.keys()
    if missing:
        raise ValueError(f"{SERIES} names missing patches: {', '.join(sorted(missing))}")
    return [name for name in files if name.endswith(".patch") and name not in used]


def _text(content: str) -> PackageFile:
    return PackageFile(content.encode(), 0o644)
