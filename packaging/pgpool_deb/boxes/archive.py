"""Find the archives of a Debian release from the machine's own apt configuration or from `--mirror`.

This project hard-codes no archive's address. `apt-get indextargets` lists the archives that the machine is configured
for, whichever file and format define them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pgpool_deb.ground import web
from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.ground.releases import ExtraSource, Release

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_URIS = ("http://", "https://", "file:/", "copy:/")
_ANSWER_SECONDS = 5.0
_PACKAGES = re.compile(r"^'(?P<uri>\S+?)/dists/(?P<suite>\S+?)/main/binary-[^/]+/Packages", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DebianArchive:
    """Debian's main archive and, where the machine knows one, its security archive (URIs without a final slash)."""

    mirror: str
    security: str | None

    def sources(self, release: Release) -> list[str]:
        """Return the lines of sources.list(5) for `release`, one per suite."""
        base = release.archive or self.mirror
        lines = [
            f"deb {_options(KEYRING, release)}{uri} {suite} main"
            for suite in release.suites
            if (uri := self.security if suite.endswith("-security") else base)
        ]
        for extra in release.extra:
            lines += [_extra_line(extra, suite, self.mirror, release) for suite in extra.suites]
        return lines

    def addresses(self, release: Release) -> list[str]:
        """Return the URIs in `sources` without duplicates."""
        return list(
            dict.fromkeys(line.removeprefix("deb ").rpartition("] ")[2].split()[0] for line in self.sources(release))
        )


def preferences(release: Release) -> str:
    """Return apt_preferences(5) with the pins of the extra sources of `release`."""
    return "\n".join(
        f"Package: {' '.join(extra.packages)}\nPin: release {field}={suite}\nPin-Priority: {extra.priority}\n"
        for extra in release.extra
        if extra.priority is not None
        for suite in extra.suites
        for field in ("a", "n")  # apt knows a suite by its archive name or by its code name
    )


def _options(keyring: str | None, release: Release, *, trusted: bool = False) -> str:
    options = []
    if keyring:
        options.append(f"signed-by={keyring}")
    if trusted:
        options.append("trusted=yes")
    if not release.check_valid_until:
        options.append("check-valid-until=no")
    return f"[{' '.join(options)}] " if options else ""


def _extra_line(extra: ExtraSource, suite: str, mirror: str, release: Release) -> str:
    uri = mirror if extra.uri == "mirror" else extra.uri
    keyring = KEYRING if extra.uri == "mirror" else extra.signed_by
    options = _options(keyring, release, trusted=extra.trusted)
    return f"deb {options}{uri} {suite} {' '.join(extra.components)}"


def find_archive(mirror: str | None) -> DebianArchive:
    """Return the archive to use: `mirror` if given, else the one that this machine's apt is configured for.

    Raises UsageError for a mirror that is not a URI, MachineError if apt names no usable Debian archive.
    """
    if mirror is not None:
        if not mirror.startswith(_URIS):
            raise UsageError(
                f"--mirror {mirror} is not a URI", hint="use a URI as in sources.list, for example http://HOST/debian"
            )
        return DebianArchive(mirror.rstrip("/"), None)
    return parse_index_targets(_index_targets(), _addresses, _answers)


def _index_targets() -> str:
    return _apt_get("indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(ORIGIN)", "Created-By: Packages")


def _addresses() -> str:
    """Return the URIs that apt would fetch; this needs neither package lists nor a network."""
    return _apt_get("update", "--print-uris")


def _answers(uri: str, suite: str) -> bool:
    """Return whether an archive has the suite; one that exceeds the timeout does not."""
    import requests  # noqa: PLC0415 - slow to import, seldom needed

    if not uri.startswith(("http://", "https://")):
        return Path(unquote(urlsplit(uri).path), "dists", suite).is_dir()
    try:
        with web.get(f"{uri}/dists/{suite}/InRelease", timeout=_ANSWER_SECONDS) as response:
            return response.ok
    except requests.RequestException:
        return False


def _apt_get(*words: str) -> str:
    try:
        return subprocess.run(["apt-get", *words], capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError as error:
        raise MachineError("apt-get is not installed", hint="run this tool on Debian") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"apt's configuration cannot be read: {error}", hint="apt-get check") from error


