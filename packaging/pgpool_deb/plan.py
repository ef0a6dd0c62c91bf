"""From what the user asked for to cells: which source packages are to be built for which releases.

Reading order of a build: plan.py, pgpool2.py and pgpool2_cluster.py (what each is made from), workshop.py (one of
them), schedule.py (all of them), report.py (what came of the cells).
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import pgpool2, pgpool2_cluster
from .errors import MachineError, UsageError
from .patches import EVERY, Fit
from .project import Project
from .releases import Release, ReleaseTable, Revision
from .source_package import SourcePackage
from .sources import Source

ENGINES = ("auto", "docker", "chroot")


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `./invoke build-deb`, parsed."""

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
    """What a release gets: pgpool-II of one version for one architecture, its majors inside, and what runs clusters."""

    release: Release
    architecture: str
    pgpool: str
    """pgpool-II's version."""
    majors: tuple[int, ...]
    packages: tuple[SourcePackage, ...]
    """pgpool2 first, then what else the release gets; each is built independently of the others."""
    fit: Fit = EVERY
    """Which of our patches pgpool-II gets."""

    @property
    def name(self) -> str:
        """How the cell, and the build of its pgpool2, is called on the screen and in file names."""
        return self.pgpool2.name

    @property
    def pgpool2(self) -> SourcePackage:
        """pgpool-II itself."""
        return self.packages[0]


def parse_releases(text: str | None) -> tuple[str, ...]:
    """Read `trixie,sid`; raises UsageError for an empty name."""
    return tuple(_words("--release", text))


def parse_majors(text: str | None) -> tuple[int, ...]:
    """Read `15,17`; raises UsageError for what is no PostgreSQL major."""
    majors = _words("--pg", text)
    for major in majors:
        if not re.fullmatch(r"[1-9][0-9]", major):
            raise UsageError(f"--pg {major} is no PostgreSQL major", hint="majors are whole numbers: --pg 15,17")
    return tuple(sorted({int(major) for major in majors}))


def parse_endpoints(text: str | None) -> tuple[str, ...]:
    """Read `farm1,tcp://farm2:2376`, each one once; raises UsageError for an empty name."""
    return tuple(dict.fromkeys(_words("--endpoint", text)))


def _words(option: str, text: str | None) -> list[str]:
    if text is None:
        return []
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} {text!r} has an empty name in it", hint=f"names joined by commas: {option} A,B")
    return words


def majors_of(release: Release, asked: tuple[int, ...]) -> tuple[int, ...]:
    """Return the majors to build for `release`: those asked for, which its row must list, or all of the row."""
    unknown = [major for major in asked if major not in release.postgresql]
    if unknown:
        listed = ", ".join(map(str, release.postgresql))
        raise UsageError(
            f"PostgreSQL {unknown[0]} is not available for {release.name}",
            hint=f"packaging/releases.toml lists {listed} there; an extra apt source in that row brings more",
        )
    return asked or release.postgresql


def machine_architecture() -> str:
    """Return dpkg's name of this machine's architecture."""
    try:
        answer = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineError("dpkg is not on this machine", hint="this tool runs on Debian") from error
    return answer.stdout.strip()


def cells(  # noqa: PLR0913, PLR0917 - all that they are made from
    request: Request,
    table: ReleaseTable,
    source: Source,
    machine: str,
    project: Project,
    fit: Fit = EVERY,
) -> tuple[Cell, ...]:
    """Return the cells of a request, one a release; pure but for the machine's architecture and the checkout's files.

    Raises UsageError where a release lacks a major that is asked for, or a file of the checkout cannot be read.
    """
    architecture = machine_architecture()
    releases = table.select(request.releases, machine)
    revision = table.revision
    return tuple(_cell(release, architecture, request.majors, revision, source, project, fit) for release in releases)


def _cell(  # noqa: PLR0913, PLR0917 - all that it is made from
    release: Release,
    architecture: str,
    asked: tuple[int, ...],
    revision: Revision,
    source: Source,
    project: Project,
    fit: Fit,
) -> Cell:
    majors = majors_of(release, asked)
    name = f"{release.name}-{architecture}-{source.version}"
    templates = project.templates(pgpool2.NAME)
    packages = [pgpool2.source_package(name, release, source, majors, revision, templates, fit)]
    if release.number >= pgpool2_cluster.OLDEST_RELEASE:
        packages.append(pgpool2_cluster.source_package(release, revision, project))
    return Cell(release, architecture, source.version, majors, tuple(packages), fit)
