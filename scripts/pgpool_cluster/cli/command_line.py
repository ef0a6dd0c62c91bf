"""Run `pgpoolctl` with its options. The parser imports only the standard library; each verb imports its modules."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ..ground import log, paths, plain
from ..ground.errors import ClusterError, ExitStatus

DESCRIPTION = (
    "Manages one node of a PostgreSQL cluster behind pgpool-II. The cluster is defined in "
    f"{paths.CLUSTER_YML} and {paths.CLUSTER_KEY}, which are the same on every node."
)
EPILOGUE = (
    "Exit status: 0 good, 1 something failed or is not healthy, 2 wrong usage or configuration, 3 the server, its disk "
    "or its network failed. Errors are one line, with a second line that begins with `hint:`."
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of every verb that an administrator types. Man page and completion are generated from it."""
    top = argparse.ArgumentParser(prog="pgpoolctl", description=DESCRIPTION, epilog=EPILOGUE)
    verbs = top.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    status = _verb(verbs, "status", "show every node, every pgpool-II, and whether the cluster is healthy")
    _json(status)
    check = _verb(
        verbs, "check", "check every precondition of a working cluster, and show the fix of each one that fails"
    )
    _json(check)
    check.add_argument(
        "--before", action="store_true",
        help="show what the installation would change, restart and refuse on this server, and change nothing",
    )  # fmt: skip
    wait = _verb(verbs, "wait", "wait until the cluster is healthy")
    wait.add_argument("--timeout", type=float, default=120.0, metavar="S", help="time out after S seconds (120)")
    apply = _verb(verbs, "apply", "write this node's configuration and reload what changed")
    apply.add_argument("--diff", action="store_true", help="show what would change, and change nothing")
    converge = _verb(verbs, "converge", "bring this node to where the cluster needs it; the unit runs this")
    converge.add_argument("--once", action="store_true", help="observe, decide and act once, then print the actions")
    recover = _verb(verbs, "recover", "rebuild a node from the primary while the others serve")
    recover.add_argument("node", metavar="NODE", help="the node that is rebuilt")
    recover.add_argument("--force", action="store_true", help="rebuild a node even if it needs no recovery")
    switchover = _verb(verbs, "switchover", "promote a standby; the previous primary becomes its standby")
    switchover.add_argument("node", metavar="NODE", nargs="?", help="the new primary (the most advanced standby)")
    switchover.add_argument(
        "--accept-loss", action="store_true",
        help="use NODE's data even if an unreachable node has newer writes: those writes are lost",
    )  # fmt: skip
    switchover.add_argument(
        "--drain", type=float, default=5.0, metavar="SECONDS",
        help="the time that open transactions get to end, 0 to 60 (5); new ones wait for the new primary",
    )  # fmt: skip
    restart = _verb(verbs, "restart", "restart PostgreSQL node by node, the primary by a switchover")
    restart.add_argument("nodes", metavar="NODE", nargs="*", help="the nodes whose PostgreSQL restarts (all)")
    restart.add_argument(
        "--pending", action="store_true", help="only the nodes that have parameters for which a restart is pending"
    )
    restart.add_argument("--back", action="store_true", help="make the present primary the primary again at the end")
    history = _verb(verbs, "history", "show what the nodes decided and did, and why, in order")
    _json(history)
    history.add_argument(
        "--since", metavar="TIME",
        help="only events since TIME, such as 3h (ago), 22:00 (the latest one) or 2026-11-30T07:30",
    )  # fmt: skip
    history.add_argument(
        "-n", dest="number", type=int, metavar="N", help="the last N events (50, or 1000 with --since)"
    )
    pause = _verb(verbs, "pause", "let decisions stand still on all nodes: no failover, no return of a node")
    pause.add_argument("--reason", default="", metavar="TEXT", help="shown by status until the pause ends")
    _verb(verbs, "resume", "end a pause")
    for name, what in (("attach", "send clients to a node again"), ("detach", "stop sending clients to a node")):
        _verb(verbs, name, what).add_argument("node", metavar="NODE", help="a node's name in cluster.yml")
    _users(_verb(verbs, "user", "database roles that can log in through every pgpool-II"))
    key = _verb(verbs, "key", "the cluster's shared secret").add_subparsers(
        metavar="VERB", dest="key_verb", required=True
    )
    _verb(key, "generate", "print a new cluster key")
    return top


def _verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str) -> argparse.ArgumentParser:
    return verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")


def _json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON; later versions only add keys")


def _users(user: argparse.ArgumentParser) -> None:
    verbs = user.add_subparsers(metavar="VERB", dest="user_verb", required=True)
    new = _verb(verbs, "set", "create a role that can log in, or change its password")
    new.add_argument("name", metavar="NAME")
    new.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    _verb(verbs, "remove", "disable the logins of a role, through pgpool-II and to PostgreSQL").add_argument(
        "name", metavar="NAME"
    )
    _verb(verbs, "list", "list the roles that can log in through pgpool-II")


def _seed(words: list[str]) -> int:
    from ..configuration import seed  # noqa: PLC0415

    return seed.run(words)


def _withdraw(words: list[str]) -> int:
    from ..configuration import withdraw  # noqa: PLC0415

    return withdraw.run(words)


def _hook(words: list[str]) -> int:
    from . import hook  # noqa: PLC0415

    return hook.run(words)


def _archive(words: list[str]) -> int:
    from ..machine.wal import archive_command  # noqa: PLC0415

    return archive_command.run(words)


INTERNAL: dict[str, Callable[[list[str]], int]] = {
    "seed": _seed,
    "withdraw": _withdraw,
    "hook": _hook,
    "archive": _archive,
}
"""Verbs for maintainer scripts and hooks, not for administrators. Each imports its module when it runs, because
PostgreSQL starts `archive` once per WAL file, and pgpool-II waits for `hook`."""


def main(words: Sequence[str]) -> int:
    """Run one command and return its exit status. A ClusterError becomes two lines on standard error."""
    log.uncaught_as_errors()
    try:
        if words and words[0] in INTERNAL:
            return INTERNAL[words[0]](list(words[1:]))
        options = parser().parse_args(words)
        from . import verbs  # noqa: PLC0415 - the parser does not need its imports

        return int(verbs.run(options))
    except ClusterError as error:
        log.error(plain.shown(f"pgpoolctl: {error}"), stream=sys.stderr)
        return int(error.exit_status)
    except KeyboardInterrupt:
        print("pgpoolctl: interrupted\nhint: run the same command again to continue", file=sys.stderr)
        return int(ExitStatus.FAILED)
    except BrokenPipeError:
        return int(ExitStatus.FAILED)
