"""`./invoke update --pgpool V`: pin a new upstream release once it builds and passes, and show what it changes.

Its tarball is trusted on first sight, so every address that has it must send the same. Until all is well the pin
stands in a file of its own; sources.toml, the changelog and the kept contents are written in the end, or not at all.

`./invoke update --proved V` then notes that the matrix has passed on every release: the newest such pin is the default.
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

import requests
from debian.debian_support import Version

from . import archive, atomic, contents, matrix, patches, pgpool2, plan, web
from . import build_deb as building
from .build_deb import say
from .cache import Cache
from .download import PATIENCE, sha256_of
from .errors import ExitStatus, MachineError, UsageError
from .pins import Pins
from .project import Project
from .proof import lacking
from .releases import ReleaseTable, machine_release
from .sources import checked

RELEASED = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_CHUNK = 65536
TESTS = (
    matrix.Stage("quality", ("tests/package/test_quality.py",)),
    matrix.Stage("install", ("tests/install",)),
)


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `./invoke update`, parsed. `tarball` is taken instead of a download."""

    version: str
    tarball: Path | None = None
    releases: tuple[str, ...] = ()
    mirror: str | None = None
    jobs: int = 1
    install: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A tarball that has arrived and been checked; `date` is its newest file's day, as in sources.toml."""

    version: str
    sha256: str
    size: int
    date: str

    @property
    def pin(self) -> str:
        """The lines that pin it."""
        return f'[pgpool."{self.version}"]\nsha256 = "{self.sha256}"\nsize = {self.size}\ndate = {self.date}\n'


def run(project: Project, request: Request) -> ExitStatus:
    """Obtain, build, compare and test; then pin. Raises UsageError or MachineError where nothing can begin."""
    if not RELEASED.fullmatch(request.version):
        raise UsageError(f"{request.version!r} is no release of pgpool-II", hint="three numbers, for example 4.7.4")
    pins = Pins.load(project.sources)
    table = ReleaseTable.load(project.releases)
    releases = tuple(release.name for release in table.select(request.releases, machine_release()))
    found = obtain(pins, request, Cache.open().folder("sources"))
    say(f"pgpool-II {found.version} of {found.date}: {found.size} bytes, sha256 {found.sha256}")
    sources = pinned(project.sources.read_text(encoding="utf-8"), found)
    with _trial(f'default = "{found.version}"\n{sources}'):  # what is tested is the default
        status = _try(project, request, found, releases)
    if status is not ExitStatus.GOOD:
        say(f"pgpool-II {found.version} is not pinned: nothing in the checkout was changed")
        return status
    for release in releases:
        lines = contents.describe(contents.chosen(project.dist / release))
        atomic.write(contents.place(project, release, found.version), "\n".join(lines) + "\n")
    changes = project.path / "CHANGELOG.md"
    atomic.write(changes, noted(changes.read_text(encoding="utf-8"), found))
    atomic.write(project.sources, sources)
    say(f"pgpool-II {found.version} is pinned; git diff shows it")
    for line in how_to_prove(found.version):
        say(line)
    return ExitStatus.GOOD


def _try(project: Project, request: Request, found: Found, releases: Sequence[str]) -> ExitStatus:
    build = plan.Request(
        releases=tuple(releases),
        pgpool=found.version,
        jobs=request.jobs,
        mirror=request.mirror,
        install=request.install,
    )
    status = building.run(project, build)
    if status is not ExitStatus.GOOD:
        return status
    for release in releases:
        for line in changed(project, release, found.version):
            say(line)
    chosen = tuple(ReleaseTable.load(project.releases).named(name) for name in releases)
    wanted = matrix.Request(releases=tuple(releases), jobs=request.jobs, install=request.install)
    proof = matrix.Matrix(project, project.dist / "update", chosen, TESTS, wanted).run()
    for line in proof.closing_lines():
        say(line)
    return proof.exit_status


def how_to_prove(version: str) -> list[str]:
    """Return what makes a pinned version the default."""
    return [
        "It is not proved yet, and the default stays. To prove it:",
        f"  build it by default:  default = {json.dumps(version)}, the first line of packaging/sources.toml",
        "  try everything:       ./invoke test --all && ./invoke matrix",
        f"  take the line out:    ./invoke update --proved {version}",
    ]


def prove(project: Project, version: str) -> ExitStatus:
    """Note in sources.toml that a version is proved, with today's patches; its `default` goes.

    A version that was proved with other patches is proved no more. Raises UsageError where the last matrix did not try
    the version on every release and in every stage, or something failed.
    """
    text = project.sources.read_text(encoding="utf-8")
    pins = Pins.load(project.sources)
    pins.named(version)
    if why := _unproved(project, version):
        raise UsageError(f"pgpool-II {version} is not proved: {why}", hint="./invoke matrix tries every release")
    templates = project.templates(pgpool2.NAME)
    for pin in pins.pins:
        names = tuple(patch.name for patch in patches.chosen(templates, pin.version))
        if pin.version == version:
            text = with_proof(text, version, names)
        elif pin.proved is not None and pin.proved != names:
            text = with_proof(text, pin.version, ())
            say(f"pgpool-II {pin.version} was proved with other patches: it counts as not proved")
    text = re.sub(r"(?m)^default = .*\n\n?", "", text)
    atomic.write(project.sources, text)
    say(f"pgpool-II {version} is proved; git diff shows it")
    return ExitStatus.GOOD


