"""Run the verbs that an administrator types. Each sends a request to the agent, or reads and writes files."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import sys
import time
from collections.abc import Callable

from ..decision.facts.pause import LONGEST_REASON
from ..decision.reports.report import Report
from ..ground import log, plain
from ..ground.errors import ClusterError, ExitStatus, OperationError, ServerError, UsageError
from ..ground.waiting import poll
from ..transport import wire
from ..transport.channel import ask, notify
from ..transport.protocol import (
    AttachRequest,
    ClusterHistoryRequest,
    ConvergeRequest,
    DetachRequest,
    PauseRequest,
    RecoverRequest,
    RestartPlanRequest,
    StatusRequest,
    SwitchoverRequest,
    UserRequest,
    UsersRequest,
    WaitingRequest,
)

_REPORT_SECONDS = 15.0
_WAIT_PAUSE_SECONDS = 0.5
_RESTART_PAUSE_SECONDS = 4.5
"""Pause before the unit ends after an error, so that systemd does not restart it too often. WatchdogSec= is longer."""
_WAITING_SECONDS = 5.0
_CONVERGE_SECONDS = 600.0
_PAUSE_SECONDS = 20.0
_USUAL_EVENTS, _MOST_EVENTS = 50, 1000
"""The number of events that `history` shows without `-n`, and at most."""
_PROGRESS_SECONDS = 300.0
"""Time limit of a recovery or a switchover for its next report of progress."""
_ATTACHMENT_SECONDS = 60.0
_USER_SECONDS = 60.0


def run(options: argparse.Namespace) -> ExitStatus:
    """Run the verb that `options` name; raises ClusterError."""
    return _VERBS[str(options.verb)](options)


def _report() -> Report:
    """Return the agent's report. If no agent runs, raise the configuration error that prevents it, if there is one."""
    try:
        return ask(StatusRequest(), seconds=_REPORT_SECONDS)
    except ServerError:
        from ..agent import agent  # noqa: PLC0415
        from ..configuration import key_file  # noqa: PLC0415

        agent.load()
        if os.geteuid() == 0:
            key_file.read()
        raise


def _status(options: argparse.Namespace) -> ExitStatus:
    from ..decision.reports import status  # noqa: PLC0415

    found = _report()
    print(json.dumps(wire.fields(found), indent=2) if options.json else "\n".join(status.lines(found)))
    return ExitStatus.GOOD if found.healthy else ExitStatus.FAILED


def _wait(options: argparse.Namespace) -> ExitStatus:
    if options.timeout < 0:
        raise UsageError("--timeout is below 0", hint="give seconds, for example: --timeout 120")
    why = poll(_why_not_healthy, until=lambda why: why is None, seconds=options.timeout, pause=_WAIT_PAUSE_SECONDS)
    if why is not None:
        text = f"not healthy after {options.timeout:g} s" + (f": {why}" if why else "")
        raise OperationError(text, hint="pgpoolctl status shows every node")
    return ExitStatus.GOOD


def _why_not_healthy() -> str | None:
    """Return why the cluster is not healthy, which can be unknown ("" then); None if it is healthy."""
    try:
        found = _report()
    except ClusterError as error:
        return error.message
    return None if found.healthy else "; ".join(f"{name}: {note}" for name, note in found.notes.items())


def _check(options: argparse.Namespace) -> ExitStatus:
    if options.before:
        return _rehearse(options)
    from ..agent.checks import checks  # noqa: PLC0415

    found = checks.of_cluster()
    if options.json:
        print(json.dumps({"checks": [check.json for check in found]}, indent=2))
    else:
        for check in found:
            print(plain.shown(str(check)))
    return ExitStatus.GOOD if all(check.ok for check in found) else ExitStatus.FAILED


def _rehearse(options: argparse.Namespace) -> ExitStatus:
    from ..configuration.rehearsal import before  # noqa: PLC0415

    found = before.rehearse()
    if options.json:
        print(json.dumps({"findings": [one.json for one in found]}, indent=2))
    else:
        print(plain.shown("".join(f"{one}\n" for one in found)), end="")
    return ExitStatus.FAILED if any(one.lost for one in found) else ExitStatus.GOOD


