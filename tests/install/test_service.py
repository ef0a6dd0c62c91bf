"""pgpool2 on a booted server: systemd starts it, keeps it running, and reports if it cannot run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.built import Built
from tests.chroot import Chroot
from tests.host import Host, booted, engine

from pgpool_deb.boxes.roots import Root

ASK = "runuser -u postgres -- psql -X -A -t -h /var/run/postgresql -p 9999 -c 'SELECT 40 + 2' postgres"
MAIN = "systemctl show -P MainPID pgpool2"


@pytest.fixture(scope="module")
def host(
    clean: Root, on: Callable[[Root], Chroot], packages: Built, systems: Path, request: pytest.FixtureRequest
) -> Iterator[Host]:
    """A booted host of the release with PostgreSQL, on which our packages were installed while it was running."""
    template = on(clean)
    template.run(
        f"apt-get install -y -q systemd-sysv dbus iproute2 postgresql-{packages.majors[-1]}; cp {packages.debs} /root"
    )
    image = template.packed(systems / f"image-{packages.release.name}")
    with (
        engine(install=not request.config.getoption("--no-install")) as client,
        booted(client, packages.release.name, image) as host,
    ):
        host.run("systemctl is-active postgresql && apt-get install -y -q /root/*.deb")
        yield host


def logged(host: Host, words: str) -> None:
    """Wait until the words of pgpool-II's unit are in the journal, which may lag for a moment."""
    host.until(f"journalctl --no-pager -u pgpool2 | grep -F '{words}' || {{ journalctl --no-pager -n 50; false; }}", 20)


def test_pgpool_runs_after_the_installation(host: Host) -> None:
    assert host.run("systemctl is-active pgpool2; systemctl is-enabled pgpool2").split() == ["active", "enabled"]
    assert host.run(ASK) == "42"


def test_the_service_has_only_the_watchdogs_capabilities(host: Host) -> None:
    status = host.run(f"grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' /proc/$({MAIN})/status")
    net_admin_and_raw = f"{1 << 12 | 1 << 13:016x}"
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    assert fields["CapEff"] == fields["CapBnd"] == [net_admin_and_raw]
    assert fields["NoNewPrivs"] == ["1"]
    assert fields["Uid"][1] == host.run("id -u postgres")


def test_the_service_is_hardened(host: Host) -> None:
    exposure = host.run("systemd-analyze security --no-pager pgpool2.service | tail -n 1")
    assert float(exposure.split(":")[1].split()[0]) <= 4.0, exposure


def test_pgpool_restarts_after_a_kill(host: Host) -> None:
    before = host.run(MAIN)
    host.run("systemctl kill --kill-whom=main --signal=KILL pgpool2")
    host.until(f'main=$({MAIN}); [ "$main" != 0 ] && [ "$main" != {before} ] && systemctl is-active pgpool2', 15)
    assert host.run(ASK) == "42"


def test_a_reload_keeps_it_serving(host: Host) -> None:
    before = host.run(MAIN)
    host.run("systemctl reload pgpool2")
    assert host.run(f"{ASK}; {MAIN}").split() == ["42", before]


def test_the_log_is_in_the_journal(host: Host) -> None:
    logged(host, "pgpool-II successfully started")


def test_pgpool_serves_again_after_a_reboot(host: Host) -> None:
    host.reboot()
    host.until("systemctl is-active pgpool2", 30)
    assert host.until(ASK, 10) == "42"


