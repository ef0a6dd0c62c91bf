"""The configuration files that `apply` writes on a server."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgpool_cluster import paths, ssh
from pgpool_cluster.addresses import parse as parse_hosts
from pgpool_cluster.addresses import placed
from pgpool_cluster.certificates import Laid
from pgpool_cluster.cluster import DRAIN_SECONDS, Cluster, PostgresqlCluster
from pgpool_cluster.cluster_file import parse
from pgpool_cluster.configuration import key_of_roles, render
from pgpool_cluster.facts import ClusterFacts, NodeFacts
from pgpool_cluster.key import ClusterKey, Role
from pgpool_cluster.rendered_file import File, FileShare, merged, without_block, without_entries
from pgpool_cluster.rendered_paths import (
    DROP_INS,
    FOLDER,
    IN_OTHERS_FOLDERS,
    IN_ROOTS_FOLDERS,
    PROGRAMS,
    STUBS,
    UNIT_FILE,
)
from pgpool_cluster.server_facts import PgpoolVersion, ServerFacts
from pgpool_cluster.template_values import slots_keep_mb

TEMPLATES = Path(__file__).parents[3] / "config-templates"
KEY = ClusterKey(bytes(range(32)))
SERVER = ServerFacts(
    PostgresqlCluster(17, "main"),
    PgpoolVersion(4, 6),
    "/var/lib/postgresql/17/main",
    "eth0",
    ssh.KeyPair(bytes(32), "host").public_line,
)
THREE = "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}\n"
SIX = "nodes: {pg1: fd00::1, pg2: fd00::2, pg3: fd00::3}\n"
HOME = "/var/lib/postgresql"
VERSIONS = [PgpoolVersion(4, minor) for minor in (3, 4, 5, 6, 7)]
MODES = ["streaming_replication", "native_replication", "snapshot_isolation"]


def cluster_of(text: str = THREE) -> Cluster:
    return placed(parse(text, "cluster.yml", "host"), {f"pg{number}.lan": f"10.0.0.{number}" for number in (1, 2, 3)})


def files(text: str = THREE, node: str = "pg1", server: ServerFacts = SERVER) -> dict[str, File]:
    cluster = cluster_of(text)
    return {str(file.path): file for file in render(cluster, KEY, cluster.named(node), server, TEMPLATES)}


def text_of(path: str, made: dict[str, File]) -> str:
    return made[path].content.decode()


def laid_by(made: dict[str, File]) -> Laid:
    """Return the certificates on a node with these files."""
    return Laid(text_of(str(paths.AUTHORITIES), made), text_of(str(paths.SERVER_CERTIFICATE), made))


def settings_of(text: str) -> dict[str, str]:
    """Return the parameters of a pgpool.conf or postgresql.conf; the last line wins, as in both programs."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+) = (?:'(.*)'|(\S+))", line)
        assert match or not line or line.startswith("#"), line
        if match:
            found[match[1]] = match[2] if match[2] is not None else match[3]
    return found


def pgpool_conf(text: str = THREE, node: str = "pg1", server: ServerFacts = SERVER) -> dict[str, str]:
    return settings_of(text_of(f"{FOLDER}/pgpool.conf", files(text, node, server)))


