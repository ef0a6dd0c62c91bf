"""`./invoke gather DIR`: merge the results of matrix runs on several machines into one dist/, as if of one run.

Each folder of DIR comes from the dist/ of one run: its `report` and the packages of its releases. A pipeline runs one
cell on each machine and keeps the results of each.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.project import Project
from pgpool_deb.runs import matrix
from pgpool_deb.runs.proof import Proof, merged
from pgpool_deb.upstream.download import sha256_of

REPORT = "report"


def run(project: Project, origin: Path, report: Report) -> ExitStatus:
    """Fill dist/ and write dist/report; the exit status is the worst one of all runs.

    Raises UsageError, and leaves dist/ as it was, if a report is missing or damaged, if two reports share a cell, or if
    a file is not the one that was tested.
    """
    reports = _reports(origin)
    try:
        proof = merged(reports)
    except ValueError as error:
        raise UsageError(
            f"{origin}: {error}", hint="put one folder for each run of the pipeline there, and nothing else"
        ) from error
    releases = {cell.release: origin / name for name, run_proof in reports.items() for cell in run_proof.cells}
    for cell in proof.cells:
        _refuse_untested(releases[cell.release] / cell.release, cell.files)
    project.dist.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=project.dist, prefix=".gather-") as place:
        new = Path(place)
        for name in reports:
            shutil.copytree(origin / name / REPORT / "logs", new / REPORT / "logs" / name)
        matrix.write(new / REPORT, proof)
        for release, folder in releases.items():
            if (folder / release).is_dir():
                shutil.copytree(folder / release, new / release)
        for path in sorted(new.iterdir()):
            shutil.rmtree(project.dist / path.name, ignore_errors=True)
            path.rename(project.dist / path.name)
    for line in proof.closing_lines():
        report(line)
    return proof.exit_status


def _reports(origin: Path) -> dict[str, Proof]:
    """Return the reports in the folders of `origin`, by the name of the folder."""
    folders = sorted(path for path in origin.iterdir() if path.is_dir()) if origin.is_dir() else []
    if not folders:
        raise UsageError(f"{origin} contains no runs", hint=f"gather reads DIR/NAME/{REPORT}/report.json")
    reports = {}
    for folder in folders:
        path = folder / REPORT / "report.json"
        try:
            reports[folder.name] = Proof.from_json(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            hint = "read the log of that run: it ended without a report"
            raise UsageError(f"{path}: {error.strerror}", hint=hint) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is damaged", hint="./invoke matrix writes a new one") from error
    return reports


def _refuse_untested(folder: Path, files: Mapping[str, str]) -> None:
    for name, sha256 in files.items():
        path = folder / name
        if "/" in name or path.is_symlink() or not path.is_file() or sha256_of(path) != sha256:
            hint = "gather reports and packages of the same run"
            raise UsageError(f"{path} is missing or differs from the tested file", hint=hint)
