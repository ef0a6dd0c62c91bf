"""Where packages of a Debian release come from: the machine's own apt configuration, or `--mirror`.

No address of an archive stands in this project. `apt-get indextargets` is apt's own answer to "which archives is
this machine configured for", whatever file and format they are written in.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from .errors import MachineError, UsageError
from .releases import ExtraSource, Release

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True, slots=True)
class Archive:
    """Debian's main archive and, where the machine knows one, its security archive (URIs without a final slash)."""

    mirror: str
    security: str | None

    def sources(self, release: Release) -> list[str]:
        """Return the lines of sources.list for `release` (sources.list(5)), one suite a line."""
        base = release.archive or self.mirror
        lines = [
            f"deb {_options(KEYRING, release)}{uri} {suite} main"
            for suite in release.suites
            if (uri := self.security if suite.endswith("-security") else base)
        ]
        for extra in release.extra:
            lines += [_extra_line(extra, suite, self.mirror, release) for suite in extra.suites]
        return lines


def preferences(release: Release) -> str:
    """Return the preferences of apt (apt_preferences(5)) that the extra sources of `release` ask for."""
    return "\n".join(
        f"Package: {' '.join(extra.packages)}\nPin: release {field}={suite}\nPin-Priority: {extra.priority}\n"
        for extra in release.extra
        if extra.priority is not None
        for suite in extra.suites
        for field in ("a", "n")  # a suite is named by its archive or by its code name
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


def find_archive(mirror: str | None) -> Archive:
    """Return the archive to use: `mirror` where given, else what apt on this machine is configured for.

    Raises UsageError for a mirror that is no URI, MachineError where apt names no Debian archive.
    """
    if mirror is not None:
        if not mirror.startswith(("http://", "https://", "file:/", "copy:/")):
            raise UsageError(f"--mirror {mirror} is not a URI", hint="as in sources.list: http://HOST/debian")
        return Archive(mirror.rstrip("/"), None)
    return parse_index_targets(_index_targets())


def proxies() -> list[str]:
    """Return the proxies of the machine's apt configuration as lines of apt.conf(5)."""
    answer = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False, timeout=60)
    return [line for line in answer.stdout.splitlines() if re.match(r"Acquire::(http|https|ftp)::Proxy\b", line)]


def _index_targets() -> str:
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(ORIGIN)", "Created-By: Packages"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError as error:
        raise MachineError("apt-get is not on this machine", hint="this tool runs on Debian") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"apt's configuration cannot be read: {error}", hint="apt-get check") from error


def parse_index_targets(answer: str) -> Archive:
    """Read lines `URI|suite|origin`; the archive of Debian's own suites wins, `-security` suites name the security one.

    Origin is empty on a machine that never ran `apt-get update`; such lines count as Debian's.
    """
    main: list[str] = []
    security: list[str] = []
    for line in answer.splitlines():
        uri, suite, origin = line.rsplit("|", 2)
        if origin not in ("Debian", "", "$(ORIGIN)"):
            continue
        (security if suite.endswith("-security") else main).append(uri.rstrip("/"))
    if not main:
        raise MachineError(
            "apt on this machine is configured for no Debian archive", hint="name one with --mirror, or add it for apt"
        )
    return Archive(main[0], security[0] if security else None)
