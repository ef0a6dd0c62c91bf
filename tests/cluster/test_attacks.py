"""An intruder with the rights of postgres tries to make root's programs read, write or delete root's files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import DATA, INSTALL, Cluster
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.host import Host

ROOTS = "/etc/pgpool2/cluster.key /etc/shadow /etc/passwd /etc/cron.hourly /etc/cron.d /etc/systemd /etc/ssh"
SUMS = f"""
find {ROOTS} -xdev -printf '%p %U:%G %m %y %l\\n' | sort
find {ROOTS} -xdev -type f -exec sha256sum {{}} + | sort -k 2
"""
"""Owner, mode and content of root's files, and of new files beside them."""
CONF = "/etc/postgresql/$(ls /etc/postgresql)/main"
STATE = "/var/lib/pgpool2-cluster"
HOME = "/var/lib/postgresql"
PATHS = {
    f"{HOME}/.pgpass": "/etc/pgpool2/cluster.key",
    f"{HOME}/.pcppass": "/etc/shadow",
    f"{HOME}/.pgpoolkey": "/etc/pgpool2/cluster.key",
    f"{HOME}/.ssh/authorized_keys": "/etc/shadow",
    f"{HOME}/.ssh": "/etc/cron.hourly",
    f"{DATA}/recovery_1st_stage": "/etc/cron.hourly/recovery_1st_stage",
    f"{STATE}/users.json": "/etc/shadow",
    "/run/pgpool2-cluster/key-of-pgpool": "/etc/shadow",
}
"""The paths that postgres can replace, each with the file or folder of root that is the target."""
ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as asking:
    asking.settimeout(100)
    asking.connect("/run/pgpool2-cluster-control")
    asking.sendall(sys.argv[1].encode() + b"\\n")
    asking.shutdown(socket.SHUT_WR)
    print(asking.makefile().read())
"""
LOOK_AT = """
import os, pty, pwd, time
from pathlib import Path
postgres, (pid, terminal) = pwd.getpwnam("postgres").pw_uid, pty.fork()
if pid == 0:
    os.execve("/usr/bin/pgpoolctl", ["pgpoolctl", "apply"], {**os.environ, "SECRET": "hush"})
seen = set()
while os.waitpid(pid, os.WNOHANG) == (0, 0):
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\\0")
            # between setuid(2) and exec(2) it has root's environment still, which is root's to read
            owner = (process / "environ").stat().st_uid
            if owner == postgres and any(word.endswith(b"pg_lsclusters") for word in words):
                number = (process / "stat").read_text().rpartition(")")[2].split()[4]
                seen.add(f"terminal {number} secret {b'hush' in (process / 'environ').read_bytes()}")
        except OSError:
            pass
    time.sleep(0.02)
print(*seen)
"""
"""Reports what a program that root runs as postgres has of root's terminal and environment, both prepared here."""
TRIGGERS = {
    "control socket": "runuser -u postgres -- python3 /srv/ask.py apply",
    "agent": "systemctl restart pgpool2-cluster",
    "pgpool-II": "systemctl restart --no-block pgpool2; sleep 3",
    "reinstallation": "apt-get install -y -q --reinstall pgpool2-cluster </dev/null",
}
BRIEFLY = ("control socket", "agent", "pgpool-II")
KINDS = {
    "link": "ln -s {target} {path}",
    "hard link": "ln {target} {path} 2>/dev/null || cp /dev/null {path}",  # fs.protected_hardlinks may forbid the link
    "FIFO": "mkfifo {path}",
}
RACE = f"""
end=$(($(date +%s) + {{seconds}}))
while [ "$(date +%s)" -lt $end ] && [ ! -e /tmp/race.end ]; do
    mv {HOME}/.ssh {HOME}/.ssh.kept; ln -s /etc/cron.hourly {HOME}/.ssh; rm {HOME}/.ssh; mv {HOME}/.ssh.kept {HOME}/.ssh
    mv {HOME}/.pgpass {HOME}/.pgpass.kept; ln -s /etc/pgpool2/cluster.key {HOME}/.pgpass
    rm {HOME}/.pgpass; mv {HOME}/.pgpass.kept {HOME}/.pgpass
    ln -sf /etc/shadow /run/pgpool2-cluster/key-of-pgpool; rm -f /run/pgpool2-cluster/key-of-pgpool
done 2>/dev/null
"""


def as_postgres(host: Host, script: str) -> str:
    host.put("/srv/attack.sh", script)
    return host.run("runuser -u postgres -- sh /srv/attack.sh", seconds=60)


