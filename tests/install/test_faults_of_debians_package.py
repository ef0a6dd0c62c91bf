"""Faults of Debian's own pgpool2 that ours does not have; the numbers are those of PGPOOL-FACTS.

Number 5's conffile prompts are in test_upgrade.py, number 8 (lintian, blhc) is in tests/package/test_quality.py.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable

import pytest
from tests.authority import clients
from tests.built import Built
from tests.chroot import Chroot
from tests.install.daemon import with_pgpool

from pgpool_deb.boxes.roots import Root

CONF = "/etc/pgpool2/pgpool.conf"
UNIT = "$(dpkg -L pgpool2 | grep /pgpool2.service$)"
NONE_CONF = "/etc/pgpool2/none.conf"
LEAST_CONF = "/etc/pgpool2/least.conf"
LEAST = f"""
cat >{LEAST_CONF} <<'CONF'
backend_hostname0 = '/var/run/postgresql'
backend_port0 = 5432
sr_check_user = 'postgres'
CONF
"""


@pytest.fixture(scope="module")
def system(server: Root, on: Callable[[Root], Chroot], packages: Built) -> Chroot:
    chroot = on(server)
    chroot.run(f"apt-get install -y -q {packages.every_deb}")
    return chroot


def parameters(system: Chroot) -> dict[str, str]:
    """Return the parameters in the installed pgpool.conf."""
    lines = system.run(f"sed -n \"s/^\\([a-z_0-9]*\\) *= *\\('[^']*'\\|[^ #]*\\).*/\\1=\\2/p\" {CONF}").splitlines()
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def test_1_pgpool_listens_on_the_port_that_the_documentation_promises(system: Chroot, packages: Built) -> None:
    readme = system.run("cat /usr/share/doc/pgpool2/README.Debian")
    assert "9999" in readme
    assert "5433" not in readme + system.run("cat /var/lib/dpkg/info/pgpool2.postinst")
    assert parameters(system)["port"] == "9999"
    answer = with_pgpool(system, packages.majors[-1], "ask -h 127.0.0.1 -p 9999")
    assert "42" in answer.output.splitlines(), answer.output


def test_2_sockets_are_where_debians_clients_look(system: Chroot, packages: Built) -> None:
    script = "ask -p 9999; ls /var/run/postgresql/.s.PGSQL.9999 /var/run/postgresql/.s.PGSQL.9898; ls -A /tmp"
    answer = with_pgpool(system, packages.majors[-1], script)
    assert "42" in answer.output.splitlines(), answer.output
    assert "/var/run/postgresql/.s.PGSQL.9898" in answer.output
    assert not [line for line in answer.output.splitlines() if line.startswith(".s.PGSQL")], "sockets in /tmp"


def test_2_and_6_compiled_defaults_are_as_good_as_the_configuration_file(system: Chroot, packages: Built) -> None:
    files = "cd /var/run/postgresql; find . -name .s.PGSQL.9999 -o -name .s.PGSQL.9898 -o -name pgpool.pid; ls -A /tmp"
    answer = with_pgpool(system, packages.majors[-1], files, conf=LEAST_CONF, before=LEAST)
    lines = answer.output.splitlines()
    assert {"./.s.PGSQL.9999", "./.s.PGSQL.9898", "./pgpool.pid"} <= set(lines), answer.output
    assert not [line for line in lines if line.startswith((".s.PGSQL", "pgpool_status"))], "run-time files in /tmp"


def test_3_pgpool_refuses_to_start_without_a_backend(system: Chroot, packages: Built) -> None:
    without = f"sed 's/^backend_/#&/' {CONF} >{NONE_CONF} && chmod 644 {NONE_CONF}"
    answer = with_pgpool(system, packages.majors[-1], ":", conf=NONE_CONF, before=without)
    assert answer.status == 9
    assert "no backend is configured" in answer.output


def test_4_pgpool_starts_where_there_is_no_ipv6(system: Chroot, packages: Built) -> None:
    off = "echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6"
    answer = with_pgpool(system, packages.majors[-1], "ask -h 127.0.0.1 -p 9999; cat /tmp/pgpool.log", before=off)
    assert "42" in answer.output.splitlines(), answer.output
    assert "failed to create INET domain socket" in answer.output, "::1 could be bound after all"


@pytest.mark.parametrize("name", ["pgpool.conf", "pcp.conf", "pool_passwd"])
def test_5_no_other_user_can_read_files_that_may_hold_credentials(system: Chroot, name: str) -> None:
    mode, owners = system.run(f"stat -c '%a %U:%G' /etc/pgpool2/{name}").split()
    assert (int(mode, 8) & 0o007, owners.endswith(":postgres")) == (0, True)
    assert system.attempt(f"setpriv --reuid nobody --regid nogroup --clear-groups cat /etc/pgpool2/{name}").status != 0
    system.run(f"runuser -u postgres -- cat /etc/pgpool2/{name}")


def test_5_the_daemons_user_can_add_to_pool_passwd(system: Chroot) -> None:
    system.run(
        "install -o postgres -g postgres -m 600 /dev/null ~postgres/.pgpoolkey; echo secret >~postgres/.pgpoolkey;"
        "runuser -u postgres -- pg_enc -m -u alice of-alice; runuser -u postgres -- pg_md5 -m -u bob of-bob"
    )
    entries = system.run("cat /etc/pgpool2/pool_passwd").splitlines()
    assert [entry[:7] for entry in sorted(entries)] == ["alice:A", "bob:md5"]


def test_6_node_status_survives_a_reboot(system: Chroot, packages: Built) -> None:
    settings = parameters(system)
    assert settings.get("work_dir", settings.get("logdir")) == "/var/log/postgresql"
    answer = with_pgpool(system, packages.majors[-1], "ask -p 9999 >/dev/null")
    assert answer.status == 0, answer.output
    assert system.run("cat /var/log/postgresql/pgpool_status") == "up"


def test_7_the_unit_restarts_and_waits_for_what_it_needs(system: Chroot) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read_string(system.run(f"cat {UNIT}"))
    assert unit["Service"]["restart"] == "on-failure"
    assert unit["Service"]["type"] == "notify"
    assert {"network-online.target", "postgresql.service"} <= set(unit["Unit"]["after"].split())
    assert "network-online.target" in unit["Unit"]["wants"].split()
    assert "standardoutput" not in unit["Service"]


def test_7_the_unit_is_hardened(system: Chroot) -> None:
    assert system.run("systemd-analyze verify --man=no pgpool2.service") == ""
    exposure = system.run("systemd-analyze security --offline=true --no-pager pgpool2.service | tail -n 1")
    assert float(exposure.split(":")[1].split()[0]) <= 4.0, exposure


def test_7_compiled_defaults_call_no_sudo(system: Chroot, packages: Built) -> None:
    names = ("if_up_cmd", "if_down_cmd", "arping_cmd")
    shown = "\n".join(f"as_postgres psql -XAtq -p 9999 -c 'PGPOOL SHOW {name}' postgres" for name in names)
    answer = with_pgpool(system, packages.majors[-1], shown, conf=LEAST_CONF, before=LEAST)
    assert "/sbin/ip addr add" in answer.output, answer.output
    assert "/usr/bin/arping" in answer.output
    assert "sudo" not in answer.output


def test_10_the_description_matches_this_pgpool(system: Chroot) -> None:
    text = system.run("dpkg-query -W -f '${Description}\\n' '*pgpool*'").lower()
    assert "pgpool-ii" in text
    assert "parallel query" not in text
    assert "version 3" not in text


QUERIES = 100
WRITES = f"""
writes() {{
    cat $(grep -lx pgpool /proc/[0-9]*/comm | sed 's/comm$/io/') | awk '/^syscw/ {{ sum += $2 }} END {{ print sum }}'
}}
yes 'SELECT 1;' | head -n {QUERIES} >/tmp/queries.sql
before=$(writes)
as_postgres psql -XAtq -p 9999 -f /tmp/queries.sql postgres >/dev/null
echo "writes: $(($(writes) - before))"
"""


def test_a_simple_query_is_answered_with_one_write(system: Chroot, packages: Built) -> None:
    """A second write goes to PostgreSQL. Upstream uses three for the answer, which wake the client three times."""
    answer = with_pgpool(system, packages.majors[-1], WRITES)
    (line,) = (line for line in answer.output.splitlines() if line.startswith("writes: "))
    assert QUERIES * 1.5 < int(line.split()[1]) < QUERIES * 3, answer.output


LEAVES = """
cpu() { awk '{ print $14 + $15 }' "${served%/*}/stat"; }
echo 'SELECT pg_sleep(5)' >/tmp/sleep.sql
as_postgres pgbench -n -M extended -t 1 -f /tmp/sleep.sql -h /var/run/postgresql -p 9999 postgres >/dev/null &
until served=$(grep -ls '[p]gpool: postgres postgres .*SELECT' /proc/[0-9]*/cmdline) || ! kill -0 $!; do sleep 0.1; done
kill -KILL $(grep -lsx pgbench /proc/[0-9]*/comm | cut -d / -f 3)
before=$(cpu)
sleep 2
echo "CPU time: $((($(cpu) - before) * 1000 / $(getconf CLK_TCK))) ms"
"""
"""pgbench supports the extended protocol in every PostgreSQL, psql only since 16."""


def test_a_client_that_leaves_during_a_query_costs_no_cpu_time(system: Chroot, packages: Built) -> None:
    """With one backend, upstream's process polls the client continuously until the query ends."""
    answer = with_pgpool(system, packages.majors[-1], LEAVES)
    (line,) = (line for line in answer.output.splitlines() if line.startswith("CPU time: "))
    assert int(line.split()[2]) < 200, answer.output


