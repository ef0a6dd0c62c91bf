"""Report the results of a build: dist/summary.json, dist/junit.xml, and the closing lines on the screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from pgpool_deb.builds.workshop import CellOutcome
from pgpool_deb.ground import atomic
from pgpool_deb.ground.errors import ExitStatus


def summary(outcomes: Sequence[CellOutcome], dist: Path) -> dict[str, Any]:
    """Return the content of dist/summary.json (docs/reference/summary.md); versions only add keys."""
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "cells": [_row(outcome, dist) for outcome in outcomes],
    }


def _row(outcome: CellOutcome, dist: Path) -> dict[str, Any]:
    cell = outcome.cell
    row: dict[str, Any] = {
        "release": cell.release.name,
        "arch": cell.architecture,
        "pgpool": cell.pgpool,
        "version": cell.pgpool2.debian_version,
        "majors": list(cell.majors),
        "proved": cell.fit.proved,
        "left_out": [{"patch": patch.name, "missing": patch.without} for patch in cell.fit.left_out],
        "state": str(outcome.state),
        "seconds": round(outcome.seconds, 3),
        "log": str(outcome.log),
        "endpoints": outcome.endpoints,
        "files": [
            {"name": name, "path": str(dist / cell.release.name / name), "sha256": sha256}
            for name, sha256 in outcome.files.items()
        ],
    }
    if (error := outcome.last.error) is not None:
        row |= {"stage": str(outcome.last.stage), "error": error.message, "hint": error.hint}
    return row


def write(outcomes: Sequence[CellOutcome], dist: Path) -> None:
    """Write summary.json and junit.xml into dist/, each atomically."""
    dist.mkdir(parents=True, exist_ok=True)
    atomic.write(dist / "summary.json", json.dumps(summary(outcomes, dist), indent=2) + "\n")
    atomic.write(dist / "junit.xml", junit(outcomes))


def junit(outcomes: Sequence[CellOutcome]) -> str:
    """Return a JUnit report with a test case for each cell; a package's fault is a failure, a machine's an error."""
    suite = ET.Element("testsuite", name="build-deb", tests=str(len(outcomes)))
    for outcome in outcomes:
        took = f"{outcome.seconds:.3f}"
        case = ET.SubElement(suite, "testcase", name=outcome.cell.name, classname="build-deb", time=took)
        if (error := outcome.last.error) is not None:
            kind = "failure" if error.exit_status is ExitStatus.FAILED else "error"
            ET.SubElement(case, kind, message=error.message).text = f"{outcome.last.stage}: {error}"
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def closing_lines(outcomes: Sequence[CellOutcome], dist: Path) -> list[str]:
    """Return a line for each cell; below a failed one its error, hint, log and shell command."""
    lines = []
    for outcome in outcomes:
        last = outcome.last
        packages = sum(name.endswith(".deb") for name in outcome.files)
        where = f"{packages} packages in {dist / outcome.cell.release.name}" if outcome.files else f"at {last.stage}"
        by = f", by {' and '.join(dict.fromkeys(outcome.endpoints.values()))}" if outcome.endpoints else ""
        lines.append(f"{outcome.cell.name}: {outcome.state}, {outcome.seconds:.1f} s, {where}{by}")
        if last.error is not None:
            lines += [f"  error: {last.error.message}", f"  hint:  {last.error.hint}", f"  log:   {last.log}"]
        if last.shell:
            lines.append(f"  shell: ./invoke shell {last.package.name}")
    return lines


def exit_status(outcomes: Sequence[CellOutcome]) -> ExitStatus:
    """Return the exit status of a run; a machine's fault outweighs a package's."""
    statuses = [outcome.last.error.exit_status for outcome in outcomes if outcome.last.error is not None]
    return max(statuses, default=ExitStatus.GOOD)