def _apply(options: argparse.Namespace) -> ExitStatus:
    from ..configuration import apply, changes  # noqa: PLC0415

    if not options.diff and os.geteuid() == 0:
        _withdraw_address()
    planned = changes.plan()
    if options.diff:
        print("".join(change.diff for change in planned.changes), end="")
        log.refusals(planned.refused)
    else:
        refused = apply.carry_out(planned)
        print("".join(f"{change}\n" for change in planned.changes), end="")
        with contextlib.suppress(ClusterError):  # no agent or no PostgreSQL runs yet
            said = ask(WaitingRequest(), seconds=_WAITING_SECONDS).waiting
            print(f"{said}\n" if said else "", end="")
        if refused:
            log.refusals(refused[:-1])
            raise refused[-1]
    return ExitStatus.GOOD


def _withdraw_address() -> None:
    """Remove a virtual address that cluster.yml no longer gives to this machine, even if it is no node any more."""
    from ..machine import due_address  # noqa: PLC0415

    try:
        due_address.follow_cluster_yml()
    except ClusterError as error:
        log.warning(f"the former virtual address was not removed: {error.message}; hint: {error.hint}")


def _converge(options: argparse.Namespace) -> ExitStatus:
    from ..agent import agent  # noqa: PLC0415

    if options.once:
        found = ask(ConvergeRequest(), seconds=_CONVERGE_SECONDS, progress=print)
        print("\n".join(found.said) or "nothing to do on this node")
        return ExitStatus.GOOD
    try:
        here = agent.load()
    except ClusterError as error:
        # The unit counts as started: it shows the error and retries, and dpkg does not fail.
        notify(f"READY=1\nSTATUS={error.message}; hint: {error.hint}")
        time.sleep(_RESTART_PAUSE_SECONDS)
        raise
    agent.Agent(agent.with_history(here)).run()
    return ExitStatus.GOOD


def _recover(options: argparse.Namespace) -> ExitStatus:
    said = _ProgressLine()
    try:
        ask(RecoverRequest(options.node, force=options.force), seconds=_PROGRESS_SECONDS, progress=said)
    finally:
        said.end()
    print(f"{options.node} is recovered")
    return ExitStatus.GOOD


def _switchover(options: argparse.Namespace) -> ExitStatus:
    if options.accept_loss and not options.node:
        raise UsageError("--accept-loss needs the node whose data is kept", hint="pgpoolctl status shows the nodes")
    request = SwitchoverRequest(options.node, accept_loss=options.accept_loss, drain=options.drain)
    said = _ProgressLine()
    try:
        answer = ask(request, seconds=_PROGRESS_SECONDS, progress=said)
    finally:
        said.end()
    print(f"{answer.primary} is the primary")
    return ExitStatus.GOOD


def _restart(options: argparse.Namespace) -> ExitStatus:
    from . import restart_verb  # noqa: PLC0415

    request = RestartPlanRequest(tuple(options.nodes), pending=options.pending, back=options.back)
    print(restart_verb.run(request, lambda text: print(text, flush=True)))
    return ExitStatus.GOOD


def _pause(options: argparse.Namespace) -> ExitStatus:
    return _set_pause(PauseRequest(True, _administrator(), " ".join(options.reason.split())))


def _resume(_: argparse.Namespace) -> ExitStatus:
    return _set_pause(PauseRequest(False, _administrator()))


def _set_pause(request: PauseRequest) -> ExitStatus:
    found = ask(request, seconds=_PAUSE_SECONDS)
    already = " already" if request.paused and not found.changed else ""
    print(f"the cluster is {'paused' if request.paused else 'not paused'}{already}")
    for name in found.missing:
        print(f"{name} has not recorded it; it will, once it sees a database node that has")
    return ExitStatus.GOOD


def _administrator() -> str:
    """Return the user who runs this command, behind sudo if there is one, and this host."""
    from ..machine import server  # noqa: PLC0415

    user = os.environ.get("SUDO_USER") or getpass.getuser()
    return str(plain.shown(f"{user}@{server.host_name()}"))[:LONGEST_REASON]


