"""Carry out what `decide` returns, one function per action. Each function may run again without harm."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, assert_never

from . import copying, paths, pgpool, rehearsal, replay, synchrony, units
from . import postgresql as pg
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
from .node import LOOK_SECONDS, Here, log, sql_errors
from .protocol import OF_AN_OLDER_PACKAGE, FollowRequest, GoOnRequest, PromoteRequest, RecoverRequest, TermRequest
from .roles import Roles
from .situation import in_service

_PROMOTE_SECONDS = 60
_RELOADED = 10.0
"""Seconds after which a server must have read its configuration again."""
_PAUSE = 3.0
"""Seconds before what failed is tried again."""
_LISTENING = 20.0
"""Seconds after which a pgpool-II that runs must listen, and answer pcp."""
_GO_ON_SECONDS = 10.0
"""Seconds in which a node in service has looked at all others and told them a term."""
_DYING = 5.0
"""Seconds after which a pgpool-II that gave up must be gone; 4.6.1 can hang then."""


def perform(here: Here, action: Action) -> None:
    """Carry out one action; does nothing for those that only name a reason. Raises ClusterError if it fails."""
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
    """Ask this node's server; raises OperationError."""
    return sql_errors(lambda: here.server.query(sql, values))


def found(here: Here, _: Found) -> None:
    """Make this node's data the cluster's: restarted once if its configuration needs it, with roles and extension."""
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
    """Tell whether this node's server reads the cluster's drop-in."""
    sql = "SELECT count(*) FROM pg_file_settings WHERE sourcefile LIKE %s"
    return bool(query(here, sql, "%/conf.d/pgpool2-cluster.conf")[0][0])


def restart_if_pending(here: Here) -> None:
    """Restart this node's server if it runs without a parameter that the cluster needs."""
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
        log(f"restarting PostgreSQL {database.instance.name} once, for {names}")
        here.starting = True
        try:
            units.control("restart", database.instance.unit)
        finally:
            here.starting = False
        database.close()
        pg.start(database)


_SLOTS = "SELECT slot_name::text, slot_type = 'logical' FROM pg_replication_slots"


def _refuse_restart(here: Here, names: str) -> None:
    """Raise OperationError where the server would not start again: it serves as it is."""
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
    """Start this node's server as the primary that it was, in a new term."""
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
    """Make this node the one of a new term; raises OperationError where no majority takes note: another one may be.

    What former primaries said of their standbys is void then, but for `kept`, the names that this one has excused
    itself. `decided`: the place of the excuse that the claim rests on; it comes to nothing where a later one is known.
    `changes` of the record are written together with the claim.
    """
    told = tell(here, term)
    if len(told) < here.cluster.majority:
        few = f"only {', '.join(told)} took note of term {term}"
        raise OperationError(few if told else f"term {term} is another node's already", hint="pgpoolctl status")
    if here.cluster.synchronous:
        # From here on no majority takes an excuse of an earlier term any more.
        if decided is not None and max(told.values()) > decided:
            raise OperationError("the primary has spoken again since this was decided", hint="it is decided anew")
        older = [name for name, place in told.items() if place == OF_AN_OLDER_PACKAGE]
        if len(older) + len(synchrony.announce(here, Excuse(term, 0, kept))) < here.cluster.majority:
            raise OperationError(f"too few nodes took note that term {term} begins", hint="pgpoolctl status")
    here.remember(led=term, **changes)
    log(f"this node is the primary of term {term}, known to {', '.join(told)}")


def stop(here: Here, _: Stop) -> None:
    """Stop this node's server."""
    pg.stop(here.server)


def promote(here: Here, action: Promote) -> None:
    """Let a standby become the primary: it does so itself, whoever asks, so that two who ask do it once."""
    if action.node == here.me.name:
        become_primary(here, action.term, action.excuse)
    else:
        request = PromoteRequest(action.term, action.excuse)
        here.peers.ask(action.node, request, seconds=_PROMOTE_SECONDS + 5)


def tell(here: Here, term: int) -> dict[str, tuple[int, int]]:
    """Tell a new term to every node and return those, this one included, that have taken note and known none later.

    With each, the place of the latest excuse that it knows, or OF_AN_OLDER_PACKAGE.
    """
    if not here.note_term(term):
        return {}
    answers = here.peers.ask_all(TermRequest(term, here.cluster.fingerprint), seconds=LOOK_SECONDS)
    places = {name: answer.excuse for name, answer in answers.items() if answer.taken}
    return {here.me.name: here.record.excuse.place, **places}


