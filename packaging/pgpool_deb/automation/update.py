"""`./invoke update --pgpool V`: pin a new upstream release if it builds and passes its tests, and show its changes.

The tarball is trusted on first use, so every address that has it must send the same bytes. During the tests, the pin is
in a temporary file. sources.toml, the changelog and the expected contents change only if all tests pass.

`./invoke update --proved V` notes that the matrix has passed on every release. The newest proved pin is the default.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from debian.debian_support import Version

from pgpool_deb.boxes import archive
from pgpool_deb.builds import plan
from pgpool_deb.ground import atomic
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import ExitStatus, MachineError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable, machine_release
from pgpool_deb.packages import patches, pgpool2
from pgpool_deb.runs import build_deb as building
from pgpool_deb.runs import contents, matrix
from pgpool_deb.runs.build_deb import say
from pgpool_deb.runs.proof import lacking
from pgpool_deb.upstream.download import fetch_unpinned, sha256_of
from pgpool_deb.upstream.pins import Pins
from pgpool_deb.upstream.sources import checked

RELEASED = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
TESTS = (
    matrix.Stage("quality", ("tests/package/test_quality.py",)),
    matrix.Stage("install", ("tests/install",)),
)


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """The parsed options of `./invoke update`; `tarball` replaces the download."""

    version: str
    tarball: Path | None = None
    releases: tuple[str, ...] = ()
    mirror: str | None = None
    jobs: int = 1
    install: bool = True


@dataclass(frozen=True, slots=True)
class NewRelease:
    """A release whose tarball has been checked; `date` is the day of its newest file, as in sources.toml."""

    version: str
    sha256: str
    size: int
    date: str

    @property
    def pin(self) -> str:
        """The lines of sources.toml that pin it."""
        return f'[pgpool."{self.version}"]\nsha256 = "{self.sha256}"\nsize = {self.size}\ndate = {self.date}\n'


def run(project: Project, request: UpdateRequest) -> ExitStatus:
    """Obtain, build, compare and test a release; then pin it. Raises UsageError or MachineError if it cannot start."""
    if not RELEASED.fullmatch(request.version):
        raise UsageError(f"{request.version!r} is not a pgpool-II release", hint="use three numbers, for example 4.7.4")
    pins = Pins.load(project.sources)
    table = ReleaseTable.load(project.releases)
    releases = tuple(release.name for release in table.select(request.releases, machine_release()))
    new = obtain(pins, request, Cache.open().folder("sources"))
    say(f"pgpool-II {new.version} of {new.date}: {new.size} bytes, sha256 {new.sha256}")
    sources = pinned(project.sources.read_text(encoding="utf-8"), new)
    with _temporary_pins(f'default = "{new.version}"\n{sources}'):  # the tests test the default version
        status = _try(project, request, new, releases)
    if status is not ExitStatus.GOOD:
        say(f"pgpool-II {new.version} is not pinned, and nothing in the checkout has changed")
        return status
    for release in releases:
        lines = contents.describe(contents.chosen(project.dist / release))
        atomic.write(contents.place(project, release, new.version), "\n".join(lines) + "\n")
    changes = project.path / "CHANGELOG.md"
    atomic.write(changes, noted(changes.read_text(encoding="utf-8"), new))
    atomic.write(project.sources, sources)
    say(f"pgpool-II {new.version} is pinned; git diff shows it")
    for line in how_to_prove(new.version):
        say(line)
    return ExitStatus.GOOD


def _try(project: Project, request: UpdateRequest, new: NewRelease, releases: Sequence[str]) -> ExitStatus:
    build = plan.BuildRequest(
        releases=tuple(releases),
        pgpool=new.version,
        jobs=request.jobs,
        mirror=request.mirror,
        install=request.install,
    )
    status = building.run(project, build)
    if status is not ExitStatus.GOOD:
        return status
    for release in releases:
        for line in changed(project, release, new.version):
            say(line)
    chosen = tuple(ReleaseTable.load(project.releases).named(name) for name in releases)
    tests = matrix.MatrixRequest(releases=tuple(releases), jobs=request.jobs, install=request.install)
    proof = matrix.Matrix(project, project.dist / "update", chosen, TESTS, tests).run()
    for line in proof.closing_lines():
        say(line)
    return proof.exit_status


def how_to_prove(version: str) -> list[str]:
    """Return the steps that make a pinned version the default."""
    return [
        "It is not proved yet, so the default version does not change. To prove it:",
        f"  build it by default:  add default = {json.dumps(version)} as the first line of packaging/sources.toml",
        "  test everything:      ./invoke test --all && ./invoke matrix",
        f"  remove the line:      ./invoke update --proved {version}",
    ]


def prove(project: Project, version: str) -> ExitStatus:
    """Note in sources.toml that a version is proved with today's patches, and remove `default` from it.

    A version that was proved with other patches is no longer proved. Raises UsageError if the last matrix did not run
    every stage of the version on every release, or if a stage failed.
    """
    text = project.sources.read_text(encoding="utf-8")
    pins = Pins.load(project.sources)
    pins.named(version)
    if reason := _why_unproved(project, version):
        raise UsageError(f"pgpool-II {version} is not proved: {reason}", hint="./invoke matrix tries every release")
    templates = project.templates(pgpool2.NAME)
    for pin in pins.pins:
        names = tuple(patch.name for patch in patches.chosen(templates, pin.version))
        if pin.version == version:
            text = with_proof(text, version, names)
        elif pin.proved is not None and pin.proved != names:
            text = with_proof(text, pin.version, ())
            say(f"pgpool-II {pin.version} was proved with other patches and is no longer proved")
    text = re.sub(r"(?m)^default = .*\n\n?", "", text)
    atomic.write(project.sources, text)
    say(f"pgpool-II {version} is proved; git diff shows it")
    return ExitStatus.GOOD


def _why_unproved(project: Project, version: str) -> str:
    """Return why the last matrix does not prove a version, "" if it does."""
    try:
        cells = json.loads((project.dist / "report" / "report.json").read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return "no matrix report was found"
    tried = {cell["release"]: cell for cell in cells if cell["cell"].endswith(f"-{version}")}
    for release in ReleaseTable.load(project.releases).releases:
        if release.name not in tried:
            return f"the last matrix did not test it on {release.name}"
        if stage := lacking(tried[release.name], matrix.PROOF):
            return f"{release.name}: {stage}"
    return ""


def with_proof(text: str, version: str, names: Sequence[str]) -> str:
    """Return sources.toml with the names of the patches that prove a pinned version; no names remove its proof."""
    title = f'[pgpool."{version}"]\n'
    begin = text.index(title) + len(title)
    end = text.find("\n[", begin) + 1 or len(text)
    block = re.sub(r"(?ms)^proved = \[.*?^\]\n|^proved = \[.*?\]\n", "", text[begin:end])
    if names:
        lines = textwrap.wrap(", ".join(json.dumps(name) for name in names), 114, break_on_hyphens=False)
        listed = textwrap.indent("\n".join(lines), "    ")
        block = f"{block.rstrip()}\nproved = [\n{listed},\n]\n\n"
    return f"{text[:begin]}{block}{text[end:]}"


def changed(project: Project, release: str, version: str) -> list[str]:
    """Return how the packages in dist/ differ from the newest older version with expected contents."""
    files = contents.place(project, release, version).parent.glob(f"{release}-*.txt")
    known = [file.stem.removeprefix(f"{release}-") for file in files]
    older = max((other for other in known if Version(other) < Version(version)), key=Version, default="")
    if not older:
        return [f"{release}: packaging/contents has no older version to compare with"]
    before = contents.place(project, release, older).read_text(encoding="utf-8").splitlines()
    differences = contents.compare(before, contents.describe(contents.chosen(project.dist / release)))
    title = f"{release}: {len(differences)} lines of the packages' contents differ from {older}"
    return [title, *(f"  {line}" for line in differences)]


def obtain(pins: Pins, request: UpdateRequest, folder: Path) -> NewRelease:
    """Obtain and check the release's tarball, and keep it in `folder`; raises UsageError or MachineError."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        if request.tarball is not None:
            part = Path(place) / "own"
            try:
                shutil.copyfile(request.tarball, part)
            except OSError as error:
                hint = "name the .tar.gz of a release with --tarball"
                raise UsageError(f"{request.tarball}: {error.strerror}", hint=hint) from error
        else:
            mirror = archive.find_archive(request.mirror).mirror.rstrip("/")
            addresses = [address.format(mirror=mirror, version=request.version) for address in pins.addresses]
            part = _download(addresses, Path(place))
        sha256 = sha256_of(part)
        facts = checked(part, sha256, folder, UsageError)
        if facts.stated != request.version:
            stated = f"pgpool-II {facts.stated}" if facts.stated else "no version of pgpool-II"
            raise UsageError(
                f"configure.ac in the tarball states {stated}, not {request.version}",
                hint="correct --pgpool or --tarball",
            )
        if any(pin.version == request.version and pin.sha256 != sha256 for pin in pins.pins):
            hint = "ask upstream: a released tarball must not change"
            raise UsageError(f"pgpool-II {request.version} is pinned with a sha256 other than {sha256}", hint=hint)
        destination = part.replace(folder / f"pgpool2_{request.version}.orig.tar.gz")
    date = datetime.fromtimestamp(facts.newest, UTC).date().isoformat()
    return NewRelease(request.version, sha256, destination.stat().st_size, date)


