"""Make the source package pgpool2-cluster, a native package with this checkout's own programs for servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, Revision

from . import debianize, known_faults
from .debianize import PackageFile, Packaging
from .source_package import SourcePackage

NAME = "pgpool2-cluster"
OLDEST_RELEASE = 12
"""Debian's number of the first release whose Python is new enough: bookworm, with 3.11."""
FOLDERS = ("config-templates", "scripts")
DOCUMENTS = ("docs/reference/cluster.yml.md",)


def own_files(checkout: Path) -> dict[str, PackageFile]:
    """Return the checkout's files for the package by path, without those that Python and editors leave there.

    Raises UsageError for a file that cannot be read.
    """
    try:
        paths = [path for folder in FOLDERS for path in sorted(_files_below(checkout / folder))]
        paths += [checkout / name for name in DOCUMENTS]
        return {path.relative_to(checkout).as_posix(): PackageFile.read(path) for path in paths}
    except OSError as error:
        hint = "run this command as a user who may read the whole checkout"
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}", hint=hint) from error


def _files_below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name.endswith("~") or path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from _files_below(path)
        else:
            yield path


def render(templates: Path, packaging: Packaging) -> dict[str, PackageFile]:
    """Return debian/ of pgpool2-cluster by path; raises what `debianize.render` raises."""
    modules = [f"postgresql-{major}-pgpool2" for major in sorted(packaging.majors, reverse=True)]
    return debianize.render(templates, packaging, {"modules": modules})


def source_package(release: Release, revision: Revision, project: Project) -> SourcePackage:
    """Return pgpool2-cluster for a release. It works with all majors, so the requested ones do not matter.

    Raises UsageError if a file of the checkout cannot be read.
    """
    packaging = Packaging(
        source=NAME,
        upstream_version=project.version,
        debian_version=f"{project.version}+{release.suffix}",
        release=release.name,
        release_number=release.number,
        distribution=release.distribution,
        majors=release.postgresql,
        timestamp=revision.timestamp,
        changes=(f"Version {project.version} for Debian {release.name}.",),
    )
    debian = render(project.templates(NAME), packaging)
    return SourcePackage(
        release=release,
        name=f"{release.name}-{NAME}",
        source=NAME,
        debian_version=packaging.debian_version,
        files=own_files(project.path)
        | {known_faults.NAME: PackageFile(known_faults.table(project).encode(), 0o644)}
        | {f"debian/{path}": file for path, file in debian.items()},
        orig=None,
        tools=("build-essential",),
        log=f"{NAME}.build.log",
    )
