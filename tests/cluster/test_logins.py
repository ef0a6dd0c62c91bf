"""pgpool-II refuses logins with hand-made packets that no library would send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster import APP, APP_PASSWORD, Cluster
from tests.host import Host

CLIENT = "/srv/login.py"
HBA = "/etc/pgpool2/cluster/pool_hba.conf"


@pytest.fixture(scope="module")
def asks(cluster: Cluster, pg1: Host) -> Iterator[Host]:
    """A host with the client. Its pgpool-II requests clear-text passwords, or LDAP for login.two_gigabytes."""
    pg1.put(CLIENT, Path(__file__).with_name("login.py").read_text(encoding="utf-8"))
    lines = rf"hostssl all {APP} all password\nhostssl all nobody all ldap ldapserver=127.0.0.1 ldapprefix=cn="
    pg1.run(f"cp -p {HBA} /root/hba; sed -i '1i {lines}' {HBA}; systemctl reload pgpool2; sleep 2")
    yield pg1
    pg1.run(f"cp -p /root/hba {HBA}; systemctl reload pgpool2")


def login(host: Host, story: str, password: str = "") -> str:
    """Return the result of a login with hand-made packets."""
    return host.run(f"python3 {CLIENT} {host.address} {APP} {APP} {story} '{password}'", seconds=30)


def test_the_first_letter_of_a_password_is_not_enough(asks: Host) -> None:
    assert login(asks, "password", APP_PASSWORD[0]) == "RE"


def test_the_whole_password_is_enough(asks: Host) -> None:
    assert login(asks, "password", APP_PASSWORD) == "RR"


def test_a_password_packet_of_2_gb_is_refused(asks: Host) -> None:
    """The process that reads it for LDAP survives and answers."""
    assert login(asks, "two_gigabytes") == "RE"


def test_a_response_is_as_long_as_it_says(pg2: Host) -> None:
    pg2.put(CLIENT, Path(__file__).with_name("login.py").read_text(encoding="utf-8"))
    assert login(pg2, "short_response") == "refused"


def test_options_that_do_not_end_are_refused(asks: Host) -> None:
    assert login(asks, "not_terminated") == "refused"


def test_a_handshake_that_fails_ends_the_connection(asks: Host) -> None:
    """No unencrypted login follows."""
    assert login(asks, "failed_handshake") == "end"


def test_a_client_that_begins_with_tls_is_named_in_the_log(asks: Host) -> None:
    assert login(asks, "direct_tls") == "end"
    asks.until("journalctl -u pgpool2 | grep -q 'a client begins with TLS, which Pgpool-II does not support'", 5)
