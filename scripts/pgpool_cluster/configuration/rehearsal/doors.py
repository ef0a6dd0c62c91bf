"""Check whether other nodes can log in as postgres: the login shell, the account, and sshd's settings.

Only root may read these. The commands of the other nodes run through the login shell of postgres.
"""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import os
import pwd
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from ...definition.cluster import Cluster, Node
from ...ground import paths, ports, programs
from ...ground.fault import Fault
from ...ground.paths import POSTGRES
from ..rendering.rendered_paths import FOLDER

_RELOAD = "then systemctl reload ssh"
_CERTIFICATE = f"{FOLDER}/ssh_host_ed25519_key-cert.pub"
_LAID_DOWN = "hostcertificate"
"""The setting in the cluster's own file in sshd_config.d."""
_CERTIFICATE_TYPE = "ssh-ed25519-cert-v01@openssh.com"
_KEY_TYPE = "ssh-ed25519"
_DAY_SECONDS = 86400
_CHANGED, _LONGEST, _EXPIRES = 2, 4, 7
"""Columns of shadow(5): the day of the last change, the most days until the next one, and the day of expiry.

Days are counted from 1970-01-01.
"""
_SILENT_SHELLS = ("nologin", "false", "true", "sync")
Settings = dict[str, list[str]]


def faults(cluster: Cluster, me: Node, *, configured: bool = True) -> list[Fault]:
    """Return the faults that keep other nodes from logging in; raises ServerError if sshd does not show its settings.

    `configured`: the cluster's configuration of sshd has been written, so it is checked as well.
    """
    found = list(_shell())
    for node in cluster.nodes:
        if node != me:
            said = settings(node.address, me.address)
            found += [*of_sshd(said, node.address, me.address, configured=configured)]
            found += [*_account(pam=said.get("usepam") == ["yes"])]
            found += _modes() if said.get("strictmodes") == ["yes"] else []
    if not configured:
        found += _include()
    return list(dict.fromkeys(found))


def _include() -> Iterator[Fault]:
    """Yield a fault if sshd would not read the file that `apply` is about to write."""
    try:
        text = paths.SSHD.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if not re.search(rf"(?im)^\s*Include\s.*{re.escape(str(Path(paths.SSHD_INCLUDED).parent))}/", text):
        why = f"{paths.SSHD} does not include {paths.SSHD_INCLUDED}, where the cluster's host certificate is named"
        yield Fault(why, f"add Include {paths.SSHD_INCLUDED} at the top of {paths.SSHD}")


def settings(address: str, own: str) -> Settings:
    """Return sshd's settings for a login of postgres from `address`, from `sshd -T`: the values by key.

    Raises ServerError if `sshd -T` fails.
    """
    words = {"user": POSTGRES, "host": address, "addr": address, "laddr": own, "lport": ports.SSH}
    login = ",".join(f"{name}={value}" for name, value in words.items())
    said = programs.run([str(paths.SBIN / "sshd"), "-T", "-C", login])
    found: Settings = {}
    for line in said.splitlines():
        key, _, value = line.strip().partition(" ")
        found.setdefault(key.lower(), []).append(value.strip())
    return found


def _shell() -> Iterator[Fault]:
    shell = pwd.getpwnam(POSTGRES).pw_shell or "/bin/sh"
    fix = f"chsh -s /bin/bash {POSTGRES}"
    if Path(shell).name in _SILENT_SHELLS:
        yield Fault(f"the login shell of {POSTGRES} is {shell}, and the other nodes' commands run through it", fix)
    elif not os.access(shell, os.X_OK):
        yield Fault(f"the login shell of {POSTGRES}, {shell}, does not exist", fix)


def _account(*, pam: bool) -> Iterator[Fault]:
    """Yield the faults of the account: it is locked, has expired, or its password has expired.

    A lock matters only to sshd without PAM, and an expired password only with PAM.
    """
    try:
        lines = paths.SHADOW.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    fields = next((line.split(":") for line in lines if line.startswith(f"{POSTGRES}:")), [])
    if not pam and len(fields) > 1 and fields[1].startswith("!"):
        why = f"the account {POSTGRES} is locked, and sshd has UsePAM no, so sshd rejects its keys"
        yield Fault(why, f"usermod -p '*' {POSTGRES} (no password, not locked), or UsePAM yes in sshd's configuration")
    today = time.time() // _DAY_SECONDS
    expires = fields[_EXPIRES] if len(fields) > _EXPIRES else ""
    if expires.isdecimal() and int(expires) <= today:
        yield Fault(f"the account {POSTGRES} has expired", f"usermod --expiredate '' {POSTGRES}")
    changed, longest = (fields[_CHANGED], fields[_LONGEST]) if len(fields) > _LONGEST else ("", "")
    if pam:
        for path in filter(Path.exists, paths.NOLOGIN):
            yield Fault(f"{path} exists, so PAM rejects the login of {POSTGRES}", f"rm {path}")
    if pam and changed.isdecimal():
        aged = longest.isdecimal() and int(changed) + int(longest) < today
        if int(changed) == 0 or aged:
            why = f"the password of {POSTGRES} must be changed, so PAM rejects the login"
            yield Fault(why, f"chage -d -1 -M -1 {POSTGRES}")


def _modes() -> Iterator[Fault]:
    """Yield the paths that others than postgres and root may write: StrictModes then rejects the key in them."""
    owner = pwd.getpwnam(POSTGRES).pw_uid
    for path in (paths.HOME, paths.HOME / ".ssh", paths.HOME / ".ssh" / "authorized_keys"):
        try:
            found = path.lstat()
        except OSError:
            continue  # other code creates the path, or reports that it is missing
        if not stat.S_ISLNK(found.st_mode) and (found.st_uid not in (0, owner) or found.st_mode & 0o022):
            why = f"{path} is writable by users other than {POSTGRES} (mode {found.st_mode & 0o7777:04o})"
            yield Fault(f"{why}, and sshd has StrictModes yes", f"chown {POSTGRES}: {path}; chmod go-w {path}")


