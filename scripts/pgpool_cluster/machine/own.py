"""The parameters in a server's own configuration files, without the cluster's file: its tuning, which it still needs.

As in PostgreSQL, the last line of a parameter wins. `later` names the parameters that are set after the include of the
cluster's file and so override it. postgresql.auto.conf is not read, because ALTER SYSTEM overrides all files anyway.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..ground.errors import ServerError
from . import hands

DROP_IN = "pgpool2-cluster.conf"
_LINE = re.compile(r"\s*([A-Za-z_][\w.$]*)\s*(?:=\s*|\s)\s*(?:'((?:[^'\\]|''|\\.)*)'|([^\s#']+))\s*(?:#.*)?")
_ESCAPED = re.compile(r"''|\\([0-7]{1,3}|.)")
_CONTROL = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_DEEPEST_INCLUDE = 10
"""Depth at which includes stop, as in PostgreSQL (CONF_FILE_MAX_DEPTH)."""
_MOST_FILES = 200


@dataclass(frozen=True, slots=True)
class Own:
    """The parameters in a server's own files by lower-case name; `includes`: they include the cluster's file."""

    values: Mapping[str, str] = field(default_factory=dict)
    later: frozenset[str] = frozenset()
    includes: bool = True

    def number(self, name: str) -> int:
        """Return a parameter as a number; 0 if it is not set or not a plain number."""
        text = self.values.get(name, "").strip().removeprefix("+")
        if re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}", text):
            return int(text, 16)
        return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0


NOTHING = Own()


def lines(text: str) -> list[tuple[str, str]]:
    """Return the parameters and directives of one file, in order, as PostgreSQL's guc-file.l reads them."""
    found = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            quoted = match[2]
            value = match[3] if quoted is None else _ESCAPED.sub(_unescaped, quoted)
            found.append((match[1].lower(), value))
    return found


def _unescaped(found: re.Match[str]) -> str:
    text = found[1]
    if text is None:
        return "'"
    return chr(int(text, 8) & 0xFF) if text.isdecimal() and text[0] in "01234567" else _CONTROL.get(text, text)


def quoted(value: str) -> str:
    """Return a value escaped for single quotes in postgresql.conf."""
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return escaped.replace("\n", "\\n").replace("\r", "\\r")


def gather(file: Path, read: Callable[[Path], str | None], names: Callable[[Path], tuple[str, ...]]) -> Own:
    """Return the parameters in a postgresql.conf and the files it includes.

    `read` returns a file's text or None, `names` the entries of a folder. The cluster's file in conf.d is not read, and
    need not exist yet; its position decides which parameters are `later`.
    """
    drop_in = file.parent / "conf.d" / DROP_IN
    values: dict[str, str] = {}
    later: set[str] = set()
    includes = False
    seen = 0

    def follow(path: Path, depth: int) -> None:
        nonlocal includes, seen
        seen += 1
        if _plain(path) == drop_in:
            includes = True
            later.clear()
            return
        for name, value in lines(read(path) or "") if depth < _DEEPEST_INCLUDE and seen < _MOST_FILES else ():
            there = path.parent / value
            if name in ("include", "include_if_exists"):
                follow(there, depth + 1)
            elif name == "include_dir":
                ours = {DROP_IN} if _plain(there) == drop_in.parent else set()
                for entry in sorted({*names(there), *ours}):
                    if entry.endswith(".conf") and not entry.startswith("."):
                        follow(there / entry, depth + 1)
            else:
                values[name] = value
                later.add(name)

    follow(file, 0)
    return Own(values, frozenset(later) if includes else frozenset(), includes)


def _plain(path: Path) -> Path:
    return Path(os.path.normpath(path))


def of_server(configuration: Path) -> Own:
    """Return the parameters in the files of a server, read as postgres; an unreadable file counts as empty."""

    def read(path: Path) -> str | None:
        try:
            found = hands.read(Path(next(iter(hands.places(path)), str(path))))  # past symbolic links
        except ServerError:
            return None
        return found.content.decode(errors="replace") if found else None

    return gather(configuration / "postgresql.conf", read, hands.names)
