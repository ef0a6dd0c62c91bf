"""Turn the user's request into cells: the source packages to build for each release.

Reading order of a build: plan.py; packages/pgpool2.py and packages/pgpool2_cluster.py (the source packages);
workshop.py (builds one cell); schedule.py (builds all cells); runs/report.py (reports the results).
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable, Revision
from pgpool_deb.packages import pgpool2, pgpool2_cluster
from pgpool_deb.packages.patches import EVERY, Fit
from pgpool_deb.packages.source_package import SourcePackage
from pgpool_deb.upstream.sources import Source

ENGINES = ("auto", "docker", "chroot")


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """The parsed options of `./invoke build-deb`."""

    releases: tuple[str, ...] = ()
    majors: tuple[int, ...] = ()
    pgpool: str | None = None
    source: Path | None = None
    engine: str = "auto"
    endpoints: tuple[str, ...] = ()
    jobs: int = 1
    mirror: str | None = None
    install: bool = True
    stall: float = 600.0
    strict: bool = False


@dataclass(frozen=True, eq=False)
class Cell:
    """The packages of a release: a version of pgpool-II for an architecture and majors, and the cluster package."""

    release: Release
    architecture: str
    pgpool: str
    """pgpool-II's version."""
    majors: tuple[int, ...]
    packages: tuple[SourcePackage, ...]
    """pgpool2 first, then the release's other packages; each is built independently of the others."""
    fit: Fit = EVERY
    """How our patches fit this pgpool-II."""

    @property
    def name(self) -> str:
        """The name of the cell, and of the build of its pgpool2, on the screen and in file names."""
        return self.pgpool2.name

    @property
    def pgpool2(self) -> SourcePackage:
        """The source package of pgpool-II itself."""
        return self.packages[0]


def parse_releases(text: str | None) -> tuple[str, ...]:
    """Parse `trixie,sid`; raises UsageError for an empty name."""
    return tuple(_words("--release", text))


def parse_majors(text: str | None) -> tuple[int, ...]:
    """Parse `15,17`; raises UsageError for a word that is not a PostgreSQL major."""
    majors = _words("--pg", text)
    for major in majors:
        if not re.fullmatch(r"[1-9][0-9]", major):
            raise UsageError(
                f"--pg {major} is not a PostgreSQL major", hint="use whole numbers, for example --pg 15,17"
            )
    return tuple(sorted({int(major) for major in majors}))


def parse_endpoints(text: str | None) -> tuple[str, ...]:
    """Parse `farm1,tcp://farm2:2376` without duplicates; raises UsageError for an empty name."""
    return tuple(dict.fromkeys(_words("--endpoint", text)))


def _words(option: str, text: str | None) -> list[str]:
    if text is None:
        return []
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} {text!r} contains an empty name", hint=f"separate names by commas: {option} A,B")
    return words


def majors_of(release: Release, requested: tuple[int, ...]) -> tuple[int, ...]:
    """Return the majors to build for `release`: the requested ones, which its row must list, or all of its row."""
    unknown = [major for major in requested if major not in release.postgresql]
    if unknown:
        listed = ", ".join(map(str, release.postgresql))
        raise UsageError(
            f"PostgreSQL {unknown[0]} is not available for {release.name}",
            hint=f"packaging/releases.toml lists {listed} there; an extra apt source in that row offers more",
        )
    return requested or release.postgresql


def machine_architecture() -> str:
    """Return dpkg's name for this machine's architecture."""
    try:
        answer = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineError("dpkg is not installed", hint="run this tool on Debian") from error
    return answer.stdout.strip()


def cells(  # noqa: PLR0913, PLR0917 - the inputs of the cells
    request: BuildRequest,
    table: ReleaseTable,
    source: Source,
    machine: str,
    project: Project,
    fit: Fit = EVERY,
) -> tuple[Cell, ...]:
    """Return the cells of a request, one per release; reads only the machine's architecture and the checkout's files.

    Raises UsageError if a release lacks a requested major, or if a file of the checkout cannot be read.
    """
    architecture = machine_architecture()
    releases = table.select(request.releases, machine)
    revision = table.revision
    return tuple(_cell(release, architecture, request.majors, revision, source, project, fit) for release in releases)


def _cell(  # noqa: PLR0913, PLR0917 - the inputs of the cell
    release: Release,
    architecture: str,
    requested: tuple[int, ...],
    revision: Revision,
    source: Source,
    project: Project,
    fit: Fit,
) -> Cell:
    majors = majors_of(release, requested)
    name = f"{release.name}-{architecture}-{source.version}"
    templates = project.templates(pgpool2.NAME)
    packages = [pgpool2.source_package(name, release, source, majors, revision, templates, fit)]
    if release.number >= pgpool2_cluster.OLDEST_RELEASE:
        packages.append(pgpool2_cluster.source_package(release, revision, project))
    return Cell(release, architecture, source.version, majors, tuple(packages), fit)
