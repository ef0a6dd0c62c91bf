"""The way to archives as the machine's apt knows it: proxies, certificates, passwords; handed on to apt in roots.

mmdebstrap runs the machine's apt, but without its configuration; what is installed later is fetched by the root's own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from .errors import MachineError

FOLDER = "/etc/apt/machine"
"""Where a root sees what its apt takes of the machine's."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""What update-ca-certificates(8) makes of Debian's authorities and those in /usr/local/share/ca-certificates."""
_OPTION = re.compile(r'^(\S+) "(.+)";$', re.MULTILINE)
_HANDED_ON = re.compile(r"Acquire::((http|https|ftp)::.+|ForceIPv[46])", re.IGNORECASE)
_DETECT = ("proxy-auto-detect", "proxyautodetect")
_NO = ("no", "false", "without", "off", "disable", "0")
_FILES = ("cainfo", "sslcert", "sslkey", "crlfile", "issuercert")


@dataclass(slots=True)
class AptConf:
    """Lines of apt.conf(5) for the machine's apt and for a root's, and the bind mounts that the latter needs."""

    outside: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=lambda: ["#clear Acquire::http;", "#clear Acquire::https;"])
    """It begins without what the machine had said when the root was made."""
    binds: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, option: str, value: str) -> None:
        """Set an option for both."""
        for lines in (self.outside, self.inside):
            lines.append(f'{option} "{value}";')

    def add_file(self, option: str, path: Path, target: str, *, outside: bool = True) -> None:
        """Name a file by an option; a root sees it as `target`."""
        if outside:
            self.outside.append(f'{option} "{path}";')
        self.inside.append(f'{option} "{target}";')
        self.binds.append((path, target))


def read(addresses: Iterable[str]) -> AptConf:
    """Return what apt in a root needs to reach `addresses`, which are URIs of archives.

    Files that are named and not there are left out where no address uses them, as apt then misses nothing.
    Raises MachineError where one is https and a file that apt is told of is missing, or the machine has no certificates
    to check it by.
    """
    hosts = [urlsplit(address) for address in dict.fromkeys(addresses)]
    conf, options = AptConf(), _options()
    for number, (option, value) in enumerate(_handed_on(options)):
        if option.lower().rpartition("::")[2] in _FILES:
            if Path(value).exists():
                conf.add_file(option, Path(value), f"{FOLDER}/{number}.pem")
            elif _is_used(option, hosts):
                raise MachineError(
                    f"apt's option {option} names a file that is not there: {value}",
                    hint="apt-config dump | grep -i https shows it",
                )
        else:
            conf.add(option, value)
    for option, value in dict(_proxies(hosts, options)).items():
        conf.add(option, value)
    _add_certificates(conf, hosts, options)
    _add_passwords(conf)
    for host in hosts:
        path = Path(unquote(host.path))
        if host.scheme in {"file", "copy"} and path.is_dir():
            conf.binds.append((path, str(path)))
    return conf


def proxy(address: str) -> str | None:
    """Return the proxy that the machine's apt is told to take for an address, None where it is told none."""
    host, options = urlsplit(address), _options()
    specific = {option.lower(): value for option, value in (*options.items(), *_proxies([host], options))}
    names = (f"{host.scheme}::proxy::{host.hostname}", f"{host.scheme}::proxy", "http::proxy")
    found = next((specific[name] for name in (f"acquire::{name}" for name in names) if name in specific), "DIRECT")
    return None if found == "DIRECT" else found


def certificates() -> str | None:
    """Return the file of certificates that the machine's apt is told to check https by, None where there is none."""
    named = (value for option, value in _options().items() if option.lower() == "acquire::https::cainfo")
    return next((value for value in named if Path(value).exists()), None)


def _options() -> dict[str, str]:
    """Return the machine's options by name, those that have a value."""
    return dict(_OPTION.findall(_apt_config("dump")))


def _apt_config(*words: str) -> str:
    try:
        return subprocess.run(["apt-config", *words], capture_output=True, text=True, check=False, timeout=60).stdout
    except FileNotFoundError:
        return ""  # what needs apt says so