def _download(addresses: Sequence[str], place: Path) -> Path:
    """Download the file from every address that has it; raises MachineError if none has it or two send other bytes."""
    answers: list[str] = []
    sums: dict[Path, str] = {}
    for number, address in enumerate(addresses):
        part = place / str(number)
        try:
            fetch_unpinned(address, part)
        except MachineError as error:
            answers.append(error.message)
        else:
            say(f"downloaded from {address}")
            sums[part] = sha256_of(part)
    if not sums:
        raise MachineError(
            f"no address provides it: {'; '.join(answers)}", hint="use your own copy with --tarball PATH"
        )
    if len(set(sums.values())) > 1:
        hint = "ask upstream which one is authentic, then use --tarball PATH"
        raise MachineError(f"two addresses send different files: sha256 {', '.join(sums.values())}", hint=hint)
    return next(iter(sums))


@contextmanager
def _temporary_pins(sources: str) -> Iterator[None]:
    """Make every program that this process runs read these pins instead of the checkout's."""
    before = os.environ.get("PGPOOL_DEB_SOURCES")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "sources.toml"
        path.write_text(sources, encoding="utf-8")
        os.environ["PGPOOL_DEB_SOURCES"] = str(path)
        try:
            yield
        finally:
            os.environ.pop("PGPOOL_DEB_SOURCES")
            if before is not None:
                os.environ["PGPOOL_DEB_SOURCES"] = before