def become_primary(here: Here, term: int, decided: tuple[int, int] | None = None) -> None:
    """Claim the term, then end recovery on this node; nothing if it is over. Raises OperationError.

    `decided`: the place of the excuse that this rests on; None for an administrator's word.
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
    """Raise OperationError where a promotion would end this node's server: it cannot replay all that it has."""
    mine = here.look()
    if mine.needs:
        raise OperationError(f"it cannot be promoted: {replay.too_low(mine)}", hint=replay.hint(mine))


def end_recovery(here: Here) -> None:
    """Promote this node's standby, whose term it is, and wait until it takes writes; raises OperationError."""
    query(here, "SELECT pg_promote(false)")
    _await_writable(here)


def _await_writable(here: Here) -> None:
    deadline = time.monotonic() + _PROMOTE_SECONDS
    while query(here, "SELECT pg_is_in_recovery()")[0][0]:
        if time.monotonic() > deadline:
            raise OperationError("PostgreSQL did not end its recovery", hint="its log (pg_lsclusters names it) has why")
        time.sleep(0.05)


def lead(here: Here, action: Lead) -> None:
    """Have a majority note that this node, a primary already, is the one of a new term; raises OperationError."""
    claim(here, action.term, kept=synchrony.kept(here.record))


def dismiss(here: Here, action: Dismiss) -> None:
    """Tell a new term to all nodes in reach, the dismissed one included: those in service but that are in it."""
    facts = here.look_at_all()
    if here.database is None:
        _have_go_on(here, facts, action.node)
        return
    serving = {found.node for found in in_service(here.cluster, facts)} - {action.node}
    log(f"{action.node} is out of service; in service: {', '.join(sorted(serving))}")
    gone = "" if facts.of(action.node).reachable else action.node
    _tell_service(here, serving, action.term, restart=0, without=gone)


def begin(here: Here, action: Begin) -> None:
    """Tell a new term to all nodes in reach: the nodes that are in service now are in service in it."""
    if here.database is None:
        _have_go_on(here, here.look_at_all(), None)
        return
    found = [one for one in in_service(here.cluster, here.look_at_all()) if one.node not in action.without]
    serving = {one.node for one in found}
    log(f"pgpool-II serves with {', '.join(sorted(serving))}: the other nodes are rebuilt when they are back")
    _tell_service(here, serving, action.term, restart=min((one.restart or one.led for one in found), default=0))


def _have_go_on(here: Here, facts: ClusterFacts, gone: str | None) -> None:
    """From a node without PostgreSQL: have one in service begin the term, by its own decision."""
    serving = [found.node for found in in_service(here.cluster, facts) if found.node != gone]
    if not serving:
        raise OperationError("no node in service is in sight that could begin a term", hint="pgpoolctl status")
    here.peers.ask(serving[0], GoOnRequest(gone), seconds=_GO_ON_SECONDS)


def _tell_service(here: Here, serving: set[str], term: int, *, restart: int, without: str = "") -> None:
    """Tell all nodes in reach but `without` a new term, and those in service that they are in service in it."""
    others = [name for name in here.peers.peers if name != without]
    news = TermRequest(term, here.cluster.fingerprint)
    request = replace(news, serves=True, restart=restart)
    told = here.peers.ask_some([name for name in others if name in serving], request, seconds=LOOK_SECONDS)
    here.peers.ask_some([name for name in others if name not in serving], news, seconds=LOOK_SECONDS)
    here.note_term(term, **({"led": term, "restart": restart, "apart": False} if here.me.name in serving else {}))
    missing = serving - set(told) - {here.me.name}
    if missing:
        names = ", ".join(sorted(missing))
        raise OperationError(f"{names} took no note of term {term}", hint="pgpoolctl status")


def give_up_place(here: Here, _: GiveUpPlace) -> None:
    """Remember that this node's data is not to serve again before it has been rebuilt."""
    here.remember(led=0, apart=False)


def stand_apart(here: Here, _: StandApart) -> None:
    """Remember that clients may have written here alone: of the nodes in service, this one has more than the others."""
    here.remember(apart=True)