def of_sshd(said: Settings, address: str, own: str, *, configured: bool = True) -> Iterator[Fault]:
    """Yield the settings in `said`, the result of `settings`, that refuse postgres from `address`, each with its edit.

    `configured` is as in `faults`.
    """
    places = said.get("listenaddress", [])
    host = f"[{own}]" if ":" in own else own
    suitable = {f"{listener}:{ports.SSH}" for listener in ("0.0.0.0", "[::]", host)}  # noqa: S104 - compared only
    if places and not suitable & set(places):
        edit = f"add ListenAddress {host}:{ports.SSH} to sshd's configuration; then systemctl restart ssh"
        yield Fault(f"sshd listens on {' '.join(places)}, not on {host}:{ports.SSH}", edit)
    for key, good, want in _WANTED:
        values = said.get(key, [] if key == _LAID_DOWN else None)  # sshd -T omits a certificate that is not set
        if values is None or good(values) or (key == _LAID_DOWN and not configured):
            continue
        edit = f"set {want} for {POSTGRES} in sshd's configuration; {_RELOAD}"
        if key == _LAID_DOWN:
            edit = f"add Include {paths.SSHD_INCLUDED} at the top of {paths.SSHD}, which sets {want}; {_RELOAD}"
        yield Fault(f"sshd has {key} {' '.join(values) or 'none'}", edit)
    yield from _lists(said, address)


def _algorithms(name: str) -> Callable[[list[str]], bool]:
    return lambda values: any(name in value.split(",") for value in values)


def _no_command(values: list[str]) -> bool:
    return values in (["none"], [""])


def _our_file(values: list[str]) -> bool:
    ways = [word for value in values for word in value.split()]
    ours = str(paths.HOME / ".ssh" / "authorized_keys")
    named = (way.replace("%h", str(paths.HOME)).replace("%u", POSTGRES).replace("%%", "%") for way in ways)
    return any((way if way.startswith("/") else f"{paths.HOME}/{way}") == ours for way in named)


def _by_key(values: list[str]) -> bool:
    return any(way in ("any", "publickey") for value in values for way in value.split())


_WANTED: tuple[tuple[str, Callable[[list[str]], bool], str], ...] = (
    ("pubkeyauthentication", lambda values: values == ["yes"], "PubkeyAuthentication yes"),
    ("authenticationmethods", _by_key, "AuthenticationMethods publickey"),
    ("authorizedkeysfile", _our_file, "AuthorizedKeysFile .ssh/authorized_keys"),
    ("forcecommand", _no_command, "ForceCommand none"),
    ("chrootdirectory", _no_command, "ChrootDirectory none"),
    ("refuseconnection", lambda values: values == ["no"], "RefuseConnection no"),
    (_LAID_DOWN, lambda values: _CERTIFICATE in values, f"HostCertificate {_CERTIFICATE}"),
    ("hostkey", lambda values: str(paths.HOST_KEY).removesuffix(".pub") in values,
     f"HostKey {str(paths.HOST_KEY).removesuffix('.pub')}"),
    ("hostkeyalgorithms", _algorithms(_CERTIFICATE_TYPE), f"HostKeyAlgorithms +{_CERTIFICATE_TYPE}"),
    ("pubkeyacceptedalgorithms", _algorithms(_KEY_TYPE), f"PubkeyAcceptedAlgorithms +{_KEY_TYPE}"),
)  # fmt: skip


def _lists(said: Settings, address: str) -> Iterator[Fault]:
    """Yield AllowUsers, DenyUsers, AllowGroups and DenyGroups that refuse postgres (sshd_config(5): Deny wins)."""
    for key, names in (("users", [POSTGRES]), ("groups", _groups())):
        denied, allowed = _patterns(said, f"deny{key}"), _patterns(said, f"allow{key}")
        kind = key.capitalize()
        if _matches(denied, names, address):
            yield Fault(f"sshd has Deny{kind} {' '.join(denied)}", f"remove {POSTGRES} from it; {_RELOAD}")
        if allowed and not _matches(allowed, names, address):
            why = f"sshd has Allow{kind} {' '.join(allowed)}, without {POSTGRES} from {address}"
            yield Fault(why, f"add {POSTGRES} to it, without an address; {_RELOAD}")


def _groups() -> list[str]:
    """Return the names of the groups of postgres."""
    found = []
    for number in os.getgrouplist(POSTGRES, pwd.getpwnam(POSTGRES).pw_gid):
        with contextlib.suppress(KeyError):
            found.append(grp.getgrgid(number).gr_name)
    return found


def _patterns(said: Settings, key: str) -> list[str]:
    return [word for value in said.get(key, []) for word in value.split()]


def _matches(patterns: Iterable[str], names: list[str], address: str) -> bool:
    """Return whether a pattern matches one of `names` at `address`; a matching pattern with `!` returns False."""
    for name in names:
        found = False
        for pattern in patterns:
            refuses, (user, _, where) = pattern.startswith("!"), pattern.removeprefix("!").partition("@")
            if fnmatchcase(name, user) and (not where or _is_at(address, where)):
                if refuses:
                    return False
                found = True
        if found:
            return True
    return False


def _is_at(address: str, where: str) -> bool:
    if re.fullmatch(r"[0-9a-fA-F.:]+/\d+", where):
        try:
            return ipaddress.ip_address(address) in ipaddress.ip_network(where, strict=False)
        except ValueError:
            return False
    return fnmatchcase(address, where)
