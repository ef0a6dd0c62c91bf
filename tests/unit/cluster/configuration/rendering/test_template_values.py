"""The values that templates derive from the cluster and the machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.rendered import (
    HOME,
    KEY,
    MODES,
    SERVER,
    SIX,
    THREE,
    WITNESS,
    cluster_of,
    files,
    pgpool_conf,
    settings_of,
    text_of,
)

from pgpool_cluster.configuration.rendering.rendered_paths import FOLDER
from pgpool_cluster.configuration.rendering.template_values import slots_keep_mb
from pgpool_cluster.definition.cluster import DRAIN_SECONDS
from pgpool_cluster.definition.key import Role
from pgpool_cluster.machine.server_facts import PgpoolVersion


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
    text = f"{THREE}virtual_ip: 10.0.0.9/24\nmode: native_replication\n"
    found = pgpool_conf(text, server=replace(SERVER, pgpool=PgpoolVersion(*version)))
    assert names <= set(found)
    assert not absent & set(found)


def test_a_virtual_address_is_never_the_source_of_a_connection() -> None:
    """pg_hba.conf and authorized_keys admit only the nodes' own addresses."""
    native = "mode: native_replication\n"
    six = pgpool_conf(f"{SIX}{native}virtual_ip: fd00::50/64\n")
    assert six["if_up_cmd"] == "/sbin/ip -6 addr add $_IP_$/64 dev eth0 nodad preferred_lft 0"
    assert six["if_down_cmd"] == "/sbin/ip -6 addr del $_IP_$/64 dev eth0"
    assert six["arping_cmd"] == "/usr/lib/pgpool2-cluster/announce-address $_IP_$ eth0"
    four = pgpool_conf(f"{THREE}{native}virtual_ip: 10.0.0.50/24\n")
    assert four["if_up_cmd"] == "/sbin/ip addr add $_IP_$/24 dev eth0 noprefixroute"
    assert four["arping_cmd"].startswith("/usr/bin/arping -U $_IP_$ ")
    elsewhere = pgpool_conf(f"{THREE}{native}virtual_ip: 10.9.0.50/24\n")
    assert elsewhere["if_up_cmd"] == "/sbin/ip addr add $_IP_$/24 dev eth0"  # its route leads to the clients there


@pytest.mark.parametrize(
    ("text", "listens"),
    [(f"{THREE}virtual_ip: 10.0.0.50/24\n", "0.0.0.0"),  # noqa: S104
     (f"{THREE}virtual_ip: fd00::50/64\n", "*"),
     (f"{SIX}virtual_ip: 10.0.0.50/24\n", "*"), (f"{THREE}clients: ['fd00::/64', 10.0.0.0/24]\n", "*")],
)  # fmt: skip
def test_pgpool_listens_where_clients_and_the_virtual_address_are(text: str, listens: str) -> None:
    assert pgpool_conf(text)["listen_addresses"] == listens


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
