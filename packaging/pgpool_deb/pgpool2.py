"""The source package pgpool2: pgpool-II itself, and what of its debian/ depends on upstream's version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from debian.debian_support import Version

from . import debianize
from .debianize import SERIES, File, Packaging, selected_patches
from .patches import EVERY, Fit
from .releases import Release, Revision
from .source_package import SourcePackage
from .sources import Source

NAME = "pgpool2"
PATCH_LIST = "patches.json"
"""In debian/, and in /usr/share/pgpool2 of a server, where pgpool2-cluster reads it."""
NOTIFIES = "notify-ready.patch"
"""With it, pgpool-II tells systemd when it serves clients."""


@dataclass(frozen=True, slots=True)
class Library:
    """The control protocol library as upstream's version makes it (src/libs/pcp/Makefile.am)."""

    stem: str
    """lib<stem>.so."""
    soversion: int
    package: str
    """The binary package's name, Debian's own where Debian has one."""
    since: str
    """The first version with this soname that we package: the least one that a program linked with it needs."""

    @property
    def shares_name_with_pcp(self) -> bool:
        """Performance Co-Pilot's libpcp3-dev has files of the same name."""
        return self.stem == "pcp"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Names of configuration parameters that upstream has changed."""

    sockets: str
    state_directory: str


def library_of(upstream: Version) -> Library:
    """The library that this pgpool-II builds. Renamed in 4.7.1, after 4.7.0 had raised the soname to 3."""
    if upstream >= Version("4.7.1~"):
        return Library("pgpoolpcp", 3, "libpgpoolpcp3", "4.7.1~")
    if upstream >= Version("4.7~"):
        return Library("pcp", 3, "libpgpool3", "4.7~")
    return Library("pcp", 2, "libpgpool2", "4.3~")


def parameters_of(upstream: Version) -> Parameters:
    """The parameter names of this pgpool-II: `socket_dir` until 4.3, `logdir` until 4.6."""
    return Parameters(
        sockets="unix_socket_directories" if upstream >= Version("4.4~") else "socket_dir",
        state_directory="work_dir" if upstream >= Version("4.7~") else "logdir",
    )


def build_depends_of(packaging: Packaging) -> tuple[str, ...]:
    """What modules for the packaging's majors are built with.

    pg_buildext and its make files are in postgresql-common-dev (postgresql-common >= 269); in bookworm and bullseye
    the make file is in postgresql-server-dev-all.
    """
    pg_buildext = "postgresql-common-dev" if packaging.release_number >= 13 else "postgresql-server-dev-all"
    return (pg_buildext, *(f"postgresql-server-dev-{major}" for major in packaging.majors))


def render(templates: Path, packaging: Packaging, fit: Fit = EVERY) -> dict[str, File]:
    """debian/ of pgpool2 by path, with the patches that fit; raises as `debianize.render` does."""
    upstream = Version(packaging.upstream_version)
    facts = {
        "library": library_of(upstream),
        "parameters": parameters_of(upstream),
        "postgresql_build_depends": build_depends_of(packaging),
        "left_out": fit.left_out,
        "notifies": all(f"{patch.name}.patch" != NOTIFIES for patch in fit.left_out),
    }
    files = debianize.render(templates, packaging, facts, fit.names)
    files[PATCH_LIST] = File(_patch_list(templates, packaging, fit).encode(), 0o644)
    return dict(sorted(files.items()))


def _patch_list(templates: Path, packaging: Packaging, fit: Fit) -> str:
    """Return what tells programs which patches the package has (docs/reference/packages.md)."""
    chosen = selected_patches((templates / SERIES).read_text(encoding="utf-8"), packaging.upstream_version)
    listed = {
        "pgpool": packaging.upstream_version,
        "proved": fit.proved,
        "patches": [name.removesuffix(".patch") for name in chosen if name not in fit.names],
        "upstream": [patch.name for patch in fit.upstream],
        "left_out": {patch.name: patch.without for patch in fit.left_out},
    }
    return json.dumps(listed, indent=2) + "\n"


def _changes(source: Source, release: Release, fit: Fit) -> tuple[str, ...]:
    unproved = () if fit.proved else ("This version has not passed the tests of these packages.",)
    missing = (f"{patch.name}.patch does not fit and is left out: {patch.without}." for patch in fit.left_out)
    return (f"pgpool-II {source.version} for Debian {release.name}.", *unproved, *missing)


def source_package(  # noqa: PLR0913, PLR0917 - all that it is made from
    name: str,
    release: Release,
    source: Source,
    majors: tuple[int, ...],
    revision: Revision,
    templates: Path,
    fit: Fit = EVERY,
) -> SourcePackage:
    """Return pgpool2 for a release. Its time is the later one of source and packaging."""
    packaging = Packaging(
        source=NAME,
        upstream_version=source.version,
        debian_version=f"{source.version}-{revision.of(release)}",
        release=release.name,
        release_number=release.number,
        distribution=release.distribution,
        majors=majors,
        timestamp=max(revision.timestamp, source.date),
        changes=_changes(source, release, fit),
    )
    return SourcePackage(
        release=release,
        name=name,
        source=NAME,
        debian_version=packaging.debian_version,
        files={f"debian/{path}": file for path, file in render(templates, packaging, fit).items()},
        orig=source,
        tools=("build-essential", "ccache"),
        log="build.log",
    )
