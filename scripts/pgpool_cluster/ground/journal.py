"""Send structured entries to systemd's journal over its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

An entry is one datagram with a field a line. Entries of this package are a few kilobytes, so none needs a memfd.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

from . import paths

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
"""The names that the journal accepts from a program; those that begin with `_` are its own."""


def encode(fields: Mapping[str, str]) -> bytes:
    """Return the datagram of an entry; raises ValueError for a name that the journal would drop.

    A value with a line break is preceded by its length, so no value can add a field of its own.
    """
    return b"".join(_field(name, value.encode("utf-8", "replace")) for name, value in fields.items())


def _field(name: str, value: bytes) -> bytes:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a field of the journal")
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
    return b"%s=%s\n" % (name.encode(), value)


def send(fields: Mapping[str, str]) -> bool:
    """Send an entry, and return whether the journal accepted it. Never blocks; raises as `encode` does."""
    datagram = encode(fields)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)
            sending.sendto(datagram, str(paths.JOURNAL))
    except OSError:  # there is no journal, or it does not keep up
        return False
    return True
