"""`./invoke contents`: compare the contents of packages with the expected ones, to catch a lost file, for example.

packaging/contents keeps the expected lines for each release, so a review sees every change. The lines leave out what
differs from build to build (versions, the architecture's library folder) and packages of debug symbols.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from debian.debfile import DebFile

from pgpool_deb.ground import atomic
from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project

MANUAL = re.compile(r"^/usr/share/doc/pgpool2/html/[^/]+\.html$")
"""The pages of upstream's manual; their number is upstream's business."""
TRIPLET = re.compile(r"/usr/lib/[a-z0-9_]+-linux-gnu[a-z0-9]*(?=/|$)")
RELATIONS = ("Pre-Depends", "Depends", "Recommends", "Suggests", "Provides", "Conflicts", "Breaks", "Replaces")
_KINDS = {tarfile.DIRTYPE: "d", tarfile.LNKTYPE: "h"}
PARAMETERS = "/usr/share/pgpool2/pgpool.conf"


def describe(debs: Iterable[Path]) -> list[str]:
    """Return the sorted lines `PACKAGE KIND …` of these packages; docs/reference/matrix.md lists the kinds."""
    lines: set[str] = set()
    for deb in debs:
        with DebFile(str(deb)) as package:
            lines.update(f"{package.debcontrol()['Package']} {line}" for line in _lines(package))
    return sorted(lines)


def _lines(package: DebFile) -> Iterator[str]:
    yield from _relations(package)
    yield from _control(package)
    yield from _data(package)


def _relations(package: DebFile) -> Iterator[str]:
    control = package.debcontrol()
    yield f"architecture {'any' if control['Architecture'] != 'all' else 'all'}"
    yield f"section {control['Section']}"
    for field in RELATIONS:
        for relation in filter(None, str(control.get(field, "")).split(",")):
            # The release decides the version of a dependency; this project decides only that there is one.
            names = " | ".join(re.sub(r"\s*\(.*?\)|:any", "", one).strip() for one in relation.split("|"))
            yield f"{field.lower()} {names}"


def _control(package: DebFile) -> Iterator[str]:
    for member in package.control.tgz().getmembers():
        name = member.name.removeprefix("./")
        if member.isfile() and name not in ("control", "md5sums"):
            yield f"script {name}" if member.mode & 0o111 else f"control {name}"
    yield from (f"conffile {line}" for line in _text(package, "conffiles"))
    for line in _text(package, "symbols"):
        if not line.startswith("* "):
            yield f"symbol {line.split()[0]}" if line.startswith(" ") else f"library {line.split()[0]}"


def _data(package: DebFile) -> Iterator[str]:
    archive = package.data.tgz()
    for member in archive.getmembers():
        path = member.name.removeprefix(".") or "/"
        if MANUAL.match(path):
            yield "manual in HTML"
        elif not (member.isdir() and (member.mode, member.uname, member.gname) == (0o755, "root", "root")):
            target = f" -> {member.linkname}" if member.linkname else ""
            place = TRIPLET.sub("/usr/lib/<multiarch>", f"{path}{target}")
            yield f"file {_kind(member)} {member.uname}:{member.gname} {place}"
        if path == PARAMETERS and (stream := archive.extractfile(member)) is not None:
            yield from (f"parameter {name}" for name in parameters(stream.read().decode("utf-8", "replace")))


def _text(package: DebFile, name: str) -> list[str]:
    text = package.control.get_content(name, encoding="utf-8") if package.control.has_file(name) else ""
    return [line for line in str(text).splitlines() if line.strip()]


def _kind(member: tarfile.TarInfo) -> str:
    return "l" if member.issym() else f"{_KINDS.get(member.type, '-')}{member.mode:o}"


def parameters(configuration: str) -> list[str]:
    """Return the names of all parameters of a pgpool.conf, including those that are commented out."""
    return re.findall(r"^#?([a-z_][a-z0-9_]*) = ", configuration, re.MULTILINE)


def compare(expected: Sequence[str], actual: Sequence[str]) -> list[str]:
    """Return the lost lines, marked `-`, and the new ones, marked `+`, in the order of package and kind."""
    lost, new = set(expected) - set(actual), set(actual) - set(expected)
    marked = [(line, "-") for line in lost] + [(line, "+") for line in new]
    return [f"{sign} {line}" for line, sign in sorted(marked)]


def chosen(folder: Path) -> list[Path]:
    """Return the packages in a folder of dist/ whose contents are compared."""
    return sorted(path for path in folder.glob("*.deb") if "-dbgsym_" not in path.name)


def place(project: Project, release: str, version: str) -> Path:
    """Return the path of the file with the expected lines of a release and an upstream version; it may not exist."""
    return project.path / "packaging" / "contents" / f"{release}-{version}.txt"


def run(project: Project, releases: Sequence[str], *, accept: bool) -> ExitStatus:
    """Print how dist/ differs from the expected contents, or record it as expected.

    Raises UsageError if a release has no packages in dist/.
    """
    versions = _versions(project)
    status = ExitStatus.GOOD
    for release in releases or sorted(versions):
        if release not in versions:
            raise UsageError(f"dist/ has no packages of {release}", hint=f"./invoke build-deb --release {release}")
        file = place(project, release, versions[release])
        expected = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        actual = describe(chosen(project.dist / release))
        differences = compare(expected, actual)
        for line in differences if expected else ():
            print(f"{release}: {line}")
        if accept and differences:
            file.parent.mkdir(exist_ok=True)
            atomic.write(file, "\n".join(actual) + "\n")
            print(f"{release}: recorded in {file}")
        elif differences:
            what = f"{len(differences)} lines differ from {file.name}" if expected else f"{file.name} does not exist"
            print(f"{release}: {what}; ./invoke contents --accept records the contents of dist/ as expected")
            status = ExitStatus.FAILED
    return status


def _versions(project: Project) -> dict[str, str]:
    """Return upstream's version of the packages in dist/, by release."""
    debs = sorted(project.dist.glob("*/pgpool2_*.deb"))
    return {deb.parent.name: deb.name.split("_")[1].rpartition("-")[0] for deb in debs}