CHECKED = """
cp -p /etc/pgpool2/pgpool.conf /root
cat >>/etc/pgpool2/pgpool.conf <<'CONF'
backend_hostname0 = '127.0.0.1'
ssl = {tls}
ssl_cert = '/etc/ssl/certs/ssl-cert-snakeoil.pem'
ssl_key = '/etc/ssl/private/ssl-cert-snakeoil.key'
health_check_period = 1
health_check_timeout = 2
health_check_user = 'checker'
health_check_password = 'of-checker'
sr_check_user = 'checker'
sr_check_password = 'of-checker'
CONF
runuser -u postgres -- psql -c "CREATE ROLE checker LOGIN PASSWORD 'of-checker' IN ROLE pg_monitor"
systemctl reset-failed pgpool2
systemctl restart pgpool2
"""
CHECKED_NO_LONGER = """
runuser -u postgres -- psql -c 'DROP ROLE checker'
cp -p /root/pgpool.conf /etc/pgpool2
systemctl stop pgpool2
rm -f /var/log/postgresql/pgpool_status
systemctl reset-failed pgpool2
systemctl start pgpool2
"""
"""Resets systemd's count of starts for both units, because it refuses the sixth within ten seconds."""
SINCE_START = "_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID pgpool2)"
POSTMASTER = "$(head -n 1 /var/lib/postgresql/*/main/postmaster.pid)"
SETTING = "pg_conftool $(ls /etc/postgresql) main"
HANGS = {
    "before TLS": (f"kill -STOP {POSTMASTER}", f"kill -CONT {POSTMASTER}"),
    "in a login over TLS": (f"{SETTING} set post_auth_delay 600s; systemctl reload postgresql",
                            f"{SETTING} remove post_auth_delay; systemctl reload postgresql"),
}  # fmt: skip
"""Commands that make a server silent although it accepts connections, and those that end this."""


@pytest.mark.parametrize("hang", HANGS)
def test_a_server_that_falls_silent_is_given_up(host: Host, hang: str) -> None:
    """health_check_timeout is 2 s; the check of upstream's 4.6.1 waits forever."""
    begin, end = HANGS[hang]
    host.run(CHECKED.format(tls="on" if "over TLS" in hang else "off"))
    try:
        host.run(begin)
        host.until(f"journalctl -q {SINCE_START} | grep -F 'health check failed on node 0 (timeout:1)'", 20)
    finally:
        host.run(end)
        host.run(CHECKED_NO_LONGER)
    assert host.until(ASK, 10) == "42"


TRIED = """
mkdir -p /root/untried /etc/systemd/system/pgpool2.service.d
cp -p /etc/pgpool2/pgpool.conf /etc/pgpool2/pcp.conf /root/untried
cat >>/etc/pgpool2/pgpool.conf <<'CONF'
backend_hostname1 = '/var/run/postgresql'
backend_port1 = 5432
backend_weight1 = 0
failover_on_backend_error = off
num_init_children = 4
authentication_timeout = 3
recovery_password = 'of-recovery'
wd_authkey = 'of-watchdog'
CONF
echo "tester:$(printf of-pcp | md5sum | cut -d ' ' -f 1)" >>/etc/pgpool2/pcp.conf
echo '*:*:tester:of-pcp' >/root/pcppass
chmod 600 /root/pcppass
printf '[Service]\\nEnvironment=MALLOC_PERTURB_=165\\n' >/etc/systemd/system/pgpool2.service.d/perturb.conf
systemctl daemon-reload
systemctl stop pgpool2
rm -f /var/log/postgresql/pgpool_status
systemctl reset-failed pgpool2
systemctl start pgpool2
"""
"""The C library overwrites freed memory, which exposes use after free. Both nodes are the same server."""
TRIED_NO_LONGER = """
cp -p /root/untried/* /etc/pgpool2
rm -r /etc/systemd/system/pgpool2.service.d/perturb.conf /root/untried /root/pcppass
systemctl daemon-reload
systemctl stop pgpool2
rm -f /var/log/postgresql/pgpool_status
systemctl reset-failed pgpool2
systemctl start pgpool2
"""
PCP = "PCPPASSFILE=/root/pcppass timeout 10 pcp_{} -h 127.0.0.1 -p 9898 -U tester -w"
TO_PCP = "timeout 10 bash -c 'exec 3<>/dev/tcp/127.0.0.1/9898; {}cat <&3' | tr -d '\\0'; echo \"\n${{PIPESTATUS[0]}}\""
CRASHED = f"journalctl -q {SINCE_START} | grep -F 'terminated by segmentation fault'"
LEAVING = """
SELECT format('CREATE TEMP TABLE t%s (x int PRIMARY KEY, y text)', i) FROM generate_series(1, 1000) AS i \\gexec
PREPARE one AS SELECT 1;
PREPARE two AS SELECT 2;
EXECUTE one;
\\! psql -XAtq -p 5432 -f /srv/end.sql postgres; sleep 0.1
"""
END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'leaving' AND pid <> pg_backend_pid()
"""


@pytest.fixture(scope="module")
def tried(host: Host) -> Iterator[Host]:
    """A host whose pgpool-II has two nodes, a user of PCP, and secrets in its configuration."""
    host.run(TRIED)
    host.until(ASK, 20)
    yield host
    host.run(TRIED_NO_LONGER)
    host.until(ASK, 20)


def test_a_session_that_the_server_ends_crashes_nothing(tried: Host) -> None:
    """It has prepared statements, and disconnects while the server, after its final error, still drops its tables."""
    tried.put("/srv/leaving.sql", LEAVING)
    tried.put("/srv/end.sql", END)
    psql = "runuser -u postgres -- env PGAPPNAME=leaving psql -XAtq -h /var/run/postgresql -p 9999"
    tried.attempt(f"{psql} -f /srv/leaving.sql postgres", seconds=60)
    tried.until(f"journalctl -q {SINCE_START} | grep -F 'was shutdown by administrative command'", 10)
    assert tried.until(ASK, 10) == "42"
    assert tried.attempt(f"sleep 3; {CRASHED}").status == 1


def to_pcp(host: Host, packets: str) -> tuple[str, int]:
    """Send bytes in printf notation to the PCP port; return the answer, and 0 or, if the connection stays open, 124."""
    host.put("/srv/to-pcp.sh", TO_PCP.format(f'printf "{packets}" >&3; ' if packets else ""))
    *answer, status = host.run("bash /srv/to-pcp.sh").splitlines()
    return "\n".join(answer), int(status)


def test_a_pcp_packet_without_a_content_crashes_nothing(tried: Host) -> None:
    answer, _ = to_pcp(tried, r"M\0\0\0\4R\0\0\0\4")
    assert "invalid PCP packet" in answer
    assert tried.attempt(f"sleep 1; {CRASHED}").status == 1


def test_a_pcp_client_that_does_not_log_in_is_sent_away(tried: Host) -> None:
    """authentication_timeout is 3 s, and the client's own timeout is 10 s."""
    assert to_pcp(tried, "") == ("", 0)
    assert to_pcp(tried, r"R\0\0\0\5") == ("", 0)
    assert tried.run(f"{PCP.format('node_count')}") == "2"


