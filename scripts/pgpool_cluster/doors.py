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

from . import server
from .cluster import Cluster, Node
from .fault import Fault
from .rendered_paths import FOLDER
from .server import HOME

USER = "postgres"
SHADOW = Path("/etc/shadow")
_RELOAD = "then systemctl reload ssh"
_CERTIFICATE = f"{FOLDER}/ssh_host_ed25519_key-cert.pub"
_LAID_DOWN = "hostcertificate"
"""The setting in the cluster's own file in sshd_config.d."""
SSHD = Path("/etc/ssh/sshd_config")
INCLUDED = "/etc/ssh/sshd_config.d/*.conf"
_CERTIFICATE_TYPE = "ssh-ed25519-cert-v01@openssh.com"
_KEY_TYPE = "ssh-ed25519"
_PORT = 22
_DAY = 86400
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
        text = SSHD.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if not re.search(rf"(?im)^\s*Include\s.*{re.escape(str(Path(INCLUDED).parent))}/", text):
        yield Fault(f"{SSHD} does not include {INCLUDED}, where the cluster's host certificate is named",
                    f"Include {INCLUDED} at the top of {SSHD}")  # fmt: skip


def settings(address: str, own: str) -> Settings:
    """Return sshd's settings for a login of postgres from `address`, from `sshd -T`: the values by key.

    Raises ServerError if `sshd -T` fails.
    """
    words = {"user": USER, "host": address, "addr": address, "laddr": own, "lport": _PORT}
    login = ",".join(f"{name}={value}" for name, value in words.items())
    said = server.run(["/usr/sbin/sshd", "-T", "-C", login])
    found: Settings = {}
    for line in said.splitlines():
        key, _, value = line.strip().partition(" ")
        found.setdefault(key.lower(), []).append(value.strip())
    return found


def _shell() -> Iterator[Fault]:
    shell = pwd.getpwnam(USER).pw_shell or "/bin/sh"
    fix = f"chsh -s /bin/bash {USER}"
    if Path(shell).name in _SILENT_SHELLS:
        yield Fault(f"the login shell of {USER} is {shell}, and the other nodes' commands run through it", fix)
    elif not os.access(shell, os.X_OK):
        yield Fault(f"the login shell of {USER}, {shell}, is not there", fix)


def _account(*, pam: bool) -> Iterator[Fault]:
    """Yield the faults of the account: it is locked, has expired, or its password has expired.

    A lock matters only to sshd without PAM, and an expired password only with PAM.
    """
    try:
        lines = SHADOW.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    fields = next((line.split(":") for line in lines if line.startswith(f"{USER}:")), [])
    if not pam and len(fields) > 1 and fields[1].startswith("!"):
        why = f"the account {USER} is locked, and sshd has UsePAM no, so it takes no key for it"
        yield Fault(why, f"usermod -p '*' {USER} (no password, not locked), or UsePAM yes in sshd's configuration")
    today = time.time() // _DAY
    expires = fields[_EXPIRES] if len(fields) > _EXPIRES else ""
    if expires.isdecimal() and int(expires) <= today:
        yield Fault(f"the account {USER} has expired", f"usermod --expiredate '' {USER}")
    changed, longest = (fields[_CHANGED], fields[_LONGEST]) if len(fields) > _LONGEST else ("", "")
    if pam and changed.isdecimal():
        aged = longest.isdecimal() and int(changed) + int(longest) < today
        if int(changed) == 0 or aged:
            why = f"the password of {USER} has to be changed, so PAM refuses the login"
            yield Fault(why, f"chage -d -1 -M -1 {USER}")


