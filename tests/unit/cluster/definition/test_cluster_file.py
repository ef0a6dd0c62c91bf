"""cluster.yml: the accepted keys and values, and the messages about all others."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgpool_cluster.definition.cluster import Archive, Cluster, Mode, Service, own_node
from pgpool_cluster.definition.cluster_file import load, parse
from pgpool_cluster.ground import plain
from pgpool_cluster.ground.errors import ExitStatus, ServerError, UsageError

FULL = """\
name: main
mode: streaming_replication
postgresql: 17/main
nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: {address: 10.0.0.3, port: 5433, weight: 0.5, runs: [postgresql]}}
clients: [10.0.0.0/24, 192.0.2.7]
virtual_ip: 10.0.0.50/24
tls: {certificate: /etc/ssl/db.pem, key: /etc/ssl/private/db.key}
synchronous: 2
pgpool: {num_init_children: 64, load_balance_mode: off}
postgresql_conf: {shared_buffers: 1GB}
"""


def read(text: str) -> Cluster:
    return parse(text, "cluster.yml", "host")


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_pgpools_have_a_watchdog_where_every_node_is_a_primary(mode: Mode, count: int) -> None:
    nodes = ", ".join(f"pg{number}: 10.0.0.{number}" for number in range(1, count + 1))
    cluster = parse(f"mode: {mode}\nnodes: {{{nodes}}}\n", "cluster.yml", "pg1")
    assert cluster.uses_watchdog is (count > 1 and not mode.streams)


def test_every_key_is_understood() -> None:
    cluster = read(FULL)
    assert (cluster.name, cluster.mode, str(cluster.postgresql)) == ("main", Mode.STREAMING_REPLICATION, "17/main")
    assert [(node.id, node.name, node.address, node.port, node.weight) for node in cluster.nodes] == [
        (0, "pg1", "10.0.0.1", 5432, 1.0),
        (1, "pg2", "10.0.0.2", 5432, 1.0),
        (2, "pg3", "10.0.0.3", 5433, 0.5),
    ]
    assert [node.name for node in cluster.pgpools] == ["pg1", "pg2"]
    assert [str(client) for client in cluster.clients] == ["10.0.0.0/24", "192.0.2.7/32"]
    assert str(cluster.virtual_ip) == "10.0.0.50/24"
    assert cluster.tls is not None
    assert (cluster.tls.certificate, cluster.tls.ca) == ("/etc/ssl/db.pem", None)
    assert cluster.synchronous == 2


def test_a_node_returns_by_itself_unless_the_file_says_otherwise() -> None:
    assert read(FULL).automatic_return
    assert read(FULL + "return: automatic\n").automatic_return
    manual = read(FULL + "return: manual\n")
    assert not manual.automatic_return
    assert manual.fingerprint == read(FULL).fingerprint, (
        "each node decides about itself only, so votes do not depend on it"
    )


def test_on_and_off_reach_pgpool_as_written() -> None:
    assert [(one.name, one.value) for one in read(FULL).pgpool] == [
        ("num_init_children", "64"),
        ("load_balance_mode", "off"),
    ]


def test_an_empty_file_is_a_cluster_of_this_machine() -> None:
    cluster = read("")
    assert [(node.name, node.address, node.runs) for node in cluster.nodes] == [
        ("host", "127.0.0.1", frozenset(Service))
    ]
    assert (cluster.name, cluster.synchronous, cluster.majority) == ("main", 0, 1)


@pytest.mark.parametrize(
    ("nodes", "mode", "synchronous"),
    [
        ("{a: 10.0.0.1, b: 10.0.0.2}", "streaming_replication", 0),
        ("{a: 10.0.0.1, b: 10.0.0.2, c: 10.0.0.3}", "streaming_replication", 1),
        ("{a: 10.0.0.1, b: 10.0.0.2, c: {address: 10.0.0.3, runs: [pgpool]}}", "streaming_replication", 0),
        ("{a: 10.0.0.1, b: 10.0.0.2, c: 10.0.0.3}", "native_replication", 0),
    ],
)
def test_synchronous_defaults_to_one_with_three_database_nodes(nodes: str, mode: str, synchronous: int) -> None:
    assert read(f"nodes: {nodes}\nmode: {mode}\n").synchronous == synchronous


def test_an_address_by_host_name_keeps_the_name_and_the_line() -> None:
    cluster = read("nodes:\n  a: a.lan\n  b: {address: b.lan}\n  c: fd00::3\n")
    assert [(node.host, node.written, node.line) for node in cluster.nodes] == [
        ("a.lan", "a.lan", 2), ("b.lan", "b.lan", 3), ("", "fd00::3", 4),
    ]  # fmt: skip


def test_a_single_node_with_a_long_name_uses_its_first_label() -> None:
    assert parse("", "cluster.yml", f"{'a' * 60}.lan").nodes[0].name == "a" * 60


def test_clients_and_virtual_ip_may_be_of_the_other_family() -> None:
    cluster = read("nodes: {a: 10.0.0.1, b: 10.0.0.2}\nclients: ['fd00::/64', 10.0.0.0/24]\nvirtual_ip: fd00::50/64\n")
    assert str(cluster.virtual_ip) == "fd00::50/64"


def test_clients_default_to_the_nodes() -> None:
    assert [str(client) for client in read("nodes: {a: fd00::1, b: 'fd00::2'}").clients] == [
        "fd00::1/128",
        "fd00::2/128",
    ]


def nodes(value: str) -> str:
    return f"name: main\nnodes: {value}\n"


def archive(value: str) -> str:
    return f"mode: snapshot_isolation\narchive: {value}\n"


@pytest.mark.parametrize(
    ("text", "archive"),
    [
        ("mode: native_replication", Archive(compress=False, keep_hours=24, timeout=60)),
        (archive("{compress: true}"), Archive(compress=True)),
        (archive("{compress: false, keep_hours: 48, timeout: 300}"), Archive(False, 48, 300)),
        (archive("{keep_hours: }"), Archive()),
        (archive(""), Archive()),
        ("archive:\n", Archive()),
    ],
)
def test_every_part_of_the_archive_has_a_default(text: str, archive: Archive) -> None:
    assert read(text).archive == archive


def test_postgresql_archives_in_the_modes_without_streaming() -> None:
    both = "nodes: {a: 10.0.0.1, b: {address: 10.0.0.2, runs: [pgpool]}}\n"
    other = read(f"mode: native_replication\n{both}")
    assert [other.archives(node) for node in other.nodes] == [True, False]
    assert not any(read(both).archives(node) for node in read(both).nodes)


@pytest.mark.parametrize(
    ("text", "line", "reason", "hint"),
    [
        pytest.param("name: main\n\tmode: x\n", 2, "a tab", "spaces", id="tab"),
        pytest.param("name: main\nmodus: x\n", 2, "unknown key 'modus'", "did you mean mode?", id="unknown key"),
        pytest.param("zzz: 1\n", 1, "unknown key 'zzz'", "the keys here are name", id="key like no other"),
        pytest.param("name: a\nmode:\nname: b\n", 3, "name appears twice, first in line 1", "one", id="key twice"),
        pytest.param(nodes("{a: 10.0.0.1, a: 10.0.0.2}"), 2, "a appears twice", "keep", id="node twice"),
        pytest.param(nodes("\n  a: 10.0.0.1\n  b: 10.0.0.1"), 4, "the address of a", "own", id="address twice"),
        pytest.param(nodes("{a-b: 10.0.0.1, a.b: 10.0.0.2}"), 2, "slot name of a-b: a_b", "differs", id="slot twice"),
        pytest.param(nodes("{'$(reboot)': 10.0.0.1}"), 2, "'$(reboot)' is not a host", "host name", id="shell name"),
        pytest.param(nodes("{a: '$(reboot)'}"), 2, "'$(reboot)' is not an address", "10.0.0.1", id="shell address"),
        pytest.param(nodes("{a: 10.0.0.256}"), 2, "not an address", "10.0.0.1", id="no such address"),
        pytest.param(nodes("{a: 0.0.0.0}"), 2, "not an address", "10.0.0.1", id="any address"),
        pytest.param(nodes("{a: [10.0.0.1]}"), 2, "node a needs keys", "address:", id="list as node"),
        pytest.param(nodes("{a: {port: 1}}"), 2, "node a has no address", "address", id="node without address"),
        pytest.param(nodes("{a: {address: 10.0.0.1, prot: 1}}"), 2, "'prot'", "did you mean port?", id="key of a node"),
        pytest.param(nodes("{a: {address: 10.0.0.1, port: 0x10}}"), 2, "port is '0x10'", "65535", id="port in hex"),
        pytest.param(nodes("{a: {address: 10.0.0.1, port: 70000}}"), 2, "port is '70000'", "65535", id="great port"),
        pytest.param(nodes("{a: {address: 10.0.0.1, weight: -1}}"), 2, "weight is '-1'", "number", id="weight"),
        pytest.param(nodes("{a: {address: 10.0.0.1, runs: [mysql]}}"), 2, "'mysql'", "postgresql", id="runs"),
        pytest.param(nodes("{a: {address: 10.0.0.1, runs: [pgpool]}}"), 1, "no node runs postgresql", "runs", id="all"),
        pytest.param(nodes("{}"), 2, "0 nodes", "from 1", id="no nodes"),
        pytest.param("nodes: pg1=10.0.0.1", 1, "nodes needs keys", "nodes: {pg1", id="nodes as debconf has them"),
        pytest.param("clients: [10.0.0.0/33]", 1, "'10.0.0.0/33' is not a network", "CIDR", id="long mask"),
        pytest.param(nodes("\n  a: 10.0.0.1\n  b: fd00::2"), 4, "IPv6 address, a an IPv4", "one family",
                     id="two families"),
        pytest.param(nodes("{a: fe80::1}"), 2, "not an address", "fd00::1", id="address that needs a zone"),
        pytest.param(nodes("{a: '::ffff:10.0.0.1'}"), 2, "not an address", "10.0.0.1", id="IPv4 in IPv6"),
        pytest.param(nodes(f"\n  a: 10.0.0.1\n  {'b' * 60}.lan: 10.0.0.2"), 4, "has 64 characters", "hostnamectl: bbb",
                     id="name that no slot can have"),
        pytest.param("virtual_ip: fe80::50/64", 1, "clients cannot reach", "fd00::50/64", id="virtual ip with a zone"),
        pytest.param("clients: [10.0.0.1/24]", 1, "beyond its mask", "the network is 10.0.0.0/24", id="host bits"),
        pytest.param("clients: 10.0.0.0/24", 1, "clients must be a list", "[10.0.0.0/24]", id="no list"),
        pytest.param("virtual_ip: 10.0.0.50", 1, "not an address with a prefix", "/24", id="virtual ip without length"),
        pytest.param("virtual_ip: 127.0.0.1/8", 1, "is the address of host", "unused", id="virtual ip of a node"),
        pytest.param("tls: {certificate: /a}", 1, "both certificate and key", "tls:", id="half a tls"),
        pytest.param("tls: {certificate: /a/../b, key: /k}", 1, "not allowed", "/etc", id="path with dots"),
        pytest.param("tls: {certificate: /a, key: '/k;id'}", 1, "not allowed", "/etc", id="path with a semicolon"),
        pytest.param("mode: slony", 1, "unknown mode 'slony'", "streaming_replication", id="mode"),
        pytest.param("postgresql: 9.6", 1, "'9.6'", "17/main", id="old major"),
        pytest.param("postgresql: '17/$(id)'", 1, "not a version", "17/main", id="shell in a cluster's name"),
        pytest.param("name: ../x", 1, "not allowed", "main", id="path as a name"),
        pytest.param("return: never", 1, "return is 'never'", "automatic or manual", id="an unknown return"),
        pytest.param(
            "mode: snapshot_isolation\nreturn: manual\n",
            2, "no meaning in mode snapshot_isolation", "leave it out", id="return without streaming",
        ),
        pytest.param("synchronous: 1", 1, "synchronous is '1'", "from 0 to 0", id="more than there are standbys"),
        pytest.param(
            "mode: native_replication\nnodes: {a: 10.0.0.1, b: 10.0.0.2}\nsynchronous: 1\n",
            3, "no meaning in mode native_replication", "leave it out", id="synchronous in native replication",
        ),
        pytest.param("archive: {keep_hours: 1}", 1, "no meaning in mode streaming_replication", "slots", id="archive"),
        pytest.param(archive("yes"), 2, "archive needs keys", "compress: true", id="archive as a word"),
        pytest.param(archive("{keep: 1}"), 2, "unknown key 'keep'", "keep_hours", id="key of archive"),
        pytest.param(archive("{compress: yes}"), 2, "compress is 'yes'", "true or false", id="yes is no truth"),
        pytest.param(archive("{compress: [true]}"), 2, "compress must be one word", "true", id="list of truths"),
        pytest.param(archive("{keep_hours: 0}"), 2, "keep_hours is '0'", "from 1 to 8760", id="nothing kept"),
        pytest.param(archive("{keep_hours: 1d}"), 2, "keep_hours is '1d'", "whole number", id="hours with a unit"),
        pytest.param(archive("\n  compress: true\n  timeout: 0"), 4, "timeout is '0'", "from 1 to 86400", id="timeout"),
        pytest.param("pgpool: {wd_authkey: x}", 1, "wd_authkey cannot be set", "cluster.key", id="forbidden"),
        pytest.param("pgpool: {log_line_prefix: \"a'b\"}", 1, "apostrophe", "no syntax", id="apostrophe"),
        pytest.param('postgresql_conf: {a: "b\\nc: d"}', 1, "one value on one line", "quote", id="line break"),
        pytest.param("postgresql_conf: {'a b': c}", 1, "not a parameter name", "letters", id="parameter name"),
        pytest.param("name: [", 1, "not YAML", "name: main", id="open bracket"),
        pytest.param("- a\n- b\n", 1, "no keys", "name: main", id="a list"),
        pytest.param("nodes: &x {a: 10.0.0.1}\n", 1, "anchors", "quote", id="anchor"),
        pytest.param("name: !!python/object:os.system x\n", 1, "tags", "quote", id="tag"),
        pytest.param("a: " + "[" * 5000, 1, "nested too deeply", "bracket", id="deep"),
    ],
)  # fmt: skip
def test_bad_input_gives_file_line_reason_and_hint(text: str, line: int, reason: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert caught.value.message.startswith(f"cluster.yml:{line}: ")
    assert reason in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.exit_status is ExitStatus.USAGE


def test_a_missing_file_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="No such file") as caught:
        load(tmp_path / "cluster.yml", "host")
    assert caught.value.exit_status is ExitStatus.ENVIRONMENT


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.yml").write_bytes(b"name: \xff\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        load(tmp_path / "cluster.yml", "host")


@pytest.mark.parametrize("names", [["pg2"], ["PG2"], ["pg2.example.org"], ["localhost", "pg2"]])
def test_a_machine_finds_itself_by_its_host_name(names: list[str]) -> None:
    assert own_node(read(FULL), names, "cluster.yml").name == "pg2"


def test_a_machine_that_is_not_a_node_gets_the_list_of_nodes() -> None:
    with pytest.raises(UsageError, match="no node is called web1") as caught:
        own_node(read(FULL), ["web1"], "cluster.yml")
    assert "pg1, pg2, pg3" in caught.value.hint


def test_backend_numbers_skip_nodes_without_a_database() -> None:
    cluster = read("nodes: {a: {address: 10.0.0.1, runs: [pgpool]}, b: 10.0.0.2}")
    assert cluster.backend(0).name == "b"
    with pytest.raises(UsageError, match="no node has the id 1"):
        cluster.backend(1)


def outcome(text: str) -> str:
    try:
        return f"cluster of {len(read(text).nodes)}"
    except UsageError as error:
        return error.message


@given(st.text(max_size=40))
def test_no_text_makes_anything_but_a_cluster_or_a_usage_error(text: str) -> None:
    assert outcome(text).startswith(("cluster.yml:", "cluster of"))


@given(st.text(alphabet=string.printable, max_size=30))
def test_a_plain_name_means_nothing_to_a_shell(text: str) -> None:
    if plain.is_host_name(text) or plain.is_path(text):
        assert not set(text) & set(" \t\n\r\x0b\x0c$`\"'\\;&|<>(){}[]*?!~#%")
