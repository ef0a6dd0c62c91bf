"""Build one cell: for each source package builder root → box → dpkg-buildpackage → checks; then dist/<release>/."""

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

from . import fingerprint, inspect_packages
from .box import Box, Engine
from .cache import Cache
from .command import CommandFailed, CommandStalled, Runner, Stop, Stopped
from .errors import MachineError, PackageError, ToolkitError
from .farm import Farm
from .plan import Cell
from .results import Dist, Results
from .roots import Root, Roots
from .source_package import SourcePackage


class DiskFullError(MachineError):
    """A build, or what is kept of it, needs more space than there is."""


INTERRUPTED = MachineError("interrupted", hint="the same command goes on from here")


class Stage(StrEnum):
    """Where a build is, in the order of the work."""

    WAITING = "waiting"
    ROOT = "root"
    SOURCE = "source"
    COMPILE = "compile"
    PACKAGE = "package"
    CHECK = "check"
    DONE = "done"


class State(StrEnum):
    """How a build ended."""

    BUILT = "built"
    UNCHANGED = "unchanged"
    FAILED = "failed"


_MARKS = (
    (re.compile(r"dpkg-source: info: building"), Stage.SOURCE),
    (re.compile(r"^\s*debian/rules (override|execute_(before|after))_dh_auto_build"), Stage.COMPILE),
    (re.compile(r"^\s*dh_prep"), Stage.PACKAGE),
)
_FIRST_ERROR = re.compile(
    r"(^|[\s:])(fatal )?error[: ]|\*\*\* |^dpkg-\S+: error|^E: "
    r"|undefined reference|cannot find -l|No space left on device"
)
_DISK_FULL = re.compile(r"No space left on device|ENOSPC")