HBA = "/etc/pgpool2/pool_hba.conf"
TRUSTED = "/etc/pgpool2/clients.pem"
CERTIFICATES_CONF = "/etc/pgpool2/certificates.conf"
CERTIFICATES = f"""
{LEAST}
cp {LEAST_CONF} {CERTIFICATES_CONF}
cat >>{CERTIFICATES_CONF} <<'CONF'
enable_pool_hba = on
ssl = on
ssl_cert = '/etc/ssl/certs/ssl-cert-snakeoil.pem'
ssl_key = '/etc/ssl/private/ssl-cert-snakeoil.key'
ssl_ca_cert = '{TRUSTED}'
CONF
cp -p {HBA} /root
sed -i '1i hostssl all postgres 127.0.0.1/32 cert' {HBA}
"""
SHOWN = f"""
for pem in /root/client-*.pem; do
    where="host=127.0.0.1 port=9999 user=postgres dbname=postgres sslmode=require sslcert=$pem sslkey=$pem"
    psql -XAtq -c 'SELECT 40 + 2' "$where" || echo refused
done
cp -p /root/pool_hba.conf {HBA}
"""


def test_a_client_certificate_is_for_one_name(system: Chroot, packages: Built) -> None:
    """Upstream accepts a certificate for "Postgres" as one for "postgres", and one with a NUL after that name."""
    authority, given = clients("postgres", "Postgres", "postgres\0x")
    files = {TRUSTED: authority, **{f"/root/client-{number}.pem": pem for number, pem in enumerate(given)}}
    put = "".join(f"cat >{path} <<'PEM'\n{pem}PEM\n" for path, pem in files.items())
    before = f"{CERTIFICATES}{put}chmod 600 /root/client-*.pem\n"
    answer = with_pgpool(system, packages.majors[-1], SHOWN, conf=CERTIFICATES_CONF, before=before)
    assert [line for line in answer.output.splitlines() if line in ("42", "refused")] == ["42", "refused", "refused"]
    assert answer.output.count("CERT authentication failed") == 2, answer.output