def parse_index_targets(
    answer: str,
    addresses: Callable[[], str] = lambda: "",
    answers: Callable[[str, str], bool] = lambda _uri, _suite: True,
) -> DebianArchive:
    """Return Debian's archives from lines `URI|suite|origin`; suites ending in `-security` name the security archive.

    Without apt's package lists, it reads `addresses`, the lines of `apt-get update --print-uris`.
    Of several archives it takes the first that `answers` for its suite, or the first one if none does.
    Raises MachineError if they name no Debian archive, or none that roots can be made from.
    """
    debians: list[tuple[str, str]] = []
    others: set[str] = set()
    for line in answer.splitlines():
        uri, suite, origin = line.rsplit("|", 2)
        if origin in ("Debian", "", "$(ORIGIN)"):
            debians.append((uri.rstrip("/"), suite))
        else:
            others.add(uri.rstrip("/"))
    if all(suite.endswith("-security") for _, suite in debians):
        debians = _debians(addresses(), others)
    return DebianArchive(*_first_of_each(debians, answers))


def _debians(addresses: str, others: Container[str]) -> list[tuple[str, str]]:
    """Return (URI, suite) of Debian's archives, recognised by the names of their suites."""
    listed = [(match["uri"], match["suite"]) for match in _PACKAGES.finditer(addresses) if match["uri"] not in others]
    suites = {uri: {suite for other, suite in listed if other == uri} for uri, _ in listed}
    security = [(uri, suite) for uri, suite in listed if suite.endswith("-security")]
    main = [(uri, suite) for uri, suite in listed if "-" not in suite]
    updated = [(uri, suite) for uri, suite in main if f"{suite}-updates" in suites[uri]]
    if not updated and len({uri for uri, _ in main}) > 1:
        raise MachineError(
            "apt's package lists are missing, so Debian's archive cannot be identified among its sources",
            hint="run apt-get update, or name the archive with --mirror URL",
        )
    return [*(updated or main), *security]


def _first_of_each(debians: Iterable[tuple[str, str]], answers: Callable[[str, str], bool]) -> tuple[str, str | None]:
    """Return the first usable main archive and the first usable security archive."""
    usable: dict[bool, dict[str, str]] = {False: {}, True: {}}
    unusable = ""
    for uri, suite in dict.fromkeys(debians):
        security = suite.endswith("-security")
        plain = _plain(uri)
        for address in plain:
            usable[security].setdefault(address, suite)
        if not plain and not security:
            unusable = unusable or uri
    if not usable[False] and unusable:
        raise MachineError(f"roots cannot be made from {unusable}", hint="name an archive with --mirror URL")
    if not usable[False]:
        raise MachineError(
            "no apt source of this machine is a Debian archive",
            hint="name one with --mirror URL, or add one to /etc/apt/sources.list.d",
        )
    return _first_answering(usable[False], answers), _first_answering(usable[True], answers) if usable[True] else None


def _first_answering(suites: Mapping[str, str], answers: Callable[[str, str], bool]) -> str:
    """Return the first address that answers for its suite; does not ask a single one."""
    first, *others = suites
    if not others:
        return first
    return next((address for address, suite in suites.items() if answers(address, suite)), first)


def _plain(uri: str) -> list[str]:
    """Return the addresses that also work inside a root; those of a mirror list by priority."""
    if uri.startswith(_URIS):
        return [uri.rstrip("/")]
    if not uri.startswith("mirror+file:"):
        return []
    path = Path(unquote(urlsplit(uri).path))
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError) as error:
        raise MachineError(
            f"apt's list of mirrors cannot be read: {path}", hint="name a mirror with --mirror URL"
        ) from error
    listed = [row for row in rows if row and row[0].startswith(_URIS)]
    return [row[0].rstrip("/") for row in sorted(listed, key=_priority)]


def _priority(row: Sequence[str]) -> int:
    """Return the priority in a row of a mirror list; apt tries the lowest first (apt-transport-mirror(1))."""
    given = [word.removeprefix("priority:") for word in row if word.startswith("priority:")]
    return int(given[0]) if given and given[0].isdecimal() else 2**31
