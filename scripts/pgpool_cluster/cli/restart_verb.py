"""Run `pgpoolctl restart`: request a plan from the agent, and then one restart after the other.

The loop is in this program, so that an administrator can end it between two nodes. The node's own agent completes a
restart that has begun, even if this program has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..decision import restart_plan
from ..decision.restart_plan import RestartKind, RestartStep
from ..ground.errors import ClusterError, OperationError
from ..transport.channel import ask
from ..transport.protocol import RestartPlanRequest, RestartRequest

_SECONDS = 300.0
"""Time limit of a step for its next report of progress."""


def run(request: RestartPlanRequest, progress: Callable[[str], None]) -> str:
    """Carry out the plan that `request` leads to, and return the outcome in one line.

    Raises ClusterError at the first step that fails: the message names the nodes that have restarted and those that
    have not, and the hint ends with the command that restarts the rest.
    """
    steps = ask(request, seconds=_SECONDS, progress=progress).steps
    if not steps:
        return "no parameter requires a restart"
    for number, step in enumerate(steps):
        progress(f"[{number + 1}/{len(steps)}] {_said(step)}")
        try:
            ask(RestartRequest(step), seconds=_SECONDS, progress=progress)
        except ClusterError as error:
            _add_state(error, steps, number)
            raise
        except KeyboardInterrupt:
            why = OperationError(f"interrupted: {step.node} completes its restart", hint="pgpoolctl wait")
            _add_state(why, steps, number + 1)
            raise why from None
    return f"PostgreSQL was restarted on {_names(steps)}{_new_primary(steps)}"


def _said(step: RestartStep) -> str:
    match step.kind:
        case RestartKind.STANDBY:
            return f"{step.node}: restart of a standby"
        case RestartKind.PRIMARY:
            return f"{step.node}: restart of the primary in place"
        case RestartKind.SWITCHOVER:
            return f"{step.node}: switchover to {step.successor}, and restart as its standby"


def _names(steps: Iterable[RestartStep]) -> str:
    return ", ".join(dict.fromkeys(step.node for step in steps))


def _new_primary(steps: tuple[RestartStep, ...]) -> str:
    successors = [step.successor for step in steps if step.successor]
    return f"; {successors[-1]} is the primary" if successors else ""


def _add_state(error: ClusterError, steps: tuple[RestartStep, ...], done: int) -> None:
    """Add the state of all nodes to the error of a step, and the command that completes the restart.

    `done`: the number of steps that have succeeded, or are completed without this program.
    """
    switchovers = [step for step in steps if step.successor]
    way_back = switchovers[1:]
    left = [step for step in steps[done:] if step not in way_back]
    texts, hints = [error.message, f"restarted: {_names(steps[:done]) or 'none'}"], [error.hint]
    if left:
        texts.append(f"not restarted: {_names(left)}")
        hints.append(f"then {restart_plan.ALL} {_names(left).replace(',', '')}{' --back' if way_back else ''}")
    elif way_back and done < len(steps):
        hints.append(f"then pgpoolctl switchover {way_back[0].successor}")
    error.message, error.hint = "; ".join(texts), "; ".join(hints)
