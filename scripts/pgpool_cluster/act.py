"""Carry out the actions that `decide` returns, with one function per action. Each function is safe to repeat."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, assert_never

from . import copying, log, paths, pgpool, replay, synchrony, units
from . import postgresql as pg
from . import startable as rehearsal
from .actions import (
    Action,
    Attach,
    AwaitRecovery,
    Begin,
    Clone,
    CreateSlots,
    Deed,
    Detach,
    Dismiss,
    Follow,
    Found,
    GiveUpPlace,
    Lead,
    Promote,
    Rebuild,
    Refuse,
    Rejoin,
    Resume,
    Serve,
    StandApart,
    Start,
    StartPgpool,
    Stop,
    Wait,
)
from .errors import ClusterError, OperationError, UsageError
from .excuse import Excuse
from .facts import ClusterFacts
from .key import Role
from .node import LOOK_SECONDS, Here, sql_errors
from .protocol import OF_AN_OLDER_PACKAGE, FollowRequest, GoOnRequest, PromoteRequest, RecoverRequest, TermRequest
from .roles import Roles
from .situation import in_service

_PROMOTE_SECONDS = 60
_RELOADED = 10.0
"""Seconds within which a server must have reloaded its configuration."""
_PAUSE = 3.0
"""Seconds before a failed rebuild is retried."""
_LISTENING = 20.0
"""Seconds within which a started pgpool-II must listen and answer pcp."""
_GO_ON_SECONDS = 10.0
"""Seconds within which a node in service has collected facts from all others and has sent them a term."""
_DYING = 5.0
"""Seconds within which a pgpool-II that reported its exit must have ended; 4.6.1 can hang while it exits."""


def perform(here: Here, action: Action) -> None:
    """Carry out one action; do nothing for an action that only states a reason. Raises ClusterError if it fails."""
    if isinstance(action, Wait | AwaitRecovery | Refuse):
        return
    _work(here, action)
    here.forget_looks()


def _work(here: Here, action: Deed) -> None:  # noqa: C901, PLR0912 - one case an action
    match action:
        case Found():
            found(here, action)
        case Clone():
            clone(here, action)
        case Rejoin():
            rejoin(here, action)
        case Rebuild():
            rebuild(here, action)
        case GiveUpPlace():
            give_up_place(here, action)
        case StandApart():
            stand_apart(here, action)
        case Serve():
            serve(here, action)
        case Begin():
            begin(here, action)
        case Dismiss():
            dismiss(here, action)
        case Start():
            start(here, action)
        case Resume():
            resume(here, action)
        case Stop():
            stop(here, action)
        case Promote():
            promote(here, action)
        case Lead():
            lead(here, action)
        case Follow():
            follow(here, action)
        case CreateSlots():
            create_slots(here, action)
        case StartPgpool():
            start_pgpool(here, action)
        case Attach():
            attach(here, action)
        case Detach():
            detach(here, action)
        case _:
            assert_never(action)


def query(here: Here, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Run a query on this node's server and return its rows; raises OperationError."""
    return sql_errors(lambda: here.server.query(sql, values))


def found(here: Here, _: Found) -> None:
    """Make this node's data the cluster's: create roles and extensions, and restart the server if necessary."""
    folder = here.server.instance.configuration
    if not includes_drop_in(here):
        reason = f"{folder}/postgresql.conf does not include conf.d, so the cluster's parameters are not read"
        raise OperationError(reason, hint=INCLUDE_HINT.format(folder=folder))
    restart_if_pending(here)
    Roles.rendered().lay(here)
    system = int(query(here, "SELECT system_identifier FROM pg_control_system()")[0][0])
    here.remember(system=system, term=1, led=1, copying="")


INCLUDE_HINT = "add the line include_dir = 'conf.d' at the end of {folder}/postgresql.conf"


def includes_drop_in(here: Here) -> bool:
    """Return whether this node's server reads the cluster's drop-in file."""
    sql = "SELECT count(*) FROM pg_file_settings WHERE sourcefile LIKE %s"
    return bool(query(here, sql, "%/conf.d/pgpool2-cluster.conf")[0][0])


