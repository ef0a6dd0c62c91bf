"""Renders debian/ of a source package from its folder in debian-templates/.

Pure: `render` is a function of the templates, of one `Packaging` and of what the source package adds to it
(pgpool2.py, pgpool2_cluster.py); only `write` writes. Files ending in `.j2` are rendered by Jinja2 (names too:
`{{ library.package }}.install.j2`), all others are copied; one with PGVERSION in its name becomes one file a
PostgreSQL major. Made here are `changelog`, `control` from a `control.in` (as pg_buildext does it) and
`patches/series` with the patches it selects from a `patches/series.in`.
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
"""Longer lines are a warning of lintian's."""
_ENVIRONMENT = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701


@dataclass(frozen=True, slots=True)
class Packaging:
    """One source package to be rendered: of which version, for which release and PostgreSQL majors."""

    source: str
    """The source package's name: "pgpool2"."""
    upstream_version: str
    """As upstream writes it ("4.6.1"), or a sorting version of a checkout ("4.8~devel+git20261122.abc1234")."""
    debian_version: str
    """The full version of the source package: "4.6.1-50+deb13+1"."""
    release: str
    """Code name of the Debian release."""
    release_number: int
    """Debian's number of the release: 12 bookworm, 13 trixie, 14 forky, 15 sid."""
    distribution: str
    """The changelog's distribution: the code name, or "unstable" for sid."""
    majors: tuple[int, ...]
    """PostgreSQL majors of the release that are packaged for, at least one, rising."""
    timestamp: int
    """Seconds since 1970, UTC: the changelog's date, and so SOURCE_DATE_EPOCH of the build."""
    changes: tuple[str, ...]
    """One line each of the changelog's entry, without the bullet; at least one."""

    @property
    def standards_version(self) -> str:
        """The Debian Policy of the release: its own lintian knows no newer one."""
        known = {11: "4.5.1", 12: "4.6.2", 13: "4.7.2"}
        return known.get(self.release_number, "4.7.4")

    @property
    def dpkg_has_defaults(self) -> bool:
        """Whether dpkg has defaults for Priority and Rules-Requires-Root; lintian calls them redundant then."""
        return self.release_number >= 14

    @property
    def facts(self) -> dict[str, object]:
        """What the templates of every source package may name. All decisions are made here; templates only print."""
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
class File:
    """A file of a source package: its bytes, and its permission bits (0o644 or 0o755)."""

    content: bytes
    mode: int

    @classmethod
    def read(cls, path: Path) -> File:
        """Return a file of the checkout; of its permissions only whether it can be executed counts."""
        return cls(path.read_bytes(), 0o755 if path.stat().st_mode & 0o111 else 0o644)


def render(
    templates: Path, packaging: Packaging, own_facts: Mapping[str, object], without: Collection[str] = ()
) -> dict[str, File]:
    """All files of debian/ by their path in it; templates see the packaging's facts and `own_facts`.

    Patches called as in `without` are left out.

    The same arguments give the same bytes. Raises `ValueError` where `packaging` holds no major or no change or a line
    of patches/series.in cannot be read, `jinja2.UndefinedError` where a template names what there is not, and
    `OSError` where a template cannot be read.
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


def write(files: Mapping[str, File], destination: Path) -> None:
    """Write files below `destination`, which must not exist; all modes as they say. Raises `FileExistsError`."""
    destination.mkdir(parents=True)
    for name, file in files.items():
        path = destination / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)


def changelog_of(packaging: Packaging) -> str:
    """debian/changelog with one entry."""
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
    """debian/control from debian/control.in, byte for byte as `pg_buildext updatecontrol` makes it.

    Its "checkcontrol" would otherwise stop the build.
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
    """The patches of patches/series.in that are for this version, in order; `ValueError` on a line it cannot read."""
    upstream = Version(upstream_version)
    return tuple(
        name
        for name, ranges in _lines(series)
        if all(_RELATIONS[relation](upstream, Version(version)) for relation, version in ranges)
    )


def ranges_of(series: str) -> dict[str, list[list[tuple[str, str]]]]:
    """Return the versions that each patch of patches/series.in is for: of each of its lines, the limits (">=", "4.4~").

    Raises ValueError on a line that cannot be read.
    """
    found: dict[str, list[list[tuple[str, str]]]] = {}
    for name, ranges in _lines(series):
        found.setdefault(name, []).append(ranges)
    return found


def _lines(series: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for line in series.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _SERIES_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{SERIES}: not a patch and its versions: {line}")
        yield match["name"], re.findall(r"\((\S+) (\S+)\)", match["ranges"])


def _templates(templates: Path, majors: tuple[int, ...], facts: Mapping[str, object]) -> Iterator[tuple[str, File]]:
    for path in sorted(templates.rglob("*")):
        if not path.is_file():
            continue
        name, file = path.relative_to(templates).as_posix(), File.read(path)
        if name.endswith(TEMPLATE_SUFFIX):
            name = _template(name.removesuffix(TEMPLATE_SUFFIX)).render(facts)
            file = File(_template(file.content.decode()).render(facts).encode(), file.mode)
        if PER_MAJOR not in name:
            yield name, file
            continue
        for major in map(str, majors):
            content = file.content.replace(PER_MAJOR.encode(), major.encode())
            yield name.replace(PER_MAJOR, major), File(content, file.mode)


@cache
def _template(text: str) -> Template:
    """Compiled once for all releases."""
    return _ENVIRONMENT.from_string(text)


def _unused_patches(files: dict[str, File], series: tuple[str, ...]) -> list[str]:
    used = {f"patches/{name}" for name in series}
    missing = used - files.keys()
    if missing:
        raise ValueError(f"{SERIES} names patches that are not there: {', '.join(sorted(missing))}")
    return [name for name in files if name.endswith(".patch") and name not in used]


def _text(content: str) -> File:
    return File(content.encode(), 0o644)
