"""`pgpoolctl seed`: create cluster.yml and cluster.key from debconf's answers, unless the files exist.

postinst passes the answers on standard input, one `name=value` per line.
"""

from __future__ import annotations

import os
import sys

from ..definition import cluster_file, key
from ..ground import paths
from ..ground.errors import ClusterError, ExitStatus, UsageError
from ..machine import hands, server

HEADER = """\
# The definition of this cluster; the same file on every node. Reference: cluster.yml in /usr/share/doc/pgpool2-cluster.
# After a change: pgpoolctl apply, on every node.
"""
_NAMES = ("nodes", "mode", "clients", "virtual-ip", "synchronous", "key")


def run(words: list[str]) -> ExitStatus:
    """Write the two files from the answers on standard input; raises ClusterError before it has written either."""
    del words
    answers = _answers(sys.stdin.read())
    hands.make_folder(paths.CLUSTER_YML.parent, 0o755)
    if not paths.CLUSTER_YML.exists():
        text = cluster_yml(answers)
        _check(text)
        secret = _key(answers, alone=len(answers.get("nodes", "").split()) < 2)
        hands.write(paths.CLUSTER_YML, text.encode(), 0o644)
    else:
        secret = _key(answers, alone=False) if answers.get("key") else ""
    if secret and not paths.CLUSTER_KEY.exists():
        hands.write(paths.CLUSTER_KEY, f"{secret}\n".encode(), 0o600)
    return ExitStatus.GOOD


def _answers(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name: value.strip() for name, value in pairs if name in _NAMES and value.strip()}


def cluster_yml(answers: dict[str, str]) -> str:
    """Return the file that the answers describe; raises UsageError for an invalid list of nodes."""
    lines = [HEADER, f"mode: {answers.get('mode', 'streaming_replication')}\n"]
    if "nodes" in answers:
        lines.append("nodes:\n")
        for word in answers["nodes"].replace(",", " ").split():
            name, separator, address = word.partition("=")
            if not separator or not name or not address:
                hint = "names with addresses: pg1=10.0.0.1 pg2=10.0.0.2 pg3=10.0.0.3"
                raise UsageError(f"pgpool2-cluster/nodes: {word!r} is not NAME=ADDRESS", hint=hint)
            lines.append(f"  {_quoted(name)}: {_quoted(address)}\n")
    if "clients" in answers:
        words = ", ".join(_quoted(word) for word in answers["clients"].replace(",", " ").split())
        lines.append(f"clients: [{words}]\n")
    if "virtual-ip" in answers:
        lines.append(f"virtual_ip: {_quoted(answers['virtual-ip'])}\n")
    if "synchronous" in answers:
        lines.append(f"synchronous: {_quoted(answers['synchronous'])}\n")
    return "".join(lines)


def _quoted(word: str) -> str:
    plainly = word.replace(".", "").replace("-", "").replace("/", "")
    if plainly.isascii() and plainly.isalnum() and not word.startswith("-"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check(text: str) -> None:
    try:
        cluster_file.parse(text, "the answers", server.host_name())
    except ClusterError as error:
        hint = f"{error.hint}; dpkg-reconfigure pgpool2-cluster repeats the questions"
        raise UsageError(f"no cluster.yml was written: {error.message}", hint=hint) from error


def _key(answers: dict[str, str], *, alone: bool) -> str:
    """Return the key from the answers, a new one for a single node, or "" if an administrator has to provide one."""
    if "key" in answers:
        return key.for_file(answers["key"], "pgpool2-cluster/key")
    return key.generate() if alone and not os.path.lexists(paths.CLUSTER_KEY) else ""