def _unproved(project: Project, version: str) -> str:
    """Return what the last matrix has not shown of a version, "" where it has shown everything."""
    try:
        cells = json.loads((project.dist / "report" / "report.json").read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return "there is no report of a matrix"
    tried = {cell["release"]: cell for cell in cells if cell["cell"].endswith(f"-{version}")}
    for release in ReleaseTable.load(project.releases).releases:
        if release.name not in tried:
            return f"the last matrix did not try it on {release.name}"
        if what := lacking(tried[release.name], matrix.PROOF):
            return f"{release.name}: {what}"
    return ""


def with_proof(text: str, version: str, names: Sequence[str]) -> str:
    """Return sources.toml with the patches that a pinned version was proved with; without names, with none."""
    title = f'[pgpool."{version}"]\n'
    begin = text.index(title) + len(title)
    end = text.find("\n[", begin) + 1 or len(text)
    block = re.sub(r"(?ms)^proved = \[.*?^\]\n|^proved = \[.*?\]\n", "", text[begin:end])
    if names:
        listed = textwrap.fill(", ".join(json.dumps(name) for name in names), 118, initial_indent="    ",
                               subsequent_indent="    ", break_on_hyphens=False)  # fmt: skip
        block = f"{block.rstrip()}\nproved = [\n{listed},\n]\n\n"
    return f"{text[:begin]}{block}{text[end:]}"


def changed(project: Project, release: str, version: str) -> list[str]:
    """Return what the packages in dist/ have lost and won since the newest older version whose contents are kept."""
    files = contents.place(project, release, version).parent.glob(f"{release}-*.txt")
    kept = [file.stem.removeprefix(f"{release}-") for file in files]
    older = max((one for one in kept if Version(one) < Version(version)), key=Version, default="")
    if not older:
        return [f"{release}: contents of no older version are kept to compare with"]
    before = contents.place(project, release, older).read_text(encoding="utf-8").splitlines()
    differences = contents.compare(before, contents.describe(contents.chosen(project.dist / release)))
    title = f"{release}: {len(differences)} lines of the packages' contents differ from {older}"
    return [title, *(f"  {line}" for line in differences)]


def obtain(pins: Pins, request: Request, folder: Path) -> Found:
    """Return the checked tarball, which is then where a pin's is looked for; raises UsageError or MachineError."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        if request.tarball is not None:
            part = Path(place) / "own"
            try:
                shutil.copyfile(request.tarball, part)
            except OSError as error:
                hint = "--tarball takes a release's .tar.gz"
                raise UsageError(f"{request.tarball}: {error.strerror}", hint=hint) from error
        else:
            mirror = archive.find_archive(request.mirror).mirror.rstrip("/")
            addresses = [one.format(mirror=mirror, version=request.version) for one in pins.addresses]
            part = _download(addresses, Path(place))
        sha256 = sha256_of(part)
        facts = checked(part, sha256, folder, UsageError)
        if facts.stated != request.version:
            raise UsageError(f"the tarball says that it is {facts.stated or 'something else'}", hint="see --pgpool")
        if any(pin.version == request.version and pin.sha256 != sha256 for pin in pins.pins):
            hint = "upstream does not change a release: ask there who did"
            raise UsageError(f"pgpool-II {request.version} is pinned with another sha256 than {sha256}", hint=hint)
        destination = part.replace(folder / f"pgpool2_{request.version}.orig.tar.gz")
    date = datetime.fromtimestamp(facts.newest, UTC).date().isoformat()
    return Found(request.version, sha256, destination.stat().st_size, date)


def _download(addresses: Sequence[str], place: Path) -> Path:
    """Fetch the file from every address that has it; raises MachineError where none does, or two do not agree."""
    patience = (PATIENCE.connect, PATIENCE.stall)
    answers: list[str] = []
    sums: dict[str, str] = {}
    for number, address in enumerate(addresses):
        part = place / str(number)
        try:
            with (
                web.get(address, timeout=patience, headers={"Accept-Encoding": "identity"}) as answer,
                part.open("wb") as stream,
            ):
                answer.raise_for_status()
                for chunk in answer.iter_content(_CHUNK):
                    stream.write(chunk)
        except (requests.RequestException, OSError) as error:
            answers.append(f"{address}: {error}")
        else:
            say(f"downloaded from {address}")
            sums[str(part)] = sha256_of(part)
    if not sums:
        raise MachineError(f"no address has it: {'; '.join(answers)}", hint="--tarball PATH takes one that you have")
    if len(set(sums.values())) > 1:
        hint = "ask upstream which one is theirs, then use --tarball PATH"
        raise MachineError(f"two addresses send different files: sha256 {', '.join(sums.values())}", hint=hint)
    return Path(next(iter(sums)))


@contextmanager
def _trial(sources: str) -> Iterator[None]:
    """Let all that is run meanwhile take these pins for those of the checkout."""
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


def pinned(text: str, found: Found) -> str:
    """Return sources.toml with the pin, before those of later versions; as it is where it has it already."""
    if found.pin in text:
        return text
    later = [
        match.start()
        for match in re.finditer(r'^\[pgpool\."([0-9.]+)"\]|^\[\[advisory\]\]', text, re.MULTILINE)
        if match[1] is None or Version(match[1]) > Version(found.version)
    ]
    if not later:
        return f"{text.rstrip()}\n\n{found.pin}"
    return f"{text[: later[0]]}{found.pin}\n{text[later[0] :]}"


def noted(text: str, found: Found) -> str:
    """Return the changelog with a line for the release, first among what is new."""
    return added(text, f"- pgpool-II {found.version}, of {found.date}, is pinned.\n")


def added(text: str, line: str) -> str:
    """Return the changelog with a line, first among what is new; as it is where it has it already."""
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
