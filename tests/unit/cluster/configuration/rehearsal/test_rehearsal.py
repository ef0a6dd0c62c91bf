"""The prediction of what an installation would do to an existing server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.rendered import SERVER, TEMPLATES, cluster_of

from pgpool_cluster.cli import command_line
from pgpool_cluster.configuration.rehearsal import before
from pgpool_cluster.configuration.rehearsal.existing_server import ExistingServer, PlannedConfiguration, Rule, Setting
from pgpool_cluster.configuration.rehearsal.finding import Finding, Kind
from pgpool_cluster.configuration.rehearsal.rehearsal import findings
from pgpool_cluster.configuration.rehearsal.startable import Slot
from pgpool_cluster.configuration.rendering import rendering
from pgpool_cluster.definition.cluster import Cluster, Node
from pgpool_cluster.ground import paths, programs
from pgpool_cluster.ground.errors import OperationError, UsageError
from pgpool_cluster.ground.fault import Fault
from pgpool_cluster.machine import server, server_facts, units
from pgpool_cluster.machine.own import NOTHING, Own
from pgpool_cluster.operations import restarts
from pgpool_cluster.postgresql import postgresql as pg

LAID = PlannedConfiguration(
    {"wal_level": "replica", "max_replication_slots": "16", "max_connections": "404", "listen_addresses": "*",
     "max_slot_wal_keep_size": "1024MB", "wal_sender_timeout": "10s", "synchronous_standby_names": ""},
    ports={"9999/tcp": "pgpool-II"}, nodes=("10.0.0.1", "10.0.0.2"), roles={"pgpool_check": "for health checks"},
)  # fmt: skip
SETTINGS = {
    "wal_level": Setting("replica", context="postmaster"),
    "max_replication_slots": Setting("10", context="postmaster"),
    "max_connections": Setting("100", context="postmaster", source="configuration file"),
    "listen_addresses": Setting("localhost", context="postmaster"),
    "max_slot_wal_keep_size": Setting("-1", "MB"),
    "wal_sender_timeout": Setting("60000", "ms", "user"),
    "synchronous_standby_names": Setting(""),
    "shared_preload_libraries": Setting(""),
}
DEBIANS = ExistingServer(running=True, settings=SETTINGS)
LOGICAL = Slot("debezium", logical=True)
AUTO = "/var/lib/postgresql/17/main/postgresql.auto.conf"


def told(seen: ExistingServer, plan: PlannedConfiguration = LAID, *kinds: Kind) -> dict[str, Finding]:
    """Return the findings of these kinds, or of all kinds if none is given, by area."""
    return {one.area: one for one in findings(seen, plan) if not kinds or one.kind in kinds}


def with_settings(**changed: Setting) -> ExistingServer:
    return replace(DEBIANS, settings={**SETTINGS, **changed})


def test_a_new_server_loses_nothing_and_is_restarted() -> None:
    found = findings(DEBIANS, LAID)
    assert [one for one in found if one.lost] == []
    assert {str(one) for one in found} >= {
        "restart  max_connections: 100 to 404",
        "restart  listen_addresses: localhost to *",
        "changed  wal_sender_timeout: 60000ms to 10s",
        "changed  roles: pgpool_check, for health checks, is created",
    }
    assert "wal_level" not in told(DEBIANS)


def test_existing_values_change_nothing() -> None:
    there = with_settings(**{name: replace(SETTINGS[name], value=value) for name, value in LAID.parameters.items()})
    there = replace(there, settings={**there.settings, "wal_sender_timeout": Setting("10000", "ms")})
    there = replace(there, settings={**there.settings, "max_slot_wal_keep_size": Setting("1024", "MB")})
    assert [one.area for one in findings(there, LAID)] == ["roles"]


@pytest.mark.parametrize(
    ("slots", "prepared", "line"),
    [((LOGICAL,), 0, "postgresql_conf: {wal_level: logical}"),
     (tuple(Slot(f"p{one}", logical=False) for one in range(17)), 0, "postgresql_conf: {max_replication_slots: 17}"),
     ((), 3, "postgresql_conf: {max_prepared_transactions: 3}")],
)  # fmt: skip
def test_values_that_would_stop_postgresql_from_starting_are_refused(
    slots: tuple[Slot, ...], prepared: int, line: str
) -> None:
    """A production server went down; the journal had only its FATAL message, and not the line to write."""
    plan = replace(LAID, parameters={**LAID.parameters, "max_prepared_transactions": "2"})
    prepares = {"max_prepared_transactions": Setting("2", context="postmaster")}
    seen = replace(with_settings(**prepares), slots=slots, prepared=prepared)
    (refused,) = told(seen, plan, Kind.REFUSED).values()
    assert line in refused.fix


def test_a_logical_slot_is_accepted_if_wal_level_will_be_logical() -> None:
    plan = replace(LAID, parameters={**LAID.parameters, "wal_level": "logical"})
    seen = with_settings(wal_level=Setting("logical", context="postmaster", source="configuration file"))
    seen = replace(seen, slots=(LOGICAL,), own=Own({"wal_level": "logical"}))
    assert told(seen, plan)["wal_level"] == Finding(Kind.KEPT, "wal_level", "logical")


def test_a_lagging_slot_stays_valid() -> None:
    seen = replace(DEBIANS, slots=(replace(LOGICAL, held=2**31),))
    plan = replace(LAID, parameters={**LAID.parameters, "wal_level": "logical"})
    assert "max_slot_wal_keep_size: -1" in told(seen, plan, Kind.REFUSED)["max_slot_wal_keep_size"].fix
    assert not told(seen, replace(plan, slots=frozenset({"debezium"})), Kind.REFUSED)  # left by an earlier cluster


@pytest.mark.parametrize(
    ("name", "value"), [("synchronous_standby_names", "ANY 1 (dr)"), ("ssl_cert_file", "/etc/ssl/db.pem")]
)
def test_deliberate_settings_are_not_overridden(name: str, value: str) -> None:
    seen = replace(DEBIANS, own=Own({name: value}))
    assert value in told(seen, LAID, Kind.REFUSED)[name].fix
    assert not told(seen, replace(LAID, wished=frozenset({name})), Kind.REFUSED)


def test_archiving_continues_or_the_installation_is_refused() -> None:
    own = Own({"archive_mode": "on", "archive_command": "pgbackrest archive-push %p"})
    assert "after a failover only with postgresql_conf:" in told(replace(DEBIANS, own=own))["archive"].what
    native = replace(LAID, streams=False)
    assert told(replace(DEBIANS, own=own), native)["archive"].kind is Kind.KEPT
    library = Own({"archive_mode": "on", "archive_library": "basic_archive"})
    assert told(replace(DEBIANS, own=library), native)["archive_library"].kind is Kind.REFUSED


@pytest.mark.parametrize("name", ["archive_command", "archive_library", "restore_command"])
def test_an_archive_by_alter_system_is_refused_if_the_cluster_archives(name: str) -> None:
    """It used to override the cluster's archive, which stayed empty, so that recovery found nothing in it."""
    seen = with_settings(**{name: Setting("pgbackrest %p", source="configuration file", file=AUTO)})
    assert f"ALTER SYSTEM RESET {name}" in told(seen, replace(LAID, streams=False), Kind.REFUSED)[name].fix
    assert not told(seen, LAID, Kind.REFUSED)