def test_a_node_that_is_down_is_not_promoted(tried: Host) -> None:
    tried.run(f"{PCP.format('detach_node')} -n 1")
    tried.until(f"{PCP.format('node_info')} -n 1 | grep -w down", 20)
    try:
        for way in ("", "--gracefully"):
            answer = tried.attempt(f"{PCP.format('promote_node')} -n 1 {way}")
            assert "node id 1 is not up" in answer.output
            assert answer.status != 124, "it waited for a failover that had not begun"
    finally:
        tried.run(f"{PCP.format('attach_node')} -n 1")


def test_no_secret_of_the_configuration_is_shown_or_logged(tried: Host) -> None:
    shown = tried.run("runuser -u postgres -- psql -XAt -h /var/run/postgresql -p 9999 -c 'PGPOOL SHOW ALL' postgres")
    assert "wd_authkey|*****|" in shown
    assert "of-watchdog" not in shown
    assert "of-recovery" not in shown
    tried.run("echo 'log_min_messages = debug5' >>/etc/pgpool2/pgpool.conf; systemctl reload pgpool2; sleep 2")
    tried.run("systemctl reload pgpool2")
    tried.until(f"journalctl -q {SINCE_START} | grep -F 'key: \"wd_authkey\"'", 10)
    tried.run("sed -i '/^log_min_messages = debug5/d' /etc/pgpool2/pgpool.conf; systemctl reload pgpool2")
    assert tried.attempt(f"journalctl -q {SINCE_START} | grep -E 'of-(watchdog|recovery)'").status == 1


def test_a_start_without_a_backend_is_reported_as_a_failure(host: Host) -> None:
    host.run("cp -p /etc/pgpool2/pgpool.conf /root; sed -i 's/^backend_/#&/' /etc/pgpool2/pgpool.conf")
    assert host.attempt("systemctl reset-failed pgpool2; systemctl restart pgpool2").status != 0
    host.until("systemctl is-failed pgpool2", 30)
    logged(host, "no backend is configured")
    host.run("cp -p /root/pgpool.conf /etc/pgpool2; systemctl reset-failed pgpool2; systemctl start pgpool2")
    assert host.run(ASK) == "42"