def attack(host: Host, kind: str) -> str:
    """Put odd files into all paths of postgres; return the script that removes them."""
    put: list[str] = []
    back: list[str] = []
    for path, target in PATHS.items():
        if kind != "link" and target.endswith((".hourly", ".d")):
            continue  # a folder
        put.append(f"mv {path} {path}.kept 2>/dev/null || :; {KINDS[kind].format(path=path, target=target)} || :")
        back.insert(0, f"rm -f {path}; [ ! -e {path}.kept ] || mv {path}.kept {path}")
    as_postgres(host, "\n".join(put))
    return "\n".join(back)


@pytest.fixture(scope="module")
def attacked(cluster: Cluster, pg3: Host) -> Iterator[Host]:
    """A standby with an intruder who is postgres."""
    pg3.put("/srv/ask.py", ASK)
    pg3.run("mkdir -p /etc/cron.hourly")
    yield pg3
    pg3.run("pgpoolctl apply; systemctl restart pgpool2-cluster; systemctl restart --no-block pgpool2", seconds=120)
    cluster.wait_healthy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "trigger", [pytest.param(one, marks=() if one in BRIEFLY else pytest.mark.thorough) for one in TRIGGERS]
)
def test_odd_files_in_folders_of_postgres_harm_no_file_of_root(attacked: Host, trigger: str, kind: str) -> None:
    before = attacked.run(SUMS)
    since = attacked.run("date +%s")
    back = attack(attacked, kind)
    try:
        attacked.attempt(TRIGGERS[trigger], seconds=120)
        assert attacked.run(SUMS) == before
        secret = attacked.run("cat /etc/pgpool2/cluster.key")
        readable = f"find {HOME} {STATE} /etc/postgresql -xdev -type f -user postgres -exec grep -lF '{secret}' {{}} +"
        assert attacked.run(f"{readable} 2>/dev/null || :") == ""  # files of the server come and go
        if kind != "hard link" and trigger in ("control socket", "agent"):
            attacked.until(f"journalctl -q --no-pager --since=@{since} | grep -F '{HOME}/.pgpass is a'", 10)
    finally:
        as_postgres(attacked, back)


def test_a_forged_record_deletes_nothing(attacked: Host) -> None:
    before = attacked.run(SUMS)
    forged = '{"files": {"/etc/shadow": "", "/etc/pgpool2/cluster.key": ""}, "users": [], "cluster": ""}'
    as_postgres(attacked, f"echo '{forged}' >{STATE}/applied.json")
    attacked.run("pgpoolctl apply")
    assert attacked.run(SUMS) == before
    assert attacked.run("stat -c '%a %U' /etc/pgpool2/cluster/applied.json") == "600 root"


@pytest.mark.thorough
@pytest.mark.parametrize("text", ["no certificate", "-----BEGIN CERTIFICATE-----\n" * 2300])
def test_no_content_of_the_certificate_file_stops_apply(attacked: Host, text: str) -> None:
    """As with every edited file of the cluster, `apply` writes the right one beside it."""
    certificate = "/etc/pgpool2/cluster/server.pem"
    attacked.put("/srv/server.pem", text)
    as_postgres(attacked, f"cp -p {certificate} {HOME}/server.pem; cat /srv/server.pem >{certificate}")
    try:
        assert "Traceback" not in attacked.run("pgpoolctl apply", seconds=30)
        issuer = attacked.run(f"openssl x509 -noout -issuer -in {certificate}.new")
        assert issuer.endswith("pgpool2-cluster authority")
    finally:
        as_postgres(attacked, f"cat {HOME}/server.pem >{certificate}; rm {HOME}/server.pem")
        attacked.run("pgpoolctl apply", seconds=30)


def test_programs_that_root_runs_as_postgres_get_neither_terminal_nor_environment(attacked: Host) -> None:
    """Other processes of postgres can trace it, make it type into its terminal, and read its environment."""
    place = f"{CONF}/conf.d/pgpool2-cluster.conf"
    attacked.put("/srv/look_at.py", LOOK_AT)
    as_postgres(attacked, f"mv {place} {place}.kept; mkfifo {place}")  # it blocks here, so that it can be examined
    try:
        assert attacked.run("python3 /srv/look_at.py", seconds=30) == "terminal 0 secret False"
    finally:
        as_postgres(attacked, f"[ ! -p {place} ] || mv {place}.kept {place}; rm -f {place}.kept")


