"""Run the hooks that ssh, pgpool-II, PostgreSQL and systemd start by name. They are thin: the agent does the work.

Each caller waits for its program, so a module that only some programs need is imported only there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from ..ground import log, paths, plain
from ..ground.errors import ExitStatus, UsageError
from ..transport.channel import SILENCE, ask, bridge
from ..transport.protocol import FailoverRequest, FirstStageRequest, MayStartRequest, SecondStageRequest, StartRequest

_LONGEST_REQUEST_CHARACTERS = 256
_REQUEST_SECONDS = 10
"""Time limit for a request to arrive on the control socket."""
_FAILOVER_SECONDS = 90.0
_REMOTE_START_SECONDS = 300.0
_MAY_START_SECONDS = 20.0


def run(words: list[str]) -> int:
    """Run one hook with its arguments; raises ClusterError."""
    name, *rest = words or [""]
    work = _HOOKS.get(name)
    if work is None:
        raise UsageError(f"unknown hook {name!r}", hint="apt install --reinstall pgpool2-cluster")
    return work(rest)


def _ssh_command(words: list[str]) -> int:
    """Serve the ssh key of a peer. It may connect to this node's agent and read its WAL archive, which holds all data.

    The arguments come from the forced command: the peer's name, and `witness` if the peer runs no PostgreSQL. A witness
    needs no WAL, and may not read it.
    """
    asked = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    words, kind = words[:1], words[1:]
    if asked.startswith("wal ") and not kind:
        from ..machine.wal import wal_files  # noqa: PLC0415

        return ExitStatus.GOOD if wal_files.send(asked[4:], paths.ARCHIVE, sys.stdout.buffer) else ExitStatus.FAILED
    if asked != "agent" or kind not in ([], ["witness"]) or len(words) != 1 or not plain.is_host_name(words[0]):
        raise UsageError("this key is for pgpool2-cluster only", hint="administer the cluster with pgpoolctl")
    bridge(words[0])
    return ExitStatus.GOOD


def _failover(words: list[str]) -> int:
    """Run failover_command, with the arguments %d %m %M %P."""
    if not words or not words[0].isdigit():
        raise UsageError("failover needs the id of the failed node", hint="pgpool-II runs it as failover_command")
    answer = ask(FailoverRequest(int(words[0])), seconds=_FAILOVER_SECONDS, progress=_say)
    for line in answer.actions:
        _say(f"failover: {line}")
    return ExitStatus.GOOD


def _say(text: str) -> None:
    log.info(text)


def _backend(words: list[str]) -> int:
    """Return the target's id from pgpool_recovery's arguments: PGDATA host datadir main_port node_id port main_host."""
    if len(words) < 5 or not words[4].isdigit():
        hint = "pgpool_recovery of pgpool-II 4.3 or later passes them"
        raise UsageError("a recovery script has seven arguments", hint=hint)
    return int(words[4])


def _first_stage(words: list[str]) -> int:
    """Run recovery_1st_stage on the primary: the target rebuilds itself from this node, and runs when this returns."""
    ask(FirstStageRequest(_backend(words)), seconds=SILENCE, progress=_say)
    return ExitStatus.GOOD


def _second_stage(words: list[str]) -> int:
    """Run recovery_2nd_stage on the main node, while no client writes."""
    ask(SecondStageRequest(_backend(words)), seconds=SILENCE, progress=_say)
    return ExitStatus.GOOD


def _remote_start(words: list[str]) -> int:
    """Run pgpool_remote_start on the primary, with the HOST and DATADIR of the recovered node."""
    if not words:
        raise UsageError("pgpool_remote_start needs the host of a node", hint="pgpool-II's recovery passes it")
    ask(StartRequest(words[0]), seconds=_REMOTE_START_SECONDS)
    return ExitStatus.GOOD


def _may_start(words: list[str]) -> int:
    """Run ExecCondition of postgresql@.service: 0 starts the server, 1 leaves it stopped without failing the unit."""
    if not paths.RECORD.exists() or not paths.CLUSTER_YML.exists():
        return 0
    try:
        answer = ask(MayStartRequest(words[0]), seconds=_MAY_START_SECONDS)
    except Exception:  # servers outside the cluster must start despite any error
        if not _concerns(words[0]):
            return 0
        log.info(f"not started yet: {paths.UNIT} first verifies that no other node was promoted")
        return 1
    if not answer.go:
        log.warning(f"PostgreSQL is not started: {answer.why}")
    return 0 if answer.go else 1


def _concerns(name: str) -> bool:
    """Return whether a server (V-NAME) needs the agent's permission: the cluster's own server does, others do not.

    If the normal check fails, for example because modules are missing in a dist-upgrade, the server with the cluster's
    configuration counts as the cluster's own. So no other server stays down, and a former primary does not start
    without permission.
    """
    try:
        return _is_ours(name)
    except Exception:
        version, _, cluster = name.partition("-")
        return (paths.POSTGRESQL_CONFIGURATION / version / cluster / "conf.d" / "pgpool2-cluster.conf").exists()


def _is_ours(name: str) -> bool:
    from ..machine import server  # noqa: PLC0415
    from ..machine.record import Record  # noqa: PLC0415

    if name == Record.load(paths.RECORD).upgrading.replace("/", "-"):
        return False
    cluster, me = server.this_node()
    return server.choose_instance(cluster, server.instances(me.port), me).unit == f"postgresql@{name}.service"


def _upgrade(words: list[str]) -> int:
    """Run pg_upgradecluster.d, with old version, name, new version, phase. A status other than 0 ends the upgrade."""
    from ..definition.cluster import PostgresqlCluster  # noqa: PLC0415
    from ..operations import upgrade  # noqa: PLC0415

    match words:
        case [old, name, new, "init"] if old.isdecimal() and new.isdecimal():
            upgrade.begin(PostgresqlCluster(int(old), name), PostgresqlCluster(int(new), name))
    return ExitStatus.GOOD


def _before_pgpool(words: list[str]) -> int:
    """Run ExecStartPre of pgpool2.service, as root."""
    from ..configuration import before_pgpool  # noqa: PLC0415

    del words
    before_pgpool.run()
    return ExitStatus.GOOD


def _announce_address(words: list[str]) -> int:
    """Run arping_cmd for a virtual IPv6 address, with the arguments ADDRESS INTERFACE."""
    from ..machine.network import neighbours  # noqa: PLC0415

    address = plain.address(words[0]) if len(words) == 2 else None
    if address is None or address.version != 6:
        raise UsageError(
            "announce-address needs an IPv6 address and an interface", hint="pgpool-II runs it as arping_cmd"
        )
    neighbours.announce(address, words[1])
    return ExitStatus.GOOD


def _control(words: list[str]) -> int:
    """Serve the control socket: read one line, and print `done` or the reason. SIGALRM ends it if 10 s pass first."""
    from ..machine import units  # noqa: PLC0415

    del words
    signal.alarm(_REQUEST_SECONDS)
    request = sys.stdin.readline(_LONGEST_REQUEST_CHARACTERS)
    signal.alarm(0)
    # An incomplete line must not count as a request, even if its beginning matches one.
    request = request[:-1] if request.endswith("\n") else ascii(request)
    print(units.serve_control(request), flush=True)
    return ExitStatus.GOOD


_HOOKS: dict[str, Callable[[list[str]], int]] = {
    "ssh-command": _ssh_command,
    "failover": _failover,
    "recovery-1st-stage": _first_stage,
    "recovery-2nd-stage": _second_stage,
    "pgpool-remote-start": _remote_start,
    "may-start": _may_start,
    "upgrade": _upgrade,
    "before-pgpool": _before_pgpool,
    "announce-address": _announce_address,
    "control": _control,
}
