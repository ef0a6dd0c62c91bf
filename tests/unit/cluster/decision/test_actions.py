"""Each action has its own text, which `pgpoolctl status` and the journal show."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from typing import get_args

import pytest

from pgpool_cluster.decision import actions
from pgpool_cluster.decision.actions import (
    Action,
    Attach,
    AwaitRecovery,
    Begin,
    Clone,
    CreateSlots,
    Deed,
    Detach,
    Dismiss,
    Fence,
    Follow,
    Found,
    GiveUpPlace,
    Lead,
    Promote,
    Rebuild,
    Redirect,
    Refuse,
    Rejoin,
    Resume,
    Serve,
    StandApart,
    Start,
    StartPgpool,
    Stop,
    StopPgpool,
    Wait,
    said,
)

WORDS: dict[Action, str] = {
    Found("pg1"): "found pg1",
    Clone("pg2", "pg1"): "clone pg2 source pg1",
    Rejoin("pg2", "pg1"): "rejoin pg2 source pg1",
    Rebuild("pg2"): "rebuild pg2",
    GiveUpPlace("pg2"): "give up place pg2",
    StandApart("pg2"): "stand apart pg2",
    Serve("pg2", 3): "serve pg2 term 3",
    Begin("pg2", 3, ("pg1",)): "begin pg2 term 3",
    Dismiss("pg2", 3): "dismiss pg2 term 3",
    Start("pg2"): "start pg2",
    Resume("pg2", 3): "resume pg2 term 3",
    Stop("pg2", "two primaries"): "stop pg2: two primaries",
    Fence("pg2", "it is alone"): "fence pg2: it is alone",
    Promote("pg2", 3, (1, 2)): "promote pg2 term 3",
    Lead("pg2", 3): "lead pg2 term 3",
    Follow("pg2", "pg1"): "follow pg2 primary pg1",
    CreateSlots("pg1", ("pg2",)): "create slots pg1",
    StartPgpool("pg1"): "start pgpool pg1",
    StopPgpool("pg1", "it is alone"): "stop pgpool pg1: it is alone",
    Attach("pg1"): "attach pg1",
    Detach("pg1", "it lags"): "detach pg1: it lags",
    Redirect("pg1", "pg2"): "redirect pgpool of pg1 primary pg2",
    Wait("pg1", "pg2 is away"): "waits: pg2 is away",
    AwaitRecovery(
        "pg1", "it was replaced", source_in_sight=False, returns=True
    ): "waits: it was replaced; hint: the node "
    "rejoins by itself, when the node promoted in its place is back; if that node is lost for good, "
    "pgpoolctl switchover --accept-loss pg1",
    AwaitRecovery("pg1", "it diverged"): "waits for an administrator: it diverged; hint: pgpoolctl recover pg1",
    Refuse("pg1", "two clusters", "remove one"): "stops here: two clusters; hint: remove one",
}


@pytest.mark.parametrize(("action", "words"), WORDS.items(), ids=lambda found: type(found).__name__)
def test_the_text_of_an_action_stays_as_status_has_always_shown_it(action: Action, words: str) -> None:
    assert said(action) == words


def test_every_action_is_in_the_union_that_mypy_checks() -> None:
    """`act.perform` and `said` end in assert_never over the union, so mypy reports a missing action."""
    classes = {kind for _, kind in inspect.getmembers(actions, is_dataclass) if kind.__module__ == actions.__name__}
    assert classes == set(get_args(Action)) == {type(action) for action in WORDS}
    assert classes - set(get_args(Deed)) == {Wait, AwaitRecovery, Refuse}