@pytest.mark.parametrize("target", ["pgpool2.service.d", "multi-user.target.wants"])
def test_a_folder_in_place_of_postgresqls_is_not_written_to(attacked: Host, target: str) -> None:
    before = attacked.run(SUMS)
    as_postgres(attacked, f"mv {CONF}/conf.d {CONF}/conf.d.kept; ln -s /etc/systemd/system/{target} {CONF}/conf.d")
    try:
        answer = attacked.attempt("pgpoolctl apply", seconds=60)
        assert answer.status == 3
        assert "conf.d" in answer.output or "pgpool2.service.d" in answer.output
        assert attacked.run(SUMS) == before
    finally:
        as_postgres(attacked, f"rm {CONF}/conf.d; mv {CONF}/conf.d.kept {CONF}/conf.d")


@pytest.mark.parametrize("place", [f"{STATE}/record.json", f"{CONF}/conf.d/pgpool2-cluster.conf"])
def test_an_endless_file_is_not_waited_for(attacked: Host, place: str) -> None:
    as_postgres(attacked, f"mv {place} {place}.kept; mkfifo {place}")
    try:
        answer = attacked.attempt("pgpoolctl apply", seconds=40)
        assert answer.status == 3
        assert place.rpartition("/")[2] in answer.output
    finally:
        as_postgres(attacked, f"[ ! -p {place} ] || mv {place}.kept {place}; rm -f {place}.kept")


def test_racing_with_links_gains_nothing(attacked: Host, request: pytest.FixtureRequest) -> None:
    rounds = 20 if request.config.getoption("--brief") else 200
    before = attacked.run(SUMS)
    attacked.put("/srv/race.sh", RACE.format(seconds=rounds * 5))
    attacked.run("systemd-run -q --uid=postgres --unit=race sh /srv/race.sh")
    every = f"for round in $(seq {rounds}); do pgpoolctl apply || :; /usr/lib/pgpool2-cluster/before-pgpool || :; done"
    try:
        attacked.run(f"({every}) >/dev/null 2>&1", seconds=rounds * 5)
        assert attacked.run(SUMS) == before
    finally:
        attacked.run("touch /tmp/race.end; systemctl stop race 2>/dev/null || :; rm /tmp/race.end")
        as_postgres(attacked, f"for one in .ssh .pgpass; do [ ! -e {HOME}/$one.kept ] || {{ "
                              f"rm -f {HOME}/$one; mv {HOME}/$one.kept {HOME}/$one; }}; done")  # fmt: skip


@pytest.mark.parametrize(
    "request_",
    ["stop ssh.service", "stop postgresql@17-other.service", "restart postgresql@99-main.service", "apply --diff",
     "hang-up any 22", "start pgpool2.service ssh.service", "stop pgpool2.service; id"],
)  # fmt: skip
def test_the_control_socket_refuses_everything_else(attacked: Host, request_: str) -> None:
    since = attacked.run("date +%s")
    assert attacked.run(f"runuser -u postgres -- python3 /srv/ask.py '{request_}'").startswith("refused: ")
    attacked.until(f"journalctl -q --no-pager --since=@{since} | grep -F 'refused: '", 10)


def test_another_user_cannot_hold_the_lock(attacked: Host) -> None:
    lock = "/run/pgpool2-cluster-root/apply.lock"
    assert attacked.attempt(f"runuser -u nobody -- flock {lock} true").status != 0
    assert attacked.attempt(f"runuser -u postgres -- flock {lock} true").status != 0
    assert attacked.attempt("runuser -u postgres -- touch /run/pgpool2-cluster-root/x").status != 0


@pytest.mark.thorough
def test_the_removal_harms_no_file_of_root(room: Lab, of_release: Images) -> None:
    (host,) = room.boot(of_release.prepared, "alone")
    try:
        alone = Cluster.of([host])
        alone.seed()
        host.run(INSTALL)
        alone.wait_healthy(60)
        unit = "/etc/systemd/system/pgpool2.service.d/pgpool2-cluster.conf"
        cluster_key = host.run("sha256sum /etc/pgpool2/cluster.key")
        theirs = "find /etc/shadow /etc/passwd /etc/cron.* -xdev -type f -exec sha256sum {} +"
        before = host.run(theirs)
        attack(host, "link")
        forged = '{"files": {"/etc/shadow": "", "/etc/cron.d/e2scrub_all": ""}, "users": [], "cluster": ""}'
        as_postgres(host, f"rm -rf {STATE}/applied.json; echo '{forged}' >{STATE}/applied.json")
        host.run("apt-get remove -y -q pgpool2-cluster </dev/null")
        assert host.run(theirs) == before
        assert host.run("sha256sum /etc/pgpool2/cluster.key") == cluster_key
        assert host.attempt(f"ls {unit}").status != 0
    finally:
        room.remove((host,))
