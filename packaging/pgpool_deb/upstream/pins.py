"""Read packaging/sources.toml: the pinned upstream releases and their advisories; obtain the releases' tarballs."""

from __future__ import annotations

import hashlib
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

from debian.debian_support import Version
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.ground.progress import Report

from . import download, tarball
from .sources import Source, checked, read_record, write_record

_INSTALL_CERTIFICATES = "apt-get install ca-certificates, or let REQUESTS_CA_BUNDLE name your authority's file; "
ASK_AGAIN_SECONDS = 24 * 3600
"""How long to remember that an address does not have a version."""

_PROBING = download.Patience(connect=3.0, stall=5.0, tries=1)


@dataclass(frozen=True, slots=True)
class Advisory:
    """A known fault of the versions before `fixed_in`, except the backported releases of older branches."""

    cves: tuple[str, ...]
    summary: str
    fixed_in: str
    backports: tuple[str, ...] = ()
    """The first fixed release of each older branch that got the fix."""

    def concerns(self, version: str) -> bool:
        """Return whether `version`, pinned or not, is known to be affected."""
        return Version(version) < Version(self.fixed_in) and not any(
            version.startswith(f"{backport.rpartition('.')[0]}.") and Version(version) >= Version(backport)
            for backport in self.backports
        )


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned upstream release; `size` in bytes, `date` in seconds since 1970 (noon of the release day, UTC)."""

    version: str
    sha256: str
    size: int
    date: int
    proved: tuple[str, ...] | None = None
    """The names of the patches with which it passed every level of tests, in order; None if it has not passed."""


@dataclass(frozen=True, slots=True)
class Pins:
    """The contents of sources.toml, with the newest of `pins` first."""

    path: Path
    addresses: tuple[str, ...]
    pins: tuple[Pin, ...]
    known: tuple[Advisory, ...]
    default: str = ""
    """The version to build if the user names none; "" for the newest proved one."""

    @classmethod
    def load(cls, path: Path) -> Pins:
        """Read and check sources.toml; raises UsageError that names the file, the key and the reason."""
        hint = "see the comment at the top of that file"
        try:
            rows = _SourcesFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", hint="restore it with git checkout") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {error}", hint=hint) from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{path}: {place}: {first['msg']}", hint=hint) from error
        pins = sorted((row.pin(version) for version, row in rows.pgpool.items()), key=_by_version, reverse=True)
        return cls(path, tuple(rows.addresses), tuple(pins), tuple(row.known() for row in rows.advisory), rows.default)

    def advisories(self, version: str) -> tuple[Advisory, ...]:
        """Return the known advisories for `version`, which is pinned or derived from a pinned one."""
        return tuple(advisory for advisory in self.known if advisory.concerns(version))

    def named(self, version: str) -> Pin:
        """Return the pin of `version`; raises UsageError that lists the pinned versions."""
        for pin in self.pins:
            if pin.version == version:
                return pin
        known = ", ".join(pin.version for pin in self.pins)
        raise UsageError(
            f"pgpool-II {version} is not pinned in {self.path.name}",
            hint=f"use one of {known}, or build another version with --source PATH",
        )

    def at_hand(self, cache: Path) -> Pin | None:
        """Return the newest pin whose verified tarball is in `cache`."""
        there = (pin for pin in self.pins if download.is_verified(_pinned_path(pin, cache), pin.sha256, pin.size))
        return next(there, None)

    def proved_with(self, sha256: str) -> tuple[str, ...] | None:
        """Return the patches with which the release of this tarball was proved, None if it is not a proved release."""
        return next((pin.proved for pin in self.pins if pin.sha256 == sha256), None)

    def obtain(
        self,
        version: str,
        mirror: str,
        cache: Path,
        report: Report,
        *,
        patience: download.Patience = download.PATIENCE,
    ) -> Source:
        """Return the verified tarball of a pinned version; downloads it into `cache` if it is missing there.

        Raises UsageError for a version that is not pinned, MachineError if its tarball cannot be downloaded.
        """
        pin = self.named(version)
        path = _pinned_path(pin, cache)
        if not download.is_verified(path, pin.sha256, pin.size):
            download.fetch(self._addresses(pin, mirror), path, pin.sha256, pin.size, report, patience=patience)
        facts = checked(path, pin.sha256, cache, MachineError)
        return Source(
            version=pin.version,
            tarball=path,
            suffix=tarball.suffix(path),
            sha256=pin.sha256,
            pinned=True,
            date=pin.date,
            origin=f"release {pin.version}, pinned in {self.path.name}",
            needs_autoreconf=not facts.has_configure,
            proved=pin.proved is not None,
        )

    def default_version(
        self,
        mirror: str,
        cache: Path,
        report: Report,
        *,
        ask_again: bool = False,
        patience: download.Patience = _PROBING,
    ) -> str:
        """Return `default` of sources.toml, else the newest proved version in `cache` or at an address.

        If no pin is proved, all pins count. `cache` remembers for 24 hours that no address has a version, unless
        `ask_again`; a run whose default is in the cache asks no address. Skipped versions are reported with the reason.

        Raises MachineError if no version is available, or if the newest available one has advisories that a skipped
        version does not have. Otherwise, an attacker who blocks an address could choose a vulnerable version.
        """
        if self.default:
            return self.named(self.default).version
        memory = _Absences(cache / "absent.json", ask_again=ask_again)
        candidates = [pin for pin in self.pins if pin.proved is not None] or list(self.pins)
        skipped: dict[str, str] = {}
        for pin in candidates:
            reason = self._why_unavailable(pin, mirror, cache, memory, patience)
            if not reason:
                self._refuse_to_fall_back(pin.version, skipped)
                return pin.version
            skipped[pin.version] = reason
            report(f"skipping pgpool-II {pin.version}: {reason}")
        known = ", ".join(pin.version for pin in candidates)
        refused = any(download.CERTIFICATE_REFUSED in reason for reason in skipped.values())
        first = _INSTALL_CERTIFICATES if refused else ""
        raise MachineError(
            f"none of the pinned versions can be downloaded ({known}): no address answers or provides their tarballs",
            hint=f"{first}check the network, or name a mirror with --mirror URL or a tarball with --source PATH",
        )

    def _why_unavailable(
        self, pin: Pin, mirror: str, cache: Path, memory: _Absences, patience: download.Patience
    ) -> str:
        """Return why the tarball of a pin is unavailable, "" if it is available."""
        if download.is_verified(_pinned_path(pin, cache), pin.sha256, pin.size):
            return ""
        addresses = self._addresses(pin, mirror)
        reasons: list[str] = []
        availability = memory.availability(pin.version, addresses, lambda: _ask(addresses, pin.size, patience, reasons))
        if availability is download.Availability.THERE:
            return ""
        if availability is download.Availability.ABSENT:
            return "no address provides it"
        return f"no address answers ({'; '.join(reasons)})"

    def _refuse_to_fall_back(self, version: str, skipped: dict[str, str]) -> None:
        """Raise MachineError if `version` has advisories that one of `skipped` (version to reason) does not have."""
        cves = self._cves(version)
        for newer, reason in skipped.items():
            fixed = [cve for cve in cves if cve not in self._cves(newer)]
            if fixed:
                raise MachineError(
                    f"pgpool-II {newer} is unavailable ({reason}), and {version} lacks its fix for {', '.join(fixed)}",
                    hint=f"name a mirror that has it with --mirror URL; --pgpool {version} builds {version} anyway",
                )

    def _cves(self, version: str) -> list[str]:
        return [cve for advisory in self.advisories(version) for cve in advisory.cves]

    def newest_without(self, advisory: Advisory) -> Pin | None:
        """Return the newest pin that an advisory does not concern."""
        return next((pin for pin in self.pins if not advisory.concerns(pin.version)), None)

    def _addresses(self, pin: Pin, mirror: str) -> tuple[str, ...]:
        return tuple(address.format(mirror=mirror.rstrip("/"), version=pin.version) for address in self.addresses)


def _by_version(pin: Pin) -> Version:
    return Version(pin.version)


def _pinned_path(pin: Pin, cache: Path) -> Path:
    return cache / f"pgpool2_{pin.version}.orig.tar.gz"


def _ask(
    addresses: tuple[str, ...], size: int, patience: download.Patience, reasons: list[str]
) -> download.Availability:
    """Return THERE if an address has the file, ABSENT if one answers that it does not, SILENT if none answers.

    Appends to `reasons` why each address does not have it.
    """
    answers = []
    for address in addresses:
        answer = download.probe(address, size, patience)
        answers.append(answer.availability)
        if answer.availability is download.Availability.THERE:
            break
        reasons.append(f"{address}: {answer.reason}")
    order = (download.Availability.THERE, download.Availability.ABSENT, download.Availability.SILENT)
    return next((availability for availability in order if availability in answers), download.Availability.SILENT)


class _Absences:
    """Remembers, in a file of the cache, which addresses do not have a version, and when they were asked.

    Other addresses (another mirror, an edited sources.toml) are asked at once. A damaged file counts as empty.
    """

    def __init__(self, path: Path, *, ask_again: bool) -> None:
        self._path, self._ask_again = path, ask_again

    def availability(
        self, version: str, addresses: tuple[str, ...], ask: Callable[[], download.Availability]
    ) -> download.Availability:
        key = hashlib.sha256("\n".join((version, *addresses)).encode()).hexdigest()
        times = self._read()
        asked = times.get(key)
        if not self._ask_again and asked is not None and 0 <= time.time() - asked < ASK_AGAIN_SECONDS:
            return download.Availability.ABSENT
        answer = ask()
        times.pop(key, None)
        if answer is download.Availability.ABSENT:
            times[key] = time.time()
        if times != self._read():
            write_record(self._path, times)
        return answer

    def _read(self) -> dict[str, float]:
        return {key: value for key, value in read_record(self._path).items() if isinstance(value, int | float)}


NonEmpty = Annotated[str, StringConstraints(min_length=1)]
ReleaseNumber = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+){2}$")]


class _SourcesModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _PinRow(_SourcesModel):
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(gt=0)]
    date: date
    proved: list[Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+$")]] | None = None

    def pin(self, version: str) -> Pin:
        noon = datetime(self.date.year, self.date.month, self.date.day, 12, tzinfo=UTC)
        proved = None if self.proved is None else tuple(self.proved)
        return Pin(version, self.sha256, self.size, int(noon.timestamp()), proved)


class _AdvisoryRow(_SourcesModel):
    cves: Annotated[list[Annotated[str, StringConstraints(pattern=r"^CVE-[0-9]{4}-[0-9]{4,}$")]], Field(min_length=1)]
    summary: NonEmpty
    fixed_in: ReleaseNumber
    backports: list[ReleaseNumber] = []

    def known(self) -> Advisory:
        return Advisory(tuple(self.cves), self.summary, self.fixed_in, tuple(self.backports))


def _address(address: str) -> str:
    try:
        filled = address.format(mirror="https://mirror", version="0")
    except (KeyError, IndexError) as error:
        raise ValueError("an address may contain only {mirror} and {version}") from error
    if not filled.startswith(("https://", "http://")):
        raise ValueError("an address begins with {mirror}, https:// or http://")
    return address


class _SourcesFile(_SourcesModel):
    addresses: Annotated[list[Annotated[str, AfterValidator(_address)]], Field(min_length=1)]
    pgpool: Annotated[dict[ReleaseNumber, _PinRow], Field(min_length=1)]
    advisory: list[_AdvisoryRow] = []
    default: ReleaseNumber | Literal[""] = ""