def postgresql_conf(text: str = THREE, node: str = "pg1") -> dict[str, str]:
    return settings_of(text_of("/etc/postgresql/17/main/conf.d/pgpool2-cluster.conf", files(text, node)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"4.{version.minor}")
def test_rendering_again_gives_the_same_bytes(mode: str, version: PgpoolVersion) -> None:
    server = replace(SERVER, pgpool=version)
    made = files(f"mode: {mode}\n{THREE}", server=server)
    assert files(f"mode: {mode}\n{THREE}", server=replace(server, laid=laid_by(made))) == made


@pytest.mark.parametrize("text", [THREE, "", f"mode: native_replication\n{THREE}virtual_ip: 10.0.0.9/24\n"])
def test_applying_a_hundred_times_changes_nothing_after_the_first(text: str) -> None:
    node = cluster_of(text).nodes[0].name
    for file in files(text, node).values():
        once = merged("admin:entry\n# a line of the admin's\n", file)
        again = once
        for _ in range(100):
            again = merged(again, file)
        assert again == once


def test_only_root_and_postgres_can_read_a_secret() -> None:
    host_only = [KEY.watchdog_key, KEY.pool_key, KEY.pcp_password, *(KEY.password(role) for role in Role)]
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


@pytest.mark.parametrize(
    ("version", "names", "absent"),
    [
        ((4, 3), {"socket_dir", "logdir", "delegate_IP"}, {"unix_socket_directories", "work_dir", "recovery_database"}),
        ((4, 4), {"unix_socket_directories", "logdir", "delegate_ip"}, {"socket_dir", "work_dir", "delegate_IP"}),
        ((4, 6), {"unix_socket_directories", "logdir", "delegate_ip"}, {"socket_dir", "wd_listen_address"}),
        ((4, 7), {"work_dir", "delegate_ip", "recovery_database", "wd_listen_address"}, {"logdir", "socket_dir"}),
    ],
)
def test_parameters_have_the_names_of_the_installed_version(
    version: tuple[int, int], names: set[str], absent: set[str]
) -> None:
    found = pgpool_conf(f"{THREE}virtual_ip: 10.0.0.9/24\n", server=replace(SERVER, pgpool=PgpoolVersion(*version)))
    assert names <= set(found)
    assert not absent & set(found)


@pytest.mark.parametrize("text", ["", THREE])
def test_the_watchdog_key_is_always_set(text: str) -> None:
    node = cluster_of(text).nodes[0].name
    assert pgpool_conf(text, node)["wd_authkey"] == KEY.watchdog_key


def test_only_nodes_reach_watchdog_heartbeat_and_pcp() -> None:
    rules = text_of(f"{FOLDER}/peers.nft", files())
    assert re.findall(r"saddr (\S+) accept", rules) == ["10.0.0.2", "10.0.0.3"]
    assert "tcp dport { 9000, 9898 } drop" in rules
    assert "udp dport 9694 drop" in rules
    assert pgpool_conf()["pcp_listen_addresses"] == "127.0.0.1"


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


def test_a_broken_session_causes_no_failover_and_health_is_checked() -> None:
    found = pgpool_conf()
    assert (found["failover_on_backend_error"], found["failover_on_backend_shutdown"]) == ("off", "off")
    assert int(found["health_check_period"]) > 0
    assert found["detach_false_primary"] == "on"


def test_the_failover_program_gets_numbers_only() -> None:
    """pgpool-II passes host names to a shell without quotes."""
    assert set(re.findall(r"%(.)", pgpool_conf()["failover_command"])) <= set("dmMP")


@pytest.mark.parametrize("mode", ["native_replication", "snapshot_isolation"])
def test_other_modes_change_only_what_differs(mode: str) -> None:
    streaming, other = pgpool_conf(), pgpool_conf(f"mode: {mode}\n{THREE}")
    changed = {name for name in streaming.keys() & other.keys() if streaming[name] != other[name]}
    assert changed == {
        "backend_clustering_mode", "failover_on_backend_error", "failover_on_backend_shutdown",
        "failover_when_quorum_exists", "recovery_2nd_stage_command", "recovery_timeout", "sr_check_period",
    }  # fmt: skip
    assert other["failover_when_quorum_exists"] == "off"
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
    assert (conf["listen_addresses"], conf["backend_hostname0"], conf["hostname1"]) == ("*", "fd00::1", "fd00::2")
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


def test_a_virtual_address_is_never_the_source_of_a_connection() -> None:
    """pg_hba.conf and authorized_keys admit only the nodes' own addresses."""
    six = pgpool_conf(f"{SIX}virtual_ip: fd00::50/64\n")
    assert six["if_up_cmd"] == "/sbin/ip -6 addr add $_IP_$/64 dev eth0 nodad preferred_lft 0"
    assert six["if_down_cmd"] == "/sbin/ip -6 addr del $_IP_$/64 dev eth0"
    assert six["arping_cmd"] == "/usr/lib/pgpool2-cluster/announce-address $_IP_$ eth0"
    four = pgpool_conf(f"{THREE}virtual_ip: 10.0.0.50/24\n")
    assert four["if_up_cmd"] == "/sbin/ip addr add $_IP_$/24 dev eth0 noprefixroute"
    assert four["arping_cmd"].startswith("/usr/bin/arping -U $_IP_$ ")
    elsewhere = pgpool_conf(f"{THREE}virtual_ip: 10.9.0.50/24\n")
    assert elsewhere["if_up_cmd"] == "/sbin/ip addr add $_IP_$/24 dev eth0"  # its route leads to the clients there


@pytest.mark.parametrize(
    ("text", "listens"),
    [(f"{THREE}virtual_ip: 10.0.0.50/24\n", "0.0.0.0"),  # noqa: S104
     (f"{THREE}virtual_ip: fd00::50/64\n", "*"),
     (f"{SIX}virtual_ip: 10.0.0.50/24\n", "*"), (f"{THREE}clients: ['fd00::/64', 10.0.0.0/24]\n", "*")],
)  # fmt: skip
def test_pgpool_listens_where_clients_and_the_virtual_address_are(text: str, listens: str) -> None:
    assert pgpool_conf(text)["listen_addresses"] == listens


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


def test_a_file_does_not_show_its_content() -> None:
    assert KEY.pool_key not in repr(files()["/var/lib/postgresql/.pgpoolkey"])


def block(text: str) -> File:
    return File(PurePosixPath("/x"), text.encode(), "postgres", "postgres", 0o600, FileShare.BLOCK)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r")))
def test_removing_the_block_restores_the_original_text(existing: str) -> None:
    assert without_block(merged(existing, block("ours\n"))) == existing


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r")))
def test_a_new_block_replaces_the_old_one(existing: str) -> None:
    assert merged(merged(existing, block("old\n")), block("new\n")) == merged(existing, block("new\n"))


def test_users_of_the_administrator_stay_in_pool_passwd() -> None:
    file = files()[f"{FOLDER}/pool_passwd"]
    text = merged("app:AESxyz\npgpool_check:AESold\n", file)
    assert "app:AESxyz\n" in text
    assert "AESold" not in text
    assert without_entries(text, Role) == "app:AESxyz\n"


def test_roles_of_a_key_that_most_nodes_lack_are_not_used_yet() -> None:
    """`apply` may rewrite roles.sql after the agent has collected facts, so the key in the file itself decides."""
    key = key_of_roles(text_of(f"{FOLDER}/roles.sql", files()))
    cluster = cluster_of()
    before = ClusterFacts({node.name: NodeFacts(node.name, key="0123456789abcdef") for node in cluster.nodes})
    after = ClusterFacts({node.name: NodeFacts(node.name, key=KEY.fingerprint) for node in cluster.nodes})
    assert not before.same_key(cluster, key)
    assert after.same_key(cluster, key)
    assert not after.same_key(cluster, key_of_roles("ALTER ROLE of an older version"))


@pytest.mark.parametrize(
    ("chosen", "seconds"),
    [("", DRAIN_SECONDS), ("pgpool: {client_idle_limit_in_recovery: 20}\n", 20),
     ("pgpool: {client_idle_limit_in_recovery: -1}\n", 0)],
)  # fmt: skip
def test_sessions_may_continue_in_a_recovery_as_long_as_pgpool_allows(chosen: str, seconds: int) -> None:
    text = f"mode: native_replication\n{chosen}{THREE}"
    assert cluster_of(text).drain_seconds == seconds
    assert max(0, int(pgpool_conf(text)["client_idle_limit_in_recovery"])) == seconds
    assert int(pgpool_conf(text)["recovery_timeout"]) == seconds + 27, "pgpool-II must not give up before they have"


def test_recovery_timeout_is_the_chosen_one() -> None:
    assert cluster_of(f"mode: native_replication\npgpool: {{recovery_timeout: 90}}\n{THREE}").recovery_timeout == 90
    assert cluster_of(THREE).recovery_timeout == int(pgpool_conf(THREE)["recovery_timeout"])


GB = 2**30


@pytest.mark.parametrize(
    ("disk", "slots", "wal"),
    [(0, 128, 64), (1 * GB, 256, 128), (8 * GB, 2048, 512), (20 * GB, 4096, 512), (20 * GB + 5 * 2**20, 4096, 512),
     (50 * GB, 8192, 512), (64 * GB, 16384, 512), (10_000 * GB, 16384, 512)],
)  # fmt: skip
def test_wal_for_an_absent_node_takes_at_most_a_quarter_of_the_primarys_disk(disk: int, slots: int, wal: int) -> None:
    """The limit used to be 16 GB on any disk; with a disk of 20 GB, one primary after the other stopped with PANIC."""
    server = replace(SERVER, wal_disk_bytes=disk)
    made = settings_of(text_of("/etc/postgresql/17/main/conf.d/pgpool2-cluster.conf", files(server=server)))
    assert made["max_slot_wal_keep_size"].strip("'") == f"{slots}MB"
    assert made["wal_keep_size"].strip("'") == f"{wal}MB"
    assert slots_keep_mb(disk) * 4 * 2**20 <= max(disk, 512 * 2**20)


OWN = str(paths.SERVER_CERTIFICATE)
CA = "/etc/ssl/ca.pem"
TLS = f"{THREE}tls: {{certificate: /etc/ssl/db.pem, key: /etc/ssl/db.key, ca: {CA}}}\n"


@pytest.mark.parametrize("proven", ["", KEY.fingerprint, "of-another-key", CA])
def test_backends_are_verified_once_all_can_be(proven: str) -> None:
    """Before that, nodes of an older package stay reachable. A key change does not revert the verification."""
    server = replace(SERVER, proven=proven)
    made = files(server=server)
    verified = proven not in ("", CA)
    parameters = pgpool_conf(server=server)
    assert parameters.get("ssl_ca_cert_dir") == (str(paths.AUTHORITIES.parent) if verified else None)
    assert "ssl_ca_cert" not in parameters, "pgpool-II would ask its clients for certificates"
    service = text_of(f"{FOLDER}/pg_service.conf", made).splitlines()
    assert f"sslmode={'verify-full' if verified else 'require'}" in service
    assert (f"sslrootcert={paths.AUTHORITIES}" in service) == verified
    assert "channel_binding=require" in service
    assert text_of(str(paths.ROOT_CERTIFICATE), made) == (f"{paths.AUTHORITIES}\n" if verified else "\n")


@pytest.mark.parametrize("proven", ["", KEY.fingerprint, CA])
def test_an_administrators_authority_replaces_the_clusters(proven: str) -> None:
    made = files(TLS, server=replace(SERVER, proven=proven))
    assert text_of(str(paths.ROOT_CERTIFICATE), made) == (f"{CA}\n" if proven == CA else "\n")
    parameters = postgresql_conf(TLS)
    assert (parameters["ssl_cert_file"], parameters["ssl_ca_file"]) == ("/etc/ssl/db.pem", CA)


@pytest.mark.parametrize("text", [THREE, TLS.replace(f", ca: {CA}", "")])
def test_postgresql_presents_a_certificate_that_the_other_nodes_can_verify(text: str) -> None:
    parameters = postgresql_conf(text)
    assert (parameters["ssl_cert_file"], parameters["ssl_key_file"]) == (OWN, OWN)
    made = files(text)[OWN]
    assert (made.owner, made.mode) == ("postgres", 0o600)


def test_a_witness_knows_the_authority_and_has_no_certificate() -> None:
    made = files("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, w: {address: 10.0.0.3, runs: [pgpool]}}\n", "w")
    assert str(paths.AUTHORITIES) in made
    assert OWN not in made


WITNESS = "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, w: {address: 10.0.0.9, runs: [pgpool]}}\n"


def roles_in(text: str) -> set[str]:
    return {role for role in Role if role in text}


@pytest.mark.parametrize("mode", MODES)
def test_a_witness_knows_the_password_of_no_role_that_could_change_anything(mode: str) -> None:
    """Otherwise its postgres user could log in as a superuser everywhere."""
    made = files(f"{WITNESS}mode: {mode}\n", "w")
    for path in (f"{HOME}/.pgpass", f"{FOLDER}/pool_passwd"):
        assert roles_in(text_of(path, made)) == {Role.CHECK}
    secret = [KEY.password(role) for role in (Role.RECOVERY, Role.REPLICATION)]
    secret += [KEY.pool_passwd_entry(word) for word in secret]
    assert not [path for path in made for word in secret if word in text_of(path, made)]


@pytest.mark.parametrize("mode", MODES)
def test_a_database_node_knows_all_roles(mode: str) -> None:
    made = files(f"{WITNESS}mode: {mode}\n", "pg1")
    for path in (f"{HOME}/.pgpass", f"{FOLDER}/pool_passwd"):
        assert roles_in(text_of(path, made)) == set(Role)


@pytest.mark.parametrize(("mode", "knows"), [(MODES[0], {Role.CHECK}), (MODES[1], {Role.CHECK, Role.RECOVERY})])
def test_another_node_knows_the_recovery_role_only_if_no_database_node_can_rebuild(mode: str, knows: set[Role]) -> None:
    apart = "nodes: {pg1: {address: 10.0.0.1, runs: [postgresql]}, w: {address: 10.0.0.9, runs: [pgpool]}}\n"
    made = files(f"{apart}mode: {mode}\n", "w")
    assert roles_in(text_of(f"{FOLDER}/pool_passwd", made)) == knows
    assert roles_in(text_of(f"{HOME}/.pgpass", made)) == {Role.CHECK}


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
