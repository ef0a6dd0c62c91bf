"""`./invoke contents`: what is in the packages, in lines that are kept and compared: a lost file, a new dependency.

The lines for each release are kept in packaging/contents; a change there is seen by whoever reviews it. What differs in
every build (versions, the architecture's library folder) is left out, and so are packages of debug symbols.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from debian.debfile import DebFile

from . import atomic
from .errors import ExitStatus, UsageError
from .project import Project

MANUAL = re.compile(r"^/usr/share/doc/pgpool2/html/[^/]+\.html$")
"""Upstream's manual: how many pages it has is theirs."""
TRIPLET = re.compile(r"/usr/lib/[a-z0-9_]+-linux-gnu[a-z0-9]*(?=/|$)")
RELATIONS = ("Pre-Depends", "Depends", "Recommends", "Suggests", "Provides", "Conflicts", "Breaks", "Replaces")
_KINDS = {tarfile.DIRTYPE: "d", tarfile.LNKTYPE: "h"}
PARAMETERS = "/usr/share/pgpool2/pgpool.conf"


def describe(debs: Iterable[Path]) -> list[str]:
    """Return the sorted lines of these packages: `PACKAGE KIND …`, as docs/reference/matrix.md lists them."""
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
            # Which version of a library is asked for follows from what a release has; whether one is, is ours.
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
    """Return the names of all parameters of a pgpool.conf, also of those that are commented out."""
    return re.findall(r"^#?([a-z_][a-z0-9_]*) = ", configuration, re.MULTILINE)


def compare(kept: Sequence[str], found: Sequence[str]) -> list[str]:
    """Return what is lost (`-`) and what is new (`+`), by package and kind."""
    lost, new = set(kept) - set(found), set(found) - set(kept)
    marked = [(line, "-") for line in lost] + [(line, "+") for line in new]
    return [f"{sign} {line}" for line, sign in sorted(marked)]


def chosen(folder: Path) -> list[Path]:
    """Return the packages in a folder of dist/ whose contents are kept."""
    return sorted(path for path in folder.glob("*.deb") if "-dbgsym_" not in path.name)


def place(project: Project, release: str, version: str) -> Path:
    """Return the file with the lines of a release and an upstream version; it need not be there."""
    return project.path / "packaging" / "contents" / f"{release}-{version}.txt"


def run(project: Project, releases: Sequence[str], *, accept: bool) -> ExitStatus:
    """Print what differs in dist/ from what is kept, or keep it; raises UsageError where nothing has been built."""
    versions = _versions(project)
    status = ExitStatus.GOOD
    for release in releases or sorted(versions):
        if release not in versions:
            raise UsageError(f"dist/ has no packages of {release}", hint=f"./invoke build-deb --release {release}")
        file = place(project, release, versions[release])
        known = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        found = describe(chosen(project.dist / release))
        differences = compare(known, found)
        for line in differences if known else ():
            print(f"{release}: {line}")
        if accept and differences:
            file.parent.mkdir(exist_ok=True)
            atomic.write(file, "\n".join(found) + "\n")
            print(f"{release}: kept in {file}")
        elif differences:
            told = f"{len(differences)} lines differ from {file.name}" if known else f"there is no {file.name}"
            print(f"{release}: {told}; ./invoke contents --accept keeps what is in dist/ now")
            status = ExitStatus.FAILED
    return status


def _versions(project: Project) -> dict[str, str]:
    """Return upstream's version of the packages in dist/, by release."""
    found = {}
    for deb in sorted(project.dist.glob("*/pgpool2_*.deb")):
        found[deb.parent.name] = deb.name.split("_")[1].rpartition("-")[0]
    return found
