"""A workshop with its own cache and dist/, whose boxes contain small packages instead of compiled ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pgpool_deb.boxes.box import Box
from pgpool_deb.boxes.roots import Root, Roots
from pgpool_deb.builds.farm import Farm
from pgpool_deb.builds.plan import Cell
from pgpool_deb.builds.results import Dist, Results
from pgpool_deb.builds.workshop import Outcome, Workshop
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import Runner, Stop
from pgpool_deb.ground.releases import Release, State
from pgpool_deb.packages.debianize import PackageFile
from pgpool_deb.packages.source_package import SourcePackage
from pgpool_deb.runs.small_packages import upload

RELEASE = Release("trixie", 13, State.SUPPORTED, "trixie", (17,), ("trixie",), True, None, ())
VERSION = "4.7.2-50+deb13+1"
PACKAGES = ("gcc=14", "libpq-dev=17")
"""The packages of the builder root."""
STALL = 600.0


def package(source: str = "pgpool2", *, name: str = "trixie-amd64-4.7.2", rules: bytes = b"") -> SourcePackage:
    """Return a source package that builds one binary package of the same name."""
    control = f"Source: {source}\nBuild-Depends: debhelper-compat (= 13),\n libpq-dev,\n\nPackage: {source}\n"
    files = {"debian/control": PackageFile(control.encode(), 0o644), "debian/rules": PackageFile(rules, 0o755)}
    return SourcePackage(RELEASE, name, source, VERSION, files, None, ("ccache",), f"{source}.log")


def cell(*packages: SourcePackage) -> Cell:
    """Return a cell of these packages, or of one."""
    return Cell(RELEASE, "amd64", "4.7.2", (17,), packages or (package(),))


@dataclass(slots=True)
class BuildingEngine:
    """An engine whose builds print `output`, raise `fault`, and leave the files that `leave` writes."""

    output: Sequence[str] = ()
    fault: BaseException | None = None
    leave: Callable[[Path, str], object] = lambda folder, source: upload(folder, VERSION, source=source)
    place: str = ""
    name: str = "docker"
    cores: int = 2
    did: list[str] = field(default_factory=list)

    def box(self, root: Root, name: str, runner: Runner, trust: str = "") -> Box:
        return BuildingBox(self)

    def forget(self, name: str) -> None:
        self.did.append(f"forget {name}")


@dataclass(slots=True)
class BuildingBox:
    engine: BuildingEngine
    source: str = ""

    def put(self, source: Path) -> None:
        self.engine.did.append(f"put {' '.join(sorted(path.name for path in source.iterdir()))}")

    def run(self, argv: Sequence[str], runner: Runner) -> None:
        runner.stop.check()
        self.source = argv[2]
        self.engine.did.append(f"{argv[1]} {self.source}")
        with runner.log.open("a", encoding="utf-8") as log:
            for line in self.engine.output:
                runner.take(line, log)
        if self.engine.fault is not None:
            raise self.engine.fault

    def get(self, destination: Path) -> None:
        self.engine.leave(destination, self.source)

    def shell(self) -> list[str]:
        return ["enter", self.source]

    def remove(self) -> None:
        self.engine.did.append("remove")


@dataclass(slots=True)
class ReadyRoots:
    """Roots that exist; `old` says that their records are too old to be current."""

    old: bool = False
    packages: tuple[str, ...] = PACKAGES
    fault: BaseException | None = None

    def current(self, release: Release, dependencies: Collection[str] = ()) -> Root | None:
        return None if self.old else Root(release.name, "key", (), self.packages)

    def obtain(self, release: Release, dependencies: Collection[str], runner: Runner) -> Root:
        if self.fault is not None:
            raise self.fault
        return Root(release.name, "key", (), self.packages)


@dataclass(slots=True)
class Notes:
    """A watcher that remembers the stages and the outcomes."""

    stages: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def stage(self, package: SourcePackage, stage: str, log: Path) -> None:
        self.stages.append(f"{stage}")

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def shop(tmp_path: Path, *engines: BuildingEngine, roots: ReadyRoots | None = None) -> tuple[Workshop, Notes]:
    """Return a workshop over the cache and dist/ in `tmp_path`, with the watcher's notes."""
    cache, notes = Cache(tmp_path / "cache"), Notes()
    farm = Farm(lambda: engines or (BuildingEngine(),), print)
    known = cast("Roots", roots or ReadyRoots())
    made = Workshop(cache, known, Results(cache), Dist(tmp_path / "dist"), farm, notes, Stop(), STALL)
    return made, notes


def over(workshop: Workshop, **changes: Any) -> Workshop:
    """Return the same workshop with other parts, as a later run has them."""
    return replace(workshop, **changes)
