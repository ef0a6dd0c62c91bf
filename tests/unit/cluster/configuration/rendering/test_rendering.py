"""The configuration files that `apply` writes on a server."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.unit.cluster.rendered import (
    HOME,
    KEY,
    MODES,
    SERVER,
    SIX,
    TEMPLATES,
    THREE,
    VERSIONS,
    WITNESS,
    cluster_of,
    files,
    laid_by,
    pgpool_conf,
    postgresql_conf,
    settings_of,
    text_of,
)

from pgpool_cluster.configuration.rendering import ssh
from pgpool_cluster.configuration.rendering.rendered_paths import (
    DROP_INS,
    FOLDER,
    IN_OTHERS_FOLDERS,
    IN_ROOTS_FOLDERS,
    PROGRAMS,
    STUBS,
    UNIT_FILE,
)
from pgpool_cluster.configuration.rendering.rendering import key_of_roles
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts
from pgpool_cluster.definition.key import Role
from pgpool_cluster.ground import paths
from pgpool_cluster.machine.network.addresses import parse as parse_hosts
from pgpool_cluster.machine.server_facts import PgpoolVersion


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"4.{version.minor}")
def test_rendering_again_gives_the_same_bytes(mode: str, version: PgpoolVersion) -> None:
    server = replace(SERVER, pgpool=version)
    made = files(f"mode: {mode}\n{THREE}", server=server)
    assert files(f"mode: {mode}\n{THREE}", server=replace(server, laid=laid_by(made))) == made


def test_only_root_and_postgres_can_read_a_secret() -> None:
    host_only = [
        KEY.watchdog_key,
        KEY.heartbeat_key,
        KEY.pool_key,
        KEY.pcp_password,
        *(KEY.password(role) for role in Role),
    ]
    for file in files().values():
        text = file.content.decode()
        secret = any(one in text for one in host_only) or "PRIVATE KEY" in text or ":AES" in text
        if secret or re.search(r"^\w+:[0-9a-f]{32}$", text, re.MULTILINE):
            assert file.mode & 0o007 == 0, file
            assert {file.owner, file.group} <= {"root", "postgres"}


def test_files_that_must_be_private_are_private() -> None:
    """Otherwise libpq and ssh refuse them, and pgpool-II warns."""
    made = files()
    for name in (".pgpass", ".pcppass", ".pgpoolkey"):
        assert (made[f"/var/lib/postgresql/{name}"].mode, made[f"/var/lib/postgresql/{name}"].owner) == (
            0o600,
            "postgres",
        )
    assert made[f"{FOLDER}/ssh_key"].mode == 0o600


@pytest.mark.parametrize("text", ["", THREE])
def test_the_watchdog_key_is_always_set(text: str) -> None:
    node = cluster_of(text).nodes[0].name
    assert pgpool_conf(text, node)["wd_authkey"] == KEY.watchdog_key


def test_only_nodes_reach_watchdog_heartbeat_and_pcp() -> None:
    rules = text_of(f"{FOLDER}/peers.nft", files())
    assert re.findall(r"saddr (\S+) accept", rules) == ["10.0.0.2", "10.0.0.3"]
    assert "tcp dport { 9000, 9898 } drop" in rules
    assert "udp dport 9694 drop" in rules
    assert "udp dport 9695 drop" in rules
    assert pgpool_conf()["pcp_listen_addresses"] == "127.0.0.1"


@pytest.mark.parametrize("runs", ["postgresql", "pgpool"])
def test_a_node_of_either_kind_admits_heartbeats_from_nodes_only(runs: str) -> None:
    text = f"nodes: {{pg1: 10.0.0.1, pg2: 10.0.0.2, w: {{address: 10.0.0.9, runs: [{runs}]}}}}\n"
    made = files(text, "w")
    rules = text_of(f"{FOLDER}/peers.nft", made)
    assert re.findall(r"saddr (\S+) accept", rules) == ["10.0.0.1", "10.0.0.2"]
    assert "udp dport 9695 drop" in rules
    assert ("9000" in rules) == (runs == "pgpool"), "without pgpool-II, other programs may use its ports"
    assert made[f"{FOLDER}/heartbeat_key"].content == f"{KEY.heartbeat_key}\n".encode()


def test_the_former_heartbeat_key_is_kept_until_every_server_has_the_new_one() -> None:
    former, older, path = "f" * 64, "0" * 64, f"{FOLDER}/heartbeat_key"
    during = replace(SERVER, heartbeat_keys=(former, older), proven="another")
    assert text_of(path, files(server=during)).split() == [KEY.heartbeat_key, former]
    again = replace(during, heartbeat_keys=(KEY.heartbeat_key, former))
    assert text_of(path, files(server=again)).split() == [KEY.heartbeat_key, former]
    after = replace(again, proven=KEY.fingerprint)
    assert text_of(path, files(server=after)).split() == [KEY.heartbeat_key]
    made = files(server=during)[path]
    assert (made.owner, made.group, made.mode) == ("postgres", "postgres", 0o600)


def test_no_rule_admits_a_client_without_a_password() -> None:
    made = files(f"{THREE}clients: [0.0.0.0/0]\n")
    for path in (f"{FOLDER}/pool_hba.conf", "/etc/postgresql/17/main/pg_hba.conf"):
        rules = [line.split() for line in text_of(path, made).splitlines() if line and not line.startswith("#")]
        rules = [rule for rule in rules if rule != ["local", "all", "postgres", "peer"]]
        assert {rule[-1] for rule in rules} <= {"scram-sha-256", "md5", "reject"}
        assert all(rule[-1] != "md5" or (rule[0], rule[2]) == ("hostssl", "all") for rule in rules)
        assert all(rule[0] in ("local", "hostssl") or "127.0.0.1" in rule[3] or rule[3] == "::1/128"
                   or rule[-1] == "reject" for rule in rules)  # fmt: skip


def test_a_role_with_an_md5_password_can_still_log_in_from_a_node() -> None:
    """It used to be refused over TLS: scram-sha-256 accepts no md5 password, whereas md5 accepts both."""
    rules = text_of("/etc/postgresql/17/main/pg_hba.conf", files()).splitlines()
    assert [line.split()[-1] for line in rules if line.split()[1:3] == ["all", "all"]] == ["md5"] * 3


def test_clients_reach_pgpool_and_only_nodes_reach_postgresql() -> None:
    made = files(f"{THREE}clients: [192.0.2.0/24]\n")
    assert "192.0.2.0/24" in text_of(f"{FOLDER}/pool_hba.conf", made)
    assert "192.0.2.0/24" not in text_of("/etc/postgresql/17/main/pg_hba.conf", made)


def test_with_streaming_pgpool_gives_up_no_node_by_itself() -> None:
    """The agents detach and attach nodes, and name the primary. A search would delay their next command."""
    found = pgpool_conf()
    assert (found["failover_on_backend_error"], found["failover_on_backend_shutdown"]) == ("off", "off")
    assert (found["health_check_period"], found["detach_false_primary"], found["auto_failback"]) == ("0", "off", "off")
    assert (found["failover_command"], found["follow_primary_command"]) == ("", "")
    assert found["search_primary_node_timeout"] == "1"
    assert found["use_watchdog"] == "off"
    assert not [name for name in found if name.startswith(("hostname", "wd_port", "heartbeat_", "delegate"))]


@pytest.mark.parametrize("mode", ["native_replication", "snapshot_isolation"])
def test_in_the_other_modes_pgpool_checks_the_nodes_and_has_a_watchdog(mode: str) -> None:
    found = pgpool_conf(f"mode: {mode}\n{THREE}")
    assert int(found["health_check_period"]) > 0
    assert (found["use_watchdog"], found["failover_when_quorum_exists"]) == ("on", "off")
    assert [found[f"hostname{number}"] for number in range(3)] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    alone = pgpool_conf(f"mode: {mode}\nnodes: {{pg1: 10.0.0.1}}\n")
    assert alone["use_watchdog"] == "off"


def test_the_failover_program_gets_numbers_only() -> None:
    """pgpool-II passes host names to a shell without quotes."""
    command = pgpool_conf(f"mode: native_replication\n{THREE}")["failover_command"]
    assert command
    assert set(re.findall(r"%(.)", command)) <= set("dmMP")


@pytest.mark.parametrize("mode", ["native_replication", "snapshot_isolation"])
def test_other_modes_change_only_what_differs(mode: str) -> None:
    streaming, other = pgpool_conf(), pgpool_conf(f"mode: {mode}\n{THREE}")
    changed = {name for name in streaming.keys() & other.keys() if streaming[name] != other[name]}
    assert changed == {
        "backend_clustering_mode", "failover_on_backend_error", "failover_on_backend_shutdown",
        "recovery_2nd_stage_command", "recovery_timeout", "sr_check_period", "failover_command", "health_check_period",
        "use_watchdog",
    }  # fmt: skip
    assert "synchronous_standby_names" not in postgresql_conf(f"mode: {mode}\n{THREE}")


@pytest.mark.parametrize("mode", ["native_replication", "snapshot_isolation"])
def test_wal_is_archived_in_the_modes_without_streaming(mode: str) -> None:
    found = postgresql_conf(f"mode: {mode}\n{THREE}")
    assert (found["archive_mode"], found["archive_timeout"], found["wal_level"]) == ("on", "60s", "replica")
    assert found["archive_command"] == "/usr/lib/pgpool2-cluster/archive-wal %p %f"
    assert found["restore_command"] == "/usr/lib/pgpool2-cluster/restore-wal %f %p"
    text = f"mode: {mode}\n{THREE}archive: {{compress: true, timeout: 300}}\n"
    assert postgresql_conf(text)["archive_command"] == "/usr/lib/pgpool2-cluster/archive-wal --compress %p %f"
    assert postgresql_conf(text)["archive_timeout"] == "300s"
    assert not [name for name in postgresql_conf() if name.startswith(("archive", "restore"))]


def test_every_program_that_configuration_names_is_in_the_package() -> None:
    hooks = TEMPLATES.parent / "scripts" / "hooks"
    named = {
        program
        for mode in MODES
        for file in files(f"mode: {mode}\n{THREE}").values()
        for program in re.findall(rf"{PROGRAMS}/([\w-]+)", file.content.decode())
    }
    assert {"archive-wal", "restore-wal", "failover"} <= named
    assert all((hooks / program).stat().st_mode & 0o111 for program in named)


def test_trap_8_the_synchronous_standbys_are_the_same_on_every_node() -> None:
    found = {postgresql_conf(node=node)["synchronous_standby_names"] for node in ("pg1", "pg2", "pg3")}
    assert found == {'ANY 1 ("pg1", "pg2", "pg3")'}
    assert postgresql_conf(f"{THREE}synchronous: 0\n")["synchronous_standby_names"] == ""


def test_commits_do_not_wait_for_standbys_that_have_never_connected() -> None:
    made = files(server=replace(SERVER, standbys_came=False))
    found = settings_of(text_of("/etc/postgresql/17/main/conf.d/pgpool2-cluster.conf", made))
    assert found["synchronous_standby_names"] == ""


def test_trap_2_every_node_has_its_own_slot_name() -> None:
    assert [postgresql_conf(node=node)["primary_slot_name"] for node in ("pg1", "pg2", "pg3")] == ["pg1", "pg2", "pg3"]


def test_parameters_from_cluster_yml_win() -> None:
    text = f'{THREE}pgpool: {{num_init_children: 64, port: 9876}}\npostgresql_conf: {{log_line_prefix: "it\'s"}}\n'
    assert (pgpool_conf(text)["num_init_children"], pgpool_conf(text)["port"]) == ("64", "9876")
    assert postgresql_conf(text)["log_line_prefix"] == "it''s"


def test_pgpool_numbers_follow_the_order_of_the_nodes_that_run_it() -> None:
    text = "nodes: {db: {address: 10.0.0.1, runs: [postgresql]}, pool: {address: 10.0.0.2, runs: [pgpool]}}\n"
    made = files(text, "pool")
    assert text_of(f"{FOLDER}/pgpool_node_id", made) == "0\n"
    found = pgpool_conf(text, "pool")
    assert (found["backend_hostname0"], "backend_hostname1" in found) == ("10.0.0.1", False)
    assert "/etc/postgresql/17/main/pg_hba.conf" not in made
    assert f"{FOLDER}/pgpool.conf" not in files(text, "db")


def test_every_node_is_let_in_by_its_own_key_for_one_program_only() -> None:
    lines = text_of("/var/lib/postgresql/.ssh/authorized_keys", files(node="pg1")).splitlines()
    cluster = cluster_of()
    for line, name in zip(lines, ("pg2", "pg3"), strict=True):
        node = cluster.named(name)
        assert line.startswith(f'restrict,from="{node.address}",command="')
        assert ssh.user_key(KEY, node).public_line in line
        own = text_of(f"{FOLDER}/ssh_key", files(node=name))
        assert own == ssh.user_key(KEY, node).private_file


def test_a_cluster_of_ipv6_addresses_is_one_in_every_file() -> None:
    made = files(SIX)
    conf = settings_of(text_of(f"{FOLDER}/pgpool.conf", made))
    assert (conf["listen_addresses"], conf["backend_hostname0"]) == ("*", "fd00::1")
    assert pgpool_conf(f"mode: native_replication\n{SIX}")["hostname1"] == "fd00::2"
    assert 'from="fd00::2"' in text_of(f"{HOME}/.ssh/authorized_keys", made)
    assert "ip6 saddr fd00::2 accept" in text_of(f"{FOLDER}/peers.nft", made)
    assert "fd00::2/128  scram-sha-256" in text_of("/etc/postgresql/17/main/pg_hba.conf", made)
    assert "    HostName fd00::2\n" in text_of(f"{FOLDER}/ssh_config", made)


def test_host_names_become_addresses_in_every_file() -> None:
    """sshd, pg_hba.conf, nft and the watchdog compare addresses, not names."""
    plainly = files()
    server = replace(SERVER, laid=laid_by(plainly))
    named = files("nodes: {pg1: pg1.lan, pg2: pg2.lan, pg3: pg3.lan}\n", server=server)
    hosts, certificate = f"{FOLDER}/hosts", str(paths.SERVER_CERTIFICATE)
    assert {path for path in plainly if plainly[path] != named[path]} == {hosts, certificate}
    assert parse_hosts(text_of(hosts, named)) == {f"pg{number}.lan": f"10.0.0.{number}" for number in (1, 2, 3)}
    assert parse_hosts(text_of(hosts, plainly)) == {}


def test_host_keys_are_verified() -> None:
    made = files()
    assert "StrictHostKeyChecking yes" in text_of(f"{FOLDER}/ssh_config", made)
    assert f"@cert-authority 10.0.0.2,pg2 {ssh.host_authority(KEY).public_line}" in text_of(
        f"{FOLDER}/known_hosts", made
    )


@pytest.mark.parametrize("name", STUBS)
def test_stubs_in_the_data_directory_belong_to_postgres(name: str) -> None:
    """pg_rewind fails half-way at a file that postgres cannot write."""
    stub = files()[f"/var/lib/postgresql/17/main/{name}"]
    assert (stub.owner, stub.group, stub.mode) == ("postgres", "postgres", 0o700)
    assert stub.content.startswith(b"#!/bin/sh\n")


def test_no_file_ends_in_the_middle_of_a_line() -> None:
    for file in files().values():
        assert file.content.endswith(b"\n"), file
        assert b"\n\n\n" not in file.content, file


def test_roles_of_a_key_that_most_nodes_lack_are_not_used_yet() -> None:
    """`apply` may rewrite roles.sql after the agent has collected facts, so the key in the file itself decides."""
    key = key_of_roles(text_of(f"{FOLDER}/roles.sql", files()))
    cluster = cluster_of()
    before = ClusterFacts({node.name: NodeFacts(node.name, key="0123456789abcdef") for node in cluster.nodes})
    after = ClusterFacts({node.name: NodeFacts(node.name, key=KEY.fingerprint) for node in cluster.nodes})
    assert not before.same_key(cluster, key)
    assert after.same_key(cluster, key)
    assert not after.same_key(cluster, key_of_roles("ALTER ROLE of an older version"))


def test_the_pgpool_of_a_witness_starts_without_a_server_beside_it() -> None:
    """It used to exit at its start, because recovery commands need a data directory for each node."""
    found = pgpool_conf(WITNESS, "w", replace(SERVER, data_directory=""))
    assert found["recovery_1st_stage_command"]
    assert all(found[f"backend_data_directory{number}"] for number in (0, 1))


def test_the_key_of_a_witness_opens_no_wal() -> None:
    keys = text_of(f"{HOME}/.ssh/authorized_keys", files(WITNESS, "pg1")).splitlines()
    assert [re.findall('command="([^"]*)"', line) for line in keys] == [
        [f"{PROGRAMS}/ssh-command pg2"], [f"{PROGRAMS}/ssh-command w witness"],
    ]  # fmt: skip


def test_units_can_see_home_if_postgresql_is_there() -> None:
    """With ProtectHome=yes, a PGDATA below /home looked as if it were missing."""
    there = files(server=replace(SERVER, below_home=True))
    for unit in ("pgpool2-cluster", "pgpool2-cluster-control@", "pgpool2"):
        assert "\nProtectHome=no\n" in text_of(f"/etc/systemd/system/{unit}.service.d/pgpool2-cluster.conf", there)
    assert not [path for path in DROP_INS if path in files()]
    assert "\nProtectHome=yes\n" in text_of("/etc/systemd/system/pgpool2.service.d/pgpool2-cluster.conf", files())


@pytest.mark.parametrize("mode", MODES)
def test_every_rendered_file_of_root_may_be_removed(mode: str) -> None:
    for file in files(f"mode: {mode}\n{THREE}", server=replace(SERVER, below_home=True)).values():
        if file.owner == "root":
            known = (*IN_ROOTS_FOLDERS, *DROP_INS, UNIT_FILE)
            assert file.path.parent == FOLDER or str(file.path) in known
        elif file.path.parent != FOLDER:
            assert file.path.name in IN_OTHERS_FOLDERS