class Watcher(Protocol):
    """Who wants to know how builds get on; called from several threads."""

    def stage(self, package: SourcePackage, stage: Stage, log: Path) -> None:
        """The build of `package` enters `stage`; its log is being written."""

    def ended(self, outcome: Outcome) -> None:
        """A build has ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the work on one package ended.

    `files` are kept in the folder `origin`; where it failed, `stage` and `error` say where and why.
    """

    package: SourcePackage
    state: State
    seconds: float
    log: Path
    files: dict[str, str] = field(default_factory=dict)
    origin: Path = Path()
    stage: Stage = Stage.DONE
    error: ToolkitError | None = None
    endpoint: str = ""
    """Where it was built, if endpoints were named."""
    shell: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """How a cell ended: the outcomes of its packages in their order, up to the first one that failed."""

    cell: Cell
    outcomes: tuple[Outcome, ...]

    @property
    def last(self) -> Outcome:
        """The outcome that decided: the failure, if there is one."""
        return self.outcomes[-1]

    @property
    def state(self) -> State:
        """`failed` where a package failed, else `built` where one was built."""
        states = {outcome.state for outcome in self.outcomes}
        return next(state for state in (State.FAILED, State.BUILT, State.UNCHANGED) if state in states)

    @property
    def seconds(self) -> float:
        """What its packages took together, one after the other."""
        return sum(outcome.seconds for outcome in self.outcomes)

    @property
    def endpoints(self) -> dict[str, str]:
        """Source package to the endpoint that built it, or failed to; those that were built elsewhere are left out."""
        return {outcome.package.source: outcome.endpoint for outcome in self.outcomes if outcome.endpoint}

    @property
    def log(self) -> Path:
        """The log to look at first."""
        return self.last.log if self.state is State.FAILED else self.outcomes[0].log

    @property
    def files(self) -> dict[str, str]:
        """Name to SHA-256 of all files in dist/; none where a package failed."""
        good = () if self.state is State.FAILED else self.outcomes
        return dict(sorted((name, sha256) for outcome in good for name, sha256 in outcome.files.items()))


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything that building takes; shared by the threads that build."""

    cache: Cache
    roots: Roots
    results: Results
    dist: Dist
    farm: Farm
    watcher: Watcher
    stop: Stop
    stall: float

    def unchanged(self, cell: Cell) -> CellOutcome | None:
        """Return the outcome of a cell that needs no build, from records alone; starts nothing.

        Raises MachineError where dist/ cannot be written.
        """
        outcomes = []
        for package in cell.packages:
            outcome = self._kept(package)
            if outcome is None:
                return None
            outcomes.append(outcome)
        return self._delivered(CellOutcome(cell, tuple(outcomes)))

    def build(self, cell: Cell) -> CellOutcome:
        """Build what is changed of a cell. Every failure comes back in the outcome; only a whole cell gets to dist/."""
        outcomes: list[Outcome] = []
        for package in cell.packages:
            outcomes.append(self._kept(package) or _Bench(self, package).work())
            self.watcher.ended(outcomes[-1])
            if outcomes[-1].error:
                return CellOutcome(cell, tuple(outcomes))
        try:
            return self._delivered(CellOutcome(cell, tuple(outcomes)))
        except MachineError as error:
            log = self.log(outcomes[-1].package)
            outcomes[-1] = replace(outcomes[-1], state=State.FAILED, stage=Stage.CHECK, log=log, error=error)
            return CellOutcome(cell, tuple(outcomes))

    def _kept(self, package: SourcePackage) -> Outcome | None:
        """Return the outcome of a package whose result is in the cache, from records alone."""
        began = time.monotonic()
        root = self.roots.current(package.release, package.dependencies)
        if root is None:
            return None
        inputs = package.inputs(root.packages)
        files = self.results.find(inputs)
        if files is None:
            return None
        return self.good(package, State.UNCHANGED, began, files, inputs)

    def good(
        self, package: SourcePackage, state: State, began: float, files: dict[str, str], inputs: fingerprint.Inputs
    ) -> Outcome:
        """Return the outcome of a package whose `files` are the result of `inputs`."""
        log = self.dist.path / package.release.name / package.log
        return Outcome(package, state, time.monotonic() - began, log, files, self.results.folder(inputs))

    def log(self, package: SourcePackage) -> Path:
        """Return where the log of the last work on `package` lies."""
        return self.cache.folder("logs") / f"{package.name}.log"

    def _delivered(self, ended: CellOutcome) -> CellOutcome:
        """Put the packages of a cell into dist/, unless they are there; raises MachineError."""
        for outcome in ended.outcomes:
            place = ended.cell.release.name, outcome.package.source, outcome.files
            if not self.dist.holds(*place):
                self.dist.lay_down(*place, outcome.origin)
        return ended

    def explain(self, package: SourcePackage) -> list[str]:
        """Say why a package is, or is not, to be built; starts nothing."""
        root = self.roots.current(package.release, package.dependencies)
        before = self.results.last_inputs(package.name)
        if root is None:
            return ["will be built: its builder root is missing or was last compared with the archive over a week ago"]
        inputs = package.inputs(root.packages)
        if self.results.find(inputs) is not None:
            return [f"unchanged: all {len(inputs)} inputs are as they were"]
        if before is None:
            return ["will be built: it has not been built before"]
        changed = list(fingerprint.differences(before, inputs))
        return [f"will be built: {line}" for line in changed] or ["will be built: its files are gone from the cache"]


@dataclass(slots=True)
class _Bench:
    """The place where one package is worked on."""

    shop: Workshop
    package: SourcePackage
    stage: Stage = Stage.WAITING
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
        self._enter(Stage.ROOT)
        root = self.shop.roots.obtain(self.package.release, self.package.dependencies, runner)
        inputs = self.package.inputs(root.packages)
        while (files := self._built(root, inputs, runner)) is None:
            self.first_error = ""
        ended = self.shop.good(self.package, State.BUILT, began, files, inputs)
        return replace(ended, endpoint=self.endpoint)

    def _built(self, root: Root, inputs: fingerprint.Inputs, runner: Runner) -> dict[str, str] | None:
        """Build with an engine that is free; None where that one failed and another is to try."""
        with self.shop.farm.engine_for(self.package.name) as engine:
            self.endpoint = engine.place
            try:
                return self._built_by(engine, root, inputs, runner)
            except (MachineError, CommandFailed) as error:
                fault = self._explained(error) if isinstance(error, CommandFailed) else error
                silent = isinstance(error, CommandStalled)  # as likely the package's doing
                if silent or not isinstance(fault, MachineError) or not self.shop.farm.goes_on_without(engine, fault):
                    raise
                with runner.log.open("a", encoding="utf-8") as log:
                    log.write(f"# {engine.place} failed: {fault.message}\n")
                self._give_up_box()
                return None

    def _built_by(self, engine: Engine, root: Root, inputs: fingerprint.Inputs, runner: Runner) -> dict[str, str]:
        self._enter(Stage.SOURCE)
        with tempfile.TemporaryDirectory(dir=self.shop.cache.folder("boxes"), prefix=".in-") as place:
            self.package.lay_out(Path(place))
            self.box = engine.box(root, self.package.name, runner, self.package.trust)
            self.box.put(Path(place))
        self.box.run(["/build/recipe", "build", self.package.source, str(engine.cores), root.key], runner)
        self._enter(Stage.CHECK)
        files = self._collect(inputs, runner.log)
        self.box.remove()
        return files

    def _give_up_box(self) -> None:
        """Remove the box, if its engine still does so; else that is done when it is asked for boxes again."""
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

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        self.shop.watcher.stage(self.package, stage, self.shop.log(self.package))

    def _listen(self, line: str) -> None:
        for mark, stage in _MARKS:
            if mark.search(line) and stage is not self.stage:
                self._enter(stage)
        if not self.first_error and self.stage in (Stage.SOURCE, Stage.COMPILE, Stage.PACKAGE):
            found = _FIRST_ERROR.search(line)
            self.first_error = line.strip() if found else ""

    def _explained(self, failure: CommandFailed) -> ToolkitError:
        lines = [self.first_error, *failure.lines]
        if isinstance(failure, CommandStalled):
            return MachineError(
                f"{self.stage}: nothing was printed for {self.shop.stall:.0f} s, so it was stopped",
                hint="look at the end of the log; --stall SECONDS gives it longer",
            )
        if any(_DISK_FULL.search(line) for line in lines):
            return _disk_full()
        reason = self.first_error or next((line for line in reversed(failure.lines) if line.strip()), str(failure))
        return PackageError(reason.strip(), hint="the log has the rest; the shell command opens the failed root")

    def _failed(self, began: float, log: Path, error: ToolkitError) -> Outcome:
        if self.box and isinstance(error, DiskFullError):
            self._give_up_box()  # nothing is to be learnt from it, and it is what fills the disk
        shell = tuple(self.box.shell()) if self.box and error is not INTERRUPTED else ()
        took = time.monotonic() - began
        failed = Outcome(self.package, State.FAILED, took, log, stage=self.stage, error=error, shell=shell)
        return replace(failed, endpoint=self.endpoint)


def _disk_full() -> DiskFullError:
    return DiskFullError(
        "no space left on the device while building",
        hint="free some space, or move the cache with PGPOOL_DEB_CACHE=/path, and run the command again",
    )


def _machine_fault(error: OSError) -> MachineError:
    """Say what a file operation of our own met; shutil.copytree hides it in a list of (from, to, reason)."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or _DISK_FULL.search(str(error)):
        return _disk_full()
    where = f"{error.filename}: " if error.filename else ""
    return MachineError(f"{where}{error.strerror or error}", hint="mend that and run the same command again")
