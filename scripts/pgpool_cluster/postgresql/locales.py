"""Check the locales that the cluster's databases need on every node, and whether their sort order has changed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from ..ground import programs
from ..ground.programs import ProgramError
from ..machine.server import Instance

NEEDED = "SELECT DISTINCT unnest(ARRAY[datcollate, datctype]) FROM pg_database WHERE datallowconn ORDER BY 1"
_ASK = """
import locale, sys
for name in sys.argv[1:]:
    try:
        locale.setlocale(locale.LC_CTYPE, name)
    except locale.Error:
        print(name)
"""
_OF_DATABASES = """
SELECT datname FROM pg_database
WHERE datallowconn AND datcollversion <> pg_database_collation_actual_version(oid) ORDER BY 1
"""
_OF_LIBC = """
SELECT DISTINCT d.datname FROM pg_database d JOIN pg_collation c
  ON c.collprovider = 'c' AND lower(replace(c.collcollate, '-', '')) = lower(replace(d.datcollate, '-', ''))
WHERE d.datallowconn AND c.collversion <> pg_collation_actual_version(c.oid) ORDER BY 1
"""
_LOCALES_SECONDS = 10.0
_FIRST_VERSIONED_MAJOR = 15
"""The first major that stores a collation version for each database."""


def missing(names: Iterable[str]) -> list[str]:
    """Return those of `names` that this machine does not have.

    A new process checks them, because a running one knows only the locales that existed when it first used one.
    """
    words = [sys.executable, "-I", "-c", _ASK, *dict.fromkeys(names)]
    try:
        return programs.run(words, seconds=_LOCALES_SECONDS).splitlines()
    except ProgramError:
        return []


def making(names: Iterable[str]) -> str:
    """Return the commands that generate locales on a Debian machine."""
    lines = [f"{_written(name)} {_charset(name)}" for name in names]
    quoted = " ".join(f"'{line}'" for line in lines)
    return f"apt install locales; printf '%s\\n' {quoted} >>/etc/locale.gen; locale-gen"


def _charset(name: str) -> str:
    charset = name.partition(".")[2].partition("@")[0]
    if not charset:
        return "ISO-8859-15" if name.endswith("@euro") else "ISO-8859-1"
    return "UTF-8" if charset.lower().replace("-", "") == "utf8" else charset


def _written(name: str) -> str:
    """Return a locale's name in the notation of /etc/locale.gen: `de_DE.UTF-8` for de_DE.utf8."""
    base, dot, rest = name.partition(".")
    return f"{base}.{_charset(name)}{''.join(rest.partition('@')[1:])}" if dot else name


def refused(error: str) -> str:
    """Return the missing locale because of which PostgreSQL rejects every login; "" if `error` has another cause.

    The message is in the server's language, except for the names of the C library.
    """
    match = re.search(r'LC_(?:COLLATE|CTYPE)\W+"?([A-Za-z_]+(?:\.[\w-]+)?(?:@\w+)?)"?.*setlocale\(\)', error, re.DOTALL)
    return match[1] if match else ""


def versions(instance: Instance) -> str:
    """Return the SQL that lists the databases whose collation version has changed since their indexes were built."""
    return _OF_DATABASES if instance.name.major >= _FIRST_VERSIONED_MAJOR else _OF_LIBC
