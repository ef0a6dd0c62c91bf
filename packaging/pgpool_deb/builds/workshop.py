"""Build a cell: for each source package builder root → box → dpkg-buildpackage → checks; then dist/<release>/."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pgpool_deb.boxes.box import Box, Engine
from pgpool_deb.boxes.roots import Root, Roots
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed, CommandStalled, Runner, Stop, Stopped
from pgpool_deb.ground.errors import MachineError, PackageError, ToolkitError
from pgpool_deb.packages import fingerprint
from pgpool_deb.packages.source_package import SourcePackage

from . import inspect_packages
from .farm import Farm
from .plan import Cell
from .results import Dist, Results


class DiskFullError(MachineError):
    """A build or its result needs more disk space than is free."""


INTERRUPTED = MachineError("interrupted", hint="run the same command again to continue")


class BuildStage(StrEnum):
    """The stages of a build, in their order."""

    WAITING = "waiting"
    ROOT = "root"
    SOURCE = "source"
    COMPILE = "compile"
    PACKAGE = "package"
    CHECK = "check"
    DONE = "done"


class BuildState(StrEnum):
    """How a build ended."""

    BUILT = "built"
    UNCHANGED = "unchanged"
    FAILED = "failed"


_MARKS = (
    (re.compile(r"dpkg-source: info: building"), BuildStage.SOURCE),
    (re.compile(r"^\s*debian/rules (override|execute_(before|after))_dh_auto_build"), BuildStage.COMPILE),
    (re.compile(r"^\s*dh_prep"), BuildStage.PACKAGE),
)
_FIRST_ERROR = re.compile(
    r"(^|[\s:])(fatal )?error[: ]|\*\*\* |^dpkg-\S+: error|^E: "
    r"|undefined reference|cannot find -l|No space left on device"
)
_DISK_FULL = re.compile(r"No space left on device|ENOSPC")


class Watcher(Protocol):
    """Follows the progress of builds; several threads call it."""

    def stage(self, package: SourcePackage, stage: BuildStage, log: Path) -> None:
        """Note that the build of `package` enters `stage`; its log is being written."""

    def ended(self, outcome: Outcome) -> None:
        """Note that a build has ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one package.

    `files` are in the folder `origin`. If the build failed, `stage` and `error` say where and why.
    """

    package: SourcePackage
    state: BuildState
    seconds: float
    log: Path
    files: dict[str, str] = field(default_factory=dict)
    origin: Path = Path()
    stage: BuildStage = BuildStage.DONE
    error: ToolkitError | None = None
    endpoint: str = ""
    """The endpoint that built it, if the user named endpoints."""
    shell: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """The outcome of a cell: the outcomes of its packages in order, up to the first failure."""

    cell: Cell
    outcomes: tuple[Outcome, ...]

    @property
    def last(self) -> Outcome:
        """The last outcome, which is the failure if there is one."""
        return self.outcomes[-1]

    @property
    def state(self) -> BuildState:
        """`failed` if a package failed, else `built` if one was built, else `unchanged`."""
        states = {outcome.state for outcome in self.outcomes}
        return next(state for state in (BuildState.FAILED, BuildState.BUILT, BuildState.UNCHANGED) if state in states)

    @property
    def seconds(self) -> float:
        """The total time of its packages."""
        return sum(outcome.seconds for outcome in self.outcomes)

    @property
    def endpoints(self) -> dict[str, str]:
        """Source package to the endpoint that built it or failed; packages built without an endpoint are left out."""
        return {outcome.package.source: outcome.endpoint for outcome in self.outcomes if outcome.endpoint}

    @property
    def log(self) -> Path:
        """The log to read first."""
        return self.last.log if self.state is BuildState.FAILED else self.outcomes[0].log

    @property
    def files(self) -> dict[str, str]:
        """Name to SHA-256 of all files in dist/; empty if a package failed."""
        good = () if self.state is BuildState.FAILED else self.outcomes
        return dict(sorted((name, sha256) for outcome in good for name, sha256 in outcome.files.items()))


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything that a build needs; the building threads share it."""

    cache: Cache
    roots: Roots
    results: Results
    dist: Dist
    farm: Farm
    watcher: Watcher
    stop: Stop
    stall: float

    def unchanged(self, cell: Cell) -> CellOutcome | None:
        """Return the outcome of a cell that needs no build, None if it needs one; reads only records.

        Raises MachineError if dist/ cannot be written.
        """
        outcomes = []
        for package in cell.packages:
            outcome = self._unchanged(package)
            if outcome is None:
                return None
            outcomes.append(outcome)
        return self._delivered(CellOutcome(cell, tuple(outcomes)))

    def build(self, cell: Cell) -> CellOutcome:
        """Build the changed packages of a cell. The outcome contains every failure; dist/ gets only complete cells."""
        outcomes: list[Outcome] = []
        for package in cell.packages:
            outcomes.append(self._unchanged(package) or _Job(self, package).work())
            self.watcher.ended(outcomes[-1])
            if outcomes[-1].error:
                return CellOutcome(cell, tuple(outcomes))
        try:
            return self._delivered(CellOutcome(cell, tuple(outcomes)))
        except MachineError as error:
            log = self.log(outcomes[-1].package)
            outcomes[-1] = replace(outcomes[-1], state=BuildState.FAILED, stage=BuildStage.CHECK, log=log, error=error)
            return CellOutcome(cell, tuple(outcomes))

    def _unchanged(self, package: SourcePackage) -> Outcome | None:
        """Return the outcome of a package whose result is in the cache, else None; reads only records."""
        began = time.monotonic()
        root = self.roots.current(package.release, package.dependencies)
        if root is None:
            return None
        inputs = package.inputs(root.packages)
        files = self.results.find(inputs)
        if files is None:
            return None
        return self.good(package, BuildState.UNCHANGED, began, files, inputs)

    def good(
        self, package: SourcePackage, state: BuildState, began: float, files: dict[str, str], inputs: fingerprint.Inputs
    ) -> Outcome:
        """Return the outcome of a package whose `files` are the result of `inputs`."""
        log = self.dist.path / package.release.name / package.log
        return Outcome(package, state, time.monotonic() - began, log, files, self.results.folder(inputs))

    def log(self, package: SourcePackage) -> Path:
        """Return the path of the log of the last build of `package`."""
        return self.cache.folder("logs") / f"{package.name}.log"

    def _delivered(self, built: CellOutcome) -> CellOutcome:
        """Put the packages of a cell into dist/ unless they are there; raises MachineError."""
        for outcome in built.outcomes:
            place = built.cell.release.name, outcome.package.source, outcome.files
            if not self.dist.holds(*place):
                self.dist.lay_down(*place, outcome.origin)
        return built

    def explain(self, package: SourcePackage) -> list[str]:
        """Return lines that say whether a package would be built and why; reads only records."""
        root = self.roots.current(package.release, package.dependencies)
        before = self.results.last_inputs(package.name)
        if root is None:
            return ["will be built: its builder root is missing or was last compared with the archive over a week ago"]
        inputs = package.inputs(root.packages)
        if self.results.find(inputs) is not None:
            return [f"unchanged: all {len(inputs)} inputs are the same"]
        if before is None:
            return ["will be built: it has not been built before"]
        changed = list(fingerprint.differences(before, inputs))
        return [f"will be built: {line}" for line in changed] or ["will be built: the cache no longer has its files"]