def test_a_server_that_cannot_be_queried_is_refused() -> None:
    """Its content was unknown, so nothing was refused, and `apply` wrote its configuration."""
    silent = ExistingServer(silent='psql: FATAL:  password authentication failed for user "postgres"')
    assert "local all postgres peer" in told(silent, LAID, Kind.REFUSED)["PostgreSQL"].fix
    renamed = replace(DEBIANS, home=False)
    assert "CREATE DATABASE postgres" in told(renamed, LAID, Kind.REFUSED)["the database postgres"].fix


def test_lines_after_include_dir_are_not_overridden() -> None:
    own = Own({"synchronous_standby_names": "dr"}, later=frozenset({"synchronous_standby_names"}))
    assert not told(replace(DEBIANS, own=own), LAID, Kind.REFUSED)


@pytest.mark.parametrize(
    ("name", "there", "kind"),
    [("max_connections", Setting("500", context="postmaster", file=AUTO), Kind.KEPT),
     ("listen_addresses", Setting("localhost", context="postmaster", file=AUTO), Kind.MISSING),
     ("wal_sender_timeout", Setting("0", "ms", source="command line"), Kind.KEPT)],
)  # fmt: skip
def test_settings_that_override_the_clusters_file_are_named(name: str, there: Setting, kind: Kind) -> None:
    found = told(with_settings(**{name: there}))[name]
    assert found.kind is kind
    assert found.fix == (f"ALTER SYSTEM RESET {name}" if kind is Kind.MISSING else "")


