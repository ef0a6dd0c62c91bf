"""Explain from the output of ssh why a node could not be reached, and give the fix for each cause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..ground import paths, ports


@dataclass(frozen=True, slots=True)
class _Cause:
    """A pattern of the output of ssh or of a login, its meaning, and its fix; `{name}` is the other node."""

    says: str
    means: str
    fix: str


_SSHD_NAMED = "on {name}, as root: pgpoolctl check names the login shell, the lock or the line of sshd's configuration"
_CAUSES = (
    _Cause(
        r"account is currently not available|/(nologin|false|true): ", "the login shell of postgres runs no commands",
        "on {name}: chsh -s /bin/bash postgres",
    ),
    _Cause(
        r"account has expired", "the account postgres has expired", "on {name}: usermod --expiredate '' postgres",
    ),
    _Cause(
        r"password has expired|[Pp]assword change required|password expired", "the password of postgres has expired",
        "on {name}: passwd --maxdays -1 postgres",
    ),
    _Cause(
        r"[Ss]ystem is (booting up|going down)|pam_nologin", "it is booting, or shutting down",
        "wait; if this lasts: rm /run/nologin /etc/nologin, on {name}",
    ),
    _Cause(
        r"Host key verification failed|No \S+ host key is known|HOST IDENTIFICATION HAS CHANGED",
        "it presents no host certificate of this cluster.key",
        "on {name}: use the same " + str(paths.CLUSTER_KEY) + ", pgpoolctl apply, systemctl reload ssh; "
        "`sshd -T | grep -i hostcertificate` there shows whether sshd has it",
    ),
    _Cause(
        r"no matching \S+( \S+)? (type|method|found)|no mutual signature",
        "its sshd allows none of the cluster's algorithms",
        "on {name}: add ssh-ed25519 and ssh-ed25519-cert-v01@openssh.com to HostKeyAlgorithms and "
        "PubkeyAcceptedAlgorithms of sshd; then systemctl reload ssh",
    ),
    _Cause(
        r"UNPROTECTED PRIVATE KEY FILE|bad permissions", "ssh ignores this node's own key, which others can read",
        "pgpoolctl apply on this node",
    ),
    _Cause(
        r"Permission denied", "its sshd rejects this node's key for postgres",
        _SSHD_NAMED + "; use the same " + str(paths.CLUSTER_KEY) + " and pgpoolctl apply on both",
    ),
    _Cause(
        r"Connection refused", "no program listens there",
        f"on {{name}}: systemctl start ssh; sshd must listen on {ports.SSH}/tcp of the address in cluster.yml",
    ),
    _Cause(
        r"Connection (timed out|reset)|No route to host|[Nn]etwork is unreachable|not responding|no answer for",
        "the host does not reply", f"start {{name}}; {ports.SSH}/tcp must be open between the nodes",
    ),
    _Cause(
        r"kex_exchange_identification|Connection closed by|Exceeded MaxStartups",
        "its sshd closes connections from this node",
        "on {name}: journalctl -u ssh shows why: MaxStartups, PerSourcePenalties, fail2ban, /etc/hosts.deny",
    ),
    _Cause(
        r"Could not resolve hostname", "its host name is not found",
        "correct DNS or /etc/hosts on this node, then pgpoolctl apply",
    ),
    _Cause(
        r"it sent an invalid answer", "its login shell may print text of its own",
        "on {name}: `runuser -u postgres -- bash -c true` must print nothing: ~postgres/.bashrc, /etc/bash.bashrc",
    ),
)  # fmt: skip
_OTHERWISE = "start {name}; systemctl status pgpool2-cluster there; pgpoolctl apply on both"


def explained(lines: Sequence[str]) -> str:
    """Return why a connection ended, from the lines that ssh printed: the significant line and its meaning."""
    for cause in _CAUSES:
        for line in lines:
            if re.search(cause.says, line):
                said = line if line.startswith(("ssh: ", "it sent")) else f"ssh: {line}"
                return f"{said}: {cause.means}"
    return lines[-1] if lines else "the connection ended"


def fix(problem: str, name: str) -> str:
    """Return the fix for `problem`, a result of `explained`, of node `name`."""
    found = next((cause.fix for cause in _CAUSES if re.search(cause.says, problem)), _OTHERWISE)
    return found.format(name=name)
