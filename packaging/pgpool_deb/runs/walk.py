"""Walk from a .deb to upstream's tarball: each link is the SHA-256 of a file in another published file.

    .deb <- .buildinfo -> .dsc -> upstream's tarball = its pin in sources.toml
                               -> the archive with debian/ -> each patch of its series

If a signed statement lies beside the .buildinfo, its hashes must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgpool_deb.builds.record import BuildRecord
from pgpool_deb.builds.statement import STATEMENT, Statement
from pgpool_deb.ground.errors import UsageError
from pgpool_deb.packages.origin import Debian, DscFile, Origin
from pgpool_deb.upstream.download import sha256_of
from pgpool_deb.upstream.pins import Pins


@dataclass(frozen=True, slots=True)
class Link:
    """One step of the walk, in one line; `of_source` means that without it the package cannot be rebuilt."""

    text: str
    holds: bool = True
    of_source: bool = False


def links(record: BuildRecord, debs: Sequence[str], pins: Pins) -> Iterator[Link]:
    """Yield all links from these .debs to upstream's tarball, even after a broken one."""
    for name in debs:
        if record.path.with_name(name).is_file():
            yield _file(record, DscFile(name, record.sums[name]), record.path.name)
        else:
            yield Link(f"{name} {record.sums[name]}: as in {record.path.name}; the file is not here")
    dsc = DscFile(record.dsc.name, record.sums[record.dsc.name])
    yield _file(record, dsc, record.path.name, of_source=True)
    known = {name: record.sums[name] for name in (*debs, dsc.name)}
    try:
        origin = Origin.read(record.dsc)
        for archive in origin.archives:
            yield _file(record, archive, dsc.name, of_source=True)
        known |= {archive.name: archive.sha256 for archive in origin.archives}
        yield _upstream(origin, pins)
        debian = origin.debian()
    except UsageError as error:
        yield Link(error.message, holds=False, of_source=True)
        return
    yield from _patches(origin, debian)
    known |= {patch.path: patch.sha256 for patch in debian.patches}
    yield from _statement(record, known)


def _file(record: BuildRecord, expected: DscFile, by: str, *, of_source: bool = False) -> Link:
    path = record.path.with_name(expected.name)
    if not path.is_file():
        return Link(f"{expected.name} is missing, but listed in {by}", holds=False, of_source=of_source)
    actual = sha256_of(path)
    if actual != expected.sha256:
        text = f"{expected.name} {actual}: {by} has {expected.sha256}"
        return Link(text, holds=False, of_source=of_source)
    return Link(f"{expected.name} {actual}: as in {by}", of_source=of_source)


def _upstream(origin: Origin, pins: Pins) -> Link:
    """Return the link from the tarball to upstream's release, through the pin of its version."""
    tarball, pin = origin.upstream, origin.pin(pins)
    if tarball is None:
        return Link(f"{origin.packaging.name} is the whole source: this native package has no upstream tarball")
    if pin is None:
        text = f"{tarball.name}: {pins.path.name} pins no release {origin.upstream_version} of pgpool-II"
        return Link(text, holds=False)
    if pin.sha256 != tarball.sha256:
        text = f"{tarball.name} {tarball.sha256}: {pins.path.name} pins {pin.sha256} for {pin.version}"
        return Link(text, holds=False)
    day = datetime.fromtimestamp(pin.date, UTC).date().isoformat()
    where = origin.address(pins)
    return Link(
        f"{tarball.name} is upstream's release {pin.version} of {day}, as pinned" + (f"; {where}" if where else "")
    )


def _patches(origin: Origin, debian: Debian) -> Iterator[Link]:
    for patch in debian.patches:
        if patch.sha256:
            yield Link(f"{patch.path} {patch.sha256}: in {origin.packaging.name}")
        else:
            yield Link(f"{patch.path} is not in {origin.packaging.name}, although its series lists it", holds=False)


def _statement(record: BuildRecord, known: dict[str, str]) -> Iterator[Link]:
    """Yield links for the hashes in the signed statement, and for the documents of the .debs that it names."""
    path = record.path.with_name(f"{record.path.stem}{STATEMENT}")
    if not path.is_file():
        return
    try:
        statement = Statement.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        yield Link(f"{path.name} is not a valid statement: {error}", holds=False)
        return
    stated = {**statement.subjects, **statement.materials}
    different = [name for name, sha256 in known.items() if stated.get(name) != sha256]
    if different:
        yield Link(f"{path.name} has a different hash of {different[0]}", holds=False)
    else:
        yield Link(f"{path.name} has the same hashes of all these files")
    stems = tuple(f"{Path(name).stem}." for name in (record.path.name, *known) if name.endswith((".buildinfo", ".deb")))
    for name, sha256 in statement.byproducts.items():
        if name.startswith(stems) and "/" not in name and record.path.with_name(name).is_file():
            yield _file(record, DscFile(name, sha256), path.name)
