"""Log in to another node as the next connection would: the present one stays open whatever is changed there."""

from __future__ import annotations

from ..ground import paths, programs
from ..ground.programs import LateProgramError, ProgramError
from . import reach

_CONNECT_SECONDS = 3
"""Time limit for the connection and the exchange of keys (ssh_config(5), ConnectTimeout)."""


def refused(name: str, *, seconds: float) -> str:
    """Return why a new login over ssh fails within `seconds`, "" if it reaches the agent of node `name`.

    This is a complete login, because sshd delays and then rejects a host that often connects without one
    (PerSourcePenalties). Standard input is at its end, so the other side ends at once.
    """
    options = ["-F", str(paths.SSH_CONFIG), "-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
    try:
        ended = programs.attempt(["ssh", *options, name, "agent"], seconds=seconds)
    except LateProgramError:
        return f"no answer for {seconds:g} s"
    except ProgramError as error:
        return error.message
    if ended.returncode == 0:
        return ""
    lines = [line.strip() for line in f"{ended.stdout}\n{ended.stderr}".splitlines() if line.strip()]
    return reach.explained([line for line in lines if not line.startswith("hint: ")])
