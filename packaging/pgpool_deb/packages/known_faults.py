"""The table of pgpool-II's known faults for pgpool2-cluster, made from sources.toml and the patches at build time."""

from __future__ import annotations

import json
from pathlib import Path

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.upstream.pins import Pins

from . import pgpool2
from .debianize import SERIES, ranges_of
from .patches import Patch

NAME = "known-faults.json"
"""The table's file name in the source package, and in /usr/share/pgpool2-cluster on a server."""


def table(project: Project) -> str:
    """Return the table as JSON (docs/reference/packages.md). The same checkout gives the same text.

    Raises UsageError if sources.toml or a patch cannot be read.
    """
    templates = project.templates(pgpool2.NAME)
    try:
        listed = [_patch(templates, *row) for row in ranges_of((templates / SERIES).read_text("utf-8")).items()]
    except ValueError as error:
        raise UsageError(str(error), hint="see the patches beside it") from error
    advisories = [
        {
            "cves": list(advisory.cves),
            "summary": advisory.summary,
            "fixed_in": advisory.fixed_in,
            "backports": list(advisory.backports),
        }
        for advisory in Pins.load(project.path / "packaging" / "sources.toml").known
    ]
    return json.dumps({"advisories": advisories, "patches": listed}, indent=1) + "\n"


def _patch(templates: Path, name: str, ranges: list[list[tuple[str, str]]]) -> dict[str, object]:
    patch = Patch.read(templates / "patches" / name)
    return {
        "name": patch.name,
        "without": patch.without,
        "relied_on": patch.relied_on,
        "mends": list(patch.mends),
        "versions": [[list(limit) for limit in limits] for limits in ranges],
    }