def _modes() -> Iterator[Fault]:
    """Yield the paths that others than postgres and root may write: StrictModes then rejects the key in them."""
    owner = pwd.getpwnam(USER).pw_uid
    for path in (HOME, HOME / ".ssh", HOME / ".ssh" / "authorized_keys"):
        try:
            found = path.lstat()
        except OSError:
            continue  # other code creates the path, or reports that it is missing
        if not stat.S_ISLNK(found.st_mode) and (found.st_uid not in (0, owner) or found.st_mode & 0o022):
            why = f"{path} can be written by others than {USER} (mode {found.st_mode & 0o7777:04o})"
            yield Fault(f"{why}, and sshd has StrictModes yes", f"chown {USER}: {path}; chmod go-w {path}")


def of_sshd(said: Settings, address: str, own: str, *, configured: bool = True) -> Iterator[Fault]:
    """Yield the settings in `said`, the result of `settings`, that refuse postgres from `address`, each with its edit.

    `configured` is as in `faults`.
    """
    places = said.get("listenaddress", [])
    host = f"[{own}]" if ":" in own else own
    if places and not any(place in (f"0.0.0.0:{_PORT}", f"[::]:{_PORT}", f"{host}:{_PORT}") for place in places):
        edit = f"ListenAddress {host}:{_PORT}, besides, in sshd's configuration; then systemctl restart ssh"
        yield Fault(f"sshd listens on {' '.join(places)}, not on {host}:{_PORT}", edit)
    for key, good, want in _WANTED:
        values = said.get(key, [] if key == _LAID_DOWN else None)  # sshd -T omits a certificate that is not set
        if values is None or good(values) or (key == _LAID_DOWN and not configured):
            continue
        edit = f"{want} for {USER} in sshd's configuration; {_RELOAD}"
        if key == _LAID_DOWN:
            edit = f"Include {INCLUDED} at the top of {SSHD}, which brings {want}; {_RELOAD}"
        yield Fault(f"sshd has {key} {' '.join(values) or 'none'}", edit)
    yield from _lists(said, address)


def _algorithms(name: str) -> Callable[[list[str]], bool]:
    return lambda values: any(name in value.split(",") for value in values)


def _no_command(values: list[str]) -> bool:
    return values in (["none"], [""])


def _our_file(values: list[str]) -> bool:
    ways = [word for value in values for word in value.split()]
    ours = str(HOME / ".ssh" / "authorized_keys")
    named = (way.replace("%h", str(HOME)).replace("%u", USER).replace("%%", "%") for way in ways)
    return any((way if way.startswith("/") else f"{HOME}/{way}") == ours for way in named)


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
    ("hostkey", lambda values: str(server.HOST_KEY).removesuffix(".pub") in values,
     f"HostKey {str(server.HOST_KEY).removesuffix('.pub')}"),
    ("hostkeyalgorithms", _algorithms(_CERTIFICATE_TYPE), f"HostKeyAlgorithms +{_CERTIFICATE_TYPE}"),
    ("pubkeyacceptedalgorithms", _algorithms(_KEY_TYPE), f"PubkeyAcceptedAlgorithms +{_KEY_TYPE}"),
)  # fmt: skip


def _lists(said: Settings, address: str) -> Iterator[Fault]:
    """Yield AllowUsers, DenyUsers, AllowGroups and DenyGroups that refuse postgres (sshd_config(5): Deny wins)."""
    for key, names in (("users", [USER]), ("groups", _groups())):
        denied, allowed = _patterns(said, f"deny{key}"), _patterns(said, f"allow{key}")
        kind = key.capitalize()
        if _matches(denied, names, address):
            yield Fault(f"sshd has Deny{kind} {' '.join(denied)}", f"take {USER} out of it; {_RELOAD}")
        if allowed and not _matches(allowed, names, address):
            why = f"sshd has Allow{kind} {' '.join(allowed)}, without {USER} from {address}"
            yield Fault(why, f"add {USER} to it, without an address; {_RELOAD}")


def _groups() -> list[str]:
    """Return the names of the groups of postgres."""
    found = []
    for number in os.getgrouplist(USER, pwd.getpwnam(USER).pw_gid):
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