@dataclass(slots=True)
class _Job:
    """The build of one package."""

    shop: Workshop
    package: SourcePackage
    stage: BuildStage = BuildStage.WAITING
    first_error: str = ""
    box: Box | None = None
    endpoint: str = ""

    def work(self) -> Outcome:
        began = time.monotonic()
        log = self.shop.log(self.package)
        try:
            log.unlink(missing_ok=True)
            log.touch()
            return self._build(log, began)
        except Stopped:
            return self._failed(began, log, INTERRUPTED)
        except ToolkitError as error:
            return self._failed(began, log, error)
        except CommandFailed as failure:
            return self._failed(began, log, self._explained(failure))
        except OSError as error:
            return self._failed(began, log, _machine_fault(error))

    def _build(self, log: Path, began: float) -> Outcome:
        runner = Runner(log, self.shop.stop, self.shop.stall, on_line=self._listen)
        self._enter(BuildStage.ROOT)
        root = self.shop.roots.obtain(self.package.release, self.package.dependencies, runner)
        inputs = self.package.inputs(root.packages)
        while (files := self._built(root, inputs, runner)) is None:
            self.first_error = ""
        outcome = self.shop.good(self.package, BuildState.BUILT, began, files, inputs)
        return replace(outcome, endpoint=self.endpoint)

    def _built(self, root: Root, inputs: fingerprint.Inputs, runner: Runner) -> dict[str, str] | None:
        """Build with a free engine; return None if that engine failed and another one should try."""
        with self.shop.farm.engine_for(self.package.name) as engine:
            self.endpoint = engine.place
            try:
                return self._built_by(engine, root, inputs, runner)
            except (MachineError, CommandFailed) as error:
                fault = self._explained(error) if isinstance(error, CommandFailed) else error
                stalled = isinstance(error, CommandStalled)  # the package is as likely at fault as the engine
                if stalled or not isinstance(fault, MachineError) or not self.shop.farm.goes_on_without(engine, fault):
                    raise
                with runner.log.open("a", encoding="utf-8") as log:
                    log.write(f"# {engine.place} failed: {fault.message}\n")
                self._discard_box()
                return None

    def _built_by(self, engine: Engine, root: Root, inputs: fingerprint.Inputs, runner: Runner) -> dict[str, str]:
        self._enter(BuildStage.SOURCE)
        with tempfile.TemporaryDirectory(dir=self.shop.cache.folder("boxes"), prefix=".in-") as place:
            self.package.lay_out(Path(place))
            self.box = engine.box(root, self.package.name, runner, self.package.trust)
            self.box.put(Path(place))
        self.box.run(["/build/recipe", "build", self.package.source, str(engine.cores), root.key], runner)
        self._enter(BuildStage.CHECK)
        files = self._collect(inputs, runner.log)
        self.box.remove()
        return files

    def _discard_box(self) -> None:
        """Remove the box if its engine still answers; otherwise the engine's next use removes it."""
        if self.box is not None:
            with suppress(MachineError):
                self.box.remove()
            self.box = None

    def _collect(self, inputs: fingerprint.Inputs, log: Path) -> dict[str, str]:
        assert self.box is not None  # noqa: S101 - for the type checker
        with tempfile.TemporaryDirectory(dir=self.shop.cache.folder("boxes"), prefix=".out-") as place:
            out = Path(place)
            self.box.get(out)
            changes = sorted(out.glob("*.changes"))
            if len(changes) != 1:
                raise PackageError("the build left no .changes file", hint=f"read {log}")
            version, binaries = self.package.debian_version, self.package.binaries
            kept = inspect_packages.check(changes[0], version=version, binaries=binaries)
            for path in out.iterdir():
                if path not in kept:
                    path.unlink()
            shutil.copyfile(log, out / self.package.log)
            return self.shop.results.keep(self.package.name, inputs, out)

    def _enter(self, stage: BuildStage) -> None:
        self.stage = stage
        self.shop.watcher.stage(self.package, stage, self.shop.log(self.package))

    def _listen(self, line: str) -> None:
        for mark, stage in _MARKS:
            if mark.search(line) and stage is not self.stage:
                self._enter(stage)
        if not self.first_error and self.stage in (BuildStage.SOURCE, BuildStage.COMPILE, BuildStage.PACKAGE):
            self.first_error = line.strip() if _FIRST_ERROR.search(line) else ""

    def _explained(self, failure: CommandFailed) -> ToolkitError:
        lines = [self.first_error, *failure.lines]
        if isinstance(failure, CommandStalled):
            return MachineError(
                f"{self.stage}: the build printed nothing for {self.shop.stall:.0f} s and was stopped",
                hint="read the end of the log, or allow more time with --stall SECONDS",
            )
        if any(_DISK_FULL.search(line) for line in lines):
            return _disk_full()
        reason = self.first_error or next((line for line in reversed(failure.lines) if line.strip()), str(failure))
        return PackageError(reason.strip(), hint="read the log, or open the failed root with the shell command")

    def _failed(self, began: float, log: Path, error: ToolkitError) -> Outcome:
        if self.box and isinstance(error, DiskFullError):
            self._discard_box()  # it is of no use for debugging, and it fills the disk
        shell = tuple(self.box.shell()) if self.box and error is not INTERRUPTED else ()
        took = time.monotonic() - began
        failed = Outcome(self.package, BuildState.FAILED, took, log, stage=self.stage, error=error, shell=shell)
        return replace(failed, endpoint=self.endpoint)


def _disk_full() -> DiskFullError:
    return DiskFullError(
        "no space left on the device while building",
        hint="free some space, or move the cache with PGPOOL_DEB_CACHE=/path, and run the command again",
    )


def _machine_fault(error: OSError) -> MachineError:
    """Return the error for one of our own file operations; shutil.copytree hides it in a list of (from, to, reason)."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or _DISK_FULL.search(str(error)):
        return _disk_full()
    where = f"{error.filename}: " if error.filename else ""
    return MachineError(f"{where}{error.strerror or error}", hint="fix the cause, then run the same command again")