def test_minimal_wal_by_alter_system_is_refused() -> None:
    seen = with_settings(wal_level=Setting("minimal", context="postmaster", file=AUTO))
    assert "RESET wal_level" in told(seen, LAID, Kind.REFUSED)["wal_level"].fix


def test_a_parameter_that_this_postgresql_does_not_know_is_refused() -> None:
    more = {"work_men": "4MB", "timescaledb.license": "apache"}
    plan = replace(LAID, parameters={**LAID.parameters, **more}, wished=frozenset(more))
    assert list(told(DEBIANS, plan, Kind.REFUSED)) == ["work_men"]


def test_files_with_faults_and_without_conf_d_are_refused() -> None:
    seen = replace(DEBIANS, faults=('syntax error in file "x" line 3',), own=Own(includes=False))
    reasons = [one.what for one in findings(seen, LAID) if one.kind is Kind.REFUSED]
    assert any("syntax error" in one for one in reasons)
    assert any("does not include conf.d" in one for one in reasons)


def rule(kind: str, address: str, method: str, mask: str = "", users: tuple[str, ...] = ("all",)) -> Rule:
    return Rule(97, kind, ("all",), users, address, mask, method)


@pytest.mark.parametrize(
    ("there", "changed"),
    [(rule("host", "10.0.0.0", "ldap", "255.255.255.0"), True), (rule("host", "all", "cert"), True),
     (rule("hostssl", "10.0.0.1", "trust", "255.255.255.255", ("app",)), True),
     (rule("host", "10.0.0.0", "md5", "255.255.255.0"), False), (rule("hostnossl", "all", "trust"), False),
     (rule("host", "192.0.2.0", "trust", "255.255.255.0"), False), (rule("host", "fd00::", "trust", "ffff::"), False),
     (rule("host", "client.example.org", "trust"), False), (rule("local", "", "trust"), True),
     (rule("local", "", "peer"), False)],
)  # fmt: skip
def test_overridden_lines_of_pg_hba_are_named(there: Rule, changed: bool) -> None:
    found = told(replace(DEBIANS, rules=(there, rule("host", "all", "scram-sha-256"))))
    assert ("pg_hba.conf" in found) is changed
    behind = replace(DEBIANS, rules=(rule("host", "all", "md5"), rule("local", "", "peer"), there))
    assert "pg_hba.conf" not in told(behind)


def test_obstacles_to_logins_of_other_nodes_are_missing_findings() -> None:
    shut = Fault("the login shell of postgres is /usr/sbin/nologin", "chsh -s /bin/bash postgres")
    (found,) = [one for one in findings(replace(DEBIANS, kept_out=(shut,)), LAID) if one.area == "login over ssh"]
    assert (found.kind, found.what, found.fix) == (Kind.MISSING, shut.why, shut.fix)


def test_a_port_of_another_program_and_a_missing_extension_are_named() -> None:
    seen = replace(DEBIANS, held={"9999/tcp": "haproxy", "80/tcp": "nginx"}, lacking=("pgpool_recovery",))
    assert told(seen, LAID, Kind.MISSING)["ports"].what == "9999/tcp, for pgpool-II, is taken by haproxy"
    assert "extensions" in told(seen, LAID, Kind.MISSING)


def test_a_server_that_does_not_run_is_judged_by_its_files() -> None:
    assert told(ExistingServer(own=NOTHING), LAID, Kind.REFUSED, Kind.MISSING, Kind.RESTART) == {}
    seen = ExistingServer(own=Own({"synchronous_standby_names": "dr"}))
    assert list(told(seen, LAID, Kind.REFUSED)) == ["synchronous_standby_names"]


# The input and output

ANSWER = {
    "settings": {name: [one.value, one.unit, one.context, one.source, one.file] for name, one in SETTINGS.items()},
    "slots": [["debezium", True, 0]],
    "prepared": 0,
    "rules": [
        [97, "host", ["all"], ["all"], "10.0.0.0", "255.255.255.0", "ldap"],
        [1, "local", None, None, "", "", "x"],
    ],
    "roles": ["postgres"],
    "available": ["pgpool_recovery"],
}


