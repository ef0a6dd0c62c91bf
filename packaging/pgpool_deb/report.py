"""What a run leaves for others to read: dist/summary.json, dist/junit.xml, and the closing lines on the screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from . import atomic
from .errors import ExitStatus
from .workshop import CellOutcome


def summary(ended: Sequence[CellOutcome], dist: Path) -> dict[str, Any]:
    """Return the contents of dist/summary.json (docs/reference/summary.md); keys are only ever added."""
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "cells": [_row(one, dist) for one in ended],
    }


def _row(one: CellOutcome, dist: Path) -> dict[str, Any]:
    cell = one.cell
    row: dict[str, Any] = {
        "release": cell.release.name,
        "arch": cell.architecture,
        "pgpool": cell.pgpool,
        "version": cell.pgpool2.debian_version,
        "majors": list(cell.majors),
        "proved": cell.fit.proved,
        "left_out": [{"patch": patch.name, "missing": patch.without} for patch in cell.fit.left_out],
        "state": str(one.state),
        "seconds": round(one.seconds, 3),
        "log": str(one.log),
        "endpoints": one.endpoints,
        "files": [
            {"name": name, "path": str(dist / cell.release.name / name), "sha256": sha256}
            for name, sha256 in one.files.items()
        ],
    }
    if (error := one.last.error) is not None:
        row |= {"stage": str(one.last.stage), "error": error.message, "hint": error.hint}
    return row


def write(ended: Sequence[CellOutcome], dist: Path) -> None:
    """Write summary.json and junit.xml into dist/, each in one step."""
    dist.mkdir(parents=True, exist_ok=True)
    atomic.write(dist / "summary.json", json.dumps(summary(ended, dist), indent=2) + "\n")
    atomic.write(dist / "junit.xml", junit(ended))


def junit(ended: Sequence[CellOutcome]) -> str:
    """Return a JUnit report with one test case a cell; a package's fault is a failure, the machine's an error."""
    suite = ET.Element("testsuite", name="build-deb", tests=str(len(ended)))
    for one in ended:
        took = f"{one.seconds:.3f}"
        case = ET.SubElement(suite, "testcase", name=one.cell.name, classname="build-deb", time=took)
        if (error := one.last.error) is not None:
            kind = "failure" if error.exit_status is ExitStatus.FAILED else "error"
            ET.SubElement(case, kind, message=error.message).text = f"{one.last.stage}: {error}"
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def closing_lines(ended: Sequence[CellOutcome], dist: Path) -> list[str]:
    """Return one line a cell, and below one that failed: the error, the hint, the log and the shell command."""
    lines = []
    for one in ended:
        packages = sum(name.endswith(".deb") for name in one.files)
        where = f"{packages} packages in {dist / one.cell.release.name}" if one.files else f"at {one.last.stage}"
        by = f", by {' and '.join(dict.fromkeys(one.endpoints.values()))}" if one.endpoints else ""
        lines.append(f"{one.cell.name}: {one.state}, {one.seconds:.1f} s, {where}{by}")
        if one.last.error is not None:
            error = one.last.error
            lines += [f"  error: {error.message}", f"  hint:  {error.hint}", f"  log:   {one.last.log}"]
        if one.last.shell:
            lines.append(f"  shell: ./invoke shell {one.last.package.name}")
    return lines


def exit_status(ended: Sequence[CellOutcome]) -> ExitStatus:
    """Return the exit status of a run: the machine's faults weigh more than a package's."""
    statuses = [one.last.error.exit_status for one in ended if one.last.error is not None]
    return max(statuses, default=ExitStatus.GOOD)