def _history(options: argparse.Namespace) -> ExitStatus:
    from ..decision.reports import chronology  # noqa: PLC0415
    from . import moments  # noqa: PLC0415

    usual = _MOST_EVENTS if options.since else _USUAL_EVENTS
    most = usual if options.number is None else options.number
    if not 1 <= most <= _MOST_EVENTS:
        raise UsageError(f"-n must be between 1 and {_MOST_EVENTS}", hint=f"for example: -n {_USUAL_EVENTS}")
    since = moments.parse(options.since, time.time()) if options.since else 0.0
    found = ask(ClusterHistoryRequest(most, since), seconds=_REPORT_SECONDS)
    if options.json:
        print(json.dumps(chronology.as_json(found), indent=2))
    else:
        print("\n".join(plain.shown(line) for line in chronology.lines(found)))
    return ExitStatus.GOOD


class _ProgressLine:
    """Print progress. On a terminal, reports of copied bytes overwrite each other on one line."""

    def __init__(self) -> None:
        self.open = False

    def __call__(self, text: str) -> None:
        """Print one report of progress."""
        counting = text.endswith("%)") and sys.stdout.isatty()
        if not counting:
            self.end()
        print(f"\r\x1b[K{text}" if counting else text, end="" if counting else "\n", flush=True)
        self.open = counting

    def end(self) -> None:
        """End a line that is still open."""
        if self.open:
            print(flush=True)
        self.open = False


def _attach(options: argparse.Namespace) -> ExitStatus:
    ask(AttachRequest(options.node), seconds=_ATTACHMENT_SECONDS)
    return ExitStatus.GOOD


def _detach(options: argparse.Namespace) -> ExitStatus:
    ask(DetachRequest(options.node), seconds=_ATTACHMENT_SECONDS)
    return ExitStatus.GOOD


def _user(options: argparse.Namespace) -> ExitStatus:
    from ..configuration import key_file, pool_key  # noqa: PLC0415
    from ..definition import key  # noqa: PLC0415

    if options.user_verb == "list":
        print("".join(f"{name}\n" for name in sorted(ask(UsersRequest()).entries)), end="")
        return ExitStatus.GOOD
    name = str(options.name)
    plain.refuse_role(name)
    request = UserRequest(name)
    if options.user_verb == "set":
        secret = key_file.read()
        password = _password(options)
        verifier = secret.scram_verifier(name, password)
        needed = pool_key.needed(secret)
        request = UserRequest(name, verifier, key.pool_passwd_entry(password, needed), key.mark(needed))
    elif name not in ask(UsersRequest()).entries:
        raise UsageError(f"{name} is not a user of pgpool-II", hint="pgpoolctl user list")
    ask(request, seconds=_USER_SECONDS, progress=print)
    return ExitStatus.GOOD


def _password(options: argparse.Namespace) -> str:
    if options.password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        if not sys.stdin.isatty():
            raise UsageError("no terminal to ask for the password", hint="use --password-stdin, which reads one line")
        password = getpass.getpass(f"Password for {options.name}: ")
        if getpass.getpass("Again: ") != password:
            raise UsageError("the two passwords differ", hint="run the same command again")
    _refuse_password(password)
    return password


def _refuse_password(password: str) -> None:
    """Raise UsageError for a password with which every login through pgpool-II would fail."""
    from ..definition import key  # noqa: PLC0415

    if not password:
        raise UsageError("the password is empty", hint="use letters, digits and punctuation")
    if not password.isascii():
        raise UsageError(
            "the password has characters beyond ASCII", hint="use letters, digits and punctuation of ASCII"
        )
    if not password.isprintable():
        raise UsageError(
            "the password has a tab or another control character", hint="use letters, digits and punctuation"
        )
    if len(password) > key.LONGEST_PASSWORD_CHARACTERS:
        most = key.LONGEST_PASSWORD_CHARACTERS
        reason = f"the password has {len(password)} characters, and pgpool-II reads passwords of at most {most}"
        raise UsageError(reason, hint=f"choose one of at most {most} characters")


def _key(_: argparse.Namespace) -> ExitStatus:
    from ..definition import key  # noqa: PLC0415

    print(key.generate())
    return ExitStatus.GOOD


_VERBS: dict[str, Callable[[argparse.Namespace], ExitStatus]] = {
    "status": _status,
    "wait": _wait,
    "check": _check,
    "apply": _apply,
    "converge": _converge,
    "recover": _recover,
    "switchover": _switchover,
    "restart": _restart,
    "pause": _pause,
    "resume": _resume,
    "history": _history,
    "attach": _attach,
    "detach": _detach,
    "user": _user,
    "key": _key,
}
