"""What a node does when it is asked: by another node, by pgpool-II's and PostgreSQL's hooks, by `pgpoolctl`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from . import (
    act,
    attachment,
    checks,
    locales,
    paths,
    pgpool,
    plain,
    reach,
    recovery,
    restarts,
    rights,
    status,
    switchover,
    synchrony,
    takeover,
    terms,
    two_stages,
    units,
    wire,
)
from .actions import Follow, Resume, Start, said
from .decide import decide
from .errors import ClusterError, OperationError, UsageError
from .excuse import Excuse
from .facts import ClusterFacts, Postgresql
from .key import Role
from .node import Here
from .peers import Progress
from .situation import in_service, rightful_primary
from .users import Users, changing

Json = dict[str, Any]
_LONG_SECONDS = 120.0
_USER_SECONDS = 60.0
_CHANGING_USERS = threading.Lock()
"""Held from the reading of the users to the storing of the changed list: a second change builds on the first."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The agent's answers; `acting` is taken by those that change this node for long."""

    here: Here
    acting: threading.RLock
    wake: Callable[[], None]
    once: Callable[[], list[str]]
    watch: Callable[[], None]
    """Begin a vigil (vigil.py)."""

    def do(self, request: Json, progress: Progress) -> Json:
        """Do what `request` asks for, if the node that it is `from` may (rights.py); raises ClusterError."""
        verb = str(request.get("do"))
        work = self._known().get(verb)
        if work is None:
            raise UsageError(f"nobody knows how to {verb!r}", hint="the nodes have different versions")
        rights.refuse(self.here.cluster, verb, _peer(request))
        return work(request, progress)

    def _known(self) -> dict[str, Callable[[Json, Progress], Json]]:
        return {
            "look": self._look,
            "status": lambda *_: status.report(self.here.cluster, self.here.look_at_all(), self._notes()),
            "note": lambda *_: {"note": self._note()},
            "check": self._check,
            "clock": lambda *_: {
                "clock": time.time(),
                "key": self.here.look().key,
                "file": self.here.cluster.fingerprint,
            },
            "waiting": lambda *_: {"waiting": str(restarts.waiting(self.here) or "")},
            "converge": self._converge,
            "term": self._term,
            "excuse": self._excuse,
            "promote": self._promote,
            "follow": self._follow,
            "go-on": self._go_on,
            "failover": self._failover,
            "may-start": self._may_start,
            "recover": self._recover,
            "switchover": self._switchover,
            "start": self._start,
            "attach": lambda request, _: attachment.attach(self.here, request),
            "take-back": self._take_back,
            "hold": self._hold,
            "detach": lambda request, _: attachment.detach(self.here, request),
            "user": self._user,
            "role": self._role,
            "pcp-recovery": self._pcp_recovery,
            "first-stage": self._first_stage,
            "second-stage": self._second_stage,
            "cancel-active": self._cancel_active,
            "copy": self._copy,
            "take-up": self._take_up,
            "why": self._why,
            "watch": self._watch,
            "standing": lambda *_: pgpool.standing(self.here.cluster).as_json(),
            "silent": lambda *_: {"silent": sorted(self.here.silent)},
            "users": self._users,
        }

    # Between nodes

    def _look(self, request: Json, _: Progress) -> Json:
        if request.get("fresh"):
            self.here.forget_looks()
        return wire.encode(self.here.look())

    def _term(self, request: Json, _: Progress) -> Json:
        """Take note of a new term; `serves`: this node is in service in it."""
        term = terms.checked(request["term"])
        if request.get("file", "") not in ("", self.here.cluster.fingerprint):
            return {"taken": False}
        restart = request.get("restart", 0)
        serves = {"led": term, "restart": restart and terms.checked(restart), "apart": False}
        taken = self.here.note_term(term, **(serves if request.get("serves") else {}))
        return {"taken": taken, "excuse": self.here.record.excuse.place}

    def _excuse(self, request: Json, _: Progress) -> Json:
        """Take note of a primary's word on its standbys."""
        if request["file"] != self.here.cluster.fingerprint:
            return {"taken": False}
        term, serial = terms.checked(request["term"]), request["serial"]
        if not terms.plausible(serial):
            raise UsageError("a word of the primary without its number", hint="the nodes have different versions")
        excuse = Excuse(term, serial, tuple(map(str, request["names"])))
        return {"taken": self.here.note_excuse(excuse)}

    def _promote(self, request: Json, _: Progress) -> Json:
        """Become the primary by a database node's word, or by this node's own decision where another node asks."""
        if rights.is_database(self.here.cluster, _peer(request)):
            place = request.get("excuse")
            decided = None if place is None else (int(place[0]), int(place[1]))
            act.become_primary(self.here, terms.checked(request["term"]), decided)
        else:
            takeover.take_over(self.here)
        self.wake()
        return {}

    def _follow(self, request: Json, _: Progress) -> Json:
        here = self.here
        action = Follow(here.me.name, here.cluster.named(str(request["primary"])).name)
        if not rights.is_database(here.cluster, _peer(request)):
            takeover.refuse_undecided(here, action)
        act.follow(here, action)
        here.forget_looks()
        return {}

    def _go_on(self, request: Json, _: Progress) -> Json:
        """Begin a term without `node`, or without all that are not in service, where this node's own facts say so."""
        gone = request.get("node")
        takeover.go_on(self.here, None if gone is None else self.here.cluster.named(str(gone)))
        return {}

    def _notes(self) -> dict[str, str]:
        answers = self.here.peers.ask_all({"do": "note"}, seconds=2.5)
        notes = {name: str(answer.get("note", "")) for name, answer in answers.items()}
        unreached = {
            name: f"{peer.problem}; hint: {reach.fix(peer.problem, name)}" if peer.problem else ""
            for name, peer in self.here.peers.peers.items() if name not in notes
        }  # fmt: skip
        return {**notes, **unreached, self.here.me.name: self._note()}

    def _note(self) -> str:
        copies = self.here.copies.said if self.here.record.copying else ""
        told = (copies, self.here.note, self.here.chores, self._locked_out())
        return "; ".join(text for text in told if text)

    def _locked_out(self) -> str:
        """Return why PostgreSQL runs and refuses every login, with what to do; "" where that is not so."""
        database = self.here.database
        absent = locales.refused(database.refused) if database is not None else ""
        if database is None or not (absent or database.shut):
            return ""
        if not absent:
            hint = "its log (pg_lsclusters names it) has the rest; psql as postgres, on this node, shows the same"
            return f"PostgreSQL refuses the agent's login: {database.shut}; hint: {hint}"
        reason = f"PostgreSQL refuses every login: this machine has no locale {absent}"
        return f"{reason}; hint: {locales.making([absent])}; systemctl restart {database.instance.unit}"

    def _check(self, request: Json, _: Progress) -> Json:
        found = [check.json for check in checks.run(self.here)]
        if request.get("all"):
            for name, answer in self.here.peers.ask_all({"do": "check"}, seconds=20).items():
                found += checks.told(name, answer)
        return {"checks": found}

    def _converge(self, _: Json, __: Progress) -> Json:
        """Answer `pgpoolctl converge --once`: one round, and what it was about."""
        return {"said": self.once()}

    # Hooks

    def _failover(self, request: Json, progress: Progress) -> Json:
        failed = self.here.cluster.backend(int(request["failed"]))
        return {"actions": [said(action) for action in takeover.fail_over(self.here, failed, progress)]}

    def _may_start(self, request: Json, _: Progress) -> Json:
        """Tell whether the unit may start this node's server now: as a primary only if it is the rightful one."""
        here = self.here
        if here.database is None or str(request["instance"]) != here.database.instance.unit.split("@")[1].split(".")[0]:
            return {"go": True}
        if here.starting or here.record.system is None:
            return {"go": True}
        here.forget_looks()
        facts = here.look_at_all()
        mine = replace(facts.of(here.me.name), postgresql=Postgresql.DOWN)
        if mine.half_copied:
            return {"go": False, "why": f"half a copy of {here.record.copying} is there"}
        actions = decide(here.cluster, here.me, ClusterFacts({**facts.nodes, here.me.name: mine}))
        for action in actions:
            if isinstance(action, Resume):
                with here.promotion:
                    act.claim(here, action.term, kept=synchrony.kept(here.record))
        go = any(isinstance(action, Start | Resume) for action in actions)
        return {"go": go, "why": "; ".join(said(action) for action in actions)}

    # Verbs

    def _recover(self, request: Json, progress: Progress) -> Json:
        """Rebuild a node; asked for another one, hand the request on to it."""
        here = self.here
        name = here.cluster.named(str(request["node"])).name
        if name != here.me.name:
            return here.peers.ask(name, request, seconds=_LONG_SECONDS, progress=progress)
        here.server  # noqa: B018 - raises on a node without one
        force = bool(request.get("force"))
        if not here.cluster.mode.streams:
            two_stages.rebuild(here, progress, force=force)
            self.wake()
            recovery.await_attached(here, progress)
            return {}
        with self.acting:
            leading = recovery.recover(here, progress, force=force)
        if request.get("attach", True):
            recovery.await_attached(here, progress, leading)
        self.wake()
        return {}

    # Recovery in two stages

    def _watch(self, _: Json, __: Progress) -> Json:
        self.watch()
        return {}

    def _pcp_recovery(self, request: Json, _: Progress) -> Json:
        self.watch()
        self.here.peers.ask_all({"do": "watch"}, seconds=1)
        two_stages.pcp_recovery(self.here, self.here.cluster.named(str(request["node"])).name)
        return {}

    def _first_stage(self, request: Json, progress: Progress) -> Json:
        """Answer recovery_1st_stage_command; where standbys stream, there is one stage only."""
        name = self.here.cluster.backend(int(request["backend"])).name
        if self.here.cluster.mode.streams:
            return self._recover({"do": "recover", "node": name, "attach": False}, progress)
        two_stages.first_stage(self.here, name, progress)
        return {}

    def _second_stage(self, request: Json, progress: Progress) -> Json:
        two_stages.second_stage(self.here, self.here.cluster.backend(int(request["backend"])).name, progress)
        return {}

    def _cancel_active(self, request: Json, _: Progress) -> Json:
        return {"count": two_stages.cancel_active(self.here, float(request["since"]))}

    def _copy(self, request: Json, progress: Progress) -> Json:
        with self.acting:
            two_stages.copy(self.here, self.here.cluster.named(str(request["source"])).name, progress)
        return {}

    def _take_up(self, request: Json, progress: Progress) -> Json:
        # Clients wait for it: not for the loop's present round, too, which leaves a node in recovery alone.
        source = self.here.cluster.named(str(request["source"])).name
        two_stages.take_up(self.here, source, str(request["position"]), terms.checked(request["term"]), progress)
        self.wake()
        return {}

    def _why(self, request: Json, _: Progress) -> Json:
        self.here.failure, self.here.promoting = str(request["why"]), False
        return {}

    def _switchover(self, request: Json, progress: Progress) -> Json:
        """Change the primary; asked elsewhere, hand the request on to the present one."""
        here = self.here
        wanted = request.get("node") and here.cluster.named(str(request["node"])).name
        if request.get("accept_loss"):
            return self._take_over(request, wanted or here.me.name, progress)
        here.forget_looks()
        primary, target = switchover.choose(here.cluster, here.look_at_all(), wanted)
        if primary.node != here.me.name:
            request = {**request, "node": target.node}
            return here.peers.ask(primary.node, request, seconds=_LONG_SECONDS, progress=progress)
        with self.acting:
            switchover.run(here, target, progress)
        self.wake()
        progress("waiting for pgpool-II")
        self._renew_view(here.me.name)
        recovery.await_attached(here, progress)
        return {"primary": target.node}

    def _take_over(self, request: Json, name: str, progress: Progress) -> Json:
        """Let a node's data count by an administrator's word; asked elsewhere, hand the request on to that node."""
        if name != self.here.me.name:
            return self.here.peers.ask(name, request, seconds=_LONG_SECONDS, progress=progress)
        with self.acting:
            switchover.accept_loss(self.here, progress)
        self.wake()
        return {"primary": name}

    def _renew_view(self, name: str) -> None:
        """Have pgpool-II look for the primary again, which it does when a node goes or comes."""
        with suppress(ClusterError):
            attachment.detach(self.here, {"do": "detach", "node": name, "recovering": True})

    def _start(self, request: Json, _: Progress) -> Json:
        """Answer pgpool_remote_start: the server of the node is to run."""
        host = str(request["host"])
        node = next((node for node in self.here.cluster.databases if host in (node.address, node.name)), None)
        if node is None:
            raise UsageError(f"no node has the host {host}", hint="cluster.yml has their addresses")
        if node.name == self.here.taken_up:  # it runs, and clients are waiting
            self.here.taken_up = ""
            return {}
        if node != self.here.me:
            return self.here.peers.ask(node.name, request, seconds=_LONG_SECONDS)
        if not self.here.look().up:
            act.start(self.here, Start(node.name))
        return {}

    def _take_back(self, request: Json, _: Progress) -> Json:
        """Have this node's pgpool-II attach a node that says itself that it streams; answer when it has."""
        pgpool.attach(self.here.cluster, self.here.cluster.named(str(request["node"])), wait=True)
        self.here.forget_looks()
        return {}

    def _hold(self, request: Json, _: Progress) -> Json:
        """Remember whether an administrator keeps clients off this node."""
        self.here.remember(held=bool(request["hold"]))
        return {}

    def _role(self, request: Json, _: Progress) -> Json:
        act.set_role(self.here, _role_name(request), request.get("verifier"))
        return {}

    def _user(self, request: Json, progress: Progress) -> Json:
        """Create, change or remove a role on the primary, and tell every node its pool_passwd entry."""
        here = self.here
        facts = here.look_at_all()
        primary = rightful_primary(here.cluster, facts)
        if primary is None:
            raise OperationError("no primary is in sight", hint="pgpoolctl status shows every node")
        if primary.node != here.me.name:
            return here.peers.ask(primary.node, request, seconds=_USER_SECONDS, progress=progress)
        if not _CHANGING_USERS.acquire(timeout=_USER_SECONDS / 2):
            raise OperationError("another change of the users has not ended yet", hint="the same command again, later")
        try:
            self._change_user(request, here.look_at_all(), progress)
        finally:
            _CHANGING_USERS.release()
        return {}

    def _change_user(self, request: Json, facts: ClusterFacts, progress: Progress) -> None:
        """Change a role here, on the primary, with every node's list of users; one such change at a time."""
        here = self.here
        name, entry = _role_name(request), request.get("entry")
        known = Users.load(paths.USERS)
        newest = max(facts.nodes.values(), key=lambda found: found.users)
        if newest.users > known.serial:
            known = users_of(here, newest.node)
        if entry is not None and known.mark != request["mark"]:
            hint = f"pgpoolctl check | grep {paths.CLUSTER_KEY} shows where; put it right there, then pgpoolctl apply"
            raise OperationError("not every node has the same cluster key", hint=hint)
        act.set_role(here, name, request.get("verifier"))
        if not here.cluster.mode.streams:
            others = [found.node for found in in_service(here.cluster, facts) if found.node != here.me.name]
            for other in others:
                here.peers.ask(other, {"do": "role", "name": name, "verifier": request.get("verifier")}, seconds=30)
        users = known.with_entry(name, None if entry is None else str(entry))
        if not store_users(users):
            reason = f"this node has a list of users of a later change, or of another cluster key; {name} is not stored"
            raise OperationError(reason, hint="the same command again; pgpoolctl check names a node with another key")
        told = here.peers.ask_all({"do": "users", "new": users.json}, seconds=30)
        for node in here.cluster.nodes:
            if node != here.me and node.name not in told:
                progress(f"{node.name} is out of reach and learns it when it is back")
            elif node != here.me and told[node.name] != users.json:
                progress(f"{node.name} has another cluster key, or knows a later change: it does not take this one yet")

    def _users(self, request: Json, _: Progress) -> Json:
        if "new" in request:
            rights.refuse(self.here.cluster, "user", _peer(request))
            store_users(Users.of(request["new"]))
            self.here.forget_looks()
        return Users.load(paths.USERS).json