OTHER = 'udp UNCONN 0 0 10.0.0.1:9695 0.0.0.0:* users:(("ntpd",pid=2,fd=4))\n'
"""Another program at the port of the agents' heartbeats, by `ss`."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A machine with a logical slot before the first `apply`; `file` is appended to its cluster.yml."""
    found = SimpleNamespace(file="", ran=[], answer=ANSWER)

    def run(words: list[str], **_: object) -> str:
        found.ran.append(words)
        if any(word.endswith("psql") for word in words):
            return json.dumps(found.answer) if "json" in words[-1] else "4194304"
        if words[0] == "ss":
            return 'tcp LISTEN 0 9 *:9999 *:* users:(("haproxy",pid=1,fd=3))\nudp UNCONN 0 0 [::]:9694 [::]:*\n' + OTHER
        return "pubkeyauthentication yes\nallowusers a\nallowusers Postgres\n"

    def cluster() -> Cluster:
        return cluster_of("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}\n" + found.file)

    monkeypatch.setattr(programs, "run", run)
    monkeypatch.setattr(server, "this_node_looked_up", lambda: (cluster(), cluster().named("pg1"), ()))
    monkeypatch.setattr(server, "facts", lambda *_, **__: replace(SERVER, data_directory=str(tmp_path)))
    monkeypatch.setattr(paths, "templates", lambda: TEMPLATES)
    monkeypatch.setattr(paths, "FINGERPRINT", tmp_path / "fingerprint")
    monkeypatch.setattr(pg, "fault", lambda _: "")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return found


def test_check_before_reports_everything_and_fails_if_something_would_be_lost(
    machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["check", "--before"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("refused  wal_level: replication slot debezium needs logical, and it would be replica; ")
    assert any("9999/tcp, for pgpool-II, is taken by haproxy" in line for line in said)
    assert any("9695/udp, for the heartbeats between agents, is taken by ntpd" in line for line in said)
    assert any(line.startswith("kept     disk: a copy of its data needs 4 MB") for line in said)
    assert any("line 97, `host all all 10.0.0.0/255.255.255.0 ldap`" in line for line in said)
    command_line.main(["check", "--before", "--json"])
    first = json.loads(capsys.readouterr().out)["findings"][0]
    assert (first["kind"], first["area"]) == ("refused", "wal_level")
    assert "postgresql_conf: {wal_level: logical}" in first["fix"]


def test_with_the_suggested_line_nothing_is_refused(machine: Any) -> None:
    machine.file = "postgresql_conf: {wal_level: logical}\n"
    before.raise_refused(before.rehearse())


def rendered() -> tuple[Cluster, Node, server_facts.ServerFacts, Any]:
    cluster, me, _ = server.this_node_looked_up()
    facts = server.facts(cluster, me, standbys_came=False)
    return cluster, me, facts, rendering.render(cluster, before._NO_KEY, me, facts, TEMPLATES)


def test_a_first_installation_is_refused_before_anything_is_changed(machine: Any) -> None:
    with pytest.raises(UsageError, match="nothing is changed on this server: wal_level") as caught:
        before.refuse(*rendered())
    assert "wal_level: logical" in caught.value.hint
    paths.FINGERPRINT.touch()
    before.refuse(*rendered())
    assert machine.ran


def test_the_installation_proceeds_on_a_server_that_does_not_answer(machine: Any) -> None:
    machine.answer = None
    before.refuse(*rendered())


def test_a_restart_that_would_fail_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A running production server used to be stopped without a test of its new configuration."""
    answers: dict[str, list[Any]] = {"pg_settings": [("wal_level",)], "pg_replication_slots": [("debezium", True)]}

    def query(sql: str, *_: object) -> list[Any]:
        return next((rows for name, rows in answers.items() if name in sql), [(0,)])

    monkeypatch.setattr(restarts, "_RELOAD_SECONDS", 0.0)
    monkeypatch.setattr(units, "control", lambda *_: pytest.fail("it was restarted"))
    monkeypatch.setattr(pg, "setting", lambda _, name: {"wal_level": "replica"}.get(name, "16"))
    monkeypatch.setattr(pg, "fault", lambda _: "")
    here: Any = SimpleNamespace(query=query, server=SimpleNamespace(instance=SimpleNamespace(name="17/main")))
    with pytest.raises(OperationError, match="is not restarted for wal_level, as it would not start again") as caught:
        restarts.restart_if_pending(here)
    assert "postgresql_conf: {wal_level: logical}" in caught.value.hint
    answers["pg_replication_slots"] = []
    monkeypatch.setattr(pg, "fault", lambda _: "unrecognized configuration parameter")
    with pytest.raises(OperationError, match="unrecognized configuration parameter"):
        restarts.restart_if_pending(here)