def restart_if_pending(here: Here) -> None:
    """Restart this node's server if a parameter that the cluster needs is pending a restart."""
    database = here.server
    before = query(here, "SELECT pg_conf_load_time()")
    query(here, "SELECT pg_reload_conf()")
    deadline = time.monotonic() + _RELOADED
    while query(here, "SELECT pg_conf_load_time()") == before and time.monotonic() < deadline:
        time.sleep(0.02)
    pending = query(here, "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name")
    if pending:
        names = ", ".join(str(name) for (name,) in pending)
        _refuse_restart(here, names)
        log.info(f"restarting PostgreSQL {database.instance.name} once, for {names}")
        here.starting = True
        try:
            units.control("restart", database.instance.unit)
        finally:
            here.starting = False
        database.close()
        pg.start(database)


_SLOTS = "SELECT slot_name::text, slot_type = 'logical' FROM pg_replication_slots"


def _refuse_restart(here: Here, names: str) -> None:
    """Raise OperationError if the server would not start again; it keeps serving with its present configuration."""
    instance = here.server.instance
    values = {name: pg.setting(instance, name) for name in rehearsal.STARTING}
    slots = [rehearsal.Slot(str(name), bool(logical)) for name, logical in query(here, _SLOTS)]
    prepared = int(query(here, "SELECT count(*) FROM pg_prepared_xacts")[0][0])
    found = [(f"{one.area}: {one.what}", one.fix) for one in rehearsal.unstartable(values, slots, prepared)]
    if fault := pg.fault(instance):
        found.append((fault, "correct that file"))
    if found:
        reasons = "; ".join(reason for reason, _ in found)
        raise OperationError(
            f"PostgreSQL {instance.name} is not restarted for {names}, as it would not start again: {reasons}",
            hint=f"{'; '.join(dict.fromkeys(fix for _, fix in found))}; then pgpoolctl apply",
        )


def start(here: Here, _: Start) -> None:
    """Start this node's server."""
    here.starting = True
    try:
        pg.start(here.server)
    finally:
        here.starting = False


def resume(here: Here, action: Resume) -> None:
    """Start this node's server as the primary again, in a new term."""
    with here.promotion:
        here.promoting = True
        try:
            claim(here, action.term, kept=synchrony.kept(here.record))
            start(here, Start(action.node))
        finally:
            here.promoting = False
            here.forget_looks()


def claim(
    here: Here, term: int, *, kept: tuple[str, ...] = (), decided: tuple[int, int] | None = None, **changes: object
) -> None:
    """Claim a new term for this node. Raises OperationError unless a majority of nodes records the claim.

    The claim voids the excuses of former primaries, except for `kept`, the names that this node itself has excused.
    `decided`: the place of the excuse that the decision to claim rests on; the claim fails if any node knows a later
    one. `changes` of the record are written together with the claim.
    """
    noted = tell(here, term)
    if len(noted) < here.cluster.majority:
        few = f"only {', '.join(noted)} took note of term {term}"
        raise OperationError(few if noted else f"term {term} is another node's already", hint="pgpoolctl status")
    if here.cluster.synchronous:
        # From now on, no majority accepts an excuse of an earlier term.
        if decided is not None and max(noted.values()) > decided:
            raise OperationError("the primary has spoken again since this was decided", hint="it is decided anew")
        older = [name for name, place in noted.items() if place == OF_AN_OLDER_PACKAGE]
        if len(older) + len(synchrony.announce(here, Excuse(term, 0, kept))) < here.cluster.majority:
            raise OperationError(f"too few nodes took note that term {term} begins", hint="pgpoolctl status")
    here.remember(led=term, **changes)
    log.info(f"this node is the primary of term {term}, known to {', '.join(noted)}")


def stop(here: Here, _: Stop) -> None:
    """Stop this node's server."""
    pg.stop(here.server)


