"""Patterns for plain words: nothing else may reach a path, a configuration file or a shell.

pgpool-II and its recovery function pass host names and paths to a shell without quoting, so that `$(…)` would run.
Everything from cluster.yml, debconf or a hook's arguments must therefore match one of these patterns.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from .errors import UsageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_CLUSTER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_PATH = re.compile(r"(?:/[A-Za-z0-9_+@-][A-Za-z0-9._+@-]*)+")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?")
_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,62}")

LONGEST_HOST_NAME = 128
"""Limit in characters: pgpool-II and pgpool_recovery build commands in buffers of 1024 bytes."""
LONGEST_NODE_NAME = 63
"""Limit in characters: PostgreSQL's NAMEDATALEN minus one, for replication slots and application_name."""
LONGEST_ROLE_NAME = 63
"""Limit in characters: PostgreSQL's NAMEDATALEN minus one; pgpool-II reads 128 (MAX_USER_NAME_LEN)."""
LONGEST_PATH = 255
"""Limit in characters: MAX_PATH_LENGTH of pgpool-II 4.3 to 4.7 is 256 (src/include/pcp/libpcp_ext.h)."""


def is_host_name(text: str) -> bool:
    """Return whether `text` is a lower-case host name (RFC 1123) and not an address."""
    return len(text) <= LONGEST_HOST_NAME and bool(_HOST_NAME.fullmatch(text)) and not text.rsplit(".", 1)[-1].isdigit()


def is_cluster_name(text: str) -> bool:
    """Return whether `text` can name a cluster, of pgpool-II or of postgresql-common."""
    return bool(_CLUSTER_NAME.fullmatch(text))


def is_path(text: str) -> bool:
    """Return whether `text` is an absolute path of plain characters, without `.` and `..`."""
    return len(text) <= LONGEST_PATH and bool(_PATH.fullmatch(text))


def is_parameter(text: str) -> bool:
    """Return whether `text` can be the name of a parameter of PostgreSQL or pgpool-II."""
    return bool(_PARAMETER.fullmatch(text))


def is_role(text: str) -> bool:
    """Return whether `text` is a role name that pool_passwd, pgpass and pg_hba.conf accept without quotes."""
    return bool(_ROLE.fullmatch(text))


def refuse_role(name: str) -> None:
    """Raise UsageError for a role name that is not plain or that PostgreSQL reserves."""
    if len(name) > LONGEST_ROLE_NAME:
        hint = f"choose one of at most {LONGEST_ROLE_NAME} characters"
        reason = f"the role name has {len(name)} characters, but PostgreSQL keeps only {LONGEST_ROLE_NAME}"
        raise UsageError(reason, hint=hint)
    if not is_role(name):
        hint = "use letters, digits and _ . @ -, with a letter or _ first"
        raise UsageError(f"{name!r} is not a plain role name", hint=hint)
    if name.startswith("pg_") or name in ("public", "none"):
        raise UsageError(f"{name} is a name that PostgreSQL reserves", hint="choose another name")


def is_one_line(text: str) -> bool:
    """Return whether `text` has no control characters, which includes all kinds of line breaks."""
    return text.isprintable()


def is_of_a_host(found: Address) -> bool:
    """Return whether an address identifies one host without further information; link-local IPv6 needs a zone."""
    if isinstance(found, ipaddress.IPv6Address) and (found.is_link_local or found.ipv4_mapped is not None):
        return False
    return not (found.is_unspecified or found.is_multicast)


def shown(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return text, or JSON with every text in it, without characters that could control a terminal.

    Every unprintable character becomes `?`, including surrogates and those that change the direction of writing. Line
    breaks and tabs stay.
    """
    if isinstance(value, str):
        return value if value.isprintable() else "".join(char if _is_shown(char) else "?" for char in value)
    if isinstance(value, dict):
        return {shown(name): shown(part) for name, part in value.items()}
    return [shown(part) for part in value] if isinstance(value, list) else value


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in "\n\t\xa0"


def address(text: str) -> Address | None:
    """Return `text` as an address; None if it is not an address, or has a zone."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if "%" in text else found
