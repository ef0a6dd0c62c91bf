"""End what this node acknowledges to a former primary, before it answers that it knows a later term.

With `synchronous: n`, a primary acknowledges a commit once n standbys have it. A standby that receives nothing from it
any more takes its acknowledgement away for good. Once so many have done so that fewer than n are left, the former
primary acknowledges nothing, whether it knows that or not. So a promotion waits for no lease
(docs/explanation/failover.md).
"""

from __future__ import annotations

from ...decision.facts.facts import NodeFacts, Postgresql
from ...ground import log
from ...ground.errors import ClusterError, OperationError
from ...ground.waiting import poll
from ...node.node import Here
from ...postgresql import postmaster

_CUT_SECONDS = 1.0
_CUT_PAUSE_SECONDS = 0.01
_NO_UPSTREAM = "ALTER SYSTEM SET primary_conninfo = ''"
_RECEIVERS = """
SELECT current_setting('primary_conninfo') = '',
       (SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'walreceiver')
"""


def cut_off(here: Here) -> NodeFacts:
    """Let this standby receive nothing from its primary any more, and return its facts after that.

    The change survives a crash: the standby receives again only once it follows another primary. Raises OperationError
    if its walreceiver does not end within 1 s.
    """
    here.query(_NO_UPSTREAM)
    here.query("SELECT pg_reload_conf()")
    # The startup process may begin a walreceiver until it has reloaded, hence two queries in a row without one.
    quiet = [0]

    def ended() -> bool:
        loaded, receivers = here.query(_RECEIVERS)[0]
        quiet[0] = quiet[0] + 1 if loaded and not receivers else 0
        return quiet[0] > 1

    if not poll(ended, seconds=_CUT_SECONDS, pause=_CUT_PAUSE_SECONDS):
        raise OperationError("its walreceiver does not end", hint="pgpoolctl status; systemctl restart postgresql")
    here.forget_looks()
    return here.look()


def give_up(here: Here) -> NodeFacts | None:
    """Let this node acknowledge nothing to a former primary or as one; return its facts, or None if that failed.

    A standby is cut off, and a server that takes writes is killed. A standby that is down or hangs may receive again
    later, so it gives up nothing; a former primary that is down starts only in a term of its own. A node that is
    becoming a primary gives up nothing either: its server may be about to start in the term that it has claimed.
    """
    if here.database is None:
        return None
    given_up = _give_up(here, here.look())
    return None if here.under_way.promoting else given_up


def _give_up(here: Here, mine: NodeFacts) -> NodeFacts | None:
    if mine.standby:
        return _cut(here)
    if mine.standby_signal:
        return None
    if postmaster.runs(here.server.instance):
        log.warning("a later term begins, so this node's PostgreSQL is killed: it must not accept writes")
        if not postmaster.kill(here.server.instance):
            return None
        here.forget_looks()
        return here.look()
    # systemd may start the server with a permission from before, and its main process does not exist yet.
    here.forget_looks()
    mine = here.look()
    return None if mine.postgresql is Postgresql.STARTING else mine


def _cut(here: Here) -> NodeFacts | None:
    try:
        return cut_off(here)
    except ClusterError as error:
        log.warning(f"this standby cannot leave its primary: {error.message}")
        return None