def promote(here: Here, action: Promote) -> None:
    """Request the promotion of a standby. If two nodes request the same promotion, only one happens."""
    if action.node == here.me.name:
        become_primary(here, action.term, action.excuse)
    else:
        request = PromoteRequest(action.term, action.excuse)
        here.peers.ask(action.node, request, seconds=_PROMOTE_SECONDS + 5)


def tell(here: Here, term: int) -> dict[str, tuple[int, int]]:
    """Send a new term to every node and return the nodes that recorded it, including this one.

    A node records the term only if it knows neither this term nor a later one. The value of each node is the place of
    the latest excuse that it knows, or OF_AN_OLDER_PACKAGE.
    """
    if not here.note_term(term):
        return {}
    answers = here.peers.ask_all(TermRequest(term, here.cluster.fingerprint), seconds=LOOK_SECONDS)
    places = {name: answer.excuse for name, answer in answers.items() if answer.taken}
    return {here.me.name: here.record.excuse.place, **places}


def become_primary(here: Here, term: int, decided: tuple[int, int] | None = None) -> None:
    """Claim the term, then end recovery on this node; do nothing if recovery is over. Raises OperationError.

    `decided`: the place of the excuse that the decision rests on; None for an administrator's decision.
    """
    with here.promotion:
        if not query(here, "SELECT pg_is_in_recovery()")[0][0]:
            return
        refuse_promotion(here)
        here.promoting = True
        try:
            claim(here, term, decided=decided)
            end_recovery(here)
        finally:
            here.promoting = False
            here.forget_looks()


def refuse_promotion(here: Here) -> None:
    """Raise OperationError if a promotion would stop this node's server, because it cannot replay all of its WAL."""
    mine = here.look()
    if mine.needs:
        raise OperationError(f"it cannot be promoted: {replay.too_low(mine)}", hint=replay.hint(mine))


def end_recovery(here: Here) -> None:
    """Promote this node's standby and wait until it takes writes; raises OperationError.

    The caller must have claimed the term.
    """
    query(here, "SELECT pg_promote(false)")
    _await_writable(here)


def _await_writable(here: Here) -> None:
    deadline = time.monotonic() + _PROMOTE_SECONDS
    while query(here, "SELECT pg_is_in_recovery()")[0][0]:
        if time.monotonic() > deadline:
            raise OperationError("PostgreSQL did not end its recovery", hint="its log (pg_lsclusters names it) has why")
        time.sleep(0.05)


def lead(here: Here, action: Lead) -> None:
    """Claim a new term for this node, which is a primary already. Raises OperationError without a majority."""
    claim(here, action.term, kept=synchrony.kept(here.record))


def dismiss(here: Here, action: Dismiss) -> None:
    """Send a new term to all reachable nodes. In it, all nodes in service except the dismissed one stay in service."""
    facts = here.look_at_all()
    if here.database is None:
        _have_go_on(here, facts, action.node)
        return
    serving = {found.node for found in in_service(here.cluster, facts)} - {action.node}
    log.warning(f"{action.node} is out of service; in service: {', '.join(sorted(serving))}")
    gone = "" if facts.of(action.node).reachable else action.node
    _tell_service(here, serving, action.term, restart=0, without=gone)


def begin(here: Here, action: Begin) -> None:
    """Send a new term to all reachable nodes. The nodes that are in service now stay in service in it."""
    if here.database is None:
        _have_go_on(here, here.look_at_all(), None)
        return
    found = [one for one in in_service(here.cluster, here.look_at_all()) if one.node not in action.without]
    serving = {one.node for one in found}
    log.warning(f"pgpool-II serves with {', '.join(sorted(serving))}: the other nodes are rebuilt when they are back")
    _tell_service(here, serving, action.term, restart=min((one.restart or one.led for one in found), default=0))


def _have_go_on(here: Here, facts: ClusterFacts, gone: str | None) -> None:
    """Ask a node in service to begin the term. That node decides itself, because this one runs no PostgreSQL."""
    serving = [found.node for found in in_service(here.cluster, facts) if found.node != gone]
    if not serving:
        raise OperationError("no node in service is in sight that could begin a term", hint="pgpoolctl status")
    here.peers.ask(serving[0], GoOnRequest(gone), seconds=_GO_ON_SECONDS)


