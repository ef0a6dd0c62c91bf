"""Ten minutes of malformed messages from an unauthenticated client neither crash pgpool-II nor fill its memory.

The test builds pgpool-II from the source package in dist/, with AddressSanitizer and with the checks of pgpool-II's
memory contexts. There is no PostgreSQL, because the code before authentication does not need one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.chroot import Answer, Chroot

from pgpool_deb.boxes.roots import Root

SECONDS = {"client": 300, "watchdog": 180, "heartbeat": 120}
SEED = 20261129
WARM = 20
"""Seconds until the memory use of a process has stabilised."""
GROWTH = 8192
"""KiB that a process may grow by, because the sanitizer retains some freed memory."""
BUILD = """
apt-get -q update
apt-get install -y -q dpkg-dev openssl procps python3
cd /srv
dpkg-source --no-check -x /dist/pgpool2_*.dsc pgpool2
apt-get build-dep -y -q ./pgpool2
cd pgpool2
./configure -q --with-openssl --with-pam --with-ldap
# pgpool-II 4.7 checks a byte behind each chunk of memory with functions that it does not define.
cat >/srv/sentinel.h <<'END'
static inline void set_sentinel(void *chunk, unsigned long size) { ((char *) chunk)[size] = 0x7e; }
static inline int sentinel_ok(const void *chunk, unsigned long size) { return ((const char *) chunk)[size] == 0x7e; }
END
flags='-g -O1 -fsanitize=address -fno-omit-frame-pointer -DMEMORY_CONTEXT_CHECKING -include /srv/sentinel.h'
for part in parser libs watchdog; do
    make -s -j2 -C src/$part "CFLAGS=$flags"
done
make -s -j2 -C src pgpool "CFLAGS=$flags" LDFLAGS=-fsanitize=address
"""
CONFIGURATION = """
backend_clustering_mode = 'streaming_replication'
listen_addresses = '127.0.0.1'
port = 9999
unix_socket_directories = '/srv/run'
pcp_socket_dir = '/srv/run'
wd_ipc_socket_dir = '/srv/run'
backend_hostname0 = '127.0.0.1'
backend_port0 = 5432
backend_flag0 = 'DISALLOW_TO_FAILOVER'
enable_pool_hba = on
pool_passwd = '/srv/run/pool_passwd'
authentication_timeout = 2
num_init_children = 4
child_life_time = 0
health_check_period = 0
sr_check_period = 0
search_primary_node_timeout = 1
ssl = on
ssl_key = '/srv/run/key.pem'
ssl_cert = '/srv/run/cert.pem'
pid_file_name = '/srv/run/pid'
logdir = '/srv/run'
work_dir = '/srv/run'
use_watchdog = on
wd_authkey = 'known to the cluster'
hostname0 = '127.0.0.1'
wd_port0 = 9000
pgpool_port0 = 9999
hostname1 = '127.0.0.2'
wd_port1 = 9000
pgpool_port1 = 9999
wd_lifecheck_method = 'heartbeat'
heartbeat_hostname0 = '127.0.0.1'
heartbeat_port0 = 9694
heartbeat_hostname1 = '127.0.0.2'
heartbeat_port1 = 9694
"""
RULES = """
host all scram all scram-sha-256
host all password all password
host all md5 all md5
hostssl all cert all cert
host all ldap all ldap ldapserver=127.0.0.1 ldapprefix="cn=" ldapsuffix=",dc=x"
host all pam all pam
"""
START = f"""
mkdir /srv/run
cd /srv/run
cat >pgpool.conf <<'END'
{CONFIGURATION}
END
cat >pool_hba.conf <<'END'
{RULES}
END
echo 0 >pgpool_node_id
: >pcp.conf
printf '%s\\n' password:TEXTsecret scram:TEXTsecret md5:TEXTsecret >pool_passwd
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 3 -subj /CN=x 2>/dev/null
chmod 600 key.pem pool_passwd
chown -R nobody: .
export ASAN_OPTIONS=log_path=/srv/run/asan:detect_leaks=0:quarantine_size_mb=1:allocator_may_return_null=1
setsid runuser -u nobody -- /srv/pgpool2/src/pgpool -n -f pgpool.conf -a pool_hba.conf -F pcp.conf >log 2>&1 &
"""
MEMORY = r"""
memory() { # name of the moment
    for process in $(pgrep -u nobody); do
        title=$(tr '\0' ' ' <"/proc/$process/cmdline" | cut -c 1-40) || continue
        size=$(sed -n 's/VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$process/status") || continue
        printf 'memory|%s|%s|%s|%s\n' "$1" "$process" "$size" "$title"
    done
}
"""
ENDS = """
kill -0 "$(cat pid)" && echo 'it runs on'
kill -QUIT "$(cat pid)"
for _ in $(seq 100); do [ -e pid ] || break; sleep 0.1; done
cat asan* 2>/dev/null || :
grep -aE 'exits with status [1-9]|terminated by|segmentation fault|past chunk' log | sort | uniq -c | head -n 20 || :
"""
On = Callable[[Root], Chroot]


@pytest.fixture(scope="module")
def told(clean: Root, on: On) -> Answer:
    """The output after all messages."""
    chroot = on(clean)
    chroot.run(BUILD, network=True)
    (chroot.place / "upper" / "srv" / "stranger.py").write_bytes(Path(__file__).with_name("stranger.py").read_bytes())
    steps = []
    for kind, seconds in SECONDS.items():
        steps += [f"python3 /srv/stranger.py {kind} {WARM} {SEED + 1}", f"memory before-{kind}"]
        steps += [f"python3 /srv/stranger.py {kind} {seconds - WARM} {SEED}", f"memory after-{kind}"]
    script = "\n".join([START, MEMORY, "sleep 15", *steps, ENDS])
    return chroot.attempt(script, stall=max(SECONDS.values()) + 60)


def test_strangers_neither_crash_pgpool_nor_fill_its_memory(
    told: Answer, record_testsuite_property: Callable[[str, object], None]
) -> None:
    print(told.output)
    counts = re.findall(r"^(\w+): (\d+) messages", told.output, re.MULTILINE)
    for kind, count in counts:
        record_testsuite_property(f"messages of a {kind}", count)
    assert told.status == 0, told.output
    assert len(counts) == 2 * len(SECONDS)
    assert all(int(count) > 100 for _, count in counts)
    assert "AddressSanitizer" not in told.output
    assert not re.search(r"^ *\d+ .*(terminated by|segmentation fault|past chunk)", told.output, re.MULTILINE)
    assert "it runs on" in told.output
    assert grown(told.output) == {}


def grown(output: str) -> dict[str, int]:
    """Return the excessive growth of processes in KiB, by moment and title."""
    found: dict[tuple[str, str], int] = {}
    more = {}
    for moment, process, size, title in re.findall(r"^memory\|([\w-]+)\|(\d+)\|(\d+)\|(.*)$", output, re.MULTILINE):
        kind = moment.partition("-")[2]
        if moment.startswith("before"):
            found[kind, process] = int(size)
        elif int(size) - found.get((kind, process), int(size)) > GROWTH:
            more[f"{kind}: {title.strip()}"] = int(size) - found[kind, process]
    return more