def serve(here: Here, action: Serve) -> None:
    """Start this node's server as the only one in service; the nodes that crashed with it are rebuilt from it."""
    restart = here.record.restart or here.record.led
    with here.promotion:
        claim(here, action.term, restart=restart, apart=False)
        start(here, Start(action.node))


def rebuild(here: Here, _: Rebuild) -> None:
    """Have pgpool-II rebuild this node, beside everything else; not one that has come into service since the look."""
    mine = here.look()
    served = mine.member and mine.writable and not mine.half_copied and mine.led >= mine.term
    if not served and here.copies.due and not here.recovering.locked() and not here.promoting:
        threading.Thread(target=_rebuild, args=(here,), daemon=True).start()


def _rebuild(here: Here) -> None:
    try:
        here.answer(RecoverRequest(here.me.name), log)
    except ClusterError as error:
        here.copies.failed(error)
        log(f"rebuilding this node: {error.message}")
        time.sleep(_PAUSE)
    else:
        here.copies.end()


def follow(here: Here, action: Follow) -> None:
    """Let a standby receive from another primary, by reload."""
    if action.node != here.me.name:
        here.peers.ask(action.node, FollowRequest(action.primary), seconds=10)
        return
    text = pg.conninfo(here.cluster, here.me.name, action.primary)
    query(here, f"ALTER SYSTEM SET primary_conninfo = '{text}'")
    query(here, "SELECT pg_reload_conf()")


def create_slots(here: Here, action: CreateSlots) -> None:
    """Create slots, those that have lost their WAL anew."""
    for slot in action.slots:
        query(here, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                    "WHERE slot_name = %s AND NOT active", slot)  # fmt: skip
        query(here, "SELECT pg_create_physical_replication_slot(%s, true)", slot)


def start_pgpool(here: Here, _: StartPgpool) -> None:
    """Start pgpool-II, which may run from now on."""
    state = units.state(paths.PGPOOL_UNIT)
    if state.active == "deactivating" or state.queued or state.restarts_with("pgpool2"):
        return  # whether an administrator wants it so is known when it has ended; dpkg starts what it has stopped
    if paths.SERVE.exists() and state.active == "inactive" and state.was_active and state.result == "success":
        raise OperationError("pgpool-II was stopped by an administrator", hint=f"systemctl start {paths.PGPOOL_UNIT}")
    if not paths.SERVE.exists():
        _start_first_pgpool(here)
        return
    port = pgpool.port(here.cluster)
    if state.active == "active" and state.seconds > _LISTENING and not pgpool.listens(port, anybody=True):
        units.control("restart", paths.PGPOOL_UNIT)  # the port was another program's when it started
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
    """Start pgpool-II with the cluster's configuration: again, where it ran before there was a primary."""
    paths.SERVE.touch()
    if not here.cluster.mode.streams:
        pgpool.write_status(here.cluster, [found.node for found in in_service(here.cluster, here.look_at_all())])
    try:
        units.control("restart", paths.PGPOOL_UNIT)
    except ClusterError:
        paths.SERVE.unlink()
        raise


def attach(here: Here, action: Attach) -> None:
    """Let pgpool-II send clients to a node that lets one in: it would wait for ever for one that falls silent."""
    node = here.cluster.named(action.node)
    if why := copying.refusal(node, Role.CHECK):  # also where no other role is known: on a witness
        hint = f"systemctl status postgresql on {node.name}; it is attached once it takes logins"
        raise OperationError(f"{node.name} lets nobody log in: {why}", hint=hint)
    pgpool.attach(here.cluster, node)


def detach(here: Here, action: Detach) -> None:
    """Keep clients off a node."""
    pgpool.detach(here.cluster, here.cluster.named(action.node))


def clone(here: Here, action: Clone) -> None:
    """Replace this node's data by a copy."""
    _copied(here, lambda: copying.clone(here, action.source, log))


def rejoin(here: Here, action: Rejoin) -> None:
    """Bring this node back as a standby, keeping as much of its data as can be."""
    _copied(here, lambda: copying.rejoin(here, action.source, log))


def _copied(here: Here, work: Callable[[], None]) -> None:
    """Copy, unless that has failed for the same reason over and over and is not due yet: `status` tells it."""
    if not here.copies.due:
        return
    try:
        work()
    except ClusterError as error:
        here.copies.failed(error)
        raise


def set_role(here: Here, name: str, verifier: str | None) -> None:
    """Give a role that can log in another password, made where it is missing; without one it can log in no longer."""
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