def _handed_on(options: dict[str, str]) -> Iterator[tuple[str, str]]:
    for option, value in options.items():
        if _HANDED_ON.fullmatch(option) and option.lower().rpartition("::")[2] not in _DETECT:
            yield option, value


def _is_used(option: str, hosts: Iterable[SplitResult]) -> bool:
    """Tell whether an option with a file counts for one of the hosts."""
    of = option.lower().rpartition("::")[0]
    return any(of in {"acquire::https", f"acquire::https::{host.hostname}"} for host in hosts if host.scheme == "https")


def _proxies(hosts: Iterable[SplitResult], options: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what the environment and programs (apt.conf(5), Proxy-Auto-Detect) say, as apt asks them, host by host."""
    given = {option.lower(): value for option, value in options.items()}
    for host in hosts:
        scheme, name = host.scheme, f"Acquire::{host.scheme}::Proxy::{host.hostname}"
        if scheme not in {"http", "https"}:
            continue
        if _is_listed(host.hostname or "", os.environ.get("no_proxy", "")):
            yield name, "DIRECT"
        elif name.lower() in given:
            continue
        elif program := next((given[key] for one in _DETECT if (key := f"acquire::{scheme}::{one}") in given), None):
            if detected := _detected(program, host.geturl()):
                yield name, detected
        elif {f"acquire::{scheme}::proxy", "acquire::http::proxy"} & given.keys():
            continue
        elif named := os.environ.get(f"{scheme}_proxy"):
            yield name, named


@cache
def _detected(program: str, address: str) -> str:
    try:
        answer = subprocess.run([program, address], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(
            f"apt's program to find a proxy cannot be run: {error}", hint="apt-config dump | grep -i proxy shows it"
        ) from error
    return answer.stdout.strip().split("\n")[0].strip()


def _is_listed(host: str, domains: str) -> bool:
    """Tell whether a host is in a list like $no_proxy, as apt reads it."""
    names = [name.strip() for name in domains.split(",") if name.strip()]
    return any(host == name or (name.startswith(".") and host.endswith(name)) for name in names)


def _add_certificates(conf: AptConf, hosts: Iterable[SplitResult], options: dict[str, str]) -> None:
    """A root has none of its own: those of the machine are Debian's and its administrators'."""
    given = {option.lower(): value for option, value in options.items()}
    secure = [host for host in hosts if host.scheme == "https" and not _is_settled(host.hostname or "", given)]
    if not secure:
        return
    if not CERTIFICATES.exists():
        raise MachineError(
            f"{secure[0].geturl()} is https, and this machine has no certificates to check it by",
            hint="apt-get install ca-certificates",
        )
    conf.add_file("Acquire::https::CaInfo", CERTIFICATES, f"{FOLDER}/ca-certificates.crt", outside=False)


def _is_settled(host: str, options: dict[str, str]) -> bool:
    """Tell whether apt's options say by which certificates a host is checked, or that it is not checked.

    What is said of the host counts before what is said of all.
    """
    of_host, of_all = f"acquire::https::{host}", "acquire::https"
    verify = options.get(f"{of_host}::verify-peer", options.get(f"{of_all}::verify-peer", ""))
    return verify.lower() in _NO or bool({f"{of_host}::cainfo", f"{of_all}::cainfo"} & options.keys())


def _add_passwords(conf: AptConf) -> None:
    """auth.conf(5), as far as this user may read it."""
    answer = _apt_config("shell", "file", "Dir::Etc::netrc/f", "folder", "Dir::Etc::netrcparts/d")
    named = dict(word.split("=", 1) for word in shlex.split(answer))
    single, folder = Path(named.get("file", "/dev/null")), Path(named.get("folder", "/dev/null"))
    if single.is_file() and os.access(single, os.R_OK):
        conf.add_file("Dir::Etc::netrc", single, f"{FOLDER}/auth.conf")
    parts = sorted(path for path in folder.glob("*.conf") if os.access(path, os.R_OK))
    if parts:
        conf.outside.append(f'Dir::Etc::netrcparts "{folder}/";')
        conf.inside.append(f'Dir::Etc::netrcparts "{FOLDER}/auth.conf.d/";')
        conf.binds += [(path, f"{FOLDER}/auth.conf.d/{path.name}") for path in parts]
