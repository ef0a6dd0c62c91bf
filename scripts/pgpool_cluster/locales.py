"""The locales that a cluster's databases need on every node, and whether they sort there as they did."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable

from .server import Instance

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
_SINCE = 15
"""The first major that keeps a version with each database."""


def missing(names: Iterable[str]) -> list[str]:
    """Return those of `names` that this machine does not have.

    A program of its own is asked: one that runs goes by the locales that there were when it first looked.
    """
    words = [sys.executable, "-I", "-c", _ASK, *dict.fromkeys(names)]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()


def making(names: Iterable[str]) -> str:
    """Return the commands that make locales on a Debian machine."""
    lines = [f"{_written(name)} {_charset(name)}" for name in names]
    wanted = " ".join(f"'{line}'" for line in lines)
    return f"apt install locales; printf '%s\\n' {wanted} >>/etc/locale.gen; locale-gen"


def _charset(name: str) -> str:
    charset = name.partition(".")[2].partition("@")[0]
    if not charset:
        return "ISO-8859-15" if name.endswith("@euro") else "ISO-8859-1"
    return "UTF-8" if charset.lower().replace("-", "") == "utf8" else charset


def _written(name: str) -> str:
    """Return a locale's name as /etc/locale.gen has it: `de_DE.UTF-8` for de_DE.utf8."""
    base, dot, rest = name.partition(".")
    return f"{base}.{_charset(name)}{''.join(rest.partition('@')[1:])}" if dot else name


def refused(error: str) -> str:
    """Return the locale for want of which PostgreSQL refuses every login; "" where `error` is about something else.

    The words are in the server's language, those of the C library are not.
    """
    match = re.search(r'LC_(?:COLLATE|CTYPE)\W+"?([A-Za-z_]+(?:\.[\w-]+)?(?:@\w+)?)"?.*setlocale\(\)', error, re.DOTALL)
    return match[1] if match else ""


def versions(instance: Instance) -> str:
    """Return the SQL that lists the databases whose order of texts has changed under them."""
    return _OF_DATABASES if instance.name.major >= _SINCE else _OF_LIBC
