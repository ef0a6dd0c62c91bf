"""Pass the machine's apt settings for reaching archives (proxies, certificates, passwords) on to apt in roots.

mmdebstrap runs the machine's apt, but without its configuration. Later installations run the root's own apt.
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
"""The folder in a root that holds the files of the machine's apt configuration."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""update-ca-certificates(8) writes Debian's authorities and those in /usr/local/share/ca-certificates to this file."""
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
    """It starts by clearing the settings that the machine had when the root was made."""
    binds: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, option: str, value: str) -> None:
        """Set an option for both sides."""
        for lines in (self.outside, self.inside):
            lines.append(f'{option} "{value}";')

    def add_file(self, option: str, path: Path, target: str, *, outside: bool = True) -> None:
        """Set an option to a file, which a root sees as `target`."""
        if outside:
            self.outside.append(f'{option} "{path}";')
        self.inside.append(f'{option} "{target}";')
        self.binds.append((path, target))


def read(addresses: Iterable[str]) -> AptConf:
    """Return the configuration that apt in a root needs to reach `addresses`, which are URIs of archives.

    A missing file is left out if no address uses it, because apt then does not need it.
    Raises MachineError for an https address if a file that apt's options name for it is missing, or if the machine has
    no certificates to verify it with.
    """
    hosts = [urlsplit(address) for address in dict.fromkeys(addresses)]
    conf, options = AptConf(), _options()
    for number, (option, value) in enumerate(_handed_on(options)):
        if option.lower().rpartition("::")[2] in _FILES:
            if Path(value).exists():
                conf.add_file(option, Path(value), f"{FOLDER}/{number}.pem")
            elif _is_used(option, hosts):
                raise MachineError(
                    f"apt's option {option} names a missing file: {value}",
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
    """Return the proxy that the machine's apt is configured to use for an address, None without one."""
    host, options = urlsplit(address), _options()
    specific = {option.lower(): value for option, value in (*options.items(), *_proxies([host], options))}
    names = (f"{host.scheme}::proxy::{host.hostname}", f"{host.scheme}::proxy", "http::proxy")
    chosen = next((specific[name] for name in (f"acquire::{name}" for name in names) if name in specific), "DIRECT")
    return None if chosen == "DIRECT" else chosen


def certificates() -> str | None:
    """Return the certificate file that the machine's apt is configured to verify https with, None without one."""
    named = (value for option, value in _options().items() if option.lower() == "acquire::https::cainfo")
    return next((value for value in named if Path(value).exists()), None)


def _options() -> dict[str, str]:
    """Return the machine's apt options that have a value, by name."""
    return dict(_OPTION.findall(_apt_config("dump")))


def _apt_config(*words: str) -> str:
    try:
        return subprocess.run(["apt-config", *words], capture_output=True, text=True, check=False, timeout=60).stdout
    except FileNotFoundError:
        return ""  # the commands that need apt report that it is missing


def _handed_on(options: dict[str, str]) -> Iterator[tuple[str, str]]:
    for option, value in options.items():
        if _HANDED_ON.fullmatch(option) and option.lower().rpartition("::")[2] not in _DETECT:
            yield option, value


def _is_used(option: str, hosts: Iterable[SplitResult]) -> bool:
    """Return whether an option that names a file applies to one of the hosts."""
    scope = option.lower().rpartition("::")[0]
    secure = [host.hostname for host in hosts if host.scheme == "https"]
    return any(scope in {"acquire::https", f"acquire::https::{name}"} for name in secure)


def _proxies(hosts: Iterable[SplitResult], options: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the proxy options that apt would derive for each host from the environment and from Proxy-Auto-Detect."""
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
            f"apt's proxy detection program cannot be run: {error}", hint="apt-config dump | grep -i proxy shows it"
        ) from error
    return answer.stdout.strip().split("\n")[0].strip()


def _is_listed(host: str, domains: str) -> bool:
    """Return whether a list like $no_proxy contains the host, by apt's rules."""
    names = [name.strip() for name in domains.split(",") if name.strip()]
    return any(host == name or (name.startswith(".") and host.endswith(name)) for name in names)


def _add_certificates(conf: AptConf, hosts: Iterable[SplitResult], options: dict[str, str]) -> None:
    """Give the root the machine's certificates, because it has none of its own."""
    given = {option.lower(): value for option, value in options.items()}
    secure = [host for host in hosts if host.scheme == "https" and not _is_settled(host.hostname or "", given)]
    if not secure:
        return
    if not CERTIFICATES.exists():
        raise MachineError(
            f"{secure[0].geturl()} is https, and this machine has no certificates to verify it with",
            hint="apt-get install ca-certificates",
        )
    conf.add_file("Acquire::https::CaInfo", CERTIFICATES, f"{FOLDER}/ca-certificates.crt", outside=False)


def _is_settled(host: str, options: dict[str, str]) -> bool:
    """Return whether apt's options name the certificates for a host, or turn its verification off.

    An option for the host overrides the option for all hosts.
    """
    of_host, of_all = f"acquire::https::{host}", "acquire::https"
    verify = options.get(f"{of_host}::verify-peer", options.get(f"{of_all}::verify-peer", ""))
    return verify.lower() in _NO or bool({f"{of_host}::cainfo", f"{of_all}::cainfo"} & options.keys())


def _add_passwords(conf: AptConf) -> None:
    """Give the root the passwords of auth.conf(5) that this user may read."""
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