def _peer(request: Json) -> str:
    """Return the node that a request comes from (channel.py); "" for a program on this one."""
    return str(request.get("from", ""))


def _role_name(request: Json) -> str:
    """Return the name of the role that a request is about; raises UsageError for what could not stand in SQL."""
    name = str(request["name"])
    if not plain.is_role(name):
        raise UsageError(f"{name!r} is no plain role name", hint="letters, digits and _ . @ -")
    return name


def users_of(here: Here, name: str) -> Users:
    """Ask another node for its list of users; raises ClusterError, also for what is none."""
    try:
        return Users.of(here.peers.ask(name, {"do": "users"}, seconds=5))
    except (KeyError, TypeError, ValueError) as error:
        hint = f"journalctl -u {paths.UNIT}, on {name}; the same version of pgpool2-cluster on every node"
        raise OperationError(f"{name} tells what is no list of users", hint=hint) from error


def store_users(users: Users) -> bool:
    """Keep a list of users that is later than what is here, and lay pool_passwd down again; False if it is not kept.

    A list that is encrypted for another cluster key is left for later: the key is being changed, or is not the same.
    A list that is kept already is laid down again: another thread may still be busy with that, and the caller may rely
    on pgpool-II's having read it.
    Raises OperationError for one that names the cluster's own roles, or has a number that none can have come to.
    """
    if not terms.plausible(users.serial) or not set(Role).isdisjoint(users.entries):
        hint = f"pgpoolctl check; journalctl -u {paths.UNIT}, on every node, shows which one is odd"
        raise OperationError("another node tells a list of users that no command can have made", hint=hint)
    with changing(paths.USERS):
        known = Users.load(paths.USERS)
        if users != known:
            if users.serial <= known.serial or users.mark != known.mark:
                return False
            users.save(paths.USERS)
    units.control("apply")
    return True