def _tell_service(here: Here, serving: set[str], term: int, *, restart: int, without: str = "") -> None:
    """Send a new term to all reachable nodes except `without`, and mark the nodes of `serving` as in service in it."""
    others = [name for name in here.peers.peers if name != without]
    news = TermRequest(term, here.cluster.fingerprint)
    request = replace(news, serves=True, restart=restart)
    noted = here.peers.ask_some([name for name in others if name in serving], request, seconds=LOOK_SECONDS)
    here.peers.ask_some([name for name in others if name not in serving], news, seconds=LOOK_SECONDS)
    here.note_term(term, **({"led": term, "restart": restart, "apart": False} if here.me.name in serving else {}))
    missing = serving - set(noted) - {here.me.name}
    if missing:
        names = ", ".join(sorted(missing))
        raise OperationError(f"{names} took no note of term {term}", hint="pgpoolctl status")


def give_up_place(here: Here, _: GiveUpPlace) -> None:
    """Record that this node must not serve again until it has been rebuilt."""
    here.remember(led=0, apart=False)


def stand_apart(here: Here, _: StandApart) -> None:
    """Record that clients may have written to this node alone, so that it has more data than the other nodes."""
    here.remember(apart=True)


def serve(here: Here, action: Serve) -> None:
    """Start this node's server as the only one in service. Nodes that crashed with it are rebuilt from it."""
    restart = here.record.restart or here.record.led
    with here.promotion:
        claim(here, action.term, restart=restart, apart=False)
        start(here, Start(action.node))


def rebuild(here: Here, _: Rebuild) -> None:
    """Start an online recovery of this node in a thread, unless it has rejoined since the facts were collected."""
    mine = here.look()
    served = mine.member and mine.writable and not mine.half_copied and mine.led >= mine.term
    if not served and here.copies.due and not here.recovering.locked() and not here.promoting:
        threading.Thread(target=_rebuild, args=(here,), daemon=True).start()


def _rebuild(here: Here) -> None:
    try:
        here.answer(RecoverRequest(here.me.name), log.info)
    except ClusterError as error:
        here.copies.failed(error)
        log.warning(f"rebuilding this node: {error.message}")
        time.sleep(_PAUSE)
    else:
        here.copies.end()


def follow(here: Here, action: Follow) -> None:
    """Point a standby at another primary and reload it."""
    if action.node != here.me.name:
        here.peers.ask(action.node, FollowRequest(action.primary), seconds=10)
        return
    text = pg.conninfo(here.cluster, here.me.name, action.primary)
    query(here, f"ALTER SYSTEM SET primary_conninfo = '{text}'")
    query(here, "SELECT pg_reload_conf()")


def create_slots(here: Here, action: CreateSlots) -> None:
    """Create replication slots, and recreate those that have lost their WAL."""
    for slot in action.slots:
        query(here, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                    "WHERE slot_name = %s AND NOT active", slot)  # fmt: skip
        query(here, "SELECT pg_create_physical_replication_slot(%s, true)", slot)


