"""Make the source package pgpool2, which is pgpool-II itself; parts of its debian/ depend on upstream's version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from debian.debian_support import Version

from pgpool_deb.ground.releases import Release, Revision
from pgpool_deb.upstream.sources import Source

from . import debianize
from .debianize import SERIES, PackageFile, Packaging, selected_patches
from .patches import EVERY, Fit
from .source_package import SourcePackage

NAME = "pgpool2"
PATCH_LIST = "patches.json"
"""The list's file name in debian/, and in /usr/share/pgpool2 on a server, where pgpool2-cluster reads it."""
NOTIFIES = "notify-ready.patch"
"""With this patch, pgpool-II notifies systemd when it is ready to serve clients."""


@dataclass(frozen=True, slots=True)
class Library:
    """The control protocol library as upstream's version builds it (src/libs/pcp/Makefile.am)."""

    stem: str
    """lib<stem>.so."""
    soversion: int
    package: str
    """The binary package's name; it is Debian's own if Debian has one."""
    since: str
    """The first packaged version with this soname, which is the minimum for programs linked with it."""

    @property
    def shares_name_with_pcp(self) -> bool:
        """Whether Performance Co-Pilot's libpcp3-dev has files of the same names."""
        return self.stem == "pcp"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Names of the configuration parameters that upstream has renamed."""

    sockets: str
    state_directory: str


def library_of(upstream: Version) -> Library:
    """Return the library that this pgpool-II builds. 4.7.1 renamed it, after 4.7.0 had raised the soname to 3."""
    if upstream >= Version("4.7.1~"):
        return Library("pgpoolpcp", 3, "libpgpoolpcp3", "4.7.1~")
    if upstream >= Version("4.7~"):
        return Library("pcp", 3, "libpgpool3", "4.7~")
    return Library("pcp", 2, "libpgpool2", "4.3~")


def parameters_of(upstream: Version) -> Parameters:
    """Return the parameter names of this pgpool-II: `socket_dir` until 4.3, `logdir` until 4.6."""
    return Parameters(
        sockets="unix_socket_directories" if upstream >= Version("4.4~") else "socket_dir",
        state_directory="work_dir" if upstream >= Version("4.7~") else "logdir",
    )


def build_depends_of(packaging: Packaging) -> tuple[str, ...]:
    """Return the build dependencies of modules for the packaging's majors.

    postgresql-common-dev contains pg_buildext and its make files (postgresql-common >= 269); in bookworm and bullseye,
    postgresql-server-dev-all contains the make file.
    """
    pg_buildext = "postgresql-common-dev" if packaging.release_number >= 13 else "postgresql-server-dev-all"
    return (pg_buildext, *(f"postgresql-server-dev-{major}" for major in packaging.majors))


def render(templates: Path, packaging: Packaging, fit: Fit = EVERY) -> dict[str, PackageFile]:
    """Return debian/ of pgpool2 by path, with the patches that fit; raises what `debianize.render` raises."""
    upstream = Version(packaging.upstream_version)
    facts = {
        "library": library_of(upstream),
        "parameters": parameters_of(upstream),
        "postgresql_build_depends": build_depends_of(packaging),
        "left_out": fit.left_out,
        "notifies": all(f"{patch.name}.patch" != NOTIFIES for patch in fit.left_out),
    }
    files = debianize.render(templates, packaging, facts, fit.names)
    files[PATCH_LIST] = PackageFile(_patch_list(templates, packaging, fit).encode(), 0o644)
    return dict(sorted(files.items()))


def _patch_list(templates: Path, packaging: Packaging, fit: Fit) -> str:
    """Return the list of the package's patches for programs (docs/reference/packages.md)."""
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


def source_package(  # noqa: PLR0913, PLR0917 - the inputs of the package
    name: str,
    release: Release,
    source: Source,
    majors: tuple[int, ...],
    revision: Revision,
    templates: Path,
    fit: Fit = EVERY,
) -> SourcePackage:
    """Return pgpool2 for a release. Its timestamp is the later one of source and packaging."""
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
