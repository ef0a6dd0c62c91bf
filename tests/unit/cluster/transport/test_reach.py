"""Each reason why a node is out of reach has its own line and its own fix."""

from __future__ import annotations

import pytest

from pgpool_cluster.transport import reach

DENIED = "postgres@10.0.0.2: Permission denied (publickey)."
SAID = {
    DENIED: ("rejects this node's key", "on pg2, as root: pgpoolctl check names the login shell"),
    "Host key verification failed.": ("no host certificate of this cluster.key", "systemctl reload ssh"),
    "This account is currently not available.": ("login shell", "on pg2: chsh -s /bin/bash postgres"),
    "it sent an invalid answer: 'This account is currently not available.'": ("login shell", "chsh -s /bin/bash"),
    "it sent an invalid answer: 'Welcome to pg2'": ("may print text of its own", "~postgres/.bashrc"),
    "Your account has expired; please contact your system administrator.": ("has expired", "usermod --expiredate"),
    "WARNING: Your password has expired.": ("password of postgres has expired", "passwd --maxdays -1 postgres"),
    "ssh: connect to host 10.0.0.2 port 22: Connection refused": ("no program listens", "systemctl start ssh"),
    "ssh: connect to host 10.0.0.2 port 22: Connection timed out": ("the host does not reply", "start pg2; 22/tcp"),
    "ssh: connect to host 10.0.0.2 port 22: No route to host": ("the host does not reply", "start pg2; 22/tcp"),
    "Unable to negotiate with 10.0.0.2 port 22: no matching host key type found. Their offer: rsa-sha2-512":
        ("none of the cluster's algorithms", "HostKeyAlgorithms"),
    "kex_exchange_identification: Connection closed by remote host": ("closes connections", "journalctl -u ssh"),
    "ssh: Could not resolve hostname pg2.lan: Name or service not known": ("is not found", "DNS or /etc/hosts"),
    "pgpoolctl: the agent does not run": ("the agent does not run", "systemctl status pgpool2-cluster"),
}  # fmt: skip


@pytest.mark.parametrize("line", SAID)
def test_a_cause_has_its_own_message_and_its_own_fix(line: str) -> None:
    """`another cluster.key is there` used to be reported for a locked account and a login shell, too."""
    means, fix = SAID[line]
    problem = reach.explained(["Warning: something before", line])
    assert line in problem
    assert means in problem
    assert fix in reach.fix(problem, "pg2")


def test_the_line_that_has_the_cause_is_used_instead_of_the_last_one() -> None:
    found = reach.explained(["Your account has expired; please contact", "Connection closed by 10.0.0.2 port 22"])
    assert "the account postgres has expired" in found


def test_a_connection_that_ended_without_a_message_is_reported_as_such() -> None:
    assert reach.explained([]) == "the connection ended"
    assert "pg2" in reach.fix("", "pg2")
