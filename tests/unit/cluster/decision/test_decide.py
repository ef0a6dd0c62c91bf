"""The decisions of each node in a situation, and the reasons for a delay."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import (
    ALL_UP,
    CLUSTER,
    NAMES,
    OTHER_SYSTEM,
    Situation,
    absent,
    away,
    crashed,
    down,
    fresh,
    healthy,
    kinds,
    make_cluster,
    orphaned,
    pgpool,
    primary,
    seen,
    standby,
    unwatched,
)

from pgpool_cluster.decision.actions import (
    Attach,
    AwaitRecovery,
    Clone,
    Detach,
    Dismiss,
    Promote,
    Redirect,
    Refuse,
    Rejoin,
    Wait,
    said,
)
from pgpool_cluster.decision.decide import confirmed, decide
from pgpool_cluster.decision.facts.facts import Lsn, NodeFacts, Origin, PgpoolFacts, Postgresql, Switch, WatchdogState
from pgpool_cluster.decision.fencing import FENCE_SECONDS
from pgpool_cluster.decision.situation import Actions, Policy, given_up

FAILED_OVER = (
    replace(primary("pg2", term=2, timeline=2, at=1500), pgpool=pgpool("pg1", primary="pg2")),
    standby("pg3", "pg2", term=2, timeline=2, at=1500),
)

LOST_PG1 = frozenset({"pg1"})


def primary_with(view: PgpoolFacts) -> NodeFacts:
    """pg1, the primary of a healthy cluster, with this view of its pgpool-II."""
    return replace(healthy()[0], pgpool=view)


BY_ITSELF = Policy(automatic_return=True)
SITUATIONS = [
    Situation("a healthy cluster needs nothing", healthy(), {"pg1": [], "pg2": [], "pg3": []}),
    # First install
    Situation(
        "three new servers: the first keeps what it has, the others wait for it",
        (fresh("pg1"), fresh("pg2"), fresh("pg3")),
        {"pg1": ["Found"], "pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "the first server founds the cluster with its databases",
        (fresh("pg1", "app"), fresh("pg2"), away("pg3")),
        {"pg1": ["Found"]},
    ),
    Situation("a first server that sees no other node waits", (fresh("pg1"),), {"pg1": ["Wait"]}),
    Situation(
        "empty servers are cloned once there is a primary",
        (primary("pg1"), fresh("pg2"), absent("pg3")),
        {"pg2": ["Clone", "StartPgpool"], "pg3": ["Clone", "StartPgpool"]},
    ),
    Situation(
        "a server with databases of its own is not wiped",
        (primary("pg1"), fresh("pg2", "precious"), away("pg3")),
        {"pg2": ["Refuse", "StartPgpool"]},
    ),
    Situation(
        "a database of the same name elsewhere does not make it the same",
        (primary("pg1"), fresh("pg2", "app"), away("pg3")),
        {"pg2": ["Refuse", "StartPgpool"]},
    ),
    Situation(
        "it refuses before there is a cluster, too",
        (fresh("pg1"), fresh("pg2", "precious"), away("pg3")),
        {"pg2": ["Refuse"]},
    ),
    Situation(
        "a server whose contents are unknown is started, not cloned",
        (primary("pg1"), replace(fresh("pg2"), databases=None, postgresql=Postgresql.DOWN)),
        {"pg2": ["Start", "StartPgpool"]},
    ),
    Situation(
        "a reinstalled first server joins the existing cluster",
        (fresh("pg1"), primary("pg2", term=2, timeline=2), standby("pg3", "pg2", term=2, timeline=2)),
        {"pg1": ["Clone", "StartPgpool"]},
    ),
    Situation(
        "an incomplete copy is finished",
        (primary("pg1"), NodeFacts("pg2", half_copied=True)),
        {"pg2": ["Clone", "StartPgpool"]},
    ),
    # Boot
    Situation(
        "after a power loss the primary starts again once a majority is in sight",
        (down(primary("pg1")), down(standby("pg2", "pg1")), away("pg3")),
        {"pg1": ["Resume"], "pg2": ["Start"]},
    ),
    Situation(
        "a term that no node leads keeps no node out if all are in sight",
        (down(primary("pg1", term=2, led=1)), down(standby("pg2", "pg1", term=2)), down(standby("pg3", "pg1"))),
        {"pg1": ["Resume"]},
    ),
    Situation(
        "a later term that a node out of sight may lead keeps the former primary out",
        (down(primary("pg1", term=2, led=1)), down(standby("pg2", "pg1", term=2)), away("pg3")),
        {"pg1": ["AwaitRecovery"]},
    ),
    Situation(
        "a former primary that boots during the promotion of a standby waits for its end",
        (down(primary("pg1")), replace(orphaned(standby("pg2", "pg1")), promoting=True), standby("pg3", "pg1")),
        {"pg1": ["Wait"]},
    ),
    Situation("a primary that sees no other node waits", (down(primary("pg1")),), {"pg1": ["Wait"]}),
    Situation(
        "standbys wait while the primary's host is still booting",
        (away("pg1"), orphaned(standby("pg2", "pg1")), orphaned(standby("pg3", "pg1"))),
        {"pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "all nodes down in pgpool-II after a restart: healthy ones are attached",
        tuple(replace(node, pgpool=pgpool(*NAMES, leader=node.node == "pg1")) for node in healthy()),
        {"pg1": ["Attach", "Attach", "Attach"], "pg2": []},
    ),
    Situation(
        "pgpool-II is started once a server runs",
        (replace(primary("pg1"), pgpool=None), down(standby("pg2", "pg1"))),
        {"pg1": ["StartPgpool"], "pg2": ["Start", "StartPgpool"]},
    ),
    Situation(
        "an administrator's stop is respected",
        (replace(primary("pg1"), postgresql=Postgresql.STOPPED), *healthy()[1:]),
        {"pg1": ["Wait"]},
    ),
    # Trap 2: Debian starts PostgreSQL at boot, which would make the old primary writable again
    Situation(
        "trap 2: a former primary stays down while its successor serves",
        (down(primary("pg1", at=1400)), *FAILED_OVER),
        {"pg1": ["AwaitRecovery", "StartPgpool"], "pg2": [], "pg3": []},
    ),
    Situation(
        "trap 2: it stops if it was started nevertheless, and is detached if pgpool-II considers it up",
        (
            primary("pg1", at=1400),
            replace(FAILED_OVER[0], pgpool=pgpool(primary="pg2")),
            FAILED_OVER[1],
        ),
        {"pg1": ["Stop"], "pg2": ["Detach"], "pg3": []},
    ),
    Situation(
        "trap 2: it stays down even if its successor is out of sight",
        (down(primary("pg1", term=1, at=1400)), away("pg2"), orphaned(FAILED_OVER[1])),
        {"pg1": ["AwaitRecovery"]},
    ),
    Situation(
        "trap 2: it stops even if only a sibling knows of the promotion",
        (primary("pg1"), away("pg2"), orphaned(standby("pg3", "pg1", term=2))),
        {"pg1": ["Stop"]},
    ),
    Situation(
        "trap 2: it stays down if a sibling has recorded the promotion's term but not followed yet",
        (down(primary("pg1")), away("pg2"), orphaned(standby("pg3", "pg1", term=2))),
        {"pg1": ["AwaitRecovery"]},
    ),
    Situation(
        "a primary whose disk was reset to an older state does not overrule a standby with more WAL",
        (down(primary("pg1", at=900)), orphaned(standby("pg2", "pg1", at=1000)), away("pg3")),
        {"pg1": ["AwaitRecovery"]},
    ),
    Situation(
        "a primary that returns during a failover waits for its end",
        (down(primary("pg1")), replace(orphaned(standby("pg2", "pg1")), promoting=True), away("pg3")),
        {"pg1": ["Wait"]},
    ),
    # Trap 3: a planned restart
    Situation(
        "trap 3: while the primary restarts, standbys wait although pgpool-II gave it up",
        (
            replace(down(primary("pg1")), postgresql=Postgresql.STARTING),
            replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1")),
            orphaned(standby("pg3", "pg1")),
        ),
        {"pg1": ["Wait"], "pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "trap 3: a primary that pgpool-II gave up during its restart is attached again",
        (primary("pg1"), replace(standby("pg2", "pg1"), pgpool=pgpool("pg1")), standby("pg3", "pg1")),
        {"pg1": [], "pg2": ["Attach"], "pg3": []},
    ),
    # Trap 4: pgpool_status is lost while two primaries are writable
    Situation(
        "trap 4: with pgpool_status lost, the stale node is detached although its id is lower and pgpool-II chose it",
        (
            replace(primary("pg1", at=9000), pgpool=pgpool(primary="pg1")),
            replace(FAILED_OVER[0], pgpool=pgpool(leader=False)),
            FAILED_OVER[1],
        ),
        {"pg1": ["Stop", "Detach"], "pg2": [], "pg3": []},
    ),
    # After a failover
    Situation(
        "siblings that still follow the dead primary follow the new one",
        (away("pg1"), FAILED_OVER[0], orphaned(standby("pg3", "pg1", at=900))),
        {"pg3": ["Follow"]},
    ),
    Situation(
        "a sibling that is ahead of the new primary has diverged",
        (
            away("pg1"),
            replace(FAILED_OVER[0], pgpool=pgpool("pg1")),
            orphaned(standby("pg3", "pg1", at=1200)),
        ),
        {"pg2": ["Detach"], "pg3": ["AwaitRecovery"]},
    ),
    Situation(
        "after a failed failover the most advanced standby promotes itself",
        (
            away("pg1"),
            replace(orphaned(standby("pg2", "pg1", at=900)), pgpool=pgpool("pg1")),
            orphaned(standby("pg3", "pg1", at=1000)),
        ),
        {"pg2": ["Wait"], "pg3": ["Promote"]},
    ),
    Situation(
        "without a quorum of pgpool-IIs no standby is promoted",
        (
            away("pg1"),
            replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1", quorum=False)),
            orphaned(standby("pg3", "pg1")),
        ),
        {"pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "a new primary gets the slots that its standbys need",
        (away("pg1"), replace(FAILED_OVER[0], slots=frozenset({"pg3"})), FAILED_OVER[1]),
        {"pg2": ["CreateSlots"]},
    ),
    Situation(
        "a promotion by hand is recognised",
        (
            away("pg1"),
            primary("pg2", term=1, led=0, timeline=2),
            replace(standby("pg3", "pg2", timeline=1), pgpool=pgpool("pg1")),
        ),
        {"pg2": ["Lead"]},
    ),
    Situation(
        "D7: a promotion by hand is not recognised by an isolated node that sees no leading pgpool-II",
        (replace(primary("pg2", term=1, led=0, timeline=2), pgpool=pgpool("pg1", "pg3", quorum=False)),),
        {"pg2": ["Wait"]},
    ),
    Situation(
        "a promotion by hand is not recognised while the primary is briefly out of sight",
        (
            away("pg1"),
            replace(primary("pg2", term=1, led=0, timeline=2), pgpool=pgpool()),
            standby("pg3", "pg1"),
        ),
        {"pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "a server that was promoted by hand stops when the primary is in sight again",
        (primary("pg1"), primary("pg2", term=1, led=0, timeline=2), standby("pg3", "pg1")),
        {"pg2": ["Stop"]},
    ),
    Situation(
        "a promotion by hand is recognised once a quorum has given the primary up",
        (
            away("pg1"),
            replace(primary("pg2", term=1, led=0, timeline=2), pgpool=pgpool("pg1")),
            orphaned(standby("pg3", "pg1")),
        ),
        {"pg2": ["Lead"], "pg3": ["Follow"]},
    ),
    Situation(
        "a primary that was replaced was not promoted by hand, although its successor is lost",
        (
            replace(primary("pg1", term=1, timeline=2), pgpool=pgpool("pg3"), origins=(Origin(2, 1),)),
            orphaned(standby("pg2", "pg3", term=2)),
            away("pg3"),
        ),
        {"pg1": ["Stop"], "pg2": ["Wait"]},
    ),
    Situation(
        "a former primary that became a standby was promoted by hand, because it is on a new timeline",
        (
            away("pg1"),
            replace(
                primary("pg2", term=3, led=2, timeline=4),
                pgpool=pgpool("pg1"),
                history=(Switch(3, Lsn(1000)),),
                origins=(Origin(2, 2), Origin(3, 3)),
            ),
            orphaned(standby("pg3", "pg1", term=3, timeline=3)),
        ),
        {"pg2": ["Lead"]},
    ),
    # pgpool-II without a watchdog: each agent informs its own
    Situation(
        "after a promotion, pgpool-II learns the new primary before all else, but must have attached it",
        (
            away("pg1"),
            replace(FAILED_OVER[0], pgpool=unwatched(), silent=LOST_PG1),
            replace(FAILED_OVER[1], pgpool=unwatched("pg2", primary="pg1"), silent=LOST_PG1),
        ),
        {"pg2": ["Redirect"], "pg3": ["Detach", "Attach"]},
    ),
    Situation(
        "pgpool-II learns the primary although a standby must be attached as well",
        (primary_with(unwatched("pg2", primary="pg3")), *healthy()[1:]),
        {"pg1": ["Redirect"], "pg2": [], "pg3": []},
    ),
    Situation(
        "a new primary that pgpool-II has detached is attached first",
        (primary_with(unwatched("pg1", primary=None)), *healthy()[1:]),
        {"pg1": ["Attach"]},
    ),
    Situation(
        "a pgpool-II that has found no primary learns it",
        (primary_with(unwatched(primary=None)), *healthy()[1:]),
        {"pg1": ["Redirect"]},
    ),
    Situation(
        "a pgpool-II of an older package, which leads its watchdog, searches by itself",
        (primary_with(pgpool(primary="pg3")), *healthy()[1:]),
        {"pg1": []},
    ),
    Situation(
        "without a primary in sight, pgpool-II learns nothing",
        (away("pg1"), *(replace(orphaned(one), pgpool=unwatched("pg3")) for one in healthy()[1:])),
        {"pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "the pgpool-II of a standby is informed while its own server is down",
        (healthy()[0], replace(down(standby("pg2", "pg1")), pgpool=unwatched(primary="pg3")), healthy()[2]),
        {"pg2": ["Redirect", "Start"]},
    ),
    Situation(
        "a pgpool-II without contact to a majority is stopped, not redirected",
        (primary_with(unwatched(primary="pg3")), away("pg2"), away("pg3")),
        {"pg1": ["Fence", "StopPgpool"]},
        policy=Policy(alone_seconds=FENCE_SECONDS),
    ),
    Situation(
        "a node that an administrator detached is detached everywhere, also from a pgpool-II that was away",
        (healthy()[0], healthy()[1], replace(healthy()[2], held=True)),
        {"pg1": ["Detach"], "pg2": ["Detach"], "pg3": ["Detach"]},
    ),
    Situation(
        "a held node stays detached",
        tuple(replace(one, pgpool=unwatched("pg3"), held=one.node == "pg3") for one in healthy()),
        {"pg1": [], "pg2": [], "pg3": []},
    ),
    Situation(
        "the primary serves although it is held, because it receives all writes",
        (replace(healthy()[0], held=True), *healthy()[1:]),
        {"pg1": [], "pg2": [], "pg3": []},
    ),
    # One node
    Situation(
        "a cluster of one founds and starts itself",
        (fresh("pg1"),),
        {"pg1": ["Found"]},
        make_cluster(count=1, synchronous=0),
    ),
    Situation(
        "a cluster of one boots", (down(primary("pg1")),), {"pg1": ["Resume"]}, make_cluster(count=1, synchronous=0)
    ),
]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.story)
def test_each_node_does_what_its_situation_requires(situation: Situation) -> None:
    assert situation.done == situation.wanted


def test_a_refusal_names_the_databases_and_a_way_out() -> None:
    [refusal, *_] = decide(CLUSTER, CLUSTER.named("pg2"), seen(primary("pg1"), fresh("pg2", "crm", "wiki")))
    assert isinstance(refusal, Refuse)
    assert "crm, wiki" in refusal.reason
    assert "pg_dump" in refusal.hint


def test_a_former_primary_that_was_stopped_in_order_comes_back_as_a_standby() -> None:
    [back, *_] = decide(CLUSTER, CLUSTER.named("pg1"), seen(down(primary("pg1")), *FAILED_OVER))
    assert back == Rejoin("pg1", "pg2")


def test_pgpool_learns_of_the_primary_before_its_node_copies_data() -> None:
    """No other agent redirects it during the copy."""
    alone = PgpoolFacts(WatchdogState.ALONE, quorum=True, backends=dict(ALL_UP), primary="pg1")
    mine = replace(down(primary("pg1")), pgpool=alone)
    actions = decide(CLUSTER, CLUSTER.named("pg1"), seen(mine, *FAILED_OVER))
    assert actions == (Redirect("pg1", "pg2"), Rejoin("pg1", "pg2"))


def test_pgpool_detaches_a_lost_node_before_its_own_node_copies_data() -> None:
    alone = PgpoolFacts(WatchdogState.ALONE, quorum=True, backends=dict(ALL_UP), primary="pg2")
    mine, new, other = replace(down(primary("pg1")), pgpool=alone), FAILED_OVER[0], down(FAILED_OVER[1])
    actions = decide(CLUSTER, CLUSTER.named("pg1"), seen(mine, new, other))
    assert kinds(actions) == ["Detach", "Detach", "Rejoin"]


def test_waiting_for_recovery_names_the_command() -> None:
    crashed = replace(down(primary("pg1")), position=None)
    [waiting, *_] = decide(CLUSTER, CLUSTER.named("pg1"), seen(crashed, *FAILED_OVER))
    assert isinstance(waiting, AwaitRecovery)
    assert waiting.hint == "pgpoolctl recover pg1"


def test_without_a_serving_node_the_hint_names_a_command_that_works() -> None:
    """`pgpoolctl recover` needs a primary, but the one that may have taken its place can be gone permanently."""
    nodes = (down(primary("pg1", term=2, led=1)), down(standby("pg2", "pg1", term=2)), away("pg3"))
    [waiting, *_] = decide(CLUSTER, CLUSTER.named("pg1"), seen(*nodes))
    assert isinstance(waiting, AwaitRecovery)
    assert "switchover --accept-loss pg1" in waiting.hint


def test_without_a_serving_node_a_node_that_returns_by_itself_says_so() -> None:
    nodes = (down(primary("pg1", term=2, led=1)), down(standby("pg2", "pg1", term=2)), away("pg3"))
    [waiting, *_] = decide(CLUSTER, CLUSTER.named("pg1"), seen(*nodes), BY_ITSELF)
    assert said(waiting) == (
        "waits: a later primary was promoted while it was away; hint: the node rejoins by itself, when the node "
        "promoted in its place is back; if that node is lost for good, pgpoolctl switchover --accept-loss pg1"
    )


LOST = crashed(primary("pg1"))
"""A former primary whose last WAL is unknown."""
AHEAD = down(standby("pg1", "pg3", at=1400))
"""A standby that has received WAL which was lost with its primary."""


@pytest.mark.parametrize("mine", [LOST, AHEAD, replace(orphaned(standby("pg1", "pg3", at=1400)), pgpool=None)])
def test_a_node_with_diverged_data_returns_by_itself_where_the_policy_allows_it(mine: NodeFacts) -> None:
    facts = seen(mine, *FAILED_OVER)
    assert decide(CLUSTER, CLUSTER.named("pg1"), facts, BY_ITSELF)[0] == Rejoin("pg1", "pg2")
    assert isinstance(decide(CLUSTER, CLUSTER.named("pg1"), facts)[0], AwaitRecovery)


@pytest.mark.parametrize(
    ("mine", "others", "wanted", "reason"),
    [
        pytest.param(replace(LOST, postgresql=Postgresql.STOPPED), FAILED_OVER, Wait, "an administrator stopped",
                     id="an administrator stopped it"),
        pytest.param(replace(LOST, held=True), FAILED_OVER, AwaitRecovery, "an administrator detached it", id="held"),
        pytest.param(replace(LOST, system=OTHER_SYSTEM), FAILED_OVER, AwaitRecovery, "not known to be of the same",
                     id="another system identifier"),
        pytest.param(replace(LOST, system=None), FAILED_OVER, AwaitRecovery, "not known to be of the same",
                     id="an unreadable control file"),
        pytest.param(LOST, (replace(FAILED_OVER[0], loss=2), FAILED_OVER[1]), AwaitRecovery,
                     "accepted the loss of commits in term 2", id="its commits were given up"),
        pytest.param(LOST, (FAILED_OVER[0], replace(FAILED_OVER[1], loss=2)), AwaitRecovery,
                     "accepted the loss of commits in term 2", id="the same, recorded elsewhere"),
        pytest.param(replace(orphaned(standby("pg1", "pg3", at=1400)), pgpool=None),
                     (replace(FAILED_OVER[0], pgpool=pgpool()), FAILED_OVER[1]), Wait, "pgpool-II has not detached it",
                     id="sessions on it end by a detachment"),
        pytest.param(LOST, (FAILED_OVER[0], away("pg3")), Rejoin, "", id="a majority is enough"),
        pytest.param(LOST, (replace(FAILED_OVER[0], file="other"), away("pg3")), Wait, "too few nodes answer",
                     id="no majority: another cluster.yml"),
        pytest.param(LOST, (FAILED_OVER[0], NodeFacts("pg3", term=3)), Wait, "too few nodes answer to confirm",
                     id="a node outside the cluster knows a later term"),
        pytest.param(replace(LOST, half_copied=True), FAILED_OVER, Clone, "", id="an incomplete copy"),
        pytest.param(NodeFacts("pg1", postgresql=Postgresql.ABSENT, member=True, term=1, led=1), FAILED_OVER,
                     AwaitRecovery, "its data directory is missing", id="no data: perhaps a disk is not mounted"),
    ],
)  # fmt: skip
def test_only_a_confirmed_primary_and_no_administrator_let_a_node_return(
    mine: NodeFacts, others: tuple[NodeFacts, ...], wanted: type[object], reason: str
) -> None:
    [first, *_] = decide(CLUSTER, CLUSTER.named("pg1"), seen(mine, *others), BY_ITSELF)
    assert isinstance(first, wanted)
    assert reason in said(first)


def test_a_primary_that_led_after_an_accepted_loss_returns_by_itself() -> None:
    facts = seen(
        replace(LOST, led=2, term=2, loss=2), *(replace(one, term=3, led=one.led and 3) for one in FAILED_OVER)
    )
    assert decide(CLUSTER, CLUSTER.named("pg1"), facts, BY_ITSELF)[0] == Rejoin("pg1", "pg2")


def test_a_primary_whose_agent_is_restarted_keeps_its_place_although_pgpool_gave_it_up() -> None:
    """At the end of an upgrade, pgpool-II may still be searching for the primary that it has given up."""
    facts = seen(away("pg1"), replace(standby("pg2", "pg1", at=1001), pgpool=pgpool("pg1")), standby("pg3", "pg1"))
    pg2 = CLUSTER.named("pg2")
    assert isinstance(decide(CLUSTER, pg2, facts)[0], Promote)
    (waits,) = decide(CLUSTER, pg2, facts, Policy(lately=frozenset({"pg1"})))
    assert isinstance(waits, Wait)


def test_the_stale_node_is_detached_and_not_the_right_one() -> None:
    """Trap 4: pgpool-II selects node 0, which is writable and has more WAL, but is stale."""
    nodes = (replace(primary("pg1", at=9000), pgpool=pgpool(primary="pg1")), *FAILED_OVER)
    detached = [action for action in decide(CLUSTER, CLUSTER.named("pg1"), seen(*nodes)) if isinstance(action, Detach)]
    assert [action.node for action in detached] == ["pg1"]


# Deciding twice


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        pytest.param((Detach("pg2", "old"), Attach("pg3")), (), (Attach("pg3"),), id="not on the second"),
        pytest.param((Rejoin("pg2", "pg1"),), (), (), id="its data is not replaced on the second"),
        pytest.param((Dismiss("pg2", 2),), (Dismiss("pg2", 3),), (), id="of another term by then"),
        pytest.param((Dismiss("pg2", 2),), (Dismiss("pg2", 2),), (Dismiss("pg2", 2),), id="on both"),
    ],
)
def test_taking_a_node_away_is_decided_twice(first: Actions, second: Actions, left: Actions) -> None:
    assert confirmed(first, lambda: second) == left


def test_a_certain_detachment_is_not_decided_twice() -> None:
    """Clients would wait for the second decision, and the server is down whichever node is the primary."""
    gone = Detach("pg2", "its PostgreSQL is down", certain=True)
    assert confirmed((gone,), lambda: pytest.fail("it looked again")) == (gone,)
    both = (Detach("pg3", "it lags"), gone)
    assert confirmed(both, lambda: ()) == (gone,)


@pytest.mark.parametrize(
    ("member", "certain"),
    [
        pytest.param(down(standby("pg3", "pg1")), True, id="down"),
        pytest.param(replace(down(standby("pg3", "pg1")), postgresql=Postgresql.HANGING), False, id="hanging"),
        pytest.param(replace(standby("pg3", "pg1"), stalled="it lags"), False, id="stalled"),
        pytest.param(replace(standby("pg3", "pg1"), held=True), False, id="held"),
        pytest.param(primary("pg3", led=0), False, id="writable"),
    ],
)
def test_a_detachment_is_certain_if_the_server_has_ended(member: NodeFacts, *, certain: bool) -> None:
    found = decide(CLUSTER, CLUSTER.named("pg1"), seen(*healthy()[:2], member))
    assert [(one.node, one.certain) for one in found if isinstance(one, Detach)] == [("pg3", certain)]


def test_the_reason_of_a_held_nodes_detachment_is_the_administrators() -> None:
    pg1, pg2, pg3 = healthy()
    assert decide(CLUSTER, CLUSTER.named("pg2"), seen(pg1, pg2, replace(pg3, held=True))) == (
        Detach("pg3", "an administrator detached it"),
    )


def test_a_redirection_names_the_node_that_decides_and_the_primary() -> None:
    pg1, pg2, pg3 = healthy()
    facts = seen(pg1, pg2, replace(pg3, pgpool=unwatched(primary="pg2")))
    assert decide(CLUSTER, CLUSTER.named("pg3"), facts) == (Redirect("pg3", "pg1"),)


@pytest.mark.parametrize(
    ("views", "dead"),
    [
        pytest.param((pgpool("pg1"), pgpool(leader=False)), True, id="the leader of a watchdog"),
        pytest.param((pgpool("pg1", quorum=False), pgpool(leader=False)), False, id="a leader without a quorum"),
        pytest.param((pgpool("pg1", leader=False), pgpool("pg1", leader=False)), False, id="no leader"),
        pytest.param((unwatched("pg1"), unwatched("pg1")), False, id="pgpool-IIs that check nothing"),
        pytest.param((unwatched("pg1"), pgpool()), False, id="a leader that has not detached it"),
    ],
)
def test_only_a_watchdog_with_a_quorum_is_evidence_that_a_node_is_dead(
    views: tuple[PgpoolFacts, PgpoolFacts], *, dead: bool
) -> None:
    second, third = (replace(orphaned(one), pgpool=view) for one, view in zip(healthy()[1:], views, strict=True))
    assert given_up(CLUSTER, seen(away("pg1"), second, third), "pg1") is dead
    silent = (replace(one, silent=LOST_PG1) for one in (second, third))
    assert given_up(CLUSTER, seen(away("pg1"), *silent), "pg1"), "silence always counts"


def test_no_other_action_needs_a_second_decision() -> None:
    assert confirmed((Attach("pg3"),), lambda: pytest.fail("it looked again")) == (Attach("pg3"),)
