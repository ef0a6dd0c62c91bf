"""Render index.html of a repository: its suites, their packages, how to add them, and the key. It has no script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from pgpool_deb.upstream.pins import Advisory

from . import keyring, stanzas
from .signing import Key
from .suites import PublishedVersion, Summary
from .tree import named

PIN = """\
Package: pgpool2* libpgpool* postgresql-*-pgpool2
Pin: release o=pgpool-deb
Pin-Priority: 990
"""
"""apt_preferences(5) that prefer the packages of this repository to newer ones of Debian."""
TEMPLATE = Path(__file__).with_name("index_page.html.j2")


def html(url: str, suites: Sequence[Summary], key: Key, moment: int, known: Sequence[Advisory]) -> str:
    """Return the page; `known` holds the advisories of sources.toml."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        url=url,
        date=datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        state=named(moment),
        keyring=keyring.NAME,
        pin=PIN,
        fingerprints=[" ".join(re.findall(".{4}", one)) for one in key.fingerprints],
        suites=[
            {
                "name": suite.name,
                "release": suite.release,
                "description": stanzas.described(suite.release, suite.name, suite.unproved, archived=suite.archived),
                "archived": suite.archived,
                "lines": keyring.lines(url, suite.name, key.public),
                "sources": [_row(one, known) for one in reversed(suite.rows)],
                "older": older(suite.newest),
            }
            for suite in suites
        ],
    )


def older(newest: Mapping[str, str]) -> str:
    """Return the command that installs an older pgpool2 of a suite; `newest` holds the versions by package.

    The command also names the library of the same build, because apt installs an older dependency only if it is named.
    Empty if the suite has no pgpool2.
    """
    libraries = (name for name in sorted(newest) if re.fullmatch(r"libpgpool\w*\d", name))
    names = [name for name in ("pgpool2", *libraries) if newest.get(name) == newest.get("pgpool2")]
    return " ".join(["apt install", *(f"{name}=VERSION" for name in names)]) if "pgpool2" in newest else ""


def _row(row: PublishedVersion, known: Sequence[Advisory]) -> dict[str, str]:
    upstream = row.version.partition("-")[0]
    open_in = [cve for one in known if one.concerns(upstream) for cve in one.cves] if row.source == "pgpool2" else []
    return {
        "name": row.source,
        "version": row.version,
        "majors": ", ".join(map(str, row.majors)),
        "advisories": ", ".join(open_in),
    }