def pinned(text: str, new: NewRelease) -> str:
    """Return sources.toml with the pin, placed before those of later versions; unchanged if it has the pin."""
    if new.pin in text:
        return text
    later = [
        match.start()
        for match in re.finditer(r'^\[pgpool\."([0-9.]+)"\]|^\[\[advisory\]\]', text, re.MULTILINE)
        if match[1] is None or Version(match[1]) > Version(new.version)
    ]
    if not later:
        return f"{text.rstrip()}\n\n{new.pin}"
    return f"{text[: later[0]]}{new.pin}\n{text[later[0] :]}"


def noted(text: str, new: NewRelease) -> str:
    """Return the changelog with a line for the release as its first addition."""
    return added(text, f"- pgpool-II {new.version}, of {new.date}, is pinned.\n")


def added(text: str, line: str) -> str:
    """Return the changelog with a line as its first addition; unchanged if it has the line."""
    title = "### Added\n\n"
    if line in text:
        return text
    begin = text.find("## Unreleased")
    end = text.find("\n## ", begin)
    place = text.find(title, begin, end if end >= 0 else len(text))
    if place < 0:
        return text.replace("## Unreleased\n\n", f"## Unreleased\n\n{title}{line}\n", 1)
    place += len(title)
    return f"{text[:place]}{line}{text[place:]}"
