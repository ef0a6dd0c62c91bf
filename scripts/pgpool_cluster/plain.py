"""What may reach a path, a configuration file or a shell: plain words only.

pgpool-II and its recovery function put host names and paths into a shell without quoting (`$(…)` runs), so everything
that comes from cluster.yml, debconf or a hook's arguments passes one of these patterns first.
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
"""Characters: pgpool-II and pgpool_recovery build commands in buffers of 1024 bytes."""
LONGEST_NODE_NAME = 63
"""Characters: NAMEDATALEN of PostgreSQL less one, for replication slots and application_name."""
LONGEST_ROLE_NAME = 63
"""Characters: NAMEDATALEN of PostgreSQL less one; pgpool-II reads 128 (MAX_USER_NAME_LEN)."""
LONGEST_PATH = 255
"""Characters: MAX_PATH_LENGTH of pgpool-II 4.3 to 4.7 is 256 (src/include/pcp/libpcp_ext.h)."""


def is_host_name(text: str) -> bool:
    """Tell whether `text` is a host name in lower case (RFC 1123), and not an address."""
    return len(text) <= LONGEST_HOST_NAME and bool(_HOST_NAME.fullmatch(text)) and not text.rsplit(".", 1)[-1].isdigit()


def is_cluster_name(text: str) -> bool:
    """Tell whether `text` can name a cluster, of pgpool-II or of postgresql-common."""
    return bool(_CLUSTER_NAME.fullmatch(text))


def is_path(text: str) -> bool:
    """Tell whether `text` is an absolute path of plain letters, without `.` and `..`."""
    return len(text) <= LONGEST_PATH and bool(_PATH.fullmatch(text))


def is_parameter(text: str) -> bool:
    """Tell whether `text` can be the name of a parameter of PostgreSQL or pgpool-II."""
    return bool(_PARAMETER.fullmatch(text))


def is_role(text: str) -> bool:
    """Tell whether `text` is a role name that pool_passwd, pgpass and pg_hba.conf take without quotes."""
    return bool(_ROLE.fullmatch(text))


def refuse_role(name: str) -> None:
    """Raise UsageError for what is no plain role name, or is one that PostgreSQL keeps for itself."""
    if len(name) > LONGEST_ROLE_NAME:
        hint = f"choose one of at most {LONGEST_ROLE_NAME} characters"
        reason = f"the role name has {len(name)} characters, and PostgreSQL keeps {LONGEST_ROLE_NAME} of them"
        raise UsageError(reason, hint=hint)
    if not is_role(name):
        raise UsageError(f"{name!r} is no plain role name", hint="letters, digits and _ . @ -, a letter or _ first")
    if name.startswith("pg_") or name in ("public", "none"):
        raise UsageError(f"{name} is a name that PostgreSQL keeps for itself", hint="choose another name")


def is_one_line(text: str) -> bool:
    """Tell whether `text` has no control character, line breaks of any kind included."""
    return text.isprintable()


def is_of_a_host(found: Address) -> bool:
    """Tell whether an address names one host as it stands: a link-local one of IPv6 needs a zone."""
    if isinstance(found, ipaddress.IPv6Address) and (found.is_link_local or found.ipv4_mapped is not None):
        return False
    return not (found.is_unspecified or found.is_multicast)


def shown(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return text, or JSON with all texts in it, without the characters with which it could steer a terminal.

    These are whatever is not printable: halves of characters, which no terminal takes, and what turns the direction
    of writing are among it. Line breaks and tabs stay.
    """
    if isinstance(value, str):
        return value if value.isprintable() else "".join(one if _is_shown(one) else "?" for one in value)
    if isinstance(value, dict):
        return {shown(name): shown(part) for name, part in value.items()}
    return [shown(part) for part in value] if isinstance(value, list) else value


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in "\n\t\xa0"


def address(text: str) -> Address | None:
    """Return the address that `text` is, without a zone; None if it is none."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if "%" in text else found