def start_pgpool(here: Here, _: StartPgpool) -> None:
    """Start pgpool-II, and permit it to run from now on. Raises OperationError if it does not start or answer."""
    state = units.state(paths.PGPOOL_UNIT)
    if state.active == "deactivating" or state.queued or state.restarts_with("pgpool2"):
        return  # while the unit stops, its cause is unknown, and dpkg restarts a unit that it has stopped
    if paths.SERVE.exists() and state.active == "inactive" and state.was_active and state.result == "success":
        raise OperationError("pgpool-II was stopped by an administrator", hint=f"systemctl start {paths.PGPOOL_UNIT}")
    if not paths.SERVE.exists():
        _start_first_pgpool(here)
        return
    port = pgpool.port(here.cluster)
    if state.active == "active" and state.seconds > _LISTENING and not pgpool.listens(port, anybody=True):
        units.control("restart", paths.PGPOOL_UNIT)  # another program had the port when pgpool-II started
        return
    if state.active == "active" and not pgpool.listens(port):
        hint = f"ss -ltnp 'sport = :{port}' shows whether another program has it; then systemctl restart pgpool2"
        raise OperationError(f"pgpool-II runs, but does not listen on port {port}", hint=hint)
    if state.active == "active" and state.seconds > _LISTENING:
        hint = "it asks every PostgreSQL, so one that hangs in a login holds it up; systemctl restart postgresql there"
        raise OperationError("pgpool-II runs, but pcp_node_info does not answer", hint=hint)
    if state.active not in ("active", "activating"):
        units.control("start", paths.PGPOOL_UNIT)
    reason = units.last_words(paths.PGPOOL_UNIT) if state.active != "active" else ""
    if state.active == "activating" and state.seconds > _DYING and "exiting pgpool-II" in reason:
        units.control("restart", paths.PGPOOL_UNIT)
    if reason:
        hint = f"journalctl -u {paths.PGPOOL_UNIT} has the rest"
        raise OperationError(f"pgpool-II does not start: {reason}", hint=hint)


def _start_first_pgpool(here: Here) -> None:
    """Start pgpool-II with the cluster's configuration; restart it if it ran before the cluster had a primary."""
    paths.SERVE.touch()
    if not here.cluster.mode.streams:
        pgpool.write_status(here.cluster, [found.node for found in in_service(here.cluster, here.look_at_all())])
    try:
        units.control("restart", paths.PGPOOL_UNIT)
    except ClusterError:
        paths.SERVE.unlink()
        raise


def attach(here: Here, action: Attach) -> None:
    """Attach a node to pgpool-II if the node accepts a login; otherwise raise OperationError.

    pgpool-II would wait without a time limit for a node that hangs.
    """
    node = here.cluster.named(action.node)
    if why := copying.refusal(node, Role.CHECK):  # a witness knows no other role
        hint = f"systemctl status postgresql on {node.name}; it is attached once it takes logins"
        raise OperationError(f"{node.name} refuses every login: {why}", hint=hint)
    pgpool.attach(here.cluster, node)


def detach(here: Here, action: Detach) -> None:
    """Detach a node from pgpool-II, which then sends no clients to it."""
    pgpool.detach(here.cluster, here.cluster.named(action.node))


def clone(here: Here, action: Clone) -> None:
    """Replace this node's data with a copy of the source."""
    _copied(here, lambda: copying.clone(here, action.source, log.info))


def rejoin(here: Here, action: Rejoin) -> None:
    """Make this node a standby again, and keep as much of its data as possible."""
    _copied(here, lambda: copying.rejoin(here, action.source, log.info))


def _copied(here: Here, work: Callable[[], None]) -> None:
    """Copy, unless copies keep failing for the same reason and the next one is not due; `status` reports this."""
    if not here.copies.due:
        return
    try:
        work()
    except ClusterError as error:
        here.copies.failed(error)
        raise


def set_role(here: Here, name: str, verifier: str | None) -> None:
    """Set the password of a login role, and create the role if it is missing. Without a verifier, forbid its login."""
    if name in set(Role) or name == "postgres":
        raise UsageError(f"{name} is a role of the cluster itself", hint="choose another name")
    there = bool(query(here, "SELECT 1 FROM pg_roles WHERE rolname = %s", name))
    quoted = '"' + name + '"'
    if verifier is None:
        if there:
            query(here, f"ALTER ROLE {quoted} NOLOGIN PASSWORD NULL")
        return
    if not re.fullmatch(r"SCRAM-SHA-256\$[0-9]+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+", verifier):
        raise OperationError("no SCRAM-SHA-256 verifier", hint="the nodes have different versions")
    if not there:
        query(here, f"CREATE ROLE {quoted}")
    query(here, f"ALTER ROLE {quoted} LOGIN PASSWORD '{verifier}'")
